"""How fast this machine is just now: limits in seconds are those of a processor of 2021."""

import time

REFERENCE = 0.05  # seconds that the loop below takes there


def slowness() -> float:
    """How many times as long as there plain Python takes here; at least 1."""
    return max(1.0, min(_loop() for _ in range(3)) / REFERENCE)


def _loop() -> float:
    total, start = 0, time.process_time()
    for i in range(500_000):
        total += i * i % 7
    return time.process_time() - start
