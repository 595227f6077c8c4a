"""How the encoder and the decoder layer of the assignment transformer are examined."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from course.homework import checking
from course.homework.checking import Candidate, Exercise, Wrong
from course.homework.gradients import cut_module
from course.homework.values import kind, mismatch, show

# A layer may be built in many ways, so its weights have no fixed names. What it does is asked
# instead: which word influences which output (the gradient says it), and what is left when the
# matrices of one sub-layer are set to zero.
D_MODEL, WIDE, D_FF = 8, 128, 13  # 13: a weight with this size belongs to the feed-forward network
ATTENTION, CROSS, FEED = "self-attention", "cross-attention", "feed-forward network"
FORBIDDEN_IN_LAYERS = (
    "multi_head_attention_forward", "_native_multi_head_attention",
    "_transformer_encoder_layer_fwd", "torch.nn.modules.transformer.",
)
LEAKY = (
    "the mask is added or multiplied, or comes after the softmax, or the softmax runs over the "
    "queries or the heads: put -inf where the mask is False, then softmax over the keys, dim=-1"
)


def normal(generator: Generator, *shape: int) -> Tensor:
    """Return fresh values in the dtype that a new module has."""
    return checking.normal(generator, *shape, dtype=torch.get_default_dtype())


class Layer:
    """A learner's layer in a known state: random matrices, gains 1, biases 0, no dropout."""

    def __init__(self, candidate: Candidate, generator: Generator, *sizes: int) -> None:
        self.candidate = candidate
        self.module = candidate.build(*sizes).eval()
        self.d_model, _, self.d_ff = sizes
        self._find_hidden_weights()
        self.matrices: list[nn.Parameter] = []
        with torch.no_grad():
            for parameter in self.module.parameters():
                if (parameter == 1).all():
                    continue  # gains
                several = sum(size > 1 for size in parameter.shape) > 1
                packed_biases = not parameter.any() and parameter.numel() <= 3 * self.d_model
                if several and not packed_biases:
                    fresh = normal(generator, *parameter.shape) * 1.5 * self.d_model**-0.5
                    parameter.copy_(fresh)
                    self.matrices.append(parameter)
                else:
                    parameter.zero_()

    def __call__(self, x: Tensor, *rest: Tensor) -> Tensor:
        result = self.candidate.call(self.module, x, *rest)
        given = self.candidate.given
        if not isinstance(result, Tensor):
            raise Wrong(
                f"The layer returns {kind(result)}: return the output alone, a tensor like x",
                given=given,
            )
        if result.shape != x.shape:
            raise Wrong(
                f"The output has the shape {tuple(result.shape)}: it should be that of x, "
                f"{tuple(x.shape)}", given=given,
            )
        if result.dtype != x.dtype:
            raise Wrong(
                f"The output is {result.dtype}: it should be {x.dtype}, as x is", given=given
            )
        if result.isnan().any():
            raise Wrong(
                "The output is NaN. Every query may see some key here, so a softmax over nothing "
                "but -inf comes from a mask that is inverted or turned, or from a softmax over "
                "another dimension than the keys (dim=-1)", actual=show(result), given=given,
            )
        return result

    def _find_hidden_weights(self) -> None:
        """Raise Wrong for weights that torch can't see."""
        seen = {id(part) for part in (*self.module.modules(), *self.module.parameters())}
        for module in self.module.modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1:
                    raise Wrong(
                        f"self.{name} is a plain tensor: no optimiser finds it, so it never "
                        "learns. Make it an nn.Parameter, or use nn.Linear"
                    )
                parts = value.values() if isinstance(value, dict) else value
                if name.startswith("_") or not isinstance(value, list | tuple | dict):
                    continue
                if any(isinstance(p, nn.Module | Tensor) and id(p) not in seen for p in parts):
                    raise Wrong(
                        f"self.{name} is a plain {type(value).__name__}: torch does not see the "
                        "weights in it, so they never learn. Use nn.ModuleList"
                    )

    def feed_forward(self) -> list[nn.Parameter]:
        return [m for m in self.matrices if any(s % self.d_ff == 0 for s in m.shape)]

    def others(self) -> list[nn.Parameter]:
        feed_forward = {id(m) for m in self.feed_forward()}
        return [m for m in self.matrices if id(m) not in feed_forward]


@contextmanager
def scaled(matrices: list[nn.Parameter], factor: float) -> Iterator[None]:
    """Multiply matrices by a factor, inside the block."""
    kept = [m.detach().clone() for m in matrices]
    with torch.no_grad():
        for m in matrices:
            m.mul_(factor)
    try:
        yield
    finally:
        with torch.no_grad():
            for m, old in zip(matrices, kept):
                m.copy_(old)


def influence(output: Tensor, source: Tensor, generator: Generator) -> Tensor:
    """Return which input words each output word depends on: (B, L, B, K) boolean.

    A probe in a random direction: its gradient is exactly zero where nothing flows.
    """
    rows = []
    probe = normal(generator, *output.shape)
    if output.requires_grad:
        for value in (output * probe).sum(-1).flatten():
            (grad,) = torch.autograd.grad(value, source, retain_graph=True, allow_unused=True)
            rows.append(torch.zeros_like(source) if grad is None else grad)
    if not rows:
        raise Wrong("No gradient flows back from your output: don't detach, and don't use no_grad")
    table = torch.stack(rows).abs().amax(-1) > 1e-12
    return table.unflatten(0, output.shape[:2])


