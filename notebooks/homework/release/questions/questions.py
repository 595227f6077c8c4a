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
# # Homework · the six questions
#
# Six questions about the paper, two hours. Each one has an experiment of up to a minute, a place for
# your answer, and a model answer to compare with.
#
# 1. **Guess first**, on paper. Then run the experiment and read the picture.
# 2. Write your answer: at least 100 words, or 100 Chinese characters, in a language of your choice.
#    Say what is so, why, and what the experiment showed. `answer` counts the words and keeps the text
#    for your report.
# 3. Ask for `model_answer`. It ends in a list of **points**: mark your own answer with it, and add
#    what is missing. An answer without a number from the experiment is only half an answer.
#
# A cell with `assert` is a claim: it stops if the sentence that it prints is false. Here you may use
# everything that the course has built. The lessons that help are
# [03](../../../03_attention.ipynb), [04](../../../04_masking.ipynb) and
# [05](../../../05_transformer.ipynb).

# %%
from course.homework.questions import answer, model_answer

# %% [markdown]
# ## Question 1 · What is the difference between attention and self-attention?
#
# The model that comes with the course translates German into English. It has attention in three
# places: in the encoder, in the decoder, and between the two. We give it a German sentence and its
# English translation. Then we replace *one* word in *one* of the two sentences, and look which
# attention weights move. (In the first layer, where nothing else has reached a word yet.)
#
# **Guess first.** The German word *Akkordeon* becomes *Gitarre*. Which of the three attentions
# change? And if it is the English word that changes?

# %%
from course.homework.questions import self_attention

moved, figure = self_attention.experiment()
figure

# %% [markdown]
# Rows ask, columns answer. Compare the sides of the three tables, then the bars.

# %%
# NBVAL_CHECK_OUTPUT
assert moved["encoder self-attention"]["English"] == 0
assert moved["decoder self-attention"]["German"] == 0
assert moved["encoder self-attention"]["German"] > 0.01
assert moved["decoder self-attention"]["English"] > 0.01
assert min(moved["cross-attention"].values()) > 0.01
print("each self-attention moves with its own sentence only; cross-attention moves with both")

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "30aa484f183bb28fc66e6629e9ff87fc", "grade": true, "grade_id": "answer-1", "locked": false, "points": 7, "schema_version": 3, "solution": true, "task": false}
# write between the quotes, in place of the lines that stand there
answer(1, r"""
raise NotImplementedError  # your code
""")

# %%
model_answer(1)

# %% [markdown]
# ## Question 2 · Why does the Transformer have residual connections?
#
# A stack of layers gets six letters in a ring, from an alphabet of eight, and must say, at each place,
# which letter stands just before. We train it twice. Everything is equal, the norms too (pre-norm: they
# stand in front of the sub-layers); only the sum `x + sublayer(norm(x))` becomes `sublayer(norm(x))`. The
# dotted line is the loss of a model that knows nothing: one of eight letters, ln 8.
#
# **Guess first.** Lesson 05 found that with norms the gradient of a *fresh* stack arrives at the
# bottom in a good size, with or without the sum. So what will happen to it in training? And to the
# loss, with 2 layers and with 24?

# %%
from course.homework.questions import residuals

ends, figure = residuals.experiment()
figure

# %%
# NBVAL_CHECK_OUTPUT
deepest = max(ends["with"])
assert ends["without"][deepest]["loss"] > residuals.BASELINE - 0.1
assert ends["with"][deepest]["loss"] < residuals.BASELINE - 0.4
assert ends["without"][2]["loss"] < residuals.BASELINE - 0.3
assert ends["without"][deepest]["gradient"] < ends["with"][deepest]["gradient"] / 10
print("without the sum, two layers learn something and the deepest stack nothing;")
print("what reaches its lowest layer is less than a tenth of what the sum lets through")

# %% [markdown]
# Look at the middle panel again: the gradient was there in the beginning. Which of the three reasons
# that you know (a way for the gradient, a way for the signal, words that stay different) fits to
# that?

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "637c3f32cd2ba7a7f95f112bfa05e516", "grade": true, "grade_id": "answer-2", "locked": false, "points": 7, "schema_version": 3, "solution": true, "task": false}
# write between the quotes, in place of the lines that stand there
answer(2, r"""
raise NotImplementedError  # your code
""")

