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
# # Homework · training
#
# You write what turns a model into a trained model: the learning rate, the loss, one step of Adam, dropout and
# the mean of checkpoints. 80 minutes, with torch and your head. Close
# [the lesson](../../../07_training.ipynb) first. Looking things up is fine, copying is not: what you
# wrote yourself, you own.
#
# Run `check` as often as you like. It tries fresh numbers each time, says what is wrong and often why, and
# shows the hint that fits your mistake (under the card are all three, for when you are stuck). The second
# check cell of an exercise is the one that is marked: it stops *Run All* at the first exercise that is not
# passed yet, and says why in its last lines. B is the batch, T the target length, V the vocabulary.

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from course.homework import check
from course.viz import finish

# %% [markdown]
# <!-- card: paper_learning_rate -->
# ## `paper_learning_rate`
#
# Equation 3 of the paper: the rate rises on a straight line for `warmup` steps, then falls like 1 / sqrt(step).
#
# *Why it matters.* Without a warm-up, Adam's first steps have full length on gradients that are mostly noise, and the paper's model may not learn at all.
#
# ★☆☆☆☆ · 10 minutes · 1 point
#
# ```text
# paper_learning_rate(step, d_model, warmup) -> float
# steps count from 1, so step 1 is the first, and it is never called with step 0
# ```
#
# <details><summary>Hint 1</summary>
#
# Two curves, one rising and one falling. Which of them is smaller early, which one late?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The line is step * warmup ** -1.5, the curve step ** -0.5: they meet at step = warmup, so min chooses. (At step 0 the curve would be 0 ** -0.5, which Python refuses.)
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# d_model ** -0.5 * min(..., ...)
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "paper_learning_rate", "locked": false, "schema_version": 3, "solution": true, "task": false}
def paper_learning_rate(step: int, d_model: int, warmup: int) -> float:
    ### BEGIN SOLUTION
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
    ### END SOLUTION


# %%
check("paper_learning_rate", paper_learning_rate)

# %% nbgrader={"grade": true, "grade_id": "paper_learning_rate-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("paper_learning_rate", paper_learning_rate, strict=True).passed

# %% [markdown]
# What you have built, for the paper's base model. Before you look: by which factor does the peak change
# if the warm-up is four times as long?

# %%
steps = range(1, 40_001, 50)
for warmup, line in ((4000, "-"), (16000, "--")):
    rates = [paper_learning_rate(step, 512, warmup) for step in steps]
    plt.plot(steps, rates, line, label=f"warm-up {warmup:,} steps")
plt.xlabel("step")
plt.ylabel("learning rate")
plt.title("Four times the warm-up, half the peak; later, the same curve")
plt.legend()
finish(plt.gcf())

# %% [markdown]
# <!-- card: label_smoothing_loss -->
# ## `label_smoothing_loss`
#
# The cross-entropy against a softened target: 1 - epsilon for the right word, and epsilon / V more for each of all V words.
#
# *Why it matters.* A model that is asked for probability 1 becomes too sure of itself. Smoothing made the paper's perplexity worse and its translations better.
#
# ★★★☆☆ · 25 minutes · 3 points
#
# ```text
# label_smoothing_loss(logits, target, pad_id, epsilon): logits (B, T, V), target
#     (B, T) -> scalar tensor, the mean over all real tokens of the batch, in nats
# epsilon is spread over all V words, the right one too
# positions whose target is pad_id do not count
# ```
#
# <details><summary>Hint 1</summary>
#
# What is the loss of one token, if the target is a distribution q and not a single word?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# -sum(q * log p) = -(1 - epsilon) * log p[right] - epsilon * (mean of log p over the V words). log_softmax gives log p, gather picks the right word's.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# loss = -((1 - epsilon) * right + epsilon * log_p.mean(-1))  # (B, T); now the mean of loss[target != pad_id].
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "label_smoothing_loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
def label_smoothing_loss(logits: Tensor, target: Tensor, pad_id: int, epsilon: float) -> Tensor:
    ### BEGIN SOLUTION
    log_p = logits.log_softmax(-1)  # (B, T, V)
    right = log_p.gather(-1, target[..., None]).squeeze(-1)  # (B, T)
    loss = -((1 - epsilon) * right + epsilon * log_p.mean(-1))  # (B, T)
    return loss[target != pad_id].mean()
    ### END SOLUTION