def table_of(seen: Tensor) -> str:
    """Write who influences whom as text: a row for each output word, a column for each input."""
    rows = [" ".join("1" if one else "." for one in row) for row in seen.tolist()]
    return "row: output word, column: input word\n" + "\n".join(rows)


@contextmanager
def step(label: str, blame: str = "") -> Iterator[None]:
    """Say in what setting a call went wrong, and why probably."""
    try:
        yield
    except Wrong as wrong:
        reason = f". Probably {blame}" if blame else ""
        message = f"Called with {label}: {wrong.message}{reason}"
        raise Wrong(message, wrong.expected, wrong.actual, wrong.given) from wrong


def differ(a: Tensor, b: Tensor, tolerance: float = 0.01) -> bool:
    """Say whether two tensors differ by more than what eps and rounding explain."""
    return bool((a - b).abs().max() > tolerance * (1 + b.abs().mean()))


def normalised(y: Tensor) -> bool:
    """Say whether the features of each word have mean 0 and variance 1 (either variance)."""
    size = y.square().mean(-1).sqrt()
    return bool(y.mean(-1).abs().max() < 0.02 and size.min() > 0.85 and size.max() < 1.1)


def check_weights(layer: Layer, attentions: int) -> None:
    """Every sub-layer has its weights, and the number of them fits."""
    d, f = layer.d_model, layer.d_ff
    wanted = 4 * d * d * attentions
    have = sum(m.numel() for m in layer.others())
    if not layer.matrices:
        raise Wrong(
            "The layer has no weights: make its parts in __init__, after super().__init__()"
        )
    if not layer.feed_forward():
        if have > wanted:
            raise Wrong(
                f"No weight has d_ff = {f} rows or columns: you ignore d_ff. The feed-forward "
                "network widens each word from d_model to d_ff numbers"
            )
        raise Wrong(
            f"The feed-forward network is missing: no weight has d_ff = {f} rows or columns"
        )
    if have == 0:
        raise Wrong("The attention is missing: the layer has a feed-forward network alone")
    if have < wanted:
        if attentions == 2 and have == wanted // 2:
            raise Wrong(
                "There is one attention only: a decoder layer has two, self-attention and "
                "cross-attention, each with weights of its own"
            )
        raise Wrong(
            f"Your attention has {have} weights in its matrices: it should have w_q, w_k, w_v and "
            f"w_o, d_model x d_model each, {wanted} in all. Which one is missing?"
        )


def check_deterministic(layer: Layer, x: Tensor, *rest: Tensor) -> None:
    if mismatch(layer(x, *rest), layer(x, *rest)):
        raise Wrong(
            "Two calls with the same x differ, in eval mode: F.dropout goes on for ever unless you "
            "say training=self.training. nn.Dropout knows by itself"
        )


def check_gradient(layer: Layer, generator: Generator, x: Tensor, *rest: Tensor) -> None:
    """Every parameter takes part in the output."""
    output = layer(x, *rest)
    layer.module.zero_grad()
    (output * normal(generator, *output.shape)).sum().backward()
    matrices = {id(m) for m in layer.matrices}
    for name, parameter in layer.module.named_parameters():
        dead = id(parameter) in matrices and parameter.grad is not None
        if parameter.grad is None or (dead and not parameter.grad.any()):
            raise Wrong(f"{name} takes no part in the output: it would never learn")
    layer.module.zero_grad()


def check_feed_forward(layer: Layer, x: Tensor, *rest: Tensor) -> None:
    """The feed-forward network bends, between its two maps.

    Let W be one of its matrices. If the network is linear in W, then the outputs for W, 0, -W and
    3W of one word lie in a plane through 0, whatever norm follows.
    """
    linear, bent = 0, 0
    for matrix in layer.feed_forward():
        outputs = []
        for factor in (1, 0, -1, 3):
            with scaled([matrix], factor), torch.no_grad():
                outputs.append(layer(x, *rest))
        outputs = torch.stack(outputs, dim=-2)  # (B, L, 4, D)
        sizes = torch.linalg.svdvals(outputs)
        flat = (sizes[..., 2] / sizes[..., 0]).max() < 1e-3
        linear, bent = linear + flat, bent + (not flat)
    if not bent:
        raise Wrong(
            "The feed-forward network is linear: the ReLU between its two maps is missing, and "
            "without it two maps are no more than one"
        )
    if not linear:
        raise Wrong(
            "ReLU stands behind the second map of the feed-forward network: it belongs between the "
            "two maps, and the output may be negative"
        )


