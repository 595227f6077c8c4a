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
# # 06 · Text
#
# > Text: from sentences to token ids to batches, and back (paper, section 5.1).
#
# **After this lesson you can**
#
# - turn a sentence into numbers and back without losing one letter of it, pasted text too;
# - learn a byte-pair encoding (BPE) by hand, and say why each merge was made;
# - say why the vocabulary is learned from the training sentences alone;
# - cut a corpus into batches of which less than a tenth is padding.
#
# **You need** lesson 04 (padding, `Batch`) and Python's `dict` and `Counter`; regular expressions
# are explained where they are used.
# **Time:** 45 minutes; 90 with all that is marked *more*. **Paper:** section 5.1, and one sentence of section 3.4.
#
# A Transformer adds and multiplies numbers. It cannot read. Four steps carry a sentence to it,
# and this lesson builds each of them:
#
# | step | example | built below |
# |---|---|---|
# | a sentence | `A girl sings.` | |
# | tokens: pieces of text | `▁A` `▁girl` `▁sing` `s` `.` | `BPE` |
# | ids: rows of the embedding table | `339 479 732 303 262` | `BPE.encode` |
# | a batch: a rectangle of ids | shape (B, S) | `token_batches`, `make_batches` |
#
# The ids in the table are real: a folded cell of section 4 computes them.

# %%
#| export
import heapq
import json
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models

from course.masking import Batch

PAD, BOS, EOS, UNK = range(4)
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")

# %% [markdown]
# The first four ids belong to no text. They are signals:
#
# | id | shown as | it says | who reads it |
# |---|---|---|---|
# | `PAD` = 0 | `<pad>` | nothing is here, only filling | nobody: the masks of lesson 04 hide it |
# | `BOS` = 1 | `<s>` | begin of sentence | the decoder, as its first input |
# | `EOS` = 2 | `</s>` | end of sentence | the encoder reads it, the decoder must write it |
# | `UNK` = 3 | `<unk>` | a word that the vocabulary does not hold | with BPE: nobody, ever |
#
# The demonstrations below use the course's captions (German and English descriptions of
# pictures) and 40 probe sentences, which were written separately: they play the part of the real
# world.

# %%
import csv
from statistics import mean
from time import perf_counter

import course
from course.corpora import pairs
from course.homework import check, compare
from course.viz import text as draw

train = pairs("captions", "train")  # list of (German, English)
val = pairs("captions", "val")
probe_file = Path(course.__file__).parents[1] / "assets" / "probe_sentences.tsv"
with open(probe_file, encoding="utf-8") as f:
    probes = [(row["de"], row["en"]) for row in csv.DictReader(f, delimiter="\t")]
german, english = [de for de, _ in train], [en for _, en in train]

assert not set(train) & set(val) and not set(train) & set(probes)
print(f"{len(train)} pairs to train, {len(val)} to validate, {len(probes)} probes; none in common")

# %% [markdown]
# ## 1 · Words: the first idea
#
# *Question: where does one word end?* At the space, one would say.
#
# **Guess first:** how many words has `Dr. Wolf's dog can't swim, e.g. here.`? Count, then
# compare with what spaCy's rules say. `spacy.blank("en")` is a pipeline with nothing but these
# rules: it is part of the package, and no model has to be downloaded.


# %%
#| export
@cache
def spacy_pipeline(language: str) -> Callable[[str], Iterable[Any]]:
    """Return spaCy's rule-based pipeline for "de" or "en"; needs no model download."""
    import spacy  # takes a second or two, and who only translates cuts no words

    return spacy.blank(language)


def tokenize(text: str, language: str) -> list[str]:
    """Split a sentence into words and punctuation with spaCy's rules; white space is dropped."""
    return [token.text for token in spacy_pipeline(language)(text) if not token.is_space]


# %%
# NBVAL_CHECK_OUTPUT
print(tokenize("Dr. Wolf's dog can't swim, e.g. here.", "en"))
print(tokenize("Der Hund z. B. kann's nicht.", "de"))

# %% [markdown]
# The full stop of `Dr.` belongs to the word, the one after `here` does not; `can't` is two words.
# Somebody wrote such rules down for each language. For Chinese or Japanese, which write no
# spaces, rules do not suffice.
#
# A **vocabulary** numbers the words. Which words? Those of the training sentences, the most
# frequent first. Words with equal counts are sorted, so that the same sentences give the same
# ids, in whatever order they come: a trained model knows row 57 of its embedding table, not the word.


