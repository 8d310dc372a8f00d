"""CTC against all its paths, mixture densities against their definition and by quadrature.

Shapes: T time, B batch, V symbols, S target length, M components, D coordinates.
"""

import itertools
import math

import numpy as np
import pytest

import minigrad as mg
from minigrad_rnn.losses import MixtureDensity, best_path, ctc
from tests.oracles import ctc as paths
from tests.oracles import mixture as oracle
from tests.recurrent import close, leaf

# --- CTC -----------------------------------------------------------------------------------------


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def padded(targets):
    """Targets of any lengths as (S, B), what lies beyond them not even a symbol."""
    S = max(map(len, targets))
    return np.array([[*t, *[-7] * (S - len(t))] for t in targets], dtype=int).reshape(-1, S).T


@pytest.mark.parametrize("T", range(1, 7))
@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_is_the_sum_over_all_paths(backend, T, blank):
    """Every labelling that some path of T steps stands for, empty and repeated ones among them."""
    logits = np.random.default_rng(T).normal(size=(T, 1, 3))
    table = paths.labellings(softmax(logits[:, 0]), blank)
    targets = sorted(table)
    assert () in table
    assert abs(sum(table.values()) - 1) < 1e-12
    batch = mg.Tensor(np.repeat(logits, len(targets), axis=1))
    counts = [len(t) for t in targets]
    losses = ctc(
        batch, padded(targets), target_lengths=counts, blank=blank, reduction="none"
    ).numpy()
    np.testing.assert_allclose(losses, [-math.log(table[t]) for t in targets], rtol=1e-11)


def test_ctc_of_ragged_rows_is_that_of_the_rows_alone(backend):
    """Lengths of input and target, 0 among them; NaN in the padding changes no bit."""
    rng = np.random.default_rng(11)
    logits = rng.normal(size=(6, 5, 4))
    targets, lengths = [[1, 1, 3], [2], [], [3, 2], []], [6, 3, 2, 5, 0]
    counts = [len(t) for t in targets]
    spoiled = logits.copy()
    for b, n in enumerate(lengths):
        spoiled[n:, b] = np.nan
    options = {"lengths": lengths, "target_lengths": counts}
    xs = leaf(spoiled)
    losses = ctc(xs, padded(targets), **options, reduction="none")
    close(
        losses,
        [
            -math.log(paths.labellings(softmax(logits[:n, b]), 0)[tuple(targets[b])])
            for b, n in enumerate(lengths)
        ],
    )
    close(ctc(xs, padded(targets), **options, reduction="sum"), losses.numpy().sum())
    loss = ctc(xs, padded(targets), **options)
    close(loss, losses.numpy().mean())
    loss.backward()
    clean = leaf(logits)
    ctc(clean, padded(targets), **options).backward()
    assert xs.grad.numpy().tobytes() == clean.grad.numpy().tobytes()
    real = np.arange(6)[:, None] < np.array(lengths)
    assert (xs.grad.numpy().any(axis=-1) == real).all()


def test_a_target_without_a_path(backend):
    """Too few steps, a blank needed between equal symbols: inf, its gradient 0, others' as ever."""
    xs = leaf(np.random.default_rng(12).normal(size=(3, 4, 3)))
    targets = padded([[1, 2, 1], [1, 1], [1, 1, 2], [2, 2, 1]])
    losses = ctc(xs, targets, lengths=[3, 3, 3, 0], target_lengths=[3, 2, 3, 3], reduction="none")
    assert np.isinf(losses.numpy()).tolist() == [False, False, True, True]
    mg.sum(losses).backward()
    alone = leaf(xs.numpy()[:, :2])
    ctc(alone, targets[:, :2], target_lengths=[3, 2], reduction="sum").backward()
    close(xs.grad[:, :2], alone.grad.numpy())
    assert not xs.grad.numpy()[:, 2:].any()


def test_ctc_gradients(backend):
    """FD to second order, and exact zeros for a symbol that may not be (its logit is -inf)."""
    logits = np.random.default_rng(13).normal(size=(5, 2, 3))
    targets, options = [[1, 2], [1, 0]], {"target_lengths": [2, 1], "lengths": [5, 4]}
    assert mg.gradcheck(lambda x: ctc(x, targets, **options), mg.Tensor(logits), order=2)
    logits[:, :, 2] = -np.inf
    xs = leaf(logits)
    losses = ctc(xs, [[1, 2], [1, 1]], reduction="none")
    reduced = paths.labellings(softmax(logits[:, 0, :2]), 0)
    assert losses.numpy()[1] == np.inf
    close(losses[0], -math.log(reduced[1, 1]))
    losses[0].backward()
    assert np.isfinite(xs.grad.numpy()).all()
    assert not xs.grad.numpy()[:, :, 2].any()