# %%
model_answer(2)

# %% [markdown]
# ## Question 3 · Why several heads, and not one?
#
# Lesson 03 let a layer find two things. Here is a task that looks even easier: a **difference**. On a
# ring of eight places each place holds eight random numbers. At every place the layer must return
# the numbers of the place *after* minus those of the place *before*: how steep is it here?
#
# **Guess first.** One head of width 16 and two heads of width 8 have the same number of parameters.
# Which error can the single head reach, if doing nothing is 1? Does it help to make it four times as
# wide? (Hint: a head's weights are positive. What happens to a minus sign?)

# %%
from course.homework.questions import heads

found, figure = heads.experiment()
figure

# %%
# NBVAL_CHECK_OUTPUT
one, wide, two, four = found.values()
assert one["parameters"] == two["parameters"] == four["parameters"] == wide["parameters"] / 4
assert one["error"] > 0.45 and wide["error"] > 0.45
assert two["error"] < 0.05 and four["error"] < 0.05
print("one head keeps half of the error, even with four times the parameters; two heads lose it")

# %% [markdown]
# Why one half? All places pass through the *same* matrix $M$ of the head. If the head gives the place
# after the weight $w$ and the one before $1 - w$, its output is $M(w\,a + (1 - w)\,b)$. To come near
# $a - b$, it would need $M$ positive for $a$ and negative for $b$. The best that it can do is $w = 1$
# or $w = 0$: be right about one place, and give up the other. The first map shows which one it gave up.

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "b2587ad2324a9401d38a51437e42473b", "grade": true, "grade_id": "answer-3", "locked": false, "points": 7, "schema_version": 3, "solution": true, "task": false}
# write between the quotes, in place of the lines that stand there
answer(3, r"""
raise NotImplementedError  # your code
""")

# %%
model_answer(3)

# %% [markdown]
# ## Question 4 · What does a self-attention layer cost, and why?
#
# Lesson 03 counted operations. Now the clock and the memory, in two parts: the four **projections**
# (queries, keys, values, output), and the **attention** itself (scores, softmax, weighted sum).
# Attention comes twice, as you would write it and as PyTorch's fused function. Beside them stands a
# recurrent layer of the same width. The clock counts what one core of this machine really works, so
# that other programs do not disturb it much; the memory is what training keeps for the gradient.
#
# **Guess first.** A sentence becomes twice as long: by which factor grows each part? And if the
# model becomes twice as wide? From which length on is attention the larger part?

# %%
from course.homework.questions import cost

exponents, figure = cost.experiment()
figure

# %% [markdown]
# The numbers in the legends are fitted exponents: `n^2.0` says that twice the length costs four times
# as much. Where a line bends, something else than the count decides. Short inputs pay the fixed price
# of a call; a table that no longer fits into the fast cache of the processor costs more than its
# multiplications.

# %%
# NBVAL_CHECK_OUTPUT
over_n, over_d, memory = (exponents[name] for name in cost.MEASURED)
assert over_n["attention"] > over_n["projections"] + 0.4
assert over_n["attention, fused"] > over_n["projections"] + 0.4
assert over_d["projections"] > over_d["attention"] + 0.4
assert memory["attention"] > 1.75
assert max(memory[part] for part in ("projections", "attention, fused", "recurrence")) < 1.1
assert cost.WIDTH / 8 < exponents["crossing"]["time"] < 8 * cost.WIDTH
print("over n attention grows faster, over d the projections do;")
print("a table of n x n is kept by the hand-written attention only")

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "36d3a2c2930f42b50a5f5cb898636ab3", "grade": true, "grade_id": "answer-4", "locked": false, "points": 7, "schema_version": 3, "solution": true, "task": false}
# write between the quotes, in place of the lines that stand there
answer(4, r"""
raise NotImplementedError  # your code
""")

# %%
model_answer(4)