# %%
#| export
class Vocabulary:
    """A two-way table between words and ids; the ids of the special tokens come first.

    Words that it does not hold become UNK. No word becomes another special id, not even "<pad>".
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        words = list(tokens)
        self.tokens = [*SPECIAL_TOKENS, *words]
        self.ids = {word: i for i, word in enumerate(words, start=len(SPECIAL_TOKENS))}
        if len(self.ids) < len(words):
            twice = [t for t, n in Counter(words).items() if n > 1]
            raise ValueError(f"a vocabulary holds each token once; these come twice: {twice[:5]}")

    @classmethod
    def from_sentences(cls, sentences: Iterable[Sequence[str]], min_count: int = 1) -> "Vocabulary":
        """Count the tokens of the training sentences; keep those seen `min_count` times or more."""
        counts = Counter(token for sentence in sentences for token in sentence)
        kept = [t for t, n in counts.items() if n >= min_count]
        return cls(sorted(kept, key=lambda t: (-counts[t], t)))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens."""
        return [self.ids.get(token, UNK) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the tokens of ids."""
        return [self.tokens[i] for i in ids]


# %%
words_de = [tokenize(s, "de") for s in german]
vocabulary_de = Vocabulary.from_sentences(words_de)
backwards = Vocabulary.from_sentences(reversed(words_de))

val_de = [tokenize(de, "de") for de, _ in val]
sentence = ["Ein", "Mann", "trägt", "einen", "Hut", "."]
ids = vocabulary_de.encode(sentence)
assert backwards.tokens == vocabulary_de.tokens, "the order of the sentences must not matter"
assert vocabulary_de.decode(ids) == sentence
assert vocabulary_de.encode(["<pad>", "</s>"]) == [UNK, UNK], "no text may write a special id"
print(f"{len(vocabulary_de)} German words; {sentence} -> {ids}")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Two old habits · more
#
# For who has met lower-casing and `min_freq` elsewhere: what the two cost.

# %% [markdown]
# What does a word vocabulary lose? **Guess first:** of the validation sentences, how many come
# back exactly as they were if we encode and decode them? And if every word is lower-cased first,
# or if only words seen ten times or more get an id (`min_count=10`, often called `min_freq`)?
#
# Both are old habits to make the vocabulary smaller. We compare lists of words, so lost spaces do
# not count here.


# %%
def exact(vocabulary: Vocabulary, sentences: list[list[str]], prepare=str) -> float:
    """Share of the sentences whose words all come back as they were."""
    back = [vocabulary.decode(vocabulary.encode(map(prepare, words))) for words in sentences]
    return mean(b == words for b, words in zip(back, sentences))


lower = Vocabulary.from_sentences([[w.lower() for w in words] for words in words_de])
often = Vocabulary.from_sentences(words_de, min_count=10)
kept = exact(vocabulary_de, val_de), exact(lower, val_de, str.lower), exact(often, val_de)
assert all(any(w != w.lower() for w in words) for words in val_de)  # so lower-casing loses all
assert kept[0] == 1 and kept[1] == 0 and 0.9 < kept[2] < 0.99
for label, vocabulary, share in zip(
    ("as it is", "lower-cased", "min_count=10"), (vocabulary_de, lower, often), kept
):
    print(f"{label:13} {len(vocabulary):4} words, {share:6.1%} of the sentences come back exactly")

# %% [markdown]
# Lower-casing destroys every German sentence, by construction: nouns are written with a capital, and
# so is the sentence's first word. It is also more than looks: *der Arm* is an arm and *arm* is poor.
# A model that never writes capitals scores well only against lower-cased references. This course
# keeps the capitals.

# %% [markdown]
# ## 2 · Why words fail
#
# All captions come from one grammar with a small lexicon. Real text is not so kind. We take the
# only large real text that every Python carries: the help pages of Python itself. Sort its words
# by how often they occur and draw count over rank. Zipf noticed in the 1930s that the count is
# roughly proportional to 1/rank, so that many words come only once.
#
# **Guess first:** which share of the *distinct* words of those pages occurs exactly once?

# %%
mine = None  # your guess: a share, 0 to 1

# %%
from pydoc_data.topics import topics

help_words = re.findall(r"[A-Za-z']+", "\n".join(topics[name] for name in sorted(topics)))
help_counts = sorted(Counter(help_words).values(), reverse=True)
caption_counts = sorted(Counter(w for words in words_de for w in words).values(), reverse=True)
once = mean(n == 1 for n in help_counts)
draw.zipf(
    {"Python's help pages (real text)": help_counts, "German captions (a grammar)": caption_counts},
    f"Real text has a long tail: {once:.0%} of its distinct words come once",
)

# %% [markdown]
# The curve of the captions drops suddenly at its right end: a grammar has hardly any rare words.
# Real text goes on, down to words that come once. Cut the real text at nine tenths: are the
# words of the last tenth all known?


# %%
def unknown_share(vocabulary: Vocabulary, words: Iterable[str]) -> float:
    """Share of the words that become UNK: the out-of-vocabulary (OOV) rate."""
    ids = vocabulary.encode(words)
    return ids.count(UNK) / len(ids)


at = len(help_words) * 9 // 10
help_unknown = unknown_share(Vocabulary.from_sentences([help_words[:at]]), help_words[at:])
assert once > 0.15 and help_unknown > 0.01
print(f"{once:.0%} of the distinct words come once")
print(f"{help_unknown:.1%} of the words of the last tenth are unknown")
compare(mine, once, "06: words that come once")

# %% [markdown]
# German makes it worse, because it writes compounds as one word and everybody may invent new
# ones: *Kürbissuppenwagen*, a cart that sells pumpkin soup. The probe sentences hold such words.
# How many of their words does the vocabulary of the captions not know?

# %%
probe_words = [tokenize(de, "de") for de, _ in probes]
val_unknown = unknown_share(vocabulary_de, [w for words in val_de for w in words])
probe_unknown = unknown_share(vocabulary_de, [w for words in probe_words for w in words])
assert val_unknown < 0.01 and probe_unknown > 0.2
compound = next(words for words in probe_words if "Kürbissuppenwagen" in words)
print(f"unknown words: validation {val_unknown:.1%}, probes {probe_unknown:.1%}")
print(" ".join(vocabulary_de.decode(vocabulary_de.encode(compound))))

# %% [markdown]
# A translator cannot translate `<unk>`. The validation sentences hide this, since they come from
# the same grammar as the training sentences: a warning about every measurement on data that
# resembles the training data too much.
#
# **Check your reason.** The next cell asks; answer by `check("text_words", "b")`.

# %%
check("text_words")

# %% [markdown]
# ### The vocabulary never sees validation or test
#
# There is a simple way to make the number of unknown words small: count the words of *all* the
# files. It is also a way to deceive yourself. This is called **leakage**: something of the test
# reaches the training. Below, the honest vocabulary gets the training sentences and nothing
# else; the leaking one also gets the probes.

# %%
honest = Vocabulary.from_sentences(words_de)
leaking = Vocabulary.from_sentences([*words_de, *probe_words])
tested = [w for words in probe_words for w in words]
shares = unknown_share(honest, tested), unknown_share(leaking, tested)
assert shares[0] > 0.2 and shares[1] == 0  # the 0 by construction: it has counted them
print(f"unknown words in the probes: honest {shares[0]:.1%}, leaking {shares[1]:.1%}")

# %% [markdown]
# Zero unknown words: a perfect figure, and a false one. Tomorrow's sentences are in none of your
# files, and for them the first figure holds. In this course every `learn` and `from_sentences`
# is given the split `"train"`, and nothing else.
#
# > **Try it.** Sort the words that only `leaking` knows by their length:
# > `sorted(set(leaking.ids) - set(honest.ids), key=len)[-9:]`. What are the longest?
#
# <details><summary>Answer</summary>
#
# 147 words, and nearly all of the longest are compounds: *Regenbogenpudelmütze*,
# *Kürbissuppenwagen*, *Wasserflasche*, *Gummistiefeln*, *Gemüsehändler*, *Kuchenformen* (the verb
# *hinauftragen* and the borrowed *Skateboarder* among them). The short ones are no rarities: *vier*, *müde*, *hat*, *will*.
#
# </details>

# %%
check("text_train_only")

# %% [markdown]
# ## 3 · From characters upwards
#
# The other extreme: every character is a token. Hardly anything is ever unknown, and the
# vocabulary is tiny. The price is length: self-attention compares every position with every
# other (lesson 03), so a sequence five times as long costs 25 times as many scores.
#
# Section 5.1 of the paper takes the way between: **byte-pair encoding** (Sennrich, Haddow and
# Birch 2016). Begin with characters. Look for the pair of neighbours that occurs most often;
# make it one symbol. Again. Frequent words grow into one token; a rare word stays in several
# pieces, and each piece is known.

# %% [markdown]
# ### 3.1 Pieces: what may never be merged
#
# Without a limit, `. A` would soon be a token. So the text is first cut into **pieces**, and a
# merge never crosses from one piece to the next. A piece is a word or a run of punctuation,
# together with *one* space before it. A *regular expression*, a pattern for text, finds the pieces:
# `\w+` is a run of letters and digits (and `_`), `[^\w\s]+` a run of anything that is neither these
# nor white space, ` ?` one space if there is one, and `|` means *or*. The last `\s` catches the
# white space that is left: the first of two spaces, a tab.
#
# **Guess first:** into how many pieces is `Ein Hund, zwei Katzen!` cut, if there are two spaces
# before `Katzen`?
#
# One kind of character needs care. Hindi, Tamil, pointed Hebrew and others write vowels as **marks**
# behind a letter. For `\w` a mark is no letter, and words would be cut at their vowels. So a word
# goes on over marks, and over the two invisible joiners (U+200C, U+200D) that these scripts use.

# %%
#| export
MARKS = "".join(c for c in map(chr, range(0x300, 0x1F000)) if unicodedata.category(c)[0] == "M")
PIECE = re.compile(rf" ?\w[\w{MARKS}\u200c\u200d]*| ?[^\w\s]+|\s")


def pieces(text: str) -> list[str]:
    """Split text before each word and each run of punctuation; the space goes with what follows.

    Joined, the pieces are the text again: nothing is lost.
    """
    return PIECE.findall(text)


def count_pieces(sentences: Iterable[str]) -> Counter[str]:
    """Count the pieces of sentences; a space before each makes its first word like any other."""
    return Counter(piece for sentence in sentences for piece in pieces(" " + sentence))


# %%
# NBVAL_CHECK_OUTPUT
for text in ("Ein Hund, zwei  Katzen!", "3,50 €\tso", "हिन्दी किताब"):
    assert "".join(pieces(text)) == text, "cutting must lose nothing"
    print(len(pieces(text)), pieces(text))

# %% [markdown]
# > **Try it.** Take `{MARKS}` out of `PIECE`. Into how many pieces falls *हिन्दी किताब*? Put it back and
# > take ` ?[^\w\s]+|` out: what becomes of *Ein Hund, alt*?
#
# <details><summary>Answer</summary>
#
# Without the marks: 11 pieces instead of 2, one at each vowel sign. Without the second part the comma
# is in no piece: joined again, the pieces say *Ein Hund alt*. "Joined, the pieces are the text" is what
# this part is for.
#
# </details>
#
# The space stays *in* the text, at the front of a word. We show it as `▁`, as SentencePiece does; in
# the data it is an ordinary space.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# #### The end mark of 2016 · more
#
# For who has met `</w>` in the homework or elsewhere: what it loses.

# %% [markdown]
# A tokeniser cut words and punctuation apart, and Sennrich's programs then marked the end of each:
# `Hund` is `H u n d</w>`, and the spaces are thrown away. What does that lose?


# %%
def end_marked(text: str) -> list[str]:
    """Cut words and punctuation apart, then mark the last letter of each: the way of 2016."""
    return [symbol for w in tokenize(text, "de") for symbol in (*w[:-1], w[-1] + "</w>")]


assert end_marked("Ein Hund, alt") == end_marked("Ein Hund , alt"), "two texts, the same symbols"
assert pieces("Ein Hund, alt") != pieces("Ein Hund , alt")
print(end_marked("Ein Hund, alt"))

# %% [markdown]
# Two different texts become the same symbols. The tokeniser that ran *before* BPE has thrown the
# spaces away, and the end mark does not bring them back: a program that joins words again (a
# *detokeniser*) has to guess where they were. With the space inside, nothing is guessed.

# %% [markdown]
# ### 3.2 The first merges by hand
#
# Six German words around rain (*Regen*), screen (*Schirm*) and coat (*Mantel*), with made-up
# counts. **Guess first:** which pair of neighbouring characters occurs most often, and how
# often? Each word counts as often as it occurs.

# %%
mine = None  # your guess: how often the most frequent pair occurs

# %%
rain = {" Regen": 5, " Regenschirm": 4, " Schirm": 2, " Bildschirm": 2}
rain |= {" Regenmantel": 2, " Mantel": 3}


def count_pairs(words: Mapping[tuple[str, ...], int]) -> Counter[tuple[str, str]]:
    """Count the pairs of neighbouring symbols, each word as often as it occurs."""
    counts = Counter()
    for symbols, n in words.items():
        for pair in zip(symbols, symbols[1:]):
            counts[pair] += n
    return counts


letters = {tuple(word): n for word, n in rain.items()}
first = count_pairs(letters)
for pair, n in sorted(first.items(), key=lambda item: (-item[1], item[0]))[:5]:
    print(pair, n)
assert first["e", "g"] == first["g", "e"] == 5 + 4 + 2 and max(first.values()) == 11
compare(mine, max(first.values()), "06: most frequent pair")

# %% [markdown]
# Several pairs tie. Somebody has to win, and the same one on every machine: the pair that comes
# first by the Unicode numbers of its characters: space, capitals, small letters, then ß, ä, ö, ü.
#
# Merging a pair means: go through the word from the left and join it wherever it stands.

# %%
#| export
Pair = tuple[str, str]


def merge_pair(symbols: Sequence[str], pair: Pair) -> tuple[str, ...]:
    """Return the symbols with every neighbouring `pair` joined, from the left."""
    merged, i = [], 0
    while i < len(symbols):
        step = 2 if tuple(symbols[i : i + 2]) == pair else 1
        merged.append("".join(symbols[i : i + step]))
        i += step
    return tuple(merged)


# %%
# NBVAL_CHECK_OUTPUT
assert merge_pair("aaa", ("a", "a")) == ("aa", "a"), "from the left, and each symbol once"
print(merge_pair(" Regen", ("e", "n")))

# %% [markdown]
# ### 3.3 The whole algorithm
#
# In each round, with $n(w)$ the count of word $w$ and $n_w(a, b)$ how often the pair stands in
# it,
#
# $$(a^*, b^*) = \operatorname{argmax}_{(a, b)} \; \sum_{w} n(w) \, n_w(a, b),$$
#
# and every $a^* b^*$ becomes one symbol. Written down as it is said, and slow on purpose, since
# it counts everything again in each round:


# %%
def learn_bpe_slowly(piece_counts: Mapping[str, int], n_merges: int):
    """Return the merges, and the words as they look after each of them."""
    words = {tuple(piece): n for piece, n in piece_counts.items()}
    merges, history = [], [words]
    for _ in range(n_merges):
        counts = count_pairs(words)
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        words = {merge_pair(symbols, best): n for symbols, n in words.items()}
        history.append(words)
    return merges, history


rain_merges, rain_history = learn_bpe_slowly(rain, 100)
symbols_left = [sum(len(w) * n for w, n in words.items()) for words in rain_history]
moments = {f"{k} merges: {symbols_left[k]} symbols": list(rain_history[k]) for k in (0, 5, 10, 15)}
draw.merge_panels(moments, "Merge by merge the list shrinks; what words share becomes one box")

# %% [markdown]
# The numbers in the titles weigh each word by how often it occurs. After five merges *Regen* is
# one symbol, after ten *schirm* is, and merge 15 joins the two. Nobody told the algorithm that
# German builds words of words: it finds parts because several words share them. It also finds
# parts that no grammar knows. `chirm` is the longest part that *Schirm* (capital S) and
# *Bildschirm*, *Regenschirm* (small s) share.

# %%
assert all(a > b for a, b in zip(symbols_left, symbols_left[1:])), "each merge shortens the text"
assert all(len(word) == 1 for word in rain_history[-1]), "at the very end each word is one token"
assert rain_merges[4] == (" Rege", "n") and rain_merges[9] == ("s", "chirm")
assert rain_merges[14] == (" Regen", "schirm")
print(f"{len(rain_merges)} merges: {symbols_left[0]} symbols become {symbols_left[-1]}, one a word")
print("the first ten:", ["".join(pair).replace(" ", "▁") for pair in rain_merges[:10]])

# %% [markdown]
# > **Try it.** Let *Schirm* occur 20 times: `learn_bpe_slowly(rain | {" Schirm": 20}, 100)`. What is
# > merged first, and after how many merges is ` Schirm` one symbol?
#
# <details><summary>Answer</summary>
#
# `c` + `h`, which now occurs 20 + 4 + 2 = 26 times. (`h` + `i`, `i` + `r` and `r` + `m` tie with it and come later in
# Unicode.) Then `chi`, `chir`, `chirm`, then ` S`, and merge 6 joins ` S` + `chirm`.
#
# </details>

# %% [markdown]
# Counting everything again in each round takes minutes on a real corpus. `learn_bpe`, which the
# folded section builds, gives the same merges in seconds.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 3.4 The same, fast · more
#
# For those who want to know how merges are learned in seconds: an index and a heap.

# %% [markdown]
# Counting everything again is waste: a merge touches only the words that hold the pair. How few
# is that? **Guess first:** which share of the distinct words of the captions holds the pair that
# is merged, in the mean over the first 60 merges?

# %%
caption_pieces = count_pieces([*german, *english])
begun = perf_counter()
slow_merges, history = learn_bpe_slowly(caption_pieces, 60)
slow_seconds = perf_counter() - begun


def holds(symbols: Sequence[str], pair: Pair) -> bool:
    return pair in zip(symbols, symbols[1:])


touched = [mean(holds(w, pair) for w in words) for pair, words in zip(slow_merges, history)]
assert mean(touched) < 0.2
print(f"a merge touches {mean(touched):.1%} of the {len(caption_pieces)} distinct words")

# %% [markdown]
# So the fast version keeps two things up to date instead of counting: an **index** from each
# pair to the words that hold it, or held it once (to look at one of those changes nothing), and a
# **heap**, a queue that hands out the largest count first. A heap cannot change an entry inside it.
# When a count changes we simply push a new entry; an entry whose count is no longer true is thrown
# away when it comes out.


# %%
#| export
def learn_bpe(piece_counts: Mapping[str, int], n_merges: int) -> list[Pair]:
    """Return the merges that join, again and again, the most frequent pair of neighbours.

    piece_counts: how often each piece occurs. Ties go to the lexicographically smallest pair.
    Stops early when nothing is left to merge. Sennrich et al. 2016, algorithm 1, with an index
    from pairs to words, so that each merge touches only the words that hold it.
    """
    words = [tuple(piece) for piece in piece_counts]
    counts = list(piece_counts.values())
    pair_counts: Counter[Pair] = Counter()
    found_in: defaultdict[Pair, set[int]] = defaultdict(set)

    def count_word(i: int, sign: int) -> None:
        for pair in zip(words[i], words[i][1:]):
            pair_counts[pair] += sign * counts[i]
            found_in[pair].add(i)

    for i in range(len(words)):
        count_word(i, +1)
    queue = [(-n, pair) for pair, n in pair_counts.items()]
    heapq.heapify(queue)
    merges: list[Pair] = []
    while queue and len(merges) < n_merges:
        negative, best = heapq.heappop(queue)
        if -negative != pair_counts[best]:  # out of date: a newer entry waits in the queue
            continue
        merges.append(best)
        changed: set[Pair] = set()
        for i in found_in.pop(best):
            changed.update(zip(words[i], words[i][1:]))
            count_word(i, -1)
            words[i] = merge_pair(words[i], best)
            count_word(i, +1)
            changed.update(zip(words[i], words[i][1:]))
        for pair in changed:
            if pair_counts[pair] > 0:
                heapq.heappush(queue, (-pair_counts[pair], pair))
    return merges


# %% [markdown]
# Fast code is where mistakes hide, above all in ties and in words like `aaaa` that hold a pair
# more than once. So the slow version is the judge: on the captions, and on random words over
# three letters, where nearly everything ties.

# %%
random.seed(0)
begun = perf_counter()
fast_merges = learn_bpe(caption_pieces, 60)
fast_seconds = perf_counter() - begun
assert fast_merges == slow_merges
for _ in range(200):
    drawn = ["".join(random.choices("abc", k=random.randint(1, 9))) for _ in range(6)]
    words = {word: random.randint(1, 3) for word in drawn}
    assert learn_bpe(words, 30) == learn_bpe_slowly(words, 30)[0], words
print("fast and slow agree: 60 merges of the captions, 200 random word lists")
print(f"60 merges: slow {slow_seconds:.2f} s, fast {fast_seconds:.2f} s")

# %% [markdown]
# ## 4 · Encoding and decoding
#
# Learning leaves a list of merges. To **encode** a new word, begin again with its characters and
# apply the merges in the order in which they were learned: of all neighbours that may be joined,
# the pair learned first goes first. The word need not have been in the training sentences.


# %%
def apply_merges_slowly(piece: str, ranks: Mapping[Pair, int]) -> tuple[str, ...]:
    """The rule as it is said: look at all neighbours, join the best, look again."""
    symbols = list(piece)
    while True:
        neighbours = zip(symbols, symbols[1:])
        known = [(ranks[pair], i) for i, pair in enumerate(neighbours) if pair in ranks]
        if not known:
            return tuple(symbols)
        _, i = min(known)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


# %%
caption_pieces = count_pieces([*german, *english])
caption_merges = learn_bpe(caption_pieces, 60)
ranks = {pair: rank for rank, pair in enumerate(caption_merges)}
rain_ranks = {pair: rank for rank, pair in enumerate(rain_merges)}
for new in (" Regenbild", " Mantelregen"):
    print(new, "->", apply_merges_slowly(new, rain_ranks))

# %% [markdown]
# `▁Regenbild` was never seen and is no problem: it is cut into known symbols. `▁Mantelregen` falls
# into letters after `▁Mantel`: the list knows `▁Regen` only with a space and a capital R.
#
# `apply_merges`, which the folded section builds, gives the same cut in less time.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Endless words · more
#
# For those who want to know how a word of 16,000 letters is cut in a tenth of a second.

# %% [markdown]
# A damaged file may hold a word of 16,000 letters, and the rule looks at all neighbours thousands of
# times. Again a heap helps: a merge changes only the two pairs beside it. `right` and `left` say where
# the next living symbol stands; a symbol that was swallowed becomes "".

# %%
#| export
def apply_merges(piece: str, ranks: Mapping[Pair, int]) -> tuple[str, ...]:
    """Return the symbols of a piece: the neighbours whose merge was learned first are joined first.

    ranks: the number of each merge in the order learned. Where the best merge fits twice, the left
    one is done first. The time grows like n log n with the length n.
    """
    symbols, end = list(piece), len(piece)
    left, right = list(range(-1, end - 1)), list(range(1, end + 1))
    pairs = enumerate(zip(symbols, symbols[1:]))
    queue = [(ranks[pair], i) for i, pair in pairs if pair in ranks]
    heapq.heapify(queue)
    while queue:
        rank, i = heapq.heappop(queue)
        j = right[i]
        if j == end or ranks.get((symbols[i], symbols[j])) != rank:
            continue  # out of date: one of the two has been joined since
        symbols[i], symbols[j] = symbols[i] + symbols[j], ""
        right[i] = right[j]
        if right[j] < end:
            left[right[j]] = i
        for start in (left[i], i):
            if start >= 0 and right[start] < end:
                new = ranks.get((symbols[start], symbols[right[start]]))
                if new is not None:
                    heapq.heappush(queue, (new, start))
    return tuple(filter(None, symbols))


# %%
learned = set(history[-1])  # the words as they look after 60 merges
assert {apply_merges(piece, ranks) for piece in caption_pieces} == learned
for piece in [*caption_pieces, *("".join(random.choices("en Rg", k=40)) for _ in range(200))]:
    assert apply_merges(piece, ranks) == apply_merges_slowly(piece, ranks)
print(f"encoding repeats the training on all {len(learned)} distinct pieces of the captions")

# %% [markdown]
# ### Characters never seen
#
# One hole is left: a *character* that training never saw. An emoji, a Chinese character, a
# letter with a rare accent. **Guess first:** the vocabulary must not grow without end, and
# `<unk>` is forbidden. What else could stand for any character at all?
#
# Its bytes. In UTF-8 each of the over 150,000 characters of Unicode is one to four bytes, and
# there are only 256 different bytes. They get ids of their own, and a character without an id is
# spelled in bytes: **byte fallback**.

# %%
# NBVAL_CHECK_OUTPUT
for character in "aß猫🙂":
    print(character, [f"<0x{byte:02X}>" for byte in character.encode("utf-8")])

# %% [markdown]
# The ids are given out by place, never by spelling: 4 special tokens, then 256 bytes, then the
# characters of the alphabet, then the merges. Why does that matter? A text may contain the six
# characters `<0x41>` or the five characters `<pad>`. Looked up by name, such a text would turn
# into a byte or into padding, and the author of the text could write control signals into the
# model. Here it cannot happen: text becomes symbols (ids from 260 on) or, for an unknown character,
# its bytes (ids 4 to 259). No text leads to the ids 0 to 3.
#
# The next cell fixes these places and refuses a list of merges that cannot be. What else stands in it, the
# folded parts below need.

# %%
#| export
FIRST_BYTE = len(SPECIAL_TOKENS)
FIRST_SYMBOL = FIRST_BYTE + 256
BYTE_NAMES = tuple(f"<0x{byte:02X}>" for byte in range(256))
CACHED_PIECES = 100_000
OLD_PIECE = re.compile(r" ?\w+| ?[^\w\s]+|\s")  # of tokenisers that do not normalise


def check_merges(alphabet: Iterable[str], merges: Iterable[Pair]) -> None:
    """Raise ValueError if the alphabet holds more than characters, or a merge can never happen."""
    known = set(alphabet)
    for character in known:
        if len(character) != 1:
            raise ValueError(f"the alphabet holds {character!r}, which is not one character")
    for number, pair in enumerate(merges):
        for part in pair:
            if part not in known:
                raise ValueError(f"merge {number}, {pair}: nothing before it makes {part!r}")
        known.add("".join(pair))


# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### One letter, one spelling · more
#
# For those who paste text from anywhere: what looks the same may be spelled otherwise, and the model then translates another text.
#
# People paste text from web pages, PDFs and file names. It looks as usual and is not. `ä` may be
# one character or two (`a` and a mark), a blank may be a no-break blank, a tab, or two blanks; a
# **soft hyphen** (where a line *may* break) and a **zero-width** character are not seen at all. The
# model never learned these spellings: to it they are other words. What does that cost? The model
# that comes with the course, greedy, on 300 sentences of Multi30k's test:
#
# | the source text | BLEU without `normalise` | with it |
# |---|---|---|
# | as it is | 42.2 | 42.2 |
# | decomposed: `a` and a mark for `ä` | 32.8 | 42.2 |
# | the first blank a no-break blank / a tab | 34.0 / 33.1 | 42.2 |
# | one soft hyphen, in the longest word | 32.7 | 42.2 |
# | a zero-width space before each word but the first | 0.2 | 42.2 |
# | each blank twice | 32.7 | 42.2 |
# | each blank a no-break blank | 1.8 | 42.2 |
#
# So text is **normalised** on its way in, in training and in use, by four steps:
#
# 1. compose letters and their marks (Unicode calls this form NFC);
# 2. take out what has no width: soft hyphens, zero-width characters, marks of writing direction. The
#    joiners U+200C and U+200D stay where they carry meaning: both between two characters of the
#    scripts from Arabic to Tibetan, U+200D between two emoji (a dog and a vest are one guide dog);
# 3. compose again, since step 2 may have brought a letter and its mark together;
# 4. make each run of blanks (tabs and line ends are blanks) one space, and leave none at the ends.

# %%
#| export
UNSEEN = re.compile(  # joiners that carry meaning (group 1), or what has no width
    "((?<=[\u0600-\u0fff])[\u200c\u200d](?=[\u0600-\u0fff])"
    "|(?<=[\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])\u200d(?=[\u2190-\u2bff\U0001f000-\U0001faff]))"
    "|[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)


def normalise(text: str) -> str:
    """Return text in one spelling: NFC, one space between words, nothing that has no width.

    U+200D stays inside emoji, U+200C and U+200D stay inside words of the scripts from Arabic to
    Tibetan. Done twice it changes nothing more.
    """
    seen = UNSEEN.sub(r"\1", unicodedata.normalize("NFC", text))
    return " ".join(unicodedata.normalize("NFC", seen).split())


# %%
plain = "Ein Mädchen läuft über die Straße."
pasted = {
    "decomposed": unicodedata.normalize("NFD", plain), "no-break": plain.replace(" ", "\u00a0"),
    "tab": plain.replace(" ", "\t", 1), "soft hyphen": plain.replace("Mäd", "Mäd\u00ad"),
    "zero width": plain.replace(" ", " \u200b"), "two blanks": plain.replace(" ", "  "),
}
assert all(text != plain == normalise(text) for text in pasted.values())
assert normalise("🐕\u200d🦺 a\u200db") == "🐕\u200d🦺 ab"
print("six other spellings become the same text")

# %% [markdown]
# > **Try it.** Write `"NFKC"` for the first `"NFC"` in `normalise`. It also replaces signs by others that
# > are *nearly* the same. What becomes of `3 m² ﬁnden`, in which `ﬁ` is one character, as PDFs write it?
#
# <details><summary>Answer</summary>
#
# `3 m2 finden`. The second half is a gain, the first a loss: square metres are not "m2", and
# `decode` can't bring the ² back. So this course takes NFC, which never changes what is read.
#
# </details>

# %%
check("text_normalise")

# %% [markdown]
# Now the class. Read it from `encode` and `decode`: the rest only prepares for them. `cache`
# keeps the ids of pieces already seen, since most words of a corpus are repeated; it is emptied
# when it holds 100,000 pieces, so that a long run does not fill the memory.


# %%
#| export
class BPE:
    """A byte-pair encoder whose `decode(encode(text))` is `normalise(text)`, whatever the text.

    A character that training never saw is spelled in its UTF-8 bytes, so UNK never occurs.
    alphabet: the characters that have ids of their own; merges: in the order learned. Ids: special
    tokens, 256 bytes, alphabet, merges; `names` shows each of them. `normalises` is False for a
    tokeniser stored before there was `normalise`: it takes text as it comes, and cuts words at
    marks. Raises ValueError for merges that can never happen.
    """

    def __init__(
        self, alphabet: Iterable[str], merges: Iterable[Pair], normalises: bool = True
    ) -> None:
        self.normalises = normalises
        self.alphabet = sorted(set(alphabet))
        self.merges = list(dict.fromkeys((left, right) for left, right in merges))
        check_merges(self.alphabet, self.merges)
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        # two different merges can spell the same symbol: it has one id
        self.symbols = list(dict.fromkeys([*self.alphabet, *map("".join, self.merges)]))
        self.ids = {symbol: i for i, symbol in enumerate(self.symbols, start=FIRST_SYMBOL)}
        shown = (symbol.replace(" ", "▁") for symbol in self.symbols)
        self.names = [*SPECIAL_TOKENS, *BYTE_NAMES, *shown]
        self.cache: dict[str, list[int]] = {}

    @classmethod
    def learn(cls, sentences: Iterable[str], vocab_size: int, min_char_count: int = 2) -> "BPE":
        """Learn at most `vocab_size` tokens from training sentences.

        Characters seen fewer than `min_char_count` times are left to the bytes. Raises ValueError
        if `vocab_size` cannot hold special tokens, bytes and alphabet.
        """
        if isinstance(sentences, str):
            raise TypeError("BPE.learn needs a list of sentences; this is one string")
        piece_counts = count_pieces(map(normalise, sentences))
        characters: Counter[str] = Counter()
        for piece, n in piece_counts.items():
            for character in piece:
                characters[character] += n
        alphabet = {c for c, n in characters.items() if n >= min_char_count}
        basis = FIRST_SYMBOL + len(alphabet)
        if vocab_size < basis:
            raise ValueError(
                f"vocab_size={vocab_size} is too small: special tokens, bytes and the alphabet "
                f"alone take {basis}"
            )
        known = {p: n for p, n in piece_counts.items() if alphabet.issuperset(p)}
        return cls(alphabet, learn_bpe(known, vocab_size - basis))

    def __len__(self) -> int:
        return len(self.names)

    def split(self, piece: str) -> tuple[str, ...]:
        """Return the symbols of one piece: the merges applied in the order they were learned."""
        return apply_merges(piece, self.ranks)

    def symbol_ids(self, symbol: str) -> list[int]:
        """Return the id of a symbol, or those of its bytes if it has none."""
        if symbol in self.ids:
            return [self.ids[symbol]]
        return [FIRST_BYTE + byte for byte in symbol.encode("utf-8")]

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of a sentence as `encode` cuts it, a space before the first word."""
        if self.normalises:
            return pieces(" " + normalise(text))
        return OLD_PIECE.findall(" " + text)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a sentence, without BOS and EOS."""
        ids: list[int] = []
        for piece in self.pieces(text):
            if piece not in self.cache:
                if len(self.cache) >= CACHED_PIECES:
                    self.cache.clear()
                self.cache[piece] = [i for s in self.split(piece) for i in self.symbol_ids(s)]
            ids += self.cache[piece]
        return ids

    def tokens(self, text: str) -> list[str]:
        """Return the sentence cut into its tokens, for the eye; a space shows as ▁."""
        return [self.names[i] for i in self.encode(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; special tokens are skipped, broken bytes become U+FFFD.

        Raises ValueError for a number that is no id.
        """
        raw = bytearray()
        for i in ids:
            if not 0 <= i < len(self):
                raise ValueError(f"{i} is no id: this tokeniser has ids 0 to {len(self) - 1}")
            if i >= FIRST_SYMBOL:
                raw += self.symbols[i - FIRST_SYMBOL].encode("utf-8")
            elif i >= FIRST_BYTE:
                raw.append(i - FIRST_BYTE)
        return raw.decode("utf-8", errors="replace").removeprefix(" ")

    def save(self, path: Path) -> None:
        """Write the tokeniser as JSON."""
        content = {"alphabet": self.alphabet, "merges": self.merges}
        if self.normalises:
            content["normalise"] = True
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "BPE":
        """Read a tokeniser that `save` wrote; raises ValueError if the file is none."""
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            return cls(content["alphabet"], content["merges"], content.get("normalise", False))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no tokeniser as BPE.save writes it ({type(error).__name__}: {error}). "
                "Copy it again; a trained model needs the tokeniser that it was trained with"
            ) from error


