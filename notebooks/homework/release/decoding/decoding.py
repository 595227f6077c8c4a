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
# # Homework · decoding
#
# You write how probabilities become a sentence, and how a number judges it: 105 minutes, with torch
# and your head. Close [the lesson](../../../08_decoding.ipynb) first. Looking things up is fine,
# copying is not: what you wrote yourself, you own.
#
# Run `check` as often as you like. It tries fresh models and texts each time, says what is wrong and often
# why, and shows the hint that fits your mistake (under the card are all three, for when you are stuck). The
# second check cell of an exercise is the one that is marked: it stops *Run All* at the first exercise that
# is not passed yet, and says why in its last lines.
#
# A search knows nothing of Transformers. It is given one function: `next_log_probs(prefixes)` takes a
# LongTensor (n, t) of prefixes, each beginning with bos_id, and returns the log-probabilities (n, V)
# of the next id. The lesson's function of this name *makes* such a function, for many source sentences, and tells it
# by `rows` which prefix belongs to which. Here is one sentence only, so that you can think of the search alone. Here is such a model, small enough to multiply by hand. It knows six ids.

# %%
import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from course.homework import check

NAMES = ["<s>", "</s>", "the", "a", "dog", "cat"]  # bos_id is 0, eos_id is 1
TABLE = {
    "": {"the": 0.5, "a": 0.4},
    "the": {"dog": 0.4, "cat": 0.35},
    "a": {"dog": 0.9},
    "the dog": {"</s>": 0.9},
    "the cat": {"</s>": 0.9},
    "a dog": {"</s>": 0.9},
}


def next_log_probs(prefixes: Tensor) -> Tensor:
    rows = []
    for prefix in prefixes.tolist():
        row = TABLE.get(" ".join(NAMES[i] for i in prefix[1:]), {})
        rest = (1 - sum(row.values())) / (len(NAMES) - len(row))  # for all that is not listed
        rows.append([math.log(row.get(name, rest)) for name in NAMES])
    return torch.tensor(rows)  # (n, V)


next_log_probs(torch.tensor([[0], [0]])).exp()  # two equal prefixes, two equal rows

# %% [markdown]
# <!-- card: greedy_decode -->
# ## `greedy_decode`
#
# Take the most probable id, append it, ask again; stop at eos or after max_len new ids.
#
# *Why it matters.* A model gives probabilities, not sentences. Greedy search is the cheapest way to write one, and the measure for every better search.
#
# ★★☆☆☆ · 15 minutes · 2 points
#
# ```text
# greedy_decode(next_log_probs, bos_id, eos_id, max_len) -> list of ids: bos, then
#     at most max_len new ones, the last of them eos if it came.
#     next_log_probs(prefixes) takes a LongTensor (n, t), prefixes that begin with
#     bos_id, and returns the log-probabilities (n, V) of the next id
# ```
#
# <details><summary>Hint 1</summary>
#
# What does the model see in the first step, and what in the second?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Keep a plain list of ids, and make a tensor of it for each call: torch.tensor([ids]) is (1, t).
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# for _ in range(max_len): ids.append(next_log_probs(torch.tensor([ids]))[0].argmax().item()), and leave the loop when the last id is eos_id.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "50804ccf3a11627d7646a3fe346c186a", "grade": false, "grade_id": "greedy_decode", "locked": false, "schema_version": 3, "solution": true, "task": false}
def greedy_decode(
    next_log_probs: Callable[[Tensor], Tensor], bos_id: int, eos_id: int, max_len: int
) -> list[int]:
    raise NotImplementedError  # your code


# %%
check("greedy_decode", greedy_decode)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "0af77ee4bb560f6cd5463b7141738174", "grade": true, "grade_id": "greedy_decode-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("greedy_decode", greedy_decode, strict=True).passed

