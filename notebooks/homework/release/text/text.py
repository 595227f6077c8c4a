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
# # Homework · text
#
# You write how text becomes subwords, and how sentences become batches: 65 minutes, in plain Python.
# Close [the lesson](../../../06_text.ipynb) first. Looking things up is fine, copying is not: what you
# wrote yourself, you own.
#
# Run `check` as often as you like. It tries fresh words and lengths each time, says what is wrong and often
# why, and shows the hint that fits your mistake (under the card are all three, for when you are stuck). The
# second check cell of an exercise is the one that is marked: it stops *Run All* at the first exercise that
# is not passed yet, and says why in its last lines.
#
# One difference to the lesson: here words have no space in front. The end of a word is marked instead,
# as in the paper's time: the last character carries `</w>`, and `low` begins as `l`, `o`, `w</w>`. So does subword-nmt,
# the program of those who brought BPE to translation, and you can run it beside yours.

# %%
from collections import Counter

from course.homework import check

# %% [markdown]
# <!-- card: learn_bpe -->
# ## `learn_bpe`
#
# Merge the most frequent pair of neighbours into one symbol, everywhere and from the left; count again; and so on. A pair counts at each place where it stands, and each time as often as its word occurs: in *banana*, `a n` stands twice.
#
# *Why it matters.* The paper's models read subwords learned like this: frequent words become one token, rare ones a few, and no word is unknown. The paper's vocabulary has about 37,000.
#
# ★★★☆☆ · 30 minutes · 3 points
#
# ```text
# learn_bpe(word_counts, n_merges): word_counts a dict word -> how often it occurs
#     -> a list of n_merges pairs of symbols, in the order learned
# fewer only if no word has two symbols left. Symbols begin as characters, the
#     last one with </w>: low is l, o, w</w>. Ties go to the lexicographically
#     smallest pair, as Python compares tuples
# ```
#
# <details><summary>Hint 1</summary>
#
# Which three steps are repeated? Write each as a function: count the pairs, choose one, merge it in a word.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Keep a dict from the tuple of a word's symbols to its count. Pairs of neighbours: zip(symbols, symbols[1:]), each adding the word's count. Merge with an index i that goes on by 2 after a merge, else by 1.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# best = min(counts, key=lambda pair: (-counts[pair], pair)): negative counts put the most frequent first, and the pair decides a tie. Stop when counts is empty.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "44630f11eff22322ef3d4d7a95e808bc", "grade": false, "grade_id": "learn_bpe", "locked": false, "schema_version": 3, "solution": true, "task": false}
def learn_bpe(word_counts: dict[str, int], n_merges: int) -> list[tuple[str, str]]:
    raise NotImplementedError  # your code


# %%
check("learn_bpe", learn_bpe)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "0cfce7c6eea8975f2c5f9b64788f1663", "grade": true, "grade_id": "learn_bpe-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("learn_bpe", learn_bpe, strict=True).passed

# %% [markdown]
# Watch it learn. Regen is rain, a Schirm is a screen: the two make an umbrella. Which symbols does it
# find, and which of them would a grammar not know?

# %%
rain = {"Regen": 5, "Regenschirm": 4, "Schirm": 2, "Bildschirm": 2, "Regenmantel": 2, "Mantel": 3}
merges = learn_bpe(rain, 100)
print(" ".join(a + b for a, b in merges))

# %% [markdown]
# <!-- card: apply_bpe -->
# ## `apply_bpe`
#
# Cut a word, seen or never seen, by repeating the merges in the order learned: each one wherever it stands, from the left.
#
# *Why it matters.* Training and translation must cut words alike: the model knows symbols, and a word cut in another way is a word it has never read.
#
# ★★☆☆☆ · 15 minutes · 2 points
#
# ```text
# apply_bpe(word, merges): merges a list of pairs, as learn_bpe returns it -> the
#     list of the word's symbols, the last one ending in </w>
# ```
#
# <details><summary>Hint 1</summary>
#
# Where does a word stand before the first merge of learn_bpe? Begin there.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Then do what learning did: for each pair of merges, in order, join it everywhere in the word. Nothing is counted any more.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# symbols = [*word[:-1], word[-1] + '</w>'], and the function that merges a pair in a word is the one you have written for learn_bpe.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "963356ca5ffb7e7573e94e3bf468d234", "grade": false, "grade_id": "apply_bpe", "locked": false, "schema_version": 3, "solution": true, "task": false}
def apply_bpe(word: str, merges: list[tuple[str, str]]) -> list[str]:
    raise NotImplementedError  # your code


