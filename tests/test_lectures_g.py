"""Rows G of the lectures, and N12: distributions over sequences, by listing all sequences."""

import functools
import math

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import nn, optim
from minigrad_rnn.catalogue import CATALOGUE
from minigrad_rnn.decode import draw, rows
from minigrad_rnn.language import CharacterModel, log_loss
from minigrad_rnn.likelihood import (
    Categorical,
    DrawnLength,
    EndSymbol,
    Gaussian,
    Halt,
    KnownLength,
    Remaining,
    Sequences,
    Table,
    missing_values,
    padded,
)
from minigrad_rnn.patterns import Embedded, HiddenLayer, Readout, itself
from tests.oracles import enumeration as oracle
from tests.oracles import rnn as plain
from tests.recurrent import KINDS, close, gradients, leaf, plain_for, randomise, same_bits

lecture = pytest.mark.lecture
V, D, H, END, L = 3, 2, 4, 2, 3
STOPS = {
    "known": KnownLength,
    "end": lambda: EndSymbol(END),
    "halt": Halt,
    "drawn": lambda: DrawnLength(L, dtype="float64"),
}
OUTPUTS = {"symbols": lambda: Categorical(V), "numbers": lambda: Gaussian(D, "float64")}
RULES = ["end", "halt", "drawn"]
FITTING = [(s, o) for s in (*RULES, "known") for o in OUTPUTS if (s, o) != ("end", "numbers")]


def sequences(name="RNN", stop="end", output="symbols", dtype="float64", seed=0):
    """Sequences by a cell of the catalogue with random weights."""
    mg.random.seed(1)
    rule, kind = STOPS[stop](), OUTPUTS[output]()
    told = getattr(rule, "tell", False)
    cell = CATALOGUE[name](D + told, H, dtype=dtype)
    y, _ = cell(mg.zeros((1, D + told), dtype), cell.initial_state(1))
    layer = nn.Embedding(V + 1, D, dtype=dtype) if output == "symbols" else itself
    layer = Remaining(layer, L) if told else layer
    size = rule.units + kind.size
    model = Readout(Embedded(layer, cell), nn.Linear(y.shape[-1], size, dtype=dtype))
    return randomise(Sequences(model, kind, rule), np.random.default_rng(seed)).eval()


def transcribed(p):
    """conditional(prefix, left) of an RNN in NumPy: embedding, eq 10.5, output layer."""
    w = {name: value.numpy().astype(float) for name, value in p.model.state_dict().items()}
    inner = {"U": w["cell.cell.Wx"].T, "W": w["cell.cell.Wh"].T, "b": w["cell.cell.b"]}
    table = w.get("cell.layer.W", w.get("cell.layer.layer.W"))

    def after(prefix, left=None):
        h = np.zeros(H)
        first = V if table is not None else np.zeros(D)
        for t, y in enumerate((first, *prefix)):
            x = np.array(y, float) if table is None else table[y]
            if left is not None:
                x = np.append(x, (left + len(prefix) - t) / L)
            h, _ = plain.step(inner, x, (h,))
        return w["layer.W"].T @ h + w["layer.b"]

    return after


def replayed(p):
    """conditional(prefix, left) of any step model: it alone, from its first step on."""

    def after(prefix, left=None):
        state = p.model.initial_state(1)
        ys = [p.output.start(1), *(mg.Tensor(np.asarray([y])) for y in prefix)]
        for t, y in enumerate(ys):
            told = (y, mg.Tensor([left + len(prefix) - t])) if left is not None else y
            o, state = p.model(told, state)
        return o.numpy()[0]

    return after


def probability(p, conditional, y):
    """P(y) by the transcription of its stop rule."""
    density = oracle.symbol if isinstance(p.output, Categorical) else oracle.gaussian
    if isinstance(p.stop, EndSymbol):
        return oracle.end_symbol(conditional, y, p.stop.end)
    if isinstance(p.stop, Halt):
        return oracle.bernoulli(conditional, y, density)
    if isinstance(p.stop, DrawnLength):
        lengths = oracle.softmax(p.stop.logits.numpy())
        return oracle.drawn_length(lengths, conditional, y, density)
    return oracle.chain(conditional, y, density)