# %%
check("label_smoothing_loss", label_smoothing_loss)

# %% nbgrader={"grade": true, "grade_id": "label_smoothing_loss-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("label_smoothing_loss", label_smoothing_loss, strict=True).passed

# %% [markdown]
# A model that grows surer and surer of the right one among 8 words, each wrong word getting the same.
# The plain loss rewards it for ever; yours turns. Where, and why there?

# %%
sure = torch.linspace(0.05, 0.9999, 400)  # the probability of the right word
probabilities = ((1 - sure) / 7)[:, None].repeat(1, 8)
probabilities[:, 3] = sure
target = torch.tensor([[3]])
for epsilon, line in ((0.0, "--"), (0.1, "-")):
    losses = [
        label_smoothing_loss(p.log().reshape(1, 1, 8), target, pad_id=0, epsilon=epsilon).item()
        for p in probabilities
    ]
    plt.plot(sure, losses, line, label=f"epsilon {epsilon}")
plt.xlabel("probability of the right word")
plt.ylabel("loss in nats")
plt.title("With epsilon 0.1, being surer than 0.9125 costs more")
plt.legend()
finish(plt.gcf())

# %% [markdown]
# <!-- card: adam_step -->
# ## `adam_step`
#
# One step of Adam: the running average m of the gradient, divided by the root of v, the running average of its square; both corrected, since they begin at 0.
#
# *Why it matters.* Nearly every Transformer is trained with Adam or with its child AdamW. Now its step, and the state that a checkpoint must keep, hold no secret for you.
#
# ★★★☆☆ · 25 minutes · 3 points
#
# ```text
# adam_step(param, grad, state, lr, betas, eps) -> the new parameter, like param
# grad like param
# state a dict of this parameter, {} before the first step, which you fill as you
#     like and get again at the next step (a function that needs a prepared state
#     passes, too: the check lends it zeros)
# betas (beta_1, beta_2). Also right: change param in place, or return (param,
#     state)
# ```
#
# <details><summary>Hint 1</summary>
#
# What must the next call know of this one? Three things: put them into state.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# m = beta_1 m + (1 - beta_1) g and v = beta_2 v + (1 - beta_2) g²; then divide m by 1 - beta_1 ** step and v by 1 - beta_2 ** step, where the first step has the number 1.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# param - lr * m_hat / (v_hat.sqrt() + eps), with state.get('m', 0) at the beginning and state.update(step=step, m=m, v=v), where m and v are not yet corrected.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "adam_step", "locked": false, "schema_version": 3, "solution": true, "task": false}
def adam_step(
    param: Tensor, grad: Tensor, state: dict, lr: float, betas: tuple[float, float], eps: float
) -> Tensor:
    ### BEGIN SOLUTION
    step = state.get("step", 0) + 1
    m = betas[0] * state.get("m", 0) + (1 - betas[0]) * grad
    v = betas[1] * state.get("v", 0) + (1 - betas[1]) * grad**2
    state.update(step=step, m=m, v=v)
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return param - lr * m_hat / (v_hat.sqrt() + eps)
    ### END SOLUTION


# %%
check("adam_step", adam_step)

# %% nbgrader={"grade": true, "grade_id": "adam_step-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("adam_step", adam_step, strict=True).passed

# %% [markdown]
# Your step at work in a narrow valley, $f(x, y) = (x^2 + 100\,y^2) / 2$. Its gradient is $(x, 100\,y)$:
# across the valley a hundred times that along it. Plain gradient descent must choose its rate for the
# steep side, and creeps along the other. (A KeyError here? Your step reads a name that the empty state
# does not hold yet. Put its first value into `state`, zeros or a 0.)

# %%
def slope(place: Tensor) -> Tensor:
    return place * torch.tensor([1.0, 100.0])


start = torch.tensor([1.0, 0.5])
plain, yours, state = [start], [start], {}
for _ in range(100):
    plain.append(plain[-1] - 0.01 * slope(plain[-1]))
    place = yours[-1].clone()  # a step may change it
    result = adam_step(place, slope(place), state, lr=0.05, betas=(0.9, 0.98), eps=1e-9)
    if isinstance(result, tuple):
        result, state = result
    yours.append(place if result is None else result)
for path, line, name in ((plain, "--", "gradient descent, rate 0.01"), (yours, "-", "your Adam")):
    plt.plot(*torch.stack(path).T, line, marker=".", markersize=4, label=name)
    print(f"{name}: {torch.stack(path)[-1].norm():.3f} from the lowest point after 100 steps")
