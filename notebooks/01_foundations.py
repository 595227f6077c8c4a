# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · Foundations
#
# > Five networks, each with its gradient written by hand: MLP, convolution, RNN, LSTM, GRU.
#
# **After this lesson you can**
#
# - say what a neuron, a loss, a gradient and a training loop are, and write each of them yourself;
# - derive the backward pass of five networks and prove with a test that no sign is wrong;
# - show why a plain network cannot read a sentence, and what convolution and recurrence do about
#   it;
# - measure how a gradient fades over distance, and say what a gate changes;
# - explain one sentence of the paper's section 2: why *far apart* is *hard to learn*.
#
# **You need first:** Python, matrix products, derivatives. **No deep learning at all.** This page is
# the first on the path; sections marked *more* may be left out at a first reading.
#
# **Time:** 75 minutes; 120 with all that is marked *more*. **In the paper:** the last part of
# section 1, section 2, section 3.3, and the column *maximum path length* of Table 1.
#
# This page builds everything that the paper wants to replace. The Transformer is an answer. Here
# you meet the questions.
#
# **Shapes** are written behind the code. N is the number of examples, B of those in a batch, L the
# length of a sentence, D the width of what goes in, O of what comes out, H the width of a hidden
# layer or state, K the kernel (the width of a window), P the number of windows, G the rows of all
# gates together, V the number of words. An expression such as `(B, L, D)` means: a block of numbers,
# B by L by D.

# %%
#| export
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = dict[str, Tensor]  # name of a weight, as torch.nn has it -> its numbers

# %% [markdown]
# The cell above goes into the library, `course/foundations.py`; so does every cell that begins with
# `#| export`. The next one is for this page only. A cell that begins with `# NBVAL_CHECK_OUTPUT` must
# print the same on every machine; the course's tests compare it. Everything here runs on the CPU.

# %%
import math
from collections import Counter, deque
from functools import partial

from course.corpora import pairs
from course.device import by_scale
from course.homework import check, compare
from course.viz import foundations as draw

# %% [markdown]
# ## 1 · One neuron learns
#
# A German caption has 8 words. How many words will its English translation have? Let us guess from
# examples. The course's corpus has thousands of pairs; we take 400.
#
# The simplest machine that can guess is one **neuron**: it multiplies its input by a number, the
# **weight** $w$, and adds another number, the **bias** $b$:
#
# $$\hat y = w x + b .$$
#
# Here $x$ says how long the German sentence is. We count it from the mean, and in units of the
# usual distance from the mean (the standard deviation). This is called **standardising**; you will
# see in a moment why it helps. The hat on $\hat y$ means: a guess. The true length is $y$.
#
# The code works with **tensors**. A tensor is PyTorch's block of numbers. `+`, `*` and `.square()`
# act on every number by itself; `.mean()` makes one number of many, `.std(correction=0)` is their
# standard deviation, and `.item()` turns a tensor of one number into a Python number. `.T` exchanges
# rows and columns. `.double()` asks for 16 digits. `t[:, None]` adds an axis of length 1; where the
# lengths of two tensors differ in this way, PyTorch repeats the short one (**broadcasting**).

# %%
captions = pairs("captions", "train")
counts = torch.tensor([(len(de.split()), len(en.split())) for de, en in captions[:400]]).double()
german, english = counts.T  # (N,) words of each sentence
scaled = (german - german.mean()) / german.std(correction=0)  # (N,) mean 0, standard deviation 1
assert scaled.mean().abs() < 1e-12 and abs(scaled.square().mean() - 1) < 1e-12
print(f"{len(scaled)} pairs; a German caption has {german.mean():.1f} words, an English one "
      f"{english.mean():.1f}")

# %% [markdown]
# ### A loss: how wrong are we?
#
# To learn, we must say in one number how bad the guesses are. This number is the **loss**. A usual
# choice is the **mean squared error**:
#
# $$\mathcal{L}(w, b) = \frac{1}{N} \sum_{n=1}^{N} \left( \hat y_n - y_n \right)^2 ,
# \qquad \hat y_n = w x_n + b .$$
#
# The data are fixed. The loss depends on $w$ and $b$ alone: each pair $(w, b)$ is a place in a
# landscape, and the loss is its height. **Learning means: go down.**
#
# ### Gradient descent: which way is down?
#
# The derivative of the loss by $w$ says how the height changes if we make $w$ a little larger. The
# chain rule gives it:
#
# $$\frac{\partial \mathcal{L}}{\partial w} = \frac{1}{N} \sum_n 2 (\hat y_n - y_n) \, x_n ,
# \qquad
# \frac{\partial \mathcal{L}}{\partial b} = \frac{1}{N} \sum_n 2 (\hat y_n - y_n) .$$
#
# Both together are the **gradient**, a vector that points uphill, where it is steepest. So we take
# a small step the other way, and again, and again:
#
# $$w \leftarrow w - \eta \, \frac{\partial \mathcal{L}}{\partial w} , \qquad
# b \leftarrow b - \eta \, \frac{\partial \mathcal{L}}{\partial b} .$$
#
# The number $\eta$ (eta) is the **learning rate**. One walk through all examples is an **epoch**.
# Here is a whole training loop. There is no magic in it:

# %%
def descend(
    x: Tensor, y: Tensor, rate: float, epochs: int, w: float = 0.0, b: float = 0.0
) -> list[tuple[float, float, float]]:
    """Return (w, b, loss) before each step of gradient descent, and after the last."""
    path = []
    for _ in range(epochs + 1):
        error = w * x + b - y  # (N,)
        path.append((w, b, error.square().mean().item()))
        w = w - rate * (2 * error * x).mean().item()
        b = b - rate * (2 * error).mean().item()
    return path


paths = {0.1: descend(scaled, english, 0.1, epochs=30),
         0.9: descend(scaled, english, 0.9, epochs=30, w=11.0, b=4.0)}
some_w, some_b = torch.linspace(-7, 15, 80).double(), torch.linspace(-1, 23, 80).double()
guesses = some_w[:, None, None] * scaled + some_b[:, None]  # (80, 80, N)
heights = (guesses - english).square().mean(dim=2)  # (80, 80) the loss of each (w, b)
draw.descent(german, english, scaled, paths, (some_w, some_b, heights))

# %% [markdown]
# On the left, the line finds its place. On the right you look at the landscape from above, like on
# a map for hikers: each ring is a height. With the small rate the path goes straight to the middle.
# With the large rate (from another start, so that you can see both) it jumps over the valley, from
# one side to the other, but comes nearer.
#
# The landscape of one neuron is a bowl. It is round because we standardised $x$; if we had not,
# it would be a long narrow valley, and the walk would be slow. A bowl has one lowest point, and
# for this one a formula exists, found 200 years ago: *least squares*.
#
# **Guess first:** where does the walk go with the rates 0.5, 1.0 and 1.1?

# %%
design = torch.stack([scaled, torch.ones_like(scaled)], dim=1)  # (N, 2)
best_w, best_b = torch.linalg.lstsq(design, english[:, None]).solution[:, 0].tolist()
w, b, lowest = paths[0.1][-1]
assert abs(w - best_w) < 0.05 and abs(b - best_b) < 0.05

one_step = descend(scaled, english, 0.5, 1)[-1]
assert abs(one_step[0] - best_w) < 1e-9 and abs(one_step[1] - best_b) < 1e-9
there_and_back = descend(scaled, english, 1.0, 30)
assert abs(there_and_back[30][2] - there_and_back[0][2]) < 1e-6
assert descend(scaled, english, 1.1, 30)[-1][2] > 1000 * there_and_back[0][2]
print(f"after 30 epochs: w {w:.2f}, b {b:.2f}; least squares: {best_w:.2f}, {best_b:.2f}")
eight = best_w * (8 - german.mean().item()) / german.std(correction=0).item() + best_b
print(f"a German caption of 8 words: {eight:.1f} English words")
print("rate 0.5: there in one step; 1.0: to and fro for ever; 1.1: away, faster and faster")

# %% [markdown]
# In this bowl each step multiplies the distance to the lowest point by $1 - 2\eta$. Here is why.
# We standardised: $x$ has the mean 0, and $x^2$ the mean 1. So, with $(w^*, b^*)$ the lowest point,
# the two derivatives are just $2 (w - w^*)$ and $2 (b - b^*)$. A step makes $w - w^*$ into
# $w - w^* - \eta \cdot 2 (w - w^*) = (1 - 2\eta)(w - w^*)$, and the same for $b$.
#
# With $\eta = 0.5$ the factor is 0. With $\eta = 1$ it is $-1$. With $\eta = 1.1$ it is $-1.2$, and
# $1.2^{30} \approx 237$: the walk **diverges**. Keep this picture. *A number that is multiplied
# again and again either dies or explodes, unless the factor is almost exactly one.* In section 10
# this small fact will decide the fate of a whole family of networks.
#
# > **Try it.** In a new cell, compute `descend(german, english, 0.1, 30)[-1]`: the words not
# > standardised. How small must the rate be now so that the walk does not diverge?
#
# <details><summary>Answer</summary>
#
# A loss of $10^{80}$: it diverges. With 0.0093 and less it does not. The reason is the one above. Along
# the steepest direction of this valley a step's factor is $1 - 214\,\eta$, where it was $1 - 2\,\eta$
# before: the mean of the squared number of words is about 100, not 1. And $\eta < 2/214$ keeps the factor
# above $-1$. Along the flattest direction the factor is $1 - 0.25\,\eta$, so that the walk hardly moves:
# after 200 epochs at 0.009 $b$ is 0.43, and the lowest point has 1.02.
#
# </details>

# %% [markdown]
# ## 2 · The chain rule is a walk through a graph
#
# One neuron has two derivatives, and we found them on paper. The base model of the paper has 65
# million. Nobody derives those one by one. The trick is to see a computation as a **graph** of tiny
# steps, and to let the chain rule walk through it from the end to the beginning. This walk is
# called **backpropagation**.
#
# Take one neuron with the function $\tanh$ at its end, and one example. Such a function, whose graph is
# not a straight line, we call a **bend** (books say *non-linearity* or *activation function*). Its steps are
#
# $$a = w x, \qquad s = a + b, \qquad y = \tanh s, \qquad e = y - t, \qquad \mathcal{L} = e^2 .$$
#
# Going **forward**, each step computes its value. Going **backward**, each step asks: *if I know
# how the loss changes with my output, how does it change with my input?* The answer is always the
# same product:
#
# $$\frac{\partial \mathcal{L}}{\partial \text{input}}
# = \frac{\partial \mathcal{L}}{\partial \text{output}} \cdot
# \frac{\partial \text{output}}{\partial \text{input}} .$$
#
# Each step needs only its own small derivative: of $e^2$ it is $2e$; of $\tanh s$ it is
# $1 - \tanh^2 s$; a sum hands its gradient on unchanged; a product hands on its gradient times the
# *other* factor. **Guess first:** $x = 2$, $w = 0.5$. Whose gradient has the larger size, that
# of $x$ or that of $w$? (Put your guess into the next cell. After the measurement `compare` says how far
# off it was; without a guess the page goes on all the same.)

# %%
mine = None  # your guess: "x" or "w"

# %%
x1, w, b, target = 2.0, 0.5, -0.4, 1.0
a = w * x1
s = a + b
y = math.tanh(s)
e = y - target
loss = e**2

grad_e = 2 * e
grad_y = grad_e * 1
grad_s = grad_y * (1 - y**2)
grad_b = grad_s * 1
grad_a = grad_s * 1
grad_w = grad_a * x1
grad_x = grad_a * w

# %%
compare(mine, "w" if abs(grad_w) > abs(grad_x) else "x", "01: the larger gradient")

# %%
values = {"x": x1, "w": w, "a": a, "b": b, "s": s, "y": y, "e": e, "loss": loss}
slopes = {"x": grad_x, "w": grad_w, "a": grad_a, "b": grad_b, "s": grad_s, "y": grad_y,
          "e": grad_e, "loss": 1.0}
draw.graph(values, slopes)

# %% [markdown]
# The weight's gradient is four times as large in size, $-1.318$ against $-0.329$: its factor is
# $x = 2$, and the factor of $x$ is $w = 0.5$. (The minus says: a larger $w$ would lower the loss.)
# All gradients of this page say the same kind of thing. `grad_w` is short for
# $\partial \mathcal{L} / \partial w$: *nudge $w$ by a little, and the loss moves by this much times
# the little.* That gives us a check that needs no mathematics: nudge, and look. PyTorch has a
# machine that does the backward walk by itself; it is called **autograd**, and it is our second check.
# (`requires_grad` asks it for a record, `backward()` walks back and fills `.grad`; `no_grad` and
# `detach()` switch the record off.)

# %%
# NBVAL_CHECK_OUTPUT
def nudged(function: Callable[[float], float], at: float, little: float = 1e-5) -> float:
    """Measure a derivative: move the input a little to both sides and look at the output."""
    return (function(at + little) - function(at - little)) / (2 * little)


assert abs(grad_w - nudged(lambda w: (math.tanh(w * x1 + b) - target) ** 2, w)) < 1e-9
assert abs(grad_x - nudged(lambda x: (math.tanh(w * x + b) - target) ** 2, x1)) < 1e-9

leaf = torch.tensor(w, dtype=torch.float64, requires_grad=True)
((torch.tanh(leaf * x1 + b) - target) ** 2).backward()
assert abs(leaf.grad.item() - grad_w) < 1e-12

assert abs(nudged(lambda w: w * 3 + w * w, 2.0) - (3 + 2 + 2)) < 1e-9
print(f"by hand {grad_w:.4f}, nudged the same, autograd the same")

# %% [markdown]
# The last assertion shows one more rule. In $3w + w \cdot w$ the weight is used three times. Each
# use sends a gradient back ($3$, $w$ and $w$), and **gradients that meet are added**. Remember
# this rule: a recurrent network uses the same weight at every word.
#
# Why is backpropagation better than nudging? To nudge 65 million weights we need 130 million passes
# through the network. The backward walk gives all 65 million derivatives in **one** pass, for about
# twice the price of the forward pass.

