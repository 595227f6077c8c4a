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
# # 03 · Attention
#
# > A look-up by dot products: soft, scaled, and in several heads at once (section 3.2).
#
# **After this lesson you can**
#
# - say what a query, a key and a value are, and compute one attention output by hand;
# - explain with numbers why the paper divides by $\sqrt{d_k}$;
# - write multi-head attention with the right shape at every step (more: show that it equals
#   PyTorch's);
# - show a task that one head cannot do and two heads can, with the same number of parameters;
# - read the paper's Table 1, and check it by counting;
# - (more) look into the heads of any model without changing the model.
#
# **Where it stands:** on the path, after lesson 02, where attention helped an RNN. Here it works
# alone. **You need first:** matrix products and gradients (lesson 01), the softmax (lesson 02).
#
# **Time:** 65 minutes; 95 with all that is marked *more*. **In the paper:** sections 3.2 and 4,
# Table 1, rows (A) and (B) of Table 3. (A number with a dot, such as 3.2.1, is a section of the
# paper; sections 1 to 9 are those of this page.)
#
# **Shapes** are written behind the code. B is the batch, Q the number of queries, K the number of
# keys, H the number of heads, D is $d_{\mathrm{model}}$, Dk and Dv are $d_k$ and $d_v$. (In shapes
# Q and K are numbers; in equations $Q, K, V$ are matrices.)

# %%
#| export
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# %% [markdown]
# The cell above goes into the library, `course/attention.py`; so does every cell that begins with
# `#| export`. The next one is for this page only. Some cells begin with `# NBVAL_CHECK_OUTPUT`:
# they print the same on every machine, and the tests of the course compare what they print.

# %%
import copy
import time

from torch.utils.flop_counter import FlopCounterMode

from course.corpora import captions
from course.device import by_scale, pick
from course.homework import check, compare
from course.viz import bar, show
from course.viz import attention as draw

# %% [markdown]
# ## 1 · A look-up that may hesitate
#
# A Python dictionary answers a question only if it has stored exactly that question. Attention is
# a dictionary that answers every question. To see this we need no words and no learning: forty
# points on a chart are enough.
#
# A thermometer stood in a garden for one day. Somebody read it forty times, at odd moments. In the
# afternoon there was a rain shower. We have the readings, and they are a little noisy. **How warm
# was it at half past four in the afternoon, 16.5 h?**

# %%
random = torch.Generator().manual_seed(10)


def garden(hour: Tensor) -> Tensor:
    """The true temperature [°C]: coldest at 3 h, warmest at 15 h, with a shower at 17 h."""
    return 14 - 6 * torch.cos(2 * math.pi * (hour - 3) / 24) - 5 * torch.exp(-((hour - 17) ** 2))


times = (24 * torch.rand(40, generator=random)).sort().values  # (K,) the keys, in hours
temperatures = garden(times) + torch.randn(40, generator=random)  # (K,) the values, in °C

readings = dict(zip(times.tolist(), temperatures.tolist()))
assert len(readings) == 40 and 16.5 not in readings
print("A dictionary of 40 readings has no answer for 16.5 h: nobody read it then.")

# %% [markdown]
# A dictionary compares the question with each key: equal or not, 1 or 0. Let us allow the values
# in between. Each reading gets a **weight**: the closer its time, the larger. The weights are
# positive and sum to one. The answer is the **weighted average** of the temperatures:
#
# $$\hat v(q) = \sum_{j=1}^{K} \alpha_j \, v_j , \qquad
# \alpha_j = \frac{\exp(s_j)}{\sum_{i=1}^{K} \exp(s_i)} , \qquad
# s_j = -\frac{(q - k_j)^2}{2\,\sigma^2} .$$
#
# Three names, from now on to the end of the course. The question is the **query** $q$. The label
# by which a reading is found is its **key** $k_j$. What the reading gives is its **value** $v_j$.
# The number $s_j$ is the **score**: how well the key fits the query. The fraction in the middle is
# the **softmax**: it makes weights from any scores. The width $\sigma$ says how far away a reading
# may be and still count.
#
# **Guess first:** what does the answer become when $\sigma$ is almost zero? And when $\sigma$ is
# 100 hours?

# %%
def soft_lookup(
    query: Tensor, keys: Tensor, values: Tensor, width: float
) -> tuple[Tensor, Tensor]:
    scores = -((query[:, None] - keys) ** 2) / (2 * width**2)  # (Q, K)
    weights = scores.softmax(dim=-1)  # (Q, K), every row sums to one
    return weights @ values, weights  # (Q,), (Q, K)


hours = torch.linspace(0, 24, 193)  # (Q,) the queries: every 7.5 minutes
curves = {w: soft_lookup(hours, times, temperatures, w)[0] for w in (0.05, 0.7, 8.0)}
asked = {w: soft_lookup(torch.tensor([16.5]), times, temperatures, w)[1][0] for w in curves}
draw.soft_lookup(times, temperatures, hours, garden(hours), curves, 16.5, asked)

# %% [markdown]
# A very small width is the hard dictionary with a rule for missing keys: take the nearest. A very
# large one forgets the question and returns the mean of the day. The useful answers lie between:
# several readings vote, near ones with more weight, and their noise partly cancels. Statisticians
# have known this since 1964 as *kernel regression* (Nadaraya; Watson).
#
# The claim, in code. A claim cell stops with an error if the sentence above it is false.

# %%
# NBVAL_CHECK_OUTPUT
hard = soft_lookup(hours, times, temperatures, 1e-4)[0]
nearest = temperatures[(hours[:, None] - times).abs().argmin(dim=1)]
flat = soft_lookup(hours, times, temperatures, 1e4)[0]
assert torch.allclose(hard, nearest)
assert torch.allclose(flat, temperatures.mean().expand_as(flat), atol=1e-3)

error = {w: (answers - garden(hours)).square().mean().sqrt() for w, answers in curves.items()}
assert error[0.7] < 0.8 * error[0.05] and error[0.7] < 0.5 * error[8.0]
print("almost zero: the nearest reading. Very wide: the mean of all. Best of the three: between.")

# %% [markdown]
# ### From distance to dot product
#
# Where is the dot product of the paper? Look at the hours again: 23.9 h and 0.1 h are neighbours,
# but our distance calls them far apart. The cure is an old one: a clock face. Place each hour on a
# circle, as a vector of length one: $k = (\cos\varphi,\ \sin\varphi)$ with
# $\varphi = 2\pi \cdot \text{hour} / 24$. Now the distance between two vectors opens like this:
#
# $$-\frac{1}{2} \left| q - k_j \right|^2
# = q \cdot k_j - \frac{1}{2} |q|^2 - \frac{1}{2} |k_j|^2 .$$
#
# The term $|q|^2$ is the same for every key, and so is $|k_j|^2$, since all keys have length one.
# A softmax does not change when the same number is added to all its scores. So both terms drop
# out, and **the dot product is all that is left**: a large dot product means "close".

# %%
def on_clock(hour: Tensor) -> Tensor:
    angle = 2 * math.pi * hour / 24
    return torch.stack([angle.cos(), angle.sin()], dim=-1)  # (..., 2)


query, keys = on_clock(hours), on_clock(times)  # (Q, 2), (K, 2)
sharpness = 30.0
by_distance = (-sharpness * torch.cdist(query, keys) ** 2 / 2).softmax(dim=-1)
by_dot_product = (sharpness * query @ keys.T).softmax(dim=-1)
assert torch.allclose(by_distance, by_dot_product, atol=1e-4)

line_weights = soft_lookup(torch.tensor([23.9]), times, temperatures, 0.7)[1][0]
clock_weights = (sharpness * on_clock(torch.tensor([23.9])) @ keys.T).softmax(dim=-1)[0]
assert line_weights[times < 2].sum() < 1e-6 < 0.5 < clock_weights[times < 2].sum()
print(f"asked at 23.9 h, the readings after midnight weigh {clock_weights[times < 2].sum():.2f}"
      " on the clock, and nothing on the line")

# %% [markdown]
# Keep two things from this section.
#
# 1. Attention is a **weighted average of values**. The weights come from how well a query fits
#    each key.
# 2. The **size of the scores** decides how much the look-up hesitates. Large scores: one key takes
#    all. Small scores: all keys count the same. The number `sharpness` did this here. In section 3
#    it will be the number that the paper takes such care of.
#
# > **Try it.** Set `sharpness` to 0.1, then to 3000, and plot `by_dot_product @ temperatures` over
# > `hours`. Which two curves of the first chart do you meet again? (The last
# > assertion fails both times. Why?)
#
# <details><summary>Answer</summary>
#
# 0.1: the very wide look-up. The curve stays between 13.8 and 14.4 °C, near the mean of all, 14.1. 3000:
# the very narrow one, the nearest reading at almost every hour. The assertion says that at 23.9 h the
# readings after midnight hold more than half of the weight. At 0.1 they get only their share of all
# readings; at 3000 the single nearest reading takes all, and it was made before midnight.
#
# </details>

# %% [markdown]
# ## 2 · Query, key and value: why three names?
#
# In the garden it is clear that a key is not a value: one is a time, the other a temperature. In a
# sentence all three come from words, so the three names look like a trick. They are three *roles*:
#
# | role | in a dictionary | in the garden | in a sentence |
# |---|---|---|---|
# | query | what you look up | the time that you ask about | what this word is looking for |
# | key | the entry's headword | the time of a reading | what that word can be found by |
# | value | the entry's text | the temperature | what that word has to say once found |
#
# In "three dogs **are** playing", the word *are* looks for its subject (query). The word *dogs*
# can be found as "a noun, plural" (key). What it then gives is perhaps only "plural" (value). A
# word asks for something else than what it offers. So each role gets its own vector, and each
# vector is made from the word's vector $x$ by a learned matrix: $q = xW^Q$, $k = xW^K$, $v = xW^V$.
#
# What if we save a matrix and let the query be the key, $W^Q = W^K$? **Guess first:** which word
# would each word then attend to most? (Write your guess in the place of `None`; nothing is marked.
# `compare` sets it beside what was measured.)

# %%
mine = None  # "itself", "the next one" or "any"

# %%
# NBVAL_CHECK_OUTPUT
random = torch.Generator().manual_seed(0)
x = torch.randn(200, 12, 64, generator=random)  # 200 sentences of 12 words
w_q, w_k = torch.randn(2, 64, 64, generator=random)