# %%
bpe = BPE.learn([*german, *english], vocab_size=1000)
text = "Ein Mann verkauft heiße Kürbissuppe."
ids = bpe.encode(text)
assert bpe.decode(ids) == text and UNK not in ids
assert len(bpe) == 1000 and max(ids) < 1000
assert bpe.encode("A girl sings.") == [339, 479, 732, 303, 262], "the table at the top of the page"
largest = BPE.learn([*german, *english], vocab_size=5000)  # as many as the captions can fill
print(text, "->", ids)
print(bpe.tokens(text))

# %% [markdown]
# No capital lost, no `<unk>`. Frequent words are one token (`▁Ein`, `▁Mann`); *Kürbissuppe*,
# which no caption holds, is spelled in small pieces.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### A compound grows · more
#
# For those who want to see *Regenschirm* become one token, merge by merge.

# %% [markdown]
# How does a compound that occurs often grow into one token? The next picture replays the
# training on *Regenschirm* (umbrella). **Guess first:** is it put together as *Regen* +
# *schirm*?


# %%
def grow(piece: str, bpe: BPE) -> list[tuple[str, tuple[str, ...]]]:
    """Return (label, symbols) for each merge that changed the piece, in the order learned."""
    symbols = tuple(piece)
    stages = [("characters", symbols)]
    for number, pair in enumerate(bpe.merges, start=1):
        joined = merge_pair(symbols, pair)
        if joined != symbols:
            symbols = joined
            stages.append((f"merge {number}", symbols))
    return stages