def symbols_of(p):
    """What a sequence is made of: the end symbol is no part of it."""
    return [v for v in range(V) if v != getattr(p.stop, "end", None)]


def chi_squared(counts, shares):
    """Demand that counts are drawn with these probabilities: p > 0.01 (Wilson-Hilferty)."""
    counts, expected = np.array(counts, float), np.sum(counts) * np.array(shares)
    rare = expected < 5
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    df = len(counts) - 1
    statistic = np.sum((counts - expected) ** 2 / expected)
    assert statistic < df * (1 - 2 / (9 * df) + 2.3263 * math.sqrt(2 / (9 * df))) ** 3


# --- G1: the fully connected graphical model -----------------------------------------------------


@lecture("G1", "parameters")
def test_a_table_grows_with_k_to_the_tau_and_a_network_not(backend, capsys):
    network = sum(p.size for p in sequences(stop="known").parameters())
    for tau in range(1, 7):
        print(Table(V, tau), f"where the network has {network:,}", sep="\n")
        printed = capsys.readouterr().out
        count = V * sum(V**t for t in range(tau))
        assert f"Table, {count:,} parameters" in printed
        assert V**tau <= count < 2 * V**tau
        ys = np.zeros((tau, 1), int)
        p = sequences(stop="known")
        assert p.log_probability(ys).shape == (1,)
        assert sum(q.size for q in p.parameters()) == network


@lecture("G1", "normalised")
@pytest.mark.parametrize("tau", [1, 2, 4])
def test_table_and_network_sum_to_one(backend, tau):
    ys = np.array(oracle.sequences(range(V), tau)).T
    table = Table(V, tau, dtype="float64")
    table.W.assign(np.random.default_rng(2).normal(size=table.W.shape))
    for p in (Sequences(table, Categorical(V)), sequences(stop="known")):
        close(np.exp(p.log_probability(ys).numpy()).sum(), 1.0)
    logits = table.W.numpy()

    def row(prefix):
        """Prefixes by length, then in lexicographic order... of a heap: children side by side."""
        n = 0
        for y in prefix:
            n = V * n + 1 + y
        return logits[n]

    p = Sequences(table, Categorical(V))
    close(np.exp(p.log_probability(ys).numpy()), oracle.joint(row, V, tau).reshape(-1))


@lecture("G1", "estimate")
def test_the_maximum_likelihood_table_is_the_empirical_joint(backend):
    tau, rng = 3, np.random.default_rng(3)
    data = rng.integers(0, V, (40, tau))
    data[:25] = data[0]
    table = Table(V, tau, dtype="float64")
    table.fit(data.T)
    p = Sequences(table, Categorical(V))
    every = np.array(oracle.sequences(range(V), tau)).T
    joint = oracle.empirical_joint([tuple(row) for row in data], V)
    close(np.exp(p.log_probability(every).numpy()).reshape(joint.shape), joint)
    [slope] = gradients(-mg.mean(p.log_probability(data.T)), table.W)
    close(slope, np.zeros(slope.shape))  # nothing to gain


# --- G2: the same with hidden units that are functions of the past --------------------------------


@lecture("G2", "reach")
@pytest.mark.parametrize("kind", KINDS)
def test_every_symbol_reaches_all_later_ones(backend, kind):
    """On the recorded nodes, o(t) being what describes y(t); without memory only the last does."""
    rng = np.random.default_rng(4)
    ys = [leaf(row[None]) for row in np.eye(V)[[0, 2, 1, 1, 0]]]

    def reached(cell):
        model = Readout(
            Embedded(nn.Linear(V, D, dtype="float64"), cell), nn.Linear(H, V, dtype="float64")
        )
        os, _ = plain_for(randomise(model, rng), ys, model.initial_state(1))
        return [[y.node in ancestors(o) for y in ys] for o in os]

    model = KINDS[kind].make(D, H, dtype="float64")
    assert np.array_equal(reached(model), np.tri(5, dtype=bool))  # o of step t describes y(t + 1)
    assert np.array_equal(reached(HiddenLayer(D, H, dtype="float64")), np.eye(5, dtype=bool))