def test_ctc_at_extreme_logits_and_lengths(backend):
    """float32: a thousand steps, then logits of +-1e4, whose loss and gradient are exact."""
    xs = mg.Tensor(mg.zeros((1000, 1, 5)), requires_grad=True)
    loss = ctc(xs, [[1]])
    # a sum near 1600 is rounded by up to 6e-5 in each of a thousand steps
    close(loss, 1000 * math.log(5) - math.log(1000 * 1001 / 2), 4e-5)
    loss.backward()
    assert np.isfinite(xs.grad.numpy()).all()
    sure = np.full((3, 1, 3), -1e4, "float32")
    sure[[0, 1, 2], 0, [1, 0, 1]] = 1e4
    xs = mg.Tensor(sure, requires_grad=True)
    assert ctc(xs, [[1], [1]]).item() == 0.0
    loss = ctc(xs, [[1], [2]])
    loss.backward()
    assert loss.item() == 2e4
    assert xs.grad.numpy()[:, 0].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, -1]]


def test_ctc_folds_to_a_loop():
    """The forward recursion is an unrolled cell, whose state is log alpha."""
    folded = mg.fold(lambda x: ctc(x, [[1], [2]]), mg.zeros((20, 1, 3)))
    assert [loop.trips for loop in folded.loops()] == [20]
    assert [edge.delay for edge in folded.delay_edges()] == [1]


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_ctc_of_torch(backend, reduction):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(14)
    T, B, V, S = 20, 6, 5, 6
    logits, lengths, counts = (
        rng.normal(size=(T, B, V)),
        [20, 17, 20, 9, 12, 20],
        [6, 4, 0, 3, 5, 1],
    )
    targets = rng.integers(1, V, (S, B))
    theirs = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.ctc_loss(
        theirs.log_softmax(-1),
        torch.tensor(targets.T),
        torch.tensor(lengths),
        torch.tensor(counts),
        reduction=reduction,
    )
    expected.sum().backward()
    xs = leaf(logits)
    losses = ctc(xs, targets, lengths=lengths, target_lengths=counts, reduction=reduction)
    mg.sum(losses).backward()
    close(losses, expected.detach().numpy())
    close(xs.grad, theirs.grad.numpy())


def test_the_best_path(backend):
    """The labelling of the likeliest path, found among all of them."""
    logits = np.random.default_rng(15).normal(size=(5, 8, 3))
    lengths = [5, 4, 3, 2, 1, 0, 5, 5]
    for blank in range(3):
        expected = []
        for b, n in enumerate(lengths):
            y = softmax(logits[:n, b])
            likeliest = max(
                itertools.product(range(3), repeat=n),
                key=lambda path: np.prod([y[t, s] for t, s in enumerate(path)]),
            )
            expected.append(list(paths.collapse(likeliest, blank)))
        assert best_path(mg.Tensor(logits), lengths=lengths, blank=blank) == expected
    assert len(best_path(mg.Tensor(logits))) == 8


def test_what_ctc_refuses():
    xs = mg.zeros((4, 2, 3))
    for targets in ([[1, 3]], [[1, -1]], [[1, 0]]):
        with pytest.raises(mg.IndexRangeError, match="among 0 to 2 without the blank, 0"):
            ctc(xs, targets)
    for targets in ([[1, 2, 1]], [1, 2], [[1.0, 2.0]]):
        with pytest.raises(mg.ShapeError, match=r"integers \(S, B\) with B = 2"):
            ctc(xs, targets)
    with pytest.raises(mg.ShapeError, match=r"logits are \(T, B, V\)"):
        ctc(xs[0], [[1, 2]])
    with pytest.raises(mg.DtypeError, match="floating"):
        ctc(xs.astype("int64"), [[1, 2]])
    with pytest.raises(ValueError, match="blank=3"):
        best_path(xs, blank=3)
    with pytest.raises(ValueError, match="reduction='all'"):
        ctc(xs, [[1, 2]], reduction="all")
    with pytest.raises(ValueError, match="length 5"):
        ctc(xs, [[1, 2]], lengths=[4, 5])
    with pytest.raises(ValueError, match="length 2"):
        ctc(xs, [[1, 2]], target_lengths=[1, 2])


# --- mixture densities ---------------------------------------------------------------------------