# %% [markdown]
# ## 3 · Many neurons, many examples: tensors
#
# A tensor has some axes: a vector has one, a matrix has two. Put O neurons side by side. Each has D
# inputs, so their weights are a matrix $W$ with O rows and D columns. Then take B examples at once;
# such a group is a **batch**. One matrix product computes every neuron for every example:
#
# $$Y = X W^T + b , \qquad \text{in numbers:} \qquad
# y_{no} = \sum_{d} x_{nd} \, w_{od} + b_o .$$
#
# This is a **linear layer**, and PyTorch's `nn.Linear` stores its weight in just this shape.
#
# Now the walk back. We are given $g_{no} = \partial \mathcal{L} / \partial y_{no}$ and ask for three
# gradients. Look at the sum and ask each time: *in which outputs does this number appear, and with
# which factor?*
#
# - $x_{nd}$ appears in every output $o$ of its own example, with the factor $w_{od}$;
# - $w_{od}$ appears in its own output for every example $n$, with the factor $x_{nd}$;
# - $b_o$ appears in its own output for every example, with the factor 1.
#
# Gradients that meet are added:
#
# $$\frac{\partial \mathcal{L}}{\partial x_{nd}} = \sum_o g_{no} \, w_{od} , \qquad
# \frac{\partial \mathcal{L}}{\partial w_{od}} = \sum_n g_{no} \, x_{nd} , \qquad
# \frac{\partial \mathcal{L}}{\partial b_o} = \sum_n g_{no} .$$
#
# Each sum is again a matrix product: $g W$, $g^T X$, and a sum over the rows. If you forget which
# side gets the transpose, let the shapes tell you: **a gradient has the shape of the thing itself.**

# %%
#| export
def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute a layer of O neurons for each row of x: (..., D) -> (..., O).

    weight (O, D), bias (O,), as in torch.nn.Linear.
    """
    return x @ weight.T + bias


def linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias, given that of the output.

    grad (B, O), x (B, D), weight (O, D) -> (B, D), (O, D), (O,).
    """
    return grad @ weight, grad.T @ x, grad.sum(dim=0)

# %% [markdown]
# These two lines are the heart of this page. Each of the five networks below is built from
# `linear` and a few functions that act on each number by itself.
#
# ### A check for every gradient
#
# We shall write many gradients by hand, and a wrong sign does not raise an error: the network only
# learns badly, and you lose a week. So we write the check before the networks. Every network of
# this page comes as a pair of functions:
#
# - `forward(x, weights)` gives the output and a **cache**: what the way back will need;
# - `backward(grad, cache, weights)` takes the gradient of the output, and gives a dictionary with
#   the gradient of `"x"` and of every weight, under its name.
#
# The function `gradient_errors`, which we call **the judge**, sends a random gradient in at the output,
# by hand and through autograd, and returns the largest difference for each name. (For autograd it is the
# third argument of `torch.autograd.grad(output, inputs, gradient)`: the gradient of the output, from
# which the walk back begins.) It works in **float64**: numbers with 16 digits. Two correct
# computations then agree to about $10^{-15}$, and a mistake cannot hide behind rounding.

# %%
#| export
def gradient_errors(
    forward: Callable, backward: Callable, x: Tensor, weights: Weights
) -> dict[str, float]:
    """Compare a backward pass written by hand with autograd.

    forward(x, weights) -> output, cache; backward(grad, cache, weights) -> name -> gradient, for
    "x" and for every name of `weights`. Returns the largest absolute difference for each name;
    inf where a gradient is missing or its shape is not that of its tensor. Use float64.
    """
    leaves = {"x": x, **weights}
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in leaves.items()}
    inner = {name: leaves[name] for name in weights}
    output, cache = forward(leaves["x"], inner)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    expected = torch.autograd.grad(output, list(leaves.values()), grad)
    with torch.no_grad():
        by_hand = backward(grad, cache, inner)
    errors = {}
    for name, true in zip(leaves, expected):
        fits = name in by_hand and by_hand[name].shape == true.shape
        errors[name] = (by_hand[name] - true).abs().max().item() if fits else float("inf")
    return errors


def weights_of(module: nn.Module) -> Weights:
    """Copy the weights of a torch.nn module, under its names; "_l0" of recurrent ones is cut."""
    return {
        name.removesuffix("_l0"): tensor.detach().clone()
        for name, tensor in module.named_parameters()
    }

# %% [markdown]
# `weights_of` borrows start values from PyTorch: small random numbers. They must be random, since
# two neurons with equal weights would get equal gradients and stay equal for ever. But they must
# also be the same tomorrow, or nobody can check a result. So a **seed** fixes the random numbers:
# the same seed, the same numbers.
#
# The judge's first case is our linear layer, beside PyTorch's own (`theirs`) with the same weights. Then
# a wrong layer, with one minus sign too many, to see that the judge notices.

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)


def layer_forward(x: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    return linear(x, weights["weight"], weights["bias"]), x


def layer_backward(grad: Tensor, x: Tensor, weights: Weights, sign: int = 1) -> Weights:
    grad_x, grad_weight, grad_bias = linear_backward(grad, x, weights["weight"])
    return {"x": sign * grad_x, "weight": grad_weight, "bias": grad_bias}


theirs = nn.Linear(4, 3).double()
x, weights = torch.randn(5, 4).double(), weights_of(theirs)
assert torch.allclose(layer_forward(x, weights)[0], theirs(x), atol=1e-12)
right = gradient_errors(layer_forward, layer_backward, x, weights)
wrong = gradient_errors(layer_forward, partial(layer_backward, sign=-1), x, weights)
assert all(error < 1e-10 for error in right.values())
assert wrong["x"] > 0.1 and wrong["weight"] < 1e-10
print("equal to nn.Linear and to autograd; the wrong sign is found, and its name is x")

# %% [markdown]
# ## 4 · The multilayer perceptron: what a bend can do
#
# **The question:** a linear layer draws straight lines. What if the world is not straight?
#
# First idea: two linear layers, one after the other. **Guess first:** what can two of them do that
# one cannot?

# %%
# NBVAL_CHECK_OUTPUT
first, second = nn.Linear(4, 8).double(), nn.Linear(8, 3).double()
one = nn.Linear(4, 3).double()
with torch.no_grad():
    one.weight.copy_(second.weight @ first.weight)
    one.bias.copy_(second.weight @ first.bias + second.bias)
assert torch.allclose(second(first(x)), one(x), atol=1e-12)
print("two linear layers are one linear layer")

# %% [markdown]
# Nothing! A product of matrices is a matrix. Between the layers there must be something that is not
# straight. The cheapest bend is **ReLU** (*rectified linear unit*): $\max(0, a)$. Negative numbers
# become zero, positive ones pass. Linear, bend, linear: this is the **multilayer perceptron**, MLP.
#
# $$a = x W_1^T + b_1 , \qquad h = \max(0, a) , \qquad y = h W_2^T + b_2 .$$
#
# The numbers $h$ are the **hidden layer**: neither input nor output. Do not forget this formula: it
# is **equation 2 of the paper**, the feed-forward network of section 3.3. Every layer of the
# Transformer holds one.
#
# **The way back** is three steps. We know $g^y$, the gradient of the output. (A small letter on top
# says of what it is the gradient.)
#
# 1. The second linear layer: $g^h = g^y W_2$, and the gradients of $W_2$ and $b_2$ from section 3.
# 2. The bend. Its slope is 1 where $a > 0$ and 0 elsewhere: $g^a = g^h \odot [a > 0]$. The sign
#    $\odot$ means: number by number. A hidden neuron that was switched off gets no gradient.
# 3. The first linear layer: $g^x = g^a W_1$, and the gradients of $W_1$ and $b_1$.
#
# The names `"0.weight"` and `"2.weight"` are those of
# `nn.Sequential(nn.Linear(...), nn.ReLU(), nn.Linear(...))`: places 0 and 2 hold the weights, place
# 1 is the bend.

# %%
#| export
def mlp_forward(x: Tensor, weights: Weights) -> tuple[Tensor, tuple]:
    """Compute linear, ReLU, linear: x (B, D) -> output (B, O), cache.

    weights: 0.weight (H, D), 0.bias (H,), 2.weight (O, H), 2.bias (O,), as in
    nn.Sequential(nn.Linear, nn.ReLU, nn.Linear). Paper, equation 2.
    """
    hidden = linear(x, weights["0.weight"], weights["0.bias"]).clamp(min=0)  # (B, H)
    return linear(hidden, weights["2.weight"], weights["2.bias"]), (x, hidden)


def mlp_backward(grad: Tensor, cache: tuple, weights: Weights) -> Weights:
    """Return the gradients of x and of each weight, by name: grad (B, O) is the output's."""
    x, hidden = cache
    grad_hidden, weight_2, bias_2 = linear_backward(grad, hidden, weights["2.weight"])
    grad_a = grad_hidden * (hidden > 0)  # (B, H)
    grad_x, weight_0, bias_0 = linear_backward(grad_a, x, weights["0.weight"])
    return {"x": grad_x, "0.weight": weight_0, "0.bias": bias_0, "2.weight": weight_2,
            "2.bias": bias_2}

# %%
# NBVAL_CHECK_OUTPUT
theirs = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
weights = weights_of(theirs)
assert torch.allclose(mlp_forward(x, weights)[0], theirs(x), atol=1e-12)
assert all(error < 1e-10 for error in gradient_errors(mlp_forward, mlp_backward, x, weights).values())


def forgets_the_bend(grad: Tensor, cache: tuple, weights: Weights) -> Weights:
    return mlp_backward(grad, (cache[0], cache[1] + 1e-9), weights)  # now every neuron counts as on


wrong = gradient_errors(mlp_forward, forgets_the_bend, x, weights)
assert wrong["0.weight"] > 1e-3 and wrong["2.bias"] < 1e-10
print("MLP: equal to nn.Sequential and to autograd; without the bend's slope it is not")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### A curve from hinges, and its landscape · more
#
# For those who want to see an MLP fit a curve, and why its loss is no bowl.

# %% [markdown]
# A thermometer stood in a garden for a day, and somebody read it forty times. (Lesson 03 comes back
# to this garden with another tool.) One hidden ReLU neuron is a **hinge**: flat, then a slope. The
# output is a sum of hinges. With 48 hinges the network can follow the day. The training loop is
# that of section 1; only the gradient comes from `mlp_backward`.

# %%
random = torch.Generator().manual_seed(10)
hours = (24 * torch.rand(40, generator=random).double()).sort().values
truth = 14 - 6 * torch.cos(2 * math.pi * (hours - 3) / 24) - 5 * torch.exp(-((hours - 17) ** 2))
degrees = truth + torch.randn(40, generator=random).double()
day_x = (hours[:, None] - 12) / 6  # (40, 1) from -2 to 2
day_y = (degrees[:, None] - 14) / 6  # (40, 1)


def fit(weights: Weights, epochs: int, rate: float = 0.05) -> list[Weights]:
    """Go down the gradient; return the weights after each epoch, those of the start first."""
    history = [weights]
    for _ in range(epochs):
        output, cache = mlp_forward(day_x, weights)
        grads = mlp_backward(2 * (output - day_y) / len(day_y), cache, weights)
        weights = {name: tensor - rate * grads[name] for name, tensor in weights.items()}
        history.append(weights)
    return history


def day_loss(weights: Weights) -> float:
    return (mlp_forward(day_x, weights)[0] - day_y).square().mean().item()


# %%
torch.manual_seed(0)
start = weights_of(nn.Sequential(nn.Linear(1, 48), nn.ReLU(), nn.Linear(48, 1)).double())
history = fit(start, epochs=3000)
end = history[-1]

design = torch.cat([day_x, torch.ones_like(day_x)], dim=1)
line = design @ torch.linalg.lstsq(design, day_y).solution  # the best straight line
straight = (line - day_y).square().mean().item()
assert day_loss(end) < 0.5 * straight
print(f"mean squared error: best straight line {straight:.3f}, MLP {day_loss(end):.3f}")

# %% [markdown]
# Now its landscape. It has 145 dimensions, one for each weight, and we can only draw two. Which two?
# There is one more point that we know for sure. **Guess first:** if we exchange two hidden neurons,
# with all their weights, what happens to the function, and to the loss?
#
# We turn the order of all 48 around. That is another place in the landscape: the *twin*. Three
# points make a plane: the start, the end of the training, and its twin.

# %%
twin_end = {"0.weight": end["0.weight"].flip(0), "0.bias": end["0.bias"].flip(0),
            "2.weight": end["2.weight"].flip(1), "2.bias": end["2.bias"]}
between = {name: (end[name] + twin_end[name]) / 2 for name in end}
assert abs(day_loss(twin_end) - day_loss(end)) < 1e-9
assert day_loss(between) > 2 * day_loss(end)
print(f"loss at the end {day_loss(end):.3f}, at its twin {day_loss(twin_end):.3f}, "
      f"halfway between {day_loss(between):.3f}")

# %% [markdown]
# To draw the plane we write all 145 weights in one long vector and walk in two directions. (The next
# cell only prepares the picture. You may skip it at the first reading.)

# %%
def flat(weights: Weights) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in weights.values()])  # (145,)


def unflat(vector: Tensor) -> Weights:
    parts = vector.split([tensor.numel() for tensor in start.values()])
    return {name: part.view_as(start[name]) for name, part in zip(start, parts)}


origin = (flat(end) + flat(twin_end)) / 2
across = (flat(twin_end) - flat(end)) / 2  # the plane's two directions meet at a right angle
along = flat(start) - origin
along = along - across * (along @ across) / (across @ across)
ticks = torch.linspace(-1.6, 1.6, 41).double()
heights = torch.tensor([[day_loss(unflat(origin + u * across + v * along)) for u in ticks]
                        for v in ticks])  # (41, 41)
steps = [flat(weights) - origin for weights in history[::20]]
shadow = [(step @ across / (across @ across), step @ along / (along @ along)) for step in steps]
assert torch.allclose(flat(unflat(flat(start))), flat(start)) and (across @ along).abs() < 1e-9

# %%
curve_x = torch.linspace(-2, 2, 200).double()[:, None]
curves = {f"{epoch} epochs": 6 * mlp_forward(curve_x, history[epoch])[0][:, 0] + 14
          for epoch in (0, 100, 3000)}
draw.mlp(hours, degrees, 6 * curve_x[:, 0] + 12, curves, ticks, heights, shadow)

