"""Attention cells beside their oracles, around any cell and in any wiring; wordpieces; BLEU.

Shapes: Tx source steps, T target steps, B batch, D input, H hidden, N numbers of a source step.
"""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
import minigrad_rnn as rnn
from minigrad.graph import Loop
from minigrad_rnn import unroll
from minigrad_rnn.attention import Additive, Concat, Dot, General, coverage_loss
from minigrad_rnn.patterns import state_size
from minigrad_rnn.text import TextError
from minigrad_rnn.wordpieces import WordPieces, bleu, modified_precision
from tests.oracles import attention as oracle
from tests.recurrent import (
    KINDS,
    close,
    gradients,
    leaf,
    oracle_parameters,
    random_cell,
    randomise,
    same_bits,
)
from tests.test_graph_fold import folds

Tx, T, B, D, H, N, A = 6, 4, 3, 2, 4, 4, 3
LENGTHS = [6, 0, 3]  # of the sources
TARGETS = [4, 2, 3]

SCORES = {
    "additive": lambda Q: Additive(Q, N, A, dtype="float64"),
    "coverage": lambda Q: Additive(Q, N, A, coverage=True, dtype="float64"),
    "concat": lambda Q: Concat(Q, N, A, dtype="float64"),
    "general": lambda Q: General(Q, N, dtype="float64"),
    "dot": lambda Q: Dot(),
}


def bahdanau(kind, score, rng):
    cell = random_cell(kind, D + N, H, rng)
    return rnn.BahdanauCell(cell, randomise(SCORES[score](state_size(cell)), rng))


def luong(kind, score, rng, feeding=True):
    cell = random_cell(kind, D + H if feeding else D, H, rng)
    attention = rnn.LuongCell(cell, SCORES[score](H), N, H, feeding, dtype="float64")
    randomise(attention.score, rng)
    attention.W.assign(rng.normal(size=attention.W.shape))
    return attention


def google(kind, rng, layers=4):
    sizes = [D + N] + [H + N] * (layers - 1)
    cells = [random_cell(kind, size, H, rng) for size in sizes]
    return rnn.GNMTCell(cells, randomise(Additive(H, N, A, dtype="float64"), rng), H)


MAKERS = {
    "bahdanau": lambda kind, rng: bahdanau(kind, "coverage", rng),
    "luong": lambda kind, rng: luong(kind, "general", rng),
    "gnmt": lambda kind, rng: google(kind, rng, 3),
}


def oracle_score(name, score):
    """The oracle's function and parameters of a score."""
    p = {key: value.numpy().T for key, value in score.state_dict().items()}
    names = {"W": "W_a", "U": "U_a", "v": "v_a", "w": "w_c"}
    p = {names[key]: value for key, value in p.items()}
    return getattr(oracle, {"coverage": "covered"}.get(name, name)), p


def stepper(kind, cell):
    parameters = oracle_parameters(kind, cell)
    return lambda x, state: KINDS[kind].step(parameters, x, state)


def zeros(kind):
    return tuple(np.zeros(H) for _ in KINDS[kind].parts)


def data(rng):
    """Inputs, source values with NaN in the padding, and each row's own values."""
    xs, values = rng.normal(size=(T, B, D)), rng.normal(size=(Tx, B, N))
    own = [values[:n, b] for b, n in enumerate(LENGTHS)]
    noisy = np.where((np.arange(Tx)[:, None] < LENGTHS)[..., None], values, np.nan)
    return xs, noisy, own


def compare(cell, xs, noisy, own, run):
    """A ragged batch, row by row, with run(xs, h): outputs and alignments, {"y", "alpha"}."""
    state = cell.begin(mg.Tensor(noisy), lengths=LENGTHS)
    for t in range(T):
        y, state = cell(mg.Tensor(xs[t]), state)
        for b, h in enumerate(own):
            if len(h):
                expected = run(xs[:, b], h)
                close(y[b], expected["y"][t])
                close(state[0].weights[b, : len(h)], expected["alpha"][t])
                close(state[0].coverage[b, : len(h)], expected["alpha"][: t + 1].sum(axis=0))


# --- beside the oracle ---------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["additive", "coverage", "concat", "general"])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_look_then_step_is_bahdanau(backend, kind, score):
    rng = np.random.default_rng(1)
    cell = bahdanau(kind, score, rng)
    function, p = oracle_score(score, cell.score)

    def run(xs, h):
        step = stepper(kind, cell.cell)
        found = oracle.bahdanau(function, p, step, xs, h, zeros(kind), score == "coverage")
        return {"y": np.concatenate([found["y"], found["c"]], axis=1), "alpha": found["alpha"]}

    compare(cell, *data(rng), run)


