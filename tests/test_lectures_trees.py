"""Rows F5 and F6 of the lectures: recursive networks and Tree-LSTMs, over one tree and over many.

Shapes: N nodes, D input, H hidden.
"""

import math
from itertools import pairwise

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad_rnn import unroll
from minigrad_rnn.catalogue import CATALOGUE
from minigrad_rnn.depth import path_length
from minigrad_rnn.experiments import listops
from minigrad_rnn.recursive import (
    Chained,
    ChildSumTreeLSTMCell,
    Composition,
    NaryTreeLSTMCell,
    RecursiveCell,
    Tree,
    balanced,
    chain,
    left_branching,
    nested,
    parse,
    post_order,
    recurse,
)
from tests.oracles import trees as oracle
from tests.recurrent import close, gradients, leaf, randomise

lecture = pytest.mark.lecture
D, H = 3, 4
FOREST = [
    nested(((0, 1), (2, (3, 4)))),
    nested(5),
    left_branching([6, 2, 7, 7]),
    nested((8, (9, (1, (0, 3))))),
    balanced([4, 5, 9, 8, 6]),
]


def recursive_cell(seed=1):
    return randomise(RecursiveCell(D, H, dtype="float64"), np.random.default_rng(seed))


def inputs(rows=10, seed=2):
    return leaf(np.random.default_rng(seed).normal(size=(rows, D)))


def random_tree(rng, rows, arity, bare):
    """A tree of random shape; of its inner nodes, the share `bare` has no input."""

    def grown(height):
        children = int(rng.integers(1, arity + 1)) if height and rng.random() < 0.8 else 0
        value = None if children and rng.random() < bare else int(rng.integers(rows))
        return Tree(value, tuple(grown(height - 1) for _ in range(children)))

    return grown(4)


def as_dicts(tree, xs):
    """A tree as the oracle has it, with the inputs at its nodes."""
    x = None if tree.value is None else xs[tree.value]
    return {"x": x, "children": [as_dicts(child, xs) for child in tree.children]}


def longest(y, op="tanh"):
    """The number of nodes of an op on the longest path to a recorded tensor."""
    depth, waiting = {}, [y.node]
    while waiting:
        node = waiting[-1]
        parents = [p for p in node.parents if p is not None]
        missing = [p for p in parents if p not in depth]
        if missing:
            waiting.extend(missing)
        else:
            own = node.op is not None and node.op.name == op
            depth[waiting.pop()] = own + max((depth[p] for p in parents), default=0)
    return depth[y.node]


# --- F5: recursive networks ----------------------------------------------------------------------


def test_the_network_of_figure_10_14(backend):
    """Each node's value against the recursion of the figure, written as such."""
    cell, xs = recursive_cell(), inputs()
    weights = {name: w.numpy().T for name, w in cell.state_dict().items()}
    ys, roots = recurse(cell, FOREST, xs)
    nodes = [node for tree in FOREST for node in post_order(tree)]
    assert ys.shape == (len(nodes), H)
    close(ys, [oracle.recursive(weights, as_dicts(node, xs.numpy())) for node in nodes])
    close(roots, [oracle.recursive(weights, as_dicts(tree, xs.numpy())) for tree in FOREST])


@lecture("F5", "depth")
@pytest.mark.parametrize("tau", [1, 2, 3, 5, 8, 13])
def test_depth_of_a_balanced_tree_and_of_a_chain(backend, tau):
    """Compositions of f on the longest path from a leaf's state to the root, on the graph."""
    cell, xs = recursive_cell(), inputs(tau)
    _, balanced_root = recurse(cell, balanced(range(tau)), xs)
    assert longest(balanced_root) == 1 + math.ceil(math.log2(tau))  # the 1 is the leaf's f(V x)
    _, left_root = recurse(cell, left_branching(range(tau)), xs)
    assert longest(left_root) == 1 + (tau - 1)
    bare = Composition(lambda x: x, cell.node)
    states = leaf(np.random.default_rng(3).normal(size=(tau, H)))
    assert longest(recurse(bare, balanced(range(tau)), states)[1]) == math.ceil(math.log2(tau))
    recurrent = Chained(rnn.RNNCell(D, H, dtype="float64"))
    assert longest(recurse(recurrent, chain(range(tau)), xs)[1]) == tau
    if tau == 8:
        assert path_length(xs, balanced_root) == 1 + 3


