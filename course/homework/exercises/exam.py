"""The exam: a whole Transformer, examined organ by organ, and then by learning to copy.

Nothing is known about how a candidate is made, so everything is asked of its behaviour: which words
reach which logits under chosen masks, what a change of weights does, of which rank a gradient is.
"""

import re
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from course.homework.checking import Candidate, Exercise, Wrong, describe, normal
from course.homework.gradients import cut_module
from course.homework.values import kind, show

SRC_VOCAB, TGT_VOCAB = 83, 101  # unlike each other, all other sizes and their multiples
D_MODEL, N_HEADS, D_FF = 16, 4, 29
FIRST = 4  # ids below are special tokens
FAINT = 1e-9  # a change of a logit that is smaller, measured in their spread, is none


# --- masks and words


def causal(size: int) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool).tril()[None, None]  # (1, 1, T, T)


def only(size: int, *visible: int) -> Tensor:
    """Return a source mask that shows the given words: (1, 1, 1, S)."""
    return torch.tensor([place in visible for place in range(size)])[None, None, None]


def rows(*visible: set[int]) -> Tensor:
    """Return a mask with a row for each query: (1, 1, L, L)."""
    return torch.tensor([[k in row for k in range(len(visible))] for row in visible])[None, None]


def chain(size: int) -> Tensor:
    """Return a mask by which each target word sees its left neighbour and nothing else."""
    return rows(*({max(t - 1, 0)} for t in range(size)))


def ring(size: int) -> Tensor:
    """Return a mask by which each word sees its right neighbour and nothing else."""
    return rows(*({(k + 1) % size} for k in range(size)))


def words(generator: Generator, n: int, vocab: int) -> Tensor:
    """Return n different ordinary tokens, (1, n)."""
    return torch.randperm(vocab - FIRST, generator=generator)[None, :n] + FIRST


def picture(table: Tensor) -> str:
    """Show which words (columns) each position's logits (rows) depend on."""
    lines = [f"logits {t}  " + " ".join("x" if seen else "." for seen in row)
             for t, row in enumerate(table.tolist())]
    head = "word      " + " ".join(str(j) for j in range(table.size(1)))
    return "\n".join([head, *lines, "x: a change of this word changes these logits"])


def rank(matrix: Tensor, faint: float = 1e-8) -> int:
    values = torch.linalg.svdvals(matrix.double())
    return int((values > faint * values[0]).sum())


# --- a model to ask


class Probe:
    """A candidate's model in general position: float64, eval, trainable matrices drawn anew and
    vectors moved, so that nothing is zero, or huge, by its initialisation. vectors=False: they
    stay, gains at 1."""

    def __init__(
        self, candidate: Candidate, generator: Generator, *, n_layers: int = 1,
        d_model: int = D_MODEL, n_heads: int = N_HEADS, d_ff: int = D_FF, vectors: bool = True,
    ) -> None:
        self.candidate, self.generator, self.d_model = candidate, generator, d_model
        self.hidden: set[str] = set()  # names of parameters that depend on d_ff
        sizes = (SRC_VOCAB, TGT_VOCAB, d_model, n_heads, d_ff, n_layers)
        self.model = candidate.build(*sizes).double().eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.requires_grad and parameter.is_floating_point():
                    noise = normal(generator, *parameter.shape, dtype=torch.float64)
                    if parameter.dim() < 2:
                        parameter.add_(0.2 * noise * vectors)
                    else:
                        fan = parameter.numel() / max(parameter.shape)
                        parameter.copy_(noise / max(fan, 1) ** 0.5)

    def src(self, n: int, sentences: int = 1) -> Tensor:
        return torch.cat([words(self.generator, n, SRC_VOCAB) for _ in range(sentences)])

    def tgt(self, n: int, sentences: int = 1) -> Tensor:
        return torch.cat([words(self.generator, n, TGT_VOCAB) for _ in range(sentences)])

    def run(self, src: Tensor, tgt: Tensor, src_mask: Tensor, tgt_mask: Tensor) -> Tensor:
        """Call the model; masks of one sentence serve all."""
        n = len(src)
        masks = (m.expand(n, -1, -1, -1).contiguous() for m in (src_mask, tgt_mask))
        try:
            logits = self.candidate.call(self.model, src, tgt, *masks, watched=False)
        except Wrong as wrong:
            if not re.search(r"dtype|[Dd]ouble|float64", wrong.message):
                raise
            raise Wrong(
                "After model.double() your model no longer runs: somewhere you convert to float32 "
                f"by hand; follow the dtype of the weights. ({wrong.message})", given=wrong.given,
            ) from wrong
        return check_logits(logits, src, tgt, torch.float64)

    def __call__(self, *args: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.run(*args)
        if logits.isnan().any():
            raise Wrong(f"Your logits are NaN (not a number). {NAN}", given=self.given(args))
        return logits

    def given(self, args: tuple) -> str:
        return "\n".join([describe(self.model, args), *map(show, args)])

    def seen(self, which: str, src: Tensor, tgt: Tensor, *masks: Tensor) -> Tensor:
        """Return a table (T, L): do the logits at t change if word j of `which` changes?"""
        given = {"src": src, "tgt": tgt}
        length = given[which].size(1)
        vocab = {"src": SRC_VOCAB, "tgt": TGT_VOCAB}[which]
        known = set(given[which].flatten().tolist())
        others = [token for token in range(FIRST, vocab) if token not in known]
        given = {name: tokens.repeat(length + 1, 1) for name, tokens in given.items()}
        for j in range(length):
            given[which][j + 1, j] = others[j]
        logits = self(given["src"], given["tgt"], *masks)
        change = (logits[1:] - logits[0]).abs().amax(-1).T  # (T, L)
        return change > FAINT * logits.std()

    def changes(self, before: Tensor, after: Tensor) -> bool:
        return bool((after - before).abs().max() > FAINT * before.std())

    def gradients(self, loss: Tensor) -> list[Tensor]:
        wanted = [p for p in self.model.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(wanted, found)]


NAN = (
    "Every word could attend to something here. Usual causes: an inverted mask (True = may "
    "attend), a second mask of your own on top, or a softmax over the queries (over the keys: "
    "dim=-1)"
)


def check_logits(logits: object, src: Tensor, tgt: Tensor, dtype: torch.dtype) -> Tensor:
    """Return logits if they are a tensor of the right shape and type."""
    wanted = (*tgt.shape, TGT_VOCAB)
    if not isinstance(logits, Tensor):
        raise Wrong(f"The model returns {kind(logits)}: return the logits alone, a tensor {wanted}")
    shape = tuple(logits.shape)
    if shape != wanted:
        if shape[:-1] == wanted[:-1] and shape[-1] == D_MODEL:
            reason = (
                "the output projection is missing, which scores every target word for each position"
            )
        elif shape[:-1] == wanted[:-1] and shape[-1] == SRC_VOCAB:
            reason = "the output projection scores the words of the source: use tgt_vocab"
        elif shape == (wanted[0], wanted[2], wanted[1]):
            reason = "exchange the last two dimensions"
        elif shape == (wanted[1], wanted[0], wanted[2]):
            reason = "batch first, please: exchange the first two dimensions"
        elif len(shape) == 3 and shape[0] == 1 != wanted[0]:
            reason = "you lose all sentences but one"
        elif len(shape) == 3 and shape[1] == src.size(1) != wanted[1]:
            reason = (
                "one row of logits for each target word, not for each source word: the queries of "
                "cross-attention come from the decoder"
            )
        else:
            reason = "a score for every target word, at each position of tgt_in"
        raise Wrong(f"The logits have the shape {shape}, they should have {wanted}: {reason}")
    if logits.dtype != dtype:
        if dtype == torch.float64:
            raise Wrong(
                f"After model.double() the logits are {logits.dtype}, not float64: somewhere you "
                "convert to float32 by hand; follow the dtype of the weights"
            )
        raise Wrong(f"The logits are {logits.dtype}, they should be {dtype}")
    return logits


# --- first calls


def first_calls(candidate: Candidate, generator: Generator) -> None:
    """It can be built and called, in train and eval mode, for vocabularies of any size."""
    model = candidate.build(SRC_VOCAB, TGT_VOCAB, D_MODEL, N_HEADS, D_FF, 2)
    nothing_hides(model)
    src, tgt = words(generator, 10, SRC_VOCAB).view(2, 5), words(generator, 8, TGT_VOCAB).view(2, 4)
    src[0, 0], tgt[0, 0] = SRC_VOCAB - 1, TGT_VOCAB - 1
    src_mask = torch.cat([only(5, 0, 1, 2, 3, 4), only(5, 0, 1, 2)])
    tgt_mask = causal(4).repeat(2, 1, 1, 1)
    for mode in (model.train(), model.eval()):
        try:
            logits = candidate.call(mode, src, tgt, src_mask, tgt_mask)
        except Wrong as wrong:
            raise why_not(candidate, model, wrong, src, tgt) from wrong
    check_logits(logits, src, tgt, torch.float32)
    if logits.isnan().any():
        for reason, *masks in (
            ("tgt_mask is inverted", src_mask, ~tgt_mask),
            ("src_mask is inverted", ~src_mask, tgt_mask),
            ("Both masks are inverted", ~src_mask, ~tgt_mask),
        ):
            if not candidate.call(model, src, tgt, *masks).isnan().any():
                raise Wrong(f"{reason}: True = may attend. Inverted, it leaves some words nothing "
                            "to attend to, hence your NaN", given=candidate.given)
        raise Wrong(f"Your logits are NaN (not a number). {NAN}", given=candidate.given)
    if not logits.requires_grad:
        raise Wrong("No gradient flows back from the logits: don't detach, and don't use no_grad")
    if (logits >= 0).all():
        sums = logits.sum(-1)
        if torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            raise Wrong(
                "You apply softmax to the output: return the logits, the loss applies softmax "
                "itself",
                "any numbers", show(logits[0, 0]),
            )
        raise Wrong(
            "No logit is ever below zero: an activation follows the output projection; leave it "
            "out, logits are any numbers", "any numbers", show(logits[0, 0]),
        )
    with torch.no_grad():
        again = candidate.call(model, src, tgt, src_mask, tgt_mask, watched=False)
    if not torch.equal(logits, again):
        raise Wrong(
            "In eval mode two calls with the same words give different logits: dropout must stop "
            "there. Use nn.Dropout, or F.dropout(x, p, self.training)"
        )
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()):
        raise Wrong("BatchNorm mixes the sentences of a batch: normalise each word alone "
                    "(LayerNorm)")
    swapped = candidate.build(TGT_VOCAB, SRC_VOCAB, D_MODEL, N_HEADS, D_FF, 1).eval()
    try:
        candidate.call(swapped, tgt[:, :3], src[:, :4], only(3, 0, 1, 2), causal(4), watched=False)
    except Wrong as wrong:
        raise why_not(candidate, swapped, wrong, tgt[:, :3], src[:, :4]) from wrong