# %% [markdown]
# ## Question 5 · Why does the Transformer need masks?
#
# A very small translation: ten source letters, and **each has two right translations**. A row of
# letters comes in, for each letter one of its two words goes out, by chance. Nobody can know which one
# it will be. So there is a floor for every honest loss: ln 2 for each letter and 0 for the end, on
# average 0.59 nats per word.
#
# We train a Transformer with and without the causal mask. Then both write by themselves, word by
# word; each of the two words counts as right. At last we take the good one, and forget its *padding*
# mask while it reads.
#
# **Guess first.** Which of the two has the smaller training loss? Which one writes better? How many
# dummies behind a row does it take to spoil a translation?

# %%
from course.homework.questions import masks

found, figure = masks.experiment()
figure

# %%
# NBVAL_CHECK_OUTPUT
honest, leaky = "with the causal mask", "without"
assert found["loss"][leaky] < 0.7 * masks.FLOOR < 0.95 * masks.FLOOR < found["loss"][honest]
assert found["right"][honest] > 0.75 and found["right"][leaky] < 0.2
assert abs(found["padding"]["kept"] - found["right"][honest]) < 0.03
assert found["padding"]["forgotten"] < found["right"][honest] - 0.4
print("without the causal mask: a loss that nobody can have, and hardly a row written rightly;")
print("without the padding mask: dummies are read as words")

# %% [markdown]
# A loss below the floor is the best sign of a leak that you can have: compute the floor *before* you
# train, whenever you can.

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "f9e20bfe6697129d0905d4448d2965b2", "grade": true, "grade_id": "answer-5", "locked": false, "points": 7, "schema_version": 3, "solution": true, "task": false}
# write between the quotes, in place of the lines that stand there
answer(5, r"""
raise NotImplementedError  # your code
""")

# %%
model_answer(5)

# %% [markdown]
# ## Question 6 · Which position embeddings exist besides the paper's?
#
# Attention knows no order (lesson 05). So somewhere a model must be told where each word stands.
# The paper adds sines and cosines to the embeddings. Since then people have tried other places to say
# it. Here are five ways, each in a few lines, and `none`, which says nothing.
#
# There are four places where one can act. The class below acts at none of them; each of the others
# replaces one or two of its functions. All the rest of the model stays the same.

# %%
import torch

from course.homework.questions import positions

positions.source(positions.Positions)

# %% [markdown]
# And this is the attention that asks at each of the places:

# %%
positions.source(positions.Attention)

# %% [markdown]
# ### Sinusoidal (the paper, section 3.5): added to the embedding
#
# $$x_i \leftarrow x_i + PE_i, \qquad PE_{(i,\,2j)} = \sin(i\,\omega_j), \quad
# PE_{(i,\,2j+1)} = \cos(i\,\omega_j), \quad \omega_j = 10000^{-2j/d_{model}}$$
#
# Each place has its own pattern: an **absolute** position. No parameters; it exists for any place.

# %%
positions.source(positions.sinusoids, positions.Sinusoidal)

# %% [markdown]
# ### Learned (Gehring et al. 2017; BERT, GPT-2): added to the embedding
#
# $$x_i \leftarrow x_i + p_i, \qquad p_i \in \mathbb{R}^{d_{model}} \text{ is a learned row}$$
#
# Absolute too. Two things can go wrong with a long text: the table has no such row (an error), or it
# has one that training never touched. Which rows get a gradient from a row of five letters?

# %%
positions.source(positions.Learned)

# %%
# NBVAL_CHECK_OUTPUT
model = positions.Recall("learned", positions.Sizes(longest=10))
model(torch.tensor([[1, 2, 3, 4, 5]])).sum().backward()
touched = model.positions.table.grad.abs().sum(dim=1) > 0
assert touched.tolist() == [True] * 5 + [False] * 5
print("rows of the table that learn:", touched.nonzero().flatten().tolist())

# %% [markdown]
# ### Relative (Shaw et al. 2018): added to keys and values
#
# $$e_{ij} = \frac{q_i \cdot (k_j + a^K_{ij})}{\sqrt{d_k}}, \qquad
# z_i = \sum_j \alpha_{ij}\,(v_j + a^V_{ij}), \qquad a_{ij} = w_{\operatorname{clip}(j - i,\,k)}$$
#
# One learned vector for each **distance**, and not for each place. Beyond $k$ all distances share
# the last one: $\operatorname{clip}(d, k) = \max(-k, \min(k, d))$. So there is no distance without a
# vector. The dot product splits in two, $q_i \cdot k_j$ and $q_i \cdot a^K_{ij}$: the code adds the
# second.