def check_heads(layer: Layer, x: Tensor, call: Callable[[Tensor], Tensor], which: str,
                several: bool) -> None:
    """The attention has several heads, or one if one was asked for.

    call: (3,) visible words -> output (3, L, D), the feed-forward network and the other attention
    being switched off. One head that sees words 1 and 2 makes a mean of what it makes of 1 and of
    2: three vectors in a plane through 0. Several heads make several means.
    """
    visible = torch.zeros(3, x.size(1), dtype=torch.bool)
    visible[[0, 1, 2, 2], [1, 2, 1, 2]] = True
    with torch.no_grad():
        outputs = call(visible).transpose(0, 1)  # (L, 3, D)
    if x.size(2) == WIDE:
        check_scale(outputs, which)
    sizes = torch.linalg.svdvals(outputs)
    found = bool((sizes[:, 2] / sizes[:, 0]).max() > 1e-4)
    if several and not found:
        raise Wrong(
            f"Your {which} has one head, although n_heads says more: split queries, keys and "
            "values into n_heads pieces, and let each piece have weights of its own"
        )
    if found and not several:
        raise Wrong(
            f"With n_heads = 1 your {which} still has several heads: the number is fixed in your "
            "code, or you cut the features into d_k heads of width n_heads"
        )


def check_scale(outputs: Tensor, which: str) -> None:
    """The scores are divided by sqrt(d_k), here about 11.

    outputs (L, 3, D): a word sees one key, another, or both. Without a scale, seeing both is like
    seeing one, for most words.
    """
    one, other, both = outputs.unbind(1)
    distance = (one - other).norm(dim=-1)
    nearest = torch.minimum((both - one).norm(dim=-1), (both - other).norm(dim=-1)) / distance
    if nearest.median() < 0.003:
        raise Wrong(
            f"The scores of your {which} are too large: with d_k = {WIDE} the softmax gives all to "
            "one key, for most queries. Divide q @ k.mT by sqrt(d_k)"
        )


Parts = dict[str, list[nn.Parameter]]


def check_path(layer: Layer, parts: Parts, x: Tensor, *rest: Tensor) -> None:
    """Norms and order of the sub-layers, in either placement.

    parts: the matrices of the sub-layers, in the paper's order.
    """
    names = list(parts)
    with torch.no_grad():
        if layer(x, *rest).min() >= 0:
            raise Wrong(
                "Your output has no negative number: a ReLU at the end of the layer? ReLU stands "
                "in the feed-forward network alone, between its two maps"
            )

    def only(x: Tensor, *alive: str) -> Tensor:
        """Return the output when all other sub-layers give zero."""
        dead = [m for name in names if name not in alive for m in parts[name]]
        with scaled(dead, 0), torch.no_grad():
            return layer(x, *rest)

    def through(order: tuple[str, ...]) -> Tensor:
        """Return x after one sub-layer at a time."""
        y = x
        for name in order:
            y = only(y, name)
        return y

    post = normalised(only(x, *names))
    for count in range(2, len(names) + 1):
        alive = tuple(names[:count])
        here = only(x, *alive)
        if not differ(here, through(alive)):
            continue
        for order in permutations(alive):
            if not differ(here, through(order)):
                raise Wrong(
                    f"Your sub-layers stand in the order {', '.join(order)}: the order is "
                    f"{', '.join(alive)}"
                )
        last = alive[-1]
        for start in range(count - 1):
            # Does the last one add the same, whether the ones before it do something or not? Then
            # what it adds, c, is in here ~ y + c and in there ~ z + c: four vectors in a space of 3
            before, early = alive[:-1], alive[:start]
            vectors = [here, only(x, *early, last), only(x, *before), only(x, *early)]
            sizes = torch.linalg.svdvals(torch.stack(vectors, dim=-2))
            if (sizes[..., 3] / sizes[..., 0]).max() < 1e-3:
                made = f"what the {alive[start - 1]} made" if start else "the layer's first x"
                raise Wrong(
                    f"Your {last} takes its queries from {made}: let it take what the {alive[-2]} "
                    "made of x" if last == CROSS else
                    f"Your {last} starts from {made}: let it take what the {alive[-2]} made of x"
                )
        if not post and normalised(only(x, *names[:-1])):
            raise Wrong(
                f"What the {names[-1]} finds is added after the norm, norm(x) + sublayer(x). The "
                "norm comes last, norm(x + sublayer(x)), or in front, x + sublayer(norm(x))"
            )
        if post:
            raise Wrong(
                f"The norm behind the {alive[-2]} is missing: what it adds goes on unnormalised. "
                f"After every sub-layer: x = norm(x + sublayer(x))"
            )
        raise Wrong(
            f"The {alive[-1]} does not start from what the {alive[-2]} made of x: each sub-layer "
            "reads the output of the one before"
        )
    if post:
        check_own_norms(layer, x, *rest)
        return
    nothing = only(x)
    if not differ(nothing, x):  # pre-norm, or no norm

        def added(name: str, x: Tensor) -> Tensor:
            return only(x, name) - x

        missing = [n for n in names if differ(added(n, x * 3 + 2), added(n, x))]
        only_scale = [n for n in missing if not differ(added(n, x * 3), added(n, x))]
        if missing and missing == only_scale:
            raise Wrong(
                f"The norm before the {missing[0]} does not subtract the mean: layer norm does, "
                "then it divides by the standard deviation"
            )
        if missing == names:
            raise Wrong(
                "The normalisation is missing: put a layer norm behind every sub-layer (the "
                "paper), or in front of every sub-layer. (Batch norm is none: it looks at other "
                "words)"
            )
        if missing:
            raise Wrong(
                f"The norm before the {missing[0]} is missing: x + sublayer(norm(x)) for every "
                "sub-layer, or norm(x + sublayer(x)) for every sub-layer"
            )
        check_own_norms(layer, x, *rest)
        return
    if not normalised(nothing):
        if not differ(nothing.square().mean(-1), torch.ones(nothing.shape[:-1])):
            raise Wrong(
                "Your norm does not subtract the mean: layer norm does, then it divides by the "
                "standard deviation"
            )
        raise Wrong(
            "With all matrices at zero, a layer gives back x (norm in front) or the normalised x "
            "(norm behind). Yours gives neither: does your norm take each word's features alone?",
            actual=show(nothing), expected=show(F.layer_norm(x, x.shape[-1:])),
        )
    if not differ(only(x * 3 + 2, names[0]), only(x, names[0])):
        raise Wrong(
            "You normalise the residual path, too: in x + sublayer(norm(x)) the x outside the "
            "sub-layer stays as it is"
        )
    raise Wrong(
        f"The norm behind the {names[-1]} is missing: norm(x + sublayer(x)) for every sub-layer"
    )