KINDS = {
    "diagonal": MixtureDensity(3, 2),
    "one coordinate": MixtureDensity(4, 1),
    "correlated": MixtureDensity(3, correlated=True),
    "strokes": MixtureDensity(2, correlated=True, strokes=True),
    "diagonal strokes": MixtureDensity(2, 3, strokes=True),
}
KIND = pytest.mark.parametrize("kind", KINDS)


def cut(density, outputs):
    """A row of outputs as the paper's letters."""
    M, D = density.M, density.D
    e, outputs = (outputs[0], outputs[1:]) if density.strokes else (None, outputs)
    pi, mu, sigma, rho = np.split(outputs, np.cumsum([M, M * D, M * D]))
    return e, pi, mu.reshape(M, D), sigma.reshape(M, D), rho


def by_definition(density, outputs, x):
    e, pi, mu, sigma, rho = cut(density, outputs)
    if density.correlated:  # without strokes, a coin that is fair and lands as it must
        point, e = (x, e) if density.strokes else ([*x, 1], 0.0)
        return oracle.bivariate(np.array(point), e, pi, mu, sigma, rho) * (2 - density.strokes)
    p = oracle.diagonal(x[: density.D], pi, mu, sigma)
    if density.strokes:
        p *= 1 / (1 + np.exp(e if x[-1] else -e))
    return p


@KIND
def test_the_density_is_the_published_one(backend, kind):
    density, rng = KINDS[kind], np.random.default_rng(20)
    outputs = rng.normal(size=(3, 2, density.size))
    xs = rng.normal(size=(3, 2, density.D + density.strokes))
    if density.strokes:
        xs[..., -1] = rng.integers(0, 2, (3, 2))
    found = density.log_density(mg.Tensor(outputs), mg.Tensor(xs))
    rows = [[by_definition(density, outputs[t, b], xs[t, b]) for b in range(2)] for t in range(3)]
    close(found, np.log(rows))


@KIND
def test_the_density_integrates_to_one(backend, kind):
    """The trapezoidal rule over +-12 widest sigma, and the sum over ends of strokes."""
    density, rng = KINDS[kind], np.random.default_rng(21)
    D, points = density.D, {1: 400, 2: 240, 3: 60}[density.D]
    outputs = 0.4 * rng.normal(size=density.size)
    line = np.linspace(-9, 9, points)
    grid = np.stack(np.meshgrid(*[line] * D), axis=-1).reshape(-1, D)
    total = 0.0
    for end in (0.0, 1.0) if density.strokes else (None,):
        x = grid if end is None else np.concatenate([grid, np.full((len(grid), 1), end)], axis=1)
        many = mg.broadcast_to(mg.Tensor(outputs), (len(x), density.size))
        total += np.exp(density.log_density(many, mg.Tensor(x)).numpy()).sum()
    assert abs(total * (line[1] - line[0]) ** D - 1) < 1e-6


@KIND
def test_gradients_of_the_density(backend, kind):
    density, rng = KINDS[kind], np.random.default_rng(22)
    outputs = mg.Tensor(rng.normal(size=(2, density.size)))
    x = mg.Tensor(rng.integers(0, 2, (2, density.D + density.strokes)).astype(float))
    assert mg.gradcheck(lambda o: density.log_density(o, x), outputs, order=2)


@KIND
@pytest.mark.parametrize("size", [30.0, 1e4])
def test_the_density_is_stable_in_float32(backend, kind, size):
    """Outputs of +-1e4 and points far away: the density and its gradient are finite."""
    density, rng = KINDS[kind], np.random.default_rng(23)
    outputs = size * rng.choice([-1.0, 0.0, 1.0], size=(300, density.size))
    x = size * rng.choice([-1.0, 0.0, 1.0], size=(300, density.D + density.strokes))
    if density.strokes:
        x[:, -1] = rng.integers(0, 2, 300)
    o = mg.Tensor(outputs, requires_grad=True, dtype="float32")
    found = density.log_density(o, mg.Tensor(x, dtype="float32"))
    mg.sum(found / 300).backward()
    assert np.isfinite(found.numpy()).all()
    assert np.isfinite(o.grad.numpy()).all()
    drawn = density.sample(o, mg.random.key(1))
    assert drawn.dtype == np.dtype("float32")
    assert np.isfinite(drawn.numpy()).all()


@pytest.mark.parametrize("rho", [0.999, -0.999999])
def test_a_narrow_ridge_in_float32(rho):
    """Close to perfect correlation the float32 density is still the float64 one."""
    density = MixtureDensity(1, correlated=True)
    outputs = np.array([0.3, 0.5, -0.2, 0.1, -0.3, math.atanh(rho)])
    x = np.array([0.5 + math.exp(0.1) * 0.7, -0.2 + math.exp(-0.3) * 0.7 * rho])
    wide, narrow = (
        density.log_density(mg.Tensor(outputs, dtype=t), mg.Tensor(x, dtype=t)).item()
        for t in ("float64", "float32")
    )
    assert abs(wide - math.log(by_definition(density, outputs, x))) < 1e-6
    assert abs(wide - narrow) < 1e-3