def nothing_hides(model: nn.Module) -> None:
    """Every part must be registered: model.parameters() does not look into lists and dicts."""
    known = {id(x) for x in (*model.modules(), *model.parameters(), *model.buffers())}
    for module in model.modules():
        for name, value in vars(module).items():
            if name.startswith("_") and isinstance(value, dict):  # torch's own registers
                continue
            for part in inside(value):
                if id(part) not in known:
                    place = f"{type(module).__name__}.{name}"
                    if isinstance(part, nn.Module):
                        how = "a module" if part is value else "modules"
                        cure = "nn.ModuleList (or nn.ModuleDict)"
                    else:
                        how, cure = "weights", "nn.Parameter, several in nn.ParameterList"
                    raise Wrong(
                        f"{place} keeps {how} in {kind(value)}, where torch does not find them: "
                        "model.parameters() misses them, so no optimizer trains them, and "
                        f"model.to(device) or model.double() leaves them behind. Use {cure}"
                    )


def inside(value: object, depth: int = 4) -> Iterator[object]:
    """Yield the modules and trainable tensors in a value, in lists, dicts and plain objects."""
    if isinstance(value, nn.Module) or (isinstance(value, Tensor) and value.requires_grad):
        yield value
    elif depth and (isinstance(value, (list, tuple, set, dict)) or hasattr(value, "__dict__")):
        own = not isinstance(value, (Tensor, type)) and not callable(value)
        parts = value.values() if isinstance(value, dict) else (
            value if isinstance(value, (list, tuple, set)) else vars(value).values() if own else ()
        )
        for part in parts:
            yield from inside(part, depth - 1)


def why_not(
    candidate: Candidate, model: nn.Module, wrong: Wrong, src: Tensor, tgt: Tensor
) -> Wrong:
    """Say why a model raises: one table for two vocabularies, or lengths that must be equal."""
    message = wrong.message
    if "IndexError" in message or "out of range" in message:
        message = (
            "Source and target have vocabularies of their own, of different size: two embeddings, "
            "nn.Embedding(src_vocab, d_model) for src, nn.Embedding(tgt_vocab, d_model) for "
            f"tgt_in. ({message})"
        )
    elif "Your code raises" in message:

        def works(src: Tensor, tgt: Tensor, src_mask: Tensor, tgt_mask: Tensor) -> bool:
            masks = (mask.expand(len(src), -1, -1, -1) for mask in (src_mask, tgt_mask))
            try:
                candidate.call(model, src, tgt, *masks, watched=False)
            except Wrong:
                return False
            return True

        s, t = src.size(1), tgt.size(1)
        n = min(s, t)
        if works(src, tgt, causal(t), only(s, *range(s))):
            message = (
                "The masks are exchanged: src_mask (B, 1, 1, S) belongs to the encoder's "
                "self-attention and to cross-attention, tgt_mask (B, 1, T, T) to the decoder's "
                f"self-attention. ({message})"
            )
        elif works(src[:, :n], tgt[:, :n], only(n, *range(n)), causal(n)):
            message = (
                f"It works where source and target have the same length, and fails for {s} and {t} "
                "words. Probably cross-attention takes its keys or values from the decoder itself "
                "(both come from the encoder's output, the queries from the decoder), or a mask "
                "goes to the wrong attention: src_mask (B, 1, 1, S) belongs to the encoder's "
                "self-attention and to cross-attention, tgt_mask (B, 1, T, T) to the decoder's "
                f"self-attention. ({message})"
            )
    return Wrong(message, wrong.expected, wrong.actual, wrong.given)