stages = grow(" Regenschirm", largest)
parts = "one token" if len(stages[-1][1]) == 1 else f"{len(stages[-1][1])} tokens"
draw.build_up(stages, f"Regenschirm grows from {len(stages[0][1])} characters to {parts}")

# %%
assert stages[-1][1] == largest.split(" Regenschirm"), "replaying the training and encoding agree"
assert [len(s) for _, s in stages] == sorted([len(s) for _, s in stages], reverse=True)
family = sorted(piece for piece in caption_pieces if "schirm" in piece.lower())
assert (" Regen", "schirm") not in largest.merges and len(family) == 2
print(f"{len(stages) - 1} merges; the last one joins {stages[-2][1]}")
print("pieces of the captions that hold -schirm:", family)

# %% [markdown]
# Not as *Regen* + *schirm*, unlike in our little list. There, *Schirm* and *Bildschirm* showed
# where the joint lies. The captions hold *schirm* only in *Regenschirm(e)*, so nothing shows
# it: once the frequent parts `en`, `ch`, `ir` are made, the neighbours that are left have nearly
# the same count, and the order of the Unicode numbers decides. BPE counts; it knows no grammar.

# %% [markdown]
# ### The identity: nothing but the spelling changes
#
# The folded parts make one class of all this, `BPE`. Before it cuts, it *normalises*: one code for ü, single
# spaces, none at the ends. Our `bpe` has 1,000 tokens, learned from the captions.
#
# The promise of this section, for *every* Unicode text $t$, is
# $\operatorname{decode}(\operatorname{encode}(t)) = \operatorname{normalise}(t)$. Texts are chosen
# to break it: characters never seen, spaces of several kinds, accents that are characters of their
# own, and texts that look like our own control signals.
#
# **Guess first:** which of them needs the most tokens?

