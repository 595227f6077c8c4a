"""Exercises that draw lots: dropout (assignment training) and BERT's masking (beyond)."""

from itertools import pairwise

import torch
from torch import Generator, Tensor

from course.homework.checking import Candidate, Exercise, Wrong, normal
from course.homework.probe import whole
from course.homework.values import kind, mismatch, show

# dropout


def same_form(actual: object, x: Tensor, given: str) -> Tensor:
    """Return the result of a dropout; raises Wrong if it is not of the kind of x."""
    found = mismatch(actual, x, "the result")
    if found and not found.of_values:
        raise Wrong(found.message, found.expected, found.actual, given)
    return actual


def asleep(candidate: Candidate, x: Tensor, p: float, generator: Generator) -> None:
    """Without training, dropout does nothing."""
    out = same_form(candidate(x, p, False), x, candidate.given)
    if mismatch(out, x) is None:
        return
    if (out == 0).any():
        message = ("You drop in evaluation, too: with training=False x comes out as it is, or the "
                   "same sentence would be translated differently each time")
        again = candidate(x, p, True)
        if isinstance(again, Tensor) and mismatch(again, x) is None:
            message = "training is turned round: you drop with training=False and not with True"
    elif any(mismatch(out, x * factor) is None for factor in (1 - p, 1 / (1 - p), p)):
        message = ("You scale in evaluation: that belongs to the older form, which does not scale "
                   "in training. Here training scales by 1 / (1 - p), and evaluation does nothing")
    else:
        message = "With training=False x comes out as it is"
    raise Wrong(message, show(x), show(out), candidate.given)


def wide_awake(candidate: Candidate, x: Tensor, p: float, generator: Generator) -> None:
    """In training some numbers are 0, all others are x / (1 - p)."""
    out = same_form(candidate(x, p, True), x, candidate.given)
    given, shown = candidate.given, (show(x / (1 - p)), show(out))
    kept = out != 0
    share = 1 - kept.double().mean().item()
    if mismatch(out, x) is None:
        raise Wrong("You drop nothing in training: x comes out as it is" if p else
                    "You return x as it came", *shown, given)
    if share == 0:
        raise Wrong("You drop nothing: in training each number becomes 0 with probability p",
                    *shown, given)
    if share == 1:
        raise Wrong("You drop everything: each number becomes 0 with probability p only",
                    *shown, given)
    ratio = (out / x)[kept]
    spread = (ratio.max() - ratio.min()).item()
    if spread > 1e-3:
        raise Wrong("What stays is not scaled by one number: it is x / (1 - p)", *shown, given)
    factor = ratio.mean().item()
    slack = 5 * (p * (1 - p) / x.numel()) ** 0.5
    turned = abs(share - (1 - p)) < slack < abs(share - p)
    if turned:
        raise Wrong(f"You keep each number with probability p: p is the share that is dropped, so "
                    f"about {p:.0%} should be 0, and {share:.0%} are", given=given)
    if abs(factor * (1 - p) - 1) > 1e-3:
        for wrong, message in (
            (1.0, "You do not scale what stays: divide by 1 - p, so that the mean stays the same "
             "and evaluation needs no change"),
            (1 / p, "You divide by p: what stays is the share 1 - p, so divide by 1 - p"),
            (1 - p, "You multiply by 1 - p: divide, for what stays stands in for what is gone"),
            ((1 - p) ** -0.5, "You divide by the root of 1 - p: that keeps the mean square. "
             "Dropout keeps the mean, 1 / (1 - p)"),
            (1 / (1 - share), "You divide by the share that happened to stay: divide by the share "
             "that stays on average, 1 - p"),
        ):
            if abs(factor / wrong - 1) < 1e-4:
                raise Wrong(message, *shown, given)
        raise Wrong(f"What stays is multiplied by {factor:.3f}: it should be 1 / (1 - p) = "
                    f"{1 / (1 - p):.3f}", *shown, given)
    rows = kept.double().flatten(0, -2)  # (rows, D)
    whole_lines = (("row", rows.amin(1) == rows.amax(1)), ("column", rows.amin(0) == rows.amax(0)))
    for name, line in whole_lines:
        if line.double().mean() > 0.5:
            raise Wrong(f"You drop whole {name}s: each number has a lot of its own, so the mask "
                        "has the shape of x", *shown, given)
    if x.dim() > 2 and all(torch.equal(a, b) for a, b in pairwise(kept)):
        raise Wrong("Every sentence loses the same numbers: the mask has the shape of x, not of "
                    "one sentence", *shown, given)
    if abs(share - p) > slack:
        raise Wrong(f"Of {x.numel()} numbers you drop {share:.1%}: with p = {p} it should be about "
                    f"{p:.0%}", given=given)