# --- who sees whom: masks, source, positions


def source_is_used(probe: Probe) -> None:
    src, tgt = probe.src(4), probe.tgt(4)
    masks = only(4, 0, 1, 2, 3), causal(4)
    table = probe.seen("src", src, tgt, *masks)
    if not table.any():
        raise Wrong(
            "The source is not used: no word of it changes any logit. Cross-attention is missing, "
            "or it looks at the decoder itself: its queries come from the decoder, its keys and "
            "values from the encoder's output", picture(~table), picture(table),
        )
    logits = probe(probe.src(4, 8), probe.tgt(4, 8), *masks).flatten(0, 1)
    apart = torch.pdist((logits - logits.mean(0)).T)
    if apart.min() < FAINT * logits.std():
        raise Wrong(
            "Some target words always get the same score, or scores that differ by a constant: the "
            "output projection is missing, nn.Linear(d_model, tgt_vocab), which scores every "
            "target word for each position"
        )
    if not probe.seen("tgt", src, tgt, *masks).diagonal().any():
        hidden = probe.seen("tgt", src, tgt, only(4, 0), causal(4))
        raise Wrong(
            "The logits at a position do not depend on the word there: is tgt_in used, and is "
            "there a residual around every sub-layer of the decoder?", picture(causal(4)[0, 0]),
            picture(hidden),
        )


def masks_hide(probe: Probe) -> None:
    src, tgt = probe.src(5), probe.tgt(4)
    src_mask, tgt_mask = only(5, 0, 1, 2), causal(4)
    allowed = src_mask[0, 0].expand(4, 5), tgt_mask[0, 0]

    def leaks(table: Tensor, allowed: Tensor) -> bool:
        return bool((table & ~allowed).any())

    def tables_of(probe: Probe, *masks: Tensor) -> tuple[Tensor, Tensor]:
        return probe.seen("src", src, tgt, *masks), probe.seen("tgt", src, tgt, *masks)

    tables = tables_of(probe, src_mask, tgt_mask)
    if not any(map(leaks, tables, allowed)):
        return
    inverted = []
    for side, masks in enumerate(((~src_mask, tgt_mask), (src_mask, ~tgt_mask))):
        try:
            cured = leaks(tables[side], allowed[side]) and not leaks(
                tables_of(probe, *masks)[side], allowed[side]
            )
        except Wrong:
            cured = False
        if cured:
            inverted.append(side)
    if inverted:
        reason = ("src_mask is inverted", "tgt_mask is inverted")[inverted[0]]
        reason = "Both masks are inverted" if len(inverted) == 2 else reason
        side = inverted[0]
        raise Wrong(f"{reason}: True = may attend (masked_fill needs ~mask)",
                    picture(allowed[side]), picture(tables[side]))
    side = int(leaks(tables[1], allowed[1]))
    single = Probe(probe.candidate, probe.generator, n_heads=1)
    if not any(map(leaks, tables_of(single, src_mask, tgt_mask), allowed)):
        raise Wrong(
            f"With one head your masks hide what they should, with {N_HEADS} heads they don't: "
            "splitting or merging the heads mixes the words. Split with view(B, L, H, d_k), then "
            "transpose(1, 2); merge with transpose(1, 2), then reshape(B, L, d_model)",
            picture(allowed[side]), picture(tables[side]),
        )
    places = (tables[side] & ~allowed[side]).nonzero().tolist()
    t, j = places[0]
    off = "Your causal mask is off by one: "
    if side and all(j == t + 1 for t, j in places):
        raise Wrong(
            f"{off}each position of tgt_in also sees the word behind it, its answer. Position t "
            "sees words 0 to t (tril(), not tril(1))", picture(allowed[1]), picture(tables[1]),
        )
    if side and all(t == 0 for t, _ in places):
        raise Wrong(
            f"{off}position 0 may attend to nothing, so it attends to everything alike. Each word "
            "sees itself, the diagonal is True (tril(), not tril(-1))", picture(allowed[1]),
            picture(tables[1]),
        )
    message = (
        f"The logits at position {t} depend on word {j} of tgt_in, which tgt_mask hides: at "
        "training time the model reads its answer. No causal mask: tgt_mask is ignored in the "
        "decoder's self-attention, added as 0 and 1, or applied after the softmax."
        if side
        else f"Word {j} of the source is hidden by src_mask, and changes your logits. src_mask is "
        "ignored, inverted, added as 0 and 1, or applied after the softmax, in one place at least: "
        "it belongs to the encoder's self-attention and to cross-attention."
    )
    raise Wrong(f"{message} (If it is right: does a softmax run over the queries, dim=-2, where "
                "the keys are dim=-1, or a norm over the words?)",
                picture(allowed[side]), picture(tables[side]))


def tgt_mask_counts(probe: Probe) -> None:
    src, tgt = probe.src(4), probe.tgt(4)
    tgt_mask = rows({0}, {0, 1}, {0, 2}, {0, 2, 3})  # word 1 is padding for those behind
    table = probe.seen("tgt", src, tgt, only(4, 0, 1, 2, 3), tgt_mask)
    if table[2:, 1].any():
        raise Wrong(
            "You make a causal mask of your own and ignore tgt_mask: here it hides word 1 from the "
            "words behind it, as it hides padding. Use the mask that comes in (yours may be added "
            "to it with &)", picture(tgt_mask[0, 0]), picture(table),
        )


def order_counts_in_the_encoder(probe: Probe) -> None:
    src, tgt = probe.src(4, 8), probe.tgt(4, 8)
    masks = only(4, 0, 1, 2, 3), causal(4)
    before = probe(src, tgt, *masks)
    after = probe(src[:, [2, 0, 3, 1]], tgt, *masks)
    if not probe.changes(before, after):
        raise Wrong(
            "Order does not count in the encoder: the same source words in another order give the "
            "same logits. Positions are missing in the encoder, or all words get the same one "
            "(with batch first, position is dimension 1)",
            "other logits for another order", show(after[0, 0]),
        )