@lecture("F5", "chain")
@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_a_chain_shaped_tree_is_an_rnn(backend, name):
    """For every cell: outputs, last state and gradients are unroll's, three lengths at once."""
    mg.random.seed(4)
    cell = CATALOGUE[name](H, H, dtype="float64").eval()  # zoneout draws per call
    lengths, xs = [5, 1, 3], leaf(np.random.default_rng(5).normal(size=(5, 3, H)))
    trees = [chain([3 * t + b for t in range(n)]) for b, n in enumerate(lengths)]
    ys, last = recurse(Chained(cell), trees, xs.reshape(15, H))
    expected, state = unroll(cell, xs, lengths=lengths)
    rows = [(t, b) for b, n in enumerate(lengths) for t in range(n)]
    close(ys, [expected.numpy()[t, b] for t, b in rows])
    for ours, theirs in zip(mg.tree.flatten(last)[0], mg.tree.flatten(state)[0], strict=True):
        close(ours, theirs.numpy())
    found = gradients(mg.sum(ys**2), cell.parameters(), xs)
    wanted = gradients(mg.sum(expected**2), cell.parameters(), xs)
    for ours, theirs in zip(found, wanted, strict=True):
        close(ours, theirs, 1e-11)


@lecture("F5", "gradient")
def test_gradients_of_the_recursive_network(backend):
    """Losses at every node and at the root, several trees, to second order."""
    cell, xs = recursive_cell(), inputs()

    def losses(cell, xs):
        ys, roots = recurse(cell, FOREST[:3], xs)
        return mg.sum(ys**2) + mg.sum(mg.sin(roots))

    assert mg.gradcheck(losses, cell, xs, order=2)


def cost(ys, states):
    """A number that depends on all outputs and on all root states."""
    return mg.sum(ys**2) + sum(mg.sum(part) for part in mg.tree.flatten(states)[0])


def per_tree(cell, trees, xs):
    """The same trees one at a time: outputs, root states and the gradients of the sum of costs."""
    results = [recurse(cell, tree, xs) for tree in trees]
    ys = np.concatenate([y.numpy() for y, _ in results])
    states = mg.tree.map(
        lambda *s: np.concatenate([part.numpy() for part in s]), *(state for _, state in results)
    )
    return ys, states, gradients(sum(cost(*r) for r in results), cell.parameters(), xs)


@lecture("F5", "batch")
@pytest.mark.parametrize("kind", ["recursive", "child-sum", "n-ary"])
def test_a_batch_of_different_trees_is_the_trees_alone(backend, kind):
    rng = np.random.default_rng(6)
    xs, trees = inputs(20), [random_tree(rng, 20, 3, 0.5) for _ in range(12)]
    cell = {
        "recursive": recursive_cell(),
        "child-sum": randomise(ChildSumTreeLSTMCell(D, H, dtype="float64"), rng),
        "n-ary": randomise(NaryTreeLSTMCell(D, H, 3, dtype="float64"), rng),
    }[kind]
    if kind == "recursive":
        trees = FOREST
    ys, states = recurse(cell, trees, xs)
    expected, roots, wanted = per_tree(cell, trees, xs)
    close(ys, expected)
    for ours, theirs in zip(mg.tree.flatten(states)[0], mg.tree.flatten(roots)[0], strict=True):
        close(ours, theirs)
    found = gradients(cost(ys, states), cell.parameters(), xs)
    for ours, theirs in zip(found, wanted, strict=True):
        close(ours, theirs, 1e-11)