@pytest.mark.parametrize("feeding", [True, False])
@pytest.mark.parametrize("score", ["dot", "general", "concat"])
def test_step_then_look_is_luong(backend, score, feeding):
    rng = np.random.default_rng(2)
    cell = luong("lstm", score, rng, feeding)
    function, p = oracle_score(score, cell.score)
    step, W_c = stepper("lstm", cell.cell), cell.W.numpy().T
    compare(
        cell,
        *data(rng),
        lambda xs, h: oracle.luong(function, p, step, W_c, xs, h, zeros("lstm"), feeding),
    )


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gnmt_is_its_equations(backend, kind):
    rng = np.random.default_rng(3)
    cell = google(kind, rng)
    _, p = oracle_score("additive", cell.score)
    steps = [stepper(kind, layer) for layer in cell.cell.cells]
    compare(
        cell, *data(rng), lambda xs, h: oracle.gnmt(p, steps, xs, h, [zeros(kind)] * len(steps))
    )


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_gnmts_encoder_is_its_equations(backend, layers):
    rng = np.random.default_rng(4)
    net = randomise(rnn.gnmt(5, 6, D, H, layers, dtype="float64"), rng)
    symbols = rng.integers(0, 5, (Tx, B))
    encoded = net.context(symbols, lengths=LENGTHS)

    def layer(cell):
        parameters = oracle_parameters("lstm", cell)
        return lambda x: KINDS["lstm"].forward(parameters, x, *zeros("lstm"))["h"]

    first, *uppers = net.encoder.layers
    cells = [one.cell.cell if n >= 1 else one.cell for n, one in enumerate(uppers)]
    for b, n in enumerate(LENGTHS):
        if n:
            xs = net.embed(mg.Tensor(symbols[:n, b])).numpy()
            expected = oracle.gnmt_encoder(
                layer(first.forward), layer(first.backward), [layer(c) for c in cells], xs
            )
            close(encoded.values[:n, b], expected)
    assert net.log_probability(symbols, symbols, lengths=[6, 1, 3]).shape == (B,)


def test_coverage_loss_is_its_equation(backend):
    rng = np.random.default_rng(5)
    alphas = rng.dirichlet(np.ones(Tx), (T, B))
    found = coverage_loss(mg.Tensor(alphas))
    close(found, [oracle.coverage_loss(alphas[:, b]) for b in range(B)])


# --- any cell, any wiring, any schedule -----------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MAKERS)
def test_a_ragged_batch_is_runs_of_its_samples(backend, name, kind):
    """Values and all gradients; what stands in the padding of either side changes no bit."""
    rng = np.random.default_rng(6)
    cell = MAKERS[name](kind, rng)
    xs, noisy, own = data(rng)

    def run(values, xs, lengths, targets):
        ys, _ = unroll(cell.over(values, lengths=lengths), xs, lengths=targets)
        return ys, mg.sum(ys**2)

    whole = leaf(noisy)
    ys, loss = run(whole, mg.Tensor(xs), LENGTHS, TARGETS)
    *found, dvalues = gradients(loss, cell.parameters(), whole)
    total = [np.zeros(p.shape) for p in cell.parameters()]
    for b, (h, n) in enumerate(zip(own, TARGETS, strict=True)):
        values = leaf(h[:, None])
        alone, loss = run(values, mg.Tensor(xs[:n, b : b + 1]), [len(h)], [n])
        close(ys[:n, b : b + 1], alone.detach().numpy())
        *grads, dh = gradients(loss, cell.parameters(), values)
        total = [t + g for t, g in zip(total, grads, strict=True)]
        close(dvalues[: len(h), b : b + 1], dh)
        assert not dvalues[len(h) :, b].any()
    for ours, expected in zip(found, total, strict=True):
        close(ours, expected)
    noise = np.where((np.arange(T)[:, None] < TARGETS)[..., None], xs, np.inf)
    again, _ = run(mg.Tensor(np.nan_to_num(noisy, nan=9.0)), mg.Tensor(noise), LENGTHS, TARGETS)
    same_bits(ys, again)


@pytest.mark.parametrize("score", SCORES)
def test_scores_pass_gradcheck(backend, score):
    rng = np.random.default_rng(7)
    cell = luong("rnn", score, rng)
    xs, values = (mg.Tensor(rng.normal(size=(3, 2, size))) for size in (D, N))

    def run(cell, xs, values):
        return unroll(cell.over(values, lengths=[3, 2]), xs)[0]

    assert mg.gradcheck(run, cell, xs, values)