def order_counts_in_the_decoder(probe: Probe) -> None:
    src, tgt = probe.src(4, 8), probe.tgt(4, 8)
    masks = only(4, 0, 1, 2, 3), causal(4)
    before = probe(src, tgt, *masks)
    other, swapped = tgt.clone(), tgt[:, [1, 0, 2, 3]]
    other[:, :2] = other[:, :2].roll(1, 0)
    if not probe.changes(before[:, 3], probe(src, other, *masks)[:, 3]):
        return  # the last word knows nothing of the first: that has another reason
    after = probe(src, swapped, *masks)[:, 3]
    if not probe.changes(before[:, 3], after):
        patterns_of(probe, *DECODER_SELF)  # a plain mean knows no order either
        raise Wrong(
            "Order does not count in the decoder: with words 0 and 1 of tgt_in exchanged, the "
            "logits at position 3 stay the same. Positions are missing in the decoder, or all "
            "words get the same one", "other logits for another order", show(after[0]),
        )


def sentences_are_apart(probe: Probe) -> None:
    src, tgt = probe.src(12).view(3, 4), probe.tgt(9).view(3, 3)
    src_mask = torch.cat([only(4, 0, 1, 2, 3), only(4, 0, 1), only(4, 0, 1, 2)])
    tgt_mask = torch.cat([causal(3), chain(3), rows({0}, {0, 1}, {0, 2})])
    with torch.no_grad():
        together = probe.run(src, tgt, src_mask, tgt_mask)
    for i in range(3):
        alone = probe(src[[i]], tgt[[i]], src_mask[[i]], tgt_mask[[i]])
        if not torch.allclose(alone[0], together[i], rtol=1e-5, atol=1e-5):
            raise Wrong(
                f"Sentence {i} of a batch of three gets other logits than alone: something mixes "
                "the sentences. Is a norm or a softmax over the wrong dimension, a mask that of "
                "the first sentence, or a view without a transpose?",
                show(alone[0, 0]), show(together[i, 0]),
            )


# --- the layers


def decoder_layer(probe: Probe) -> None:
    src, tgt, n = probe.src(3), probe.tgt(4), 4
    wanted = chain(n)[0, 0] | torch.eye(n, dtype=torch.bool)
    near = "Each target word may see its left neighbour only, and itself by the residual. "
    table = probe.seen("tgt", src, tgt, only(3, 0, 1, 2), chain(n))
    if not table.tril(-1).any():
        raise Wrong(f"{near}No self-attention in the decoder: no word sees its neighbour",
                    picture(wanted), picture(table))
    if not table.diagonal()[1:].any():
        raise Wrong(
            f"{near}No residual around the decoder's self-attention: each word loses itself; add "
            "what came in to what attention finds, x + attention(x)", picture(wanted),
            picture(table),
        )
    table = probe.seen("tgt", src, tgt, only(3, 0), chain(n))
    if not table.any():
        raise Wrong(
            "With one visible source word the logits no longer depend on tgt_in. No residual "
            "around cross-attention in the decoder: what it finds replaces x, where it should be "
            "added",
            picture(wanted), picture(table),
        )
    if not table.tril(-1).any():
        raise Wrong(
            "With one visible source word no target word sees its neighbour any more: what the "
            "decoder's self-attention finds is lost on the way. The residual around "
            "cross-attention adds to the result of self-attention, not to the input of the layer: "
            "x = x + self_attention(x), then x = x + cross_attention(x, memory)",
            picture(wanted), picture(table),
        )


def sees_rows(probe: Probe) -> bool:
    """Does the model hand a source mask on as it is, so that one with rows (B, 1, S, S) works?"""
    try:
        table = probe.seen("src", probe.src(4), probe.tgt(4), ring(4), rows({0}, {1}, {2}, {3}))
    except Wrong:
        return False
    return not (table & ~encoder_reach(4, 1)).any()


def encoder_reach(size: int, n_layers: int) -> Tensor:
    """Return what the logits see if each source word sees its right neighbour in each layer."""
    reach = [{(t + 1 + i) % size for i in range(n_layers + 1)} for t in range(size)]
    return rows(*reach)[0, 0]


def encoder_layer(probe: Probe) -> None:
    """Each position's cross-attention sees one word's memory; what does this one depend on?"""
    src, tgt, n = probe.src(4), probe.tgt(4), 4
    if not sees_rows(probe):
        return encoder_mixes(probe)
    table = probe.seen("src", src, tgt, ring(n), rows({0}, {1}, {2}, {3}))
    wanted = encoder_reach(n, 1)
    near = (
        "Logits t see source word t + 1 here; in the encoder each word may see its right neighbour "
        "only, and itself by the residual. "
    )
    if not table[0, 2]:
        raise Wrong(
            f"{near}No self-attention in the encoder (or cross-attention does not read the "
            "encoder's output): no source word learns of its neighbour", picture(wanted),
            picture(table),
        )
    if not table[0, 1]:
        raise Wrong(
            f"{near}No residual around the encoder's self-attention: each word loses itself; add "
            "what came in to what attention finds, x + attention(x)", picture(wanted),
            picture(table),
        )


def encoder_mixes(probe: Probe) -> None:
    """The same question for a model that makes a mask (B, S) of src_mask.

    If no source word knew of another, one position's logits would be a function of a sum over
    words, of d_model + n_heads terms: their Jacobian by two words' embeddings, over several
    contexts, could not have a higher rank.
    """
    src, tgt = probe.src(4), probe.tgt(1)
    table = next((p for p in probe.model.parameters()
                  if p.requires_grad and p.dim() == 2 and len(p) == SRC_VOCAB), None)
    if table is None:
        return
    blocks = []
    for _ in range(6):
        context = src.clone()
        context[0, 2:] = torch.tensor(
            [t for t in probe.src(6)[0].tolist() if t not in src[0, :2].tolist()][:2]
        )
        logits = probe.run(context, tgt, only(4, 0, 1, 2, 3), causal(1))[0, 0]
        for i in range(12):
            (gradient,) = torch.autograd.grad(logits[i], table, retain_graph=True)
            blocks.append(gradient[src[0, :2]].flatten())
    if rank(torch.stack(blocks)) <= D_MODEL + N_HEADS:
        raise Wrong("No self-attention in the encoder: no source word learns of any other")


def by_side(probe: Probe, chosen: list[str]) -> dict[str, list[str]]:
    """Sort parameters of the feed-forward networks into those of the encoder and of the decoder.

    A parameter of the encoder acts only through the memory: for one source word, d_model numbers;
    so its gradients for any number of target sentences have no higher rank.
    """
    src, tgt = probe.src(1).repeat(8, 1), torch.cat([probe.tgt(5) for _ in range(8)])
    logits = probe.run(src, tgt, only(1, 0), causal(5))
    sides: dict[str, list[str]] = {"encoder": [], "decoder": [], "nobody": []}
    for name, r in ranks(probe, chosen, logits).items():
        side = "nobody" if r == 0 else "encoder" if r <= probe.d_model else "decoder"
        sides[side].append(name)
    return sides