# %%
mine = None  # "emoji", "Chinese", "combining marks", "Arabic" or another label below

# %%
nasty = {
    "empty": "", "one space": " ", "spaces at both ends": "  Hund ", "double space": "ein  Hund",
    "tab, line end": "ein\tHund\r\n", "no-break space": "3\u00a0km", "emoji": "Ein Hund 🐕‍🦺!",
    "Chinese": "一个女孩在笑。", "combining marks": "u\u0308 e\u0301 = ü é", "Arabic": "كلب",
    "a name of ours": "<pad></s><unk>", "a byte's name": "<0x41> <0xFF>", "our sign": "▁Ein ▁",
    "replacement": "\ufffd", "zero byte": "a\x00b", "highest": "\U0010ffff",
}
for label, text in nasty.items():
    ids = bpe.encode(text)
    assert bpe.decode(ids) == normalise(text), label
    assert all(i > UNK for i in ids), f"{label}: no text may write a special id"
    print(f"{label:20} {text!r:28} {len(ids):3} tokens")
compare(mine, max(nasty, key=lambda label: len(bpe.encode(nasty[label]))), "06: most tokens")

# %% [markdown]
# The empty text has one token, the space that `encode` puts in front. Seven Chinese characters
# cost 22 tokens: each is three bytes. A vocabulary learned from German and English is a bad one
# for Chinese, since the sequences get long, but it is never a wrong one.
#
# The tests of this lesson let a machine search for texts that break the promise (`hypothesis`);
# it has found none. One limit: a Python string may hold half a *surrogate pair*, which is no
# Unicode text and cannot be written as UTF-8. `encode` raises `UnicodeEncodeError` for it.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### The other direction · more
#
# For who asks what `decode` makes of ids that no text has.

# %% [markdown]
# In the other direction the identity does not hold, and need not: many id sequences give one
# text, and a model may write a sequence that no text has: half a character, for example.
# `decode` then shows U+FFFD, the replacement character, and goes on.

# %%
h, u = bpe.ids["H"], bpe.ids["u"]
broken = bpe.decode([h, FIRST_BYTE + 0xC3, u])
assert broken == "H\ufffdu"
assert bpe.decode([BOS, h, PAD, u, EOS]) == "Hu", "special tokens say nothing"
assert bpe.encode(bpe.decode([h, u])) != [h, u], "other ids, the same text"
print("half a character:", broken)

# %% [markdown]
# ## 5 · One vocabulary for two languages
#
# The paper learns one vocabulary of about 37,000 tokens for English and German *together*
# (section 5.1). That allows what section 3.4 does: source embedding, target embedding and the
# matrix before the softmax are one and the same. And names, numbers and words that both
# languages write alike (*warm*, *blond*) are the same token on both sides, so copying one is
# easy. German *Ball* and English *ball* do not profit: to the tokeniser a capital letter is
# another letter.
#
# **Guess first:** the captions use 587 tokens. How many of these are used by both languages?

# %%
mine = None  # your guess: a number of tokens