def check_own_norms(layer: Layer, *args: Tensor) -> None:
    """No module with a gain is called twice."""
    calls: list[int] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: calls.append(id(module)))
        for module in layer.module.modules()
        if any((p == 1).all() for p in module.parameters(recurse=False))
    ]
    layer.candidate.call(layer.module, *args, watched=False)  # the watch does not like our hooks
    for hook in hooks:
        hook.remove()
    if len(set(calls)) < len(calls):
        raise Wrong(
            "You call one norm in several places: give each sub-layer its own, with its own gain "
            "and bias"
        )


def check_float64(layer: Layer, *args: Tensor) -> None:
    """A layer turned to float64 stays there."""
    layer.module.double()
    args = tuple(a.double() if a.is_floating_point() else a for a in args)
    with step("a layer and x in float64", "somewhere you go through float32"):
        layer(*args)
    check_slopes(layer, args)


def check_slopes(layer: Layer, args: tuple[Tensor, ...]) -> None:
    """Gradients say what the output does: nothing on the way is cut off."""
    inputs = {name: a for name, a in zip(("x", "memory"), args) if a.is_floating_point()}
    leaves = inputs | {n: p for n, p in layer.module.named_parameters() if p.requires_grad}
    candidate = layer.candidate

    def run() -> Tensor:
        return candidate.call(layer.module, *args, watched=False)

    generator = Generator().manual_seed(torch.initial_seed() % 2**31)
    own = [type(m) for m in layer.module.modules() if not type(m).__module__.startswith("torch.")]
    found = cut_module(run, leaves, generator, [candidate.thing, *own])
    if found:
        raise Wrong(found, given=candidate.given)


def blame_mask(seen: Tensor, allowed: Tensor, name: str, who: str) -> None:
    """Raise Wrong if a masked word is seen, or if the mask is inverted.

    seen, allowed: (B, Q, K), without what flows by the residual connection.
    """
    leak = seen & ~allowed
    if not leak.any():
        return
    b, query, key = leak.nonzero()[0].tolist()
    tables = (table_of(allowed[b]), table_of(seen[b]))
    if not (seen & allowed).any():
        raise Wrong(
            f"{name} is inverted: output {query} depends on {who} {key}, which is masked, and on "
            "no word that it may see. In this course True = may attend", *tables,
        )
    if len(allowed) > 1 and not leak[0].any():
        raise Wrong(
            f"{name} is right for the first sentence only: each sentence has its own", *tables
        )
    raise Wrong(f"output {query} depends on {who} {key}, which is masked ({name})", *tables)


# --- EncoderLayer ---------------------------------------------------------------------------------
def check_words(layer: Layer, generator: Generator) -> None:
    """Who influences whom in the encoder: real words each other, padding nobody."""
    x = normal(generator, 2, 4, D_MODEL).requires_grad_()
    real = torch.tensor([[True, True, True, False], [True, True, False, False]])
    mask = real[:, None, None]
    seen = influence(layer(x, mask), x, generator)  # (B, L, B, L)
    if seen[0, :, 1].any() or seen[1, :, 0].any():
        raise Wrong(
            "Sentences of one batch influence each other: something runs over the batch (dim=0), "
            "or a reshape mixes sentences"
        )
    seen = torch.stack([seen[0, :, 0], seen[1, :, 1]])  # (B, L, L)
    itself = torch.eye(4, dtype=torch.bool)
    queries = real[:, :, None] & ~itself  # outputs of real words; what they see of others
    allowed = queries & real[:, None]
    found = seen & queries
    if (found & ~allowed).any():
        with scaled(layer.others(), 0):
            mixed = influence(layer(x, mask), x, generator)
        if any((mixed[b, :, b] & queries[b]).any() for b in range(2)):
            raise Wrong(
                "Words mix outside the attention: norm and feed-forward network take each word "
                "alone, over its features, dim=-1"
            )
        if not (found & allowed).any():
            blame_mask(found, allowed, "mask", "word")
        blame_unused_mask(layer, x.detach(), mask, real)
        check_order_free(layer, x.detach(), torch.ones_like(mask))
        with step("a padding mask", LEAKY):
            blame_mask(found, allowed, "mask", "word")
    if not seen[0, 3, 3]:
        raise Wrong(
            "What stands at the padding has no influence on the output there: do you set padded "
            "words to zero, before or after? The mask hides them as keys, with -inf in the scores, "
            "and does no more: their own outputs are made like all others, and nobody reads them",
            table_of(allowed[0] | itself), table_of(seen[0]),
        )
    tables = table_of(allowed[0] | itself), table_of(seen[0])
    if not found.any():
        raise Wrong("No word sees another: what the self-attention finds does not reach the output",
                    *tables)
    blind = allowed & ~found
    if blind.any():
        later = torch.ones(4, 4, dtype=torch.bool).triu(1)
        if (blind == (allowed & later)).all():
            raise Wrong(
                "Words do not see what comes after them: a causal mask belongs to the decoder, the "
                "encoder reads in both directions", *tables,
            )
        b, query, key = blind.nonzero()[0].tolist()
        raise Wrong(
            f"output {query} does not depend on word {key}, which it may see: do you split the "
            "heads by a reshape without a transpose?", table_of(allowed[b] | itself),
            table_of(seen[b]),
        )