def jacobian(probe: Probe, chosen: list[str], logits: Tensor, n: int) -> dict[str, Tensor]:
    """Return the gradients of n random mixtures of the logits by each parameter: (n, size)."""
    parts = [probe.model.get_parameter(name) for name in chosen]
    found = []
    for _ in range(n):
        loss = (logits * normal(probe.generator, *logits.shape, dtype=torch.float64)).sum()
        gradients = torch.autograd.grad(loss, parts, retain_graph=True, allow_unused=True)
        found.append([torch.zeros(p.numel(), dtype=p.dtype) if g is None else g.flatten()
                      for p, g in zip(parts, gradients)])
    return dict(zip(chosen, map(torch.stack, zip(*found))))


def ranks(probe: Probe, chosen: list[str], logits: Tensor) -> dict[str, int]:
    """Return the rank of each parameter's gradients, d_model + 6 at most."""
    found = jacobian(probe, chosen, logits, probe.d_model + 6)
    largest = max((float(g.abs().max()) for g in found.values()), default=0.0)
    return {name: rank(g) if g.abs().max() > 1e-13 * largest else 0 for name, g in found.items()}


def names_with_d_ff(probe: Probe, other: Probe) -> set[str]:
    """Return the names of the parameters of another shape in other, which has another d_ff."""
    ours, theirs = (dict(p.model.named_parameters()) for p in (probe, other))
    if list(ours) != list(theirs):
        return set()
    return {name for name, part in ours.items() if part.shape != theirs[name].shape}


def feed_forward(probe: Probe, other: Probe) -> None:
    """other: the same model with another d_ff."""
    ours, theirs = (dict(p.model.named_parameters()) for p in (probe, other))
    if [p.shape for p in ours.values()] == [p.shape for p in theirs.values()]:
        raise Wrong(
            "d_ff changes nothing in your model: the feed-forward network is missing, or d_ff is "
            "ignored. Each layer of both stacks has one, d_model -> d_ff -> d_model"
        )
    chosen = [name for name in ours if name in probe.hidden]
    if not chosen:
        return
    if not all(ours[name].requires_grad for name in chosen):
        every_weight_learns(probe)  # it says which are frozen
    matrices = [name for name in chosen if ours[name].dim() > 1]
    sides = by_side(probe, matrices)
    if sides["nobody"]:
        every_weight_learns(probe)  # it says why
    src, tgt, masks = probe.src(4), probe.tgt(4), (only(4, 0, 1, 2, 3), causal(4))
    before = probe(src, tgt, *masks)
    for side in ("encoder", "decoder"):
        if not sides[side]:
            raise Wrong(
                f"No feed-forward in the {side}: none of its weights has to do with d_ff. Each "
                "layer of both stacks has one, d_model -> d_ff -> d_model"
            )
    for side in ("encoder", "decoder"):
        # a vector of hidden biases belongs to the side of the matrix next to it
        turned = [
            name for i, name in enumerate(chosen)
            if min(matrices, key=lambda m, i=i: abs(chosen.index(m) - i)) in sides[side]
        ]
        dims = {
            name: [dim for dim, n in enumerate(ours[name].shape) if n != theirs[name].size(dim)]
            for name in turned
        }
        if not probe.changes(before, turn_hidden(probe, dims, (src, tgt, *masks))):
            raise Wrong(
                f"The feed-forward network in the {side} is linear: turning its hidden features "
                "and turning them back changes nothing, so its two matrices are one. A "
                "non-linearity (ReLU, GELU) belongs between them"
            )


def turn_hidden(probe: Probe, dims: dict[str, list[int]], args: tuple) -> Tensor:
    """Return the logits after a rotation of the hidden features that both matrices share.

    dims: for each parameter by name, the dimensions that count hidden features.
    """
    parts = {name: probe.model.get_parameter(name) for name in dims}
    old = {name: part.detach().clone() for name, part in parts.items()}
    hidden = min(parts[name].size(dim) for name, given in dims.items() for dim in given)
    turn = torch.linalg.qr(normal(probe.generator, hidden, hidden, dtype=torch.float64))[0]
    with torch.no_grad():
        for name, part in parts.items():
            for dim in dims[name]:
                if part.size(dim) % hidden == 0:  # several networks may be packed in one
                    blocks = part.movedim(dim, -1).unflatten(-1, (-1, hidden)) @ turn.T
                    part.copy_(blocks.flatten(-2).movedim(-1, dim))
    try:
        return probe(*args)
    finally:
        with torch.no_grad():
            for name, part in parts.items():
                part.copy_(old[name])


def feed_forward_residuals(probe: Probe) -> None:
    """probe: with d_ff = 2. All that goes through such a network without a residual beside it
    lies in a space of few dimensions."""
    masks = only(1, 0), causal(1)
    src, tgt = probe.src(40).T, probe.tgt(40).T  # 40 sentences of one word
    text = (
        "No residual around the feed-forward network in the {side}: with d_ff = 2 hardly anything "
        "of a word survives it. Add what came in, x + feed_forward(x)"
    )

    def freedom(logits: Tensor) -> int:  # one number added to all logits (log_softmax) is none
        logits = logits - logits.mean(-1, keepdim=True)
        return rank(logits - logits.mean(0))

    logits = probe(src[:1].expand(40, 1), tgt, *masks)[:, 0]
    if freedom(logits) <= 6:
        raise Wrong(text.format(side="decoder"))
    logits = probe(src, tgt[:1].expand(40, 1), *masks)[:, 0]
    if freedom(logits) <= 11:
        raise Wrong(text.format(side="encoder"))


