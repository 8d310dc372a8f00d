"""A backend of one's own: NumPy's arrays, and a count of which NumPy functions a program calls."""

from collections import Counter

import numpy


class Counting:
    """NumPy's names; functions, unlike types and constants, are counted when they are called."""

    def __init__(self, counts):
        self._counts = counts

    def __getattr__(self, name):
        value = getattr(numpy, name)
        if not callable(value) or isinstance(value, type):
            return value

        def counted(*args, **kwargs):
            self._counts[name] += 1
            return value(*args, **kwargs)

        setattr(self, name, counted)  # found without __getattr__ from now on
        return counted


class Tally:
    name = "tally"
    api = 1
    version = "0.1"

    def __init__(self):
        self.counts = Counter()
        self.xp = Counting(self.counts)
        self.kernels = {"sigmoid": self.sigmoid}  # optional: an op's forward, done another way

    def asarray(self, data, dtype=None):
        return numpy.asarray(data, dtype)

    def to_numpy(self, array):
        return array

    def scatter_add(self, out, index, values):
        numpy.add.at(out, index, values)
        return out

    def sigmoid(self, x):
        return 0.5 * self.xp.tanh(0.5 * x) + 0.5


def backend(device=None):
    if device is not None:
        raise ValueError(f"tally has no device {device!r}")
    return Tally()