def blame_unused_mask(layer: Layer, x: Tensor, mask: Tensor, real: Tensor) -> None:
    with torch.no_grad():
        change = (layer(x, mask) - layer(x, torch.ones_like(mask))).abs().amax(-1) > 1e-6
    if not change.any():
        raise Wrong("You ignore the mask: the output is the same for every mask")
    if not (change & real).any():
        raise Wrong(
            "Your mask closes queries (rows): only the outputs at the padding change. It must "
            "close keys, so that nobody sees them: (B, 1, 1, K) broadcasts as it comes"
        )


def check_order_free(layer: Layer, x: Tensor, *rest: Tensor) -> None:
    """The same words in another order give the same outputs in that order.

    rest: memory and masks that allow everything.
    """
    order = torch.arange(x.size(1)).roll(1)
    with torch.no_grad():
        straight, turned = layer(x, *rest)[:, order], layer(x[:, order], *rest)
    if differ(turned, straight, 1e-4):
        raise Wrong(
            "The same words in another order get other outputs. Do your heads mix words, by a "
            "reshape without a transpose? Or does the layer add positions? It knows none: they are "
            "added once, before the first layer", show(straight[:1]), show(turned[:1]),
        )


def check_own_residual(seen: bool, which: str) -> None:
    if not seen:
        raise Wrong(
            f"The residual connection around the {which} is missing: when it sees another word "
            "only, nothing of a word's own x is left in its output. Add x to what it finds"
        )


def examine_encoder(candidate: Candidate, generator: Generator) -> None:
    layer = Layer(candidate, generator, D_MODEL, 2, D_FF)
    check_weights(layer, attentions=1)

    def words(n: int, length: int, d_model: int = D_MODEL) -> tuple[Tensor, Tensor]:
        mask = torch.ones(n, 1, 1, length, dtype=torch.bool)
        mask[..., -1] = length == 1  # the last word is padding, unless it is the only one
        return normal(generator, n, length, d_model), mask

    with step("one sentence of four words"):
        layer(*words(1, 4))
    with step("three sentences", "you lose the batch dimension"):
        layer(*words(3, 4))
    check_words(layer, generator)
    with step("one word", "you squeeze a dimension of size 1"):
        layer(*words(2, 1))
    with step("d_model = 12, n_heads = 3, d_ff = 7", "a size is fixed in your code"):
        Layer(candidate, generator, 12, 3, 7)(*words(2, 5, 12))
    x, mask = words(2, 5)
    check_deterministic(layer, x, mask)
    check_order_free(layer, x, torch.ones_like(mask))

    alone = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
    alone[..., 2] = True  # every word sees word 2 alone
    own = normal(generator, 1, 4, D_MODEL).requires_grad_()
    check_own_residual(bool(influence(layer(own, alone), own, generator)[0, 0, 0, 0]), ATTENTION)
    with scaled(layer.feed_forward(), 0):
        seen = influence(layer(own, torch.ones_like(alone)), own, generator)[0, :, 0]
    check_last_residual(seen, None)
    check_gradient(layer, generator, x, mask)
    parts = {ATTENTION: layer.others(), FEED: layer.feed_forward()}
    check_path(layer, parts, x * 2 + 1, mask)
    check_feed_forward(layer, x, mask)
    for d_model, n_heads in ((D_MODEL, 4), (WIDE, 1)):
        other = Layer(candidate, generator, d_model, n_heads, D_FF)
        x = normal(generator, 1, 30, d_model).expand(3, -1, -1)
        with scaled(other.feed_forward(), 0):
            check_heads(other, x, lambda visible: other(x, visible[:, None, None]),  # noqa: B023
                        ATTENTION, n_heads > 1)
    check_float64(layer, *words(2, 3))