# %%
used_de = {i for sentence in german for i in bpe.encode(sentence)}
used_en = {i for sentence in english for i in bpe.encode(sentence)}
both = sorted(used_de & used_en)
longer = [bpe.names[i] for i in both if len(bpe.names[i]) > 3 and bpe.names[i][0] == "▁"]
assert used_de - used_en and used_en - used_de and len(both) > 30
assert len(longer) < len(both) / 10 and len(used_de | used_en) == 587
assert any(" an " in s for s in german) and any(" an " in s for s in english)
only_de, only_en = len(used_de - used_en), len(used_en - used_de)
print(f"German only {only_de}, English only {only_en}, both {len(both)}")
print("begun by a space and three letters or more:", longer)
compare(mine, len(both), "06: tokens of both languages")

# %% [markdown]
# Most of the shared tokens are single characters and short pieces. And a shared token is not a
# shared meaning: `▁an` is *at* in German and an article in English.
#
# One vocabulary has a price too: the languages share the places of one table. And the table is
# large: with $d_{\mathrm{model}} = 512$, 37,000 rows hold 19 of the 63 million parameters that our
# base model then has (lesson 05).

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 6 · How many merges? · more
#
# For who has to choose a size: what each merge saves, in two languages.

# %% [markdown]
# The merges were learned one after the other, so a smaller vocabulary is the beginning of a
# larger one: we learn once and cut the list. Each size is a bargain. More tokens: shorter
# sequences, but a larger embedding table, and rows that are seen too seldom to be learned.
#
# **Guess first:** how many tokens does a sentence have with no merge at all, and where does the
# curve end?

# %%
basis = FIRST_SYMBOL + len(largest.alphabet)  # special tokens, bytes, characters: no merge yet
larger = [n for n in (350, 420, 500, 600, 800, 1000, 1500) if basis < n < len(largest)]
sizes = [basis, *larger, len(largest)]


def mean_length(bpe: BPE, sentences: Sequence[str]) -> float:
    return mean(len(bpe.encode(sentence)) for sentence in sentences)


nested = [BPE(largest.alphabet, largest.merges[: n - basis]) for n in sizes]
lengths = {
    "German": [mean_length(b, [de for de, _ in val]) for b in nested],
    "English": [mean_length(b, [en for _, en in val]) for b in nested],
}
floor = {
    "German": mean(len(pieces(" " + de)) for de, _ in val),
    "English": mean(len(pieces(" " + en)) for _, en in val),
}
title = "The first merges shorten the text most; the last ones hardly"
draw.trade_off(sizes, lengths, floor, title)

# %% [markdown]
# We asked for 5,000 tokens, and learning stopped earlier: the captions have so few words that
# each became one token, and nothing was left to merge. In real text this does not happen. On the
# 29,000 sentence pairs of Multi30k, a vocabulary of 5,000 is full, and the long tail stays in
# pieces.

# %%
assert bpe.merges == largest.merges[: len(bpe.merges)], "a smaller vocabulary is a beginning"
for language, means in lengths.items():
    assert all(a >= b for a, b in zip(means, means[1:])), "more merges, no longer text"
    gain_first = (means[0] - means[1]) / (sizes[1] - sizes[0])  # tokens saved by each merge
    gain_last = (means[-2] - means[-1]) / (sizes[-1] - sizes[-2])
    assert gain_first > 10 * gain_last and means[-1] >= floor[language]
    print(f"{language}: {means[0]:.1f} tokens at {sizes[0]}, {means[-1]:.1f} at {sizes[-1]}")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 6.1 Words, tokens, characters · more
#
# For those who want the lengths of unseen text, and leakage through a tokeniser.

# %% [markdown]
# Now the lengths themselves, on the probe sentences, whose words the tokeniser has mostly not
# seen. **Guess first:** which language has more characters, and which more words?

# %%
panels = {
    language: {
        "words": [len(tokenize(s, code)) for s in sentences],
        "BPE": [len(bpe.encode(s)) for s in sentences],
        "characters": [len(s) for s in sentences],
    }
    for language, code, sentences in (
        ("German", "de", [de for de, _ in probes]),
        ("English", "en", [en for _, en in probes]),
    )
}
draw.length_histograms(panels, "BPE lies between words and characters, for unseen text too")

# %%
averages = {name: {cut: mean(n) for cut, n in cuts.items()} for name, cuts in panels.items()}
for name, cuts in averages.items():
    assert cuts["words"] < cuts["BPE"] < 0.75 * cuts["characters"]
    print(name, {cut: round(n, 1) for cut, n in cuts.items()})
assert averages["German"]["words"] < averages["English"]["words"]
assert averages["German"]["characters"] > averages["English"]["characters"]

# %% [markdown]
# German has fewer words and more characters than English: compounds again. The tokens of unseen
# text are many, but they are all known: words left their share of `<unk>` above, BPE leaves
# none.

# %%
probe_sides = [sentence for pair in probes for sentence in pair]
leaking_bpe = BPE.learn([*german, *english, *probe_sides], vocab_size=5000)
honest_ids = [i for sentence in probe_sides for i in largest.encode(sentence)]
leaked_ids = [i for sentence in probe_sides for i in leaking_bpe.encode(sentence)]
assert UNK not in honest_ids and all(largest.decode(largest.encode(s)) == s for s in probe_sides)
assert len(leaked_ids) < 0.9 * len(honest_ids)
print(f"unknown in the probes: words {probe_unknown:.1%}, BPE {honest_ids.count(UNK)}")
print(f"their tokens: {len(honest_ids)} honest, {len(leaked_ids)} if they leak into the learning")

# %% [markdown]
# The second line is leakage again, quieter this time. Nothing is unknown either way, but a
# tokeniser that has seen the test cuts it into fewer and better pieces than it would cut new
# text.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 7 · The same as the library · more
#
# For those who want a second opinion, or use `tokenizers`: the same ids from a production library.

# %% [markdown]
# Is our BPE right? The `tokenizers` library, written in Rust and used in production, must give
# the same ids if it gets the same merges. It has rules of its own for cutting text into pieces,
# so we give it our pieces (`is_pretokenized=True`) and let it do the rest.