def ancestors(tensor):
    """The recorded nodes that a tensor was computed from."""
    seen, waiting = set(), [tensor.node]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(node.parents)
    return seen


@lecture("G2", "log P")
def test_the_chain_rule_is_the_joint_distribution(backend):
    p = sequences(stop="known")
    joint = oracle.joint(transcribed(p), V, 4)
    every = oracle.sequences(range(V), 4)
    close(p.log_probability(np.array(every).T), np.log(joint).reshape(-1))
    conditional = joint.sum(axis=3)[0, 2] / joint.sum(axis=(2, 3))[0, 2]  # h is not in the joint
    close(oracle.softmax(replayed(p)((0, 2))), conditional)


@lecture("G2", "missing values")
@pytest.mark.parametrize("m", [0, 1, 2, 3])
def test_missing_values_by_trying_all(backend, m):
    p, y = sequences("LSTM", stop="known"), [2, 0, 1, 2]
    joint = oracle.joint(replayed(p), V, 4)
    missing = np.isin(np.arange(4), [1, 3, 0][:m])
    tried = []

    def log_probability(ys):
        tried.append(ys.shape[1])
        return p.log_probability(ys)

    values, shares = missing_values(log_probability, y, missing, V)
    wanted = oracle.missing_values(joint, [None if gone else v for gone, v in zip(missing, y)])
    assert tried == [V**m]
    assert values.shape == (V**m, m)
    close(shares, [wanted[tuple(v)] for v in values])


# --- G3: scores ----------------------------------------------------------------------------------

CANDIDATES = [(0, 1, 1, 0), (1,), (), (0, 0, 1), (1, 1), (0,)]


@lecture("G3", "ranking")
@pytest.mark.parametrize("stop", RULES)
def test_scores_do_not_depend_on_the_other_candidates(backend, stop):
    p = sequences("GRU", stop)
    candidates = [y for y in CANDIDATES if stop != "drawn" or len(y) <= L]
    together = p.score(candidates).numpy()
    alone = np.array([p.score([y]).item() for y in candidates])
    longer = p.score([*candidates, (0, 1) * (1 if stop == "drawn" else 9)]).numpy()[:-1]
    close(together, np.log([probability(p, replayed(p), y) for y in candidates]))
    close(alone, together)
    close(longer, together)
    for other in (alone, longer, p.score(candidates[::-1]).numpy()[::-1]):
        assert np.argsort(other).tolist() == np.argsort(together).tolist()


@lecture("G3", "ranking")
def test_a_model_of_characters_scores_what_may_follow_a_text(backend):
    """log P of each continuation of one state: minus the loss that the model has on it."""
    characters = randomise(CharacterModel(5, 4, layers=2, cell="gru"), np.random.default_rng(0))
    prime, n = np.array([[3], [1]]), len(CANDIDATES)
    characters.eval()
    _, state = characters(prime[:1], characters.initial_state(1))
    p = Sequences(characters.step, Categorical(5))
    score = p.score(CANDIDATES, rows(state, [0] * n), [1] * n).numpy()
    for value, y in zip(score, CANDIDATES, strict=True):
        nats, _ = log_loss(characters, np.array([1, *y])[:, None], state)
        assert value == pytest.approx(-nats, abs=1e-5)


