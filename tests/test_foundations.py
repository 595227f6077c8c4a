"""Lesson 01: every hand-written gradient against autograd, every network against torch.nn."""

import ast
import inspect
import math
import textwrap
from functools import partial

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn

from course import foundations
from course.foundations import (
    GRU,
    LSTM,
    RNN,
    Recurrent,
    clip_gradients,
    conv1d_backward,
    conv1d_forward,
    embedding_backward,
    gates_backward,
    gradient_errors,
    gru_step,
    gru_step_backward,
    linear,
    linear_backward,
    logistic_loss,
    lstm_step,
    lstm_step_backward,
    mlp_backward,
    mlp_forward,
    receptive_field,
    rnn_step,
    rnn_step_backward,
    weights_of,
)
from course.viz import foundations as draw

small = settings(max_examples=25, deadline=None)
lengths = st.integers(1, 4)
NETWORKS = {"RNN": (RNN, nn.RNN), "LSTM": (LSTM, nn.LSTM), "GRU": (GRU, nn.GRU)}
CELLS = pytest.mark.parametrize("name", NETWORKS)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def agrees(forward, backward, x, weights) -> bool:
    """What the lesson means by "equal to autograd"."""
    return all(error < 1e-10 for error in gradient_errors(forward, backward, x, weights).values())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- equal to autograd, equal to torch.nn ---------------------------------------------------


def test_linear_equals_torch():
    twin = nn.Linear(4, 3).double()
    x = random(2, 5, 4)
    torch.testing.assert_close(linear(x, twin.weight, twin.bias), twin(x))
    leaf, grad = x[0].clone().requires_grad_(), random(5, 3)
    expected = torch.autograd.grad(twin(leaf), [leaf, twin.weight, twin.bias], grad)
    for ours, theirs in zip(linear_backward(grad, leaf, twin.weight), expected):
        torch.testing.assert_close(ours, theirs)


@small
@given(lengths, lengths, st.integers(1, 6), lengths, st.integers(0, 999))
def test_mlp_equals_torch_and_autograd(b, d, h, o, seed):
    torch.manual_seed(seed)
    twin = nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Linear(h, o)).double()
    x, weights = random(b, d, seed=seed), weights_of(twin)
    torch.testing.assert_close(mlp_forward(x, weights)[0], twin(x))
    assert agrees(mlp_forward, mlp_backward, x, weights)


@small
@given(lengths, lengths, lengths, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4),
       st.integers(0, 9), st.integers(0, 999))
def test_convolution_equals_torch_and_autograd(b, d, o, kernel, stride, dilation, more, seed):
    torch.manual_seed(seed)
    twin = nn.Conv1d(d, o, kernel, stride=stride, dilation=dilation).double()
    x = random(b, (kernel - 1) * dilation + 1 + more, d, seed=seed)
    weights, forward = weights_of(twin), partial(conv1d_forward, stride=stride, dilation=dilation)
    output, _ = forward(x, weights)
    torch.testing.assert_close(output, twin(x.mT).mT)
    assert output.size(1) == (x.size(1) - 1 - (kernel - 1) * dilation) // stride + 1
    assert agrees(forward, conv1d_backward, x, weights)


def test_convolution_says_what_does_not_fit():
    weights = weights_of(nn.Conv1d(2, 2, 3).double())
    with pytest.raises(ValueError, match="spans 9 words, the sentence has 8: pad it"):
        conv1d_forward(random(1, 8, 2), weights, dilation=4)


@small
@given(st.sampled_from(list(NETWORKS)), lengths, st.integers(1, 6), lengths, lengths,
       st.integers(0, 999))
def test_recurrent_equals_torch_and_autograd(name, b, length, d, h, seed):
    network, kind = NETWORKS[name]
    torch.manual_seed(seed)
    twin = kind(d, h, batch_first=True).double()
    x, weights = random(b, length, d, seed=seed), weights_of(twin)
    torch.testing.assert_close(network.forward(x, weights)[0], twin(x)[0])
    assert agrees(network.forward, network.backward, x, weights)