# %%
#| export
def to_tokenizers(bpe: BPE) -> Tokenizer:
    """Return the same tokeniser from the `tokenizers` library, with the same ids.

    Feed it our pieces: `encode(bpe.pieces(text), is_pretokenized=True).ids`. Raises ValueError if a
    symbol is spelled like a special token or a byte, for the library knows tokens by their names.
    """
    names = [*SPECIAL_TOKENS, *BYTE_NAMES, *bpe.symbols]
    ids = {name: i for i, name in enumerate(names)}
    if len(ids) < len(names):
        twice = sorted({*SPECIAL_TOKENS, *BYTE_NAMES} & set(bpe.symbols))
        raise ValueError(f"the library cannot tell these symbols from special ones: {twice[:5]}")
    tokenizer = Tokenizer(models.BPE(ids, bpe.merges, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


# %%
fast = to_tokenizers(bpe)


def library_ids(text: str) -> list[int]:
    return fast.encode(bpe.pieces(text), is_pretokenized=True).ids


tried = [*german, *english, *(de for de, _ in probes), *nasty.values()]
assert all(library_ids(text) == bpe.encode(text) for text in tried)
assert all(fast.decode(library_ids(text)) == normalise(text) for text in tried)
print(f"the same ids for {len(tried)} texts, nasty ones among them")

# %% [markdown]
# And how fast are they? Seconds depend on your machine, so nothing is asserted here. Three kinds
# of text: the captions, in which the same words come again and again; the distinct words of
# Python's help pages, each of which is new; and made-up words of 1,000 letters, such as a
# damaged file holds.


# %%
def per_second(encode, texts: Sequence[str]) -> float:
    """How many texts are encoded in a second, from an empty cache."""
    bpe.cache.clear()
    begun = perf_counter()
    for text in texts:
        encode(text)
    return len(texts) / (perf_counter() - begun)


endless = ["".join(random.choices("aeinrst", k=1000)) for _ in range(5)]
new_words = sorted(set(help_words))
for label, texts in (("captions", german), ("new words", new_words), ("endless words", endless)):
    ours, theirs = per_second(bpe.encode, texts), per_second(library_ids, texts)
    print(f"{label:14} a second: ours {ours:10,.0f}, tokenizers {theirs:10,.0f}")

# %% [markdown]
# For ordinary sentences plain Python is fast enough: the cache answers for words that come
# again, and each call of the library has a cost of its own. For new and for endless words the
# library is faster: it keeps a queue, as `apply_merges` does, in compiled code. It can also use all
# cores (`encode_batch`). This course uses its own version: you can read what your text goes through.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 8 · Keeping it · more
#
# For who stores a model: what must lie beside it.

# %% [markdown]
# A trained model without its tokeniser is worthless: row 57 of the embedding means what token 57
# meant in training. So both are stored in one directory. What must be written down? Only the
# alphabet, the merges in order, and whether text is normalised. Everything else follows from them.

# %%
from tempfile import TemporaryDirectory

with TemporaryDirectory() as directory:
    path = Path(directory, "tokenizer.json")
    bpe.save(path)
    again = BPE.load(path)
    assert again.names == bpe.names and again.encode(german[0]) == bpe.encode(german[0])
    path.write_text(path.read_text(encoding="utf-8")[:-300], encoding="utf-8")  # a broken copy
    try:
        BPE.load(path)
        raise AssertionError("half a file was accepted")
    except ValueError as error:
        print("half a file:", type(error).__name__, "that names it:", path.name in str(error))

# %% [markdown]
# ## 9 · From ids to batches
#
# Each sentence gets its `EOS`, on both sides, and for different reasons. The *target* needs it
# since the decoder must learn to write it: without, it never stops. The *source* gets it so that
# the encoder has a mark of where the sentence ends, and so that a whole sentence and a cut one
# differ. `BOS` is put in front by `Batch` (lesson 04), for the decoder's input alone.

# %%
#| export
Example = tuple[list[int], list[int]]


def encode_sentence(bpe: BPE, sentence: str) -> list[int]:
    """Return a sentence as token ids, ending in EOS."""
    return [*bpe.encode(sentence), EOS]


def encode_pairs(bpe: BPE, pairs: Iterable[Pair]) -> list[Example]:
    """Return each sentence pair as token ids, both sides ending in EOS."""
    return [(encode_sentence(bpe, src), encode_sentence(bpe, tgt)) for src, tgt in pairs]


# %%
examples = encode_pairs(bpe, train)
assert all(src[-1] == EOS == tgt[-1] for src, tgt in examples)
assert all(EOS not in src[:-1] and EOS not in tgt[:-1] for src, tgt in examples)
src, tgt = examples[0]
assert (bpe.decode(src), bpe.decode(tgt)) == train[0]
print(f"{len(examples)} examples, each side with one EOS, at its end")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### A trap: sentences cut short · more
#
# For who has to limit the length of sentences: what must not be lost.

# %% [markdown]
# Some programs shorten long sentences to a maximal length. `ids[:n]` cuts off the
# `EOS` with the rest, and the model learns from such an example that a sentence of $n$ tokens
# goes on. What is right?


# %%
def shorten(ids: list[int], longest: int) -> list[int]:
    """Return at most `longest` ids, the last of them EOS."""
    return ids if len(ids) <= longest else [*ids[: longest - 1], EOS]


long = max((src for src, _ in examples), key=len)
assert long[:10][-1] != EOS, "plain slicing loses the end of the sentence"
assert len(shorten(long, 10)) == 10 and shorten(long, 10)[-1] == EOS
assert shorten(long, 1000) == long
for label, ids in (("sliced", long[:10]), ("right", shorten(long, 10))):
    print(f"{label:7}", *(bpe.names[i] for i in ids))

# %% [markdown]
# This course does not shorten at all: a shortened source no longer says what its target says. A
# sentence that does not fit is an error with a clear message, and you decide.

# %% [markdown]
# ### How much is padding?
#
# A batch is a rectangle, as wide as its longest sentence. Padding costs the same time as text
# and teaches nothing. For a batch of $n$ sentence pairs with source lengths $s_i$ and target
# lengths $t_i$, the share that is wasted is
#
# $$
# \operatorname{waste} = 1 - \frac{\sum_i (s_i + t_i)}{n \left( \max_i s_i + \max_i t_i \right)},
# $$
#
# and for an epoch numerator and denominator are summed over its batches.
#
# **Guess first:** batches of 64 sentences in random order: how much is padding? And if every
# sentence is padded to 72 tokens, whatever its length, as *The Annotated Transformer* does?

# %%
mine = None  # your guess: the share of padding in random order, 0 to 1

# %%
sizes_of = [(len(src), len(tgt)) for src, tgt in examples]


def waste(batches: Sequence[Sequence[int]], width: int | None = None) -> float:
    """Share of padding in an epoch; each batch as wide as its longest sentence, or as `width`."""
    real = rectangle = 0
    for batch in batches:
        real += sum(sum(sizes_of[i]) for i in batch)
        longest = [width or max(sizes_of[i][side] for i in batch) for side in (0, 1)]
        rectangle += len(batch) * sum(longest)
    return 1 - real / rectangle


def in_rows(order: Sequence[int], n: int = 64) -> list[Sequence[int]]:
    """Cut an order into batches of n."""
    return [order[i : i + n] for i in range(0, len(order), n)]


anyhow = random.Random(0).sample(range(len(examples)), len(examples))
by_source = sorted(range(len(examples)), key=lambda i: sizes_of[i][0])
by_both = sorted(range(len(examples)), key=lambda i: sizes_of[i][::-1])  # target, then source
rows = in_rows(anyhow)
print(f"random order: {waste(rows):.0%}; all padded to 72: {waste(rows, 72):.0%}")
compare(mine, waste(rows), "06: padding in random order")

# %% [markdown]
# Sentences of similar length belong together. The paper does so too (section 5.1). And one thing
# more: the paper does not fix the number of *sentences* in a batch but of *tokens*, about 25,000
# on each side. Then a batch of long sentences is as much work, and takes as much memory, as a
# batch of short ones. This is the **token budget**:
#
# $$n \cdot \max\left(\max_i s_i, \; \max_i t_i\right) \le \text{max tokens}.$$
#
# Sort by target length, then by source length, and fill batch after batch. Training wants
# chance, too: a seed shuffles sentences of equal lengths among themselves, and then the order of
# the batches.


# %%
#| export
def token_batches(
    lengths: Sequence[int] | Sequence[Sequence[int]], max_tokens: int, seed: int | None = None
) -> list[list[int]]:
    """Cut a corpus into batches of similar lengths, each at most `max_tokens` after padding.

    lengths: of each example, a number or a (source, target) pair; a batch of n examples costs n
    times its longest. Returns lists of indices; with a `seed`, ties and the order of the batches
    are shuffled. Every index comes exactly once. Raises ValueError for an example that alone is
    longer than `max_tokens`.
    """
    sizes = [(n,) if isinstance(n, int) else tuple(n) for n in lengths]
    shuffle = random.Random(seed)
    order = list(range(len(sizes)))
    if seed is not None:
        shuffle.shuffle(order)
    order.sort(key=lambda i: sizes[i][::-1])
    batches: list[list[int]] = []
    longest = 0
    for i in order:
        size = max(sizes[i])
        if size > max_tokens:
            raise ValueError(
                f"example {i} has {size} tokens, more than max_tokens={max_tokens}: "
                "raise max_tokens, or leave the example out"
            )
        longest = max(longest, size)
        if not batches or (len(batches[-1]) + 1) * longest > max_tokens:
            batches.append([])
            longest = size
        batches[-1].append(i)
    if seed is not None:
        shuffle.shuffle(batches)
    return batches


# %%
budget = token_batches(sizes_of, max_tokens=1600, seed=0)
once_each = sorted(i for batch in budget for i in batch)
assert once_each == list(range(len(examples))), "each index exactly once"


def costs(batches: Sequence[Sequence[int]]) -> list[int]:
    """Tokens of each batch after padding: its sentences times the longest of them."""
    return [len(batch) * max(max(sizes_of[i]) for i in batch) for batch in batches]


assert max(costs(budget)) <= 1600 and waste(budget) < 0.10, "less than a tenth is padding"
print(f"{len(budget)} batches of {min(map(len, budget))} to {max(map(len, budget))} sentences")
print(f"the most expensive batch: {max(costs(budget))} of 1600 tokens; {waste(budget):.1%} padding")

# %%
check("text_budget")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Which part of the recipe does what? · more
#
# For those who want the control: what sorting does, and what the budget does.

# %%
schemes = {
    "all padded to 72": waste(in_rows(anyhow), 72),
    "random order, 64 sentences": waste(in_rows(anyhow)),
    "sorted by source, 64 sentences": waste(in_rows(by_source)),
    "sorted by both, 64 sentences": waste(in_rows(by_both)),
    "token budget, 1600 tokens": waste(budget),
}
draw.padding(
    schemes,
    {
        "random order": [sizes_of[i][0] for i in in_rows(anyhow)[0]],
        "token budget": [sizes_of[i][0] for i in budget[len(budget) // 2]],
    },
    f"Random order wastes {waste(in_rows(anyhow)):.0%} of the positions, "
    f"sorting by both sides only {waste(in_rows(by_both)):.0%}",
)

# %%
fixed, at_random, one_side, both_sides, by_tokens = schemes.values()
assert by_tokens < 0.10, "the claim of this lesson: less than a tenth is padding"
assert fixed > 1.2 * at_random and at_random > 2 * one_side and one_side > 2 * both_sides
assert abs(both_sides - by_tokens) < 0.01
full = [sorted(costs(batches))[1:] for batches in (in_rows(by_both), budget)]  # without the rest
spread = [cost[-1] / cost[0] for cost in full]
assert spread[0] > 4 and spread[1] < 1.2
print(f"waste: fixed {fixed:.0%}, random {at_random:.0%}, sorted by source {one_side:.1%}")
print(f"waste: sorted by both {both_sides:.1%}, token budget {by_tokens:.1%}")
print(f"most expensive full batch / cheapest: 64 sentences {spread[0]:.1f}, budget {spread[1]:.1f}")

# %% [markdown]
# Each part of the recipe does something else. *Sorting* takes the padding away, if it looks at both
# sides: the targets of equally long sources differ in length. The *budget* makes the batches equal:
# without it, a batch of 64 long sentences takes several times the memory and the time of a batch of
# 64 short ones.

# %% [markdown]
# ### Batches
#
# The last function makes a `Batch` (lesson 04) of each list of indices. The seed belongs to the
# epoch: the same seed gives the same batches, so that a run that was stopped can go on where it
# was (`start`), and the next epoch, with another seed, comes in another order.


# %%
#| export
def make_batches(
    examples: Sequence[Example], max_tokens: int, seed: int | None = None, start: int = 0
) -> Iterator[Batch]:
    """Yield the padded batches of one epoch, from batch number `start` on."""
    lengths = [(len(src), len(tgt)) for src, tgt in examples]
    for indices in token_batches(lengths, max_tokens, seed)[start:]:
        chosen = [examples[i] for i in indices]
        yield Batch.from_sequences([s for s, _ in chosen], [t for _, t in chosen], PAD, BOS)


# %% [markdown]
# One batch, all the way back to text. The target appears twice, shifted by one place (lesson
# 04).

# %%
batches = list(make_batches(examples, max_tokens=1600, seed=0))
batch = max(batches, key=lambda b: b.src.size(0))
print("src", tuple(batch.src.shape), "tgt_in", tuple(batch.tgt_in.shape), batch.n_tokens, "tokens")
for name in ("src", "tgt_in", "tgt_out"):
    print(f"{name:8}", *(bpe.names[i] for i in getattr(batch, name)[0].tolist()))
assert (bpe.decode(batch.src[0].tolist()), bpe.decode(batch.tgt_out[0].tolist())) in set(train)

# %% [markdown]
# > **Try it.**
# > 1. Sort in `token_batches` by source first (`sizes[i]` for `sizes[i][::-1]`). What happens to the
# >    waste of each side?
# > 2. Set `max_tokens` to 200, 800, 3200 and 12800. When does the waste pass a tenth, and why
# >    does it grow?
# > 3. Learn a vocabulary from the German side alone and encode the English side with it. How
# >    much longer does it get? Is anything unknown?
#
# <details><summary>Answer</summary>
#
# 1. The sides change places: the source wasted 8.7 % and the target 0.4 %; now it is 0.5 % and 8.9 %. Together
#    it stays 5 %. Sorted first by one side, its lengths are equal within a batch.
# 2. 0.6 %, 2.7 %, 7.9 %, 18.3 %: it passes a tenth between 3200 and 6400 (13.1 %). A larger batch takes in
#    sentences of more different lengths: with 12800 there are 25 batches for all lengths.
# 3. 39.7 tokens a sentence instead of 17.4: English words fall into small pieces. Nothing is unknown; only `x`,
#    which no German caption holds, is spelled as a byte.
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### The same seed goes on exactly · more
#
# For who stops a run: the second half of an epoch again, and the padding counted in the tensors.

# %%
resumed = list(make_batches(examples, max_tokens=1600, seed=0, start=5))
assert all(a.src.equal(b.src) and a.tgt_out.equal(b.tgt_out) for a, b in zip(batches[5:], resumed))
assert len(resumed) == len(batches) - 5
assert token_batches(sizes_of, 1600, seed=1) != budget, "another epoch, another order"
padded = sum((b.src == PAD).sum().item() + (b.tgt_out == PAD).sum().item() for b in batches)
positions = sum(b.src.numel() + b.tgt_out.numel() for b in batches)
assert abs(padded / positions - waste(budget)) < 1e-9, "the tensors waste what we computed"
print(f"{len(batches)} batches, {padded / positions:.1%} padding; the same seed resumes exactly")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 10 · Your own two languages · more
#
# For those who want to translate between other languages than German and English: two files are enough.

# %% [markdown]
# Line *n* of one file is the translation of line *n* of the other; plain text in UTF-8, a sentence a
# line. A line without a partner, an empty line or another encoding is told with its file and number.
#
# ```
# python -m course train --src hindi.txt --tgt english.txt --preset small --out runs/hi --minutes 20
# python -m course translate --checkpoint runs/hi < new.txt
# python -m course evaluate --checkpoint runs/hi --src test-hindi.txt --tgt test-english.txt
# ```
#
# One source sentence in twenty is held out for validation, *with all of its translations*: otherwise
# there would be leakage again. `--pairs DIR` takes `train.src`, `train.tgt`, `val.src` and `val.tgt`
# from a directory, if you have made the parts yourself.
#
# What is different in another script? The pieces must be words there, too. Counted on four sentences
# of Hindi, with the rule of this lesson and with the one that it had before it knew marks:

# %%
hindi = ["लड़का लाल किताब देखता है।", "औरत सुंदर फूल लाती है।", "बिल्ली गेंद चाहती है।", "कुत्ता गोल पत्थर रखता है।"]
n_words = sum(len(sentence.split()) for sentence in hindi)
cut = [sum(len(rule(" " + s)) for s in hindi) / n_words for rule in (OLD_PIECE.findall, pieces)]
assert n_words == 19 and cut[0] > 3 and cut[1] == 23 / 19  # 19 words and four full stops
print(f"pieces a word: {cut[0]:.1f} if marks are no letters, {cut[1]:.1f} if they are")

# %% [markdown]
# - **Many characters** (Chinese, Japanese): each that comes twice gets an id of its own. Where the preset's
#   vocabulary is too small for them, the message says by how much: `--set vocab=8000`.
# - **No spaces** (Chinese, Japanese, Thai): a run of letters up to the next sign is one piece, and merges
#   may cross words. It works; the tokens are just not words.
# - **How many pairs?** A test of this course trains the preset *tiny* on 608 sentences of a small grammar
#   of Hindi, for seconds, and it must translate 28 of 32 unseen ones without a fault. Real text has no
#   such grammar: Multi30k's 29,000 pairs are few.

# %% [markdown]
# ## What you built
#
# | name | what goes in | what comes out |
# |---|---|---|
# | `tokenize`, `Vocabulary` | a sentence | words; their ids, `UNK` for the unknown |
# | `pieces`, `count_pieces` | text; sentences | pieces that join to the text again; their counts |
# | `learn_bpe`, `merge_pair`, `apply_merges` | counts of pieces | merges, and words cut by them |
# | `normalise` | any text | the same text in one spelling |
# | `BPE.learn`, `encode`, `decode` | training sentences; text | ids, and the normalised text back |
# | `BPE.save`, `BPE.load` | a path | the same tokeniser again |
# | `to_tokenizers` | a `BPE` | the same from the `tokenizers` library |
# | `encode_sentence`, `encode_pairs` | sentences, sentence pairs | examples `(src, tgt)`, each ending in `EOS` |
# | `token_batches` | lengths, a budget, a seed | lists of indices, each index once |
# | `make_batches` | examples, a budget, a seed | `Batch`: src (B, S), tgt_in and tgt_out (B, T) |
#
# Do you come from torchtext? README has a table: what older tutorials call, and what takes its place.

# %% [markdown]
# ## Summary · 小结
#
# A model reads ids. Words fail as tokens, since real text always brings new ones; characters
# make sequences long. Byte-pair encoding starts from characters and joins the most frequent pair
# again and again, so that frequent words become one token and rare words a few. With the space
# inside the token and bytes for unknown characters, decoding gives back any text, in its one spelling,
# and `UNK` is never needed. The vocabulary is learned from training sentences only. Batches hold
# sentences of similar length, and as many as fit a token budget: less than a tenth of the
# positions is padding.
#
# <div lang="zh">
#
# **小结**
#
# - 模型只能读取编号。以词为单位行不通，因为真实文本总会出现新词；以字符为单位，序列又太长。
# - 字节对编码（BPE）从字符开始，反复合并出现次数最多的相邻符号对：
#   常见词成为一个词元，罕见词由几个词元组成。
# - 空格留在词元里，未知字符用 UTF-8 字节表示，
#   所以任何文本编码后再解码都与规范化后的原文完全相同，不再需要 `UNK`。
# - 粘贴来的文本先规范化：组合字符（NFC）、统一空白、去掉看不见的字符，训练和使用时都一样。
# - 词表只能从训练集学习，绝不能接触验证集和测试集。
# - 把长度相近的句子放在同一批，并按词元总数（而不是句子数）限制批的大小，
#   填充就不到十分之一。
#
# </div>

# %% [markdown]
# ## Further reading
#
# - Sennrich, Haddow, Birch (2016). *Neural Machine Translation of Rare Words with Subword
#   Units.* ACL. arXiv 1508.07909. The paper that brought BPE to translation.
# - Gage (1994). *A New Algorithm for Data Compression.* C Users Journal. BPE before it met
#   language.
# - Kudo, Richardson (2018). *SentencePiece.* EMNLP. arXiv 1808.06226. Spaces as symbols;
#   lossless.
# - Wu et al. (2016). *Google's Neural Machine Translation System.* arXiv 1609.08144. The word
#   pieces that the paper uses for English-French.
# - Provilkov, Emelianenko, Voita (2020). *BPE-Dropout.* ACL. arXiv 1910.13267. Several ways to
#   cut the same word, as a regulariser.
#
# **Homework.** [Assignment text](homework/release/text/text.ipynb): write learning and applying
# BPE, and batches by tokens yourself; the check names what went wrong.
#
# **Next:** [lesson 07](07_training.ipynb): the batches go into training.
