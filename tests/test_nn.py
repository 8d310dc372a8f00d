"""Modules, their names and state, the layers and initial values; faults."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from minigrad_numpy import NumpyBackend

import minigrad as mg
from minigrad import nn


class Elsewhere(NumpyBackend):
    """A second backend, so that moves can be seen where only one is installed."""

    name = "elsewhere"


class Tower(nn.Module):
    """Every way to hold a parameter, a buffer and a module; `tied` and `again` are the same."""

    def __init__(self, dtype: Any = None) -> None:
        self.scale = nn.Parameter([2.0, 3.0], dtype=dtype)
        self.layers = [nn.Linear(3, 2, dtype=dtype), nn.Dropout(0.5)]
        self.table = {"left": nn.Linear(2, 1, bias=False, dtype=dtype), "note": "no tensor"}
        self.pair = (nn.Parameter(1.0, dtype=dtype), [nn.Parameter([4.0], dtype=dtype)])
        self.steps = mg.Tensor([7])
        self.tied = self.layers[0].W
        self.again = self.layers[0]
        self.width = 3

    def __call__(self, x: mg.Tensor) -> mg.Tensor:
        hidden = self.layers[1](self.layers[0](x)) * self.scale
        return self.table["left"](hidden) * self.pair[0] + self.pair[1][0]


class Node(nn.Module):
    """A module that knows its parent: a cycle."""

    def __init__(self) -> None:
        self.W = nn.Parameter(1.0)
        self.child: Node | None = None
        self.parent: Node | None = None


NAMES = ["scale", "layers.0.W", "layers.0.b", "table.left.W", "pair.0", "pair.1.0"]


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> Iterator[None]:
    if "backend" in request.fixturenames:
        request.getfixturevalue("backend")
    mg.random.seed(11)
    yield


# --- modules -------------------------------------------------------------------------------------


def test_names_are_paths_in_attribute_order() -> None:
    tower = Tower()
    assert [name for name, _ in tower.named_parameters()] == NAMES
    assert [id(p) for p in tower.parameters()] == [id(p) for _, p in tower.named_parameters()]
    assert [p.name for p in tower.parameters()] == NAMES
    assert list(tower.state_dict()) == [*NAMES, "steps"]
    kinds = [type(module).__name__ for module in tower.modules()]
    assert kinds == ["Tower", "Linear", "Dropout", "Linear"]
    assert [name for name, _ in tower.named_modules()] == ["", "layers.0", "layers.1", "table.left"]


def test_a_name_grows_with_the_module_that_asks_but_replaces_no_other() -> None:
    tower = Tower()
    own = tower.scale
    own.name = "s"
    inner = tower.layers[0]
    assert [p.name for p in inner.parameters()] == ["W", "b"]
    assert [p.name for p in tower.parameters()][:3] == ["s", "layers.0.W", "layers.0.b"]
    assert [p.name for p in inner.parameters()] == ["layers.0.W", "layers.0.b"]


def test_modules_may_know_each_other() -> None:
    node = Node()
    node.child = Node()
    node.child.parent = node
    assert [name for name, _ in node.named_parameters()] == ["W", "child.W"]
    assert len(node.modules()) == 2


def test_a_parameter_requires_a_gradient_and_has_the_default_dtype() -> None:
    p = nn.Parameter(np.ones(3))
    assert isinstance(p, mg.Tensor)
    assert p.requires_grad
    assert p.is_leaf
    assert p.dtype == np.float32
    assert nn.Parameter(np.ones(3), dtype="float64").dtype == np.float64
    assert nn.Parameter(mg.ones(3, dtype="float64")).dtype == np.float64
    assert nn.Parameter([1, 2]).dtype == np.float32
    with pytest.raises(mg.GradientError, match="floating"):  # fault 16
        nn.Parameter([1, 2], dtype="int64")


def test_train_and_eval_reach_every_module() -> None:
    tower = Tower()
    assert all(module.training for module in tower.modules())
    assert tower.eval() is tower
    assert not any(module.training for module in tower.modules())
    x = mg.ones((4, 3))
    assert (tower(x) == tower(x)).numpy().all()
    tower.train()
    assert any((tower(x) != tower(x)).numpy().any() for _ in range(20))


def test_state_goes_from_one_module_to_another(backend: str) -> None:
    source, target = Tower("float64").eval(), Tower("float64").eval()
    x = mg.Tensor(np.random.default_rng(0).normal(size=(5, 3)))
    assert (source(x) != target(x)).numpy().any()
    state = source.state_dict()
    assert not any(tensor.requires_grad for tensor in state.values())
    kept = state["scale"].numpy().copy()
    target.load_state_dict(state)
    assert (source(x) == target(x)).numpy().all()
    source.scale.assign(mg.Tensor([9.0, 9.0], dtype="float64"))
    np.testing.assert_array_equal(state["scale"].numpy(), kept)
    np.testing.assert_array_equal(target.scale.numpy(), kept)
    target.load_state_dict({name: tensor.numpy() for name, tensor in state.items()})  # plain arrays


def test_a_state_that_does_not_fit_lists_everything_and_changes_nothing() -> None:
    """Fault 42."""
    tower, state = Tower(), Tower().state_dict()
    before = {name: tensor.numpy().copy() for name, tensor in tower.state_dict().items()}
    state["layers.0.w"] = state.pop("layers.0.W")
    state["pair.0"] = mg.ones(2)
    state["steps"] = mg.ones(1)
    state["zzz"] = mg.ones(1)
    with pytest.raises(mg.StateDictError) as caught:
        tower.load_state_dict(state)
    message = str(caught.value)
    assert message == (
        "the state does not fit Tower: missing: layers.0.W; "
        "unexpected: layers.0.w (did you mean layers.0.W?); unexpected: zzz; "
        "pair.0: shape (2,) instead of (); steps: dtype float32 instead of int64"
    )
    for name, tensor in tower.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])
    with pytest.raises(mg.StateDictError) as caught:
        tower.load_state_dict(state, strict=False)
    assert str(caught.value).count(";") == 1  # the shape and the dtype stay problems
    tower.load_state_dict({"scale": mg.Tensor([5.0, 6.0]), "more": mg.ones(1)}, strict=False)
    assert tower.scale.tolist() == [5, 6]


def test_a_state_that_is_no_dict_is_told(tmp_path: Path) -> None:
    layer = nn.Linear(2, 1)
    mg.save(tmp_path / "a.npz", layer.state_dict())
    with pytest.raises(mg.StateDictError, match=r"not a tuple; minigrad.load returns two things"):
        layer.load_state_dict(mg.load(tmp_path / "a.npz"))
    with pytest.raises(mg.StateDictError, match=r"by name, not a Linear$"):
        layer.load_state_dict(layer)


def test_a_result_kept_as_an_attribute_is_no_buffer() -> None:
    tower = Tower()
    before = list(tower.state_dict())
    tower.last = tower(mg.ones((2, 3)))
    assert list(tower.state_dict()) == before
    tower.to(Elsewhere())
    assert tower.last.backend.name != "elsewhere"
    tower.load_state_dict(tower.state_dict())
    assert "last" not in repr(tower)


def test_to_moves_the_same_objects() -> None:
    tower, elsewhere = Tower(), Elsewhere()
    tower(mg.ones((2, 3))).sum().backward()
    parameters, grads = tower.parameters(), [p.grad.tolist() for p in tower.parameters()]
    values = [p.tolist() for p in parameters]
    assert tower.to(elsewhere) is tower
    assert [id(p) for p in tower.parameters()] == [id(p) for p in parameters]
    assert {p.backend.name for p in [*parameters, tower.steps]} == {"elsewhere"}
    assert {p.grad.backend.name for p in parameters} == {"elsewhere"}
    assert [p.tolist() for p in parameters] == values
    assert [p.grad.tolist() for p in parameters] == grads
    assert all(p.requires_grad and type(p) is nn.Parameter for p in parameters)
    assert [p.name for p in parameters] == NAMES
    y = tower(mg.ones((2, 3), backend=elsewhere))
    assert y.backend is elsewhere
    y.sum().backward()
    with pytest.raises(mg.BackendMismatchError):
        tower(mg.ones((2, 3)))


def test_a_graph_recorded_before_a_move_still_differentiates() -> None:
    layer = nn.Linear(2, 1, bias=False)
    x = mg.Tensor([[3.0, 4.0]], requires_grad=True)
    y = layer(x).sum()
    weights = layer.W.tolist()
    layer.to(Elsewhere())
    assert mg.pullback(y, x).tolist() == [[weights[0][0], weights[1][0]]]


def test_a_gradient_for_a_moved_parameter_is_an_error_not_lost() -> None:
    layer = nn.Linear(2, 1, bias=False)
    x = mg.Tensor([[3.0, 4.0]], requires_grad=True)
    layer.W.name = "the weights"
    y = layer(x).sum()
    layer.to(Elsewhere())
    with pytest.raises(
        mg.GradientError, match="the weights was moved to 'elsewhere' after this graph was recorded"
    ):
        y.backward()
    assert layer.W.grad is None
    assert x.grad is None
    layer(mg.ones((1, 2), backend=layer.W.backend)).sum().backward()
    assert layer.W.grad.tolist() == [[1.0], [1.0]]


def test_copies_are_independent_and_keep_what_is_shared() -> None:
    tower = Tower()
    tower.scale.name = "s"
    for other in (copy.deepcopy(tower), pickle.loads(pickle.dumps(tower))):
        assert other.tied is other.layers[0].W
        assert other.again is other.layers[0]
        assert other.scale is not tower.scale
        assert isinstance(other.scale, nn.Parameter)
        assert other.scale.name == "s"
        assert other.scale.requires_grad
        assert other.scale.tolist() == tower.scale.tolist()


def test_print_shows_the_tree() -> None:
    layer = nn.Linear(1200, 10)
    layer.dropout = nn.Dropout(0.1)
    layer.more = [nn.LayerNorm(3)]
    layer.steps = mg.Tensor([1])
    assert str(layer).splitlines() == [
        "Linear, 12,016 parameters",
        "  W: (1200, 10) float32 on numpy",
        "  b: (10,) float32 on numpy",
        "  dropout: Dropout, 0 parameters",
        "  more.0: LayerNorm, 6 parameters",
        "    gain: (3,) float32 on numpy",
        "    b: (3,) float32 on numpy",
        "  steps: (1,) int64 on numpy, buffer",
    ]


# --- layers --------------------------------------------------------------------------------------


def test_linear_and_layer_norm_equal_torch() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).normal(size=(4, 2, 3))
    ours, theirs = nn.Linear(3, 5, dtype="float64"), torch.nn.Linear(3, 5, dtype=torch.float64)
    ours.load_state_dict({"W": theirs.weight.detach().numpy().T, "b": theirs.bias.detach().numpy()})
    norm, their_norm = nn.LayerNorm(5, dtype="float64"), torch.nn.LayerNorm(5, dtype=torch.float64)
    y = norm(ours(mg.Tensor(x)))
    z = their_norm(theirs(torch.tensor(x)))
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), atol=1e-13)
    (y * y * y).sum().backward()
    (z * z * z).sum().backward()
    np.testing.assert_allclose(ours.W.grad.numpy(), theirs.weight.grad.numpy().T, atol=1e-11)
    np.testing.assert_allclose(ours.b.grad.numpy(), theirs.bias.grad.numpy(), atol=1e-11)
    np.testing.assert_allclose(norm.gain.grad.numpy(), their_norm.weight.grad.numpy(), atol=1e-11)
    np.testing.assert_allclose(norm.b.grad.numpy(), their_norm.bias.grad.numpy(), atol=1e-11)


def test_layers_by_hand(backend: str) -> None:
    linear = nn.Linear(2, 2, dtype="float64")
    linear.W.assign(mg.Tensor(np.array([[1.0, 2.0], [3.0, 4.0]])))
    linear.b.assign(mg.Tensor(np.array([10.0, 20.0])))
    assert linear(mg.Tensor(np.array([[1.0, 1.0]]))).tolist() == [[14, 26]]
    assert nn.Linear(2, 2, bias=False).b is None
    norm = nn.LayerNorm(2, eps=0.0, dtype="float64")
    norm.b.assign(mg.Tensor(np.array([0.0, 5.0])))
    assert norm(mg.Tensor(np.array([[1.0, 3.0], [8.0, 2.0]]))).tolist() == [[-1, 6], [1, 4]]


INDICES = np.array([[3, 0, 3], [3, 1, 0]])


@pytest.mark.lecture("C4", "values")
def test_an_embedding_is_a_product_with_one_hot_rows(backend: str) -> None:
    table = nn.Embedding(5, 4)
    gathered = table(mg.Tensor(INDICES)).numpy()
    np.testing.assert_array_equal(gathered, np.eye(5, dtype="float32")[INDICES] @ table.W.numpy())


@pytest.mark.lecture("C4", "gradients")
def test_an_embedding_adds_the_gradients_of_repeated_indices(backend: str) -> None:
    """Against the one-hot product on the graph, and against 1^T g written as a loop."""
    g = np.random.default_rng(2).normal(size=(2, 3, 4))
    table = nn.Embedding(5, 4, dtype="float64")
    (table(mg.Tensor(INDICES)) * mg.Tensor(g)).sum().backward()
    product = mg.Tensor(table.W.numpy(), requires_grad=True)
    (mg.Tensor(np.eye(5)[INDICES]) @ product * mg.Tensor(g)).sum().backward()
    expected = np.zeros((5, 4))
    for position in np.ndindex(2, 3):
        expected[INDICES[position]] += g[position]
    np.testing.assert_allclose(table.W.grad.numpy(), expected, rtol=1e-14)
    np.testing.assert_allclose(product.grad.numpy(), expected, rtol=1e-14)


@pytest.mark.lecture("D2", "embedding and softmax")
def test_one_weight_as_embedding_and_as_softmax(backend: str) -> None:
    """The gradient of the tied weight is the sum of those of two untied copies."""

    def loss(inward: mg.Tensor, outward: mg.Tensor) -> mg.Tensor:
        logits = mg.tanh(mg.take(inward, mg.Tensor(INDICES), axis=0)) @ outward.T
        return mg.functional.cross_entropy(logits, mg.Tensor(INDICES[::-1].copy()))

    table = nn.Embedding(5, 4, dtype="float64")
    assert len(table.parameters()) == 1
    loss(table.W, table.W).backward()
    copies = [mg.Tensor(table.W.numpy(), requires_grad=True) for _ in range(2)]
    loss(*copies).backward()
    total = copies[0].grad.numpy() + copies[1].grad.numpy()
    np.testing.assert_allclose(table.W.grad.numpy(), total, rtol=1e-14, atol=1e-16)


def test_padding_is_zero_and_learns_nothing(backend: str) -> None:
    table = nn.Embedding(5, 4, padding_idx=3)
    y = table(mg.Tensor(INDICES))
    assert (y.numpy()[INDICES == 3] == 0).all()
    assert (y.numpy()[INDICES != 3] != 0).all()
    y.sum().backward()
    np.testing.assert_array_equal(table.W.grad.numpy()[:, 0], [2, 1, 0, 0, 0])


def test_embedding_indices_out_of_range_or_not_integers(backend: str) -> None:
    """Faults 17 and 19."""
    table = nn.Embedding(5, 4)
    with pytest.raises(mg.IndexRangeError, match=r"index 5 at position \(0, 1\)"):
        table(mg.Tensor([[0, 5]]))
    with pytest.raises(mg.IndexTypeError, match="integer"):
        table(mg.Tensor([0.0, 1.0]))


def test_dropout_acts_in_training_alone(backend: str) -> None:
    layer, x = nn.Dropout(0.5), mg.ones(1000)
    assert set(np.unique(layer(x).numpy())) == {0, 2}
    key = mg.random.key(3)
    np.testing.assert_array_equal(layer(x, key).numpy(), layer(x, key).numpy())
    layer.eval()
    assert layer(x) is x


# --- initial values ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (40, 40), (1, 3)])
def test_orthogonal(backend: str, shape: tuple[int, int]) -> None:
    W = nn.orthogonal(shape, dtype="float64").numpy()
    gram = W.T @ W if shape[0] >= shape[1] else W @ W.T
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-14)
    assert nn.orthogonal(shape).dtype == np.float32
    doubled = nn.orthogonal(shape, gain=2.0, key=mg.random.key(1), dtype="float64").numpy()
    single = nn.orthogonal(shape, key=mg.random.key(1), dtype="float64").numpy()
    np.testing.assert_allclose(doubled, 2 * single, rtol=1e-15)


def test_orthogonal_is_uniform_over_rotations() -> None:
    """The mean of 400 matrices is 0: plain QR would leave diagonals of one sign."""
    draws = np.stack([nn.orthogonal((3, 3)).numpy() for _ in range(400)])
    assert np.abs(draws.mean(0)).max() < 5 * np.sqrt(1 / 3 / 400)


def test_spread_of_initial_values(backend: str) -> None:
    """Means within 5 standard errors; ranges as given."""
    W = nn.glorot_uniform((300, 100)).numpy()
    limit = np.sqrt(6 / 400)
    assert limit * 0.99 < np.abs(W).max() <= limit * (1 + 1e-6)
    assert abs(W.mean()) < 5 * limit / np.sqrt(3 * W.size)
    assert W.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    u = nn.uniform((10000,), 0.5).numpy()
    assert -0.5 <= u.min() < -0.499
    assert 0.499 < u.max() <= 0.5
    z = nn.normal((10000,), 3.0, dtype="float64").numpy()
    assert z.std() == pytest.approx(3, rel=0.04)
    assert z.dtype == np.float64
    assert nn.Linear(300, 100).b.numpy().max() == 0


def test_the_seed_alone_decides(backend: str) -> None:
    """Two models of one seed are equal, and equal to those of the reference backend."""

    def values() -> list[np.ndarray]:
        mg.random.seed(5)
        W = nn.orthogonal((4, 6), dtype="float64")
        layers = [nn.Linear(4, 3), nn.Embedding(5, 2)]
        return [W.numpy(), *(p.numpy() for layer in layers for p in layer.parameters())]

    first, second = values(), values()
    with mg.use_backend("numpy"):
        reference = values()
    for a, b, c in zip(first, second, reference, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(first[1], reference[1])  # uniform: bit for bit
    mg.random.seed(6)
    assert (nn.Linear(4, 3).W.numpy() != first[1]).any()


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(0, 2), "D=0: give an integer >= 1"),
        (lambda: nn.Linear(2, 2.5), "H=2.5: give an integer >= 1"),
        (lambda: nn.Linear(2, True), "H=True: give an integer >= 1"),
        (lambda: nn.Linear(2, 2, bias=1), "bias=1: give True or False"),
        (lambda: nn.Embedding(-3, 2), "V=-3: give an integer >= 1"),
        (lambda: nn.Embedding(3, "2"), "D='2': give an integer >= 1"),
        (lambda: nn.Embedding(3, 2, padding_idx=3), "padding_idx=3: give an integer from 0 to 2"),
        (lambda: nn.Embedding(3, 2, padding_idx=-1), "padding_idx=-1: give an integer >= 0"),
        (lambda: nn.LayerNorm(None), "H=None: give an integer >= 1"),
        (lambda: nn.LayerNorm(2, eps=-1e-5), "eps=-1e-05: give a number >= 0"),
        (lambda: nn.LayerNorm(2, eps=float("nan")), "eps=nan: give a number >= 0"),
        (lambda: nn.Dropout(1.5), "p=1.5: give a number in [0, 1]"),
        (lambda: nn.Dropout(-0.1), "p=-0.1: give a number in [0, 1]"),
        (lambda: nn.Dropout(True), "p=True: give a number in [0, 1]"),
        (lambda: nn.Dropout("half"), "p='half': give a number in [0, 1]"),
    ],
)
def test_constructor_arguments(make: Any, message: str) -> None:
    """Fault 33: the argument, its value, and the valid range."""
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


def test_wrong_width_and_dtype() -> None:
    """Faults 1 and 15: the engine's words, with the shapes and dtypes."""
    layer = nn.Linear(3, 2)
    with pytest.raises(mg.ShapeError, match=r"\(5, 4\).*\(3, 2\)"):
        layer(mg.ones((5, 4)))
    with pytest.raises(mg.DtypeError, match="float64"):
        layer(mg.ones((5, 3), dtype="float64"))
    with pytest.raises(mg.ShapeError, match=r"orthogonal: a matrix has two axes, not shape \(3,\)"):
        nn.orthogonal((3,))