def test_a_level_of_all_trees_is_one_call(backend):
    """Calls of the cell: one a height for binary trees, however many there are."""
    calls = []
    cell = recursive_cell()

    def counted(x, children):
        calls.append(len(children[0] if children else x))
        return cell(x, children)

    recurse(counted, [balanced(range(8))] * 5, inputs())
    assert calls == [40, 20, 10, 5]
    calls.clear()
    recurse(counted, [left_branching(range(n)) for n in (2, 4, 9)], inputs())
    assert calls == [15, 3, 2, 2, 1, 1, 1, 1, 1]


@lecture("F5", "left-branching")
def test_a_left_branching_tree_is_the_chain_of_the_book(backend):
    """h = tanh(b + h(before) U + f(x V) W), h(0) = f(x(0) V): Fig 10.3 with U for W, W for U."""
    cell, xs = recursive_cell(), inputs(7)
    ys, root = recurse(cell, left_branching(range(7)), xs)
    book = rnn.RNNCell(H, H, dtype="float64")
    book.load_state_dict({"Wh": cell.U, "Wx": cell.W, "b": cell.b})
    leaves = mg.tanh(xs @ cell.V)
    hs, last = unroll(book, leaves[1:].reshape(6, 1, H), leaves[:1])
    close(root, last.numpy())
    close(ys[2::2], hs.numpy()[:, 0])
    found = gradients(mg.sum(root**2), cell.U, cell.W, cell.b)
    for ours, theirs in zip(
        found, gradients(mg.sum(last**2), book.Wh, book.Wx, book.b), strict=True
    ):
        close(ours, theirs)


@lecture("F5", "left-branching")
def test_a_left_branching_tree_folds_to_a_loop_and_a_balanced_one_does_not():
    """The graph of the tree is that of the chain: one loop, one edge of delay 1."""
    cell, xs = recursive_cell(), inputs(8)
    folded = mg.fold(lambda xs: recurse(cell, left_branching(range(8)), xs)[1], xs)
    assert [loop.trips for loop in folded.loops()] == [7]
    assert [edge.delay for edge in folded.delay_edges()] == [1]
    assert mg.fold(lambda xs: recurse(cell, balanced(range(8)), xs)[1], xs).loops() == []


@lecture("F5", "order")
def test_left_and_right_are_different(backend):
    """U and W swapped give another result, and the same again over the mirrored tree."""
    cell, xs, tree = recursive_cell(), inputs(), FOREST[0]
    swapped = cell.using({"V": cell.V, "b": cell.b, "U": cell.W, "W": cell.U})

    def mirrored(tree):
        return Tree(tree.value, tuple(mirrored(child) for child in tree.children[::-1]))

    root, other = (recurse(c, tree, xs)[1].numpy() for c in (cell, swapped))
    assert np.abs(root - other).max() > 0.01
    close(recurse(swapped, mirrored(tree), xs)[1], root)


def test_a_node_depends_on_its_own_leaves_and_nothing_else(backend):
    """Blocks d y(node) / d x(leaf): non-zero in the node's subtree, exactly 0 elsewhere."""
    trees = [nested(((0, 1), (2, (3, 4)))), left_branching([5, 6, 7, 8])]
    for cell in (
        recursive_cell(),
        randomise(ChildSumTreeLSTMCell(D, H, dtype="float64"), np.random.default_rng(7)),
        randomise(NaryTreeLSTMCell(D, H, dtype="float64"), np.random.default_rng(7)),
    ):
        xs = inputs(9)
        ys, _ = recurse(cell, trees, xs)
        nodes = [node for tree in trees for node in post_order(tree)]
        for i, node in enumerate(nodes):
            own = {n.value for n in post_order(node)}
            (reached,) = mg.pullback(mg.sum(ys[i]), [xs])
            assert [bool(row.any()) for row in reached.numpy()] == [m in own for m in range(9)]