@lecture("G3", "padding")
@pytest.mark.parametrize(("stop", "output"), FITTING[:-2])
def test_the_content_of_padding_changes_no_bit(backend, stop, output):
    p = sequences("LSTM", stop, output)
    lengths = [3, 0, 2]
    real = np.arange(3)[:, None] < np.array(lengths)
    rng = np.random.default_rng(5)
    clean = rng.integers(0, 2, (3, 3)) if output == "symbols" else rng.normal(size=(3, 3, D))
    weights = p.parameters()
    results = []
    for junk in (0, 1, -7, 10**9) if output == "symbols" else (0, math.nan, math.inf, -1e30):
        ys = clean.copy()
        ys[~real] = junk
        score = p.log_probability(ys, lengths)
        results.append([score, *map(mg.Tensor, gradients(mg.sum(score), weights))])
    for other in results[1:]:
        same_bits(results[0], other)
    assert np.isfinite(results[0][0].numpy()).all()


# --- G4: samples ---------------------------------------------------------------------------------


@lecture("G4", "distribution")
@pytest.mark.parametrize("stop", RULES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_have_the_enumerated_probabilities(backend, stop, temperature):
    p, n = sequences("RNN", stop), 3000
    choose = functools.partial(draw, temperature=temperature)
    drawn = p.sample(n, L, key=mg.random.key(6), choose=choose)
    ys, lengths, ended = (x.numpy() for x in drawn)
    found = [(*map(int, ys[: lengths[b], b]), bool(ended[b])) for b in range(n)]
    logits = transcribed(p)
    units = p.stop.units

    def cooled(*given):
        o = logits(*given).copy()
        o[units:] /= temperature
        return o

    finished = oracle.up_to(symbols_of(p), L)
    shares = [probability(p, cooled, y) for y in finished]
    counts = [found.count((*y, True)) for y in finished]
    assert sum(counts) == sum(y[-1] for y in found)
    chi_squared([*counts, n - sum(counts)], [*shares, 1 - sum(shares)])


@lecture("G4", "distribution")
def test_greedy_top_k_and_top_p_cut_the_conditionals(backend):
    p = sequences("LSTM", "known")
    after, n = replayed(p), 1000
    for choice in ({"temperature": 0}, {"top_k": 2}, {"top_p": 0.55}):
        drawn = p.sample(n, 2, key=mg.random.key(2), choose=functools.partial(draw, **choice))
        shares = {}
        for y in oracle.sequences(range(V), 2):
            share = 1.0
            for t in range(2):
                odds = oracle.softmax(after(y[:t]))
                order = np.argsort(-odds)
                before = np.cumsum(odds[order]) - odds[order]
                kept = {
                    "temperature": order[:1],
                    "top_k": order[:2],
                    "top_p": order[before < 0.55],
                }[next(iter(choice))]
                share *= odds[y[t]] / odds[kept].sum() if y[t] in kept else 0.0
            shares[y] = share
        found = [tuple(map(int, y)) for y in drawn.ys.numpy().T]
        assert {y for y, share in shares.items() if share == 0}.isdisjoint(found)
        possible = [y for y, share in shares.items() if share]
        if len(possible) == 1:
            assert set(found) == set(possible)
        else:
            chi_squared([found.count(y) for y in possible], [shares[y] for y in possible])


@lecture("G4", "reproducible")
@pytest.mark.parametrize("stop", RULES)
def test_the_same_seed_draws_the_same_on_every_backend(backend, stop):
    def run(name):
        with mg.use_backend(name):
            p = sequences("GRU", stop, dtype="float32")
            return [x.numpy() for x in p.sample(20, 6, key=mg.random.key(11))]

    for ours, theirs in zip(run(backend), run("numpy"), strict=True):
        assert np.array_equal(ours, theirs)


@lecture("G4", "reproducible")
@pytest.mark.parametrize("stop", RULES)
def test_a_sample_does_not_depend_on_the_others(backend, stop):
    p, key = sequences("GRU", stop), mg.random.key(12)
    ys, lengths, ended = (x.numpy() for x in p.sample(9, L, key=key))
    few = p.sample(3, L, key=key, ids=[7, 2, 4])
    assert few.lengths.tolist() == lengths[[7, 2, 4]].tolist()
    assert few.ended.tolist() == ended[[7, 2, 4]].tolist()
    for column, b in enumerate([7, 2, 4]):
        n = lengths[b]
        assert few.ys.numpy()[:n, column].tolist() == ys[:n, b].tolist()
        assert not ys[n:, b].any()
    assert not np.array_equal(p.sample(9, L, key=mg.random.key(13)).lengths.numpy(), lengths)


# --- G5, G6, G7: where a sequence ends ------------------------------------------------------------


def identity(p, longest, conditional):
    """sum of P over sequences of at most `longest` elements, plus P(longer) = 1, and each P."""
    ended = oracle.up_to(symbols_of(p), longest)
    score = np.exp(p.log_probability(*padded(ended)).numpy())
    close(score, [probability(p, conditional, y) for y in ended])
    longer = np.array(oracle.sequences(symbols_of(p), longest + 1)).T
    unfinished = np.exp(p.log_beginning(longer).numpy()).sum()
    close(score.sum() + unfinished, 1.0)
    return unfinished


@lecture("G5", "normalised")
@pytest.mark.parametrize("longest", [0, 1, 3])
def test_with_an_end_symbol_all_sequences_sum_to_one(backend, longest):
    p = sequences(stop="end")
    assert identity(p, longest, transcribed(p)) > 0.01
    assert p.log_probability(np.array([[0], [END]])).item() == -math.inf


@lecture("G6", "normalised")
@pytest.mark.parametrize("longest", [0, 1, 3])
def test_with_a_halting_unit_all_sequences_sum_to_one(backend, longest):
    p = sequences(stop="halt")
    assert identity(p, longest, transcribed(p)) > 0.01


@lecture("G6", "real-valued")
def test_a_halting_unit_with_real_outputs_integrates_to_one(backend):
    """P(0) + integral of P(1 element) + integral of P(more than 1), by the trapezoidal rule."""
    mg.random.seed(0)
    cell = rnn.RNNCell(1, H, dtype="float64")
    model = Readout(cell, nn.Linear(H, 3, dtype="float64"))
    p = randomise(Sequences(model, Gaussian(1, "float64"), Halt()), np.random.default_rng(7), 0.3)
    grid = np.linspace(-15, 15, 121)
    step = grid[1] - grid[0]
    one = np.exp(p.log_probability(grid[None, :, None]).numpy()).sum() * step
    pairs = np.stack([a.reshape(-1) for a in np.meshgrid(grid, grid)])[..., None]
    more = np.exp(p.log_beginning(pairs).numpy()).sum() * step**2
    none = math.exp(p.log_probability(np.zeros((0, 1, 1))).item())
    assert none + one + more == pytest.approx(1.0, abs=1e-9)
    assert min(none, one, more) > 0.05


@lecture("G6", "real-valued")
def test_real_sequences_are_drawn_from_their_density(backend):
    """The halting probability and the moments of a first element, 4 standard deviations wide."""
    p, n = sequences("RNN", "halt", "numbers"), 2000
    o = transcribed(p)(())
    drawn = p.sample(n, 1, key=mg.random.key(3))
    lengths, halt = drawn.lengths.numpy(), oracle.sigmoid(o[0])
    assert abs((lengths == 0).mean() - halt) < 4 * math.sqrt(halt * (1 - halt) / n)
    ys = drawn.ys.numpy()[0][lengths == 1]
    z = (ys - o[1 : 1 + D]) / np.exp(o[1 + D :])
    assert (np.abs(z.mean(axis=0)) < 4 / math.sqrt(len(z))).all()
    assert (np.abs((z**2).mean(axis=0) - 1) < 4 * math.sqrt(2 / len(z))).all()


def learn(p, loss, steps, rate):
    adam = optim.Adam(p.parameters(), lr=rate)
    for _ in range(steps):
        adam.zero_grad()
        loss().backward()
        adam.step()


@pytest.mark.long
@lecture("G6", "geometric")
@pytest.mark.parametrize("output", OUTPUTS)
def test_trained_on_geometric_lengths_it_recovers_p(backend, output):
    """The rate of the data, #sequences / #decisions, and by it p itself, at every step alike."""
    rng, rate, n = np.random.default_rng(8), 0.3, 300
    lengths = np.minimum(rng.geometric(rate, size=n) - 1, 12)
    ys = rng.integers(0, V, (12, n)) if output == "symbols" else rng.normal(size=(12, n, D))
    observed = n / (n + lengths.sum())
    assert abs(observed - rate) < 0.04
    p = sequences("RNN", "halt", output)
    learn(p, lambda: -mg.mean(p.log_probability(ys, lengths)), 80, 0.05)
    drawn = p.sample(2000, 3, key=mg.random.key(1)).lengths.numpy()
    for t in range(3):
        halted = (drawn == t).sum() / (drawn >= t).sum()
        assert abs(halted - rate) < 0.07
    assert abs((drawn == 0).mean() - observed) < 0.05


@lecture("G7", "lengths")
def test_samples_are_as_long_as_the_drawn_length(backend):
    for output in OUTPUTS:
        p = sequences("GRU", "drawn", output)
        for seed in range(3):
            key = mg.random.key(seed)
            drawn = p.sample(50, key=key)
            tau = p.stop.draw_length(key.fold(mg.arange(50)).fold(0), L).numpy()
            assert drawn.lengths.tolist() == tau.tolist()
            assert drawn.ended.numpy().all()
            assert len(drawn.ys) == tau.max()
    lengths = p.sample(3000, key=mg.random.key(5)).lengths.numpy()
    chi_squared(np.bincount(lengths, minlength=L + 1), oracle.softmax(p.stop.logits.numpy()))


@lecture("G7", "lengths")
@pytest.mark.parametrize("longest", [0, 1, 3])
def test_with_a_drawn_length_all_sequences_sum_to_one(backend, longest):
    p = sequences(stop="drawn")
    unfinished = identity(p, longest, transcribed(p))
    close(unfinished, oracle.softmax(p.stop.logits.numpy())[longest + 1 :].sum())


@pytest.mark.long
@lecture("G7", "ablation")
def test_without_the_steps_that_remain_endings_are_abrupt(backend):
    """Sentences of 0 and 1 that close with a 2: a model that is told closes, another breaks off."""
    rng, longest, n = np.random.default_rng(9), 6, 120
    lengths = rng.integers(2, longest + 1, size=n)
    ys = rng.integers(0, 2, (longest, n))
    ys[lengths - 1, np.arange(n)] = 2
    closed = {}
    for tell in (True, False):
        mg.random.seed(2)
        embed = nn.Embedding(V + 1, D)
        cell = rnn.GRUCell(D + tell, 8)
        layer = Remaining(embed, longest) if tell else embed
        model = Readout(Embedded(layer, cell), nn.Linear(8, V))
        p = Sequences(model, Categorical(V), DrawnLength(longest, tell))
        learn(p, lambda p=p: -mg.mean(p.log_probability(ys, lengths)), 150, 0.05)
        drawn = p.sample(300, key=mg.random.key(0))
        sizes, text = drawn.lengths.numpy(), drawn.ys.numpy()
        written = [text[: sizes[b], b].tolist() for b in range(300) if sizes[b] >= 2]
        closed[tell] = np.mean([y.index(2) == len(y) - 1 if 2 in y else False for y in written])
    assert closed[True] > 0.95
    assert closed[False] < 0.5


# --- any cell, any output, any rule (N12) ---------------------------------------------------------

PAIRS = [
    (name, stop, output)
    for stop, output in FITTING
    for name in ("LSTM", "GRU", "clockwork", "delays 1 and 3")
]
EVERY = [(name, stop, output) for stop, output in FITTING for name in CATALOGUE]


@pytest.mark.parametrize(("name", "stop", "output"), PAIRS)
def test_exact_likelihood(backend, name, stop, output):
    p, rng = sequences(name, stop, output), np.random.default_rng(10)
    after = replayed(p)
    if output == "symbols" and stop != "known":
        identity(p, 2, after)
    rows = [rng.integers(0, 2, n) if output == "symbols" else rng.normal(size=(n, D)) for n in
            (2, 0, 3, 1)]  # fmt: skip
    score = p.log_probability(*padded(rows))
    close(score, np.log([probability(p, after, tuple(y)) for y in rows]))
    together = gradients(mg.sum(score), p.parameters())
    first = p.parameters()[0]  # of a known length 0, P = 1 depends on nothing, hence the sum
    alone = [gradients(mg.sum(p.score([y])) + 0 * mg.sum(first), p.parameters()) for y in rows]
    for ours, *parts in zip(together, *alone, strict=True):
        close(ours, np.sum(parts, axis=0))
    drawn = p.sample(4, L, key=mg.random.key(0))
    assert np.isfinite(p.log_probability(drawn.ys, drawn.lengths).numpy()).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stop", "output"), EVERY)
def test_exact_likelihood_of_every_cell(backend, name, stop, output):
    test_exact_likelihood(backend, name, stop, output)


def test_decoders_and_plain_functions_are_step_models(backend):
    """A decoder given x, whose own log P is that of its symbols; and a function without a cell."""
    rng = np.random.default_rng(11)
    decoder = rnn.Decoder(V, D, rnn.LSTMCell(D, H, dtype="float64"), H, Dx=2, dtype="float64")
    randomise(decoder, rng)
    x, ys = mg.Tensor(rng.normal(size=(2, 2))), rng.integers(0, V, (4, 2))
    close(
        Sequences(decoder, Categorical(V)).log_probability(ys, [4, 2], decoder.begin(x)),
        decoder.log_probability(ys, x, lengths=[4, 2]).numpy(),
    )
    counter = lambda y, n: (mg.stack([0.0 * n, n, 2.0 * n], axis=-1), n + 1.0)  # noqa: E731
    p = Sequences(counter, Categorical(V), EndSymbol(END))
    value = p.log_probability(np.array([[0, 1], [1, 0]]), [1, 2], mg.zeros(2, "float64"))
    odds = [oracle.softmax(np.array([0.0, n, 2.0 * n])) for n in range(3)]
    expected = [odds[0][0] * odds[1][2], odds[0][1] * odds[1][0] * odds[2][2]]
    close(value, np.log(expected))


def test_a_state_may_hold_what_the_model_does_not_know_the_size_of(backend):
    """A memory is as long as its source: initial_state knows no shape to compare it with."""

    class Looking:
        def initial_state(self, batch):
            raise ValueError("needs a source")

        def __call__(self, y, memory):
            return memory[:, :V] + mg.sum(memory, axis=1, keepdims=True), memory

    p, memory = Sequences(Looking(), Categorical(V)), np.random.default_rng(0).normal(size=(2, 7))
    value = p.log_probability([[0, 1], [2, 2]], [2, 1], mg.Tensor(memory))
    odds = [oracle.softmax(row[:V]) for row in memory]
    close(value, np.log([odds[0][0] * odds[0][2], odds[1][1]]))


# --- what does not fit ----------------------------------------------------------------------------


def test_errors_name_what_was_wrong(backend):
    p = sequences()
    with pytest.raises(mg.ShapeError, match=r"sequences are \(T, B, ...\), not \(3,\)"):
        p.log_probability(np.zeros(3, int))
    with pytest.raises(ValueError, match="row 1 has length 4"):
        p.log_probability(np.zeros((3, 2), int), [1, 4])
    with pytest.raises(ValueError, match="needs at least one sequence"):
        p.score([])
    with pytest.raises(ValueError, match="give steps="):
        p.sample(2, key=mg.random.key(0))
    wrong = Sequences(p.model, Categorical(V), Halt())
    with pytest.raises(mg.ShapeError, match="puts out 3 numbers, but the stop rule takes 1"):
        wrong.log_probability(np.zeros((3, 2), int))
    numbers = sequences(stop="known", output="numbers")
    numbers.stop = EndSymbol(END)
    with pytest.raises(mg.ShapeError, match="EndSymbol: is for symbols"):
        numbers.log_probability(np.zeros((3, 2, D)))
    with pytest.raises(mg.ShapeError, match="EndSymbol: is for symbols"):
        numbers.sample(2, 3, key=mg.random.key(0))
    with pytest.raises(mg.ShapeError, match="ids are 2 integers, one a row, not"):
        p.sample(2, 3, key=mg.random.key(0), ids=[1, 2, 3])
    with pytest.raises(ValueError, match="L=-1: give an integer >= 0"):
        DrawnLength(-1)
    with pytest.raises(mg.ShapeError, match=r"integers \(tau, N\) with tau = 2"):
        Table(V, 2).fit(np.zeros((3, 4), int))
    with pytest.raises(mg.IndexRangeError, match="symbols are 0 to 2"):
        Table(V, 2).fit(np.full((2, 4), 3))
    with pytest.raises(mg.ShapeError, match=r"a sequence \(T,\) and bool"):
        missing_values(p.log_probability, [1, 2], [1, 0], V)


def test_padded_sequences():
    ys, lengths = padded([[1, 2], [], [3]])
    assert ys.tolist() == [[1, 0, 3], [2, 0, 0]]
    assert lengths.tolist() == [2, 0, 1]
    ys, lengths = padded([np.ones((1, 2)), np.zeros((0, 2))])
    assert ys.shape == (1, 2, 2)
    assert padded([(), ()])[0].shape == (0, 2)
    ys, lengths = padded([[1, 2], [0.5], np.zeros((0,))])
    assert ys.tolist() == [[1, 0.5, 0], [2, 0, 0]]
    with pytest.raises(
        mg.ShapeError, match=r"elements of one shape are needed, not \[\(1,\), \(2,\)"
    ):
        padded([np.ones((2, 2)), np.ones((1, 1))])


def test_a_gaussian_takes_outputs_and_numbers_that_fit(backend):
    for n, o, y in [
        (1, (4, 2), (4,)),
        (3, (4, 6), (4, 1)),
        (3, (4, 2), (4, 3)),
        (1, (1, 2), (4, 1)),
    ]:
        with pytest.raises(mg.ShapeError, match="Gaussian: o "):
            Gaussian(n).log_density(mg.ones(o), mg.ones(y))
    p = Sequences(lambda y, state: (mg.stack([y, y], -1), state), Gaussian(1))
    with pytest.raises(mg.ShapeError, match="Gaussian: o "):
        p.log_probability(mg.ones((3, 3)), state=(), start=mg.ones(3))


def test_a_model_of_another_width_gives_no_samples(backend):
    p = Sequences(sequences(stop="known").model, Categorical(V - 1))
    with pytest.raises(mg.ShapeError, match="puts out 3 numbers"):
        p.sample(2, 3, key=mg.random.key(0))


def test_a_start_is_not_cut_to_an_integer(backend):
    numbers = sequences(stop="known", output="numbers")
    with pytest.raises(mg.DtypeError, match="begin with integers, not float64: convert start"):
        numbers.log_probability(np.ones((3, 2, D), int), start=np.full((2, D), 0.9))


def test_bytes_are_symbols(backend):
    model = Readout(Embedded(nn.Embedding(257, D), rnn.RNNCell(D, H)), nn.Linear(H, 256))
    ys = np.array([[0, 255], [7, 254]])
    p = Sequences(model, Categorical(256))
    same_bits(p.log_probability(ys.astype("uint8")), p.log_probability(ys))


def test_evidence_of_probability_0_says_nothing_of_what_is_missing(backend):
    table = Table(2, 2)
    table.fit(np.zeros((2, 5), int))
    p = Sequences(table, Categorical(2))
    with pytest.raises(ValueError, match="missing_values: the symbols given have probability 0"):
        missing_values(p.log_probability, [1, 0], np.array([False, True]), 2)