def check_last_residual(seen: Tensor, from_memory: Tensor | None) -> None:
    """The feed-forward network being switched off, all that was found before goes by it.

    seen (L, L): which words each output depends on then; from_memory (L, S): the same for memory.
    """
    if not seen.any():
        raise Wrong(
            f"The residual connection around the {FEED} is missing: with its matrices at zero, the "
            "output no longer depends on x. Add what went in to what it finds"
        )
    others = seen & ~torch.eye(len(seen), dtype=torch.bool)
    if not others.any() or (from_memory is not None and not from_memory.any()):
        raise Wrong(
            f"The residual connection around the {FEED} adds the layer's first x: what the "
            "attention found is lost. Add what goes into the sub-layer, not into the layer"
        )


ENCODER = Exercise(
    name="EncoderLayer",
    assignment="transformer",
    signature="EncoderLayer(d_model, n_heads, d_ff): an nn.Module, called (x, mask) with x "
    "(B, S, D), mask boolean (B, 1, 1, S), True = may attend -> (B, S, D), the tensor alone; "
    "layer norm behind each sub-layer (post, the paper) or in front (pre); scores divided by "
    "sqrt(d_k); names and biases as you like",
    what="Self-attention with several heads, then a feed-forward network; around each of them a "
    "residual connection and a layer norm.",
    why="Six of these are the encoder of the paper. The order never changes: words look at each "
    "other, then each word thinks alone.",
    difficulty=4,
    minutes=35,
    hints=(
        "Which parts have you written already? You need attention with several heads, a "
        "feed-forward network, and two layer norms (nn.LayerNorm is fine here).",
        "Each sub-layer is wrapped in the same way: x = norm(x + sublayer(x)). In the first, "
        "query, key and value are all x, and the mask is handed on as it came.",
        "x = self.norm_1(x + self.attention(x, x, x, mask)), then the same line once more with "
        "norm_2 and the feed-forward network.",
    ),
    forbidden=FORBIDDEN_IN_LAYERS,
    examine=examine_encoder,
)


# --- DecoderLayer ---------------------------------------------------------------------------------
def check_sources(layer: Layer, generator: Generator) -> None:
    """Who influences whom in the decoder, with as many source words as target words."""
    x = normal(generator, 2, 4, D_MODEL).requires_grad_()
    memory = normal(generator, 2, 4, D_MODEL).requires_grad_()
    real = torch.tensor([[True, True, True, False], [True, True, False, False]])
    src_mask = real[:, None, None]
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    tgt_mask = (causal & torch.tensor([True, True, True, False])).expand(2, 1, 4, 4).contiguous()
    output = layer(x, memory, src_mask, tgt_mask)
    by_x, by_memory = (influence(output, source, generator) for source in (x, memory))
    for table in (by_x, by_memory):
        if table[0, :, 1].any() or table[1, :, 0].any():
            raise Wrong(
                "Sentences of one batch influence each other: something runs over the batch "
                "(dim=0), or a reshape mixes sentences"
            )
    by_x, by_memory = (torch.stack([t[0, :, 0], t[1, :, 1]]) for t in (by_x, by_memory))
    itself = torch.eye(4, dtype=torch.bool)
    others = by_x & ~itself
    visible = real[:, None].expand(2, 4, 4)
    past = tgt_mask[:, 0] & ~itself

    if not by_memory.any():
        raise Wrong(
            "The memory has no influence on the output: cross-attention takes its queries from x, "
            "and its keys and values from memory",
            table_of(visible[0]), table_of(by_memory[0]),
        )
    for seen, allowed, name, who in ((by_memory, visible, "src_mask", "memory word"),
                                     (others, past, "tgt_mask", "word")):
        if not (seen & allowed).any():
            blame_mask(seen, allowed, name, who)
    tgt_on_memory = bool((by_memory == tgt_mask[:, 0]).all())
    src_on_x = bool((others == (visible & ~itself)).all())
    if tgt_on_memory or src_on_x:
        said = "The masks are exchanged" if tgt_on_memory and src_on_x else (
            "You give tgt_mask to the cross-attention" if tgt_on_memory
            else "You give src_mask to the self-attention"
        )
        raise Wrong(
            f"{said}: src_mask says what may be seen of memory, tgt_mask what may be seen of x",
            table_of(visible[1] if tgt_on_memory else past[1] | itself),
            table_of(by_memory[1] if tgt_on_memory else by_x[1]),
        )
    check_keys_and_values(layer, generator, by_memory, visible)
    everything = torch.ones_like(src_mask), torch.ones_like(tgt_mask)
    with torch.no_grad():
        base = layer(x, memory, src_mask, tgt_mask)
        src_unused = not differ(layer(x, memory, everything[0], tgt_mask), base, 1e-6)
        tgt_unused = not differ(layer(x, memory, src_mask, everything[1]), base, 1e-6)
    if src_unused:
        raise Wrong(
            "You ignore src_mask: the output is the same for every src_mask. It says what the "
            "cross-attention may see of memory"
        )
    if tgt_unused and others.any():
        raise Wrong(
            "You ignore tgt_mask: the output is the same for every tgt_mask. Word 0 sees its "
            "future, and would learn to copy it"
        )
    if not others.any():
        raise Wrong(
            "No word of x sees another: the self-attention is missing, or what it finds does not "
            "reach the output", table_of(past[0] | itself), table_of(by_x[0]),
        )
    if (others & ~past).any() or (by_memory & ~visible).any():
        check_order_free(layer, x.detach(), memory.detach(), *everything)
    leak = others & ~past
    if leak.any():
        straight = influence(layer(x, torch.zeros_like(memory), src_mask, tgt_mask), x, generator)
        straight = torch.stack([straight[0, :, 0], straight[1, :, 1]])
        if not (straight & leak).any():  # a memory of zeros, and the cross-attention adds nothing
            b, query, key = leak.nonzero()[0].tolist()
            raise Wrong(
                f"output {query} depends on word {key}, by way of the cross-attention: its "
                "queries mix. Does its softmax run over the queries? Over the keys, dim=-1",
                table_of(past[b] | itself), table_of(by_x[b]),
            )
    with step("a causal tgt_mask", LEAKY):
        blame_mask(others, past, "tgt_mask", "word")
    with step("a padding src_mask", LEAKY):
        blame_mask(by_memory, visible, "src_mask", "memory word")
    if (past & ~others).any() or (visible & ~by_memory).any():
        wrong, right = (others, past) if (past & ~others).any() else (by_memory, visible)
        b, query, key = (right & ~wrong).nonzero()[0].tolist()
        source = "word" if wrong is others else "memory word"
        raise Wrong(
            f"output {query} does not depend on {source} {key}, which it may see: do you split the "
            "heads by a reshape without a transpose?", table_of(right[b]), table_of(wrong[b]),
        )