def test_trees_may_depend_on_what_the_network_computes(backend):
    """The neighbours whose parent is longest are merged first, until one is left; FD agree."""
    cell, xs = recursive_cell(), inputs(6)

    def greedy(cell, xs):
        trees = [Tree(m) for m in range(len(xs))]
        while len(trees) > 1:
            pairs = [Tree(None, pair) for pair in pairwise(trees)]
            norms = mg.sum(recurse(cell, pairs, xs)[1] ** 2, axis=-1)
            best = int(mg.argmax(norms))
            trees[best : best + 2] = [pairs[best]]
        return trees[0]

    first, second = greedy(cell, xs), greedy(cell, inputs(6, seed=9))
    assert first != second
    assert sorted(n.value for n in post_order(first) if not n.children) == list(range(6))
    assert mg.gradcheck(lambda cell, xs: recurse(cell, greedy(cell, xs), xs)[1], cell, xs)


def test_a_composition_of_any_functions_and_any_state(backend):
    """Two functions are a cell: here a sum and a count, with three children too."""
    cell = Composition(
        lambda x: {"sum": x, "count": mg.ones(len(x), dtype="int64")},
        lambda *states: mg.tree.map(lambda *parts: mg.sum(mg.stack(parts), axis=0), *states),
    )
    xs = leaf(np.arange(10.0)[:, None])
    _, roots = recurse(cell, [nested((0, (1, 2, 3), 9)), nested(4), nested([[5, 6], 7])], xs)
    assert roots["sum"].tolist() == [[15.0], [4.0], [18.0]]
    assert roots["count"].tolist() == [5, 1, 3]


def test_inputs_are_any_nest_and_a_deep_tree_is_no_recursion(backend):
    cell = Composition(lambda x: x["a"] + x["b"], lambda left, right: left + right)
    xs = {"a": mg.ones((2000, 1)), "b": mg.zeros((2000, 1))}
    assert recurse(cell, left_branching(range(2000)), xs)[1].tolist() == [[2000.0]]


# --- making trees --------------------------------------------------------------------------------


def test_brackets_and_tuples():
    tree = Tree(None, (Tree(None, (Tree(0), Tree(1))), Tree(2)))
    assert nested(((0, 1), 2)) == nested([[0, 1], 2]) == nested((Tree(None, (Tree(0), Tree(1))), 2))
    assert parse("((0 1) 2)", int) == left_branching([0, 1, 2]) == tree
    assert balanced([0, 1, 2]) == tree
    assert parse("((0 1)2)", int) == tree
    assert parse(" word ") == nested("word")
    assert parse("(MAX 3\n (MIN 4 x))", labelled=True) == Tree(
        "MAX", (Tree("3"), Tree("MIN", (Tree("4"), Tree("x"))))
    )
    assert parse("((a) b)") == Tree(None, (Tree(None, (Tree("a"),)), Tree("b")))
    assert chain("ab") == Tree("b", (Tree("a"),))
    assert [node.value for node in post_order(parse("(a (b c (d)) (e) f)", labelled=True))] == [
        "c",
        "d",
        "b",
        "e",
        "f",
        "a",
    ]


@pytest.mark.parametrize("text", ["", "a b", "(a", "a)", ")(", "()", "(a) (b)", "(a ())"])
def test_brackets_that_do_not_match(text):
    for labelled in (False, True):
        with pytest.raises(ValueError, match="parse: "):
            parse(text, labelled=labelled)
    with pytest.raises(ValueError, match="without a label"):
        parse("((a b) c)", labelled=True)