@KIND
def test_samples_have_the_moments_of_the_density(backend, kind):
    """Mean and covariance of 40,000 draws within five standard errors of the exact ones."""
    density, n = KINDS[kind], 40_000
    outputs = 0.7 * np.random.default_rng(24).normal(size=density.size)
    e, pi, mu, sigma, rho = cut(density, outputs)
    pi, sigma = softmax(pi), np.exp(sigma)
    D = density.D
    mean = pi @ mu
    second = np.zeros((D, D))
    for j in range(density.M):
        cov = np.diag(sigma[j] ** 2)
        if density.correlated:
            cov[0, 1] = cov[1, 0] = np.tanh(rho[j]) * sigma[j].prod()
        second += pi[j] * (cov + np.outer(mu[j], mu[j]))
    many = mg.broadcast_to(mg.Tensor(outputs), (n, density.size))
    drawn = density.sample(many, mg.random.key(7)).numpy()
    assert drawn.shape == (n, D + density.strokes)
    x = drawn[:, :D]
    assert (abs(x.mean(axis=0) - mean) < 5 * x.std(axis=0) / math.sqrt(n)).all()
    products = np.einsum("ni,nj->nij", x, x)
    assert (abs(products.mean(axis=0) - second) < 5 * products.std(axis=0) / math.sqrt(n)).all()
    if density.strokes:
        p = 1 / (1 + math.exp(e))
        assert set(drawn[:, -1]) == {0.0, 1.0}
        assert abs(drawn[:, -1].mean() - p) < 5 * math.sqrt(p * (1 - p) / n)


def test_a_row_is_drawn_from_its_own_key(backend):
    """Keys of rows: what else is in the batch changes nothing; a bias leaves the likeliest."""
    density = KINDS["strokes"]
    outputs = mg.Tensor(np.random.default_rng(25).normal(size=(4, density.size)))
    keys = mg.random.key(3).fold(mg.arange(4))
    together = density.sample(outputs, keys)
    again = density.sample(outputs[1:3], mg.random.key(3).fold(mg.arange(1, 3)))
    close(together[1:3], again.numpy())
    assert np.abs(together.numpy()[0] - density.sample(outputs, keys.fold(1)).numpy()[0]).any()
    mg.random.seed(5)
    first = density.sample(outputs)
    mg.random.seed(5)
    close(density.sample(outputs), first.numpy())
    sure = density.sample(outputs, keys, bias=20.0).numpy()[:, :2]
    _, pi, mu, _, _ = zip(*(cut(density, row) for row in outputs.numpy()), strict=True)
    close(sure, [m[np.argmax(p)] for p, m in zip(pi, mu, strict=True)], 1e-6)


def test_what_a_mixture_refuses():
    density = MixtureDensity(2, correlated=True, strokes=True)
    assert density.size == 13
    with pytest.raises(mg.ShapeError, match="last axis of 13"):
        density.log_density(mg.zeros((2, 12)), mg.zeros((2, 3)))
    with pytest.raises(mg.ShapeError, match=r"it needs \(2, 3\)"):
        density.log_density(mg.zeros((2, 13)), mg.zeros((2, 2)))
    with pytest.raises(ValueError, match="correlated=True needs D = 2"):
        MixtureDensity(2, 3, correlated=True)
    with pytest.raises(ValueError, match="M=0"):
        MixtureDensity(0)
    with pytest.raises(ValueError, match="bias=-1"):
        density.sample(mg.zeros((2, 13)), bias=-1)


def test_a_mixture_begins_with_zeros(backend):
    assert MixtureDensity(3).start(4).tolist() == [[0, 0]] * 4
    assert MixtureDensity(3, strokes=True).start(4).shape == (4, 3)


def test_targets_may_be_bytes(backend):
    logits = mg.random.normal(mg.random.key(1), (5, 2, 257))
    targets = np.array([[255, 1], [254, 2]])
    close(ctc(logits, targets.astype("uint8")), ctc(logits, targets).item(), 0)


def test_lengths_of_targets_are_named():
    with pytest.raises(ValueError, match=r"ctc targets: row 0 has length 5, .* between 0 and 3"):
        ctc(mg.ones((4, 2, 3)), np.ones((3, 2), int), target_lengths=[5, 1])