# %% [markdown]
# <!-- card: beam_search -->
# ## `beam_search`
#
# Keep the `beam` most probable prefixes, let each go on with every id, keep the best `beam` of all. What ends with eos stops growing and waits for the end.
#
# *Why it matters.* The paper's translations come from a beam of 4 with a length penalty of 0.6. Greedy search is fooled by a good first word; without the penalty short sentences win too often.
#
# ★★★★★ · 60 minutes · 5 points
#
# ```text
# beam_search(next_log_probs, bos_id, eos_id, max_len, beam, length_penalty) ->
#     list of 1 to `beam` pairs (ids, score), the best first. ids: bos, then new
#     ids, the last one eos, or max_len of them. score: the sum of their
#     log-probabilities over ((5 + length) / 6) ** length_penalty, length the
#     number of new ids, eos counted (the check also accepts eos not counted, or
#     bos counted, if all scores do the same). next_log_probs(prefixes) takes a
#     LongTensor (n, t), prefixes that begin with bos_id, and returns the
#     log-probabilities (n, V) of the next id
# ```
#
# <details><summary>Hint 1</summary>
#
# Write one step first: from a list of (ids, sum) to the best `beam` of all their children. What should a hypothesis that ends with eos do in this step?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Begin with the single pair ([bos_id], 0.0). Children: (ids + [i], total + log_probs[i]) for all i; sort by the sum. Those that end with eos go to a second list, finished. The length penalty is needed only for the scores at the end.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# for _ in range(max_len): children of all live prefixes, sorted, [:beam]; move the ended ones to finished; stop when len(finished) >= beam or nothing is alive. At the end sorted(finished or live by total / ((5 + length) / 6) ** length_penalty, reverse=True).
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "a9706ec487ea5417541201bfbb71f028", "grade": false, "grade_id": "beam_search", "locked": false, "schema_version": 3, "solution": true, "task": false}
def beam_search(
    next_log_probs: Callable[[Tensor], Tensor],
    bos_id: int,
    eos_id: int,
    max_len: int,
    beam: int,
    length_penalty: float,
) -> list[tuple[list[int], float]]:
    raise NotImplementedError  # your code


# %%
check("beam_search", beam_search)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "0233f32d4ec74a0b4debc50a5e985fd3", "grade": true, "grade_id": "beam_search-check", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("beam_search", beam_search, strict=True).passed

# %% [markdown]
# Greedy search against a beam of 2, on the model above. Multiply: 0.5 · 0.4 · 0.9 = 0.18, and
# 0.4 · 0.9 · 0.9 = 0.324. Greedy search takes "the", since 0.5 is more than 0.4, and finds out too
# late.

# %%
print("greedy:", " ".join(NAMES[i] for i in greedy_decode(next_log_probs, 0, 1, 5)))
for ids, score in beam_search(next_log_probs, 0, 1, 5, beam=2, length_penalty=0.0):
    print(f"beam 2: {' '.join(NAMES[i] for i in ids)}   probability {math.exp(score):.3f}")

# %% [markdown]
# <!-- card: bleu -->
# ## `bleu`
#
# Corpus BLEU: the geometric mean of the precisions of n-grams of 1 to 4 words, their counts clipped and added over all sentences, times the brevity penalty min(1, exp(1 - r / c)). No smoothing: 0 if a precision is 0.
#
# *Why it matters.* Table 2 of the paper is a table of BLEU. Who has written it knows what 28.4 says, and what it does not.
#
# ★★★☆☆ · 30 minutes · 3 points
#
# ```text
# bleu(hypotheses, references) -> a number from 0 to 100
# both are lists of sentences, a sentence is a list of tokens (strings, compared
#     as they come), and each has one reference
# ```
#
# <details><summary>Hint 1</summary>
#
# Which ten numbers does the corpus have? Four of matches, four of totals, two of lengths. Add them up over all sentences before anything is divided.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Counter(zip(*(tokens[i:] for i in range(n)))) counts n-grams, and (a & b).total() is the clipped number of matches of two Counters.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# If min(matched) is 0, return 0.0. Else 100 * min(1, exp(1 - r / c)) * exp of the mean of log(matched / total) over n = 1 to 4.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "62796fa44ef71ca6a868a72f67897ad1", "grade": false, "grade_id": "bleu", "locked": false, "schema_version": 3, "solution": true, "task": false}
def bleu(hypotheses: list[list[str]], references: list[list[str]]) -> float:
    raise NotImplementedError  # your code


# %%
check("bleu", bleu)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "ab34b795d89626903ede06f30d0d2845", "grade": true, "grade_id": "bleu-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bleu", bleu, strict=True).passed

# %% [markdown]
# BLEU sees words, not meaning. A "not" that turns the meaning round is cheap, and a good translation in
# other words gets nothing.

# %%
reference = str.split("a dog is sleeping on the red sofa in the kitchen .")
for text in (
    "a dog is not sleeping on the red sofa in the kitchen .",
    "in the kitchen , a hound takes a nap on a scarlet couch .",
):
    print(f"{bleu([text.split()], [reference]):5.1f}  {text}")

# %% [markdown]
# *Run All* brought you here, and cells above have no number? It stopped at the first exercise that is not
# passed yet; the message below its second check cell says why.
#
# All green? Then you have what the paper's section 6.1 describes: a search, its length penalty, and the
# number of its table 2. The report collects it: `python -m course homework report` writes
# `build/report.html`, for you. A teacher who grades wants this notebook itself. What is left is [the
# exam](../exam/exam.ipynb): the whole model, from an empty cell.
