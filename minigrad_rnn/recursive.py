"""Recursive networks: a cell over trees, where unroll has a chain (Fig 10.14; Tree-LSTMs).

A tree is plain data, made before or between calls by any code, from values too. Letters: N rows
(nodes of a level, of all trees together), D input, H hidden.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import minigrad as mg
from minigrad import arguments, tree
from minigrad.nn import Module, Parameter, glorot_uniform, orthogonal
from minigrad_rnn.cells import LSTMCell

Pair = tuple[mg.Tensor, mg.Tensor]


class Tree(NamedTuple):
    """A node: the row of its input among all inputs, or None; its children, left to right."""

    value: Any = None
    children: tuple[Tree, ...] = ()


TreeCell = Callable[[Any, tuple[Any, ...]], tuple[Any, Any]]


# --- making trees --------------------------------------------------------------------------------


def nested(data: Any) -> Tree:
    """The tree of nested tuples or lists, say ((0, 1), 2): what is neither is a leaf's value."""
    if isinstance(data, Tree):
        return data
    if not isinstance(data, (tuple, list)):
        return Tree(data)
    if not data:
        raise ValueError("nested: an empty tuple is no tree; a node has at least one child")
    return Tree(None, tuple(nested(part) for part in data))


def parse(text: str, value: Callable[[str], Any] = str, labelled: bool = False) -> Tree:
    """The tree of a bracketed expression, say parse("((0 1) 2)", int); value: of each word.

    labelled: the first word in a bracket is the value of the node, not a child, as in
    "(MAX 3 (MIN 4 5))". Raises ValueError for brackets that do not match or are empty.
    """
    stack: list[list[Tree]] = [[]]
    for word in re.findall(r"[()]|[^\s()]+", text):
        if word == "(":
            stack.append([])
        elif word != ")":
            stack[-1].append(Tree(value(word)))
        else:
            parts = stack.pop()
            if not stack or not parts or (labelled and parts[0].children):
                what = "a label" if labelled else "a child"
                raise ValueError(f"parse: {text!r} has a bracket too many, or one without {what}")
            label, *rest = parts if labelled else (Tree(), *parts)
            stack[-1].append(Tree(label.value, tuple(rest)))
    if len(stack) != 1 or len(stack[0]) != 1:
        raise ValueError(f"parse: {text!r} is not one expression in matching brackets")
    return stack[0][0]


def chain(values: Sequence[Any]) -> Tree:
    """An RNN as a tree: every node has an input and, but for the first, one child."""
    first, *others = _some("chain", values)
    root = Tree(first)
    for value in others:
        root = Tree(value, (root,))
    return root


def left_branching(values: Sequence[Any]) -> Tree:
    """The binary tree (((0, 1), 2), 3) ... over the values: len(values) - 1 compositions deep."""
    first, *others = _some("left_branching", values)
    root = Tree(first)
    for value in others:
        root = Tree(None, (root, Tree(value)))
    return root


def balanced(values: Sequence[Any]) -> Tree:
    """The binary tree over the values whose depth is ceil(log2(len(values)))."""
    values = _some("balanced", values)
    if len(values) == 1:
        return Tree(values[0])
    half = (len(values) + 1) // 2
    return Tree(None, (balanced(values[:half]), balanced(values[half:])))


def _some(name: str, values: Sequence[Any]) -> list[Any]:
    if not len(values):
        raise ValueError(f"{name}: a tree has at least one value")
    return list(values)


def post_order(root: Tree) -> list[Tree]:
    """All nodes, children before their parent and left before right; the root is the last."""
    nodes, waiting = [], [root]
    while waiting:  # not recursive: a chain is as deep as it is long
        node = waiting.pop()
        if not isinstance(node, Tree):
            raise ValueError(f"{node!r} is not a Tree; nested() makes one of nested tuples")
        nodes.append(node)
        waiting.extend(node.children)
    return nodes[::-1]


# --- a cell over trees ---------------------------------------------------------------------------