# %%
check("apply_bpe", apply_bpe)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "77dc23ef48d976b3ccac2cdc8e6da358", "grade": true, "grade_id": "apply_bpe-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("apply_bpe", apply_bpe, strict=True).passed

# %% [markdown]
# A word that training never saw is no problem: it falls into pieces that are known. The more merges,
# the larger the pieces. (`bild` stays in letters: training saw only `Bild`.)

# %%
for n in (0, 5, 15, len(merges)):
    print(f"{n:3} merges:", " ".join(apply_bpe("Regenbildschirm", merges[:n])))

# %% [markdown]
# <!-- card: token_batches -->
# ## `token_batches`
#
# Cut a corpus into batches by their number of tokens, padding counted.
#
# *Why it matters.* A batch takes memory and time for each position, padding or not. The paper's batches hold about 25,000 tokens, whatever the number of sentences; bad batches waste half the machine.
#
# ★★☆☆☆ · 20 minutes · 2 points
#
# ```text
# token_batches(lengths, max_tokens): lengths a list of numbers of tokens -> a
#     list of batches, each a list of indices into lengths, every index once. A
#     batch costs its number of sentences times its longest length, at most
#     max_tokens, and is closed only when the next sentence does not fit. Similar
#     lengths stand together: of 1000 sentences, less than a tenth is padding. A
#     sentence longer than max_tokens: ValueError, or a batch of its own
# ```
#
# <details><summary>Hint 1</summary>
#
# In which order should the sentences come, so that neighbours have similar lengths? And what does a batch of n sentences cost, if the longest has L tokens?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# order = sorted(range(len(lengths)), key=lambda i: lengths[i]); fill a batch along it, and begin a new one when the next sentence would make it cost too much. In this order the next sentence is the longest.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# if batch and (len(batch) + 1) * lengths[i] > max_tokens: append the batch to batches and begin a new one, []. In each case batch.append(i). And after the loop?
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "1753c7a606e9a162736df3bd8f4a7b89", "grade": false, "grade_id": "token_batches", "locked": false, "schema_version": 3, "solution": true, "task": false}
def token_batches(lengths: list[int], max_tokens: int) -> list[list[int]]:
    raise NotImplementedError  # your code


# %%
check("token_batches", token_batches)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "257d3cc73b6f87855caa093b5b4c3fd2", "grade": true, "grade_id": "token_batches-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("token_batches", token_batches, strict=True).passed

# %% [markdown]
# How much is padding? Draw the rectangles of a small corpus: `#` is a token, `.` is padding.

# %%
lengths = [3, 11, 5, 2, 8, 4, 12, 3, 6, 5, 9, 4]
for batch in token_batches(lengths, max_tokens=24):
    width = max(lengths[i] for i in batch)
    for i in batch:
        print(f"sentence {i:2}  " + "#" * lengths[i] + "." * (width - lengths[i]))
    print(f"             {len(batch)} x {width} = {len(batch) * width} tokens")

# %% [markdown]
# *Run All* brought you here, and cells above have no number? It stopped at the first exercise that is not
# passed yet; the message below its second check cell says why.
#
# All green? Then you can cut any text into subwords and any corpus into batches of which little is padding.
# The report collects it: `python -m course homework report` writes `build/report.html`, for you. A teacher
# who grades wants this notebook itself. Next come [the schedule, the loss and the
# optimiser](../training/training.ipynb).