@CELLS
def test_step_equals_the_cell_of_torch(name):
    network, cell = NETWORKS[name][0], getattr(nn, f"{name}Cell")(4, 5).double()
    state = tuple(random(3, 5, seed=n).requires_grad_() for n in range(network.n_states))
    x = random(3, 4, seed=7)
    theirs = cell(x, state if len(state) > 1 else state[0])
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    ours, cache = network.step(x, state, weights_of(cell))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    grads = tuple(random(3, 5, seed=10 + n) for n in range(network.n_states))
    expected = torch.autograd.grad(theirs, state, grads)  # of the old state, h and c
    _, grad_state = network.step_backward(grads, cache, weights_of(cell))
    for a, b in zip(grad_state, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_one_line_copies_the_weights_of_a_cell_and_of_a_network():
    torch.manual_seed(3)
    network = weights_of(nn.LSTM(4, 5))
    torch.manual_seed(3)
    cell = weights_of(nn.LSTMCell(4, 5))
    assert list(network) == list(cell) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    assert all(torch.equal(network[name], cell[name]) for name in cell)


def test_weights_are_copies():
    module = nn.Linear(2, 2)
    weights_of(module)["weight"].zero_()
    assert module.weight.any()


@small
@given(lengths, lengths, st.integers(1, 5), lengths, st.integers(0, 999))
def test_embedding_backward_equals_autograd(b, length, vocab, d, seed):
    ids = torch.randint(vocab, (b, length), generator=torch.Generator().manual_seed(seed))
    table = random(vocab, d, seed=seed).requires_grad_()
    grad = random(b, length, d, seed=seed + 1)
    (expected,) = torch.autograd.grad(F.embedding(ids, table), table, grad)
    torch.testing.assert_close(embedding_backward(grad, ids, table), expected)


def test_logistic_loss_equals_torch_even_for_large_scores():
    scores = torch.tensor([-800.0, -2, 0, 3, 800]).double().requires_grad_()
    labels = torch.tensor([1.0, 0, 1, 1, 0]).double()
    loss, grad = logistic_loss(scores, labels)
    expected = F.binary_cross_entropy_with_logits(scores, labels)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, scores)[0])
    assert loss.isfinite()


@pytest.mark.parametrize("limit", [0.1, 1.0, 1e6])
def test_clipping_equals_torch(limit):
    module = nn.Linear(5, 4)
    for tensor in module.parameters():
        tensor.grad = torch.randn(tensor.shape)
    ours = clip_gradients({n: t.grad.clone() for n, t in module.named_parameters()}, limit)
    nn.utils.clip_grad_norm_(module.parameters(), limit)
    for name, tensor in module.named_parameters():
        torch.testing.assert_close(ours[name], tensor.grad)


def test_clipping_leaves_zero_alone():
    assert not clip_gradients({"a": torch.zeros(3)}, 1.0)["a"].any()


# ---- the judge must catch what is wrong -----------------------------------------------------


class Spoil(ast.NodeTransformer):
    """Change the n-th thing of a function that can be wrong: an operator, or a sum's sign."""

    SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.MatMult: None}

    def __init__(self, n: int) -> None:
        self.n, self.seen, self.changed = n, 0, ""

    def hit(self, node: ast.AST) -> bool:
        self.seen += 1
        if self.seen - 1 == self.n:
            self.changed = ast.unparse(node)
        return self.seen - 1 == self.n

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if type(node.op) not in self.SWAPS or not self.hit(node):
            return node
        other = self.SWAPS[type(node.op)]
        if other is None:  # a matrix product gets a minus
            return ast.UnaryOp(ast.USub(), node)
        return ast.BinOp(node.left, other(), node.right)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if self.hit(node):
            node.op = self.SWAPS[type(node.op)]()
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        name = node.targets[0]
        if isinstance(name, ast.Name) and name.id.startswith("grad") and self.hit(node):
            node.value = ast.UnaryOp(ast.USub(), node.value)  # a wrong sign
        return node


def mutants(function, **replaced):
    """Yield every spoiled version of a function, with the code that was spoiled."""
    source = textwrap.dedent(inspect.getsource(function))
    n = 0
    while True:
        spoil = Spoil(n)
        tree = ast.fix_missing_locations(spoil.visit(ast.parse(source)))
        if not spoil.changed:
            return
        space = vars(foundations) | replaced
        exec(compile(tree, "mutant", "exec"), space)
        yield spoil.changed, space[function.__name__]
        n += 1


def caught(forward, backward, x, weights) -> bool:
    """Whether a wrong backward is found out: by its numbers, or because it stops with an error."""
    try:
        return not agrees(forward, backward, x, weights)
    except (RuntimeError, IndexError, TypeError, AttributeError):
        return True


def survivors(function, network_of, x, weights) -> list[str]:
    """Spoil a function in every way; return what the judge did not notice."""
    found = [(code, caught(*network_of(wrong), x, weights)) for code, wrong in mutants(function)]
    assert len(found) >= 2, "too few mutants: the transformer sees nothing to spoil"
    return [code for code, was_caught in found if not was_caught]