def share_on_itself(query: Tensor, key: Tensor) -> float:
    scores = query @ key.mT  # (200, 12, 12); .mT exchanges the last two axes
    return (scores.argmax(dim=-1) == torch.arange(12)).float().mean().item()


tied = (x @ w_q) @ (x @ w_q).mT
assert torch.allclose(tied, tied.mT, rtol=1e-3, atol=1e-2)  # symmetric
assert share_on_itself(x @ w_q, x @ w_q) > 0.99
assert share_on_itself(x @ w_q, x @ w_k) < 0.2
print("one matrix for both: every word mostly finds itself; two matrices: it may find any word")

# %%
compare(mine, "itself", "03: whom a word finds with one matrix for query and key")

# %% [markdown]
# With one matrix, the scores are symmetric: if *are* looks for *dogs*, then *dogs* must look for
# *are*, just as much. And the score of a word with itself is a squared length. Among random vectors
# this is larger than nearly every other score. Two matrices are the price of looking for something *else*.
#
# > **Try it.** Set `w_k = -w_q`. Whom does each word avoid now?
#
# <details><summary>Answer</summary>
#
# Itself. In each of the 2,400 rows the smallest score is the one on the diagonal: it is $-|q|^2$, the
# only one that must be negative.
#
# </details>

# %% [markdown]
# ## 3 · How large is a dot product?
#
# Section 1 said that the size of the scores decides everything. So before we use dot products we
# should ask how large they are. Take a query and a key whose $d_k$ components are independent,
# with mean 0 and variance 1. (This is about the *beginning* of training, and roughly true there:
# lesson 05 starts the matrices so. Trained queries and keys need not obey it.) Each product
# $q_i k_i$ then has mean 0 and variance 1 too, and the dot product adds $d_k$ of them:
#
# $$\operatorname{Var}(q \cdot k) = \sum_{i=1}^{d_k} \operatorname{Var}(q_i k_i) = d_k ,
# \qquad \text{so a typical score is } \pm\sqrt{d_k} .$$
#
# That is the footnote of section 3.2.1. We measure before we believe.

# %%
random = torch.Generator().manual_seed(1)
sizes = [4, 16, 64, 256, 1024]


def random_scores(d_k: int, n_keys: int = 16, trials: int = 1000) -> Tensor:
    """Scores of one random query with random keys, as they are: (trials, n_keys)."""
    query = torch.randn(trials, 1, d_k, generator=random)
    key = torch.randn(trials, n_keys, d_k, generator=random)
    return (query @ key.mT).squeeze(1)


ratios = {d_k: random_scores(d_k).var().item() / d_k for d_k in sizes}
assert all(0.85 < ratio < 1.15 for ratio in ratios.values())
print("variance over d_k:", {d_k: round(ratio, 2) for d_k, ratio in ratios.items()})

# %% [markdown]
# Now send such scores through the softmax. Nothing was learned: queries and keys are random, so a
# good look-up should have no preference, and 16 keys should get about 1/16 each.
#
# **Guess first:** at $d_k = 64$, the paper's size, how much of the weight does the luckiest of 16
# random keys get?

# %%
mine = None  # 0 to 1

# %%
treatments = {"as it is": lambda d_k: 1.0, r"over $\sqrt{d_k}$": lambda d_k: math.sqrt(d_k)}
profiles, shares = {}, {}
for name, divisor in treatments.items():
    weights = {d_k: (random_scores(d_k) / divisor(d_k)).softmax(dim=-1) for d_k in sizes}
    ranked = {d_k: w.sort(descending=True).values.mean(dim=0) for d_k, w in weights.items()}
    profiles[name] = {d_k: ranked[d_k] for d_k in (4, 64, 1024)}
    shares[name] = [(w * (1 - w)).mean().item() for w in weights.values()]
draw.saturation(profiles, shares, sizes)

# %% [markdown]
# Without the scale, $d_k$ itself has decided the look-up: the more components, the harder the
# choice, with nothing learned at all. Divided by $\sqrt{d_k}$ the three curves lie on each other:
# the width of the vectors no longer matters.
#
# ### Why is a hard choice a bad start?
#
# Because it is hard to *unlearn*. Let $p = \operatorname{softmax}(s)$. Its derivative is
#
# $$\frac{\partial p_i}{\partial s_j} = p_i \left( \delta_{ij} - p_j \right) ,
# \qquad \text{so} \qquad \frac{\partial p_i}{\partial s_i} = p_i \, (1 - p_i) .$$
#
# ($\delta_{ij}$ is 1 if $i = j$, else 0.) Where a weight is almost 0 or almost 1, the product
# $p\,(1-p)$ is almost 0, and no gradient comes through. The third panel shows its mean: it falls
# with $d_k$ if nothing is done, and stays where it is with the scale.

# %%
# NBVAL_CHECK_OUTPUT
scores = torch.randn(6, dtype=torch.float64, generator=random)
p = scores.softmax(dim=-1)
slopes = torch.autograd.functional.jacobian(lambda s: s.softmax(dim=-1), scores)  # all 6 x 6
assert torch.allclose(slopes, torch.diag(p) - torch.outer(p, p))

plain, over = profiles.values()
assert plain[64][0] > 0.75 and plain[1024][0] > 0.9
assert (over[1024] - over[4]).abs().max() < 0.03
assert shares[r"over $\sqrt{d_k}$"][-1] > 10 * shares["as it is"][-1]
print("at d_k = 64 the luckiest of 16 random keys holds over three quarters of the weight;")
print("at d_k = 1024 the scale keeps more than ten times the gradient")

# %%
compare(mine, plain[64][0].item(), "03: weight of the luckiest of 16 random keys")

# %% [markdown]
# This is what the paper suspects when it speaks of "extremely small gradients", and why it divides
# by $\sqrt{d_k}$: not to make attention soft for ever, but to let it *begin* undecided. Training may
# make queries and keys larger, and then the look-up becomes sharp, where that pays. (Section 3.2.1
# reports that the additive attention of lesson 02 beats the unscaled dot product for large $d_k$.
# The dot product is kept because a matrix product is so much faster.)
#
# > **Try it.** Divide by $d_k$ instead of $\sqrt{d_k}$ in `treatments`. What does every key get at
# > $d_k = 1024$? Which end of the first chart of this lesson is that? (An assertion above will fail.
# > Which one, and why is that right?)
#
# <details><summary>Answer</summary>
#
# About $1/16 = 0.06$ each (0.059 to 0.066): the very wide look-up, which returns the mean of all.
# `(over[1024] - over[4]).abs().max() < 0.03` fails, since the luckiest key has 0.135 at $d_k = 4$ and
# 0.066 at 1024. And so it should: with $d_k$ as the divisor, the width decides again, now for softness.
#
# </details>

# %% [markdown]
# Do you know *why*, too? `check("why_scale")` shows a question; answer with the letter,
# `check("why_scale", "b")`. Each wrong letter has an answer of its own. (The letters are shuffled for
# each learner.)

# %%
check("why_scale")

# %%
check("scale_by_d_k")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### What a hard choice costs, in steps · more
#
# How many steps of gradient descent does a look-up need to change its mind, with the scale and
# without? For those who doubt that a small gradient is so bad.

# %% [markdown]
# You may object: a classifier ends in a softmax too, and learns well from wrong answers. True:
# with the cross-entropy loss, the gradient of its scores is $p - y$, which is large when the
# answer is wrong. But nobody tells attention which word was right. Its gradient has to come back
# through the average of the values, and there the factor $p\,(1-p)$ stays.
#
# What does it cost? Two keys. The second one should get the weight, but the first begins with a
# lead of `gap` in the score. We go down the gradient of the loss $(1-p)^2$ and count steps until
# $p$ passes one half.

# %%
def steps_to_change_its_mind(gap: float, push: float = 1.0) -> int:
    """Count gradient steps of size `push` until the right one of two keys has half the weight."""
    right, wrong, steps = 0.0, gap, 0
    while (p := 1 / (1 + math.exp(wrong - right))) < 0.5:
        slope = 2 * (1 - p) * p * (1 - p)  # minus the derivative of (1 - p)² for `right`
        right, wrong, steps = right + push * slope, wrong - push * slope, steps + 1
    return steps


# %% [markdown]
# The scores of two random keys differ by about $\sqrt{2 d_k}$ without the scale, and by about
# $\sqrt{2}$ with it. At $d_k = 64$ that is a lead of 11.3 against 1.4. With it, a handful of steps is
# enough. **Guess first:** how many are needed without it?

# %%
mine = None  # a number of steps

# %%
# NBVAL_CHECK_OUTPUT
for gap in (2, 4, 6, 8, 10):
    print(f"lead of {gap:2}: {steps_to_change_its_mind(gap):5} steps")
unscaled = steps_to_change_its_mind(math.sqrt(2 * 64))
by_query = steps_to_change_its_mind(math.sqrt(2 * 64), push=64)
scaled = steps_to_change_its_mind(math.sqrt(2))
assert unscaled > 1000 * scaled and by_query > 100 * scaled
print(f"typical lead at d_k = 64: {unscaled} steps without the scale, {scaled} with it")
print(f"without the scale, but with steps 64 times as large: {by_query}")

# %%
compare(mine, unscaled, "03: steps to change a mind without the scale")

# %% [markdown]
# For large leads, two more cost about seven times the steps, because $e^2 \approx 7.4$.
#
# But here we moved the scores themselves. In a network the step moves the query. Without the scale
# its gradient is the slope times $k$, so the score moves by the slope times $k \cdot k$, about
# $d_k = 64$. With the scale both factors are divided by $\sqrt{d_k}$, and the slope times 1 is left.
# The larger steps help (the last line), but it still takes a hundred times as many.

# %% [markdown]
# ## 4 · Equation 1, by hand and in code
#
# Stack the queries as rows of a matrix $Q$, the keys as rows of $K$, the values as rows of $V$.
# Then one line says it all (the paper's equation 1):
#
# $$\operatorname{Attention}(Q, K, V)
# = \operatorname{softmax}\left( \frac{Q K^{T}}{\sqrt{d_k}} \right) V$$
#
# Read it from inside to outside. $QK^T$ holds every dot product, one row for each query. Divide.
# The softmax works on **each row** by itself. The product with $V$ is the weighted average.
#
# Take three words, $d_k = 2$, and do the last row with a pocket calculator. The word is *barks*,
# its query is $(2, 1)$:
#
# | | the | dog | barks |
# |---|---|---|---|
# | key | $(0, 0)$ | $(1, 1)$ | $(1, -1)$ |
# | $q \cdot k$ | $2(0) + 1(0) = 0$ | $2(1) + 1(1) = 3$ | $2(1) + 1(-1) = 1$ |
# | over $\sqrt{2} = 1.414$ | 0 | 2.121 | 0.707 |
# | $\exp$ | 1 | 8.342 | 2.028 |
# | weight: over the sum, 11.370 | 0.088 | 0.734 | 0.178 |
# | value | $(0, 0)$ | $(10, 0)$ | $(0, 10)$ |
#
# The output is $0.088 \cdot (0,0) + 0.734 \cdot (10,0) + 0.178 \cdot (0,10) = (7.34,\ 1.78)$. The
# word *barks* looked at the sentence and took home mostly *dog*. Here are all three rows at once:

# %%
names = ["the", "dog", "barks"]
query = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])  # (3, 2)
key = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, -1.0]])  # (3, 2)
value = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])  # (3, 2)
scores = query @ key.T  # (3, 3)
weights = (scores / math.sqrt(2)).softmax(dim=-1)  # (3, 3)
output = weights @ value  # (3, 2)
steps = [("Q", query), ("K", key), ("Q Kᵀ", scores), ("weights", weights), ("V", value),
         ("output", output)]
draw.worked_example(names, steps, ("Q Kᵀ", "weights"),
                    "Each row asks once: the third row is the one computed by hand")

# %%
# NBVAL_CHECK_OUTPUT
by_hand = torch.tensor([7.34, 1.78])
assert torch.allclose(output[2], by_hand, atol=0.005)
assert torch.allclose(weights.sum(dim=-1), torch.ones(3))
print("barks:", [round(number, 2) for number in output[2].tolist()])

# %% [markdown]
# Now for the library. The function also takes a **mask**.
#
# ### What a mask is
#
# Sometimes a query must not see a key: the key is only filling at the end of a short sentence, or
# it is a word that has not been written yet. A mask is a matrix of `True` and `False`, one for
# each pair of query and key. In this course, and in `F.scaled_dot_product_attention`, **True means
# "may attend"**. The score of a forbidden pair becomes $-\infty$, and $\exp(-\infty) = 0$: it gets
# no weight.
#
# Why this meaning of True? Because permissions combine in the natural way: "it is a real word **and**
# it is not in the future" is `real & past`. (`nn.MultiheadAttention` means the opposite; section 6
# meets it.)
#
# A mask has **as many dimensions as the scores**, each of the same size or 1; a 1 stands for "all".
# Fewer dimensions would be lined up from the right, and a table (sentence, key) would be read as
# (query, key), without an error if the sizes happen to fit. So the library refuses it.

# %% [markdown]
# **Your turn**, before you see ours. Write equation 1 with its mask, run the cell, and `check` says what
# is right and what was misunderstood. Left alone, it says "not written yet", and the page goes on with
# the course's own.

# %%
def my_attention(query, key, value, mask=None):
    """query (..., Q, Dk), key (..., K, Dk), value (..., K, Dv), mask True = may attend,
    -> (output (..., Q, Dv), weights (..., Q, K)); who may see nothing gets zeros."""
    raise NotImplementedError


check("scaled_dot_product_attention", my_attention)

# %% [markdown]
# Now ours. It stops once on the way, since we shall want to look at the weights:

# %%
#| export
def _check_mask(mask: Tensor, n_dims: int) -> None:
    """Refuse a mask that would be added instead of applied, or would act along a wrong axis."""
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask is {mask.dtype}: make it boolean, True = may attend")
    if mask.dim() != n_dims:
        wanted = {2: "(Q, K)", 3: "(B, Q, K)", 4: "(B, H, Q, K)"}.get(n_dims, "(..., Q, K)")
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}: give it {n_dims} dimensions, as the scores "
            f"have, {wanted} with a 1 for each that it does not depend on"
        )


# %%
#| export
def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return how much each query attends to each key; every row sums to one.

    query (..., Q, Dk), key (..., K, Dk) -> (..., Q, K). mask: boolean, True = may attend, with as
    many dimensions as the result, each of its size or 1. A query that may attend to nothing gets
    a row of zeros. Raises TypeError for a mask that is not boolean, ValueError for one with more
    or fewer dimensions: it would act along a wrong axis. Paper, section 3.2.1.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))  # (..., Q, K)
    if mask is None:
        return scores.softmax(dim=-1)
    _check_mask(mask, scores.dim())
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)  # an all-False row would be NaN