# %%
positions.source(positions.Relative)

# %%
# NBVAL_CHECK_OUTPUT
rows = positions.Relative(positions.Sizes(clip=2)).row(6)  # (Q, K)
assert rows[5].tolist() == [0, 0, 0, 0, 1, 2] and rows[0].tolist() == [2, 3, 4, 4, 4, 4]
print("k = 2: which of the five vectors stands between query (row) and key (column)")
print(rows)

# %% [markdown]
# ### Rotary, RoPE (Su et al. 2021): turns queries and keys
#
# $$\begin{pmatrix} q_{2j} \\ q_{2j+1} \end{pmatrix} \leftarrow
# \begin{pmatrix} \cos i\,\omega_j & -\sin i\,\omega_j \\ \sin i\,\omega_j & \cos i\,\omega_j \end{pmatrix}
# \begin{pmatrix} q_{2j} \\ q_{2j+1} \end{pmatrix}, \qquad \omega_j = 10000^{-2j/d_k},$$
#
# and the same for each key. Two hands of a clock, turned by their places: the angle between them
# knows only how far the places are apart. Every vector is turned by its own place (absolute), every
# **score** sees the distance (relative). No parameters.

# %%
positions.source(positions.rotate, positions.Rotary)

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
query, key = torch.randn(2, 1, 8)
scores = []
for i, j in ((5, 3), (105, 103), (5, 4)):
    turned_query = positions.rotate(query, torch.tensor([i]))
    turned_key = positions.rotate(key, torch.tensor([j]))
    assert torch.isclose(turned_query.norm(), query.norm())  # turned, not stretched
    scores.append((turned_query @ turned_key.T).item())
    print(f"query at {i}, key at {j}: q·k = {scores[-1]:.2f}")
assert abs(scores[0] - scores[1]) < 1e-3 < abs(scores[0] - scores[2])

# %% [markdown]
# ### ALiBi (Press et al. 2021): a bias on the scores
#
# $$e_{ij} = \frac{q_i \cdot k_j}{\sqrt{d_k}} - m_h\,(i - j), \qquad m_h = 2^{-8h/H}
# \quad (h = 1, \dots, H)$$
#
# What is far away counts less, in a straight line. Nothing is learned. Each head has its own slope:
# the first sees a few words, the last nearly all. It was made for models that look back; where a
# model also looks forward, our code takes $|i - j|$.

# %%
positions.source(positions.slopes, positions.ALiBi)

# %%
# NBVAL_CHECK_OUTPUT
assert (1 / positions.slopes(8)).tolist() == [2, 4, 8, 16, 32, 64, 128, 256]
print("8 heads, one divided by the slope:", (1 / positions.slopes(8)).int().tolist())

# %% [markdown]
# ### What each of them does to the scores
#
# A row of 91 equal letters goes into fresh models, before any training. Two queries look back, one at
# place 40, one at place 90. The letters are equal, so only the places can make a difference.
#
# **Guess first.** In which panels do the two curves lie on each other?

# %%
positions.draw_effects()

# %% [markdown]
# The upper row: `none` has nothing to say, and the absolute two say something else at each place. In
# the lower row the two queries agree. Shaw's line is flat from its clipping distance on ($k = 8$),
# rotary is a sum of waves, ALiBi a line by a law. (For sinusoids, lesson 05 found that the dot product
# of two *encodings* depends on the distance alone. But a score has the matrices $W^Q$ and $W^K$ in
# between, and the letters.)

# %% [markdown]
# ### Train short, test long
#
# The task: at each place, name the letters 1, 2, 3 and 4 places back. There are 8 letters, so chance
# is 1/8. The model: one causal layer with 8 heads. **It trains on rows of 16 letters, and is tested on
# rows of 128.** The mask is causal, so place 50 of a long row is the end of a row of 50 letters: one
# long row tests all lengths.
#
# **Guess first.** Draw six curves: accuracy over length, from 5 to 128. Which of them reach 1 inside
# the 16? Which fall beyond, and at once or slowly? (Takes about a minute.)