# %% [markdown]
# The loss does not notice the exchange: two valleys of equal depth, and a hill between them. (In the
# picture they differ in form, because the plane cuts them in different directions.) So this landscape is
# **not a bowl**. There are $48!$ such twins, and no formula for the lowest point.
# Gradient descent is all we have, and it depends on where it starts: on the seed. (The white line
# is the shadow of the path on this plane; the true path runs through 145 dimensions.)
#
# > **Try it.** Take 3 hidden neurons instead of 48. How many hinges can you count in the curve?
#
# <details><summary>Answer</summary>
#
# Two. A neuron bends where $w x + b = 0$: the three do so at hour 11.4, at hour 23.6 (you hardly see it),
# and 578 hours before the day, where the curve is a straight line for us. The error stays at 0.23, and the
# claim `< 0.5 * straight` fails. Three other seeds had two hinges in the day, too; two of them at other
# hours, with an error of 0.09.
#
# </details>

# %% [markdown]
# ## 5 · A sentence does not fit
#
# Can an MLP read a sentence? It wants a vector of fixed width. A sentence is a row of words, and
# the next one is longer.
#
# First, one word. A word is not a number. Number the words of the **vocabulary** from 0 to V - 1,
# and give each word a row of a table: D numbers that are learned like any other weight. The row is
# called the word's **embedding**. *dog* is not 17; it is row 17. Looking up a row is the same as a
# linear layer without bias that is given a **one-hot** vector: all zeros, and one 1.
#
# The way back follows from "gradients that meet are added": each row collects the gradients of
# every place where its word stood. A word that did not occur gets zero.

# %%
#| export
def embedding_backward(grad: Tensor, ids: Tensor, table: Tensor) -> Tensor:
    """Return the gradient of an embedding table, given that of the rows looked up.

    grad (B, L, D) of table[ids], ids (B, L), table (V, D) -> (V, D).
    """
    return torch.zeros_like(table).index_add_(0, ids.flatten(), grad.flatten(0, 1))

# %%
# NBVAL_CHECK_OUTPUT
words = ["the", "dog", "chases", "man", "a"]


def numbered(text: str) -> Tensor:
    return torch.tensor([[words.index(word) for word in text.split()]])  # (1, L)


ids = numbered("the dog chases the man")  # (1, 5)
table = torch.randn(5, 3).double().requires_grad_()  # (V, D)
one_hot = F.one_hot(ids, 5).double()  # (1, 5, V)
assert torch.equal(one_hot @ table, table[ids])

grad = torch.randn(1, 5, 3).double()
(expected,) = torch.autograd.grad(table[ids], table, grad)
by_hand = embedding_backward(grad, ids, table)
assert torch.allclose(by_hand, expected, atol=1e-12)
assert torch.allclose(by_hand[0], grad[0, 0] + grad[0, 3], atol=1e-12)
assert not by_hand[words.index("a")].any()
print("'the' collects two gradients, 'a' collects none")

# %% [markdown]
# Now the whole sentence. With an MLP there are two ways, and both are bad.
#
# **Way one: put the rows side by side.** Five words of width 3 make a vector of 15 numbers. A
# sentence of six words does not fit. And suppose the network has learned what *dog* means in place
# 2. The weights of place 3 are others: there it must learn *dog* again.
#
# **Way two: take the mean of the rows.** Every length fits. But what does a mean forget? It is a
# **bag of words**: the words are in it, their order is not.

# %%
# NBVAL_CHECK_OUTPUT
weights = weights_of(nn.Sequential(nn.Linear(15, 8), nn.ReLU(), nn.Linear(8, 1)).double())
mlp_forward(table[ids].flatten(1), weights)  # five words fit ...
too_long = torch.cat([ids, ids[:, :1]], dim=1)
try:
    mlp_forward(table[too_long].flatten(1), weights)
    raise AssertionError("six words should not fit")
except RuntimeError:
    print("side by side: a network for five words cannot read six")

other = numbered("the man chases the dog")
assert torch.allclose(table[ids].mean(dim=1), table[other].mean(dim=1), atol=1e-12)
print("bag of words: who chases whom? The mean does not know")

# %% [markdown]
# So we need networks that read any length, that know order, and that use what they learned about a
# word in every place. There are two old families: **convolutions** look through a small window that
# slides along the sentence; **recurrent networks** read word by word and keep a memory. The rest of
# this page builds both and measures what they cost. (The third family is attention.)

# %% [markdown]
# ## 6 · Convolution: one small network for every place
#
# **The question:** how can one place use what another place has learned?
#
# By using the same weights. Take a linear layer that sees a **window** of K neighbouring words and
# slide it along the sentence. With width D, a window is K times D numbers:
#
# $$y_{po} = b_o + \sum_{k=0}^{K-1} \sum_{d} w_{odk} \; x_{(p s + k \delta), d} .$$
#
# K is the **kernel size**. Two more numbers are in use. The **stride** $s$: how far the window
# moves from one output to the next. The **dilation** $\delta$: how far apart the words in the window
# are ($\delta = 1$: neighbours; $\delta = 2$: every second word). The output has one row for each
# window:
#
# $$P = \left\lfloor \frac{L - 1 - (K - 1)\,\delta}{s} \right\rfloor + 1 .$$
#
# If we write each window as one long row, the sum is exactly the linear layer of section 3. In code
# we only have to cut the windows: `x.unfold(1, span, stride)` cuts pieces of `span` neighbours along
# axis 1, one every `stride` places, and puts them on a new last axis; `[..., ::dilation]` keeps every
# $\delta$-th of them. `.flatten(2)` makes one long row of each.
#
# **The way back.** The linear layer gives us the gradients of weight, bias and *windows*. A word
# was in up to K windows: at place 0 of one, at place 1 of another. Gradients that meet are added.
# So we put each window's gradient back to where it was cut, one place $k$ of the window after the
# other, and add.

# %%
#| export
def conv1d_forward(
    x: Tensor, weights: Weights, stride: int = 1, dilation: int = 1
) -> tuple[Tensor, tuple]:
    """Slide a linear layer along a sentence: x (B, L, D) -> output (B, P, O), cache.

    weights: weight (O, D, K), bias (O,), as in nn.Conv1d, whose x is (B, D, L). Nothing is padded:
    P = (L - 1 - (K - 1) * dilation) // stride + 1. Raises ValueError if no window fits.
    """
    weight, bias = weights["weight"], weights["bias"]
    span = (weight.size(2) - 1) * dilation + 1
    if span > x.size(1):
        raise ValueError(f"a window spans {span} words, the sentence has {x.size(1)}: pad it, or "
                         "take a smaller kernel or dilation")
    windows = x.unfold(1, span, stride)[..., ::dilation]  # (B, P, D, K)
    windows = windows.flatten(2)  # (B, P, D * K)
    return linear(windows, weight.flatten(1), bias), (windows, x.shape, stride, dilation)


def conv1d_backward(grad: Tensor, cache: tuple, weights: Weights) -> Weights:
    """Return the gradients of x, weight and bias, by name: grad (B, P, O) is the output's."""
    windows, shape, stride, dilation = cache
    weight = weights["weight"]
    grad_windows, grad_weight, grad_bias = linear_backward(
        grad.flatten(0, 1), windows.flatten(0, 1), weight.flatten(1)
    )
    grad_windows = grad_windows.view(*grad.shape[:2], *weight.shape[1:])  # (B, P, D, K)
    grad_x, reach = grad.new_zeros(shape), (grad.size(1) - 1) * stride + 1
    for k in range(weight.size(2)):  # place k of every window goes back to where it was cut
        start = k * dilation
        grad_x[:, start : start + reach : stride] += grad_windows[..., k]
    return {"x": grad_x, "weight": grad_weight.view_as(weight), "bias": grad_bias}

# %%
# NBVAL_CHECK_OUTPUT
x = torch.randn(2, 13, 4).double()  # (B, L, D)
for stride, dilation in ((1, 1), (2, 1), (1, 3), (3, 2)):
    theirs = nn.Conv1d(4, 5, 3, stride=stride, dilation=dilation).double()
    weights = weights_of(theirs)
    forward = partial(conv1d_forward, stride=stride, dilation=dilation)
    output, cache = forward(x, weights)
    assert torch.allclose(output, theirs(x.mT).mT, atol=1e-12)
    errors = gradient_errors(forward, conv1d_backward, x, weights)
    assert all(error < 1e-10 for error in errors.values())
    too_early = (cache[0], cache[1], stride, dilation - 1)  # place k goes back k words too early
    wrong = gradient_errors(forward, lambda g, c, w, cut=too_early: conv1d_backward(g, cut, w),
                            x, weights)
    assert wrong["x"] > 1e-3
    print(f"stride {stride}, dilation {dilation}: 13 words, {output.size(1):2} windows; equal to "
          "nn.Conv1d and autograd")

# %% [markdown]
# PyTorch's `nn.Conv1d` wants the width before the length, (B, D, L); this course keeps the length
# in the middle. Hence the transpose `.mT` in the comparison.
#
# ## 7 · How far does a convolution see?
#
# One layer with K = 3 sees three words. A second layer on top sees three outputs, each of which has
# seen three words. The words that an output can hear of are its **receptive field**. With one line
# of counting for each layer:
#
# $$\text{field} \leftarrow \text{field} + (K - 1) \cdot \delta \cdot \text{step} , \qquad
# \text{step} \leftarrow \text{step} \cdot s ,$$
#
# where *step* says how many words one must go on to come from one output of the layer below to the
# next (1 for the words themselves).

# %%
#| export
def receptive_field(layers: Sequence[tuple[int, int, int]]) -> int:
    """Count the words from the first to the last that one output of stacked convolutions hears of.

    layers: (kernel, stride, dilation), the first layer first. Words in holes count, too.
    """
    field, step = 1, 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * step
        step *= stride
    return field

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Ask the gradient · more
#
# For those who do not believe a formula: which inputs get a gradient, drawn for three stacks.

# %% [markdown]
# We stack layers whose weights are all 1, send a
# gradient into **one** output, and walk back with `conv1d_backward`. Every input with a gradient
# that is not zero was heard. **Guess first:** four layers, K = 2. How far do they see if plain? And
# with the dilations 1, 2, 4, 8?

# %%
mine = None  # your guess: how many words four layers with the dilations 1, 2, 4, 8 hear

# %%
# NBVAL_CHECK_OUTPUT
ones = {"weight": torch.ones(1, 1, 2).double(), "bias": torch.zeros(1).double()}  # K = 2


def heard(layers: Sequence[tuple[int, int, int]], words: int = 20) -> list[Tensor]:
    """Say for each level, the words first, which places send something to the one output."""
    x, caches = torch.ones(1, words, 1).double(), []
    for _, stride, dilation in layers:
        x, cache = conv1d_forward(x, ones, stride, dilation)
        caches.append(cache)
    grad = torch.zeros_like(x)
    grad[:, 0] = 1
    levels = [grad]
    for cache in reversed(caches):
        levels.insert(0, conv1d_backward(levels[0], cache, ones)["x"])
    return [level[0, :, 0] != 0 for level in levels]


stacks = {"plain": [(2, 1, 1)] * 4, "stride 2": [(2, 2, 1)] * 4,
          "dilation 1, 2, 4, 8": [(2, 1, 2**i) for i in range(4)]}
fields = {name: heard(layers) for name, layers in stacks.items()}
for name, layers in stacks.items():
    assert fields[name][0].sum() == receptive_field(layers)
    print(f"four layers, {name}: one output hears {int(fields[name][0].sum())} words")

# %%
compare(mine, int(fields["dilation 1, 2, 4, 8"][0].sum()), "01: words that four dilated layers hear")

# %%
draw.receptive_fields(stacks, fields)

# %% [markdown]
# Plain layers add one word each. With stride or dilation every layer **doubles** the field. The
# price is different: stride throws positions away (after four layers only every 16th is left), while
# dilation keeps every position. The holes of one layer are filled by the others: no word is missed.

# %% [markdown]
# ### The paper's sentence, counted
#
# Section 2 of the paper: in ConvS2S the number of operations that relate two positions grows
# **linearly** with their distance, in ByteNet **logarithmically**. ConvS2S (Gehring et al. 2017)
# stacks plain convolutions; ByteNet (Kalchbrenner et al. 2016) doubles the dilation from layer to
# layer. Count the layers until two words at a given distance meet in one output:

# %%
# NBVAL_CHECK_OUTPUT
def layers_to_meet(distance: int, dilation_of: Callable[[int], int], kernel: int = 3) -> int:
    layers = []
    while receptive_field(layers) <= distance:
        layers.append((kernel, 1, dilation_of(len(layers))))
    return len(layers)


distances = [2**i for i in range(1, 11)]
meet = {"plain": [layers_to_meet(d, lambda layer: 1) for d in distances],
        "dilated": [layers_to_meet(d, lambda layer: 2**layer) for d in distances]}