# %%
#| export
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the weighted mean of the values for each query, and the weights.

    query (..., Q, Dk), key (..., K, Dk), value (..., K, Dv), mask as in `attention_weights`
    -> output (..., Q, Dv), weights (..., Q, K). Paper, equation 1.
    """
    weights = attention_weights(query, key, mask)
    return weights @ value, weights


# %% [markdown]
# (The last line of `attention_weights` is for a query that may see no key at all. It gets zeros:
# nothing was seen, so nothing is said. Lesson 04 shows what others do there.)
#
# Two lines of mathematics, two functions. Are they right? PyTorch has the same as
# `F.scaled_dot_product_attention`. Its fast versions never build the whole matrix of weights, and
# so they cannot show it to you. We compare outputs and gradients, in double precision, with a
# random mask.

# %%
# NBVAL_CHECK_OUTPUT
random = torch.Generator().manual_seed(2)
shapes = {"query": (2, 4, 5, 8), "key": (2, 4, 7, 8), "value": (2, 4, 7, 3)}
made = [torch.randn(s, generator=random, dtype=torch.float64) for s in shapes.values()]
ours = [t.clone().requires_grad_() for t in made]
theirs = [t.clone().requires_grad_() for t in made]
mask = torch.rand(2, 1, 5, 7, generator=random) < 0.6  # (B, 1, Q, K): the same for every head
mask[..., 0] = True  # every query may see at least one key

output, weights = scaled_dot_product_attention(*ours, mask)
expected = F.scaled_dot_product_attention(*theirs, attn_mask=mask)
output.square().sum().backward()
expected.square().sum().backward()
assert torch.allclose(output, expected, atol=1e-12)
assert all(torch.allclose(a.grad, b.grad, atol=1e-10) for a, b in zip(ours, theirs))
assert (weights.sum(dim=-1) - 1).abs().max() < 1e-12 and not weights[~mask.expand_as(weights)].any()
print("equal to PyTorch's, forward and backward:", tuple(output.shape), tuple(weights.shape))

# %% [markdown]
# > **Try it.** Softmax over the wrong axis is the classic mistake: change `dim=-1` to `dim=-2` in
# > the worked example. Which assertion catches it? Would a look at the shapes have caught it?
#
# <details><summary>Answer</summary>
#
# The first one, `torch.allclose(output[2], by_hand)`: the last row becomes (6.73, 4.46). The second would
# see it, too: the rows sum to 0.61, 0.94 and 1.45; now each *column* sums to one. The shapes say
# nothing: with three queries and three keys they are the same.
#
# </details>

# %%
check("mask_before_softmax")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### A trap in PyTorch's function · more
#
# For those who will call `F.scaled_dot_product_attention` themselves. (Two more traps, a mask of 0.0
# and 1.0 and `is_causal`, wait in lesson 04.)

# %% [markdown]
# *Dropout*, known from lesson 02, sets random numbers to zero in training, here random **attention
# weights**; `model.eval()` switches it off. **Guess first:** does it switch off `dropout_p`, too?

# %%
# NBVAL_CHECK_OUTPUT
sdpa = F.scaled_dot_product_attention
query, key, value = (torch.randn(1, n, 4) for n in (2, 5, 5))
assert not torch.allclose(sdpa(query, key, value, dropout_p=0.5), sdpa(query, key, value))
print("dropout_p drops always: the function cannot know that you are in eval mode")

# %% [markdown]
# ## 5 · Where do Q, K and V come from?
#
# Equation 1 does not say. The Transformer uses it in three places (section 3.2.3), and they differ
# only in where the three come from and in the mask:
#
# | place | queries from | keys and values from | mask | weights |
# |---|---|---|---|---|
# | encoder self-attention | source | source | padding | S x S |
# | decoder self-attention | target so far | target so far | padding, no future | T x T |
# | cross-attention | target so far | encoder's output | padding of the source | T x S |
#
# **Self-attention**: the words of one sentence look at each other. **Cross-attention**: each
# English word, while it is written, looks into the German sentence; this is what lesson 02 did.
# Keys and values always come from the same place: whoever is found must also be the one who
# speaks. Queries may come from anywhere, and **there are as many outputs as queries**.
#
# Now a question with a surprising answer. "The dog chases the man", "the man chases the dog":
# self-attention mixes every word with all the others. **Guess first:** is the vector of *dog*
# after self-attention the same in both sentences, or not?

# %%
mine = None  # "the same" or "different"

# %%
# NBVAL_CHECK_OUTPUT
random = torch.Generator().manual_seed(4)
table = {word: torch.randn(16, generator=random) for word in ("the", "dog", "chases", "man")}
places = torch.randn(5, 16, generator=random)  # one vector for each place in the sentence
one, other = "the dog chases the man", "the man chases the dog"


def dog_after_attention(sentence: str, with_places: bool) -> Tensor:
    words = sentence.split()
    x = torch.stack([table[word] for word in words])  # (5, 16)
    if with_places:
        x = x + places
    return scaled_dot_product_attention(x, x, x)[0][words.index("dog")]


for with_places in (False, True):
    gap = (dog_after_attention(one, with_places) - dog_after_attention(other, with_places)).abs()
    assert gap.max() > 0.1 if with_places else gap.max() < 1e-5
print("dog is the same in both sentences; with a vector added for each place, it is not")

# %%
compare(mine, "the same", "03: 'dog' in two sentences")

# %% [markdown]
# Attention sees a *set* of words, not a sequence. If we permute the input, the output is permuted
# in the same way and nothing else changes: it is **permutation equivariant**. In symbols, for any
# permutation matrix $P$,
#
# $$\operatorname{Attention}(PX, PX, PX) = P \, \operatorname{Attention}(X, X, X) .$$
#
# (We leave $W^Q, W^K, W^V$ out here. They treat each word by itself, in the same way at every place,
# so they cannot bring the order back.)
#
# Seen from one query: permuting the keys together with their values changes nothing at all. A
# weighted average does not care in which order we add. That is why the Transformer must add
# positions to its inputs (lesson 05), and why an RNN needs none.

# %%
# NBVAL_CHECK_OUTPUT
x = torch.randn(2, 9, 16, dtype=torch.float64, generator=random)
order = torch.randperm(9, generator=random)
mixed = x[:, order]
straight, _ = scaled_dot_product_attention(x, x, x)
permuted, _ = scaled_dot_product_attention(mixed, mixed, mixed)
same_query, _ = scaled_dot_product_attention(x, mixed, mixed)
assert torch.allclose(permuted, straight[:, order], atol=1e-12)
assert torch.allclose(same_query, straight, atol=1e-12)
assert not torch.allclose(permuted, straight, atol=1e-2)
print("input permuted, output permuted; keys and values permuted, output unchanged")

# %%
check("self_attention_is")

# %% [markdown]
# ## 6 · Several heads
#
# **The question:** one look-up returns one average. What if a word needs two things at once?
#
# In "three dogs are playing", the word *are* may need its subject *and* its participle. One
# attention must share its weight between them and return their mean. And a mean forgets: the mean
# of 10 and 0 is 5, and so is the mean of 0 and 10. If both words say it in the same components, no
# layer that comes after can tell which of them said what.
#
# The paper's answer (section 3.2.2): look $h$ times in parallel, each time through other, smaller
# projections, and put the answers side by side:
#
# $$\begin{aligned}
# \operatorname{MultiHead}(Q, K, V)
# &= \operatorname{Concat}(\mathrm{head}_1, \ldots, \mathrm{head}_h) \, W^O \\
# \mathrm{head}_i &= \operatorname{Attention}(Q W_i^Q,\; K W_i^K,\; V W_i^V)
# \end{aligned}$$
#
# **Careful, the letters shift here.** In equation 1, $Q$ held the finished queries. Here $Q, K, V$
# are what goes *into* the layer (in self-attention all three are the same $X$), and $Q W_i^Q$ are
# the finished queries of head $i$. The code below does the same: `query` comes in, and
# `self.split_heads(self.w_q(query))` is what asks.
#
# $W_i^Q$ and $W_i^K$ are $d_{\mathrm{model}} \times d_k$, $W_i^V$ is $d_{\mathrm{model}} \times d_v$,
# $W^O$ is $h d_v \times d_{\mathrm{model}}$. Why $W^O$? After Concat each head owns its own band of
# columns. $W^O$ mixes the bands, so that every head can write to every component, and it brings the
# width back to $d_{\mathrm{model}}$ when $h d_v \ne d_{\mathrm{model}}$.
#
# Every head is narrow: $d_k = d_v = d_{\mathrm{model}} / h$, in the base model $512 / 8 = 64$. So
# $h$ heads cost as many multiplications as one wide head. Nothing is added; the same width is used
# for several look-ups.
#
# ### Eight matrices in one, and how to cut
#
# The $h$ small matrices $W_i^Q$ stand side by side in one large matrix, so that one product makes
# the queries of all heads. The result has $h \cdot d_k$ columns: the first $d_k$ belong to head 1,
# the next to head 2. Now each head must become a matrix of its own, (L, H·Dk) to (H, L, Dk). Here
# is a sentence of three words, two heads, $d_k = 2$; each number says where it stood before.
# **Guess first:** does `x.view(2, 3, 2)` do it? Its shape is right.

# %%
mine = None  # "yes" or "no"

# %%
x = torch.arange(12).view(3, 4)  # (L, H * Dk)
split = x.unflatten(-1, (2, -1)).transpose(0, 1)  # (L, H, Dk), then (H, L, Dk)
viewed = x.view(2, 3, 2)  # the right shape, the wrong numbers
draw.split_heads(x, split, viewed)

# %% [markdown]
# `view` fills the new shape row by row, so its "head 1" holds all of word 1 and half of word 2. No
# error is raised, and the network may even train: it is only a worse network. A check of the shape
# cannot find this bug. A check of the meaning can: **head $i$ at word $t$ must depend on word $t$
# alone.**

# %%
# NBVAL_CHECK_OUTPUT
assert split.shape == viewed.shape == (2, 3, 2)
assert split[0].tolist() == [[0, 1], [4, 5], [8, 9]]  # columns 1 and 2 of every word
assert viewed[0].tolist() == [[0, 1], [2, 3], [4, 5]]  # word 1, and half of word 2
assert torch.equal(split.transpose(0, 1).flatten(-2), x)  # and back
print("split, head 1:", split[0].tolist(), " view, head 1:", viewed[0].tolist())

# %%
compare(mine, "no", "03: does view cut the heads?")

# %% [markdown]
# **Your turn**, three times: the cut, its way back, and the whole layer (for that one, take half an
# hour).

# %%
def my_split_heads(x, n_heads):
    """x (B, L, D) -> (B, H, L, D / H)."""
    raise NotImplementedError


def my_merge_heads(x):
    """x (B, H, L, Dv) -> (B, L, H * Dv)."""
    raise NotImplementedError


check("split_heads", my_split_heads)

# %%
check("merge_heads", my_merge_heads)

# %%
class MyMultiHeadAttention(nn.Module):
    """With w_q, w_k, w_v, w_o, each nn.Linear(d_model, d_model); called
    (query (B, Q, D), key (B, K, D), value (B, K, D), mask=None) -> (B, Q, D)."""

    def __init__(self, d_model, n_heads):
        super().__init__()
        raise NotImplementedError


check("MultiHeadAttention", MyMultiHeadAttention)

# %% [markdown]
# Now the course's class. `forward` uses PyTorch's fast function; `weights` computes what that function
# keeps to itself. There are no biases, as the paper's equation has none.

# %%
#| export
class MultiHeadAttention(nn.Module):
    """Attend `n_heads` times in parallel, each head in a subspace of its own.

    Called (query, key, value, mask=None) with query (B, Q, D), key and value (B, K, D), mask
    boolean, True = may attend, of four dimensions, each that of (B, H, Q, K) or 1 -> (B, Q, D).
    `d_k` and `d_v` are d_model / n_heads unless given. Raises ValueError if that division leaves
    a remainder, or for a mask of another number of dimensions; TypeError for a mask that is not
    boolean. Paper, section 3.2.2; without biases, as its equation has none.
    """

    def __init__(
        self, d_model: int, n_heads: int, d_k: int | None = None, d_v: int | None = None
    ) -> None:
        super().__init__()
        if (d_k is None or d_v is None) and d_model % n_heads:
            raise ValueError(
                f"d_model={d_model} does not divide into n_heads={n_heads}: "
                "choose a divisor, or give d_k and d_v"
            )
        self.n_heads = n_heads
        d_k, d_v = d_k or d_model // n_heads, d_v or d_model // n_heads
        self.w_q = nn.Linear(d_model, n_heads * d_k, bias=False)
        self.w_k = nn.Linear(d_model, n_heads * d_k, bias=False)
        self.w_v = nn.Linear(d_model, n_heads * d_v, bias=False)
        self.w_o = nn.Linear(n_heads * d_v, d_model, bias=False)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, L, H*Dk) -> (B, H, L, Dk)

    def merge_heads(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(-2)  # (B, H, L, Dv) -> (B, L, H*Dv)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        if mask is not None:
            _check_mask(mask, 4)
        query = self.split_heads(self.w_q(query))  # (B, H, Q, Dk)
        key = self.split_heads(self.w_k(key))  # (B, H, K, Dk)
        value = self.split_heads(self.w_v(value))  # (B, H, K, Dv)
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.w_o(self.merge_heads(heads))  # (B, Q, D)

    def weights(
        self, query: Tensor, key: Tensor, value: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` keeps to itself: the attention weights, (B, H, Q, K)."""
        query, key = self.split_heads(self.w_q(query)), self.split_heads(self.w_k(key))
        return attention_weights(query, key, mask)


# %% [markdown]
# Follow the shapes once, at the size of the paper's base model: two sentences, each English word
# (5) looks at each German word (7). **Guess first:** write down the shape after each line of
# `forward` before you run this.

# %%
# NBVAL_CHECK_OUTPUT
layer = MultiHeadAttention(d_model=512, n_heads=8)
english, german = torch.randn(2, 5, 512), torch.randn(2, 7, 512)
query = layer.split_heads(layer.w_q(english))
key, value = layer.split_heads(layer.w_k(german)), layer.split_heads(layer.w_v(german))
heads, weights = scaled_dot_product_attention(query, key, value)
merged = layer.merge_heads(heads)
table = {"english": english, "w_q(english)": layer.w_q(english), "split: query": query,
         "split: key": key, "weights": weights, "heads": heads, "merged": merged,
         "w_o(merged)": layer.w_o(merged)}
for name, tensor in table.items():
    print(f"{name:14} {tuple(tensor.shape)}")
assert torch.allclose(layer.w_o(merged), layer(english, german, german), atol=1e-5)
assert torch.allclose(weights, layer.weights(english, german))

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### The same as PyTorch's · more
#
# The class against `nn.MultiheadAttention`, with the same weights: equal.

# %% [markdown]
# `nn.MultiheadAttention` should give the same numbers. To compare we must know three of its habits.
# It packs $W^Q, W^K, W^V$ into one matrix of $3 d_{\mathrm{model}}$ rows. Its masks mean the
# opposite: True = may **not** attend. And it returns the mean of the weights over the heads, unless
# you ask otherwise.

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(6)
ours = MultiHeadAttention(32, 4).double()
theirs = nn.MultiheadAttention(32, 4, bias=False, batch_first=True).double()
with torch.no_grad():
    packed = torch.cat([ours.w_q.weight, ours.w_k.weight, ours.w_v.weight])  # (3 * 32, 32)
    theirs.in_proj_weight.copy_(packed)
    theirs.out_proj.weight.copy_(ours.w_o.weight)

x, memory = torch.randn(3, 5, 32).double(), torch.randn(3, 7, 32).double()
real = torch.arange(7) < torch.tensor([7, 4, 6])[:, None]  # (B, K): True = a real word
output = ours(x, memory, memory, mask=real[:, None, None, :])
expected, expected_weights = theirs(
    x, memory, memory, key_padding_mask=~real, average_attn_weights=False
)
assert torch.allclose(output, expected, atol=1e-12)
weights = ours.weights(x, memory, memory, real[:, None, None, :])
assert torch.allclose(weights, expected_weights, atol=1e-12)
wrong, _ = theirs(x, memory, memory, key_padding_mask=real)  # ~ forgotten
assert not torch.allclose(output[1:], wrong[1:], atol=1e-2)  # sentence 0, without padding, is NaN
print("equal to nn.MultiheadAttention, with the mask inverted:", tuple(weights.shape))