def test_every_spoiled_mlp_is_caught():
    weights = weights_of(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double())
    x = random(5, 4)
    assert survivors(mlp_backward, lambda wrong: (mlp_forward, wrong), x, weights) == []


@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 3)])
def test_every_spoiled_convolution_is_caught(stride, dilation):
    weights, x = weights_of(nn.Conv1d(3, 4, 3).double()), random(2, 15, 3)
    forward = partial(conv1d_forward, stride=stride, dilation=dilation)
    assert survivors(conv1d_backward, lambda wrong: (forward, wrong), x, weights) == []


@CELLS
def test_every_spoiled_step_is_caught(name):
    network, kind = NETWORKS[name]

    def network_of(wrong):
        broken = Recurrent(network.step, wrong, network.n_states)
        return broken.forward, broken.backward

    weights, x = weights_of(kind(4, 5).double()), random(3, 4, 4)
    assert survivors(network.step_backward, network_of, x, weights) == []


@CELLS
def test_every_spoiled_loop_is_caught(name):
    network, kind = NETWORKS[name]

    def network_of(wrong):
        return network.forward, partial(wrong, network)

    weights, x = weights_of(kind(4, 5).double()), random(3, 4, 4)
    assert survivors(Recurrent.backward, network_of, x, weights) == []


@pytest.mark.parametrize("name", ["MLP", "convolution", *NETWORKS])
@pytest.mark.parametrize("place", range(3))
def test_a_wrong_sign_in_the_linear_layer_is_caught_everywhere(name, place, monkeypatch):
    def wrong(grad, x, weight):
        right = linear_backward(grad, x, weight)
        return tuple(-part if n == place else part for n, part in enumerate(right))

    monkeypatch.setattr(foundations, "linear_backward", wrong)
    if name == "MLP":
        twin = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
        assert caught(mlp_forward, mlp_backward, random(5, 4), weights_of(twin))
    elif name == "convolution":
        weights = weights_of(nn.Conv1d(4, 5, 3).double())
        assert caught(conv1d_forward, conv1d_backward, random(2, 8, 4), weights)
    else:
        network, kind = NETWORKS[name]
        weights = weights_of(kind(4, 5).double())
        assert caught(network.forward, network.backward, random(2, 3, 4), weights)


@pytest.mark.parametrize(
    "name, right, wrong",
    [
        ("LSTM", "grad_c * f", "grad_c"),  # the cell's way back without its gate
        ("LSTM", "grad_c + grad_h * o * (1 - shown**2)", "grad_h * o * (1 - shown**2)"),
        ("LSTM", "[grad_i, grad_f, grad_g, grad_o]", "[grad_f, grad_i, grad_g, grad_o]"),
        ("GRU", "grad_n * r", "grad_n"),  # the reset gate forgotten on the way to h
        ("GRU", "grad_h + grad * z", "grad_h"),  # the straight way forgotten
        ("GRU", "[grad_r, grad_z, grad_n]", "[grad_z, grad_r, grad_n]"),
        ("RNN", "(1 - new**2)", "new"),
    ],
)
def test_the_classic_mistakes_are_caught(name, right, wrong):
    network, kind = NETWORKS[name]
    source = inspect.getsource(network.step_backward)
    assert right in source
    space = dict(vars(foundations))
    exec(source.replace(right, wrong), space)
    broken = Recurrent(network.step, space[network.step_backward.__name__], network.n_states)
    weights = weights_of(kind(4, 5).double())
    assert caught(broken.forward, broken.backward, random(2, 4, 4), weights)


def test_the_judge_accuses_a_missing_gradient_and_a_wrong_shape():
    weights, x = weights_of(nn.Linear(3, 1).double()), random(4, 3)

    def forward(x, weights):
        return linear(x, weights["weight"], weights["bias"]), x

    def missing(grad, x, weights):
        return {"x": grad @ weights["weight"], "weight": grad.T @ x}

    def broadcast(grad, x, weights):
        return missing(grad, x, weights) | {"bias": grad.sum()}  # shape () instead of (1,)

    assert gradient_errors(forward, missing, x, weights)["bias"] == math.inf
    assert gradient_errors(forward, broadcast, x, weights)["bias"] == math.inf
    assert gradient_errors(forward, broadcast, x, weights)["x"] < 1e-10