def recurse(cell: TreeCell, trees: Tree | Sequence[Tree], xs: Any = None) -> tuple[Any, Any]:
    """Run a cell over trees: y, s = cell(x, states of the children); returns (ys, root states).

    xs: a nest of (M, ...); a node's value is the row of its input, so that a matrix of embeddings
    is xs where the values are words. An inner node may have none: x is None there. trees: a tree or
    a list of them, of any shapes. ys: each node's y, in post_order, tree after tree; the states of
    the roots come in the order of the trees.
    Nodes of all trees with the same height, number of children and kind of input are the rows of
    one call of the cell; x and the states have a row a node, () stands for no children.
    Raises ValueError for what is no tree, IndexRangeError for values that are no row of xs.
    """
    nodes, below, roots = _numbered([trees] if isinstance(trees, Tree) else list(trees))
    groups, heirs = _schedule(nodes, below, roots)
    withs = [[i for i in group if nodes[i].value is not None] for group in groups]
    inputs = iter(_inputs(xs, [[nodes[i].value for i in group] for group in withs if group]))
    waiting: dict[tuple[int, int], list[Any]] = {}
    outputs = []
    for g, group in enumerate(groups):
        x = next(inputs) if withs[g] else None
        slots = range(len(below[group[0]]))
        states = (_joined(waiting.pop((g, k)), [below[i][k] for i in group]) for k in slots)
        y, state = cell(x, tuple(states))
        outputs.append((group, y))
        parts = [(heir, list(rows)) for heir, rows in groupby(group, key=heirs.__getitem__)]
        for (heir, rows), part in zip(parts, _cut(state, [len(r) for _, r in parts]), strict=True):
            waiting.setdefault(heir, []).append((rows, part))
    last = waiting.pop((len(groups), 0))
    return _joined(outputs, list(range(len(nodes)))), _joined(last, roots)


def _numbered(trees: list[Tree]) -> tuple[list[Tree], list[list[int]], list[int]]:
    """All nodes in post-order, the numbers of each one's children, the numbers of the roots."""
    if not trees:
        raise ValueError("recurse: give at least one tree")
    nodes: list[Tree] = []
    below: list[list[int]] = []
    sizes: list[int] = []
    roots = []
    for n, root in enumerate(trees):
        for node in post_order(root):
            children, last = [], len(nodes) - 1
            for _ in node.children:  # the last child ends just before its parent
                children.append(last)
                last -= sizes[last]
            if not children and node.value is None:
                raise ValueError(f"recurse: a leaf of tree {n} has no value, the row of its input")
            nodes.append(node)
            below.append(children[::-1])
            sizes.append(len(nodes) - 1 - last)
        roots.append(len(nodes) - 1)
    return nodes, below, roots


def _schedule(
    nodes: list[Tree], below: list[list[int]], roots: list[int]
) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """The rows of each call, and where each node's state goes: (call, which child it is there).

    Rows with one destination stand together, so that a state is cut and never searched.
    """
    keys: list[tuple[int, int, bool]] = []
    for node, children in zip(nodes, below, strict=True):
        height = 1 + max((keys[i][0] for i in children), default=-1)
        keys.append((height, len(children), node.value is not None))
    call = {key: g for g, key in enumerate(sorted(set(keys)))}
    heirs = [(len(call), 0)] * len(nodes)  # the roots' place is after the last call
    for i, children in enumerate(below):
        for k, child in enumerate(children):
            heirs[child] = (call[keys[i]], k)
    groups: list[list[int]] = [[] for _ in call]
    for i in sorted(range(len(nodes)), key=lambda i: (heirs[i], i)):
        groups[call[keys[i]]].append(i)
    return groups, heirs


def _inputs(xs: Any, values: list[list[Any]]) -> list[Any]:
    """The inputs of each call: one gather for all, then cut."""
    leaves = tree.flatten(xs)[0]
    rows = [arguments.size("a tree's value", value, 0) for part in values for value in part]
    sizes = {len(x) if getattr(x, "ndim", 0) else None for x in leaves}
    if len(sizes) != 1 or None in sizes:
        raise mg.ShapeError(
            "recurse: inputs are tensors (M, ...) with a row for each value, not "
            f"{[tuple(x.shape) if hasattr(x, 'shape') else x for x in leaves]}"
        )
    xs = tree.map(lambda x: x if isinstance(x, mg.Tensor) else mg.Tensor(x), xs)
    return _cut(_rows(xs, rows), [len(part) for part in values])