class Lengths(TorchDispatchMode):
    """Collects the different tensors in which all words of a batch are vectors of one length: such
    is what a norm makes of words, before its gain and bias. By number of words."""

    def __init__(self, d_model: int, *n_words: int) -> None:
        super().__init__()
        self.d_model, self.found = d_model, {n: [] for n in n_words}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        made = result[0] if isinstance(result, tuple) else result
        if func is torch.ops.aten.native_layer_norm.default:
            made = F.layer_norm(args[0], args[1])  # without gain and bias
        if isinstance(made, Tensor) and made.is_floating_point() and made.dim() > 1:
            self.note(made.detach())
        return result

    def note(self, x: Tensor) -> None:
        found = self.found.get(x.numel() // self.d_model)
        if found is None or x.size(-1) != self.d_model:
            return
        x = x.reshape(-1, self.d_model)
        length = x.norm(dim=-1)
        if 0 < length.max() < 1.01 * length.min():  # a large eps makes a small difference
            mark = (x @ torch.arange(1.0, self.d_model + 1, dtype=x.dtype) / length).sort().values
            if not any(torch.allclose(mark, other, rtol=0, atol=1e-4) for other in found):
                found.append(mark)


def norms(one: Probe, deep: Probe, n_layers: int) -> None:
    """one, deep: models of 1 and n_layers layers with the gains at their first values."""
    n_src, n_tgt = 15, 18  # three sentences
    counts = []
    for probe in (one, deep):
        src, tgt = probe.src(5, 3), probe.tgt(6, 3)
        with Lengths(probe.d_model, n_src, n_tgt) as lengths:
            probe(src, tgt, only(5, 0, 1, 2, 3, 4), causal(6))
        counts.append({n: len(found) for n, found in lengths.found.items()})
    for side, n, sublayers in (("decoder", n_tgt, 3), ("encoder", n_src, 2)):
        norms = (counts[1][n] - counts[0][n]) // (n_layers - 1)
        if norms < sublayers:
            what = "No normalisation in" if norms == 0 else "A normalisation is missing in"
            raise Wrong(
                f"{what} the {side}: each of its layers has {sublayers} sub-layers, each with a "
                f"LayerNorm (or RMSNorm) over the features of a word, before or after it. Yours "
                f"has {norms} that work; a norm is missing, or a whole sub-layer",
                f"{sublayers} norms in a layer of the {side}", f"{norms}",
            )


def output_projections(probe: Probe, hidden: set[str]) -> None:
    """probe: with one head. hidden: names of the parameters of the feed-forward networks.

    With one word on each side an attention is w_o(w_v(x)). Two matrices in a row can be turned
    against each other: d_model ** 2 directions in which the logits stay as they are.
    """
    size = probe.d_model**2
    chosen = [
        name for name, part in probe.model.named_parameters()
        if part.requires_grad and part.dim() > 1 and name not in hidden and not any(
            vocab <= n <= vocab + 3 for n in part.shape for vocab in (SRC_VOCAB, TGT_VOCAB))
    ]
    src, tgt = probe.src(50).T, probe.tgt(50).T  # 50 sentences of one word
    masks = only(1, 0), causal(1)
    gradients = jacobian(probe, chosen, probe.run(src, tgt, *masks), int(3.4 * size))
    largest = max(float(g.abs().max()) for g in gradients.values())

    def free(names: list[str]) -> int:
        """Count the directions in which weights may move without effect."""
        columns = torch.cat([gradients[name] for name in names] or [torch.zeros(1, 0)], 1)
        columns = columns[:, columns.abs().amax(0) > 1e-13 * largest]  # not queries and keys
        return columns.size(1) - (rank(columns) if columns.numel() else 0)

    if free(chosen) >= 3 * size:
        return
    logits = probe.run(src, tgt[:1].expand(50, 1), *masks)  # always the same target word
    own = [name for name, r in ranks(probe, chosen, logits).items() if r <= probe.d_model]
    missing = ["the decoder's self-attention"] if free(own) < size else []
    others = free([name for name in chosen if name not in own])
    if others < size:
        missing += ["the encoder's self-attention", "cross-attention"]
    elif others < 2 * size:
        missing += ["the encoder's self-attention or cross-attention"]
    raise Wrong(
        f"A projection is missing in {' and in '.join(missing) or 'an attention'}: from the "
        "values to the output there are two, w_v before the heads, and w_o (the output projection) "
        "after they are merged again"
    )


ALONE = rows({0}, {1}, {2}, {3})
CROSSED = rows({1}, {0, 2}, {1}, {0})
# which attention; the position whose logits are read; the masks by which its query sees two words,
# and all others one; masks by which all see one
DECODER_SELF = (
    "the decoder's self-attention", 3, (only(4, 0), rows({0}, {0}, {1}, {0, 2})),
    (only(4, 0), chain(4)),
)
ENCODER_SELF = "the encoder's self-attention", 0, (CROSSED, ALONE), (ring(4), ALONE)
CROSS = "cross-attention", 1, (CROSSED, ALONE), (ring(4), ALONE)


def patterns_of(probe: Probe, name: str, t: int, masks: tuple, quiet: tuple) -> int:
    """Count the patterns of an attention.

    Where a query sees one word, no weight of queries and keys matters; where it sees two, each head
    has one number to choose, so the logits' Jacobian by those weights has the rank n_heads.
    """
    src, tgt = probe.src(4, 10), probe.tgt(4, 10)
    patterns = count_patterns(probe, t, (src, tgt), masks, quiet, N_HEADS)
    if patterns == 0:
        raise Wrong(
            f"In {name} the weights do not come from a softmax over the keys: either queries and "
            "keys have no say in them (a plain mean of the values), or a word that is the only one "
            "visible does not get the weight 1. softmax(QK^T / sqrt(d_k)), dim=-1"
        )
    return patterns


def count_patterns(
    probe: Probe, t: int, words: tuple[Tensor, Tensor], masks: tuple, quiet: tuple, wanted: int
) -> int:
    """Return the rank of the logits' Jacobian at t, by the weights that are silent when quiet:
    wanted + 1 means more than wanted."""
    logits = probe.run(*words, *quiet)
    noise = normal(probe.generator, *logits.shape, dtype=torch.float64)
    still = probe.gradients((logits * noise).sum())
    largest = max(float(g.abs().max()) for g in still)
    names = [name for name, p in probe.model.named_parameters() if p.requires_grad]
    silent = [  # a hidden feature may be silent for other reasons: ReLU
        (g.abs() < 1e-14 * largest) & (name not in probe.hidden) for name, g in zip(names, still)
    ]
    most = 0
    for i in range(4):  # a head may be sure of itself for some words
        logits = probe.run(*(x[[i]] for x in words), *masks)[0, t]
        found = []
        for _ in range(wanted + 2):
            noise = normal(probe.generator, *logits.shape, dtype=torch.float64)
            gradients = probe.gradients((logits * noise).sum())
            found.append(torch.cat([g[s] for g, s in zip(gradients, silent)]))
        jacobian = torch.stack(found)
        if jacobian.abs().max() > 1e-12 * largest:
            most = max(most, min(rank(jacobian, 1e-9), wanted))
        if jacobian.abs().max() > 1e-8 * largest and rank(jacobian, 1e-4) > wanted:
            return wanted + 1
    return most


def heads(probe: Probe) -> None:
    text = (
        "n_heads is ignored in {where}: with n_heads={n} there {are} of attention. Split queries, "
        "keys and values into heads, each with a softmax of its own"
    )
    separate = sees_rows(probe)
    for place in (DECODER_SELF, *((ENCODER_SELF, CROSS) if separate else ())):
        patterns = patterns_of(probe, *place)
        if patterns != N_HEADS:
            many = ("is 1 pattern" if patterns == 1 else f"are {patterns} patterns"
                    if patterns < N_HEADS else "are more patterns")
            raise Wrong(text.format(where=place[0], n=N_HEADS, are=many))
    if not separate:  # three queries together: two source words and one target word
        src, tgt = (draw(n, 4).repeat(2, 1) for draw, n in ((probe.src, 2), (probe.tgt, 1)))
        quiet = torch.cat([only(2, 0), only(2, 1)]).repeat_interleave(4, 0), causal(1)
        masks = only(2, 0, 1), causal(1)
        patterns = count_patterns(probe, 0, (src, tgt), masks, quiet, 3 * N_HEADS)
        if patterns != 3 * N_HEADS:
            where = "the encoder's self-attention or in cross-attention"
            many = f"are {patterns} instead of {3 * N_HEADS} patterns for three queries"
            if patterns > 3 * N_HEADS:
                many = "are more patterns"
            raise Wrong(text.format(where=where, n=N_HEADS, are=many))


def depth(one: Probe, deep: Probe, n_layers: int) -> None:
    """deep.hidden must be known, too."""
    text = "Through n layers news travels n words far, if each word sees only its neighbour. "
    size = n_layers + 3
    src, tgt = deep.src(size), deep.tgt(size)
    table = deep.seen("tgt", src, tgt, only(size, 0), chain(size))
    wanted = torch.ones(size, size).tril().triu(-n_layers).bool()
    for t in range(n_layers + 1, size):  # further left nothing is expected
        if not table[t, t - n_layers]:
            far = next(i for i in range(n_layers, -1, -1) if table[t, t - i])
            raise Wrong(
                f"{text}n_layers={n_layers}, but your decoder runs {far}. Is "
                "n_layers used, and does each layer get what the last one made?",
                picture(wanted), picture(table),
            )
    if sees_rows(one):
        encoder_depth(deep, n_layers, text)
    sizes = []  # of the feed-forward networks
    for probe in (one, deep):
        matrices = {n: p for n in probe.hidden if (p := probe.model.get_parameter(n)).dim() > 1}
        sides = by_side(probe, list(matrices))
        sizes.append({side: sum(matrices[name].numel() for name in sides[side])
                      for side in ("encoder", "decoder")})
    for side in ("encoder", "decoder"):
        if 0 < sizes[1][side] == sizes[0][side]:
            raise Wrong(
                f"With n_layers=1 and n_layers={n_layers} your {side} has equally many "
                "weights: n_layers is ignored, or one layer is used again and again ([layer] * n "
                "repeats the same object; nn.ModuleList(Layer(...) for _ in range(n)) makes new "
                "ones)", "more weights with more layers",
                f"{sizes[0][side]:,} weights in feed-forward networks in both",
            )


def encoder_depth(deep: Probe, n_layers: int, text: str) -> None:
    size = n_layers + 3
    src, tgt = deep.src(size), deep.tgt(size)
    each = torch.eye(size, dtype=torch.bool)[None, None]
    table, wanted = deep.seen("src", src, tgt, ring(size), each), encoder_reach(size, n_layers)
    if not table[0, 1 + n_layers]:
        far = int(table[0].sum()) - 1
        raise Wrong(
            f"{text}n_layers={n_layers}, but your encoder runs {far}. Is n_layers "
            "used, and does each layer get what the last one made?",
            picture(wanted), picture(table),
        )


# --- every weight, any length


def every_weight_learns(probe: Probe) -> None:
    src, tgt = probe.src(12).view(2, 6), probe.tgt(12).view(2, 6)
    parts = {n: p for n, p in probe.model.named_parameters() if p.is_floating_point()}
    frozen = {name for name, part in parts.items() if not part.requires_grad}
    for part in parts.values():
        part.requires_grad_(True)
    logits = probe.run(src, tgt, only(6, 0, 1, 2, 3, 4), causal(6))
    noise = normal(probe.generator, *logits.shape, dtype=torch.float64)
    found = torch.autograd.grad((logits * noise).sum(), [*parts.values()], allow_unused=True)
    for (name, part), gradient in zip(parts.items(), found):
        part.requires_grad_(name not in frozen)
        if name in frozen:
            if part.numel() > 1 and gradient is not None and not is_positions(gradient):
                raise Wrong(
                    f"{name} is frozen (requires_grad=False): only a fixed table of positions may "
                    "be"
                )
        elif gradient is None or (part.dim() > 1 and not gradient.any()):
            raise Wrong(
                f"{name} gets no gradient: it would never be trained. Either forward does not use "
                "it (is a sub-layer left out there?), or something detaches it (detach, no_grad, a "
                "new tensor made of values)"
            )
    leaves = {n: p for n, p in parts.items() if n not in frozen}
    masks = only(6, 0, 1, 2, 3, 4), causal(6)
    own = [type(m) for m in probe.model.modules() if not type(m).__module__.startswith("torch.")]
    said = cut_module(lambda: probe.run(src, tgt, *masks), leaves, probe.generator, own)
    if said:
        raise Wrong(said)


def is_positions(gradient: Tensor) -> bool:
    """Does only the beginning of a table, one row for each of six positions, get a gradient?"""
    for dim in range(gradient.dim()):
        used = gradient.movedim(dim, 0).flatten(1).abs().sum(1) if gradient.dim() > 1 else gradient
        if gradient.size(dim) > 6 and used[:6].all() and not used[6:].any():
            return True
    return False


def any_length(candidate: Candidate, generator: Generator) -> None:
    model = candidate.build(100, 100, D_MODEL, N_HEADS, D_FF, 1).eval()
    for b, s, t in ((1, 1, 1), (1, 60, 60), (3, 7, 60), (2, 60, 1)):
        src, tgt = (torch.randint(FIRST, 100, (b, n), generator=generator) for n in (s, t))
        src_mask, tgt_mask = only(s, *range(s)), causal(t)
        masks = src_mask.expand(b, -1, -1, -1), tgt_mask.expand(b, -1, -1, -1)
        what = f"a batch of {b}, {s} source and {t} target words"
        try:
            with torch.no_grad():
                logits = candidate.call(model, src, tgt, *masks, watched=False)
        except Wrong as wrong:
            longest = ": 60 words must fit, so make your table of positions longer (512, say)"
            raise Wrong(
                f"Not for {what}{longest if 60 in (s, t) else ''}. {wrong.message}",
                given=wrong.given,
            ) from wrong
        if not isinstance(logits, Tensor) or logits.shape != (b, t, 100):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else kind(logits)
            raise Wrong(f"For {what} the logits have the shape {got}: it should be {(b, t, 100)}")
        if logits.isnan().any():
            raise Wrong(f"For {what} your logits are NaN")


# --- learning to copy

SYMBOLS, LONGEST = 12, 8
BOS, PAD = 1, 0
LESSON = (32, 4, 64, 2)  # d_model, n_heads, d_ff, n_layers
BATCH, WARMUP, HELD = 64, 100, 500  # steps: the rate rises, is held, and falls
RATES = (3e-3, 1e-3)  # the second for models that the first is too much for
STEPS, PATIENCE = 2000, 30.0  # for each rate; seconds of this thread's work, whatever else runs
ENOUGH = 0.95


def copy_batch(n: int, generator: Generator) -> tuple[Tensor, ...]:
    """Return src, tgt_in, src_mask, tgt_mask and tgt_out: symbols of 4 and above, PAD behind."""
    length = torch.randint(2, LONGEST + 1, (n, 1), generator=generator)
    src = torch.randint(FIRST, FIRST + SYMBOLS, (n, LONGEST), generator=generator)
    real = torch.arange(LONGEST) < length
    src = src.masked_fill(~real, PAD)
    tgt_in = torch.cat([torch.full((n, 1), BOS), src[:, :-1]], 1)
    src_mask = real[:, None, None]
    tgt_mask = causal(LONGEST) & (tgt_in != PAD)[:, None, None]
    return src, tgt_in, src_mask, tgt_mask, src


def right_share(candidate: Candidate, model: nn.Module, batch: tuple[Tensor, ...]) -> float:
    *args, tgt_out = batch
    with torch.no_grad():
        guess = candidate.call(model.eval(), *args, watched=False).argmax(-1)
    model.train()
    real = tgt_out != PAD
    return float((guess == tgt_out)[real].double().mean())


def learns_to_copy(candidate: Candidate, generator: Generator) -> None:
    vocab = FIRST + SYMBOLS
    unseen = copy_batch(200, generator)
    best, steps, guess = 0.0, 0, None
    for rate in RATES:
        model = candidate.build(vocab, vocab + 1, *LESSON)
        share, steps = train(candidate, model, rate, unseen, generator)
        if share >= ENOUGH:
            return
        best, guess = max(best, share), write(candidate, model, unseen)
        if steps < min(200, STEPS):
            break  # the second rate would not get further
    if steps < min(500, STEPS):
        raise Wrong(
            f"Every organ is there, but your model is too slow to be trained: {steps} steps of "
            f"{BATCH} short sentences in {PATIENCE:.0f} s of work. Look for loops over words or "
            "heads that a matrix product can do"
        )
    expected = unseen[0][0][unseen[0][0] != PAD]
    raise Wrong(
        f"Every organ answers, but your model does not learn to copy: {best:.0%} of the symbols "
        f"right after {steps} steps, {1 / SYMBOLS:.0%} is chance. Look at the size of the first "
        "weights (Xavier, or 1 / sqrt(d_model)), at the scale of embeddings against positions, at "
        "the scale 1 / sqrt(d_k), and at dropout (0.1 at most)",
        show(expected), show(guess[: len(expected)]),
    )


def train(
    candidate: Candidate, model: nn.Module, rate: float, unseen: tuple, generator: Generator
) -> tuple[float, int]:
    """Train until it copies, or time is over; return the share of right symbols and the steps."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98))
    begun, share = time.thread_time(), 0.0
    with tqdm(total=STEPS, desc="learning to copy", unit="step", leave=False) as bar:
        for step in range(1, STEPS + 1):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(step / WARMUP, (HELD / step) ** 0.5, 1)
            *args, tgt_out = copy_batch(BATCH, generator)
            logits = candidate.call(model, *args, watched=False)
            loss = F.cross_entropy(logits.flatten(0, 1), tgt_out.flatten(), ignore_index=PAD)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            bar.update()
            late = time.thread_time() - begun > PATIENCE
            if step % 25 == 0 or late:
                share = right_share(candidate, model, unseen)
                bar.set_postfix_str(f"{share:.0%} right")
                if share >= ENOUGH or late:
                    break
    return share, step


def write(candidate: Candidate, model: nn.Module, unseen: tuple) -> Tensor:
    """Let the model write the first sentence, one symbol after the other."""
    src, _, src_mask, _, _ = (x[:1] for x in unseen)
    tgt_in = torch.full((1, 1), BOS)
    for size in range(1, LONGEST + 1):
        with torch.no_grad():
            args = src, tgt_in, src_mask, causal(size)
            logits = candidate.call(model.eval(), *args, watched=False)
        tgt_in = torch.cat([tgt_in, logits[:, -1:].argmax(-1)], 1)
    return tgt_in[0, 1:]


# --- all of it


def examine_organs(candidate: Candidate, generator: Generator) -> None:
    """Everything but the training: about a second."""

    def probe(**sizes: int) -> Probe:
        return Probe(candidate, generator, **sizes)

    first_calls(candidate, generator)
    one, other = probe(), probe(d_ff=31)
    one.hidden = names_with_d_ff(one, other)
    steps: tuple[Callable[[Probe], None], ...] = (
        source_is_used, order_counts_in_the_encoder, sentences_are_apart, masks_hide,
        order_counts_in_the_decoder, tgt_mask_counts, decoder_layer, encoder_layer,
    )
    for step in steps:
        step(one)
    feed_forward(one, other)
    every_weight_learns(one)
    feed_forward_residuals(probe(d_ff=2, d_model=32, n_heads=1))
    deep = probe(n_layers=3)
    deep.hidden = names_with_d_ff(deep, probe(n_layers=3, d_ff=31))
    depth(one, deep, 3)
    norms(probe(vectors=False), probe(vectors=False, n_layers=3), 3)
    heads(one)
    output_projections(probe(d_model=10, n_heads=1), one.hidden)
    every_weight_learns(deep)
    any_length(candidate, generator)


def examine_exam(candidate: Candidate, generator: Generator) -> None:
    examine_organs(candidate, generator)
    learns_to_copy(candidate, generator)


EXAM = Exercise(
    name="build_transformer",
    assignment="exam",
    signature="build_transformer(src_vocab, tgt_vocab, d_model, n_heads, d_ff, n_layers) -> an "
    "nn.Module, called (src, tgt_in, src_mask, tgt_mask) -> logits (B, T, tgt_vocab); src (B, S) "
    "and tgt_in (B, T) are token ids, tgt_in shifted already; masks are boolean, True = may "
    "attend: src_mask (B, 1, 1, S), tgt_mask (B, 1, T, T), causal and padding together. n_layers "
    "layers in each stack; dropout, if any, is off in eval mode; 60 words must fit",
    what="The whole Transformer from an empty cell: embeddings, positions, encoder, decoder, "
    "output projection. Every sub-layer has a residual and a norm. Post-norm or pre-norm, "
    "LayerNorm or RMSNorm, any positions, any layout of weights.",
    why="Whoever can write this without looking has understood the paper.",
    difficulty=5,
    minutes=180,
    hints=(
        "Draw figure 1 from memory first. How many sub-layers has an encoder layer, how many a "
        "decoder layer, and where do the queries, keys and values of each attention come from?",
        "Five classes are enough: attention (query, memory, mask), feed-forward, encoder layer, "
        "decoder layer, the model. Every sub-layer: x = norm(x + sublayer(x)). The encoder's "
        "self-attention and cross-attention take src_mask, the decoder's self-attention tgt_mask.",
        "Decoder layer: x = n1(x + self_attention(x, x, tgt_mask)); x = n2(x + cross_attention(x, "
        "memory, src_mask)); x = n3(x + feed_forward(x)). Model: embed the source and add "
        "positions, run all encoder layers, embed tgt_in and add positions, run all decoder layers "
        "with the memory, then nn.Linear(d_model, tgt_vocab).",
    ),
    forbidden=(
        "multi_head_attention_forward", "_native_multi_head_attention",
        "_transformer_encoder_layer_fwd", "torch.nn.modules.transformer.",
    ),
    examine=examine_exam,
)

EXERCISES = (EXAM,)