def test_the_judge_accuses_nan():
    def forward(x, weights):
        return x * weights["w"], x

    def broken(grad, x, weights):
        return {"x": grad * weights["w"] * math.nan, "w": (grad * x).sum(dim=0)}

    assert not agrees(forward, broken, random(3, 2), {"w": random(2)})


def test_the_gru_of_the_article_is_told_from_torchs():
    def article(x, state, weights):
        (h,) = state
        _, (_, _, r, z, _, _) = gru_step(x, state, weights)
        x_n = linear(x, weights["weight_ih"], weights["bias_ih"]).chunk(3, dim=1)[2]
        h_n = linear(r * h, weights["weight_hh"], weights["bias_hh"]).chunk(3, dim=1)[2]
        return ((1 - z) * (x_n + h_n).tanh() + z * h,), ()

    twin, x = nn.GRU(4, 5, batch_first=True).double(), random(2, 6, 4)
    outputs, _ = Recurrent(article, gru_step_backward).forward(x, weights_of(twin))
    assert not torch.allclose(outputs, twin(x)[0], atol=1e-3)


# ---- what the lesson claims -----------------------------------------------------------------


@small
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)), max_size=3))
def test_receptive_field_equals_what_the_gradient_reaches(layers):
    x = torch.zeros(1, receptive_field(layers) + 8, 1, dtype=torch.float64, requires_grad=True)
    y = x
    for kernel, stride, dilation in layers:
        ones = torch.ones(1, 1, kernel, dtype=torch.float64)
        y = F.conv1d(y.mT, ones, stride=stride, dilation=dilation).mT
    (grad,) = torch.autograd.grad(y[0, 0, 0], x)
    reached = grad[0, :, 0].nonzero()
    assert int(reached.max() - reached.min()) + 1 == receptive_field(layers)


def layers_for(distance, dilation_of):
    layers = []
    while receptive_field(layers) <= distance:
        layers.append((3, 1, dilation_of(len(layers))))
    return len(layers)


