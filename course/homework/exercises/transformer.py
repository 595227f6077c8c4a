"""Exercises of the assignment transformer: positions, norm, feed-forward; the layers are beside."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from course.homework.checking import Candidate, Case, Exercise, Wrong, function_exam, normal
from course.homework.values import mismatch


# --- positional_encoding --------------------------------------------------------------------------
def interleave(even: Tensor, odd: Tensor) -> Tensor:
    return torch.stack([even, odd], dim=-1).flatten(1)


def wavelengths(d_model: int) -> Tensor:
    """Return the frequencies of the pairs, (D / 2,)."""
    return 10_000 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)


def encoding(
    frequency: Callable[[int], Tensor] = wavelengths,
    first: int = 0,
    even: Callable[[Tensor], Tensor] = torch.sin,
    odd: Callable[[Tensor], Tensor] = torch.cos,
    join: Callable[[Tensor, Tensor], Tensor] = interleave,
) -> Callable[[int, int], Tensor]:
    """Return a positional encoding with some steps replaced."""

    def encode(max_len: int, d_model: int) -> Tensor:
        position = torch.arange(first, first + max_len, dtype=torch.float64)[:, None]
        angle = position * frequency(d_model)  # (L, D / 2)
        return join(even(angle), odd(angle)).float()

    return encode


def own_frequency(factor: int) -> Callable[[int, int], Tensor]:
    """Each column has an exponent of its own, factor * column / d_model."""

    def encode(max_len: int, d_model: int) -> Tensor:
        column = torch.arange(d_model, dtype=torch.float64)
        angle = torch.arange(max_len)[:, None] * 10_000 ** (-factor * column / d_model)
        return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()

    return encode


def exponents(numerator: Callable[[Tensor, int], Tensor], base: float = 10_000) -> Callable:
    def frequency(d_model: int) -> Tensor:
        pair = torch.arange(d_model // 2, dtype=torch.float64)
        return base ** -numerator(pair, d_model)

    return frequency


def halves(even: Tensor, odd: Tensor) -> Tensor:
    return torch.cat([even, odd], dim=-1)


FREQUENCIES: list[tuple[str, Callable]] = [
    ("", wavelengths),
    ("The exponent is off: it is 2i / d_model, and you take i / d_model. 2i is the number of the "
     "even column", exponents(lambda i, d: i / d)),
    ("The exponent is doubled: it is 2i / d_model, where 2i itself is the number of the even "
     "column (0, 2, 4, ...)", exponents(lambda i, d: 4 * i / d)),
    ("You divide by the last index, so that the slowest wave has exactly 10000: the paper divides "
     "2i by d_model", exponents(lambda i, d: i / max(d // 2 - 1, 1))),
    ("You multiply the position by 10000^(2i / d_model): divide, the waves become slower from "
     "pair to pair", exponents(lambda i, d: -2 * i / d)),
    ("The base is off: you take the logarithm to base 10. exp belongs to the natural logarithm, "
     "math.log(10000)", exponents(lambda i, d: 2 * i / d, math.exp(4))),
    ("The base is off: you take the logarithm to base 2. exp belongs to the natural logarithm, "
     "math.log(10000)", exponents(lambda i, d: 2 * i / d, math.exp(math.log2(10_000)))),
    ("The base is off: 10000, not 1000", exponents(lambda i, d: 2 * i / d, 1000.0)),
    ("The base is off: 10000, not 100000", exponents(lambda i, d: 2 * i / d, 1e5)),
    ("The base is off: 10000, not e", exponents(lambda i, d: 2 * i / d, math.e)),
    ("All columns have the same frequency: divide by 10000^(2i / d_model)",
     exponents(lambda i, d: 0 * i)),
    ("Your frequencies fall in a straight line: 10000 is raised to the power 2i / d_model, it is "
     "not multiplied with it", lambda d: 1 / (10_000 * torch.arange(0, d, 2) / d).clamp_min(1)),
    ("You turn the angle into degrees: sin and cos take it as it is, in radians",
     lambda d: wavelengths(d) * 180 / math.pi),
    ("You take the angle for degrees: it is in radians already",
     lambda d: wavelengths(d) * math.pi / 180),
    ("The angle has a factor of 2π too many: it is pos / 10000^(2i / d_model)",
     lambda d: wavelengths(d) * 2 * math.pi),
]
FUNCTIONS: list[tuple[str, dict]] = [
    ("", {}),
    ("Sine and cosine are exchanged: sine in the even columns (0, 2, ...), cosine in the odd ones",
     {"even": torch.cos, "odd": torch.sin}),
    ("The sines fill the first half and the cosines the second: they take turns, sine in the even "
     "columns, cosine in the odd ones", {"join": halves}),
    ("The cosines fill the first half and the sines the second: they take turns, sine in the even "
     "columns, cosine in the odd ones", {"join": lambda even, odd: halves(odd, even)}),
    ("There are sines only: the odd columns hold cosines", {"odd": torch.sin}),
    ("There are cosines only: the even columns hold sines", {"even": torch.cos}),
    ("sin and cos are missing: the angle itself grows without limit",
     {"even": lambda a: a, "odd": lambda a: a}),
    ("You count positions from 1: the first word stands at position 0, where all sines are 0",
     {"first": 1}),
    ("The odd columns are still zero: they hold cosines", {"odd": torch.zeros_like}),
    ("The even columns are still zero: they hold sines", {"even": torch.zeros_like}),
]
POSITION_MISTAKES = [
    (". And: ".join(filter(None, (f_said, g_said))), encoding(frequency, **changes))
    for f_said, frequency in FREQUENCIES
    for g_said, changes in FUNCTIONS
    if f_said or g_said
] + [
    ("Each column has a frequency of its own: sine and cosine of a pair share one, so the exponent "
     "of column 2i + 1 is 2i / d_model, too", own_frequency(1)),
    ("You double twice, and each column has a frequency of its own: your index counts columns by "
     "twos (0, 2, 4, ...), so it is 2i already. Sine and cosine of a pair share the exponent "
     "2i / d_model", own_frequency(2)),
    ("The table is still zero: nothing was written into it",
     lambda n, d: torch.zeros(n, d, dtype=torch.float32)),
    ("Rows and columns are exchanged: one row for each position, (max_len, d_model)",
     lambda n, d: encoding()(n, d).T),
    ("There is one dimension too many: (max_len, d_model), the batch comes when you add it to x",
     lambda n, d: encoding()(n, d)[None]),
    ("There is one dimension too many: (max_len, d_model), the batch comes when you add it to x",
     lambda n, d: encoding()(n, d)[:, None]),
]


def encoding_cases(generator: Generator) -> Iterator[Case]:
    yield Case("four positions, six columns", (4, 6))
    length = int(torch.randint(5, 8, (), generator=generator))
    yield Case("more positions, eight columns", (length, 8), "a size is fixed in your code")
    yield Case("more columns than positions", (2, 10), "max_len and d_model are exchanged")
    yield Case("one position", (1, 2), "you squeeze a dimension of size 1")
    yield Case("two hundred positions", (200, 16), "positions are cut off, or too coarse")


def encode_leniently(candidate: Candidate, args: tuple) -> object:
    """Call the candidate; what float32 rounds off is put right, for the right and the wrong."""
    result = candidate(*args)
    if not isinstance(result, Tensor) or result.dtype not in (torch.float32, torch.float64):
        return result
    tables = [encode(*args) for encode in (encoding(), *(f for _, f in POSITION_MISTAKES))]
    off = [
        float((result.detach() - t).abs().max()) if t.shape == result.shape else math.inf
        for t in tables
    ]
    nearest = min(range(len(off)), key=off.__getitem__)  # the first of several: 0 is right
    if off[nearest] > (2e-3 if nearest else 2e-4):
        return result
    if not nearest and result.dtype not in (torch.float32, torch.get_default_dtype()):
        raise Wrong(
            "The numbers are right, but float64: x + table would be float64, too, and the float32 "
            "layers after it refuse that. End with .float()"
        )
    return tables[nearest]


def explain_encoding(args: tuple, actual: object, expected: Tensor) -> str | None:
    if not isinstance(actual, Tensor) or mismatch(actual, expected) is None:
        return None
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return None
    if (off := (actual.detach() - expected).abs().max()) < 0.01:
        return (
            f"Nearly right: off by {off:.4f} at most. Something rounds: do you go through half "
            "precision (float16, bfloat16), or take a number that is not exact?"
        )
    wrong = ~torch.isclose(actual.detach(), expected, atol=2e-4)
    if not wrong[:, 0::2].any():
        return "The even columns are right, the odd ones are not: cosines of the same angles"
    if not wrong[:, 1::2].any():
        return "The odd columns are right, the even ones are not: sines of the same angles"
    return None


POSITIONS = Exercise(
    name="positional_encoding",
    assignment="transformer",
    signature="positional_encoding(max_len, d_model) -> float32 (max_len, d_model), d_model even; "
    "row = position, from 0; sines in columns 0, 2, ..., cosines in columns 1, 3, ...",
    what="Give every position a vector of waves: column 2i holds sin(pos / 10000^(2i / d_model)), "
    "column 2i + 1 the cosine of the same angle.",
    why="Attention does not know the order of the words. These vectors tell it, and moving k "
    "places on is one matrix, the same at every place.",
    difficulty=2,
    minutes=15,
    hints=(
        "First the angles: a column of positions (max_len, 1) times a row of frequencies "
        "(d_model / 2,). What shape comes out?",
        "The frequencies are 10000 ** (-torch.arange(0, d_model, 2) / d_model). Sines go to the "
        "columns 0::2, cosines to 1::2.",
        "table = torch.empty(max_len, d_model); table[:, 0::2] = angle.sin(); "
        "now the same for 1::2.",
    ),
    examine=function_exam(
        encoding(),
        encoding_cases,
        POSITION_MISTAKES,
        returns="the encoding",
        explain=explain_encoding,
        call=encode_leniently,
    ),
)


# --- layer_norm -----------------------------------------------------------------------------------
def norm_cases(generator: Generator) -> Iterator[Case]:
    def case(label, blame, shape, eps=1e-5, plain=False, dtype=torch.float32):
        x = torch.ones(shape, dtype=dtype)
        while x.var(-1).min() < 0.5:  # eps is to be small beside it
            x = normal(generator, *shape, dtype=dtype) * 2 + 1
        gain, bias = (normal(generator, shape[-1], dtype=dtype) for _ in range(2))
        if plain:
            gain, bias = torch.ones_like(gain), torch.zeros_like(bias)
        return Case(label, (x, gain, bias, eps), blame)

    yield case("three words of four features, gain 1 and bias 0", "", (3, 4), plain=True)
    yield case("gain and bias", "gain and bias act on features: (D,)", (2, 4))
    yield case("two sentences (B, L, D)", "you count dimensions from the front: the features are "
               "the last one, dim=-1", (2, 3, 4))
    yield case("one vector", "you count on a second dimension", (5,))
    equal = torch.tensor([[2, 2, 2, 2], [1, 2, 3, 4]], dtype=torch.float32)
    yield Case("a word whose features are all equal",
               (equal, normal(generator, 4), normal(generator, 4), 1e-5),
               "you divide by zero: eps belongs into the root")
    yield case("eps = 0.5", "eps stands in the wrong place", (2, 4), eps=0.5)
    yield case("float64", "somewhere you go through float32", (2, 4), dtype=torch.float64)


def centre(x: Tensor, dim) -> Tensor:
    return x - x.mean(dim, keepdim=True)


def inside(x: Tensor, dim, eps: float, correction: int) -> Tensor:
    return (x.var(dim, correction=correction, keepdim=True) + eps).sqrt()


def outside(x: Tensor, dim, eps: float, correction: int) -> Tensor:
    return x.var(dim, correction=correction, keepdim=True).sqrt() + eps


def norm_mistake(
    size: Callable = inside,
    correction: int = 0,
    dim: Callable[[Tensor], object] = lambda x: -1,
    centred: Callable = centre,
    finish: Callable = lambda x, gain, bias: x * gain + bias,
) -> Callable:
    """Return a layer norm with some steps replaced."""

    def norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
        d = dim(x)
        return finish(centred(x, d) / size(x, d, eps, correction), gain, bias)

    return norm


NORM_SIZES: list[tuple[str, dict]] = [
    ("", {}),
    ("You divide by the variance: divide by its square root",
     {"size": lambda x, d, e, c: x.var(d, correction=c, keepdim=True) + e}),
    ("eps stands outside the root: it is sqrt(variance + eps)", {"size": outside}),
    ("You use only the number eps = 1e-5, whatever eps says",
     {"size": lambda x, d, e, c: inside(x, d, 1e-5, c)}),
    ("eps is missing: it stands under the root, variance + eps",
     {"size": lambda x, d, e, c: inside(x, d, 0, c)}),
    ("You add the square of eps: sqrt(variance + eps)",
     {"size": lambda x, d, e, c: inside(x, d, e * e, c)}),
    ("You add eps to the standard deviation and take one more root: sqrt(variance + eps)",
     {"size": lambda x, d, e, c: (x.std(d, correction=c, keepdim=True) + e).sqrt()}),
    ("You multiply by the standard deviation: divide by it",
     {"size": lambda x, d, e, c: 1 / inside(x, d, e, c)}),
    ("You divide by the range: divide by the standard deviation",
     {"size": lambda x, d, e, c: x.amax(d, keepdim=True) - x.amin(d, keepdim=True) + e}),
    ("You do not divide: after subtracting the mean, divide by the standard deviation",
     {"size": lambda x, d, e, c: torch.ones_like(x)}),
    ("You divide by the length of the vector: divide by the standard deviation, which is smaller "
     "by the square root of D",
     {"size": lambda x, d, e, c: centre(x, d).square().sum(d, keepdim=True).add(e).sqrt()}),
]
NORM_SPREADS: list[tuple[str, dict]] = [
    ("", {}),
    ("Your variance is the unbiased one, divided by D - 1 (torch's default): layer norm divides by "
     "D, var(-1, unbiased=False)", {"correction": 1}),
]
NORM_OTHERS: list[tuple[str, dict]] = [
    ("", {}),
    ("You normalise over the wrong dimension: each word gets its own mean, over its features, "
     "dim=-1", {"dim": lambda x: 0}),
    ("You normalise over the words: each word gets its own mean, over its features, dim=-1",
     {"dim": lambda x: -2}),
    ("You normalise over the words: each word gets its own mean, over its features, dim=-1",
     {"dim": lambda x: 1}),
    ("You take one mean over everything: each word gets its own, over its features, dim=-1",
     {"dim": lambda x: tuple(range(x.dim()))}),
    ("You take one mean for a whole sentence: each word gets its own, over its features, dim=-1",
     {"dim": lambda x: (-2, -1)}),
    ("The gain is forgotten: the normalised x times gain", {"finish": lambda x, g, b: x + b}),
    ("The bias is forgotten: it is added at the end", {"finish": lambda x, g, b: x * g}),
    ("Gain and bias are forgotten: x times gain plus bias at the end",
     {"finish": lambda x, g, b: x}),
    ("You multiply by 1 + gain: the gain itself is the factor, 1 to begin with",
     {"finish": lambda x, g, b: x * (1 + g) + b}),
    ("Gain and bias are exchanged: times gain, plus bias", {"finish": lambda x, g, b: x * b + g}),
    ("You add the bias before the gain: first times gain, then plus bias",
     {"finish": lambda x, g, b: (x + b) * g}),
    ("You subtract the bias: it is added", {"finish": lambda x, g, b: x * g - b}),
    ("You don't subtract the mean: x - mean comes before the division",
     {"centred": lambda x, d: x}),
    ("You add the mean: subtract it", {"centred": lambda x, d: x + x.mean(d, keepdim=True)}),
    ("The sign is turned: x - mean, not mean - x", {"centred": lambda x, d: -centre(x, d)}),
    ("You subtract the median: layer norm takes the mean",
     {"centred": lambda x, d: x - x.median(d, keepdim=True).values}),
]


def norm_reference(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, gain.shape, gain, bias, eps)


def call_norm(candidate: Candidate, args: tuple) -> object:
    """Call the candidate; say what it means when (L,) meets (L, D)."""
    try:
        return candidate(*args)
    except Wrong as wrong:
        if args[0].dim() == 2 and "at non-singleton dimension 1" in wrong.message:
            words, features = args[0].shape
            raise Wrong(
                f"You forget keepdim=True: the means (or variances) of {words} words meet "
                f"{features} features. Kept as ({words}, 1) they fit. {wrong.message}",
                given=wrong.given,
            ) from wrong
        raise


def rms_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain + bias


LAYER_NORM = Exercise(
    name="layer_norm",
    assignment="transformer",
    signature="layer_norm(x, gain, bias, eps): x (..., D), gain and bias (D,) -> (..., D); the "
    "gradient flows back through every step",
    what="Give the features of every word mean 0 and variance 1 (the biased variance, eps inside "
    "the root), then multiply by gain and add bias.",
    why="It keeps the numbers at one size through a deep stack. It looks at one word alone, so a "
    "batch of any size, and any padding, gives the same.",
    difficulty=2,
    minutes=10,
    hints=(
        "A word has D features. How many means does x (B, L, D) have, one for each of what?",
        "mean and var over dim=-1 with keepdim=True. torch's var divides by D - 1 unless you say "
        "unbiased=False.",
        "(x - mean) / torch.sqrt(variance + eps), then gain and bias, which broadcast by "
        "themselves.",
    ),
    forbidden=(
        "layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "batch_norm",
        "native_batch_norm", "_native_batch_norm_legit", "instance_norm", "rms_norm",
        "_fused_rms_norm", "batch_norm_stats",
    ),
    examine=function_exam(
        norm_reference,
        norm_cases,
        mistakes=[
            ("You return x as it came", lambda x, gain, bias, eps: x),
            *(
                (". And: ".join(filter(None, (a, b, c))), norm_mistake(**size, **spread, **other))
                for c, other in NORM_OTHERS
                for a, size in NORM_SIZES
                for b, spread in NORM_SPREADS
                if sum(map(bool, (a, b, c))) in (1, 2)
            ),
            ("That is RMSNorm: the mean is not subtracted", rms_norm),
            ("gain and bias alone: x itself is not normalised yet", lambda x, g, b, e: x * g + b),
        ],
        returns="the normalised x",
        call=call_norm,
        learns=lambda output: output,
    ),
)


# --- feed_forward ---------------------------------------------------------------------------------
def feed_cases(generator: Generator) -> Iterator[Case]:
    def case(label, blame, shape, width, push=0.0, dtype=torch.float32):
        d = shape[-1]
        sizes = (shape, (d, width), (width,), (width, d), (d,))
        while True:
            x, w_1, b_1, w_2, b_2 = (normal(generator, *size, dtype=dtype) for size in sizes)
            inner = x @ w_1 + b_1
            low, high = inner.aminmax(dim=-1)
            both_signs = low.max() < -0.1 and high.min() > 0.1  # in each word
            if both_signs and high.max() < 6 and (inner @ w_2 + b_2).min() < -0.1:
                break
        return Case(label, (x, w_1, b_1 + push, w_2, b_2), blame)

    yield case("F = D", "", (1, 2, 3), 3)
    yield case("F = 6, D = 4", "you transpose a weight: it multiplies from the right, x @ w_1",
               (1, 3, 4), 6)
    yield case("three sentences", "you lose the batch dimension", (3, 2, 4), 5)
    yield case("every inner number negative", "ReLU makes 0 of them, so that b_2 is left",
               (1, 2, 3), 4, push=-50.0)
    yield case("large numbers", "the inner numbers are squashed: ReLU has no upper limit",
               (1, 2, 3), 4, push=50.0)
    yield case("float64", "somewhere you go through float32", (1, 2, 3), 4, dtype=torch.float64)


def feed(
    activation: Callable[[Tensor], Tensor] = torch.relu,
    wire: Callable | None = None,
    turned: tuple[bool, bool] = (False, False),
) -> Callable:
    """Return a feed-forward network with some steps replaced."""
    wire = wire or (lambda x, w_1, b_1, w_2, b_2, act: act(x @ w_1 + b_1) @ w_2 + b_2)

    def network(x: Tensor, w_1: Tensor, b_1: Tensor, w_2: Tensor, b_2: Tensor) -> Tensor:
        first, second = turned
        return wire(x, w_1.T if first else w_1, b_1, w_2.T if second else w_2, b_2, activation)

    return network


TRANSPOSED = (
    "You multiply by the transposed weight: F.linear and nn.Linear keep theirs as (out, in). Here "
    "weights multiply from the right, x @ w_1"
)
ACTIVATIONS: list[tuple[str, Callable]] = [
    ("", torch.relu),
    ("The ReLU is missing: two linear maps in a row are only one linear map", lambda x: x),
    ("You take GELU: the paper's equation 2 has max(0, x), ReLU", F.gelu),
    ("You take GELU: the paper's equation 2 has max(0, x), ReLU",
     lambda x: F.gelu(x, approximate="tanh")),
    ("You take SiLU: the paper's equation 2 has max(0, x), ReLU", F.silu),
    ("You take the sigmoid: the paper's equation 2 has max(0, x), ReLU", torch.sigmoid),
    ("You take tanh: the paper's equation 2 has max(0, x), ReLU", torch.tanh),
    ("You take a leaky ReLU: the paper's equation 2 has max(0, x), which is 0 for all negative x",
     F.leaky_relu),
    ("You take the ELU: the paper's equation 2 has max(0, x), ReLU", F.elu),
    ("You take the softplus: the paper's equation 2 has max(0, x), ReLU", F.softplus),
    ("You take the softmax: the paper's equation 2 has max(0, x), ReLU", lambda x: x.softmax(-1)),
    ("You take the absolute value: ReLU makes 0 of negative numbers", torch.abs),
    ("You keep the negative numbers: max(0, x) keeps the positive ones", lambda x: x.clamp(max=0)),
]
WIRES: list[tuple[str, Callable | None]] = [
    ("", None),
    ("b_1 is missing: it is added before the ReLU", lambda x, u, a, w, b, f: f(x @ u) @ w + b),
    ("b_2 is missing: it is added at the end", lambda x, u, a, w, b, f: f(x @ u + a) @ w),
    ("Both biases are missing", lambda x, u, a, w, b, f: f(x @ u) @ w),
    ("You add b_1 after the ReLU: first the bias, then ReLU",
     lambda x, u, a, w, b, f: (f(x @ u) + a) @ w + b),
    ("ReLU stands at the end, too: the output may be negative",
     lambda x, u, a, w, b, f: f(f(x @ u + a) @ w + b)),
    ("ReLU stands at the end: it belongs between the two maps",
     lambda x, u, a, w, b, f: f((x @ u + a) @ w + b)),
    ("ReLU stands in front: it belongs between the two maps",
     lambda x, u, a, w, b, f: (f(x) @ u + a) @ w + b),
    ("You add b_2 before the second map", lambda x, u, a, w, b, f: (f(x @ u + a) + b) @ w),
    ("You add x: the residual connection is built around this function later, not inside it",
     lambda x, u, a, w, b, f: x + f(x @ u + a) @ w + b),
    ("The second map is missing: @ w_2 + b_2", lambda x, u, a, w, b, f: f(x @ u + a)),
    ("w_1 and w_2 are exchanged: x meets w_1 first", lambda x, u, a, w, b, f: f(x @ w + a) @ u + b),
]
TURNS: list[tuple[str, tuple[bool, bool]]] = [
    ("", (False, False)),
    (TRANSPOSED, (True, True)),
    (f"{TRANSPOSED}. It is w_1", (True, False)),
    ("You multiply by the transposed w_2: weights multiply from the right, as they are",
     (False, True)),
]


FEED_FORWARD = Exercise(
    name="feed_forward",
    assignment="transformer",
    signature="feed_forward(x, w_1, b_1, w_2, b_2): x (..., D), w_1 (D, F), b_1 (F,), w_2 (F, D), "
    "b_2 (D,) -> (..., D); weights multiply from the right, x @ w_1, as in the paper's "
    "equation 2 (nn.Linear keeps them transposed); the gradient flows back through every step",
    what="Equation 2 of the paper: widen every word to F numbers, keep the positive ones, and "
    "narrow them to D again.",
    why="Attention only collects: given its weights, it is linear. Here the model computes, and "
    "here two thirds of an encoder layer's weights lie.",
    difficulty=1,
    minutes=5,
    hints=(
        "Two linear maps and one bend. Why would the two maps alone be no more than one?",
        "The inner layer is (..., F): x @ w_1 + b_1, where every negative number becomes 0.",
        "torch.relu(x @ w_1 + b_1) is the inner layer; the same once more with w_2 and b_2, but "
        "without relu.",
    ),
    examine=function_exam(
        feed(),
        feed_cases,
        mistakes=[
            (". And: ".join(filter(None, (a, b, c))), feed(activation, wire, turned))
            for c, turned in TURNS
            for b, wire in WIRES
            for a, activation in ACTIVATIONS
            if sum(map(bool, (a, b, c))) in (1, 2)
        ],
        returns="the output",
        learns=lambda output: output,
    ),
)

EXERCISES = (POSITIONS, LAYER_NORM, FEED_FORWARD)