def test_what_is_no_tree_is_refused():
    cell, xs = recursive_cell(), inputs()
    for make in (chain, left_branching, balanced):
        with pytest.raises(ValueError, match="at least one value"):
            make([])
    with pytest.raises(ValueError, match="at least one child"):
        nested((1, ()))
    with pytest.raises(ValueError, match="at least one tree"):
        recurse(cell, [], xs)
    with pytest.raises(ValueError, match=r"not a Tree; nested\(\) makes one"):
        recurse(cell, [((0, 1), 2)], xs)
    with pytest.raises(ValueError, match="a leaf of tree 1 has no value"):
        recurse(cell, [Tree(0), Tree(None, (Tree(1), Tree()))], xs)
    with pytest.raises(ValueError, match="a tree's value='word'"):
        recurse(cell, parse("word"), xs)
    with pytest.raises(mg.IndexRangeError, match="10"):
        recurse(cell, nested((0, 10)), xs)
    with pytest.raises(mg.ShapeError, match=r"a row for each value, not \[None\]"):
        recurse(cell, nested((0, 1)))
    with pytest.raises(mg.ShapeError, match="a row for each value"):
        recurse(cell, nested((0, 1)), {"a": xs, "b": xs[:3]})
    with pytest.raises(ValueError, match="a left and a right child, not 3"):
        recurse(cell, nested((0, 1, 2)), xs)
    with pytest.raises(ValueError, match="only leaves have inputs"):
        recurse(cell, chain([0, 1]), xs)
    with pytest.raises(ValueError, match="at most one child"):
        recurse(Chained(rnn.RNNCell(D, H, dtype="float64")), nested((0, 1)), xs)
    with pytest.raises(ValueError, match="3 children, but N=2"):
        recurse(NaryTreeLSTMCell(D, H, dtype="float64"), nested((0, 1, 2)), xs)
    with pytest.raises(ValueError, match="children's"):
        unroll(ChildSumTreeLSTMCell(D, H, dtype="float64"), xs.reshape(5, 2, D))
    with pytest.raises(mg.ShapeError, match="3 features"):
        recurse(ChildSumTreeLSTMCell(D, H), Tree(0), mg.ones((1, D + 1)))


# --- F6: Tree-LSTMs ------------------------------------------------------------------------------


def published(cell):
    """A Tree-LSTM's weights, arrays in our layout, as the paper calls them; complex ones too."""
    N = getattr(cell, "N", None)

    def names(w):
        result = {}
        for k, W, b in zip("ifuo", np.split(w["Wx"], 4, 1), np.split(w["b"], 4), strict=True):
            result |= {f"W_{k}": W.T, f"b_{k}": b}
        if N is None:
            return result | {
                f"U_{k}": U.T for k, U in zip("ifuo", np.split(w["Wh"], 4, 1), strict=True)
            }
        blocks = w["Wh"].reshape(N, H, 3 + N, H).transpose(2, 0, 3, 1)  # gate, child, out, in
        i, *f, u, o = blocks
        return result | {"U_i": i, "U_f": np.array(f), "U_u": u, "U_o": o}

    return names


def tree_lstm(kind):
    make = (
        ChildSumTreeLSTMCell if kind == 0 else lambda *a, **k: NaryTreeLSTMCell(*a[:2], kind, **k)
    )
    return randomise(make(D, H, dtype="float64"), np.random.default_rng(10 + kind))


@lecture("F6", "published")
@pytest.mark.parametrize("kind", [0, 1, 2, 3], ids=["child-sum", "N=1", "N=2", "N=3"])
def test_the_published_tree_lstms(backend, kind):
    """Values of every root, and gradients, inputs at some of the inner nodes."""
    rng, cell, xs = np.random.default_rng(20 + kind), tree_lstm(kind), inputs(8)
    trees = [random_tree(rng, 8, kind or 4, 0.5) for _ in range(6)]
    host = {name: w.numpy() for name, w in cell.state_dict().items()} | {"x": xs.numpy()}
    names = published(cell)

    def root(w, tree):
        args = (names(w), as_dicts(tree, w["x"]))
        return oracle.child_sum(*args) if kind == 0 else oracle.nary(*args, kind)

    _, (h, c) = recurse(cell, trees, xs)
    close(h, [root(host, tree)[0] for tree in trees])
    close(c, [root(host, tree)[1] for tree in trees])

    def loss(w):
        return sum((root(w, tree)[0] ** 2 + root(w, tree)[1]).sum() for tree in trees)

    found = gradients(mg.sum(h**2) + mg.sum(c), cell.Wx, cell.Wh, cell.b, xs)
    for name, ours in zip(("Wx", "Wh", "b", "x"), found, strict=True):
        for _ in range(3):  # random directions, exact by a complex step
            v = rng.normal(size=ours.shape)
            moved = host | {name: host[name] + 1e-30j * v}
            close((ours * v).sum(), loss(moved).imag / 1e-30, 1e-11)