def check_keys_and_values(
    layer: Layer, generator: Generator, by_memory: Tensor, visible: Tensor
) -> None:
    """In cross-attention keys and values come from memory, queries from x.

    by_memory (B, T, S): which memory words have an influence; visible: which should have.
    """
    hidden = by_memory & ~visible
    x = normal(generator, 1, 4, D_MODEL)
    memory = normal(generator, 1, 4, D_MODEL).requires_grad_()
    tgt_mask = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    one = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
    one[..., 1] = True  # one memory word is seen: its weight is 1, whatever the keys are
    table = influence(layer(x, memory, one, tgt_mask), memory, generator)[0, :, 0]
    every = torch.ones_like(one)
    if hidden.any() and not (hidden & ~torch.eye(4, dtype=torch.bool)).any():
        raise Wrong(
            "The queries of your cross-attention come from memory: they come from x, which asks, "
            "and memory answers"
        )
    if not table.any():
        raise Wrong(
            "The values of your cross-attention come from x: keys and values both come from "
            "memory. (With one memory word to see, that word does not reach the output)"
        )
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        straight = layer(x, memory, every, tgt_mask)
        turned = layer(x, memory[:, order].detach(), every, tgt_mask)
    if differ(turned, straight, 1e-4):
        moved = x.clone()
        moved[:, 3] += 1  # nobody but word 3 may see it
        with torch.no_grad():
            leak = (layer(moved, memory, every, tgt_mask) - straight)[:, 0].abs().max() > 1e-6
            bare = (layer(moved, memory, one, tgt_mask) - layer(x, memory, one, tgt_mask))[:, 0]
        if leak and bare.abs().max() < 1e-6 and (by_memory == visible).all():
            raise Wrong(
                "The keys of your cross-attention come from x: keys and values both come from "
                "memory"
            )
        raise Wrong(
            "The same memory in another order gives another output: a layer knows no positions, "
            "and in cross-attention queries come from x, keys and values from memory. (Or do heads "
            "mix words, by a reshape without a transpose?)"
        )


def split_attentions(layer: Layer, generator: Generator) -> Parts:
    """Return the matrices of the three sub-layers, told apart by what they do.

    With a memory of zeros the cross-attention gives zero, and its matrices get no gradient.
    """
    x = normal(generator, 2, 4, D_MODEL)
    memory = torch.zeros(2, 3, D_MODEL)
    tgt_mask = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    output = layer(x, memory, torch.ones(2, 1, 1, 3, dtype=torch.bool), tgt_mask)
    loss = (output * normal(generator, *output.shape)).sum()
    attention = layer.others()
    grads = torch.autograd.grad(loss, attention, allow_unused=True)
    cross = [g is None or bool(g.abs().max() < 1e-7) for g in grads]
    parts = {
        ATTENTION: [m for m, c in zip(attention, cross) if not c],
        CROSS: [m for m, c in zip(attention, cross) if c],
        FEED: layer.feed_forward(),
    }
    for name in (ATTENTION, CROSS):
        if sum(m.numel() for m in parts[name]) < 4 * layer.d_model**2:
            raise Wrong(
                "Self-attention and cross-attention share weights: each has w_q, w_k, w_v and w_o "
                "of its own, since they look for different things"
            )
    return parts