# %%
runs = positions.experiment()
positions.draw(runs)

# %% [markdown]
# A band shows the smallest and the largest of the seeds. On the left the mean of the four distances;
# on the right each distance by itself, and only inside the trained length.

# %%
# NBVAL_CHECK_OUTPUT
found, back = positions.means(runs), positions.by_distance(runs)
inside, near, far = "trained length", "up to twice", "four to eight times"
assert all(found[kind][inside] > 0.7 for kind in ("sinusoidal", "learned", "relative", "rotary"))
assert all(found[kind][near] < 0.4 for kind in ("sinusoidal", "learned"))
assert found["rotary"][near] > 0.8 and found["rotary"][far] < 0.4
assert found["relative"][far] > 0.95
assert found["alibi"][far] > found["alibi"][inside] - 0.15
assert back["alibi"][0] > 0.9 and back["alibi"][3] < back["alibi"][0] - 0.2
print("just beyond the trained length: sinusoidal and learned fail, the other three go on;")
print("at four to eight times: rotary fails too, relative and ALiBi go on;")
print("but ALiBi is worse the farther back the letter is, even inside")

# %%
for kind, spans in found.items():
    print(f"{kind:10}", *(f"  {name}: {value:.2f}" for name, value in spans.items()))

# %% [markdown]
# **And `none`?** It beats chance. A layer without positions still sees *which* letters came before,
# in a bag. The best that one can do with a bag is to name the commonest letter. How often is that
# right? We can count it without any model.

# %%
# NBVAL_CHECK_OUTPUT
sizes = positions.Sizes()
counting = positions.commonest_so_far(sizes)
for name, span in positions.spans(sizes).items():
    assert abs(found["none"][name] - counting[span].mean().item()) < 0.05
print("none is as good as naming the commonest letter so far")

# %% [markdown]
# **Why does rotary fail, although it is relative?** Look at the head that learned to look one letter
# back, again on a row of equal letters. Grey are the distances that training has seen.

# %%
positions.draw_reasons(runs)

# %%
# NBVAL_CHECK_OUTPUT
models = {run.kind: run.model for run in runs}
curves = {
    kind: positions.scores_by_distance(models[kind], 127)[positions.looks_back_one(models[kind])]
    for kind in ("relative", "rotary", "alibi")
}
beyond = sizes.trained
assert curves["rotary"][beyond:].max() > curves["rotary"][:beyond].max()
for kind in ("relative", "alibi"):
    assert curves[kind][beyond:].max() < curves[kind][1]
print("rotary: some letter farther than ever seen gets more than all trained distances;")
print("relative is held down by its clipping, ALiBi by a line")

# %% [markdown]
# Training made the waves right for distances 0 to 15, and nobody asked what they do later. They come
# back: a far letter gets a higher score than the right one. Large models have the same trouble (Chen
# et al. 2023); their remedy is to turn more slowly, so that a long text fits into the angles that
# training has seen. Relative has no such distances: clipping gives every far letter a vector that
# training has seen, too.
#
# One warning: this task is local. That suits a clipping distance of 8 and a bias towards the near.
# On other tasks the order is another one (Kazemnejad et al. 2023).
#
# > **Try it.** (1) `positions.experiment(["none"], positions.Sizes(n_layers=2), seeds=1)`: with a
# > second layer the causal mask itself becomes a position. Draw it: where do you see that?
# > (2) `Sizes(clip=2)` for `"relative"`: which distances break? (3) Add a distance of 12 to
# > `Sizes(distances=...)`: what becomes of ALiBi, and of relative?

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "fea0c5de636e0b19cf1ffd177bef8c0f", "grade": true, "grade_id": "answer-6", "locked": false, "points": 7, "schema_version": 3, "solution": true, "task": false}
# write between the quotes, in place of the lines that stand there
answer(6, r"""
raise NotImplementedError  # your code
""")

# %%
model_answer(6)

# %% [markdown]
# All answered? Then read your six answers once more, a day later, without the model answers. What you can
# still explain to a friend is yours. The report collects them: `python -m course homework report` writes
# `build/report.html`, for you. A teacher who grades wants this notebook itself.