def fresh_lots(candidate: Candidate, x: Tensor, p: float, generator: Generator) -> None:
    """Each call draws anew."""
    one, two = candidate(x, p, True), candidate(x, p, True)
    if torch.equal(one, two):
        raise Wrong("Two calls drop the same numbers: draw new lots each time, and set no seed "
                    "inside the function", given=candidate.given)


def half_way(candidate: Candidate, x: Tensor, p: float, generator: Generator) -> None:
    """What was dropped gets no gradient, what stayed 1 / (1 - p) times its own."""
    leaf = x.clone().requires_grad_()
    out = candidate(leaf, p, True)
    grad = normal(generator, *x.shape, dtype=x.dtype)
    if not out.requires_grad:
        raise Wrong("No gradient flows back from your output: don't detach, don't use no_grad or "
                    "numpy", given=candidate.given)
    (mine,) = torch.autograd.grad(out, leaf, grad)
    true = torch.where(out == 0, 0.0, grad / (1 - p))
    if mismatch(mine, true):
        raise Wrong("The values are right, their gradient is not: what was dropped gets none, what "
                    "stayed gets 1 / (1 - p) times the one that came", show(true), show(mine),
                    candidate.given)


def examine_dropout(candidate: Candidate, generator: Generator) -> None:
    def fresh(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return normal(generator, *shape, dtype=dtype) + 0.01

    asleep(candidate, fresh(3, 4), 0.5, generator)
    asleep(candidate, fresh(20, 10), 0.1, generator)
    for p in (0.25, 0.1 + whole(generator, 0, 5) / 100, 0.5, 0.8):
        wide_awake(candidate, fresh(4, 50, 50), p, generator)
    wide_awake(candidate, fresh(100, 100, dtype=torch.float64), 0.3, generator)
    fresh_lots(candidate, fresh(20, 20), 0.5, generator)
    half_way(candidate, fresh(10, 20, dtype=torch.float64), 0.25, generator)
    x = fresh(3, 4)
    if mismatch(candidate(x, 0.0, True), x):
        raise Wrong("With p = 0 nothing is dropped: x comes out as it is", given=candidate.given)


DROPOUT = Exercise(
    name="dropout",
    assignment="training",
    signature="dropout(x, p, training) -> like x; x of any shape; p, 0 or more and below 1: the "
    "probability with which a number becomes 0; training True or False",
    what="Inverted dropout: in training each number becomes 0 with probability p, by a lot of its "
    "own, and all others are divided by 1 - p. Else x comes out as it is.",
    why="The paper uses it in every sub-layer and on the embeddings. Two lines, and four ways to "
    "be wrong: no scale, the wrong scale, lots in evaluation, lots for whole rows.",
    difficulty=1,
    minutes=10,
    hints=(
        "Draw one random number for each number of x. What share of them is below p?",
        "torch.rand_like(x) is uniform between 0 and 1. Keep where it is p or more. The sum of "
        "what is left is smaller by the factor 1 - p: what makes up for it?",
        "if not training: return x. Else: return x * (torch.rand_like(x) >= p) / (1 - p).",
    ),
    forbidden=("dropout", "dropout_", "native_dropout", "feature_dropout", "alpha_dropout",
               "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "_fused_dropout"),
    examine=examine_dropout,
)


# mask_for_bert

CHOSEN, NO_LABEL = 0.15, -100


def lots(hits: Tensor, among: Tensor) -> tuple[float, float]:
    """Return the share of hits, and five standard errors of a share of a half, for so many."""
    count = max(int(among.sum()), 1)
    return (hits & among).sum().item() / count, 5 * 0.5 / count**0.5


def taken_apart(result: object, tokens: Tensor, given: str) -> tuple[Tensor, Tensor]:
    """Return (inputs, labels); raises Wrong if they are not that."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong(f"you return {kind(result)}: it should be (inputs, labels)", given=given)
    for part, name in zip(result, ("inputs", "labels")):
        found = mismatch(part, tokens, name)
        if found and not found.of_values:
            raise Wrong(found.message, found.expected, found.actual, given)
    return result[0], result[1]


def check_labels(tokens, inputs, labels, mask_id, special, given) -> Tensor:
    """Return which places were chosen; raises Wrong for labels that cannot be."""
    shown = dict(given=f"{given}\ntokens: {show(tokens)}", actual=show((inputs, labels)))
    chosen = labels != NO_LABEL
    if (inputs == NO_LABEL).any():
        raise Wrong("-100 stands in your inputs: it belongs into the labels. (inputs, labels) is "
                    "the order", **shown)
    if chosen.all():
        if torch.equal(labels, tokens):
            raise Wrong("Every place has a label, so the loss asks for words that stand there to "
                        "be read: -100 where nothing was chosen", **shown)
        if (labels == 0).double().mean() > 0.5:
            raise Wrong("You put 0 where nothing was chosen: 0 is a token, the sign for \"do not "
                        "ask\" is -100", **shown)
        raise Wrong("Every place has a label: -100 where nothing was chosen", **shown)
    if (chosen & (labels != tokens)).any():
        raise Wrong("A label is not the word that stood there: it is taken from tokens, before you "
                    "change anything", **shown)
    return chosen


def check_places(tokens, inputs, chosen, mask_id, special, given) -> None:
    """Raise Wrong for chosen places that cannot be, or changes where nothing was chosen."""
    shown = dict(given=f"{given}\ntokens: {show(tokens)}", actual=show((inputs, chosen)))
    if (chosen & special).any():
        raise Wrong("You choose special tokens: [CLS], [SEP] and padding are never asked for, so "
                    "take the lots where tokens is none of special_ids", **shown)
    if (special & (inputs != tokens)).any():
        raise Wrong("You change special tokens: they stay as they are", **shown)
    if ((inputs != tokens) & ~chosen).any():
        raise Wrong("You change words that have no label: those that become random words, or "
                    "[MASK], are among the chosen, and are asked for", **shown)


def check_shares(tokens, inputs, chosen, mask_id, special, given) -> None:
    """Raise Wrong if not 15 % are chosen, or not 80, 10, 10 % of them masked, drawn and kept."""
    share, slack = lots(chosen, ~special)
    masked, within = lots(inputs == mask_id, chosen)
    kept, _ = lots(inputs == tokens, chosen)
    drawn = 1 - masked - kept
    many = f"Of {int((~special).sum())} words you choose {share:.1%}"
    if masked > 1 - within / 2 and abs(share - 0.8 * CHOSEN) < slack / 2:
        raise Wrong("Only words that became [MASK] have labels: all 15 % are asked for, also those "
                    "that became a random word or stayed", given=given)
    if abs(share - CHOSEN) > slack / 2:
        wanted = "It should be 15 %"
        if abs(share - (1 - CHOSEN)) < slack:
            wanted = "It should be 15 %: your comparison is turned round"
        elif abs(share - CHOSEN * (~special).double().mean()) < 0.01:
            wanted = "It should be 15 %: the lots that fell on special tokens were lost"
        raise Wrong(f"{many}. {wanted}", given=given)
    found = (f"Of the chosen words {masked:.0%} become [MASK], {drawn:.0%} another word, "
             f"{kept:.0%} stay")
    if masked < within:
        raise Wrong("No chosen word becomes mask_id: 80 % of them should", given=given)
    if masked > 1 - within / 2:
        raise Wrong("All chosen words become [MASK]: 80 % do, 10 % become a random word, 10 % "
                    "stay. In use there is no [MASK], so the model must not rely on it",
                    given=given)
    if abs(masked - 0.8) < within and drawn < 0.03 and kept > 0.15:
        raise Wrong(f"{found}. If the second lot is drawn among the 20 % that are left, it must be "
                    "a half, not 10 %: the three shares are 80, 10, 10 of all chosen",
                    given=given)
    if abs(masked - 0.8) < within and kept < 0.03:
        raise Wrong(f"{found}: 10 % of the chosen stay as they are, and are asked for all the same",
                    given=given)
    if abs(masked - 0.8) > within or abs(drawn - 0.1) > within * 0.7 or (
            abs(kept - 0.1) > within * 0.7):
        raise Wrong(f"{found}. It should be 80, 10 and 10 %", given=given)


def check_spread(tokens, inputs, chosen, mask_id, special, vocab_size, given) -> None:
    """Raise Wrong if places or random words are not drawn one by one."""
    if len(chosen) > 1 and all(torch.equal(a & ~s & ~t, b & ~s & ~t) for (a, s), (b, t) in pairwise(
            zip(chosen, special))):
        raise Wrong("You choose the same places in every sentence: draw a lot for each word, in "
                    "the shape of tokens", given=given)
    random = inputs[chosen & (inputs != mask_id) & (inputs != tokens)]
    if len(random) and ((random < 0).any() or (random >= vocab_size).any()):
        raise Wrong("A random word is no word: it is between 0 and vocab_size - 1",
                    show(vocab_size), show(random), given)
    if len(random) > 40 and len(random.unique()) < len(random) / 8:
        raise Wrong("The random words are all alike: draw one for each place", given=given,
                    actual=show(random))


def examine_masking(candidate: Candidate, generator: Generator) -> None:
    def batch(rows: int, length: int, vocab: int, special: list[int]) -> tuple[Tensor, int]:
        tokens = torch.randint(len(special), vocab, (rows, length), generator=generator)
        ends = torch.randint(length // 2, length + 1, (rows, 1), generator=generator)
        place = torch.arange(length)
        tokens = torch.where(place == ends - 1, special[2], tokens)  # [SEP]
        tokens = torch.where(place >= ends, special[0], tokens)  # padding
        return torch.where(place == 0, special[1], tokens), special[3]

    special = [0, 1, 2, 3]
    for rows, length, vocab in ((120, 100, 1000), (1, 12, 30), (300, 40, 5000)):
        tokens, mask_id = batch(rows, length, vocab, special)
        args = tokens, mask_id, vocab, special
        inputs, labels = taken_apart(candidate(*args), tokens, candidate.given)
        never = torch.isin(tokens, torch.tensor(special))
        common = mask_id, never, candidate.given
        chosen = check_labels(tokens, inputs, labels, *common)
        check_places(tokens, inputs, chosen, *common)
        if rows > 1:
            check_spread(tokens, inputs, chosen, mask_id, never, vocab, candidate.given)
            check_shares(tokens, inputs, chosen, *common)
    again = taken_apart(candidate(*args), tokens, candidate.given)
    if torch.equal(again[1], labels):
        raise Wrong("Two calls choose the same words: draw new lots each time, and set no seed "
                    "inside the function", given=candidate.given)


MASK_FOR_BERT = Exercise(
    name="mask_for_bert",
    assignment="beyond",
    signature="mask_for_bert(tokens, mask_id, vocab_size, special_ids) -> (inputs, labels); tokens "
    "(B, L), whole numbers; special_ids a list of ids that are never chosen; inputs and labels "
    "(B, L), of the type of tokens",
    what="What BERT is given to read and asked to say: 15 % of the words are chosen. Of these 80 % "
    "become mask_id, 10 % a random id from 0 to vocab_size - 1, 10 % stay. labels hold the word "
    "that stood there, and -100 wherever nothing was chosen.",
    why="An encoder sees every word, so the next word is no question for it. BERT hides words "
    "instead: the same layers as in the paper, another thing to be asked. -100 is what torch's "
    "cross_entropy leaves out.",
    difficulty=2,
    minutes=15,
    hints=(
        "Two lots for each word: is it chosen, and if so, which of the three happens to it? The "
        "labels follow from the first lot alone.",
        "chosen = (torch.rand(tokens.shape) < 0.15) & ~special, where special = "
        "torch.isin(tokens, torch.tensor(special_ids)). A second torch.rand decides: below 0.8 "
        "mask, below 0.9 random, else as it was.",
        "inputs = torch.where(chosen & (lot < 0.8), mask_id, tokens); then a second where with "
        "torch.randint_like(tokens, vocab_size) where lot is between 0.8 and 0.9; labels = "
        "torch.where(chosen, tokens, -100).",
    ),
    examine=examine_masking,
)

EXERCISES = (DROPOUT, MASK_FOR_BERT)