def test_path_is_linear_for_stacked_and_logarithmic_for_dilated_convolutions():
    distances = [2**i for i in range(1, 13)]
    assert [layers_for(d, lambda n: 1) for d in distances] == [d // 2 for d in distances]
    assert [layers_for(d, lambda n: 2**n) for d in distances] == list(range(1, 13))


def arriving(network, weights, distance=50):
    """Norm of the gradient of the word `distance` back, over that of the last word."""
    x = random(16, distance + 1, weights["weight_ih"].size(1))
    outputs, caches = network.forward(x, weights)
    grad = torch.zeros_like(outputs)
    grad[:, -1] = random(*outputs[:, -1].shape, seed=1)
    norms = network.backward(grad, caches, weights)["x"].norm(dim=2).mean(dim=0)
    return (norms[0] / norms[-1]).item()


@pytest.mark.parametrize("seed", range(4))
def test_gates_carry_the_gradient_over_fifty_steps(seed):
    torch.manual_seed(seed)
    rnn = arriving(RNN, weights_of(nn.RNN(16, 64).double()))
    for network, kind in ((LSTM, nn.LSTM), (GRU, nn.GRU)):
        weights = weights_of(kind(16, 64).double())
        shut = arriving(network, weights)
        weights["bias_ih"][64:128] += 1
        assert arriving(network, weights) > 1e4 * rnn
        assert shut < 1e-8  # without the bias it vanishes too


@pytest.mark.parametrize("scale, low, high", [(1, 0, 1e-9), (4, 100, math.inf)])
def test_the_simple_rnn_vanishes_or_explodes(scale, low, high):
    weights = weights_of(nn.RNN(16, 64).double())
    weights["weight_hh"] *= scale
    assert low < arriving(RNN, weights) < high


def test_gradient_through_time_is_the_product_of_jacobians():
    weights, x = weights_of(nn.RNN(3, 4).double()), random(1, 6, 3)
    outputs, _ = RNN.forward(x, weights)
    product = torch.eye(4).double()
    for h in outputs[0, 1:]:
        product = torch.diag(1 - h**2) @ weights["weight_hh"] @ product
    grad_state = (random(1, 4),)
    expected = grad_state[0] @ product
    _, caches = RNN.forward(x, weights)
    for cache in reversed(caches[1:]):
        _, grad_state = rnn_step_backward(grad_state, cache, weights)
    torch.testing.assert_close(grad_state[0], expected)


def test_an_open_lstm_keeps_its_cell_and_its_gradient():
    weights = {name: torch.zeros_like(tensor) for name, tensor in
               weights_of(nn.LSTM(2, 3).double()).items()}
    weights["bias_ih"][:3], weights["bias_ih"][3:6] = -100, 100  # write nothing, keep all
    state = (random(1, 3), random(1, 3, seed=1))
    (_, cell), cache = lstm_step(random(1, 2), state, weights)
    assert torch.equal(cell, state[1])
    _, (_, grad_c) = lstm_step_backward((torch.zeros(1, 3).double(), state[0]), cache, weights)
    assert torch.equal(grad_c, state[0])


def test_steps_name_their_gradients():
    weights = weights_of(nn.RNN(2, 3).double())
    _, cache = rnn_step(random(1, 2), (random(1, 3),), weights)
    grads, _ = rnn_step_backward((random(1, 3),), cache, weights)
    assert set(grads) == {"x", *weights}
    both, grad_h = gates_backward(random(1, 3), random(1, 3), random(1, 2), random(1, 3), weights)
    assert set(both) == set(grads) and grad_h.shape == (1, 3)


# ---- pictures -------------------------------------------------------------------------------


def drawn(figure: Figure, panels: int) -> None:
    """A figure with so many panels, closed so that it is shown once."""
    assert isinstance(figure, Figure) and len(figure.axes) == panels
    assert not plt.fignum_exists(figure.number)
    figure.canvas.draw()


def test_picture_of_descent():
    x, path = torch.linspace(-1, 1, 9), [(n / 10, n / 5, 1.0) for n in range(31)]
    grid = torch.linspace(-2, 8, 12)
    heights = grid[:, None] ** 2 + grid**2
    drawn(draw.descent(x + 9, x + 11, x, {0.1: path, 0.9: path}, (grid, grid, heights)), 2)


def test_picture_of_the_graph_shows_values_and_gradients():
    names = ["x", "w", "a", "b", "s", "y", "e", "loss"]
    figure = draw.graph(dict.fromkeys(names, 1.25), dict.fromkeys(names, -0.5))
    drawn(figure, 1)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("1.250") == texts.count("grad -0.500") == len(names)


def test_picture_of_the_mlp():
    hours, ticks = torch.linspace(0, 24, 10), torch.linspace(-1.6, 1.6, 9)
    heights = 0.1 + ticks[:, None] ** 2 + ticks**2
    drawn(draw.mlp(hours, hours, hours, {"0 epochs": hours, "9 epochs": hours}, ticks, heights,
                   [(0.0, 1.0), (-1.0, 0.0)]), 3)


def test_picture_of_receptive_fields_connects_what_is_heard():
    stacks = {"plain": [(2, 1, 1)] * 2, "dilated": [(2, 1, 1), (2, 1, 2)]}
    fields = {
        "plain": [torch.tensor([1, 1, 1, 0]) > 0, torch.tensor([1, 1, 0]) > 0,
                  torch.tensor([1, 0]) > 0],
        "dilated": [torch.tensor([1, 1, 1, 1]) > 0, torch.tensor([1, 0, 1]) > 0,
                    torch.tensor([1]) > 0],
    }
    figure = draw.receptive_fields(stacks, fields)
    drawn(figure, 2)
    assert [len(axis.lines) for axis in figure.axes] == [2 * 2 + 2, 2 * 2 + 2]
    assert figure.axes[1].get_title(loc="left") == "dilated: 4 words"


def test_pictures_of_curves():
    drawn(draw.path_lengths([2, 4, 8], {"plain": [1, 2, 4], "dilated": [1, 2, 3]}), 1)
    drawn(draw.unrolled(["two", "dogs"]), 1)
    drawn(draw.order_task({"a": [0.7] * 30}, {"a": 0.5, "b": 1.0}), 2)
    drawn(draw.stretching(torch.tensor([[0.9, 0.8], [0.0, 0.7]]).double(), [1.0, 1.3, 1.5]), 2)
    drawn(draw.over_distance([("t", {"RNN": torch.logspace(0, -9, 61)})] * 2), 2)
    drawn(draw.memory([5, 50], {"RNN": [1.0, 0.5], "LSTM": [1.0, 1.0]}), 1)


def test_picture_of_gates_marks_the_first_verb():
    words, row = ["a", "dog", "is", "here"], torch.tensor([0.1, 0.9, 0.0, 1.0])
    figure = draw.gates([(words, {"i": row, "f": row}, row - 0.5)] * 2, "title")
    drawn(figure, 5)
    assert list(figure.axes[2].lines[1].get_xdata()) == [2, 2]