def _rows(nest: Any, order: list[int]) -> Any:
    return tree.map(lambda x: mg.take(x, order, axis=0), nest)


def _cut(nest: Any, sizes: list[int]) -> list[Any]:
    """A nest's rows in pieces of these sizes."""
    leaves, rebuild = tree.flatten(nest)
    if len(sizes) == 1 or not leaves:
        return [nest] * len(sizes)
    ends = list(accumulate(sizes))[:-1]
    return [rebuild(parts) for parts in zip(*(mg.split(x, ends) for x in leaves), strict=True)]


def _joined(parts: list[tuple[list[int], Any]], wanted: list[int]) -> Any:
    """The rows of the wanted nodes, in that order, from pieces that hold just those."""
    numbers = [i for group, _ in parts for i in group]
    nest = parts[0][1]
    if len(parts) > 1:
        nest = tree.map(lambda *xs: mg.concatenate(xs), *(part for _, part in parts))
    if numbers == wanted:
        return nest
    position = {i: row for row, i in enumerate(numbers)}
    return _rows(nest, [position[i] for i in wanted])


# --- what stands at a node -----------------------------------------------------------------------


class Composition(Module):
    """A cell of two functions: a leaf's state leaf(x), a node's node(left, right), or of as many
    children as it has; y is the state."""

    def __init__(self, leaf: Callable[[Any], Any], node: Callable[..., Any]) -> None:
        self.leaf, self.node = leaf, node

    def __call__(self, x: Any, children: tuple[Any, ...]) -> tuple[Any, Any]:
        if children and x is not None:
            raise ValueError(f"{type(self).__name__}: only leaves have inputs, not inner nodes")
        state = self.node(*children) if children else self.leaf(x)
        return state, state


class RecursiveCell(Composition):
    """The recursive network of Fig 10.14: a leaf is f(x V), a node f(left U + right W + b).

    V (D, H) Glorot-uniform, U and W (H, H) orthogonal, b (H,) zero; the state is h (N, H), y = h.
    Raises ValueError at a node that has not two children, or an input.
    """

    def __init__(
        self,
        D: int,
        H: int,
        activation: Callable[[mg.Tensor], mg.Tensor] = mg.tanh,
        dtype: Any = None,
    ) -> None:
        D, H = arguments.size("D", D), arguments.size("H", H)
        self.V = Parameter(glorot_uniform((D, H), dtype=dtype))
        self.U = Parameter(orthogonal((H, H), dtype=dtype))
        self.W = Parameter(orthogonal((H, H), dtype=dtype))
        self.b = Parameter(mg.zeros(H, dtype))
        self.activation = activation

    def leaf(self, x: mg.Tensor) -> mg.Tensor:
        """f(x V) for x (N, D)."""
        return self.activation(x @ self.V)

    def node(self, *children: mg.Tensor) -> mg.Tensor:
        """f(left U + right W + b)."""
        if len(children) != 2:
            raise ValueError(
                f"RecursiveCell: a node has a left and a right child, not {len(children)} children"
            )
        left, right = children
        return self.activation(left @ self.U + right @ self.W + self.b)


class Chained(Module):
    """Any cell of unroll at the nodes of a chain: each has an input and at most one child.

    The child's state is the one before, and `initial_state` where there is none.
    """

    def __init__(self, cell: Any) -> None:
        self.cell = cell

    def __call__(self, x: Any, children: tuple[Any, ...]) -> tuple[Any, Any]:
        if x is None or len(children) > 1:
            raise ValueError("Chained: a node of a chain has an input and at most one child")
        rows = len(tree.flatten(x)[0][0])
        return self.cell(x, children[0] if children else self.cell.initial_state(rows))


