# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 · Text
#
# > Text: from sentences to token ids to batches, and back (paper, section 5.1).

# %%
#| export
import heapq
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import spacy

from course.masking import Batch

PAD, BOS, EOS, UNK = range(4)
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")


# %%
#| export
@cache
def spacy_pipeline(language: str) -> spacy.Language:
    """Return spaCy's rule-based pipeline for "de" or "en"; needs no model download."""
    return spacy.blank(language)


# %%
#| export
def tokenize(text: str, language: str) -> list[str]:
    """Split a sentence into words and punctuation with spaCy's rules."""
    return [token.text for token in spacy_pipeline(language)(text) if not token.is_space]


# %%
#| export
class Vocabulary:
    """A two-way table between tokens and ids; the special tokens come first.

    Words that it does not hold become UNK.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = [*SPECIAL_TOKENS, *tokens]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            twice = [t for t, n in Counter(self.tokens).items() if n > 1]
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
#| export
PIECE = re.compile(r" ?\w+| ?[^\w\s]+|\s")


def pieces(text: str) -> list[str]:
    """Split text before each word and each run of punctuation; the space goes with what follows.

    Joined, the pieces are the text again: nothing is lost.
    """
    return PIECE.findall(text)


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

    def count_pairs(i: int, sign: int) -> None:
        for pair in zip(words[i], words[i][1:]):
            pair_counts[pair] += sign * counts[i]
            found_in[pair].add(i)

    for i in range(len(words)):
        count_pairs(i, +1)
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
            count_pairs(i, -1)
            words[i] = merge_pair(words[i], best)
            count_pairs(i, +1)
            changed.update(zip(words[i], words[i][1:]))
        for pair in changed:
            if pair_counts[pair] > 0:
                heapq.heappush(queue, (-pair_counts[pair], pair))
    return merges


# %%
#| export
class BPE:
    """A byte-pair encoder whose `decode(encode(text))` is `text`, whatever the text.

    A character that training never saw is spelled in its UTF-8 bytes, so UNK never occurs.
    `alphabet`: the characters that have ids of their own; `merges`: in the order learned.
    """

    def __init__(self, alphabet: Iterable[str], merges: Iterable[Pair]) -> None:
        self.alphabet = sorted(alphabet)
        self.merges = [(left, right) for left, right in merges]
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
        joined = [left + right for left, right in self.merges]
        # two different merges can spell the same token: it has one id
        self.vocabulary = Vocabulary(dict.fromkeys([*byte_tokens, *self.alphabet, *joined]))
        self.first_byte = self.vocabulary.ids[byte_tokens[0]]
        self.cache: dict[str, tuple[int, ...]] = {}

    @classmethod
    def learn(cls, sentences: Iterable[str], vocab_size: int, min_char_count: int = 2) -> "BPE":
        """Learn from training sentences; raises ValueError if `vocab_size` cannot hold the basis."""
        piece_counts = Counter(p for s in sentences for p in pieces(" " + s))
        characters: Counter[str] = Counter()
        for piece, n in piece_counts.items():
            for character in piece:
                characters[character] += n
        alphabet = {c for c, n in characters.items() if n >= min_char_count}
        basis = len(SPECIAL_TOKENS) + 256 + len(alphabet)
        if vocab_size < basis:
            raise ValueError(
                f"vocab_size={vocab_size} is too small: special tokens, bytes and the alphabet "
                f"alone take {basis}"
            )
        known = {p: n for p, n in piece_counts.items() if alphabet.issuperset(p)}
        return cls(alphabet, learn_bpe(known, vocab_size - basis))

    def __len__(self) -> int:
        return len(self.vocabulary)

    def split(self, piece: str) -> tuple[str, ...]:
        """Return the symbols of one piece: the merges applied in the order they were learned."""
        symbols = tuple(piece)
        while True:
            known = [pair for pair in zip(symbols, symbols[1:]) if pair in self.ranks]
            if not known:
                return symbols
            symbols = merge_pair(symbols, min(known, key=self.ranks.__getitem__))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a sentence, without BOS and EOS."""
        ids: list[int] = []
        for piece in pieces(" " + text):
            if piece not in self.cache:
                self.cache[piece] = tuple(i for s in self.split(piece) for i in self.symbol_ids(s))
            ids += self.cache[piece]
        return ids

    def symbol_ids(self, symbol: str) -> list[int]:
        """Return the id of a symbol, or those of its bytes if it has none."""
        if symbol in self.vocabulary.ids and (len(symbol) == 1 or symbol[0] != "<"):
            return [self.vocabulary.ids[symbol]]
        return [self.first_byte + b for b in symbol.encode("utf-8")]

    def tokens(self, text: str) -> list[str]:
        """Return the sentence cut into its tokens, for the eye; a leading space shows as ▁."""
        return [self.vocabulary.tokens[i].replace(" ", "▁") for i in self.encode(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; special tokens are skipped, broken bytes become U+FFFD."""
        raw = bytearray()
        for i in ids:
            if self.first_byte <= i < self.first_byte + 256:
                raw.append(i - self.first_byte)
            elif i >= len(SPECIAL_TOKENS):
                raw += self.vocabulary.tokens[i].encode("utf-8")
        return raw.decode("utf-8", errors="replace").removeprefix(" ")

    def save(self, path: Path) -> None:
        """Write the tokeniser as JSON."""
        content = {"alphabet": self.alphabet, "merges": self.merges}
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "BPE":
        """Read a tokeniser that `save` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["alphabet"], content["merges"])


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
            raise ValueError(f"example {i} has {size} tokens, more than max_tokens={max_tokens}")
        longest = max(longest, size)
        if not batches or (len(batches[-1]) + 1) * longest > max_tokens:
            batches.append([])
            longest = size
        batches[-1].append(i)
    if seed is not None:
        shuffle.shuffle(batches)
    return batches


# %%
#| export
Example = tuple[list[int], list[int]]


def encode_pairs(bpe: BPE, pairs: Iterable[Pair]) -> list[Example]:
    """Return each sentence pair as token ids, both sides ending in EOS."""
    return [([*bpe.encode(src), EOS], [*bpe.encode(tgt), EOS]) for src, tgt in pairs]


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