def test_attention_cells_stand_in_stacks_and_residuals(backend):
    rng = np.random.default_rng(8)
    values, xs = mg.Tensor(rng.normal(size=(Tx, B, N))), mg.Tensor(rng.normal(size=(T, B, H)))
    inner = random_cell("gru", 2 * H, H, rng)
    cell = rnn.LuongCell(inner, Dot(), N, H, dtype="float64")
    bound = cell.over(values, lengths=LENGTHS)
    alone, _ = unroll(bound, xs)
    above, _ = unroll(rnn.Residual(bound), xs)
    close(above, alone.numpy() + xs.numpy())
    top = random_cell("lstm", H, 3, rng)
    stacked, _ = unroll(rnn.Stack([bound, top]), xs)
    close(stacked, unroll(top, alone)[0].detach().numpy())
    assert len(rnn.Stack([bound, top]).parameters()) == 8
    with pytest.raises(mg.ShapeError, match="attention over 3 sequences, but a batch of 2"):
        unroll(bound, xs[:, :2])


@pytest.mark.parametrize("name", MAKERS)
def test_rows_of_the_state_are_rows_of_the_batch(backend, name):
    """What beam search does with a state: rows repeated and in another order, memory included."""
    rng = np.random.default_rng(9)
    cell = MAKERS[name]("lstm", rng)
    xs, noisy, _ = data(rng)
    order = [2, 0, 0, 1, 2]
    state = cell.begin(mg.Tensor(noisy), lengths=LENGTHS)
    _, state = cell(mg.Tensor(xs[0]), state)
    expected, _ = cell(mg.Tensor(xs[1]), state)
    taken = mg.tree.map(lambda s: mg.take(s, order, axis=0), state)
    found, _ = cell(mg.Tensor(xs[1][order]), taken)
    close(found, expected.numpy()[order])


@pytest.mark.parametrize("name", MAKERS)
def test_truncated_backpropagation_takes_an_attention_cell(backend, name):
    """With one window as long as the sequence it is backpropagation through time."""
    rng = np.random.default_rng(10)
    cell = MAKERS[name]("gru", rng)
    values = mg.Tensor(rng.normal(size=(Tx, B, N)))
    xs = mg.Tensor(rng.normal(size=(T, B, D)))
    found = []
    for schedule in (rnn.BPTT(), rnn.TBPTT(T, T), rnn.TBPTT(2, 2)):
        bound = cell.over(values, lengths=LENGTHS)
        for p in bound.parameters():
            p.grad = None
        schedule(bound, lambda ys, _: mg.sum(ys**2), xs, xs)
        found.append([p.grad.numpy() for p in bound.parameters()])
    for whole, window in zip(*found[:2], strict=True):
        close(whole, window)
    assert any((a != b).any() for a, b in zip(found[0], found[2], strict=True))


@pytest.mark.parametrize("name", MAKERS)
def test_an_attention_decoder_folds(name):
    """One loop, forwards, and the keys stand before it; backwards it unfolds to what it was."""
    rng = np.random.default_rng(11)
    cell = MAKERS[name]("lstm", rng)
    values = leaf(rng.normal(size=(Tx, B, N)))

    def run(xs):
        return unroll(cell.over(values), xs)[0]

    def with_gradients(xs):
        return mg.pullback(mg.mean(run(xs) ** 2), [*cell.parameters(), values])

    xs = leaf(rng.normal(size=(7, B, D)))
    folded = folds(run, xs)
    [loop] = folded.loops()
    assert loop.trips >= 6

    def keys(steps):
        found = [s for s in steps if not isinstance(s, Loop) and s.op.name == "matmul"]
        shapes = [s.outputs[0].spec.shape for s in found]
        # a Dot's scores are a product with one column
        return [s for s, n in zip(found, shapes, strict=True) if n[:-1] == (B, Tx) and n[-1] > 1]

    [product] = keys(folded.steps)
    assert folded.steps.index(product) < folded.steps.index(loop)
    assert not keys(loop.body)
    folds(with_gradients, xs, bits=False)


# --- decoders ------------------------------------------------------------------------------------

V = 5