class ChildSumTreeLSTMCell(LSTMCell):
    """The LSTM over trees whose children have no order, any number of them (Tai et al. 2015).

    With the sum S of the children's h: i, g, o = those columns of x Wx + S Wh + b;
    f_k = those of x Wx + h_k Wh + b, one a child; c = sigmoid(i) tanh(g) + sum_k sigmoid(f_k) c_k;
    h = sigmoid(o) tanh(c), y = h (eq 2-8, where g is u). Weights as LSTMCell's, which it is with
    one child. x (N, D) or None; the states are (h, c), both (N, H).
    """

    def __call__(self, x: Any, children: Any) -> tuple[mg.Tensor, Pair]:
        i, f, g, o = self._from_input(x, children)
        if not children:
            return _output(mg.sigmoid(i) * mg.tanh(g), o)
        hs, cs = (mg.stack(parts) for parts in zip(*children, strict=True))
        U_i, U_f, U_go = mg.split(self.Wh, [self.H, 2 * self.H], axis=-1)
        total = mg.sum(hs, axis=0)
        into_g, into_o = mg.split(total @ U_go, 2, axis=-1)
        c = mg.sigmoid(i + total @ U_i) * mg.tanh(g + into_g)
        return _output(c + mg.sum(mg.sigmoid(f + hs @ U_f) * cs, axis=0), o + into_o)

    def _from_input(self, x: Any, children: Any) -> tuple[mg.Tensor, ...]:
        """What x and the bias add to the gates i, f, g, o."""
        if not all(isinstance(child, tuple) and len(child) == 2 for child in children):
            raise ValueError(
                f"{type(self).__name__} takes a tuple of its children's (h, c), as recurse gives it"
            )
        a: mg.Tensor | None = self.b
        if a is None:
            a = mg.zeros(4 * self.H, dtype=self.Wh.dtype, backend=self.Wh.backend)
        if x is not None:
            self.check_shapes(x, *(part for child in children for part in child))
            a = x @ self.Wx + a
        return mg.split(a, 4, axis=-1)


class NaryTreeLSTMCell(ChildSumTreeLSTMCell):
    """The LSTM over trees whose nodes have at most N children, in order (Tai et al. 2015).

    i, f_1 ... f_N, g, o: x Wx + b, whose f all f_k share, + [h_1 ... h_N] Wh, a matrix for each
    child and gate; c = sigmoid(i) tanh(g) + sum_k sigmoid(f_k) c_k; h = sigmoid(o) tanh(c), y = h
    (eq 9-14, where g is u). Wh (N*H, (3+N)*H), a block of H rows a child; a missing child is zero.
    With N = 1 it is LSTMCell.
    """

    def __init__(
        self,
        D: int,
        H: int,
        N: int = 2,
        *,
        bias: bool = True,
        init: str = "default",
        dtype: Any = None,
    ) -> None:
        super().__init__(D, H, bias=bias, init=init, dtype=dtype)
        self.N = arguments.size("N", N)
        self.gates = 3 + self.N  # of Wh, drawn anew
        blocks = [self._weight(self.H, orthogonal, dtype) for _ in range(self.N)]
        self.Wh = Parameter(mg.concatenate(blocks))

    def __call__(self, x: Any, children: Any) -> tuple[mg.Tensor, Pair]:
        i, f, g, o = self._from_input(x, children)
        if not children:
            return _output(mg.sigmoid(i) * mg.tanh(g), o)
        if len(children) > self.N:
            raise ValueError(
                f"NaryTreeLSTMCell: a node has {len(children)} children, but N={self.N}"
            )
        hs = mg.concatenate([h for h, _ in children], axis=-1)
        Wh = self.Wh if len(children) == self.N else self.Wh[: len(children) * self.H]
        into_i, *into_f, into_g, into_o = mg.split(hs @ Wh, self.gates, axis=-1)
        c = mg.sigmoid(i + into_i) * mg.tanh(g + into_g)
        for (_, c_k), into_k in zip(children, into_f, strict=False):  # the missing add nothing
            c = c + mg.sigmoid(f + into_k) * c_k
        return _output(c, o + into_o)


def _output(c: mg.Tensor, o: mg.Tensor) -> tuple[mg.Tensor, Pair]:
    h = mg.sigmoid(o) * mg.tanh(c)
    return h, (h, c)