assert meet["plain"] == [d // 2 for d in distances]  # linear: distance over (K - 1)
assert meet["dilated"] == [math.ceil(math.log2(d / 2 + 1)) for d in distances]  # logarithmic
growth = [later - earlier for earlier, later in zip(meet["dilated"], meet["dilated"][1:])]
assert growth == [1] * 9  # each doubling of the distance costs one layer
print("distance  ", distances, "\nplain     ", meet["plain"], "\ndilated   ", meet["dilated"])

# %%
draw.path_lengths(distances, meet)

# %% [markdown]
# To bring two words together that stand 1024 words apart, plain layers need 512 layers and dilated
# ones 10. (The real ByteNet does not double for ever: it starts again at 1 after dilation 16, so
# for very long texts it is linear too, with a small factor.) A path of 10 is not a path of 1. Keep
# this picture for the end.
#
# > **Try it.** In a new cell, compute
# > `[layers_to_meet(d, lambda layer: 1, kernel=5) for d in distances]`, and the same with
# > `lambda layer: 2**layer`. What becomes of the two rows?
#
# <details><summary>Answer</summary>
#
# The plain row is halved, `1, 1, 2, 4, ... 256`: each layer adds $K - 1 = 4$ words, not 2. The dilated row
# loses one layer from distance 4 on, `1, 1, 2, 3, ... 9`: a wider window is worth one doubling, once. A
# wider kernel changes the factor, not the kind of growth.
#
# </details>
#
# Two questions on this section. A question is a **check** here: run the cell, read the options, answer
# by `check("path_conv", "b")`, or with another letter. Each wrong option says what is wrong with it.

# %%
check("path_conv")

# %%
check("path_bytenet")

# %% [markdown]
# ## 8 · The recurrent network: a memory that walks along
#
# **The question:** how can a network of fixed size read a sentence of any length, in order?
#
# As you do: one word after the other, with something in mind. The **hidden state** $h_t$ is a vector
# of H numbers: what the network remembers after word $t$. At each word it makes a new state from the
# word and the old state, **always with the same weights** (Elman 1990):
#
# $$a_t = W_{ih} \, x_t + b_{ih} + W_{hh} \, h_{t-1} + b_{hh} , \qquad h_t = \tanh(a_t) ,
# \qquad h_0 = 0 .$$
#
# The bend is $\tanh$, which keeps every number between $-1$ and 1. Two biases are one too many, but
# PyTorch has two, and we want to be equal.
#
# **One step back.** We know $g^{h_t}$. Through $\tanh$, whose slope is $1 - h_t^2$:
#
# $$g^{a_t} = g^{h_t} \odot (1 - h_t^2) .$$
#
# Then two linear layers, one on $x_t$ and one on $h_{t-1}$, both with the gradient $g^{a_t}$.
#
# One such step, from $(x_t, h_{t-1})$ to $h_t$, is called a **cell** (not to be confused with a cell
# of this notebook). RNN, LSTM and GRU all *begin* with two linear layers, so their way back *ends*
# with these two; we write it once.

# %%
#| export
def gates_backward(
    grad_ih: Tensor, grad_hh: Tensor, x: Tensor, h: Tensor, weights: Weights
) -> tuple[Weights, Tensor]:
    """Walk back through the two linear layers of a cell, one on x (B, D), one on h (B, H).

    grad_ih, grad_hh (B, G): the gradients of what they gave -> gradients by name, that of h.
    """
    grad_x, weight_ih, bias_ih = linear_backward(grad_ih, x, weights["weight_ih"])
    grad_h, weight_hh, bias_hh = linear_backward(grad_hh, h, weights["weight_hh"])
    grads = {"x": grad_x, "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih,
             "bias_hh": bias_hh}
    return grads, grad_h

# %%
#| export
State = tuple[Tensor, ...]  # what a cell remembers: (h,), or (h, c) for the LSTM; each (B, H)


def rnn_step(x: Tensor, state: State, weights: Weights) -> tuple[State, tuple]:
    """Read one word: x (B, D), state (h,) with h (B, H) -> new state, cache.

    weights: weight_ih (H, D), weight_hh (H, H), bias_ih, bias_hh (H,), as in nn.RNNCell.
    Elman 1990.
    """
    (h,) = state
    from_x = linear(x, weights["weight_ih"], weights["bias_ih"])  # (B, H)
    from_h = linear(h, weights["weight_hh"], weights["bias_hh"])  # (B, H)
    new = torch.tanh(from_x + from_h)
    return (new,), (x, h, new)


def rnn_step_backward(grad_state: State, cache: tuple, weights: Weights) -> tuple[Weights, State]:
    """Return the gradients of x and the weights, by name, and of the old state."""
    (grad_new,), (x, h, new) = grad_state, cache
    grad_a = grad_new * (1 - new**2)  # (B, H)
    grads, grad_h = gates_backward(grad_a, grad_a, x, h, weights)
    return grads, (grad_h,)

# %% [markdown]
# ### Backpropagation through time
#
# Now the loop. Unroll it: a sentence of L words makes a network with L floors, all with the same
# weights. The way back goes from the last word to the first. ($J_t$, the derivative of $h_t$ by
# $h_{t-1}$, is what a gradient meets between two states; more at the end of this section.)

# %%
draw.unrolled(["two", "dogs", "are", "playing"])

# %% [markdown]
# Two rules, both known already:
#
# 1. **The state $h_t$ is used twice**: by the output at $t$, and by the next state. Two gradients
#    meet at $h_t$ and are added: what its own output sends, and what comes back from $t + 1$.
#
#    $$g^{h_t} = g^{\text{out}_t} + W_{hh}^T \left( g^{h_{t+1}} \odot (1 - h_{t+1}^2) \right) .$$
#
#    (Here vectors are columns, as in most books. In the code each example is a row, so the same
#    product reads `grad @ weight_hh`.)
#
# 2. **The weights are used L times.** Their gradient is the sum over all steps:
#
#    $$\frac{\partial \mathcal{L}}{\partial W_{hh}} = \sum_{t=1}^{L} g^{a_t} \, h_{t-1}^T .$$
#
# This is **backpropagation through time**, BPTT (Werbos 1990). The name sounds like science
# fiction; it is a `for` loop that runs backward. We write both loops once, for any cell: the cell
# says how to do one step.

# %%
#| export
@dataclass(frozen=True)
class Recurrent:
    """A cell that reads a sentence word by word, and its backpropagation through time.

    step(x, state, weights) -> state, cache; step_backward(grad_state, cache, weights) ->
    gradients by name, gradient of the old state; n_states: tensors in the state, h first.
    """

    step: Callable
    step_backward: Callable
    n_states: int = 1

    def forward(self, x: Tensor, weights: Weights) -> tuple[Tensor, list]:
        """Read x (B, L, D) from a state of zeros -> h after each word (B, L, H), cache."""
        state = (x.new_zeros(x.size(0), weights["weight_hh"].size(1)),) * self.n_states
        outputs, caches = [], []
        for x_t in x.unbind(dim=1):  # L times (B, D)
            state, cache = self.step(x_t, state, weights)
            outputs.append(state[0])
            caches.append(cache)
        return torch.stack(outputs, dim=1), caches

    def backward(self, grad: Tensor, caches: list, weights: Weights) -> Weights:
        """Return the gradients of x and each weight, by name: grad (B, L, H) is the outputs'."""
        total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        grad_state, grad_x = (torch.zeros_like(grad[:, 0]),) * self.n_states, []
        for grad_output, cache in zip(reversed(grad.unbind(dim=1)), reversed(caches)):
            grad_state = (grad_state[0] + grad_output, *grad_state[1:])  # two gradients meet at h
            grads, grad_state = self.step_backward(grad_state, cache, weights)
            grad_x.append(grads.pop("x"))
            total = {name: total[name] + grads[name] for name in total}  # the same weights
        return {"x": torch.stack(grad_x[::-1], dim=1), **total}


RNN = Recurrent(rnn_step, rnn_step_backward)

# %%
# NBVAL_CHECK_OUTPUT
x = torch.randn(3, 7, 4).double()  # (B, L, D)


def agrees(network: Recurrent, theirs: nn.Module) -> None:
    """Compare a recurrent network with that of torch.nn, forward and backward."""
    weights = weights_of(theirs)
    assert torch.allclose(network.forward(x, weights)[0], theirs(x)[0], atol=1e-12)
    errors = gradient_errors(network.forward, network.backward, x, weights)
    assert all(error < 1e-10 for error in errors.values())


def spoiled(network: Recurrent, theirs: nn.Module, spoil: Callable) -> dict[str, float]:
    """Return the judge's verdict on a step back that was given something wrong."""
    def wrong_step(grad: State, cache: tuple, weights: Weights) -> tuple[Weights, State]:
        return network.step_backward(*spoil(grad, cache), weights)

    broken = Recurrent(network.step, wrong_step, network.n_states)
    return gradient_errors(broken.forward, broken.backward, x, weights_of(theirs))


theirs = nn.RNN(4, 5, batch_first=True).double()
agrees(RNN, theirs)
forgot_tanh = spoiled(RNN, theirs, lambda g, c: (g, (c[0], c[1], torch.zeros_like(c[2]))))
assert forgot_tanh["weight_hh"] > 1e-3 and forgot_tanh["x"] > 1e-3
print("RNN: equal to nn.RNN and to autograd over 7 words; without the slope of tanh it is not")

# %% [markdown]
# ### The product of Jacobians
#
# How does the state at word $k$ move the state at a later word $T$? A derivative of a vector by a
# vector is a matrix, the **Jacobian**. For one step it is
#
# $$J_t = \frac{\partial h_t}{\partial h_{t-1}} = \operatorname{diag}(1 - h_t^2) \; W_{hh} ,$$
#
# and by the chain rule, for many steps, it is a **product**:
#
# $$\frac{\partial h_T}{\partial h_k} = J_T \, J_{T-1} \cdots J_{k+1} .$$
#
# The loop above never builds these matrices; it multiplies a vector by one after the other. And a
# product of many similar factors dies or explodes: you remember section 1. Section 10 will measure it.

# %%
check("shared_gradient")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### The product, built · more
#
# For those who want to see the matrices: built, multiplied, and compared with autograd.

# %%
# NBVAL_CHECK_OUTPUT
weights = weights_of(nn.RNN(4, 5).double())
sentence = x[:1]  # (1, 7, 4)
outputs, _ = RNN.forward(sentence, weights)
product = torch.eye(5).double()
for h in outputs[0, 2:]:  # the steps after the second word
    product = torch.diag(1 - h**2) @ weights["weight_hh"] @ product


def rest(h: Tensor) -> Tensor:
    state = (h[None],)
    for x_t in sentence[:, 2:].unbind(dim=1):
        state, _ = rnn_step(x_t, state, weights)
    return state[0][0]


jacobian = torch.autograd.functional.jacobian(rest, outputs[0, 1])
assert torch.allclose(product, jacobian, atol=1e-12)
print("the product of five Jacobians is the derivative of the seventh state by the second")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 9 · A task where order decides · more
#
# For those who want to train with gradients written by hand: an MLP, a convolution and the RNN on one
# task, with cross-entropy, clipping and Adam.

# %% [markdown]
# From the captions we take sentences such as
#
# > two children are dancing **while** a dog is chasing a duck
#
# and turn each around: *a dog is chasing a duck while two children are dancing*. The question: **in
# the first clause, does one person or animal act, or several?** For the sentence the answer is
# *several* (two children), for its twin *one* (a dog). The two hold the same words, so a bag of words
# sees no difference at all. But the answers are opposite.

# %%
def clauses(english: str) -> list[str]:
    """Cut "A while B." or "While B, A." into [A, B] if each has one "is" or "are", else []."""
    text = english.lower().removesuffix(".")
    if text.startswith("while ") and text.count(", ") == 1:
        parts = text.removeprefix("while ").split(", ")[::-1]
    else:
        parts = text.split(" while ")
    verbs = [sum(word in ("is", "are") for word in part.split()) for part in parts]
    return parts if verbs == [1, 1] and "," not in "".join(parts) else []


def question(split: str, opposite: bool = True) -> list[tuple[str, int]]:
    """Return sentences with answers, 1 for several; each one is followed by its turned twin.

    opposite: only twins with opposite answers, one with "is" first and one with "are" first.
    """
    cuts = [cut for _, english in pairs("captions", split) if (cut := clauses(english))]
    cuts = [(a, b) for a, b in cuts if not opposite or ("are" in a.split()) != ("are" in b.split())]
    return [(f"{a} while {b}", int("are" in a.split()))
            for cut in cuts for a, b in (cut, cut[::-1])]


train_set, held_out = question("train"), question("val") + question("test")
twins = [*zip(train_set[::2], train_set[1::2]), *zip(held_out[::2], held_out[1::2])]
assert all(one[1] + two[1] == 1 for one, two in twins)
assert all(sorted(one[0].split()) == sorted(two[0].split()) for one, two in twins)
for text, label in held_out[:2]:
    print(f"{'several' if label else 'one':8} {text}")
print(f"{len(train_set)} sentences to learn from, {len(held_out)} to be asked about")

# %% [markdown]
# The sentences that we ask about were **held out**: no network ever learns from them. A network
# that only remembers its examples fails there.
#
# Words become numbers. Short sentences are filled up at the **front** with the word 0, so that all
# sentences of a batch have the same length and the last word stands last. A word that training
# never showed becomes 1, "unknown".

# %%
seen = sorted({word for text, _ in question("train", False) for word in text.split()})
vocabulary = {"(fill)": 0, "(unknown)": 1} | {word: i for i, word in enumerate(seen, 2)}


def as_ids(sentences: Sequence[str]) -> Tensor:
    rows = [[vocabulary.get(word, 1) for word in text.split()] for text in sentences]
    longest = max(map(len, rows))
    return torch.tensor([[0] * (longest - len(row)) + row for row in rows])  # (B, L)


assert (as_ids(["a dog", "the dog is"])[:, 0] == torch.tensor([0, vocabulary["the"]])).all()
print(f"{len(vocabulary)} words; {as_ids(['a dog', 'the dog is']).tolist()}")

# %% [markdown]
# ### A loss for yes and no
#
# The network ends in one number, the **score** $s$: large for "several", small for "one". The
# **sigmoid** makes a probability of it:
#
# $$p = \sigma(s) = \frac{1}{1 + e^{-s}} .$$
#
# The right answer is $y = 1$ or $y = 0$. The loss is $-\log$ of the probability that the network
# gave to the right answer: $-\log p$ or $-\log(1 - p)$. Being sure and wrong is expensive. This is
# the **cross-entropy**. Put $p$ in; a little algebra gives
#
# $$\mathcal{L} = \log(1 + e^s) - y s , \qquad
# \frac{\partial \mathcal{L}}{\partial s} = \frac{e^s}{1 + e^s} - y = p - y .$$
#
# What you said minus what is right: the simplest gradient of this page. A network that knows
# nothing says $p = 1/2$ and pays $\log 2 \approx 0.69$. (Our logarithms are natural; a loss that is
# measured with them has the unit **nat**.)

# %%
#| export
def logistic_loss(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy [nats] of yes-or-no answers, and the gradient of the scores.

    scores (B,), labels (B,) of 0 and 1 -> loss (), gradient (B,).
    """
    loss = (F.softplus(scores) - labels * scores).mean()  # softplus(s) is log(1 + e^s)
    return loss, (scores.sigmoid() - labels) / len(scores)

# %%
# NBVAL_CHECK_OUTPUT
scores = torch.randn(6).double().requires_grad_()
labels = torch.tensor([0.0, 1, 1, 0, 1, 0]).double()
loss, grad = logistic_loss(scores, labels)
expected = F.binary_cross_entropy_with_logits(scores, labels)
assert torch.allclose(loss, expected, atol=1e-12)
assert torch.allclose(grad, torch.autograd.grad(expected, scores)[0], atol=1e-12)
assert abs(logistic_loss(torch.zeros(4), labels[:4])[0] - math.log(2)) < 1e-6
print("equal to PyTorch's; knowing nothing costs log 2 = 0.69")

# %% [markdown]
# ### One frame, several readers
#
# Every reader has the same frame: an embedding table, then a **body** that makes one vector of the
# sentence, then a linear layer that makes a score of it. The body is one of our pairs, forward and
# backward. Three bodies:
#
# - **bag**: the mean of the embeddings, then the MLP of section 4;
# - **window**: a convolution with K = 3, a ReLU, then the mean over the places;
# - **RNN**: the last hidden state.

# %%
def bag_forward(x: Tensor, weights: Weights) -> tuple[Tensor, tuple]:
    output, cache = mlp_forward(x.mean(dim=1), weights)  # (B, H)
    return output, (x, cache)


def bag_backward(grad: Tensor, cache: tuple, weights: Weights) -> Weights:
    grads = mlp_backward(grad, cache[1], weights)
    return grads | {"x": (grads["x"][:, None] / cache[0].size(1)).expand_as(cache[0])}


def window_forward(x: Tensor, weights: Weights) -> tuple[Tensor, tuple]:
    places, cache = conv1d_forward(x, weights)  # (B, P, H)
    return places.clamp(min=0).mean(dim=1), (places, cache)


def window_backward(grad: Tensor, cache: tuple, weights: Weights) -> Weights:
    places, inner = cache
    return conv1d_backward(grad[:, None] * (places > 0) / places.size(1), inner, weights)


def last_state(network: Recurrent) -> tuple[Callable, Callable]:
    """Return forward and backward of a network of which only the last state is used."""
    def forward(x: Tensor, weights: Weights) -> tuple[Tensor, tuple]:
        outputs, caches = network.forward(x, weights)
        return outputs[:, -1], (outputs.shape, caches)  # (B, H)

    def backward(grad: Tensor, cache: tuple, weights: Weights) -> Weights:
        grad_outputs = grad.new_zeros(cache[0])
        grad_outputs[:, -1] = grad
        return network.backward(grad_outputs, cache[1], weights)

    return forward, backward


# %% [markdown]
# New pairs, so the judge must hear them before they are used:

# %%
# NBVAL_CHECK_OUTPUT
D, H = 16, 32
bodies = {
    "bag of words": ((bag_forward, bag_backward),
                     nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, H))),
    "window of 3": ((window_forward, window_backward), nn.Conv1d(D, H, 3)),
    "RNN": (last_state(RNN), nn.RNN(D, H)),
}
x = torch.randn(3, 9, D).double()
for name, (pair, module) in bodies.items():
    errors = gradient_errors(*pair, x, {n: w.double() for n, w in weights_of(module).items()})
    assert all(error < 1e-10 for error in errors.values())
    print(f"{name}: equal to autograd")

# %% [markdown]
# The whole gradient: loss, output layer, body, table, each by a function of this page. We also
# **clip**: if the gradient as one long vector is longer than a limit, it is shortened to the limit.
# One wild batch can then not throw the weights away (Pascanu, Mikolov and Bengio 2013).

# %%
#| export
def clip_gradients(grads: Weights, limit: float) -> Weights:
    """Scale all gradients by one factor so that their common norm is at most `limit`."""
    norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
    return {name: grad * (limit / norm).clamp(max=1) for name, grad in grads.items()}

# %%
@dataclass
class Reader:
    """An embedding table, a body (forward, backward) with weights, and one score."""

    pair: tuple[Callable, Callable]
    body: Weights
    ends: Weights  # table (V, D), weight (1, H), bias (1,)

    def scores(self, ids: Tensor) -> tuple[Tensor, tuple]:
        x = self.ends["table"][ids]  # (B, L, D)
        summary, cache = self.pair[0](x, self.body)  # (B, H)
        return linear(summary, self.ends["weight"], self.ends["bias"])[:, 0], (summary, cache)

    def gradients(self, ids: Tensor, labels: Tensor) -> tuple[float, Weights, Weights]:
        scores, (summary, cache) = self.scores(ids)
        loss, grad = logistic_loss(scores, labels)
        grad, weight, bias = linear_backward(grad[:, None], summary, self.ends["weight"])
        body = self.pair[1](grad, cache, self.body)
        table = embedding_backward(body.pop("x"), ids, self.ends["table"])
        return loss.item(), body, {"table": table, "weight": weight, "bias": bias}


def new_reader(pair: tuple[Callable, Callable], weights: Weights, n_words: int) -> Reader:
    ends = {"table": torch.randn(n_words, D), "weight": torch.randn(1, H) / H**0.5,
            "bias": torch.zeros(1)}
    return Reader(pair, {name: tensor.clone() for name, tensor in weights.items()}, ends)


# %% [markdown]
# The training loop is that of section 1, with three changes.
#
# - Each step looks at a small random **batch** of 64 sentences, not at all of them. The gradient is
#   a little wrong, but much cheaper, so we can afford many more steps.
# - The gradient is clipped.
# - The step is made by **Adam** (Kingma and Ba 2015): gradient descent that gives each weight its
#   own step size. The paper uses it too; lesson 07 takes it apart. It wants each weight's gradient
#   in `.grad`, and we put there what we computed by hand. Autograd does not run.

# %%
def train(reader: Reader, make_batch: Callable[[], tuple[Tensor, Tensor]], steps: int,
          rate: float = 0.01) -> list[float]:
    """Train on `steps` batches of (ids, labels); return the loss of each [nats]."""
    everything = [*reader.body.values(), *reader.ends.values()]
    optimiser, losses = torch.optim.Adam(everything, lr=rate), []
    for _ in range(steps):
        loss, body, ends = reader.gradients(*make_batch())
        grads = {f"body.{name}": body[name] for name in reader.body}
        grads = clip_gradients(grads | {name: ends[name] for name in reader.ends}, limit=1.0)
        for tensor, grad in zip(everything, grads.values()):
            tensor.grad = grad
        optimiser.step()
        losses.append(loss)
    return losses


# %% [markdown]
# Three small helpers: draw a batch of captions, count right answers, and make a new reader and train
# it.

# %%
def captions_batch(
    data: Sequence[tuple[str, int]], random: torch.Generator
) -> tuple[Tensor, Tensor]:
    chosen = torch.randint(len(data), (64,), generator=random).tolist()
    return as_ids([data[i][0] for i in chosen]), torch.tensor([float(data[i][1]) for i in chosen])


def share_right(reader: Reader, sentences: Sequence[str], labels: Sequence[int]) -> float:
    """Return how many of the answers are right, from 0 to 1; a score above 0 says "several"."""
    said = reader.scores(as_ids(sentences))[0] > 0
    return (said == torch.tensor(labels).bool()).double().mean().item()


def learn(
    pair: tuple[Callable, Callable], weights: Weights, data: Sequence[tuple[str, int]]
) -> tuple[Reader, list[float]]:
    reader = new_reader(pair, weights, len(vocabulary))
    random = torch.Generator().manual_seed(0)
    steps = by_scale(smoke=120, cpu=250, gpu=300)
    return reader, train(reader, lambda: captions_batch(data, random), steps)


ids, labels = captions_batch(train_set, torch.Generator().manual_seed(0))
assert len(ids) == len(labels) == 64 and set(labels.tolist()) == {0.0, 1.0}
print("a batch:", tuple(ids.shape), "words and", tuple(labels.shape), "answers")

# %% [markdown]
# **Guess first:** which of the three gets above 90 %? (One of the answers may surprise you.)

# %%
mine = None  # your guess: how many of the three, 0 to 3

# %%
torch.manual_seed(0)
texts, answers = zip(*held_out)
readers, losses = {}, {}
for name, (pair, module) in bodies.items():
    readers[name], losses[name] = learn(pair, weights_of(module), train_set)
right = {name: share_right(reader, texts, answers) for name, reader in readers.items()}
draw.order_task(losses, right)

# %%
# NBVAL_CHECK_OUTPUT
scores = readers["bag of words"].scores(as_ids(texts))[0]  # each sentence is followed by its twin
assert torch.allclose(scores[::2], scores[1::2], atol=1e-4)
assert abs(right["bag of words"] - 0.5) < 0.02
assert right["window of 3"] > 0.9 and right["RNN"] > 0.95
assert sum(losses["bag of words"][-20:]) / 20 > 0.66
assert sum(losses["RNN"][-20:]) / 20 < 0.1
print("bag of words: one half; window and RNN: far above")

# %%
compare(mine, sum(share > 0.9 for share in right.values()), "01: readers above 90 %")

# %% [markdown]
# The bag gives one half: the two twins get the same score, so one of the two answers is
# wrong. No training can change that, and its loss stays at $\log 2$. The RNN answers (nearly) all.
#
# But the window? It takes a *mean* over its places, so it has no order beyond three words. How can
# it know which clause is the first? **Guess first:** what do you see in a window of three that tells
# you?
#
# A suspicion: it does not look for the first clause at all. It looks at the words beside *while*
# ("while two"), and beside the filling at the front ("(fill) two"). We can test it. We put *in the
# park* in front of both clauses: *in the park two children are dancing while in the park a dog is
# chasing a duck*. For you the question is as easy as before.

# %%
moved = [" while ".join(f"in the park {part}" for part in text.split(" while ")) for text in texts]
after = {name: share_right(reader, moved, answers) for name, reader in readers.items()}
assert after["RNN"] > 0.9 and after["window of 3"] < 0.75
print(moved[0])
print({name: f"{right[name]:.0%} -> {share:.0%}" for name, share in after.items()})

# %% [markdown]
# Caught. The window's high number was a trick that works on this corpus. Remember it when you read a high
# number: *ask what the network could see.* A window of three cannot relate words that stand further
# apart; a deeper stack could (section 7), at a price in layers.
#
# > **Try it.** Is the RNN beyond suspicion? Find a way to answer without remembering the first clause
# > at all. (Look at the *last* verb.) Section 11 closes this back door.
#
# <details><summary>Answer</summary>
#
# In each of these sentences exactly one clause has *are*. So if the last verb is *is*, the first clause had
# *are*: answer "several", else "one". This rule is right in all 172 held-out sentences, and it needs a
# memory of a few words only. The high number of the RNN does not show that it remembers the first clause.
#
# </details>

# %% [markdown]
# ## 10 · Far apart is hard to learn
#
# Can an RNN learn what must be remembered over fifty words?
#
# Learning needs a gradient. The gradient that reaches a word $d$ steps back is a product of $d$
# Jacobians $\operatorname{diag}(1 - h_t^2) \, W_{hh}$. Take the $\tanh$ away first: then it is
# $W_{hh}^d$. If $W_{hh}$ turns vectors and stretches each by the factor $\rho$, the gradient has
# exactly the size $\rho^d$:

# %%
# NBVAL_CHECK_OUTPUT
turn = torch.linalg.qr(torch.randn(64, 64).double()).Q  # turns a vector, keeps its length
for rho, expected in ((0.9, 0.9**50), (1.0, 1.0), (1.1, 1.1**50)):
    gradient = torch.ones(1, 64).double() / 8  # length 1
    for _ in range(50):
        gradient = gradient @ (rho * turn)
    assert abs(gradient.norm() / expected - 1) < 1e-9
    print(f"factor {rho}: after 50 steps {gradient.norm():.3g}")

# %% [markdown]
# It is the walk of section 1 again. A factor of 0.9 leaves half a percent; a factor of 1.1 gives
# more than a hundred. This is the **vanishing** and the **exploding gradient** (Hochreiter 1991;
# Bengio, Simard and Frasconi 1994).
#
# Most matrices do not stretch every vector alike. Look at one of size 2 x 2, and at all vectors of
# length 1, a circle. The matrix makes an ellipse of the circle.

# %%
# NBVAL_CHECK_OUTPUT
small = torch.tensor([[0.9, 0.8], [0.0, 0.7]]).double()
stretch = torch.linalg.matrix_norm(small, ord=2).item()  # the longest vector of the ellipse
factors = torch.linalg.eigvals(small).abs()
lengths = [torch.linalg.matrix_norm(torch.linalg.matrix_power(small, d), ord=2).item() for d in range(31)]
assert stretch > 1.2 and factors.max() < 0.91 and lengths[30] < 0.2 < 1 < lengths[1]
assert abs(lengths[30] / lengths[29] - 0.9) < 0.001  # in the end each step has the eigenvalue's factor
print(f"one step: up to {stretch:.2f} times as long; thirty steps: {lengths[30]:.2f} times at most")

# %%
draw.stretching(small, lengths)

# %% [markdown]
# The longest vector of the ellipse is the **norm** of the matrix, $\|W\|$: the largest factor by which
# it stretches any vector in one step. But that vector comes out in another direction, and the next step
# stretches it less. Over many steps another number decides. An **eigenvector** is a vector that the
# matrix only stretches and does not turn; its factor is the **eigenvalue**. Here the eigenvalues are 0.9
# and 0.7. In $W^d$ the largest wins in the end: each further step has the factor 0.9, and the gradient
# fades although the norm is above 1. (If a matrix turns all vectors, its eigenvalues are complex
# numbers. Their size is still the factor of one step.)
#
# With $\tanh$, each step has one more factor $1 - h_t^2 \le 1$, so
#
# $$\left\| \frac{\partial h_T}{\partial h_k} \right\| \le \left\| W_{hh} \right\|^{T-k} .$$
#
# If $\|W_{hh}\|$ is below 1, the gradient **must** vanish. If it is above 1, the gradient **may**
# explode; it need not.
#
# PyTorch draws the weights uniformly between $-1/\sqrt{H}$ and $1/\sqrt{H}$, so their variance is
# $1 / (3H)$ (between $\pm a$ it is $a^2/3$). A theorem about random matrices, the *circular law*, says: $H \times H$ independent
# numbers of variance $v$ and mean 0 have eigenvalues up to a size of about $\sqrt{H v}$. Here that is
# $\sqrt{H / (3H)} = 1/\sqrt{3} \approx 0.58$. (We use it without proof; the claim below measures
# it.) **Guess first:** which share of the gradient arrives after 50 steps?

# %%
mine = None  # your guess: the share that is left, from 0 to 1

# %%
def over_distance(network: Recurrent, weights: Weights, distance: int = 60) -> Tensor:
    """Measure the gradient norm of the word d steps back, that of the last word being 1.

    The words are random vectors; a random gradient enters at the last state. Returns (distance + 1,)
    for d = 0, 1, ..., the mean over 32 sentences.
    """
    random = torch.Generator().manual_seed(0)
    hidden, width = weights["weight_hh"].size(1), weights["weight_ih"].size(1)
    x = torch.randn(32, distance + 1, width, generator=random).double()
    outputs, caches = network.forward(x, weights)
    grad = torch.zeros_like(outputs)
    grad[:, -1] = torch.randn(32, hidden, generator=random)
    norms = network.backward(grad, caches, weights)["x"].norm(dim=2).mean(dim=0).flip(0)
    return norms / norms[0]


def no_slopes(grad_state: State, cache: tuple, weights: Weights) -> tuple[Weights, State]:
    x, h, new = cache
    return rnn_step_backward(grad_state, (x, h, torch.zeros_like(new)), weights)  # 1 - 0 = 1


only_matrix = Recurrent(rnn_step, no_slopes)  # the control: tanh has no slope on the way back


torch.manual_seed(0)
fresh = weights_of(nn.RNN(16, 64).double())
stretched = {scale: fresh | {"weight_hh": scale * fresh["weight_hh"]} for scale in (1, 2, 4)}
rnn_curves = {f"RNN, W_hh times {scale}": over_distance(RNN, weights)
              for scale, weights in stretched.items()}
draw.over_distance([("A simple RNN forgets, or it explodes", rnn_curves)])

# %%
plain, doubled, fourfold = rnn_curves.values()
norm = torch.linalg.matrix_norm(fresh["weight_hh"], ord=2).item()
radius = torch.linalg.eigvals(fresh["weight_hh"]).abs().max().item()
assert norm > 1 and 0.5 < radius < 0.7
assert plain[50] < 1e-9  # vanished
assert 1e-4 < doubled[50] < 1  # on the edge
assert fourfold[50] > 1000  # exploded
print(f"norm of W_hh {norm:.2f}, largest eigenvalue {radius:.2f}; left after 50 steps:")
shares = []
for scale, curve in zip((1, 2, 4), (plain, doubled, fourfold)):
    eigenvalue_alone, straight = (scale * radius) ** 50, over_distance(only_matrix, stretched[scale])[50]
    assert eigenvalue_alone / 20 < straight < eigenvalue_alone
    shares.append(curve[50] / straight)
    print(f"  W_hh times {scale}: eigenvalue alone {eigenvalue_alone:.0e}, without the slopes of tanh "
          f"{straight:.0e}, with them {curve[50]:.0e}")
assert shares[0] < 0.05 and shares[1] < 1e-3 * shares[0] and shares[2] < 1e-3 * shares[1]

# %%
compare(mine, plain[50].item(), "01: an RNN's gradient after 50 steps")

# %% [markdown]
# As PyTorch starts it, less than a billionth arrives: what the loss says about a word fifty steps
# back drowns in what it says about the last few words. With $W_{hh}$ times 4, the far words shout
# more than a thousand times louder than the near ones. In between lies an edge on which the gradient
# lives. But training moves $W_{hh}$ at every step, and nothing holds it on the edge.
#
# In each line less arrives than the eigenvalue says. Where does the rest go? We took the slopes of
# $\tanh$ away on the way back, as a control. A factor of six is missing already
# there (with two other seeds: three), since the gradient that enters is no eigenvector. All that is lost
# beyond that is taken by the slopes, $1 - h_t^2 < 1$, one at each step. A larger $W_{hh}$ makes
# larger states, and these have smaller
# slopes: without them "times 2" explodes, with them it does not.
#
# Against explosion there is a simple cure, **clipping**: a gradient that is too long
# is shortened and keeps its direction. Against vanishing clipping cannot help: you can make a
# small gradient longer, but the far part of it stays a billionth of the near part.
#
# > **Try it.** Search for a factor between 2 and 3 with which the gradient neither fades nor grows
# > over 50 steps. Then change the seed of the weights. Is it still right?
#
# <details><summary>Answer</summary>
#
# 2.50 with seed 0. With the seeds 1 and 2 it is 2.40 and 2.39; at 2.50 these gradients have grown to 1.8 and
# 3.5. So the edge is narrow, and it lies elsewhere for every matrix. It is no cure: training moves
# $W_{hh}$ at each step, and over more words the same factor fades or grows again.
#
#     for factor in (2.3, 2.4, 2.5, 2.6):
#         weights = fresh | {"weight_hh": factor * fresh["weight_hh"]}
#         print(factor, over_distance(RNN, weights)[50].item())
#
# </details>

# %%
check("gradient_fades")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Clipping, checked · more
#
# For those who want proof: our clipping against PyTorch's.

# %%
# NBVAL_CHECK_OUTPUT
module = nn.Linear(3, 2)
for tensor in module.parameters():
    tensor.grad = 100 * torch.randn(tensor.shape)
wild = {name: tensor.grad.clone() for name, tensor in module.named_parameters()}
clipped = clip_gradients(wild, limit=1.0)
nn.utils.clip_grad_norm_(module.parameters(), 1.0)
assert all(torch.allclose(clipped[name], t.grad) for name, t in module.named_parameters())
assert torch.equal(clip_gradients(clipped, limit=5.0)["weight"], clipped["weight"])  # short enough
assert torch.allclose(F.cosine_similarity(wild["bias"], clipped["bias"], dim=0), torch.tensor(1.0))
print("as nn.utils.clip_grad_norm_: shorter, in the same direction")

# %% [markdown]
# ## 11 · LSTM: a memory with gates
#
# **The question:** can a state be carried over many steps *without* being multiplied by a matrix and
# bent by a $\tanh$ each time?
#
# Hochreiter and Schmidhuber (1997) gave the network a second state, $c$, that is changed by *adding*.
# In an LSTM the word **cell** means this state, and from here on we use it so. Whether and how much
# is decided by **gates**. A gate is a vector of numbers
# between 0 and 1, made by a sigmoid, $\sigma(a) = 1/(1+e^{-a})$, from the word and the old state; it is
# multiplied, number by number, with what wants to pass. 0 is shut, 1 is open. In today's form, with the forget gate of
# Gers, Schmidhuber and Cummins (2000), there are three gates and one proposal:
#
# | | formula | what it decides |
# |---|---|---|
# | input gate | $i = \sigma(W_{i} x_t + U_{i} h_{t-1} + b_i)$ | how much of the new is written |
# | forget gate | $f = \sigma(W_{f} x_t + U_{f} h_{t-1} + b_f)$ | how much of the old is **kept** |
# | proposal | $g = \tanh(W_{g} x_t + U_{g} h_{t-1} + b_g)$ | the new |
# | output gate | $o = \sigma(W_{o} x_t + U_{o} h_{t-1} + b_o)$ | how much of the cell is shown |
#
# $$c_t = f \odot c_{t-1} + i \odot g , \qquad h_t = o \odot \tanh(c_t) .$$
#
# (The forget gate has the wrong name: open means *keep*.) In code the four matrices $W$ stand on top
# of each other in one, `weight_ih`, in PyTorch's order i, f, g, o, and the four $U$ in `weight_hh`.
# One product makes all four. Each $b$ is the sum of PyTorch's two biases.
#
# **The way back.** We are given $g^{h}$ and $g^{c}$, the gradients of the new $h$ and the new $c$.
# (Mind the letter: $g$ with a letter on top is a gradient, as before; $g$ alone is the proposal.)
#
# 1. Through $h = o \odot \tanh(c)$. A product hands on its gradient times the other factor:
#    $\;g^o = g^h \odot \tanh(c)$. And $c$ gets a second gradient, which is added:
#    $\;g^c \leftarrow g^c + g^h \odot o \odot (1 - \tanh^2 c)$.
# 2. Through $c = f \odot c_{t-1} + i \odot g$:
#    $\;g^i = g^c \odot g$, $\;g^f = g^c \odot c_{t-1}$, $\;g^g = g^c \odot i$, and for the old cell
#    **$\;g^{c_{t-1}} = g^c \odot f$.** No matrix, no bend.
# 3. Through the bends. The slope of the sigmoid is $\sigma (1 - \sigma)$. With the code's names for
#    the gradients before the bends:
#    `grad_i` $= g^i \odot i \odot (1 - i)$, `grad_f` $= g^f \odot f \odot (1 - f)$,
#    `grad_g` $= g^g \odot (1 - g^2)$, `grad_o` $= g^o \odot o \odot (1 - o)$.
# 4. Through the two linear layers: `gates_backward`, as before.

# %%
#| export
def lstm_step(x: Tensor, state: State, weights: Weights) -> tuple[State, tuple]:
    """Read one word: x (B, D), state (h, c), each (B, H) -> new state, cache.

    weights: weight_ih (4H, D), weight_hh (4H, H), bias_ih, bias_hh (4H,), as in nn.LSTMCell, the
    gates in the order i, f, g, o. Hochreiter and Schmidhuber 1997; Gers et al. 2000.
    """
    h, c = state
    from_x = linear(x, weights["weight_ih"], weights["bias_ih"])  # (B, 4H)
    from_h = linear(h, weights["weight_hh"], weights["bias_hh"])  # (B, 4H)
    i, f, g, o = (from_x + from_h).chunk(4, dim=1)  # (B, H) each
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new_c = f * c + i * g
    return (o * new_c.tanh(), new_c), (x, h, c, i, f, g, o, new_c)


def lstm_step_backward(grad_state: State, cache: tuple, weights: Weights) -> tuple[Weights, State]:
    """Return the gradients of x and the weights, by name, and of the old h and c."""
    (grad_h, grad_c), (x, h, c, i, f, g, o, new_c) = grad_state, cache
    shown = new_c.tanh()
    grad_c = grad_c + grad_h * o * (1 - shown**2)  # (B, H) two gradients meet at c
    grad_i = grad_c * g * i * (1 - i)
    grad_f = grad_c * c * f * (1 - f)
    grad_g = grad_c * i * (1 - g**2)
    grad_o = grad_h * shown * o * (1 - o)
    grad_gates = torch.cat([grad_i, grad_f, grad_g, grad_o], dim=1)  # (B, 4H)
    grads, grad_h = gates_backward(grad_gates, grad_gates, x, h, weights)
    return grads, (grad_h, grad_c * f)


LSTM = Recurrent(lstm_step, lstm_step_backward, n_states=2)

# %%
# NBVAL_CHECK_OUTPUT
x = torch.randn(3, 7, 4).double()
theirs = nn.LSTM(4, 5, batch_first=True).double()
agrees(LSTM, theirs)
lost_cell = spoiled(LSTM, theirs, lambda g, c: ((g[0], torch.zeros_like(g[1])), c))
assert lost_cell["weight_ih"] > 1e-3
wrong_sign = spoiled(LSTM, theirs, lambda g, c: ((g[0], -g[1]), c))
assert wrong_sign["weight_ih"] > 1e-3
print("LSTM: equal to nn.LSTM and to autograd; the cell's way back forgotten or turned: found")

# %% [markdown]
# ### What is new on the way back?
#
# **Along the cell alone**, $g^{c_{t-1}} = g^{c_t} \odot f_t$. Over many steps a gradient meets exactly
# the product
#
# $$f_T \odot f_{T-1} \odot \cdots \odot f_{k+1} .$$
#
# (The gates depend on $h$, which opens more paths; section 13 measures how much comes through them.)
# It is still a product! But its factors are **gates**: each number of the cell has its own, and the
# network *learns* them. Where
# the forget gate is 1, the gradient passes unchanged, for as long as the network likes. The RNN has
# one matrix for all times and all purposes.
#
# The network can start with a gate that is open: it is enough to raise its bias.

# %%
def opened(module: nn.Module, bias: float) -> Weights:
    """Copy the weights of an LSTM or GRU and raise the bias of its keeping gate, the second one."""
    weights, hidden = weights_of(module), module.hidden_size
    weights["bias_ih"][hidden : 2 * hidden] += bias
    return weights


# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Watch a gate decide · more
#
# For those who did section 9: an LSTM learns to remember the first clause, and we look where it keeps it.

# %% [markdown]
# First we must close a back door. In section 9 exactly one clause had
# *are*, so the *last* verb gives the answer away: nobody had to remember the first one. Now we learn
# from all captions with two clauses, also those with *is* and *is*, or *are* and *are*. In these the
# last verb proves nothing: the **first** one must be carried to the end, past the second.
#
# We ask about held-out captions of both kinds. How far could a reader come who knows the last verb and
# nothing else? The next cell counts it. The forget gate starts with bias 1, so that it is
# $\sigma(1) = 0.73$ open instead of $\sigma(0) = 0.5$ (section 13 says why).

# %%
torch.manual_seed(0)
fair_set = question("train", opposite=False)
fair_texts, fair_answers = zip(*question("val", opposite=False), *question("test", opposite=False))
reader, _ = learn(last_state(LSTM), opened(nn.LSTM(D, H), 1), fair_set)
fair_right = share_right(reader, fair_texts, fair_answers)

last_verbs = [[word for word in text.split() if word in ("is", "are")][-1] for text in fair_texts]
cases = Counter(zip(last_verbs, fair_answers))
by_last_verb = sum(max(cases[verb, 0], cases[verb, 1]) for verb in ("is", "are")) / len(fair_texts)
assert fair_right > 0.9 and by_last_verb < 0.7
print(f"{len(fair_set)} sentences to learn from; of {len(fair_texts)} held-out ones the LSTM answers "
      f"{fair_right:.0%},\nthe best that the last verb alone allows is {by_last_verb:.0%}")

# %% [markdown]
# The back door is closed: the LSTM remembers the first clause. Where? We read the trained network's
# cache. Which of its 32 units knows who came first? We go back to the twins of section 9, whose
# answers are opposite, and take the unit whose cell differs most between the two.

# %%
_, caches = LSTM.forward(reader.ends["table"][as_ids(texts)], reader.body)
_, _, _, i_gates, f_gates, _, o_gates, cells = (torch.stack(part, dim=1) for part in zip(*caches))
final = cells[:, -1]  # (sentences, H) the cells after the last word
unit = (final[0::2] - final[1::2]).abs().mean(dim=0).argmax().item()
several = torch.tensor(answers) == 1
sign = 1 if final[several, unit].mean() > final[~several, unit].mean() else -1
held, opening, growing = [], [], []
for text, is_several, f, c in zip(texts, several, f_gates[..., unit], cells[..., unit]):
    rest = len(text.split()) - text.split().index("while")  # from "while" to the end
    held.append(((sign * c[-rest:] > 0) == is_several).double().mean().item())
    opening.append(f[-rest:].mean().item())
    growing.append(bool(c[-1].abs() > c[-rest].abs()))
held, opening, growing = (sum(part) / len(part) for part in (held, opening, growing))
assert held > 0.85 and opening > 0.7 and growing > 0.5
print(f'from "while" on: the sign of this one cell is right in {held:.0%} of the words, '
      f"and its forget gate is {opening:.2f} open;\nin {growing:.0%} of the sentences its size still grows")

# %%
shortest = min(range(0, len(texts), 2), key=lambda n: len(texts[n]))
shown = []
for n in (shortest, shortest + 1):
    words = texts[n].split()
    i, f, o, c = (part[n, -len(words):, unit] for part in (i_gates, f_gates, o_gates, cells))
    shown.append((words, {"input gate i": i, "forget gate f": f, "output gate o": o}, sign * c))
draw.gates(shown, "The first clause sets the cell's sign; the second clause does not turn it around")

# %% [markdown]
# One number of the cell has become a memory for one fact. The first clause sets its sign, up or down.
# The second verb, with the opposite message, does not turn it around. In most sentences the size even
# goes on growing, for the input gate is open as well. The open forget gate keeps what is there, and what
# the second clause writes has the sign that the first one chose. Keeping and writing work together.
# Nobody told the network to build such a thing. (The sign of a unit has no meaning by itself; we drew
# it so that "several" is up.)

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 12 · GRU: the same idea with less · more
#
# For those who want a second gated unit: one state and two gates.
#
# **The question:** does it need two states and three gates?
#
# Cho et al. (2014) built this unit to score pairs of phrases inside a statistical translation system; its
# name, **gated recurrent unit**, came later in that year (Chung et al. 2014). It has one state and two gates:
#
# $$\begin{aligned}
# r &= \sigma(W_r x_t + b_r + U_r h_{t-1} + b'_r) && \text{reset gate} \\
# z &= \sigma(W_z x_t + b_z + U_z h_{t-1} + b'_z) && \text{update gate} \\
# n &= \tanh(W_n x_t + b_n + r \odot u) , \quad u = U_n h_{t-1} + b'_n && \text{proposal} \\
# h_t &= (1 - z) \odot n + z \odot h_{t-1}
# \end{aligned}$$
#
# The new state is a *weighted mean* of the old one and the proposal: what is kept and what is
# written sum to one. So $z$ is forget gate and input gate in one; open means keep, as in the LSTM.
#
# **A trap.** In the article the reset gate acts on $h_{t-1}$ *before* the matrix:
# $U_n (r \odot h_{t-1})$. PyTorch applies it *after*, to $u$, with its bias inside. The second form
# needs one matrix product for all three blocks, so it is faster. The two are different functions:
# weights trained for one are wrong for the other.
#
# **The way back**, from $g^h$, the gradient of $h_t$:
#
# 1. Through the weighted mean: $\;g^n = g^h \odot (1 - z)$, $\;g^z = g^h \odot (h_{t-1} - n)$, and
#    straight to the old state $\;g^h \odot z$.
# 2. Through the $\tanh$ of $n$, to its argument $a$: $\;g^a = g^n \odot (1 - n^2)$, `grad_n` in the
#    code. It goes to $W_n x_t + b_n$ as it is, to $u$ as $\;g^a \odot r$, and to the reset gate as
#    $\;g^r = g^a \odot u$.
# 3. Through the sigmoids: `grad_r` $= g^r \odot r \odot (1 - r)$,
#    `grad_z` $= g^z \odot z \odot (1 - z)$.
# 4. Through the two linear layers. This time their gradients are *not* the same: in the third block
#    the one on $h$ has the factor $r$.

# %%
#| export
def gru_step(x: Tensor, state: State, weights: Weights) -> tuple[State, tuple]:
    """Read one word: x (B, D), state (h,) with h (B, H) -> new state, cache.

    weights: weight_ih (3H, D), weight_hh (3H, H), bias_ih, bias_hh (3H,), as in nn.GRUCell, the
    blocks in the order r, z, n. As PyTorch, r acts after the matrix. Cho et al. 2014.
    """
    (h,) = state
    x_r, x_z, x_n = linear(x, weights["weight_ih"], weights["bias_ih"]).chunk(3, dim=1)  # (B, H)
    h_r, h_z, h_n = linear(h, weights["weight_hh"], weights["bias_hh"]).chunk(3, dim=1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    n = (x_n + r * h_n).tanh()
    return ((1 - z) * n + z * h,), (x, h, r, z, n, h_n)


def gru_step_backward(grad_state: State, cache: tuple, weights: Weights) -> tuple[Weights, State]:
    """Return the gradients of x and the weights, by name, and of the old state."""
    (grad,), (x, h, r, z, n, h_n) = grad_state, cache
    grad_n = grad * (1 - z) * (1 - n**2)  # (B, H)
    grad_z = grad * (h - n) * z * (1 - z)
    grad_r = grad_n * h_n * r * (1 - r)
    grad_ih = torch.cat([grad_r, grad_z, grad_n], dim=1)  # (B, 3H)
    grad_hh = torch.cat([grad_r, grad_z, grad_n * r], dim=1)
    grads, grad_h = gates_backward(grad_ih, grad_hh, x, h, weights)
    return grads, (grad_h + grad * z,)


GRU = Recurrent(gru_step, gru_step_backward)

# %%
# NBVAL_CHECK_OUTPUT
theirs = nn.GRU(4, 5, batch_first=True).double()
agrees(GRU, theirs)
swapped = spoiled(GRU, theirs, lambda g, c: (g, (c[0], c[1], c[3], c[2], *c[4:])))  # r and z
assert swapped["weight_ih"] > 1e-3


def article_step(x: Tensor, h: Tensor, weights: Weights) -> Tensor:
    """The GRU of the article: the reset gate before the matrix."""
    r, z = gru_step(x, (h,), weights)[1][2:4]
    x_n = linear(x, weights["weight_ih"], weights["bias_ih"]).chunk(3, dim=1)[2]
    h_n = linear(r * h, weights["weight_hh"], weights["bias_hh"]).chunk(3, dim=1)[2]
    return (1 - z) * (x_n + h_n).tanh() + z * h


weights, h = weights_of(theirs), torch.randn(3, 5).double()
assert (article_step(x[:, 0], h, weights) - gru_step(x[:, 0], (h,), weights)[0][0]).abs().max() > 1e-3
sizes = {name: sum(w.numel() for w in weights_of(kind(16, 32)).values())
         for name, kind in (("RNN", nn.RNN), ("GRU", nn.GRU), ("LSTM", nn.LSTM))}
assert sizes["GRU"] == 3 * sizes["RNN"] and sizes["LSTM"] == 4 * sizes["RNN"]
print("GRU: equal to nn.GRU and to autograd; the article's form is another function")
print("weights, D 16 and H 32:", sizes)

# %% [markdown]
# ## 13 · Who carries a gradient further?
#
# Now the RNN, the LSTM and the GRU (folded section 12: one state, and a gate $z$ that says how much of it
# is kept) beside each other, with the same measurement as in section 10. **Guess first:** PyTorch
# starts an LSTM with biases around 0. How open is the forget gate then, and what is left after 50
# steps? And if its bias starts at 1, or at 3? (The advice to start at 1 is that of
# Jozefowicz, Zaremba and Sutskever 2015; Gers et al. 2000 gave each block of cells another start. In the
# GRU the same place belongs to the update gate $z$.)

# %%
mine = None  # your guess: what is left after 50 steps of an LSTM with forget bias 1, from 0 to 1

# %%
torch.manual_seed(0)
lstm, gru = nn.LSTM(16, 64).double(), nn.GRU(16, 64).double()
as_started = {"RNN": plain, "LSTM": over_distance(LSTM, opened(lstm, 0)),
              "GRU": over_distance(GRU, opened(gru, 0))}
gates_open = {"RNN": plain, "LSTM, forget bias 1": over_distance(LSTM, opened(lstm, 1)),
              "GRU, update bias 1": over_distance(GRU, opened(gru, 1)),
              "LSTM, forget bias 3": over_distance(LSTM, opened(lstm, 3)),
              "RNN, W_hh times 2": doubled}
draw.over_distance([("As PyTorch starts them, all three forget", as_started),
                    ("A more open gate: more gradient comes back", gates_open)])

# %%
assert as_started["LSTM"][50] < 1e-8 and as_started["GRU"][50] < 1e-8
assert gates_open["LSTM, forget bias 1"][50] > 1e8 * plain[50]
assert gates_open["GRU, update bias 1"][50] > 1e5 * plain[50]
wide_open = gates_open["LSTM, forget bias 3"]
assert wide_open[50] > 0.3 and wide_open.min() > 0.2 and wide_open[60] > 2 * wide_open.min()
assert doubled[50] > 10 * gates_open["LSTM, forget bias 1"][50]  # the stretched RNN, at the start
for name, curve in (as_started | gates_open).items():
    print(f"{name:22} after 50 steps: {curve[50]:.0e}")

# %%
compare(mine, gates_open["LSTM, forget bias 1"][50].item(), "01: an LSTM's gradient after 50 steps")

# %% [markdown]
# In a fresh LSTM the forget gate gets small random numbers, so $f \approx \sigma(0) = 0.5$: it begins
# forgetful, too! The cure is one number. With the **forget gate's bias at 1** the gate starts at
# $\sigma(1) = 0.73$, with 3 at $\sigma(3) = 0.95$.
#
# Did you guess $0.5^{50} \approx 10^{-15}$, $0.73^{50} \approx 10^{-7}$ and $0.95^{50} \approx 0.1$?
# Much more has arrived. The estimate takes all gates as equal, and it follows the cell alone: it
# leaves out the paths through $h$, which decides about the gates of the next word. Which of the two
# matters? We cut the paths through $h$ on the way back, and measure again:

# %%
def along_the_cell(grad_state: State, cache: tuple, weights: Weights) -> tuple[Weights, State]:
    grads, (grad_h, grad_c) = lstm_step_backward(grad_state, cache, weights)
    return grads, (torch.zeros_like(grad_h), grad_c)  # nothing comes back through h


cell_alone = Recurrent(lstm_step, along_the_cell, n_states=2)
for bias in (0, 1, 3):
    estimate = (1 / (1 + math.exp(-bias))) ** 50
    alone = over_distance(cell_alone, opened(lstm, bias))[50].item()
    whole = over_distance(LSTM, opened(lstm, bias))[50].item()
    off = max(alone / estimate, estimate / alone)
    assert off < 50 and whole > 5 * alone
    print(f"forget bias {bias}: estimate {estimate:.0e}, the cell alone {alone:.0e} (a factor of "
          f"{off:.1f} from it), with the paths through h {whole:.0e}")

# %% [markdown]
# For the cell alone the estimate is right within a factor of 50, where the three starts differ by many
# powers of ten. Of what arrives, at least four fifths have come through $h$: that is what the cell
# asserts. It also
# agrees with the curve for bias 3 in the picture: it falls to a third, and then it *climbs*, to almost 1
# at 60 steps. Where the gates hardly fade anything, what comes through $h$ is added at every step.
#
# Read the right panel honestly. With forget bias 1, about a billion times as much gradient comes back
# over 50 steps as in the RNN. But the LSTM wins **because of where we started its gate**, not because
# of its name. And the stretched RNN from section 10 holds its gradient better than an LSTM with bias
# 1, at this first moment.

# %%
check("forget_gate")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Who can learn? · more
#
# For those who did section 9: a task that needs nothing but memory, for four networks.

# %% [markdown]
# So the question is not only who carries a gradient at the start, but who can *learn*. The next task
# needs nothing but memory: the first word is A or B, then come $d$ words of noise, and then we ask
# which it was. The gates start with bias 6: a step keeps $\sigma(6) \approx 0.998$, and fifty steps keep
# $0.998^{50} \approx 0.9$. The RNN starts as PyTorch starts it. And one LSTM starts with bias 0, so
# that we see what the name alone is worth.

# %%
def noise_batch(distance: int, random: torch.Generator, n: int = 64) -> tuple[Tensor, Tensor]:
    """Return sentences (n, distance + 1): word 0 or 1, then noise, words 2 to 7; and the answers."""
    ids = torch.randint(2, 8, (n, distance + 1), generator=random)
    labels = torch.randint(2, (n,), generator=random)
    ids[:, 0] = labels
    return ids, labels.float()


def remembers(network: Recurrent, weights: Weights, distance: int) -> float:
    """Train on the memory task; return the share of right answers on 500 fresh sentences."""
    reader = new_reader(last_state(network), weights, 8)
    random = torch.Generator().manual_seed(1)
    train(reader, lambda: noise_batch(distance, random), by_scale(smoke=100, cpu=150, gpu=200))
    ids, labels = noise_batch(distance, random, n=500)
    return ((reader.scores(ids)[0] > 0) == labels.bool()).double().mean().item()


gaps = [5, 10, 20, 30, 50][:: by_scale(smoke=4, cpu=1, gpu=1)]  # words of noise
torch.manual_seed(0)
starts = {"RNN": (RNN, weights_of(nn.RNN(D, H))),
          "LSTM, forget bias 0": (LSTM, opened(nn.LSTM(D, H), 0)),
          "LSTM, forget bias 6": (LSTM, opened(nn.LSTM(D, H), 6)),
          "GRU, update bias 6": (GRU, opened(nn.GRU(D, H), 6))}
recalled = {name: [remembers(*start, gap) for gap in gaps] for name, start in starts.items()}
draw.memory(gaps, recalled)

# %%
for name, shares in recalled.items():
    if "bias 6" in name:
        assert min(shares) > 0.95
    else:
        assert shares[0] > 0.95 and all(s < 0.65 for gap, s in zip(gaps, shares) if gap >= 20)
    print(f"{name:19} right over {gaps[0]} words: {shares[0]:.0%}, over {gaps[-1]}: {shares[-1]:.0%}")

# %% [markdown]
# The task is easy, one bit. All four got the same number of steps at every distance. The networks
# with open gates learned it at every distance, in one run each. The simple RNN is at guessing from
# distance 20 on: almost no gradient arrives, and almost nothing is learned. And so is the LSTM with
# bias 0: **the start decides, not the name.** (With luck an RNN may find its way, since training moves
# its weights too.)
#
# > **Try it.** Give `remembers` the LSTM with bias 3 and $d = 50$, with four seeds. Does it learn
# > always, never, or sometimes? Then the RNN with $W_{hh}$ times 2.
#
# <details><summary>Answer</summary>
#
# Sometimes. With bias 3 three seeds of four end at 100 %, and one at 52 %, which is guessing. The RNN with
# $W_{hh}$ times 2 stays at guessing with all four seeds (50 to 52 %), although section 10 found more of its
# gradient left after 50 steps than of an LSTM with bias 1. A gradient that arrives at the start is needed; it
# is not enough.
#
# </details>

# %% [markdown]
# ## 14 · What the paper says about all this
#
# Put together what we have measured, for two words that stand $n$ words apart:
#
# | network | how far must a signal walk? | what happens on the way | can all places be computed at once? |
# |---|---|---|---|
# | bag of words | 1 step | order is lost | yes |
# | plain convolutions (ConvS2S) | $n / (K - 1)$ layers | a layer each | yes |
# | dilated convolutions (ByteNet) | about $\log_2 n$ layers | a layer each | yes |
# | RNN | $n$ steps | $\operatorname{diag}(1 - h^2) W$ at each | no: word after word |
# | LSTM, GRU | $n$ steps | a gate at each | no: word after word |
# | self-attention (lesson 03) | **1 step** | one weighted mean | **yes** |
#
# This is the thought of sections 2 and 4 of the paper and of the column *maximum path length* in its
# Table 1: **the shorter the path between two words, the easier it is to learn that they belong
# together.**
# Section 1 adds the last column: a network that must read word after word cannot use a machine that
# could compute everything at once. Attention was invented as a help for RNNs (lesson 02). The paper
# throws the RNN away and keeps the help.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### The shortcut of the LSTM, counted · more
#
# For those who ask what an LSTM saves, when it walks as many steps as an RNN.

# %% [markdown]
# An LSTM walks as many steps as an RNN; what does it
# save? Autograd writes down which number was made from which. In this graph we search for the way
# from the last state back to the first word that has the fewest **bends**: each $\tanh$, each
# sigmoid counts. **Guess first:** how many for 16 words, and for 256?

# %%
mine = None  # your guess: the LSTM's fewest bends over 256 words

# %% [markdown]
# `result.grad_fn` is the step that made a result; its `next_functions` are the steps that made its
# inputs. (You may skip how we search this graph.)

# %%
# NBVAL_CHECK_OUTPUT
def fewest_bends(network: Recurrent, module: nn.Module, distance: int) -> int:
    """Return the fewest bends on any way from the last state to the word `distance` before."""
    first, state = torch.ones(1, 8, requires_grad=True), (torch.zeros(1, 8),) * network.n_states
    for word in [first] + [torch.ones(1, 8)] * distance:
        state, _ = network.step(word, state, weights_of(module))
    ways, best = deque([(state[0].grad_fn, 0)]), {}
    while ways:
        node, bends = ways.popleft()
        if bends < best.get(node, math.inf):
            best[node] = bends
            bends += node.name() in ("TanhBackward0", "SigmoidBackward0")
            ways += [(parent, bends) for parent, _ in node.next_functions if parent]
    return next(bends for node, bends in best.items() if getattr(node, "variable", None) is first)


networks = {"RNN": (RNN, nn.RNN(8, 8)), "LSTM": (LSTM, nn.LSTM(8, 8)), "GRU": (GRU, nn.GRU(8, 8))}
expected = {"RNN": [17, 257], "LSTM": [2, 2], "GRU": [1, 1]}
for name, (network, module) in networks.items():
    assert [fewest_bends(network, module, n) for n in (16, 256)] == expected[name]
    print(f"{name:4} 16 words apart: {expected[name][0]:2} bends, 256 words: {expected[name][1]:3}")
layers = [[layers_to_meet(n, of) for n in (16, 256)]
          for of in (lambda layer: 1, lambda layer: 2**layer)]
assert layers == [[8, 128], [4, 8]]
print("plain convolutions: 8 layers, 128 layers; dilated: 4 layers, 8 layers")

# %%
compare(mine, fewest_bends(LSTM, nn.LSTM(8, 8), 256), "01: bends of an LSTM over 256 words")

# %% [markdown]
# The RNN bends at every word. The LSTM bends twice, at the door in and at the door out; in between
# it only multiplies by gates, for any distance. (The GRU bends once.) That is the shortcut of the
# LSTM. (In section 13 most of a *fresh* LSTM's gradient came through $h$. But only the way along the
# cell is free of bends and matrices, so only there can the network learn to lose nothing.) It is a
# shortcut for the *gradient*, not for the clock: all $n$ steps must still be taken, one after the
# other.

# %% [markdown]
# ## What you built
#
# | name | takes | gives |
# |---|---|---|
# | `linear`, `linear_backward` | x (..., D), weight (O, D), bias (O,) | (..., O), and back |
# | `mlp_forward`, `mlp_backward` | x (B, D) | (B, O), and back |
# | `conv1d_forward`, `conv1d_backward` | x (B, L, D), stride, dilation | (B, P, O), and back |
# | `rnn_step`, `lstm_step`, `gru_step`, each with `_backward` | x (B, D), state (B, H) | new state, and back |
# | `Recurrent`: `RNN`, `LSTM`, `GRU` | x (B, L, D) | (B, L, H), and back through time |
# | `embedding_backward` | ids (B, L), table (V, D) | gradient (V, D) |
# | `logistic_loss` | scores (B,), labels (B,) | loss, gradient (B,) |
# | `clip_gradients` | gradients by name, limit | the same, shortened |
# | `receptive_field` | (kernel, stride, dilation) of each layer | number of words |
# | `gradient_errors` | forward, backward, x, weights | largest error by name |
# | `weights_of` | a module of torch.nn | its weights by name |
#
# ## Exercises
#
# 1. **By hand (1 of 5, 10 minutes).** In section 2 replace $\tanh$ by ReLU, with $b = -0.4$ and then
#    with $b = -1.4$. Compute all gradients with a pencil, then check with `nudged`.
#
#    <details><summary>Answer</summary>
#
#    With $b = -0.4$: $s = y = 0.6$, $e = -0.4$, the loss is 0.16, and the slope is 1. So the gradients are
#    $-1.6$ for $w$, $-0.4$ for $x$, $-0.8$ for $b$. With $b = -1.4$: $s = -0.4$, $y = 0$, the loss is 1, and
#    the slope is 0: all three are zero. The neuron is wrong, and nothing tells it how to become better. Such a
#    neuron is called dead.
#
#    </details>
#
# 2. **Find the bug (2 of 5, 15 minutes).** In `gru_step_backward` (section 12) replace `grad_n * r` by `grad_n`.
#    Which names does the judge accuse? Explain why `bias_ih` is not among them for a sentence of one
#    word, and is for a longer one.
#
#    <details><summary>Answer</summary>
#
#    One word: `bias_hh` alone. The line makes the gradient of $u$, which reaches `weight_hh` and `bias_hh`
#    only, and the state before the first word is 0, so that `weight_hh` gets zero either way. Two words and
#    more: all five. The wrong gradient goes through $W_{hh}$ into $h_1$, and from there into everything that
#    made $h_1$.
#
#    </details>
#
# 3. **Another bend (3 of 5, 30 minutes).** Write `mlp_forward` and `mlp_backward` with a sigmoid in
#    place of ReLU. The judge must be satisfied.
#
#    <details><summary>Answer</summary>
#
#    Two lines change. Forward: `.sigmoid()` in place of `.clamp(min=0)`. Backward:
#    `grad_a = grad_hidden * hidden * (1 - hidden)`, for the slope of the sigmoid is $\sigma (1 - \sigma)$, and
#    `hidden` is $\sigma$ already. With `nn.Sigmoid()` between the two layers the judge finds no error above
#    $10^{-15}$.
#
#    </details>
#
# 4. **Both directions (3 of 5, 40 minutes).** Read the sentence from left to right and from right to
#    left with two RNNs and put the states side by side. Compare with
#    `nn.RNN(bidirectional=True)`, gradients too.
#
#    <details><summary>Answer</summary>
#
#    Reading from the right is reading the turned sentence. PyTorch calls the second network's weights
#    `weight_ih_l0_reverse` and so on; `left` and `right` are the two halves of `weights_of`, renamed.
#
#    ```python
#    def both_forward(x, left, right):
#        one, cache_1 = RNN.forward(x, left)
#        two, cache_2 = RNN.forward(x.flip(1), right)
#        return torch.cat([one, two.flip(1)], dim=2), (cache_1, cache_2)
#
#    def both_backward(grad, caches, left, right):
#        grad_1, grad_2 = grad.chunk(2, dim=2)
#        one = RNN.backward(grad_1, caches[0], left)
#        two = RNN.backward(grad_2.flip(1), caches[1], right)
#        return one.pop("x") + two.pop("x").flip(1), one, two  # x was read twice
#    ```
#
#    The outputs are equal, and the largest error of a gradient is about $10^{-15}$.
#
#    </details>
#
# 5. **The article's GRU (4 of 5, 45 minutes).** Derive the way back of `article_step` (section 12) and let the
#    judge hear it.
#
#    <details><summary>Answer</summary>
#
#    The third block is now a linear layer on $r \odot h_{t-1}$. So $g^{a}$ goes through $U_n$ first, and then
#    splits in two, as a product does:
#
#    ```python
#    w_n = weights["weight_hh"].chunk(3)[2]
#    grad_n = grad * (1 - z) * (1 - n**2)
#    grad_rh = grad_n @ w_n                      # at r * h
#    grad_r = grad_rh * h * r * (1 - r)
#    grad_z = grad * (h - n) * z * (1 - z)
#    # weight_hh: the blocks r and z meet h, the block n meets r * h: grad_n.T @ (r * h)
#    # old state: through r and z as before, and grad_rh * r + grad * z
#    ```
#
#    Written out like this, the judge found no error above $10^{-15}$.
#
#    </details>
#
# ## Summary
#
# A network is a function with many weights; the loss says how wrong it is; gradient descent goes
# down. Backpropagation is the chain rule, walked from the loss to the weights: each part multiplies
# by its own slope, and gradients that meet are added. An MLP needs a fixed width and a bag of words
# knows no order. Convolutions share weights over places and see as far as their layers reach:
# linear in the number of layers, or exponential with dilation. A recurrent network reads any length
# in order, but its gradient is a product over all steps, which dies or explodes. Gates put learned
# factors near 1 into this product. Even so the path stays $n$ steps long. Attention makes it one.
#
# ## Summary · 小结
#
# <div lang="zh">
#
# - **神经元**（neuron）做加权求和，**损失**（loss）衡量预测与正确答案相差多少，
#   **梯度下降**（gradient descent）沿损失下降的方向一步步修改权重。
# - **反向传播**（backpropagation）就是链式法则：从损失往回走，每一步乘以自己的导数；
#   在同一处相遇的梯度相加。
# - 手写的梯度必须检验：在 float64 下与 autograd 比较，误差小于 $10^{-10}$，错一个正负号也逃不掉。
# - 两个线性层合起来仍是一个线性层；中间加上 ReLU 才能拟合曲线，这正是论文中的公式 2。
# - 多层感知机（MLP）只接受固定长度的输入；词袋（bag of words）不知道词序。
# - **卷积**在各个位置共享权重；感受野随层数线性增长，用空洞卷积（dilated convolution）则按指数增长，
#   所以连接两个词所需的层数分别是距离的线性函数和对数函数。
# - **循环网络**（RNN）按顺序读任意长度的句子；随时间反向传播的梯度是雅可比矩阵的连乘，
#   不是消失就是爆炸。梯度裁剪只能治爆炸，不能治消失。
# - **LSTM 与 GRU** 用门（gate）控制记忆：LSTM 遗忘门（GRU 则是更新门）的偏置从 1 或更大的值开始，梯度才能传得远；
#   偏置为 0 时，它们起初同样健忘。
# - 两个词之间的路径：RNN 需要 $n$ 步，注意力只需要一步。这就是论文的出发点。
#
# </div>
#
# ## Further reading
#
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762: sections 1, 2 and 4.
# - Rumelhart, Hinton, Williams 1986, *Learning Representations by Back-propagating Errors*; Werbos
#   1990, *Backpropagation Through Time: What It Does and How to Do It*; Elman 1990, *Finding
#   Structure in Time*.
# - Hochreiter 1991, *Untersuchungen zu dynamischen neuronalen Netzen* (in German); Bengio, Simard,
#   Frasconi 1994, *Learning Long-Term Dependencies with Gradient Descent is Difficult*; Pascanu,
#   Mikolov, Bengio 2013, *On the Difficulty of Training Recurrent Neural Networks*, arXiv 1211.5063.
# - Hochreiter, Schmidhuber 1997, *Long Short-Term Memory*; Gers, Schmidhuber, Cummins 2000,
#   *Learning to Forget*; Jozefowicz, Zaremba, Sutskever 2015, *An Empirical Exploration of
#   Recurrent Network Architectures*: the LSTM, its forget gate, and its bias.
# - Cho et al. 2014, *Learning Phrase Representations using RNN Encoder-Decoder for Statistical
#   Machine Translation*, arXiv 1406.1078: the GRU.
# - Gehring et al. 2017, *Convolutional Sequence to Sequence Learning*, arXiv 1705.03122 (ConvS2S);
#   Kalchbrenner et al. 2016, *Neural Machine Translation in Linear Time*, arXiv 1610.10099
#   (ByteNet).
# - Chung et al. 2014, *Empirical Evaluation of Gated Recurrent Neural Networks on Sequence Modeling*,
#   arXiv 1412.3555: the GRU's name.
# - Kingma, Ba 2015, *Adam: A Method for Stochastic Optimization*, arXiv 1412.6980.
#
# **Homework.** [Assignment foundations](homework/release/foundations/foundations.ipynb): write
# backpropagation through time, an LSTM cell and a GRU cell yourself; the check names what went wrong.
#
# **Next:** [lesson 02](02_seq2seq.ipynb) puts two recurrent networks together and lets them translate.