def seq2seq(name, rng):
    """Models from symbols to symbols, the encoder in both directions, with random weights."""
    if name == "gnmt":
        return randomise(rnn.gnmt(V, V, D, H, 3, dtype="float64"), rng)
    encoder = rnn.Bidirectional(random_cell("gru", D, 2, rng), random_cell("gru", D, 2, rng))
    cell = MAKERS[name]("lstm", rng)
    width = {"bahdanau": H + N, "luong": H}[name]
    decoder = rnn.AttentionDecoder(V, D, cell, width, 4, dtype="float64")
    embed = mg.nn.Embedding(V, D, dtype="float64")
    return randomise(rnn.AttentionEncoderDecoder(encoder, decoder, embed), rng)


@pytest.mark.parametrize("name", MAKERS)
def test_forced_log_probability_is_that_of_the_stepwise_decoder(backend, name):
    rng = np.random.default_rng(12)
    net = seq2seq(name, rng)
    xs, ys = rng.integers(0, V, (Tx, B)), rng.integers(0, V, (T, B))
    lengths, targets = [6, 1, 3], [2, 4, 1]
    found = net.log_probability(xs, ys, lengths=lengths, target_lengths=targets)
    looked = net.alignment(xs, ys, lengths=lengths)
    assert looked.shape == (T, B, Tx)
    for b, (n, m) in enumerate(zip(lengths, targets, strict=True)):
        state = net.decoder.begin(net.context(xs[:n, b : b + 1]))
        y, total = net.decoder.start(1), 0.0
        for t in range(m):
            o, state = net.decoder(y, state)
            close(looked[t, b, :n], net.decoder.looked(state)[0].detach().numpy())
            share = np.exp(o.numpy()[0]) / np.exp(o.numpy()[0]).sum()
            total += np.log(share[ys[t, b]])
            y = mg.Tensor(ys[t, b : b + 1])
        close(found[b], total)
    padded = np.where(np.arange(Tx)[:, None] < lengths, xs, (xs + 1) % V)
    other = np.where(np.arange(T)[:, None] < targets, ys, (ys + 1) % V)
    again = net.log_probability(padded, other, lengths=lengths, target_lengths=targets)
    same_bits(found, again)


@pytest.mark.parametrize("name", MAKERS)
def test_greedy_takes_the_likeliest_step_by_step(backend, name):
    rng = np.random.default_rng(13)
    net = seq2seq(name, rng)
    xs, lengths = rng.integers(0, V, (Tx, B)), [6, 1, 3]
    found = net.greedy(xs, T, lengths=lengths).numpy()
    logits = net.decoder.logits(found, net.context(xs, lengths=lengths)).numpy()
    assert (logits.argmax(axis=-1) == found).all()


def test_what_does_not_fit_is_said_at_once():
    rng = np.random.default_rng(14)
    values = mg.Tensor(rng.normal(size=(Tx, B, N)))
    cell = rnn.LuongCell(rnn.GRUCell(D + 3, 3, dtype="float64"), Dot(), N, 3, dtype="float64")
    x = mg.zeros((B, D), dtype="float64")
    with pytest.raises(mg.ShapeError, match="query of 3 numbers and keys of 4"):
        cell(x, cell.begin(values))
    with pytest.raises(mg.ShapeError, match=r"values are \(Tx, B, N\), not \(6, 3\)"):
        cell.begin(values[..., 0])
    with pytest.raises(ValueError, match="row 0 has length 7"):
        cell.begin(values, lengths=[7, 1, 1])
    with pytest.raises(ValueError, match=r"no initial_state\(batch\); pass state="):
        unroll(cell, mg.zeros((T, B, D), dtype="float64"))
    with pytest.raises(ValueError, match="needs a source"):
        rnn.gnmt(V, V, D, H, 2).decoder.logits([[1]])
    with pytest.raises(ValueError, match="at least one layer"):
        rnn.GNMTCell([], Dot(), H)
    with pytest.raises(ValueError, match="layers=0"):
        rnn.gnmt(V, V, D, H, 0)
    with pytest.raises(ValueError, match="A=0"):
        Additive(H, N, 0)


# --- wordpieces ----------------------------------------------------------------------------------


def test_merges_of_an_example_by_hand():
    """aaabdaaabac: aa, then ab (as frequent as aa a, with smaller numbers), then the two."""
    pieces = WordPieces.learn(["aaabdaaabac"], 10)
    assert pieces.merges == [(97, 97), (97, 98), (256, 257)]
    assert pieces.pieces[256:] == [b"aa", b"ab", b"aaab"]
    assert pieces.encode("aaabdaaabac") == [258, 100, 258, 97, 99]
    assert pieces.encode("aab") == [256, 98]
    assert WordPieces.learn(["ab ab ab"], 9).pieces[256:] == [b"ab", b" ab"]