plt.xlabel("x")
plt.ylabel("y")
plt.title("Adam takes steps of the same size along the valley and across it")
plt.legend()
finish(plt.gcf())

# %% [markdown]
# <!-- card: dropout -->
# ## `dropout`
#
# Inverted dropout: in training each number becomes 0 with probability p, by a lot of its own, and all others are divided by 1 - p. Else x comes out as it is.
#
# *Why it matters.* The paper uses it in every sub-layer and on the embeddings. Two lines, and four ways to be wrong: no scale, the wrong scale, lots in evaluation, lots for whole rows.
#
# ★☆☆☆☆ · 10 minutes · 1 point
#
# ```text
# dropout(x, p, training) -> like x
# x of any shape
# p, 0 or more and below 1: the probability with which a number becomes 0
# training True or False
# ```
#
# <details><summary>Hint 1</summary>
#
# Draw one random number for each number of x. What share of them is below p?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# torch.rand_like(x) is uniform between 0 and 1. Keep where it is p or more. The sum of what is left is smaller by the factor 1 - p: what makes up for it?
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# if not training: return x. Else: return x * (torch.rand_like(x) >= p) / (1 - p).
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "dropout", "locked": false, "schema_version": 3, "solution": true, "task": false}
def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    ### BEGIN SOLUTION
    if not training:
        return x
    return x * (torch.rand_like(x) >= p) / (1 - p)
    ### END SOLUTION


# %%
check("dropout", dropout)

# %% nbgrader={"grade": true, "grade_id": "dropout-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("dropout", dropout, strict=True).passed

# %% [markdown]
# Why divide by 1 - p? A neuron of the next layer sums 1,000 numbers whose mean is 1. **Guess first:** what does
# it get in training, with half of them dropped, and what in evaluation?

# %%
try:
    for training in (True, False):
        sums = dropout(torch.ones(200, 1000), 0.5, training).sum(1)
        print(f"training {training}: the sum is {sums.mean():.0f}, give or take {sums.std():.0f}")
except NotImplementedError:
    pass  # quiet until you have written it

# %% [markdown]
# <!-- card: average_checkpoints -->
# ## `average_checkpoints`
#
# The mean of the weights of several checkpoints, name by name, as in the paper's section 6.1.
#
# *Why it matters.* The paper's results are those of a mean of 5 or 20 checkpoints. It costs nothing at translation time, and it evens out the noise of the last batches.
#
# ★☆☆☆☆ · 10 minutes · 1 point
#
# ```text
# average_checkpoints(states): list of one or more dicts name -> tensor, the same
#     names and shapes in each -> a new dict name -> mean, like the tensors
# the states stay as they are
# ```
#
# <details><summary>Hint 1</summary>
#
# What is the mean of three tensors of the same shape? And who else holds the first one?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# For each name, add that name's tensors up into a new tensor, then divide once by len(states). total += would write into the first checkpoint.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# torch.stack([state[name] for state in states]).mean(0), for each name of states[0]
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "average_checkpoints", "locked": false, "schema_version": 3, "solution": true, "task": false}
def average_checkpoints(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    ### BEGIN SOLUTION
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    ### END SOLUTION


# %%
check("average_checkpoints", average_checkpoints)

# %% nbgrader={"grade": true, "grade_id": "average_checkpoints-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("average_checkpoints", average_checkpoints, strict=True).passed

# %% [markdown]
# Why it helps, in numbers: twenty checkpoints that lie around one good place, each thrown off it by the
# noise of its last batches. How much nearer is their mean?

# %%
good = torch.zeros(1000)
noisy = [{"w": good + torch.randn(1000)} for _ in range(20)]
for count in (1, 5, 20):
    distance = (average_checkpoints(noisy[:count])["w"] - good).norm().item()
    print(f"mean of {count:2} checkpoints: {distance:4.1f} from the good place")

# %% [markdown]
# *Run All* brought you here, and cells above have no number? It stopped at the first exercise that is not
# passed yet; the message below its second check cell says why.
#
# All green? Then no line of a training program is magic to you. The report collects it: `python -m course
# homework report` writes `build/report.html`, for you. A teacher who grades wants this notebook itself.
# Next comes [decoding](../decoding/decoding.ipynb): how a trained model writes its sentence.
