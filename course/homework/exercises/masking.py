"""Exercises of the assignment masking: what a word may see, and what the decoder reads."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from course.homework.checking import Case, Exercise, function_exam
from course.homework.probe import whole
from course.homework.values import mismatch


def sentences(generator: Generator, lengths: list[int], pad_id: int, left: bool = False) -> Tensor:
    """Return fresh tokens (B, K), none of them pad_id, filled up on the right (or the left)."""
    tokens = torch.full((len(lengths), max(lengths)), pad_id)
    for row, length in zip(tokens, lengths):
        words = torch.randint(10, 100, (length,), generator=generator)
        row[slice(-length, None) if left else slice(0, length)] = words
    return tokens


# A mask can be wrong in what it says and in how it is written; learners combine the two.
# Each: (the misconception, boolean mask (..., Q, K) -> their mask).
Change = tuple[str, Callable[[Tensor], Tensor]]
VALUES: list[Change] = [
    ("", lambda m: m),
    ("Your mask holds whole numbers, not True and False: leave the comparison as it is",
     lambda m: m.long()),
    ("Your mask holds whole numbers, not True and False: leave the comparison as it is",
     lambda m: m.int()),
    ("Your mask holds 1.0 and 0.0: attention would add such a mask to the scores. Keep it boolean",
     lambda m: m.float()),
    *(("Your mask is additive (0 and a very negative number): in this course a mask is boolean, "
       "True = may attend, and attention turns it into -inf",
       lambda m, low=low: torch.zeros(m.shape).masked_fill(~m, low))
      for low in (-math.inf, -1e9, -1e4, torch.finfo(torch.float32).min)),
]


def mask_mistakes(meanings: list[Change], shapes: list[Change], mask: Callable) -> list:
    """Return the wrong twins: every meaning, in every writing, in every shape."""

    def twin(*changes: Callable) -> Callable:
        def mistaken(*args):
            result = mask(*args)
            for change in changes:
                result = change(result)
            return result

        return mistaken

    found = []
    for said, shape in shapes:
        for written, value in VALUES:
            for meant, meaning in meanings:
                message = ". And: ".join(filter(None, (meant, written, said)))
                if message:
                    found.append((message, twin(meaning, value, shape)))
    return found


def padding_cases(generator: Generator) -> Iterator[Case]:
    yield Case("one sentence", (F.pad(sentences(generator, [3], 0), (0, 2)), 0))
    yield Case("three sentences of different lengths", (sentences(generator, [4, 2, 1], 0), 0),
               "you lose the batch dimension")
    pad_id = whole(generator, 3, 9)
    tokens = sentences(generator, [2, 5], pad_id)
    tokens[0, 0], tokens[1, 1] = 0, 1
    yield Case(f"pad_id = {pad_id}, beside tokens 0 and 1", (tokens, pad_id),
               "you take it for granted that the padding is 0")
    yield Case("a pad_id above all words", (sentences(generator, [2, 4], 100), 100),
               "you ask which is larger: only equal or not equal matters")
    yield Case("padding on the left", (sentences(generator, [2, 4, 3], 0, left=True), 0),
               "you take for granted that the words come first: ask each token alone")
    yield Case("no padding at all", (sentences(generator, [3, 3], 0), 0))


def padding_reference(tokens: Tensor, pad_id: int) -> Tensor:
    return (tokens != pad_id)[:, None, None, :]


def explain_padding(args: tuple, actual: object, expected: object) -> str | None:
    if mismatch(actual, args[0]) is None:
        return "You return the tokens as they came: compare them with pad_id"
    if isinstance(actual, Tensor) and actual.dtype == torch.bool and actual.dim() != 4:
        return (
            f"Your mask has the shape {tuple(actual.shape)}: attention compares it with scores "
            "(B, H, Q, K). Give it the dimensions 1 for heads and queries: (B, 1, 1, K)"
        )
    return None


PADDING = Exercise(
    name="padding_mask",
    assignment="masking",
    signature="padding_mask(tokens, pad_id): tokens (B, K) -> boolean (B, 1, 1, K), "
    "True = may attend",
    what="Say for every sentence which keys are words, and which are only there to fill up the "
    "rectangle. The two dimensions of size 1 stand for all heads and all queries.",
    why="Without it, a sentence gets another translation when a longer one stands beside it in the "
    "batch.",
    difficulty=1,
    minutes=5,
    hints=(
        "Does the mask depend on the query? Which of B, H, Q and K does it depend on?",
        "One comparison gives a boolean (B, K). Then two dimensions are missing, in the middle.",
        "tokens != pad_id is the mask; [:, None, None, :] puts the two dimensions in.",
    ),
    examine=function_exam(
        padding_reference,
        padding_cases,
        mistakes=mask_mistakes(
            [
                ("", lambda m: m),
                ("Your mask is inverted: True means may attend, so the words are True and the "
                 "padding is False", lambda m: ~m),
                ("Your mask lets everything be seen, the padding too", torch.ones_like),
            ],
            [
                ("", lambda m: m),
                ("The shape is (B, K): attention has scores (B, H, Q, K), so it would read your "
                 "sentences as queries. Make it (B, 1, 1, K)", lambda m: m[:, 0, 0]),
                ("The shape is (B, 1, K): attention has scores (B, H, Q, K), so it would read your "
                 "sentences as heads. Make it (B, 1, 1, K)", lambda m: m[:, 0]),
                ("The shape is (1, 1, B, K): the sentences stand where the queries belong. Make it "
                 "(B, 1, 1, K)", lambda m: m.permute(1, 2, 0, 3)),
                ("The shape is (1, B, 1, K): the sentences stand where the heads belong. Make it "
                 "(B, 1, 1, K)", lambda m: m.permute(1, 0, 2, 3)),
                ("Your mask closes the queries: a row of dummies. Nobody may look at a dummy, so "
                 "close the keys, the last dimension: (B, 1, 1, K)", lambda m: m.transpose(-2, -1)),
                ("You close the queries, too: such a query sees nothing at all. Close the keys "
                 "alone: (B, 1, 1, K)", lambda m: m & m.transpose(-2, -1)),
                ("You repeat the mask for every query: leave that dimension at 1, it broadcasts",
                 lambda m: m.expand(-1, -1, m.size(-1), -1)),
            ],
            padding_reference,
        ) + [
            ("You compare with 0, whatever pad_id says", lambda t, p: padding_reference(t, 0)),
            ("You ask which tokens are larger than pad_id: a word may have a smaller number. Only "
             "equal or not equal matters", lambda t, p: (t > p)[:, None, None]),
            ("You ask which tokens are smaller than pad_id: only equal or not equal matters",
             lambda t, p: (t < p)[:, None, None]),
            ("You count the words and take for granted that they come first: compare each token "
             "with pad_id", lambda t, p: (
                 torch.arange(t.size(1)) < (t != p).sum(1, keepdim=True))[:, None, None]),
        ],
        returns="the mask",
        explain=explain_padding,
    ),
)


def causal_reference(size: int) -> Tensor:
    return torch.ones(1, 1, size, size, dtype=torch.bool).tril()


def causal_cases(generator: Generator) -> Iterator[Case]:
    yield Case("three words", (3,))
    yield Case("more words", (whole(generator, 5, 8),), "you ignore size")
    yield Case("one word", (1,), "you squeeze a dimension of size 1")
    yield Case("twenty words", (20,), "a number is fixed in your code")


def explain_causal(args: tuple, actual: object, expected: Tensor) -> str | None:
    if not isinstance(actual, Tensor) or mismatch(actual, expected) is None:
        return None
    if actual.dtype != torch.bool or actual.shape != expected.shape:
        return None
    query, key = (actual != expected)[0, 0].nonzero()[0].tolist()
    if key > query:
        return f"Token {query} can see token {key}, which lies in its future"
    return f"Token {query} can't see token {key}: a word sees itself and all words before it"


CAUSAL = Exercise(
    name="causal_mask",
    assignment="masking",
    signature="causal_mask(size) -> boolean (1, 1, size, size), the last two are (Q, K), "
    "True = may attend",
    what="Let every word see itself and the words before it, and nothing that comes later.",
    why="With this triangle one pass trains all positions at once. Without it the model copies the "
    "next word: the loss is near zero, and it can't write a sentence.",
    difficulty=1,
    minutes=5,
    hints=(
        "Write the table for three words by hand. Row i is a query: which columns j may it see?",
        "Query i may see key j if j <= i. That is a triangle: below the diagonal or above?",
        "torch.ones(size, size, dtype=torch.bool).tril() is the triangle; two dimensions are "
        "missing in front.",
    ),
    forbidden=("torch.nn.modules.transformer.", "torch.nn.attention."),
    examine=function_exam(
        causal_reference,
        causal_cases,
        mistakes=mask_mistakes(
            [
                ("", lambda m: m),
                ("Your mask is inverted: it lets each word see exactly its future. True means may "
                 "attend", lambda m: ~m),
                ("Rows and columns are exchanged: each word sees itself and its future. Row = "
                 "query, column = key; use the lower triangle, tril",
                 lambda m: m.transpose(-2, -1)),
                ("A word can't see itself: the diagonal must be True (the decoder's input is "
                 "shifted already). And the first word would see nothing", lambda m: m.tril(-1)),
                ("Off by one: each word also sees the next one, which is what it must predict",
                 lambda m: torch.ones_like(m).tril(1)),
                ("Each word sees itself alone: all words before it may be seen, too",
                 lambda m: m & m.transpose(-2, -1)),
                ("Your mask lets every word see its future", torch.ones_like),
                ("Your mask lets no word see anything", torch.zeros_like),
                ("Your triangle leans the other way: word 0 sees all, the last word only itself "
                 "or word 0", lambda m: m.flip(-1)),
                ("Your triangle leans the other way: the first query sees all words",
                 lambda m: m.flip(-2)),
            ],
            [
                ("", lambda m: m),
                ("The shape is (size, size): put two dimensions of size 1 in front, for the "
                 "sentences and the heads", lambda m: m[0, 0]),
                ("The shape is (1, size, size): put two dimensions of size 1 in front, for the "
                 "sentences and the heads", lambda m: m[0]),
                ("The two dimensions of size 1 stand at the end: they belong in front, for the "
                 "sentences and the heads", lambda m: m.permute(2, 3, 0, 1)),
            ],
            causal_reference,
        ),
        returns="the mask",
        explain=explain_causal,
    ),
)


def shift_reference(tgt: Tensor, bos_id: int) -> Tensor:
    return torch.cat([torch.full_like(tgt[:, :1], bos_id), tgt[:, :-1]], dim=1)


def shift_cases(generator: Generator) -> Iterator[Case]:
    tgt = torch.randint(10, 100, (1, 4), generator=generator)
    yield Case("one sentence", (tgt, 1))
    tgt = torch.randint(10, 100, (3, 5), generator=generator)
    yield Case("three sentences", (tgt, whole(generator, 2, 9)),
               "bos_id is fixed in your code, or you treat the first sentence alone")
    short = sentences(generator, [5, 2, 4], 0)
    short[[0, 1, 2], [4, 1, 3]] = 2  # </s>
    yield Case("shorter sentences, with </s> = 2 and padding 0", (short, 1),
               "you treat </s> or the padding in a special way: the last column falls out, "
               "whatever stands there")
    square = torch.randint(10, 100, (3, 3), generator=generator)
    yield Case("as many sentences as words", (square, 1))
    yield Case("bos_id = 0", (torch.randint(10, 100, (2, 3), generator=generator), 0))
    yield Case("one word", (torch.randint(10, 100, (2, 1), generator=generator), 1))


def overlapping(tgt: Tensor, bos_id: int) -> Tensor:
    first = tgt[:, :1].expand_as(tgt).clone()
    first[:, 0] = bos_id
    return first


def with_first(tgt: Tensor, bos_id: int) -> Tensor:
    return torch.cat([torch.full_like(tgt[:, :1], bos_id), tgt[:, 1:]], dim=1)


SHIFT_MEANINGS: list[tuple[str, Callable]] = [
    ("", shift_reference),
    ("Nothing falls out: your rows are one token longer. Leave the last column out: what follows "
     "it is not asked for", lambda t, b: torch.cat([torch.full_like(t[:, :1], b), t], dim=1)),
    ("The start token is missing: you only leave the last column out", lambda t, b: t[:, :-1]),
    ("You leave the first column out: that is one step to the left. The input of the decoder moves "
     "to the right: bos_id comes first, the last column falls out", lambda t, b: t[:, 1:]),
    ("You shift to the left: word t would be read at place t - 1, before it is predicted",
     lambda t, b: torch.cat([t[:, 1:], torch.full_like(t[:, :1], b)], dim=1)),
    ("You roll: the last word comes back in front. bos_id belongs there",
     lambda t, b: t.roll(1, 1)),
    ("You roll to the left, and the first word comes back at the end", lambda t, b: t.roll(-1, 1)),
    ("You write bos_id over the first word: it is lost, and nothing moves. Place t would read the "
     "word that it must predict", with_first),
    ("You shift the sentences, not the words: the words lie along dim=1",
     lambda t, b: torch.cat([torch.full_like(t[:1], b), t[:-1]], dim=0)),
    ("You shift all sentences as one long row: the last word of a sentence becomes the first of "
     "the next", lambda t, b: t.flatten().roll(1).index_fill(
         0, torch.tensor(0), b).reshape(t.shape)),
    ("bos_id stands at the end: it comes first",
     lambda t, b: torch.cat([t[:, :-1], torch.full_like(t[:, :1], b)], dim=1)),
    ("The first word fills the whole row: you overwrite each word before you move it. Build a new "
     "tensor, with torch.cat", overlapping),
    ("Off by two: only one token comes in",
     lambda t, b: torch.cat([torch.full_like(t[:, :2], b), t[:, :-2]], dim=1)),
    ("You cut off the first word as well as the last one", lambda t, b: torch.cat(
        [torch.full_like(t[:, :1], b), t[:, 1:-1]], dim=1)),
]
FLOATS = (
    "The tokens came out as float: they are row numbers of a table, keep their dtype "
    "(torch.full_like keeps it)"
)


def as_floats(mistaken: Callable) -> Callable:
    return lambda tgt, bos_id: mistaken(tgt, bos_id).float()


SHIFT = Exercise(
    name="shift_right",
    assignment="masking",
    signature="shift_right(tgt, bos_id): tgt (B, T) -> (B, T), a new tensor: bos_id first, then "
    "tgt without its last column",
    what="Make what the decoder reads (tgt_in) from what it must predict: every token moves one "
    "place to the right.",
    why="Shift and causal mask belong together: at place t the decoder has read the words before "
    "t, and must predict word t.",
    difficulty=1,
    minutes=5,
    hints=(
        "Write it for one sentence: predicted are [a, b, c, </s>]. What is read at each place?",
        "A column of bos_id, (B, 1), and tgt without its last column, (B, T - 1), side by side.",
        "torch.full_like(tgt[:, :1], bos_id) is the column; torch.cat([..., ...], dim=1) joins.",
    ),
    examine=function_exam(
        shift_reference,
        shift_cases,
        mistakes=[
            *SHIFT_MEANINGS[1:],
            *((f"{meant}. And: {FLOATS}" if meant else FLOATS, as_floats(mistaken))
              for meant, mistaken in SHIFT_MEANINGS),
            ("You put 0 in front, whatever bos_id says", lambda t, b: shift_reference(t, 0)),
            ("You put 1 in front, whatever bos_id says", lambda t, b: shift_reference(t, 1)),
            ("You take </s> out: the last column falls out, whatever stands there. In a short "
             "sentence </s> is read, and the loss skips what it would predict",
             lambda t, b: shift_reference(t, b).masked_fill(shift_reference(t, b) == 2, 0)),
        ],
        returns="the decoder's input",
    ),
)

EXERCISES = (PADDING, CAUSAL, SHIFT)