# %% [markdown]
# ### What one head cannot do
#
# One average blurs two answers: now we measure it. Eight items are given, each with an address
# (1 to 8) and a content of eight random numbers. The query names **two** addresses; the layer must
# return both contents, the first on the left and the second on the right. We train a layer of width
# 16 on this, with 1, 2, 4, 8 and 16 heads, three times each, from three seeds. The parameters are
# as many each time: four matrices of 16 x 16.
#
# What can one head reach? It returns $u = w\,a + (1-w)\,b$ where $a$ and $b$ are the two contents.
# With variance 1 each, the best linear guess of $a$ from $u$, which is
# $c\,u$ with $c = w / (w^2 + (1-w)^2)$, has the error $(1-w)^2 / (w^2 + (1-w)^2)$, the best guess of $b$ has $w^2 / (w^2 + (1-w)^2)$. **They add up to
# 1 for any $w$.** So the mean squared error of one head cannot fall below one half, however it
# shares its weight and however long it trains. (We assume that the weights do not depend on the
# contents, which carry no hint about the question. Doing nothing gives 1.)
#
# **Guess first:** what error will 2, 4, 8 and 16 heads reach? Is more always better? Write down your
# guess for sixteen.

# %%
mine = None  # 0 to 1

# %%
def two_questions(batch: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Make queries (B, 1, 16), items (B, 8, 16) and the wanted answers (B, 1, 16)."""
    content = torch.randn(batch, 8, 8, generator=random)
    address = torch.eye(8)
    first = torch.randint(8, (batch,), generator=random)
    second = (first + torch.randint(1, 8, (batch,), generator=random)) % 8  # never the same
    asked = torch.cat([address[first], address[second]], dim=-1)
    items = torch.cat([address.expand(batch, 8, 8), content], dim=-1)
    rows = torch.arange(batch)
    wanted = torch.cat([content[rows, first], content[rows, second]], dim=-1)
    return asked[:, None], items, wanted[:, None]


# %%
def learn_two_questions(n_heads: int, d_k: int, d_v: int, seed: int) -> float:
    """Train one layer; return its mean squared error on questions that it has not seen."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    layer = MultiHeadAttention(16, n_heads, d_k, d_v)
    adam = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(400):
        asked, items, wanted = two_questions(128, random)
        loss = (layer(asked, items, items) - wanted).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    asked, items, wanted = two_questions(2000, random)
    with torch.no_grad():
        return (layer(asked, items, items) - wanted).square().mean().item()


def errors_of(n_heads: int, d_k: int, d_v: int) -> list[float]:
    seeds = range(by_scale(smoke=1, cpu=3, gpu=3))
    return [learn_two_questions(n_heads, d_k, d_v, seed) for seed in seeds]


layers = bar((1, 2, 4, 8, 16), "layer")  # shows how far it is
errors = {h: errors_of(h, 16 // h, 16 // h) for h in layers}
parameters = {h: sum(p.numel() for p in MultiHeadAttention(16, h).parameters()) for h in errors}

# %%
draw.heads_needed(errors, width=16, floor=0.5)

# %%
# NBVAL_CHECK_OUTPUT
assert set(parameters.values()) == {1024}
assert all(0.48 < error < 0.55 for error in errors[1])  # the floor, and the luck of a finite test
assert max(errors[2] + errors[4]) < 0.01 and max(errors[8]) < 0.1
assert min(errors[16]) > 0.5
print("1024 parameters each: one head fails, two to eight succeed, sixteen of width 1 fail again")

# %%
compare(mine, sum(errors[16]) / len(errors[16]), "03: the error of sixteen heads of width 1")

# %% [markdown]
# One head stops at its floor. Two heads can ask one question each. Sixteen are too narrow, in keys and
# values at once.
#
# The paper found both ends on translation, in Table 3: rows (A), with 1 head 24.9 BLEU (a score of
# translations, the higher the better; lesson 08), with 8 or 16 heads 25.8, with 32 heads 25.4; rows
# (B), keys narrowed to $d_k = 16$ cost 0.7 BLEU. There one head is worse, but it does not fail.
#
# > **Try it.** Let the query name three addresses, with contents of five numbers, in a layer of
# > width 24: fill the items up to 24 numbers with zeros, and compare only the first 15 numbers of
# > the output. How many heads does it need, and what is the floor for two?
#
# <details><summary>Answer</summary>
#
# Three, one for each address. The floor for two is one third. A head returns one mixture of the three
# contents, so two heads return two. From two mixtures of three independent contents of variance 1 the
# best guess leaves an error of 1 in all, shared by three answers. (The same sum for one head and two
# contents: 1 shared by two, one half.)
#
# </details>

# %%
check("heads_why")

# %%
check("heads_cost")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Why sixteen heads fail · more
#
# Too narrow keys, or too narrow values? One is widened at a time.

# %% [markdown]
# Why do sixteen heads fail? At width 1
# two things have become narrow at once: the keys ($d_k = 1$) and the values ($d_v = 1$). To see which
# of them hurts, we widen one at a time. (That adds parameters, but these alone do not help: the layer
# of the fourth row has 1152.) **Guess first:** which one is it?

# %%
mine = None  # "the keys", "the values" or "both together"

# %%
others = bar(((16, 2, 1), (16, 1, 8), (4, 1, 8), (2, 1, 8)), "layer")
narrow = {(16, 1, 1): errors[16], **{how: errors_of(*how) for how in others}}
for (n_heads, d_k, d_v), row in narrow.items():
    print(f"{n_heads:2} heads, d_k {d_k}, d_v {d_v}:", *(f"{error:.3f}" for error in row))
assert max(narrow[16, 2, 1]) < 0.12 and max(narrow[16, 1, 8]) < 0.02
assert min(narrow[4, 1, 8]) > 0.3 and min(narrow[2, 1, 8]) > 0.5
compare(mine, "both together", "03: why sixteen heads of width 1 fail")

# %% [markdown]
# Neither by itself: only both together fail. With $d_k = 1$ a key is a single number, and a query can
# only prefer "the largest" or "the smallest". One head cannot pick out the six addresses between; two
# or four such heads fail. But where each of sixteen brings the *whole* content, blurred in its own
# way, $W^O$ can add and subtract them. With $d_v = 1$ a head brings one number, and sixteen numbers
# are wanted: no head is left to correct another, so each must pick sharply. For that $d_k = 2$ is
# enough: eight keys can stand around a circle, each the farthest out in its own direction. (This
# explanation fits the five rows; it is not proved by them.)

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### What a head can be: set by hand · more
#
# What do $W^Q$ and $W^K$ *say*? Let us set them ourselves. Let the vector of a word hold two
# parts: which word it is, and at which place it stands, each with a single 1 among zeros
# ("one-hot"). Then
#
# - **previous word**: the query says "my place", the key says "my place plus one". They meet where
#   the key's place is one before the query's;
# - **next word**: the same with minus one;
# - **same word**: query and key both say which word this is;
# - **everyone**: the query is zero, all scores are equal.
#
# Attention will divide by $\sqrt{d_k}$. We multiply the query by it first, so that the score is
# exactly what we wrote. The 20 makes the choice sharp: $e^{20}$ to 1.

# %%
def hand_set(n_words: int, n_places: int) -> MultiHeadAttention:
    """Four heads over one-hot words and places: previous, next, same word, everyone."""
    width = n_words + n_places
    is_word = torch.arange(width) < n_words
    word, place = torch.diag(is_word.float()), torch.diag((~is_word).float())  # (width, width)
    queries = [place, place, word, torch.zeros(width, width)]
    keys = [place.roll(1, 0), place.roll(-1, 0), word, word]  # roll: "my place plus one"
    layer = MultiHeadAttention(width, 4, d_k=width, d_v=width)
    with torch.no_grad():
        layer.w_q.weight.copy_(20 * math.sqrt(width) * torch.cat(queries))
        layer.w_k.weight.copy_(torch.cat(keys))
    return layer


# %%
chosen = ["Two women are putting on old glasses .", "The old man is drinking hot tea .",
          "A cat is climbing up a small tree ."]
sentence = chosen[2].lower().split()
hand_words = sorted({word for text in chosen for word in text.lower().split()})


def one_hot(words: list[str], n_places: int = 10) -> Tensor:
    which = F.one_hot(torch.tensor([hand_words.index(word) for word in words]), len(hand_words))
    where = F.one_hot(torch.arange(len(words)), n_places)
    return torch.cat([which, where], dim=-1).float()[None]  # (1, L, words + places)


assert max(len(text.split()) for text in chosen) <= 10
x = one_hot(sentence)
by_hand = hand_set(len(hand_words), 10).weights(x, x)[0].detach()  # (H, L, L)
titles = ["previous word", "next word", "same word", "everyone"]
draw.maps([(t, w, sentence, sentence) for t, w in zip(titles, by_hand)],
          "Four heads, four projections: what a word looks for is in the two matrices")

# %%
# NBVAL_CHECK_OUTPUT
previous, following, same, everyone = by_hand
length = len(sentence)
assert previous.diagonal(-1).min() > 0.99 and following.diagonal(1).min() > 0.99
both = [i for i, word in enumerate(sentence) if word == "a"]
assert torch.allclose(same[both][:, both], torch.tensor(0.5), atol=1e-3)
assert torch.allclose(everyone, torch.tensor(1 / length))
assert torch.allclose(previous[0], torch.tensor(1 / length), atol=1e-3)
print(f"the two words 'a', at places {both}, share their weight; word 0 has no previous one")

# %% [markdown]
# Look at the first row of the first map. The first word has no previous word, and yet its weights
# must sum to one: it spreads them over everybody. **A head cannot abstain.** So do not read a meaning
# into every bright square.
#
# Do trained heads find such roles by themselves? Section 9 trains a small model and looks; lessons 05
# and 09 look into larger ones. They do it with `record_attention(model)`, which this page exports too
# (section 8): inside its `with` block it collects the weights of every attention layer that runs.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### A head across two languages · more
#
# Cross-attention set by hand: a dictionary as the query's matrix, and how often it finds the right
# German word. For those who wonder what words alone can do, without any order.

# %% [markdown]
# The captions corpus knows which German word stands for which English word. We count, over the
# training sentences, how often the English word $e$ goes with the German word $g$, and let the score
# be $\log P(g \mid e)$. Then the query's matrix *is* a dictionary.

# %%
train, val = captions.load("train"), captions.load("val")
german = {w: i for i, w in enumerate(sorted({w for c in train for w in c.de_tokens}))}
english = {w: i for i, w in enumerate(sorted({w for c in train for w in c.en_tokens}))}
counts = torch.full((len(english), len(german)), 1e-3)  # not 0 for pairs never seen: log 0 is -inf
for caption in train:
    for i, j in caption.alignment:
        counts[english[caption.en_tokens[j]], german[caption.de_tokens[i]]] += 1
dictionary = (counts / counts.sum(dim=1, keepdim=True)).log()  # (English words, German words)


def look_up(caption: captions.Caption) -> Tensor:
    """Attention of each English word to each German word: (T, S)."""
    query = dictionary[[english[w] for w in caption.en_tokens]] * math.sqrt(len(german))
    key = F.one_hot(torch.tensor([german[w] for w in caption.de_tokens]), len(german)).float()
    return attention_weights(query, key)


# %%
caption = next(c for c in val if len(c.en_tokens) <= 9 and c.de_tokens[-2] in ("auf", "an"))
links = [(j, i) for i, j in caption.alignment]
draw.maps([("cross-attention of the dictionary head", look_up(caption), caption.en_tokens,
            caption.de_tokens)], "Framed: the true links. Filled: where the head looks", links)

# %%
hits = total = guesses = 0
for caption in val:
    linked, best = {(j, i) for i, j in caption.alignment}, look_up(caption).argmax(dim=1).tolist()
    for j in {j for j, _ in linked}:
        total += 1
        hits += (j, best[j]) in linked
        guesses += sum(1 for pair in linked if pair[0] == j) / len(caption.de_tokens)
assert total > 1000 and hits / total > 0.9 and hits / total > 8 * guesses / total
print(f"{total} English words: the dictionary head finds a true link for {hits / total:.0%},"
      f" a blind guess for {guesses / total:.0%}")

# %% [markdown]
# No place, no order, only words: and yet most links are found. Where a word occurs twice ("a",
# "the"), the head must share its weight. Lesson 09 looks at the cross-attention of a model that has
# learned to translate.

# %% [markdown]
# ## 7 · What it costs: Table 1, counted
#
# Section 4 of the paper compares four ways to let $n$ positions of width $d$ hear of each other:
#
# | layer | operations | sequential operations | longest path |
# |---|---|---|---|
# | self-attention | $n^2 \cdot d$ | 1 | 1 |
# | recurrence | $n \cdot d^2$ | $n$ | $n$ |
# | convolution, kernel $k$ | $k \cdot n \cdot d^2$ | 1 | $\log_k n$ |
# | self-attention to $r$ neighbours | $r \cdot n \cdot d$ | 1 | $n / r$ |
#
# Let us not believe but count. PyTorch's `FlopCounterMode` adds up the multiplications and
# additions of every matrix product that runs inside its block: no stopwatch, the same count on
# every machine. Each function below makes its weights once, for one width $d$, and returns the layer.
# **Guess first:** a sentence becomes twice as long. By what factor does each layer's count grow? Write
# down the one of self-attention.

# %%
mine = None  # a factor

# %%
def attention(d: int):
    return lambda x: scaled_dot_product_attention(x, x, x)[0]  # (n, d); it has no weights


def recurrence(d: int):
    """h_t = tanh(x_t W + h_{t-1} U), one step after the other."""
    w, u = torch.randn(2, d, d) / math.sqrt(d)

    def layer(x: Tensor) -> Tensor:
        h, states = torch.zeros(1, d), []
        for x_t in x.split(1):
            h = torch.tanh(x_t @ w + h @ u)
            states.append(h)
        return torch.cat(states)  # (n, d)

    return layer


def convolution(d: int, k: int = 3, dilation: int = 1):
    """Each position hears itself and k - 1 positions before it, `dilation` apart."""
    kernel = torch.rand(d, d, k) / (k * d)

    def layer(x: Tensor) -> Tensor:
        padded = F.pad(x.T[None], ((k - 1) * dilation, 0))  # (1, d, n + (k - 1) * dilation)
        return F.conv1d(padded, kernel, dilation=dilation)[0].T  # (n, d)

    return layer


def neighbours(d: int, r: int = 3):
    """Self-attention to itself and the r - 1 positions before (zeros before the first)."""

    def layer(x: Tensor) -> Tensor:
        windows = F.pad(x, (0, 0, r - 1, 0)).unfold(0, r, 1)  # (n, d, r)
        scores = x[:, None] @ windows / math.sqrt(d)  # (n, 1, r)
        return (scores.softmax(dim=-1) @ windows.mT).squeeze(1)  # (n, d)

    return layer


LAYERS = {"self-attention": attention, "recurrence": recurrence, "convolution, k = 3": convolution,
          "to 3 neighbours": neighbours}


# %%
def count(kind, n: int, d: int) -> int:
    layer, x = kind(d), torch.randn(n, d)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    return counter.get_total_flops()


grid = [16, 32, 64, 128, 256]
counted = {name: {(n, d): count(kind, n, d) for n in grid[:4] for d in grid[:4]}
           for name, kind in LAYERS.items()}
by_length = {name: [count(kind, n, 64) for n in grid] for name, kind in LAYERS.items()}
by_width = {name: [count(kind, 64, d) for d in grid] for name, kind in LAYERS.items()}
draw.costs(grid, by_length, by_width, at_width=64, at_length=64)

# %% [markdown]
# With all three axes logarithmic, $c \cdot n^a d^b$ is a plane, and its slopes are the
# exponents: $\log F = \log c + a \log n + b \log d$. We fit $a$ and $b$ by least squares over a
# grid of sixteen sizes.

# %%
# NBVAL_CHECK_OUTPUT
def exponents(table: dict[tuple[int, int], int]) -> list[float]:
    """Fit log F = log c + a log n + b log d; return a and b."""
    design = torch.tensor([[1.0, math.log(n), math.log(d)] for n, d in table]).double()
    logs = torch.tensor([math.log(flops) for flops in table.values()]).double()
    return torch.linalg.lstsq(design, logs[:, None]).solution[1:, 0].tolist()


paper = {"self-attention": (2, 1), "recurrence": (1, 2), "convolution, k = 3": (1, 2),
         "to 3 neighbours": (1, 1)}
for name, (a, b) in paper.items():
    n_exponent, d_exponent = exponents(counted[name])
    assert abs(n_exponent - a) < 0.01 and abs(d_exponent - b) < 0.01
    print(f"{name:20} n^{n_exponent:.2f} d^{d_exponent:.2f}")
assert count(lambda d: convolution(d, 6), 64, 32) == 2 * count(convolution, 64, 32)  # twice the k
assert count(lambda d: neighbours(d, 6), 64, 32) == 2 * count(neighbours, 64, 32)  # twice the r
print("and k and r to the power 1")

# %%
twice = by_length["self-attention"][1] / by_length["self-attention"][0]
compare(mine, twice, "03: self-attention on a sentence twice as long")

# %% [markdown]
# So the look-up alone is cheaper than recurrence while $n < d$. Sentences have 20 to 70 tokens and
# the paper's $d$ is 512: a clear case. For a whole book it is not.
#
# But the table leaves something out: **the projections.** A multi-head layer also multiplies by
# $W^Q, W^K, W^V, W^O$: $4 n d^2$ multiplications, more than the recurrence's own $2 n d^2$.
# Count the whole layer:

# %%
# NBVAL_CHECK_OUTPUT
def whole_layer(d: int):
    layer = MultiHeadAttention(d, 4)

    def run(x: Tensor) -> Tensor:  # `forward`, with our own look-up: the counter sees its products
        query, key, value = (w(x[None]) for w in (layer.w_q, layer.w_k, layer.w_v))
        heads, _ = scaled_dot_product_attention(*map(layer.split_heads, (query, key, value)))
        return layer.w_o(layer.merge_heads(heads))

    return run


assert all(count(attention, n, n) == count(recurrence, n, n) for n in (16, 64))
for n, d in ((32, 128), (256, 128), (512, 128)):
    look, whole, plain = (count(kind, n, d) for kind in (attention, whole_layer, recurrence))
    assert whole == 4 * n * n * d + 8 * n * d * d  # a product and a sum: two operations each
    assert whole > 2 * plain
    assert (whole < 3 * plain) == (n < d) and (whole < 4 * plain) == (n < 2 * d)  # GRU, LSTM
    print(f"n {n:3}, d {d}: looking {look / whole:4.0%} of the whole layer")
print("equal to recurrence at n = d; half of the whole layer at n = 2 d")

# %%
check("cost_short")

# %% [markdown]
# For short sentences the square is not the problem: at $n = 32$ and $d = 128$, one ninth of the
# work is the looking, the rest is projections. With its projections a layer of attention costs more
# than twice the *plain* recurrence, at any length. (The GRU has three times the matrices of the
# plain RNN, the LSTM four times. Against them the whole layer is cheaper while $n < d$, or
# $n < 2d$.) The true advantage of attention is in the other two columns.
#
# ### Steps that must wait, and the path of a signal
#
# *Sequential operations*: how many matrix products must wait for another one? Autograd wrote down
# which result was made from which. We walk from the output back to the beginning and count the
# products on the **longest** chain.
#
# *Longest path*: how many layers (or steps) lie between the first position and the last? We stack
# layers until the gradient of the last output with respect to the first input is not zero any
# more. (`retain_graph=True` keeps the record of the computation, so that we can ask again after one
# more layer.)

# %%
PRODUCTS = ("MmBackward0", "BmmBackward0", "ConvolutionBackward0")


def longest_chain(result: Tensor) -> int:
    """Count the matrix products, each waiting for the one before, that lead to a result."""
    depth, stack = {None: 0}, [result.grad_fn]
    while stack:
        node = stack[-1]
        before = [parent for parent, _ in node.next_functions]
        waiting = [parent for parent in before if parent not in depth]
        if waiting:
            stack += waiting
        else:
            depth[node] = max((depth[p] for p in before), default=0) + (node.name() in PRODUCTS)
            stack.pop()
    return depth[result.grad_fn]


def layers_to_hear(layers, n: int) -> int:
    """Stack layers until the last of n positions hears the first one."""
    first = torch.rand(n, 4).requires_grad_()
    x = first
    for number, layer in enumerate(layers, 1):
        x = layer(x)
        if torch.autograd.grad(x[-1].sum(), first, retain_graph=True)[0][0].any():
            return number
    raise ValueError("the last position never hears the first one")


# %%
# NBVAL_CHECK_OUTPUT
def stacked(kind: str):
    """Yield the layers of a stack: convolutions may grow their dilation, 1, 3, 9, ..."""
    for depth in range(100):
        if kind == "dilated":
            yield convolution(4, 3, 3**depth)
        else:
            yield LAYERS[kind](4)


print(f"{'n':>36} {9:4} {27:4} {81:4}")
for name, kind in LAYERS.items():
    chain = [longest_chain(kind(4)(torch.rand(n, 4).requires_grad_())) for n in (9, 27, 81)]
    assert chain == ([9, 27, 81] if name == "recurrence" else [chain[0]] * 3)
    print(f"{'waiting: ' + name:36}", *(f"{c:4}" for c in chain))
wanted = {"self-attention": [1, 1, 1], "convolution, k = 3": [4, 13, 40], "dilated": [2, 3, 4],
          "to 3 neighbours": [4, 13, 40]}
for kind, expected in wanted.items():
    path = [layers_to_hear(stacked(kind), n) for n in (9, 27, 81)]
    assert path == expected
    print(f"{'path: ' + kind:36}", *(f"{p:4}" for p in path))
for kind in (convolution, neighbours):
    assert layers_to_hear([kind(4, 5)] * 81, 82) == 21  # (n - 1) / (k - 1), rounded up

# %% [markdown]
# Attention needs two products, one after the other, for any length: the scores, then the average.
# The recurrence needs $n$ (and its path is the same chain: $n$ products from the first word to the
# last). The convolutions are parallel, but the signal climbs through layers. A window of 3 includes
# the position itself, so each layer reaches only 2 places further: $(n-1)/2$ layers, in general
# $(n-1)/(k-1)$ or $(n-1)/(r-1)$. The paper's $n/k$ (in its text) and $n/r$ give the order of growth,
# not the exact number. If the gaps grow, 1, 3, 9, only $\log_3 n$ layers are needed: that is the
# $\log_k n$ of the table.
#
# In both columns attention has the constant. The square is what it pays. (Why a long path is bad:
# lesson 01 measured how a gradient fades on it.)

# %%
check("cost_why_prefer")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### By the clock · more
#
# The same four layers under a stopwatch, on your machine: where do the lines cross?

# %% [markdown]
# The stopwatch shows this machine at this moment, so nothing is asserted; compare the shapes of the
# lines, not the milliseconds. One line is a **control**: the same multiplications as the recurrence,
# but all positions at once, so that no step waits. (It computes something else; only its cost counts
# here.)

# %%
def nothing_waits(d: int):
    """The recurrence's two products, for all positions at once: a control, not a useful layer."""
    w, u = torch.randn(2, d, d) / math.sqrt(d)
    return lambda x: torch.tanh(x @ w + x @ u)


@torch.no_grad()
def seconds(kind, n: int, d: int = 64, repeats: int = 9) -> float:
    """The fastest of a few runs: the one that other programs disturbed least."""
    layer, x, taken = kind(d), torch.randn(n, d), []
    for _ in range(repeats):
        start = time.perf_counter()
        layer(x)
        taken.append(time.perf_counter() - start)
    return min(taken)


raced = {**LAYERS, "recurrence's products, not waiting": nothing_waits}
assert count(nothing_waits, 64, 64) == count(recurrence, 64, 64)
lengths = [2**i for i in range(4, by_scale(smoke=8, cpu=11, gpu=12) + 1)]
measured = {name: [seconds(kind, n) for n in lengths] for name, kind in raced.items()}
draw.wall_time(lengths, measured)

# %% [markdown]
# By the count, self-attention and recurrence cost the same at $n = d = 64$. By the clock, the
# recurrence is far slower there. The control says why: the same multiplications take a small part of
# that time when no step waits. It is the $n$ small calls, one after the other, that cost. The square
# comes nearer as $n$ grows, but far beyond $n = d$. Do the lines cross on your machine, and where?
#
# > **Try it.** Set `d` to 512 in `seconds`. Does the crossing move to the left or to the right? (It
# > may leave the chart.) Why is it still not at $n = d$?
#
# <details><summary>Answer</summary>
#
# To the right: with $d$ eight times as large, $n^2 d$ grows eight times and $n d^2$ sixty-four times, so
# by the count the lines cross at $n = 512$. By the clock they cross later still, since the recurrence
# also waits $n$ times, and waiting is not counted in products.
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 8 · Looking inside without touching · more
#
# How `record_attention` works, and why the obvious way is a mistake: for those who want to look into
# models of their own.

# %% [markdown]
# We shall want the weights of every layer of a trained model. The obvious way is to keep them:
# `self.last = weights` in `forward`. It is in many tutorials. **Guess first:** name two things
# that break.

# %%
class Hoarder(MultiHeadAttention):
    """The obvious way, and a mistake: the layer keeps its latest weights."""

    def forward(self, query, key, value, mask=None):
        self.last = self.weights(query, key, value, mask)
        return super().forward(query, key, value, mask)


# %%
# NBVAL_CHECK_OUTPUT
hoarder, tidy = Hoarder(16, 2), MultiHeadAttention(16, 2)
x = torch.randn(2, 5, 16)
tidy(x, x, x)
hoarder(x, x, x)  # the output is thrown away at once
assert hoarder.last.grad_fn is not None  # and yet its whole history is still there
copy.deepcopy(tidy)
try:
    copy.deepcopy(hoarder)
    copied = True
except RuntimeError:
    copied = False
assert not copied
print("the hoarder keeps a history alive and cannot be copied; the tidy layer can")

# %% [markdown]
# The stored weights hold on to the whole graph that made them, so a step's memory stays in use
# until the next step. And a tensor with a history cannot be deep-copied, so tools that use
# `copy.deepcopy` fail. Besides, the weights are computed at each step although we look at them once
# a day.
#
# A **hook** is the tidy way: a function that PyTorch calls after a module's `forward`.
# `record_attention` hangs a hook on every `MultiHeadAttention` inside a model, computes the
# weights again, without gradient, and takes the hooks off when the block ends.

# %%
#| export
@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the weights of every `MultiHeadAttention` in `model` while the block is open.

    Yields a dict from module name to the weights of its latest call, (B, H, Q, K), without
    gradient. Outside the block the model does no extra work.
    """
    recorded: dict[str, Tensor] = {}

    def recorder(name: str):
        @torch.no_grad()
        def hook(module, args, kwargs, output) -> None:
            recorded[name] = module.weights(*args, **kwargs)

        return hook

    handles = [
        module.register_forward_hook(recorder(name or "attention"), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, MultiHeadAttention)
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


# %%
# NBVAL_CHECK_OUTPUT
stack = nn.ModuleDict({"lower": MultiHeadAttention(16, 2), "upper": MultiHeadAttention(16, 4)})
x = torch.randn(3, 5, 16)
with record_attention(stack) as recorded:
    h = stack["lower"](x, x, x)
    stack["upper"](h, h, h)
    copy.deepcopy(stack)  # works even now
assert torch.allclose(recorded["lower"], stack["lower"].weights(x, x))
assert not any(weights.requires_grad for weights in recorded.values())
assert not any(module._forward_hooks for module in stack.modules())  # nothing is left behind
print({name: tuple(weights.shape) for name, weights in recorded.items()})

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 9 · A gallery of heads · more
#
# Do heads find roles as those of section 6 by themselves? A model is trained for it here in a few
# seconds, and all its heads are shown.

# %% [markdown]
# We train a very small model, with two layers of attention
# and nothing else that mixes words. Its task is to **fill in a blank**: one word of an English
# caption is replaced by `___`, and the model names it. To know the word it must look around.
#
# The model adds what a layer finds to what the word already had, `x + layer(...)`; lesson 05
# explains why. It adds a learned vector for each place, because of section 5.

# %%
PAD, BLANK = 0, 1


class FillIn(nn.Module):
    """Two layers of attention that guess a blank: ids (B, L) -> logits (B, L, V)."""

    def __init__(self, vocab: int, d_model: int = 64, n_heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab, d_model)
        self.places = nn.Embedding(32, d_model)
        self.layers = nn.ModuleList(MultiHeadAttention(d_model, n_heads) for _ in range(2))
        self.guess = nn.Linear(d_model, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != PAD)[:, None, None, :]  # (B, 1, 1, L): no one attends to the filling
        x = self.words(ids) + self.places.weight[: ids.size(1)]  # (B, L, D)
        for layer in self.layers:
            x = x + layer(x, x, x, mask)
        return self.guess(x)


# %%
ids = {w: i for i, w in enumerate(["<pad>", "___", *english])}


def encode(corpus: list[captions.Caption]) -> Tensor:
    """Turn captions of at most 16 English words into ids (N, 16), filled up with PAD."""
    rows = [[ids[w] for w in c.en_tokens] for c in corpus if len(c.en_tokens) <= 16]
    return torch.tensor([row + [PAD] * (16 - len(row)) for row in rows])


def make_blanks(rows: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Hide one word a row (not the full stop): ids, the places (N,), the hidden words (N,)."""
    real = (rows != PAD).sum(dim=1) - 1
    at = (torch.rand(len(rows), generator=random) * real).long()
    every = torch.arange(len(rows))
    hidden = rows.clone()
    hidden[every, at] = BLANK
    return hidden, at, rows[every, at]


# %%
torch.manual_seed(0)
random = torch.Generator().manual_seed(0)
device = pick()
model = FillIn(len(ids)).to(device)
adam = torch.optim.Adam(model.parameters(), lr=5e-3)
train_rows, val_rows = encode(train), encode(val)
for _ in bar(range(by_scale(smoke=250, cpu=400, gpu=400)), "step"):
    batch = train_rows[torch.randint(len(train_rows), (128,), generator=random)]
    hidden, at, word = (t.to(device) for t in make_blanks(batch, random))
    loss = F.cross_entropy(model(hidden)[torch.arange(len(at), device=device), at], word)
    adam.zero_grad()
    loss.backward()
    adam.step()
model = model.cpu().eval()

# %% [markdown]
# Has it learned to look? The captions have a good test. In "Two women ___ putting on old glasses",
# is it *is* or *are*? One must find the subject. Whoever always says *is* is right more often than
# not; the model must beat that clearly.

# %%
is_or_are = torch.tensor([ids["is"], ids["are"]])
verbs = torch.isin(val_rows, is_or_are)  # (N, 16)
rows, at = val_rows[verbs.any(dim=1)], verbs[verbs.any(dim=1)].int().argmax(dim=1)
every = torch.arange(len(rows))
hidden = rows.clone()
hidden[every, at] = BLANK
with torch.no_grad():
    logits = model(hidden)[every, at]
answers = is_or_are[logits[:, is_or_are].argmax(dim=1)]
right = (answers == rows[every, at]).float().mean().item()
always_is = (rows[every, at] == ids["is"]).float().mean().item()
assert right > always_is + 0.15
print(f"{len(rows)} captions not seen in training: {right:.0%} right; 'always is': {always_is:.0%}")

# %% [markdown]
# Now open it up with `record_attention`. The model's code knows nothing of this. For the query at
# the blank we ask where each head looks: how much of its weight goes to the word one before, one
# after, and so on?

# %%
hidden, at, word = make_blanks(val_rows, random)
with record_attention(model) as recorded, torch.no_grad():
    model(hidden)
inner = ((at > 1) & (at + 2 < (hidden != PAD).sum(dim=1))).nonzero().squeeze(1)
offsets = (-2, -1, 0, 1, 2)
looks = {  # (layer, head) -> mean weight at each offset
    (layer, head): [weights[inner, head, at[inner], at[inner] + o].mean().item() for o in offsets]
    for layer, weights in enumerate(recorded.values(), 1) for head in range(4)
}
print("layer head  " + "  ".join(f"{o:+d}" if o else " 0" for o in offsets))
for (layer, head), row in looks.items():
    print(f"{layer:5} {head + 1:4}  " + " ".join(f"{share:.1f}" for share in row))

# %% [markdown]
# Read the rows. After a few seconds of training, some heads put most of their weight on
# one fixed place: the word after the blank, or the word before it. Nobody asked for a "next
# word" head. Where all shares of a row are small, the head has no fixed place. Its weight may be
# spread, or sharp on a word that it finds by its *content*. A mean over captions cannot tell which;
# the pictures below can.
#
# The claim: there is a head for the word before, and another for the word after.

# %%
strongest = {pair: offsets[row.index(max(row))] for pair, row in looks.items()}
directions = {strongest[pair] for pair, row in looks.items() if max(row) > 0.4}
sharpest = max(max(row) for row in looks.values())
assert directions >= {-1, 1} and sharpest > 0.5
print(f"{len(directions)} different fixed places among 8 heads (mean weight over 0.4); the sharpest"
      f" head puts {sharpest:.0%} of its weight on one")

# %% [markdown]
# All twelve heads over one sentence: in the first row the four that section 6 set by hand (they see
# *tree* in the place of the blank), below them the two layers of the model.

# %%
blanks = ["Two women ___ putting on old glasses .", "The old man is ___ hot tea .",
          "A cat is climbing up a small ___ ."]


def by_layer(text: str, blank: str) -> dict[str, tuple[list[str], Tensor]]:
    """Return layer -> its words and its weights (H, L, L): set by hand, then learned."""
    words = text.lower().split()
    by_hand = hand_set(len(hand_words), 10).weights(*[one_hot(words)] * 2)[0].detach()
    with record_attention(model) as recorded:
        model(torch.tensor([[ids[word] for word in blank.split()]]))
    learned = {f"learned, layer {i}": (blank.split(), weights[0])
               for i, weights in enumerate(recorded.values(), 1)}
    return {"set by hand": (words, by_hand), **learned}


look = by_layer(chosen[2], blanks[2])
words = blanks[2].split()
blank = words.index("___")
learned = [table for layer, (_, tables) in look.items() if layer != "set by hand" for table in tables]
assert {int(table[blank].argmax()) - blank for table in learned} >= {-1, 1}
draw.head_grid({layer: weights for layer, (_, weights) in look.items()}, words,
               "Asked at the blank, one learned head looks one word on, another one word back")

# %% [markdown]
# Are these pictures special to one sentence? Choose a layer, a head and a sentence, and point at a
# square to read its weight. (In a viewer that runs no script you see the first choice.)

# %%
records = []
for text, blank in zip(chosen, blanks):
    for layer, (words, weights) in by_layer(text, blank).items():
        for head in range(4):
            note = titles[head]
            if layer != "set by hand":
                pair = int(layer[-1]), head
                note = f"mean over captions: {max(looks[pair]):.0%} at {strongest[pair]:+d}"
            records.append({"layer": layer, "head": str(head + 1), "sentence": text, "note": note,
                            "queries": words, "keys": words, "weights": weights[head]})
assert len(records) == 3 * 3 * 4
sharp_layer, sharp_head = max(looks, key=lambda pair: max(looks[pair]))
start = 4 * sharp_layer + sharp_head
show(draw.gallery(records, "One head of twelve: choose another", start))

# %% [markdown]
# A warning for all such pictures: a weight says how much of a *value* was taken, not how much it
# mattered. Lesson 09 says more about that dispute, and lesson 09b measures what is lost when a head
# is cut out.

# %% [markdown]
# ## What you built
#
# | name | takes | gives |
# |---|---|---|
# | `attention_weights` | query (..., Q, Dk), key (..., K, Dk), mask | weights (..., Q, K) |
# | `scaled_dot_product_attention` | and value (..., K, Dv) | output (..., Q, Dv), weights |
# | `MultiHeadAttention` | query (B, Q, D), key and value (B, K, D), mask | (B, Q, D) |
# | `record_attention` | a model | name of each layer -> weights (B, H, Q, K) |
#
# ## Exercises
#
# 1. **By hand (2 of 5, 10 minutes).** In section 4, change the query of *barks* to $(0, 2)$.
#    Compute its weights with a calculator, then check.
# 2. **Write it again (3 of 5, 30 minutes).** Close this page and write `MultiHeadAttention` with
#    `torch.einsum` and no transpose. (`einsum` names the axes of each input and of the result, and
#    sums over the letters that the result lacks: `torch.einsum("bqhd,bkhd->bhqk", q, k)` makes all
#    scores.) Compare with ours, in float64.
# 3. **Additive attention (4 of 5, 40 minutes).** Lesson 02 scores with a small network instead of
#    a dot product, $v^\top \tanh(W_1 q + W_2 k)$. Repeat the experiment of section 3 with it: does it need a scale?
# 4. **Prune (3 of 5, 20 minutes; section 9).** Set the columns of `w_o` of one head of `FillIn` to zero and
#    measure *is / are* again. Which of the eight heads is missed most? Is it the one that you
#    expected from the gallery?
#
# <details><summary>Answer 1</summary>
#
# The scores are 0, 2, −2, over $\sqrt 2$: 0, 1.414, −1.414. Exponentials 1, 4.113, 0.243, sum 5.356.
# Weights 0.187, 0.768, 0.045; output (7.68, 0.45).
#
# </details>
#
# <details><summary>Answer 2</summary>
#
#     q, k, v = (w(x).unflatten(-1, (n_heads, -1)) for w, x in zip(maps, (query, key, value)))
#     scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.size(-1))
#     heads = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
#     return self.w_o(heads.flatten(-2))
#
# with `maps = self.w_q, self.w_k, self.w_v`, and the mask between the second and the third line. With the same weights the largest difference from ours was $10^{-16}$.
#
# </details>
#
# <details><summary>Answer 3</summary>
#
# No. With $W_1, W_2$ of variance $1/d_k$ and $v$ of variance $1/64$ for 64 hidden units, the variance of
# the scores lay between 0.23 and 0.59 at all sizes, and the luckiest of 16 keys held 0.12 to 0.15 of the
# weight at every size. tanh bounds each term, whatever $d_k$ is.
#
# </details>
#
# <details><summary>Answer 4</summary>
#
# For one head: `model.layers[i].w_o.weight.data[:, 16 * h : 16 * (h + 1)] = 0`, measure, and put the old
# numbers back before the next. Which head is missed most depends on the training run. Look whether it is
# one of those with a fixed place or one that finds its word by content: the gallery shows where a head
# looks, and only this experiment what it is worth. Lesson 09b does the same with a real translator.
#
# </details>
#
# ## Summary · 小结
#
# Attention is a weighted average of values; the weights are a softmax over how well each key fits
# the query. Dot products grow like $\sqrt{d_k}$, so the paper divides by it: otherwise the softmax
# begins decided and its gradient $p(1-p)$ is gone. Attention sees a set: permute the input, and
# the output is permuted. One head returns one average; several narrow heads look up several things
# for the same price. It costs $n^2 d$, but no step waits for another, and any two words are one
# step apart.
#
# <div lang="zh">
#
# **小结**
#
# - 注意力是对**值**（value）的加权平均；
#   权重来自**查询**（query）与各个**键**（key）的匹配程度，再经过 softmax。
# - 若各分量独立、均值为 0、方差为 1，则点积的方差等于 $d_k$，所以要除以 $\sqrt{d_k}$；
#   否则 softmax 一开始就已饱和，梯度 $p(1-p)$ 几乎为零，很难再学习。
# - 掩码（mask）中 True 表示“可以关注”；整行都不可关注时，本课程给出零，而不是 NaN。
# - 自注意力（self-attention）的 Q、K、V 来自同一个句子；
#   交叉注意力（cross-attention）的查询来自目标句，键和值来自源句。
# - 没有位置信息的自注意力是**置换等变**的：打乱输入的次序，输出只是以同样的方式被打乱。
# - 一个头只能给出一个平均值；多个较窄的头可以同时关注几种不同的信息，参数量不变。
# - 代价：自注意力 $n^2 d$，循环网络 $n d^2$；但自注意力的串行步数和最长路径都是常数。
#
# </div>
#
# ## Further reading
#
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762: sections 3.2 and 4.
# - Bahdanau, Cho, Bengio 2014, *Neural Machine Translation by Jointly Learning to Align and
#   Translate*, arXiv 1409.0473; Luong, Pham, Manning 2015, *Effective Approaches to
#   Attention-based Neural Machine Translation*, arXiv 1508.04025: attention before this paper.
# - Nadaraya 1964, *On Estimating Regression*; Watson 1964, *Smooth Regression Analysis*: the
#   garden of section 1.
# - Clark et al. 2019, *What Does BERT Look At?*, arXiv 1906.04341; Voita et al. 2019, *Analyzing
#   Multi-Head Self-Attention*, arXiv 1905.09418; Michel, Levy, Neubig 2019, *Are Sixteen Heads
#   Really Better than One?*, arXiv 1905.10650: what heads do, and which are missed.
# - Dao et al. 2022, *FlashAttention*, arXiv 2205.14135: why the fast function never builds the
#   matrix of weights.
#
# **Homework.** [Assignment attention](homework/release/attention/attention.ipynb): write the
# softmax, attention with its mask, and several heads yourself; the check names what went wrong.
#
# **Next:** [lesson 04](04_masking.ipynb), masking.