TEXTS = ["the cat sat", "the hat, the mat", "Löwe läuft", "日本語 日本"]
LEARNED = WordPieces.learn(TEXTS, 30)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decoding_undoes_encoding(text):
    assert LEARNED.decode(LEARNED.encode(text)) == text
    assert len(LEARNED.encode(text)) <= len(text.encode())


def test_wordpieces_are_saved_as_plain_json(tmp_path):
    path = tmp_path / "pieces.json"
    LEARNED.save(path)
    assert json.loads(path.read_text("utf-8")) == {"merges": [list(m) for m in LEARNED.merges]}
    again = WordPieces.load(path)
    assert again.pieces == LEARNED.pieces and len(again) == 256 + len(LEARNED.merges)
    assert WordPieces.learn(reversed(TEXTS), 30).merges == LEARNED.merges
    assert again.decode([0xE6]) == "�"
    with pytest.raises(TextError, match="not UTF-8"):
        again.encode("\ud800")
    with pytest.raises(TextError, match="merge 0 joins 97 and 256"):
        WordPieces([(97, 256)])
    with pytest.raises(TextError, match="merge 1 joins 97 and 98 once more"):
        WordPieces([(97, 98), (97, 98)])
    with pytest.raises(TextError, match=r"takes several texts, not one; give \[text\]"):
        WordPieces.learn("aaabdaaabac", 3)
    for wrong in (-1, len(again)):
        with pytest.raises(TextError, match=f"piece {wrong} is not one of the {len(again)} pieces"):
            again.decode([97, wrong])


# --- BLEU ----------------------------------------------------------------------------------------

PARTY = [
    "it is a guide to action that ensures that the military will forever heed party commands",
    "it is the guiding principle which guarantees the military forces always being under the "
    "command of the party",
    "it is the practical guide for the army always to heed the directions of the party",
]
GOOD = (
    "it is a guide to action which ensures that the military always obeys the commands of the party"
)
POOR = "it is to insure the troops forever hearing the activity guidebook that party direct"


def test_modified_precisions_of_the_paper():
    """Papineni et al. 2002, section 2.1: 17/18 and 8/14, 10/17 and 1/13, 2/7."""
    references = [[text.split() for text in PARTY]]
    assert modified_precision([GOOD.split()], references, 1) == (17, 18)
    assert modified_precision([POOR.split()], references, 1) == (8, 14)
    assert modified_precision([GOOD.split()], references, 2) == (10, 17)
    assert modified_precision([POOR.split()], references, 2) == (1, 13)
    cats = [
        [["the", "cat", "is", "on", "the", "mat"], ["there", "is", "a", "cat", "on", "the", "mat"]]
    ]
    assert modified_precision([["the"] * 7], cats, 1) == (2, 7)
    assert modified_precision([["the"] * 7], cats, 2) == (0, 6)


def test_bleu_is_its_definition():
    """p = 17/18, 10/17, 7/16, 4/15; the nearest reference has 18 words, as the candidate has."""
    references = [[text.split() for text in PARTY]]
    own = (17 / 18 * 10 / 17 * 7 / 16 * 4 / 15) ** 0.25
    assert bleu([GOOD.split()], references) == pytest.approx(own, rel=1e-12)
    assert bleu([POOR.split()], references) == 0
    assert bleu([list("abcde")], [[list("abcde")]]) == 1
    # two sentences count together: 3 + 4 of 4 + 4 words, 2 + 3 of 3 + 3 pairs; r = 5 + 4, c = 8
    pair = bleu(["abcx", "abcd"], [["abcyz"], ["abcd", "abcdefgh"]], N=2)
    assert pair == pytest.approx(np.exp(1 - 9 / 8) * (7 / 8 * 5 / 6) ** 0.5, rel=1e-12)
    # of references equally near the shorter one counts
    assert bleu(["abc"], [["ab", "abcd"]], N=1) == 1


def test_bleu_wants_a_list_of_references_for_each_candidate():
    for candidate, flat in [(["a", "b"], ["a", "b"]), ("ab", "ab"), ([1, 2], [1, 2])]:
        with pytest.raises(ValueError, match="a candidate has a list of references, each a text"):
            bleu([candidate], [flat], N=1)
    with pytest.raises(ValueError, match="N=0: give an integer >= 1"):
        bleu(["a"], [["a"]], N=0)


def test_no_steps_have_no_alignment(backend):
    net = seq2seq("luong", np.random.default_rng(15))
    assert net.alignment([[1] * B] * Tx, np.zeros((0, B), int)).shape == (0, B, Tx)