def examine_decoder(candidate: Candidate, generator: Generator) -> None:
    layer = Layer(candidate, generator, D_MODEL, 2, D_FF)
    check_weights(layer, attentions=2)

    def batch(n: int, length: int, source: int, d_model: int = D_MODEL) -> tuple[Tensor, ...]:
        src_mask = torch.ones(n, 1, 1, source, dtype=torch.bool)
        src_mask[..., -1] = source == 1
        tgt_mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        x, memory = (normal(generator, n, size, d_model) for size in (length, source))
        return x, memory, src_mask, tgt_mask

    x, memory, _, _ = batch(1, 4, 4)
    # no row of these masks is empty, not even of their opposites
    first = torch.tensor([True, True, True, False])
    with step("one sentence, four words on both sides"):
        layer(x, memory, first[None, None, None],
              torch.ones(1, 1, 4, 4, dtype=torch.bool).tril() & first)
    with step("three sentences", "you lose the batch dimension"):
        layer(*(t.expand(3, *t.shape[1:]) for t in (
            normal(generator, 1, 4, D_MODEL), memory, first[None, None, None],
            (torch.ones(4, 4, dtype=torch.bool).tril() & first)[None, None])))
    check_sources(layer, generator)
    with step("three target words and five source words", "you take for granted that both sides "
              "have the same length, or the masks are exchanged"):
        layer(*batch(2, 3, 5))
    with step("five target words and two source words"):
        layer(*batch(2, 5, 2))
    with step("one word on both sides", "you squeeze a dimension of size 1"):
        layer(*batch(2, 1, 1))
    with step("d_model = 12, n_heads = 3, d_ff = 7", "a size is fixed in your code"):
        Layer(candidate, generator, 12, 3, 7)(*batch(2, 5, 4, 12))
    args = batch(2, 5, 4)
    check_deterministic(layer, *args)

    x, memory = args[0].clone().requires_grad_(), args[1].clone().requires_grad_()
    src_mask, tgt_mask = torch.ones_like(args[2]), args[3]
    before = torch.eye(5, dtype=torch.bool).roll(-1, 1)[None, None]  # each sees another word alone
    own = influence(layer(x, memory, src_mask, before), x, generator)[0, :, 0]
    one = torch.zeros_like(src_mask)
    one[..., 1] = True
    by_cross = influence(layer(x, memory, one, tgt_mask), x, generator)[0, :, 0]
    if not by_cross.any():
        check_own_residual(False, CROSS)
    check_own_residual(bool(own.diagonal().any()), ATTENTION)
    if not (by_cross & ~torch.eye(5, dtype=torch.bool)).any():
        raise Wrong(
            f"The residual connection around the {CROSS} adds the layer's first x: what the "
            "self-attention found is lost. Add what goes into the sub-layer, not into the layer"
        )
    with scaled(layer.feed_forward(), 0):
        output = layer(x, memory, src_mask, tgt_mask)
        seen, read = (influence(output, s, generator)[0, :, 0] for s in (x, memory))
    check_last_residual(seen, read)
    check_gradient(layer, generator, *args)
    parts = split_attentions(layer, generator)
    check_path(layer, parts, args[0] * 2 + 1, *args[1:])
    check_feed_forward(layer, *args)
    for d_model, n_heads in ((D_MODEL, 4), (WIDE, 1)):
        other = Layer(candidate, generator, d_model, n_heads, D_FF)
        x = normal(generator, 1, 30, d_model).expand(3, -1, -1)
        memory = normal(generator, 1, 30, d_model).expand(3, -1, -1)
        every = torch.ones(3, 1, 30, 30, dtype=torch.bool)

        def by_tgt(visible: Tensor, other=other, x=x, every=every) -> Tensor:
            mask = visible[:, None, None].expand_as(every)
            return other(x, torch.zeros_like(x), every[:, :, :1], mask)

        def by_src(visible: Tensor, other=other, x=x, memory=memory, every=every) -> Tensor:
            return other(x, memory, visible[:, None, None], every)

        with scaled(other.feed_forward(), 0):
            check_heads(other, x, by_tgt, ATTENTION, n_heads > 1)
            check_heads(other, x, by_src, CROSS, n_heads > 1)
    check_float64(layer, *batch(2, 3, 4))


DECODER = Exercise(
    name="DecoderLayer",
    assignment="transformer",
    signature="DecoderLayer(d_model, n_heads, d_ff): an nn.Module, called (x, memory, src_mask, "
    "tgt_mask) with x (B, T, D), memory (B, S, D), src_mask (B, 1, 1, S) for memory, tgt_mask "
    "(B or 1, 1, T, T) for x, both boolean, True = may attend -> (B, T, D), the tensor alone; "
    "layer norm behind each sub-layer (post, the paper) or in front (pre); scores divided by "
    "sqrt(d_k); names and biases as you like",
    what="Masked self-attention, then cross-attention to the encoder's output, then a feed-forward "
    "network; around each of them a residual connection and a layer norm.",
    why="Self-attention reads what is written so far, cross-attention reads the source: nothing "
    "else connects the two languages.",
    difficulty=4,
    minutes=35,
    hints=(
        "It is your encoder layer with one more sub-layer in the middle. Where do its queries come "
        "from, where its keys and values?",
        "The self-attention has query = key = value = x, with tgt_mask. The cross-attention has "
        "query = x, key = value = memory, with src_mask. Each has weights and a norm of its own.",
        "x = self.norm_2(x + self.cross_attention(x, memory, memory, src_mask)) is the line in the "
        "middle; the lines before and after it are those of the encoder layer.",
    ),
    forbidden=FORBIDDEN_IN_LAYERS,
    examine=examine_decoder,
)

EXERCISES = (ENCODER, DECODER)