@lecture("F6", "chain")
@pytest.mark.parametrize(
    "make",
    [ChildSumTreeLSTMCell, lambda *a, **k: NaryTreeLSTMCell(*a, 1, **k)],
    ids=["child-sum", "N=1"],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_chain_is_an_lstm(backend, make, bias):
    """With the LSTM's weights: values, state and all gradients."""
    lstm = rnn.LSTMCell(D, H, bias=bias, dtype="float64")
    randomise(lstm, np.random.default_rng(30))
    cell = make(D, H, bias=bias, dtype="float64")
    cell.load_state_dict(lstm.state_dict())
    xs = inputs(6)
    ys, last = recurse(cell, chain(range(6)), xs)
    expected, state = unroll(lstm, xs.reshape(6, 1, D))
    close(ys, expected.numpy()[:, 0])
    for ours, theirs in zip(last, state, strict=True):
        close(ours, theirs.numpy())
    found = gradients(mg.sum(ys**2), cell.parameters(), xs)
    for ours, theirs in zip(
        found, gradients(mg.sum(expected**2), lstm.parameters(), xs), strict=True
    ):
        close(ours, theirs)


def test_the_order_of_children_counts_for_the_n_ary_alone(backend):
    xs, tree, other = inputs(), nested((0, 1)), nested((1, 0))
    for kind, same in ((0, True), (2, False)):
        cell = tree_lstm(kind)
        difference = recurse(cell, tree, xs)[0][-1] - recurse(cell, other, xs)[0][-1]
        assert (np.abs(difference.numpy()).max() < 1e-12) == same


def test_how_tree_lstms_start():
    """The forget gates' bias is 1; Wh has an orthogonal block for each child and gate."""
    cell = NaryTreeLSTMCell(D, H, 3)
    assert cell.Wh.shape == (3 * H, 6 * H)
    assert cell.b.tolist() == [0.0] * H + [1.0] * H + [0.0] * (2 * H)
    for block in cell.Wh.numpy().reshape(3, H, 6, H).transpose(0, 2, 1, 3).reshape(-1, H, H):
        np.testing.assert_allclose(block @ block.T, np.eye(H), atol=1e-5)
    assert NaryTreeLSTMCell(D, H, init="torch").Wh.shape == (2 * H, 5 * H)
    with pytest.raises(ValueError, match="N=0"):
        NaryTreeLSTMCell(D, H, 0)


# --- the experiment's data -----------------------------------------------------------------------


def test_nested_list_operations():
    """Expressions by hand, and how they are written."""
    words = [*map(str, range(10)), *listops.OPERATIONS]
    for text, expected in {
        "(MAX 2 9 (MIN 4 7) 0)": 9,
        "(SM 7 (MAX 1 8) 9)": 4,
        "(MED 5 (MIN 3 4) 9)": 5,
        "(MED 8 (SM 9 9))": 8,
        "(MED 9 2 4 7)": 4,
    }.items():
        tree = parse(text, words.index, labelled=True)
        assert listops.result(tree) == expected
        written = [words[s] if s < listops.CLOSE else ")" for s in listops.symbols(tree)]
        assert written == text.replace("(", "").replace(")", " )").split()
    rng = np.random.default_rng(40)
    made = [listops.expression(rng, listops.FULL, 3) for _ in range(200)]
    heights = {max(len(path) for path in paths_down(tree)) for tree in made}
    assert heights == {2, 3, 4}
    assert {listops.result(tree) for tree in made} == set(range(10))


def paths_down(tree):
    """Every path from the root to a leaf."""
    if not tree.children:
        return [[tree]]
    return [[tree, *path] for child in tree.children for path in paths_down(child)]
