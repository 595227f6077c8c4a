"""The checks of the assignment transformer, against candidates that make learners' mistakes."""

import math

import pytest
import torch
import torch.nn.functional as F
from bank import accepted, rejected
from torch import nn


def table(max_len, d_model, start=0, base=10_000.0, power=2.0, sign=-1, factor=1.0):
    """Angles (max_len, d_model / 2), in float32, as learners write them."""
    position = torch.arange(start, start + max_len).unsqueeze(1)
    pair = torch.arange(d_model // 2)
    return position * base ** (sign * power * pair / d_model) * factor


def filled(angle, even=torch.sin, odd=torch.cos):
    encoding = torch.zeros(angle.size(0), 2 * angle.size(1))
    encoding[:, 0::2], encoding[:, 1::2] = even(angle), odd(angle)
    return encoding


def by_exp(max_len, d_model):
    rate = torch.exp(torch.arange(0, d_model, 2) * -(math.log(10_000.0) / d_model))
    return filled(torch.arange(0, max_len).float()[:, None] * rate)


def by_loops(max_len, d_model):
    rows = []
    for position in range(max_len):
        row = []
        for column in range(d_model):
            angle = position / 10_000 ** ((column - column % 2) / d_model)
            row.append(math.cos(angle) if column % 2 else math.sin(angle))
        rows.append(row)
    return torch.tensor(rows)


def by_tutorial(max_len, d_model):
    """A famous one: j counts by twos, and is doubled all the same."""
    encoding = torch.zeros(max_len, d_model)
    for position in range(max_len):
        for j in range(0, d_model, 2):
            encoding[position, j] = math.sin(position / 10_000 ** (2 * j / d_model))
            encoding[position, j + 1] = math.cos(position / 10_000 ** (2 * (j + 1) / d_model))
    return encoding


def wide(max_len, d_model):
    """float64 inside, and left so."""
    column = torch.arange(d_model, dtype=torch.float64)
    angle = torch.arange(max_len)[:, None] / 10_000 ** ((column // 2) * 2 / d_model)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())


def halved(max_len, d_model):
    angle = table(max_len, d_model)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def own_frequency(max_len, d_model):
    column = torch.arange(d_model)
    angle = torch.arange(max_len)[:, None] / 10_000 ** (column / d_model)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())


POSITIONS_RIGHT = {
    "slices": lambda n, d: filled(table(n, d)),
    "exp": by_exp,
    "loops": by_loops,
    "float64 inside": lambda n, d: wide(n, d).float(),
    "stack": lambda n, d: torch.stack([table(n, d).sin(), table(n, d).cos()], -1).reshape(n, d),
}
POSITIONS_WRONG = {
    "halves": (halved, "sines fill the first half"),
    "i for 2i": (lambda n, d: filled(table(n, d, power=1.0)), "exponent is off"),
    "4i for 2i": (lambda n, d: filled(table(n, d, power=4.0)), "doubled"),
    "log base 10": (lambda n, d: filled(table(n, d, base=math.exp(4))), "base 10"),
    "base 1000": (lambda n, d: filled(table(n, d, base=1e3)), "not 1000$"),
    "from 1": (lambda n, d: filled(table(n, d, start=1)), "positions from 1"),
    "cosine first": (lambda n, d: filled(table(n, d), torch.cos, torch.sin), "are exchanged"),
    "degrees": (lambda n, d: filled(table(n, d, factor=180 / math.pi)), "into degrees"),
    "radians": (lambda n, d: filled(table(n, d, factor=math.pi / 180)), "for degrees"),
    "2 pi": (lambda n, d: filled(table(n, d, factor=2 * math.pi)), "2π"),
    "multiplied": (lambda n, d: filled(table(n, d, sign=1)), "You multiply the position"),
    "sines only": (lambda n, d: filled(table(n, d), odd=torch.sin), "sines only"),
    "own frequency": (own_frequency, "frequency of its own"),
    "no waves": (lambda n, d: filled(table(n, d), torch.clone, torch.clone), "grows without"),
    "halves and i": (
        lambda n, d: torch.cat([table(n, d, power=1.0).sin(), table(n, d, power=1.0).cos()], 1),
        "exponent is off.*And: The sines fill"),
    "cosine first and from 1": (
        lambda n, d: torch.cat([table(n, d, power=1.0).cos(), table(n, d, power=1.0).sin()], 1),
        "exponent is off.*And: The cosines fill"),
    "batch dimension": (lambda n, d: filled(table(n, d))[None], "one dimension too many"),
    "turned": (lambda n, d: filled(table(n, d)).T, "Rows and columns"),
    "zeros": (lambda n, d: torch.zeros(n, d), "still zero"),
    "a constant": (lambda n, d: filled(table(4, 6)), "fixed in your code"),
    "half precision": (lambda n, d: filled(table(n, d)).half(), "float16"),
    "through half precision": (lambda n, d: filled(table(n, d)).half().float(), "half precision"),
    "float64": (wide, "right, but float64"),
    "tutorial": (by_tutorial, "You double twice"),
    "d_model - 2": (lambda n, d: filled(table(n, d, power=2 * d / (d - 2))), "the last index"),
    "fixed length": (lambda n, d: filled(table(n, d))[:100], "cut off"),
    "its input": (lambda n, d: (n, d), "a tuple of 2"),
}


@pytest.mark.parametrize("style", POSITIONS_RIGHT)
def test_positions_accepts(style: str):
    accepted("positional_encoding", POSITIONS_RIGHT[style])


@pytest.mark.parametrize("mistake", POSITIONS_WRONG)
def test_positions_rejects(mistake: str):
    rejected("positional_encoding", *POSITIONS_WRONG[mistake])


def norm(x, gain, bias, eps):
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return gain * (x - mean) / torch.sqrt(var + eps) + bias


def norm_moments(x, gain, bias, eps):
    mean = x.sum(-1, True) / x.shape[-1]
    var = (x**2).mean(-1, True) - mean**2
    return (x - mean) * (var + eps).rsqrt() * gain + bias


def norm_rows(x, gain, bias, eps):
    rows = []
    for row in x.reshape(-1, x.size(-1)):
        centred = row - sum(row) / len(row)
        rows.append(centred / (sum(c * c for c in centred) / len(row) + eps) ** 0.5 * gain + bias)
    return torch.stack(rows).view_as(x)


def norm_with(dim=-1, unbiased=False, size="(v + e).sqrt()", top="x - m", end="y * g + b"):
    """A layer norm with one line changed by eval: quick to write, easy to read."""

    def mistaken(x, gain, bias, eps):
        axis = dim if dim is not None else tuple(range(x.dim()))
        names = {"x": x, "g": gain, "b": bias, "e": eps, "torch": torch}
        names["m"] = x.mean(axis, keepdim=True)
        names["v"] = x.var(axis, unbiased=unbiased, keepdim=True)
        names["y"] = eval(top, names) / eval(size, names)
        return eval(end, names)

    return mistaken


def norm_in_place(x, gain, bias, eps):
    x -= x.mean(-1, keepdim=True)
    return x / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt() * gain + bias


def norm_detached(x, gain, bias, eps):
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return gain * (x - mean.detach()) / torch.sqrt(var.detach() + eps) + bias


def norm_own_in_place(x, gain, bias, eps):
    y = x - x.mean(-1, keepdim=True)
    y /= (y.square().mean(-1, keepdim=True) + eps).sqrt()
    return y * gain + bias


def norm_floats(x, gain, bias, eps):
    return torch.tensor(norm(x, gain, bias, eps).tolist(), dtype=x.dtype)


NORM_RIGHT = {"mean and var": norm, "moments": norm_moments, "rows": norm_rows}
NORM_WRONG = {
    "unbiased": (norm_with(unbiased=True), "^Your variance is the unbiased"),
    "outside": (norm_with(size="v.sqrt() + e"), "^eps stands outside"),
    "unbiased and outside": (
        norm_with(unbiased=True, size="v.sqrt() + e"), "unbiased"),
    "no root": (norm_with(size="v + e"), "^You divide by the variance"),
    "no root, unbiased": (norm_with(size="v + e", unbiased=True), "the variance:.*unbiased"),
    "no eps": (norm_with(size="v.sqrt()"), "eps is missing"),
    "eps fixed": (norm_with(size="(v + 1e-5).sqrt()"), "whatever eps says"),
    "words": (norm_with(dim=-2), "wrong dimension|over the words"),
    "words from the front": (lambda *a: norm_with(dim=1 if a[0].dim() == 3 else -1)(*a), "words"),
    "batch norm": (norm_with(dim=0), "wrong dimension"),
    "everything": (norm_with(dim=None), "over everything"),
    "no gain": (norm_with(end="y + b"), "gain is forgotten"),
    "no bias": (norm_with(end="y * g"), "bias is forgotten"),
    "neither": (norm_with(end="y"), "Gain and bias are forgotten"),
    "bias first": (norm_with(end="(y + b) * g"), "before the gain"),
    "exchanged": (norm_with(end="y * b + g"), "exchanged"),
    "no mean": (norm_with(top="x"), "don't subtract the mean"),
    "rms": (
        lambda x, g, b, e: x / (x.square().mean(-1, True) + e).sqrt() * g + b, "RMSNorm"),
    "no keepdim": (
        lambda x, g, b, e: (x - x.mean(-1)) / (x.var(-1, unbiased=False) + e).sqrt() * g + b,
        "^You forget keepdim"),
    "no keepdim, unbiased, outside": (
        lambda x, g, b, e: (x - x.mean(-1)) / (x.std(-1) + e) * g + b, "^You forget keepdim"),
    "no keepdim for the variance": (
        lambda x, g, b, e: (x - x.mean(-1, True)) / (x.var(-1) + e).sqrt() * g + b,
        "^You forget keepdim"),
    "times the root": (norm_with(size="1 / (v + e).sqrt()"), "^You multiply by the standard"),
    "times the root, no eps": (norm_with(size="1 / v.sqrt()"), "^You multiply by the standard"),
    "1 + gain": (norm_with(end="y * (1 + g) + b"), r"1 \+ gain"),
    "detached": (norm_detached, "^You cut the gradient.*back to x"),
    "in place, its own": (norm_own_in_place, "change a tensor in place which it needs"),
    "no gradient": (torch.no_grad()(norm), "^You cut the gradient"),
    "by floats": (norm_floats, "^You cut the gradient"),
    "in place": (norm_in_place, "in place"),
    "through float32": (
        lambda x, g, b, e: norm(*(t.float() for t in (x, g, b)), e).to(x.dtype), "float32"),
    "dim 2": (
        lambda x, g, b, e: (x - x.mean(2, True)) / (x.var(2, False, True) + e).sqrt() * g + b,
        "Dimension out of range"),
    "torch's": (lambda x, g, b, e: F.layer_norm(x, g.shape, g, b, e), "ready-made"),
    "torch's group norm": (
        lambda x, g, b, e: F.group_norm(x.reshape(-1, x.size(-1)), 1, g, b, e).view_as(x),
        "ready-made"),
    "its input": (lambda x, g, b, e: x, "as it came"),
    "a constant": (lambda x, g, b, e: torch.zeros_like(x), "does not depend"),
}


@pytest.mark.parametrize("style", NORM_RIGHT)
def test_layer_norm_accepts(style: str):
    accepted("layer_norm", NORM_RIGHT[style])


@pytest.mark.parametrize("mistake", NORM_WRONG)
def test_layer_norm_rejects(mistake: str):
    rejected("layer_norm", *NORM_WRONG[mistake])


def feed_loop(x, w_1, b_1, w_2, b_2):
    inner = (x.unsqueeze(-1) * w_1).sum(-2) + b_1
    return (torch.where(inner > 0, inner, 0.0).unsqueeze(-1) * w_2).sum(-2) + b_2


FEED_RIGHT = {
    "matmul": lambda x, u, a, w, b: torch.relu(x @ u + a) @ w + b,
    "einsum": lambda x, u, a, w, b: torch.einsum(
        "...f,fd->...d", (torch.einsum("...d,df->...f", x, u) + a).clamp(min=0), w) + b,
    "linear": lambda x, u, a, w, b: F.linear(F.relu(F.linear(x, u.T, a), inplace=True), w.T, b),
    "sums": feed_loop,
}
FEED_WRONG = {
    "no relu": (lambda x, u, a, w, b: (x @ u + a) @ w + b, "^The ReLU is missing"),
    "gelu": (lambda x, u, a, w, b: F.gelu(x @ u + a) @ w + b, "^You take GELU"),
    "sigmoid": (lambda x, u, a, w, b: (x @ u + a).sigmoid() @ w + b, "^You take the sigmoid"),
    "leaky": (lambda x, u, a, w, b: F.leaky_relu(x @ u + a) @ w + b, "leaky"),
    "relu at the end": (lambda x, u, a, w, b: ((x @ u + a) @ w + b).relu(), "ReLU stands at"),
    "two relus": (lambda x, u, a, w, b: ((x @ u + a).relu() @ w + b).relu(), "at the end, too"),
    "no b_1": (lambda x, u, a, w, b: (x @ u).relu() @ w + b, "^b_1 is missing"),
    "no b_2": (lambda x, u, a, w, b: (x @ u + a).relu() @ w, "^b_2 is missing"),
    "late b_1": (lambda x, u, a, w, b: ((x @ u).relu() + a) @ w + b, "b_1 after the ReLU"),
    "residual": (lambda x, u, a, w, b: x + (x @ u + a).relu() @ w + b, "residual"),
    "inner only": (lambda x, u, a, w, b: (x @ u + a).relu(), "^The second map is missing"),
    "relu 6": (lambda x, u, a, w, b: F.relu6(x @ u + a) @ w + b, "no upper limit"),
    "detached": (lambda x, u, a, w, b: (x @ u + a).relu().detach() @ w + b, "cut the gradient.*x"),
    "data": (lambda x, u, a, w, b: (x @ u.data + a).relu() @ w + b, "cut the gradient.*back to u"),
    "transposed": (
        lambda x, u, a, w, b: F.linear(F.linear(x, u, a).relu(), w, b), "transposed weight"),
    "transposed, no relu": (
        lambda x, u, a, w, b: F.linear(F.linear(x, u, a), w, b), "ReLU is missing.*transposed"),
    "batch of one": (
        lambda x, u, a, w, b: (x.flatten(0, -2)[: x.size(-2)] @ u + a).relu()[None] @ w + b,
        "batch"),
    "in place": (lambda x, u, a, w, b: (x @ u + a).relu() @ w + b.add_(0.5), "in place"),
    "through float32": (
        lambda x, u, a, w, b: FEED_RIGHT["matmul"](
            *(t.float() for t in (x, u, a, w, b))).to(x.dtype), "float32"),
    "its input": (lambda x, u, a, w, b: x, "as it came"),
    "a constant": (lambda x, u, a, w, b: torch.ones_like(x), "does not depend"),
}


@pytest.mark.parametrize("style", FEED_RIGHT)
def test_feed_forward_accepts(style: str):
    accepted("feed_forward", FEED_RIGHT[style])


@pytest.mark.parametrize("mistake", FEED_WRONG)
def test_feed_forward_rejects(mistake: str):
    rejected("feed_forward", *FEED_WRONG[mistake])


# --- the layers -----------------------------------------------------------------------------------
class Attention(nn.Module):
    """A right attention; `fill` and `order` are what the wrong ones change."""

    split = staticmethod(lambda x, n: x.unflatten(-1, (n, -1)).transpose(1, 2))
    merge = staticmethod(lambda x: x.transpose(1, 2).flatten(-2))
    weights = staticmethod(lambda s, m: s.masked_fill(~m, -1e9).softmax(-1))

    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.v, self.o = (nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, query, key, value, mask):
        q, k, v = self.q(query), self.k(key), self.v(value)
        q, k, v = (self.split(x, self.n_heads) for x in (q, k, v))
        scores = q @ k.mT / q.size(-1) ** 0.5
        return self.o(self.merge(self.weights(scores, mask) @ v))


def attention(name="Attention", **changes):
    return type(name, (Attention,), {k: staticmethod(f) for k, f in changes.items()})


class Norm(nn.Module):
    """The Annotated Transformer's: unbiased, eps outside."""

    def __init__(self, d_model, eps=1e-6):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(d_model)), nn.Parameter(torch.zeros(d_model))
        self.eps = eps

    def forward(self, x):
        return self.a * (x - x.mean(-1, True)) / (x.std(-1, keepdim=True) + self.eps) + self.b


class RMS(Norm):
    def forward(self, x):
        return self.a * x / (x.square().mean(-1, True) + self.eps).sqrt() + self.b


class WholeNorm(Norm):
    def forward(self, x):
        return self.a * (x - x.mean((1, 2), True)) / (x.std((1, 2), keepdim=True) + 1e-6) + self.b


class Swish(nn.Module):
    """A gated network: three matrices."""

    def __init__(self, d_model, d_ff):
        super().__init__()
        self.up, self.gate = nn.Linear(d_model, d_ff, False), nn.Linear(d_model, d_ff, False)
        self.down = nn.Linear(d_ff, d_model, False)

    def forward(self, x):
        return self.down(self.up(x) * F.silu(self.gate(x)))


def network(d_model, d_ff, act=nn.ReLU, end=nn.Identity):
    return nn.Sequential(nn.Linear(d_model, d_ff), act(), nn.Linear(d_ff, d_model), end())


PRE = {"wrap": lambda x, sublayer, norm: x + sublayer(norm(x))}
POST = {"wrap": lambda x, sublayer, norm: norm(x + sublayer(x))}


class Encoder(nn.Module):
    """A right layer, post-norm; the wrong ones replace a part."""

    attention, norm, network = Attention, nn.LayerNorm, staticmethod(network)
    wrap = staticmethod(POST["wrap"])
    mask = staticmethod(lambda mask: mask)
    wraps = norms = None  # one for each sub-layer, where they differ

    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attend = self.attention(d_model, n_heads)
        self.think = self.network(d_model, d_ff)
        self.n = nn.ModuleList(m(d_model) for m in (self.norms or 2 * [self.norm]))

    def forward(self, x, mask):
        first, second = self.wraps or 2 * [self.wrap]
        mask = self.mask(mask)
        x = first(x, lambda x: self.attend(x, x, x, mask), self.n[0])
        return second(x, self.think, self.n[1])


class Decoder(nn.Module):
    attention, norm, network = Attention, nn.LayerNorm, staticmethod(network)
    wrap = staticmethod(POST["wrap"])
    masks = staticmethod(lambda src_mask, tgt_mask: (src_mask, tgt_mask))
    cross = staticmethod(lambda x, memory: (x, memory, memory))
    wraps = norms = None

    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attend, self.look = (self.attention(d_model, n_heads) for _ in range(2))
        self.think = self.network(d_model, d_ff)
        self.n = nn.ModuleList(m(d_model) for m in (self.norms or 3 * [self.norm]))

    def forward(self, x, memory, src_mask, tgt_mask):
        first, second, third = self.wraps or 3 * [self.wrap]
        src_mask, tgt_mask = self.masks(src_mask, tgt_mask)
        x = first(x, lambda x: self.attend(x, x, x, tgt_mask), self.n[0])
        x = second(x, lambda x: self.look(*self.cross(x, memory), src_mask), self.n[1])
        return third(x, self.think, self.n[2])


def encoder(base=Encoder, **changes):
    fixed = {k: v if isinstance(v, type | list) else staticmethod(v) for k, v in changes.items()}
    return type(base.__name__, (base,), fixed)


def decoder(**changes):
    return encoder(Decoder, **changes)


class PackedEncoder(nn.Module):
    """Pre-norm, packed QKV, no biases, GELU, dropout, torch's fused attention."""

    def __init__(self, d_model, n_heads, d_ff, dropout=0.1):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.ln1, self.ln2 = (nn.LayerNorm(d_model, elementwise_affine=False) for _ in range(2))
        self.mlp = nn.Sequential(
            nn.Linear(d_model, d_ff, bias=False), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(d_ff, d_model, bias=False))
        self.drop = nn.Dropout(dropout)

    def self_attention(self, x, mask):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.drop(self.out(y.transpose(1, 2).reshape(b, n, d)))

    def forward(self, x, mask):
        x = x + self.self_attention(self.ln1(x), mask)
        return x + self.drop(self.mlp(self.ln2(x)))


class PackedDecoder(PackedEncoder):
    def __init__(self, d_model, n_heads, d_ff, dropout=0.1):
        super().__init__(d_model, n_heads, d_ff, dropout)
        self.q = nn.Linear(d_model, d_model, bias=False)
        self.kv = nn.Linear(d_model, 2 * d_model, bias=False)
        self.out2 = nn.Linear(d_model, d_model, bias=False)
        self.ln3 = nn.LayerNorm(d_model)

    def look(self, x, memory, mask):
        q = self.q(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        k, v = self.kv(memory).chunk(2, -1)
        k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out2(y.transpose(1, 2).flatten(2))

    def forward(self, x, memory, src_mask, tgt_mask):
        x = x + self.self_attention(self.ln1(x), tgt_mask)
        x = x + self.look(self.ln3(x), memory, src_mask)
        return x + self.drop(self.mlp(self.ln2(x)))


class Head(nn.Module):
    def __init__(self, d_model, d_k):
        super().__init__()
        for name in "qkv":
            setattr(self, name, nn.Parameter(torch.randn(d_model, d_k) * d_model**-0.5))

    def forward(self, query, key, value, mask):
        q, k, v = query @ self.q, key @ self.k, value @ self.v
        scores = torch.einsum("bqd,bkd->bqk", q, k) / math.sqrt(q.size(-1))
        scores = scores.masked_fill(~mask[:, 0], -math.inf)
        return scores.softmax(-1) @ v


class Heads(nn.Module):
    """A list of heads, matrices without Linear."""

    def __init__(self, d_model, n_heads):
        super().__init__()
        self.heads = nn.ModuleList(Head(d_model, d_model // n_heads) for _ in range(n_heads))
        self.w_o = nn.Parameter(torch.randn(d_model, d_model))

    def forward(self, *args):
        return torch.cat([head(*args) for head in self.heads], -1) @ self.w_o


class Convolutions(nn.Module):
    def __init__(self, d_model, d_ff):
        super().__init__()
        self.a, self.b = nn.Conv1d(d_model, d_ff, 1), nn.Conv1d(d_ff, d_model, 1)

    def forward(self, x):
        return self.b(F.relu(self.a(x.mT))).mT


class Defaults(Decoder):
    """Takes its masks by default."""

    def forward(self, x, memory, src_mask=None, tgt_mask=None):
        return super().forward(x, memory, src_mask, tgt_mask)


class WithWeights(Decoder):
    """Returns its attention beside the output."""

    def forward(self, *args):
        return super().forward(*args), None


class PackedNorms(Encoder):
    """Gains and biases of both norms in one parameter each; an output map that starts at zero."""

    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        del self.n
        self.gains = nn.Parameter(torch.ones(2, d_model))
        self.biases = nn.Parameter(torch.zeros(2, d_model))
        nn.init.zeros_(self.attend.o.weight)

    def scale(self, x, i):
        return F.layer_norm(x, x.shape[-1:], self.gains[i], self.biases[i])

    def forward(self, x, mask):
        x = self.scale(x + self.attend(x, x, x, mask), 0)
        return self.scale(x + self.think(x), 1)


ENCODER_RIGHT = {
    "packed norms": PackedNorms,
    "post": Encoder,
    "pre": encoder(**PRE),
    "packed": PackedEncoder,
    "heads": encoder(attention=Heads, norm=Norm, network=Convolutions),
    "gated": encoder(network=Swish, **PRE),
    "pre, annotated": encoder(attention=Heads, norm=Norm, **PRE),
}
DECODER_RIGHT = {
    "post": Decoder,
    "pre": decoder(**PRE),
    "packed": PackedDecoder,
    "heads": decoder(attention=Heads, norm=Norm, network=Convolutions),
    "gated": decoder(network=Swish, **PRE),
    "masks by default": Defaults,
}


class ListOfHeads(Heads):
    def __init__(self, d_model, n_heads):
        super().__init__(d_model, n_heads)
        heads = list(self.heads)
        del self.heads
        self.heads = heads


class NoOutput(Attention):
    def __init__(self, d_model, n_heads):
        super().__init__(d_model, n_heads)
        self.o = nn.Identity()


class EightHeads(Attention):
    def __init__(self, d_model, n_heads):
        super().__init__(d_model, 2)


class OneHead(Attention):
    def __init__(self, d_model, n_heads):
        super().__init__(d_model, 1)


class NoFeedForward(Encoder):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        self.think = nn.Identity()
        self.n = self.n[:1]

    def forward(self, x, mask):
        return self.wrap(x, lambda x: self.attend(x, x, x, mask), self.n[0])


class NoAttention(Encoder):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        del self.attend, self.n[0]

    def forward(self, x, mask):
        return self.wrap(x, self.think, self.n[0])


class ForgottenAttention(Encoder):
    def forward(self, x, mask):
        return self.wrap(x, self.think, self.n[1])


class FixedWidth(Encoder):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, 4 * d_model)


class FixedSizes(Encoder):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(8, 2, 13)


class Positions(Encoder):
    def forward(self, x, mask):
        return super().forward(x + torch.arange(x.size(1))[:, None] * 0.1, mask)


class ExtraNorm(Encoder):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        self.last = nn.LayerNorm(d_model)


class FirstX(Encoder):
    def forward(self, x, mask):
        return self.n[1](x + self.think(self.n[0](x + self.attend(x, x, x, mask))))


class FirstXPre(Encoder):
    def forward(self, x, mask):
        y = self.n[0](x)
        y = x + self.attend(y, y, y, mask)
        return x + self.think(self.n[1](y))


class FeedsOnX(Encoder):
    def forward(self, x, mask):
        y = self.n[0](x + self.attend(x, x, x, mask))
        return self.n[1](y + self.think(x))


class WithMask(Encoder):
    def forward(self, x, mask):
        return super().forward(x, mask), mask


class ZeroIn(Encoder):
    def forward(self, x, mask):
        return super().forward(x * mask[:, 0, 0, :, None], mask)


class ZeroOut(Encoder):
    def forward(self, x, mask):
        return super().forward(x, mask) * mask[:, 0, 0, :, None]


class ReluLast(Encoder):
    def forward(self, x, mask):
        return super().forward(x, mask).relu()


class OneNorm(Encoder):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        self.n = nn.ModuleList(2 * [self.n[0]])


class Unscaled(Attention):
    def __init__(self, d_model, n_heads):
        super().__init__(d_model, n_heads)
        self.factor = (d_model // n_heads) ** 0.5

    def weights(self, s, m):
        return super().weights(s * self.factor, m)


class FeedForwardFirst(Encoder):
    def forward(self, x, mask):
        x = self.wrap(x, self.think, self.n[1])
        return self.wrap(x, lambda x: self.attend(x, x, x, mask), self.n[0])


class Parallel(Encoder):
    def forward(self, x, mask):
        y, z = self.n[0](x), self.n[1](x)
        return x + self.attend(y, y, y, mask) + self.think(z)


class Detached(Encoder):
    def forward(self, x, mask):
        return super().forward(x, mask).detach()


class InPlace(Encoder):
    def forward(self, x, mask):
        x += self.attend(x, x, x, mask)
        return self.n[1](x + self.think(self.n[0](x)))


class EternalDropout(Encoder):
    def forward(self, x, mask):
        return F.dropout(super().forward(x, mask), 0.1)


class FirstSentence(Encoder):
    def forward(self, x, mask):
        return super().forward(x[:1], mask[:1])


class Ready(nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(d_model, n_heads, d_ff, batch_first=True)

    def forward(self, x, mask):
        return self.layer(x, src_key_padding_mask=~mask[:, 0, 0])


class ReadyAttention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.inner = nn.MultiheadAttention(d_model, n_heads, batch_first=True)

    def forward(self, query, key, value, mask):
        return self.inner(query, key, value, key_padding_mask=~mask[:, 0, 0])[0]


class Through32(Encoder):
    def forward(self, x, mask):
        return super().forward(x.float(), mask).to(x.dtype)


class ReturnsX(Encoder):
    def forward(self, x, mask):
        return x


class NoWeights(nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()

    def forward(self, x, mask):
        return torch.zeros_like(x)


def bare(x, sublayer, norm):
    """A sub-layer without a norm."""
    return x + sublayer(x)


def lonely_post(x, sublayer, norm):
    """A sub-layer without a residual connection."""
    return norm(sublayer(x))


def lonely_pre(x, sublayer, norm):
    return sublayer(norm(x))


def both_ways(x, sublayer, norm):
    x = norm(x)
    return x + sublayer(x)


def no_norm(d_model):
    return nn.Identity()


post, pre = POST["wrap"], PRE["wrap"]
inverted = {"weights": lambda s, m: s.masked_fill(m, -1e9).softmax(-1)}
inverted_inf = {"weights": lambda s, m: s.masked_fill(m, -math.inf).softmax(-1)}
ENCODER_WRONG = {
    # an organ is missing
    "no attention": (NoAttention, "^The attention is missing"),
    "no attention, pre": (encoder(NoAttention, **PRE), "^The attention is missing"),
    "attention not called": (ForgottenAttention, "No word sees another"),
    "no feed-forward": (NoFeedForward, "^The feed-forward network is missing"),
    "no feed-forward, pre": (encoder(NoFeedForward, **PRE), "^The feed-forward network is missing"),
    "no relu": (
        encoder(network=lambda d, f: network(d, f, nn.Identity)), "network is linear"),
    "no relu, pre": (
        encoder(network=lambda d, f: network(d, f, nn.Identity), **PRE), "network is linear"),
    "relu at the end": (
        encoder(network=lambda d, f: network(d, f, nn.Identity, nn.ReLU)), "behind the second"),
    "two relus, pre": (
        encoder(network=lambda d, f: network(d, f, nn.ReLU, nn.ReLU), **PRE), "behind the second"),
    "no residual": (encoder(wrap=lonely_post), "around the self-attention is missing"),
    "no residual, pre": (encoder(wrap=lonely_pre), "around the self-attention is missing"),
    "no first residual": (
        encoder(wraps=[lonely_post, post]), "around the self-attention is missing"),
    "no first residual, pre": (
        encoder(wraps=[lonely_pre, pre]), "around the self-attention is missing"),
    "no second residual": (
        encoder(wraps=[post, lonely_post]), "around the feed-forward network is missing"),
    "no second residual, pre": (
        encoder(wraps=[pre, lonely_pre]), "around the feed-forward network is missing"),
    "no norm": (encoder(wrap=bare, norm=no_norm), "^The normalisation is missing"),
    "no first norm": (
        encoder(wraps=[bare, post], norms=[no_norm, nn.LayerNorm]), "behind the self-attention"),
    "no first norm, pre": (
        encoder(wraps=[bare, pre], norms=[no_norm, nn.LayerNorm]), "before the self-attention"),
    "no second norm": (
        encoder(wraps=[post, bare], norms=[nn.LayerNorm, no_norm]), "behind the feed-forward"),
    "no second norm, pre": (
        encoder(wraps=[pre, bare], norms=[nn.LayerNorm, no_norm]), "before the feed-forward"),
    "no first norm, no biases": (
        encoder(wraps=[bare, post], norms=[no_norm, nn.LayerNorm],
                network=lambda d, f: nn.Sequential(
                    nn.Linear(d, f, bias=False), nn.ReLU(), nn.Linear(f, d, bias=False))),
        "behind the self-attention"),
    "one head": (encoder(attention=OneHead), "has one head"),
    "one head, pre": (encoder(attention=OneHead, **PRE), "has one head"),
    "two heads always": (encoder(attention=EightHeads), "n_heads = 1"),
    "no w_o": (encoder(attention=NoOutput), "Which one is missing"),
    # an organ is in the wrong place
    "residual path normalised": (encoder(wrap=both_ways), "residual path, too"),
    "residual of the first x": (FirstX, "adds the layer's first x"),
    "residual of the first x, pre": (FirstXPre, "adds the layer's first x"),
    "feed-forward first": (FeedForwardFirst, "in the order feed-forward network, self-att"),
    "feed-forward first, pre": (
        encoder(FeedForwardFirst, **PRE), "in the order feed-forward network, self-att"),
    "parallel": (Parallel, "adds the layer's first x|starts from the layer's first x"),
    "feeds on the first x": (FeedsOnX, "network starts from the layer's first x"),
    "added after the norm": (
        encoder(wrap=lambda x, s, n: n(x) + s(x)), "is added after the norm"),
    "relu behind the layer": (ReluLast, "no negative number: a ReLU at the end"),
    "relu behind the layer, pre": (encoder(ReluLast, **PRE), "no negative number: a ReLU"),
    "one norm": (OneNorm, "call one norm in several places"),
    "one norm, pre": (encoder(OneNorm, **PRE), "call one norm in several places"),
    "no scale": (encoder(attention=Unscaled), "too large.*sqrt"),
    "no scale, pre": (encoder(attention=Unscaled, **PRE), "too large.*sqrt"),
    "padded inputs at zero": (ZeroIn, "set padded words to zero"),
    "padded inputs at zero, pre": (encoder(ZeroIn, **PRE), "set padded words to zero"),
    "padded outputs at zero": (ZeroOut, "set padded words to zero"),
    "with its mask": (WithMask, "a tuple of 2: return the output alone"),
    "rms norm": (encoder(norm=RMS), "not subtract the mean"),
    "rms norm, pre": (encoder(norm=RMS, **PRE), "not subtract the mean"),
    "norm of the sentence": (encoder(norm=WholeNorm), "mix outside the attention"),
    "batch norm": (
        encoder(wrap=lambda x, s, n: n((x + s(x)).mT).mT, norm=nn.BatchNorm1d),
        "normalisation is missing"),
    "positions": (Positions, "does the layer add positions"),
    # the mask
    "mask ignored": (
        encoder(mask=lambda m: torch.ones_like(m)), "^You ignore the mask"),
    "mask ignored, pre": (
        encoder(mask=lambda m: torch.ones_like(m), **PRE), "^You ignore the mask"),
    "mask inverted": (encoder(attention=attention(**inverted)), "mask is inverted"),
    "mask inverted, inf": (encoder(attention=attention(**inverted_inf)), "mask is inverted"),
    "mask added": (
        encoder(attention=attention(weights=lambda s, m: (s + m).softmax(-1))), "is added"),
    "mask multiplied": (
        encoder(attention=attention(weights=lambda s, m: (s * m).softmax(-1))), "multiplied"),
    "mask after": (
        encoder(attention=attention(weights=lambda s, m: s.softmax(-1) * m)), "after the softmax"),
    "mask turned": (
        encoder(attention=attention(
            weights=lambda s, m: s.masked_fill(~m.mT, -1e9).softmax(-1))), "closes queries"),
    "mask of the first": (encoder(mask=lambda m: m[:1]), "first sentence only"),
    "over the queries": (
        encoder(attention=attention(
            weights=lambda s, m: s.masked_fill(~m, -1e9).softmax(-2))), "over the queries"),
    "over the queries, inf": (
        encoder(attention=attention(
            weights=lambda s, m: s.masked_fill(~m, -math.inf).softmax(-2))), "NaN.*dimension"),
    "causal": (
        encoder(mask=lambda m: m & torch.ones(m.size(-1), m.size(-1)).tril().bool()),
        "causal mask belongs to the decoder"),
    # the code
    "heads by a reshape": (
        encoder(attention=attention(
            split=lambda x, n: x.reshape(x.size(0), n, x.size(1), -1),
            merge=lambda x: x.reshape(x.size(0), x.size(2), -1))), "reshape"),
    "merge by a reshape": (
        encoder(attention=attention(merge=lambda x: x.reshape(x.size(0), x.size(2), -1))),
        "reshape"),
    "split by a reshape": (
        encoder(attention=attention(split=lambda x, n: x.reshape(x.size(0), n, x.size(1), -1))),
        "reshape"),
    "a plain list": (encoder(attention=ListOfHeads), "plain list"),
    "unused norm": (ExtraNorm, "last.weight takes no part"),
    "d_ff fixed": (FixedWidth, "ignore d_ff"),
    "sizes fixed": (FixedSizes, "fixed in your code"),
    "detached": (Detached, "No gradient"),
    "in place": (InPlace, "in place"),
    "dropout for ever": (EternalDropout, r"F\.dropout"),
    "batch of one": (FirstSentence, "batch dimension"),
    "through float32": (Through32, "float32"),
    "torch's layer": (Ready, "ready-made"),
    "torch's attention": (encoder(attention=ReadyAttention), "ready-made"),
    "its input": (ReturnsX, "No gradient|No word sees|takes no part|same for every mask"),
    "no weights": (NoWeights, "has no weights"),
    "not a module": (lambda d_model, n_heads, d_ff: 3, r"nn\.Module"),
}


@pytest.mark.parametrize("style", ENCODER_RIGHT)
def test_encoder_accepts(style: str):
    accepted("EncoderLayer", ENCODER_RIGHT[style])


@pytest.mark.parametrize("mistake", ENCODER_WRONG)
def test_encoder_rejects(mistake: str):
    rejected("EncoderLayer", *ENCODER_WRONG[mistake])


class SharedAttention(Decoder):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        self.look = self.attend


class SharedAndLarge(Decoder):
    """Shared, with enough weights all the same: unused ones, added in."""

    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        self.cross_shared, self.look = self.look, self.attend

    def forward(self, x, memory, src_mask, tgt_mask):
        y = self.cross_shared(x, x, x, tgt_mask)
        return super().forward(x + 0.1 * y, memory, src_mask, tgt_mask)


class NoCross(Decoder):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        del self.look, self.n[1]

    def forward(self, x, memory, src_mask, tgt_mask):
        x = self.wrap(x, lambda x: self.attend(x, x, x, tgt_mask), self.n[0])
        return self.wrap(x, self.think, self.n[1])


class NoSelf(Decoder):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        del self.attend, self.n[0]

    def forward(self, x, memory, src_mask, tgt_mask):
        x = self.wrap(x, lambda x: self.look(x, memory, memory, src_mask), self.n[0])
        return self.wrap(x, self.think, self.n[1])


class SelfNotCalled(Decoder):
    def forward(self, x, memory, src_mask, tgt_mask):
        x = self.wrap(x, lambda x: self.look(x, memory, memory, src_mask), self.n[1])
        return self.wrap(x, self.think, self.n[2])


class CrossNotCalled(Decoder):
    def forward(self, x, memory, src_mask, tgt_mask):
        x = self.wrap(x, lambda x: self.attend(x, x, x, tgt_mask), self.n[0])
        return self.wrap(x, self.think, self.n[2])


class NoFeed(Decoder):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        del self.think, self.n[2]

    def forward(self, x, memory, src_mask, tgt_mask):
        x = self.wrap(x, lambda x: self.attend(x, x, x, tgt_mask), self.n[0])
        return self.wrap(x, lambda x: self.look(x, memory, memory, src_mask), self.n[1])


class CrossFirst(Decoder):
    def forward(self, x, memory, src_mask, tgt_mask):
        x = self.wrap(x, lambda x: self.look(x, memory, memory, src_mask), self.n[1])
        x = self.wrap(x, lambda x: self.attend(x, x, x, tgt_mask), self.n[0])
        return self.wrap(x, self.think, self.n[2])


class CrossAsksX(Decoder):
    """The queries of the cross-attention are the layer's x, the residual is right."""

    def forward(self, x, memory, src_mask, tgt_mask):
        def look(y):
            return self.look(first(x), memory, memory, src_mask)

        first = self.n[1] if self.wrap is PRE["wrap"] else nn.Identity()
        y = self.wrap(x, lambda x: self.attend(x, x, x, tgt_mask), self.n[0])
        z = y + look(y) if self.wrap is PRE["wrap"] else self.n[1](y + look(y))
        return self.wrap(z, self.think, self.n[2])


class ReluBehind(Decoder):
    def forward(self, *args):
        return super().forward(*args).relu()


class CrossUnscaled(Decoder):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        self.look = Unscaled(d_model, n_heads)


class CrossOverQueries(Decoder):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        self.look.weights = lambda s, m: s.masked_fill(~m, -1e9).softmax(-2)


class FeedInTheMiddle(Decoder):
    def forward(self, x, memory, src_mask, tgt_mask):
        x = self.wrap(x, lambda x: self.attend(x, x, x, tgt_mask), self.n[0])
        x = self.wrap(x, self.think, self.n[2])
        return self.wrap(x, lambda x: self.look(x, memory, memory, src_mask), self.n[1])


class FirstXDecoder(Decoder):
    def forward(self, x, memory, src_mask, tgt_mask):
        y = self.n[0](x + self.attend(x, x, x, tgt_mask))
        y = self.n[1](x + self.look(y, memory, memory, src_mask))
        return self.n[2](y + self.think(y))


class LastFirstX(Decoder):
    def forward(self, x, memory, src_mask, tgt_mask):
        y = self.n[0](x + self.attend(x, x, x, tgt_mask))
        y = self.n[1](y + self.look(y, memory, memory, src_mask))
        return self.n[2](x + self.think(y))


class OneHeadOnce(Decoder):
    """The cross-attention alone has one head."""

    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff)
        self.look = OneHead(d_model, n_heads)


class ReadyDecoder(nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(d_model, n_heads, d_ff, batch_first=True)

    def forward(self, x, memory, src_mask, tgt_mask):
        return self.layer(x, memory, ~tgt_mask[0, 0], memory_key_padding_mask=~src_mask[:, 0, 0])


class ReadySubclass(nn.TransformerDecoderLayer):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__(d_model, n_heads, d_ff, batch_first=True)

    def forward(self, x, memory, src_mask, tgt_mask):
        return super().forward(x, memory, ~tgt_mask[0, 0])


class DecoderInPlace(Decoder):
    def forward(self, x, memory, src_mask, tgt_mask):
        memory.mul_(1.5)
        return super().forward(x, memory, src_mask, tgt_mask)


class Decoder32(Decoder):
    def forward(self, x, memory, src_mask, tgt_mask):
        return super().forward(x.float(), memory.float(), src_mask, tgt_mask).to(x.dtype)


def own_triangle(src_mask, tgt_mask):
    """Ignore tgt_mask, and build a causal mask instead."""
    return src_mask, torch.ones_like(tgt_mask).tril()


L, I = nn.LayerNorm, no_norm  # noqa: E741
LINEAR = {"network": lambda d, f: network(d, f, nn.Identity)}
DECODER_WRONG = {
    # an organ is missing
    "no cross-attention": (NoCross, "one attention only"),
    "no cross-attention, pre": (encoder(NoCross, **PRE), "one attention only"),
    "no self-attention": (NoSelf, "one attention only"),
    "self-attention not called": (SelfNotCalled, "self-attention is missing"),
    "self-attention not called, pre": (
        encoder(SelfNotCalled, **PRE), "self-attention is missing"),
    "cross-attention not called": (CrossNotCalled, "memory has no influence"),
    "shared attention": (SharedAttention, "one attention only"),
    "shared attention, spare weights": (SharedAndLarge, "share weights"),
    "no feed-forward": (NoFeed, "feed-forward network is missing"),
    "no feed-forward, pre": (encoder(NoFeed, **PRE), "feed-forward network is missing"),
    "no relu": (decoder(**LINEAR), "network is linear"),
    "no relu, pre": (decoder(**LINEAR, **PRE), "network is linear"),
    "no first residual": (
        decoder(wraps=[lonely_post, post, post]), "around the self-attention is missing"),
    "no first residual, pre": (
        decoder(wraps=[lonely_pre, pre, pre]), "around the self-attention is missing"),
    "no second residual": (
        decoder(wraps=[post, lonely_post, post]), "around the cross-attention is missing"),
    "no second residual, pre": (
        decoder(wraps=[pre, lonely_pre, pre]), "around the cross-attention is missing"),
    "no third residual": (
        decoder(wraps=[post, post, lonely_post]), "around the feed-forward network is missing"),
    "no third residual, pre": (
        decoder(wraps=[pre, pre, lonely_pre]), "around the feed-forward network is missing"),
    "no residual": (decoder(wrap=lonely_post), "residual connection around the"),
    "no norm": (decoder(wrap=bare, norm=no_norm), "^The normalisation is missing"),
    "no first norm": (
        decoder(wraps=[bare, post, post], norms=[I, L, L]), "behind the self-attention"),
    "no first norm, pre": (
        decoder(wraps=[bare, pre, pre], norms=[I, L, L]), "before the self-attention"),
    "no second norm": (
        decoder(wraps=[post, bare, post], norms=[L, I, L]), "behind the cross-attention"),
    "no second norm, pre": (
        decoder(wraps=[pre, bare, pre], norms=[L, I, L]), "before the cross-attention"),
    "no third norm": (
        decoder(wraps=[post, post, bare], norms=[L, L, I]), "behind the feed-forward"),
    "no third norm, pre": (
        decoder(wraps=[pre, pre, bare], norms=[L, L, I]), "before the feed-forward"),
    "one head": (decoder(attention=OneHead), "self-attention has one head"),
    "one head in the cross-attention": (OneHeadOnce, "cross-attention has one head"),
    "one head, pre": (decoder(attention=OneHead, **PRE), "self-attention has one head"),
    "two heads always": (decoder(attention=EightHeads), "n_heads = 1"),
    # an organ is in the wrong place
    "cross-attention first": (CrossFirst, "in the order cross-attention, self-attention"),
    "cross-attention first, pre": (
        encoder(CrossFirst, **PRE), "in the order cross-attention, self-attention"),
    "feed-forward in the middle": (FeedInTheMiddle, "in the order self-attention, feed-forward"),
    "residual of the first x": (FirstXDecoder, "around the cross-attention adds"),
    "last residual of the first x": (LastFirstX, "around the feed-forward network adds"),
    "residual path normalised": (decoder(wrap=both_ways), "residual path, too"),
    "rms norm": (decoder(norm=RMS, **PRE), "not subtract the mean"),
    "queries of the first x": (CrossAsksX, "cross-attention takes its queries from the layer's"),
    "queries of the first x, pre": (
        encoder(CrossAsksX, **PRE), "cross-attention takes its queries from the layer's"),
    "no scale": (decoder(attention=Unscaled), "of your self-attention are too large"),
    "no scale in the cross-attention": (CrossUnscaled, "of your cross-attention are too large"),
    "over the queries": (CrossOverQueries, "by way of the cross-attention"),
    "relu behind the layer": (ReluBehind, "no negative number: a ReLU"),
    "added after the norm": (
        decoder(wrap=lambda x, s, n: n(x) + s(x)), "is added after the norm"),
    "with weights": (WithWeights, "a tuple of 2: return the output alone"),
    # memory
    "keys and values from x": (decoder(cross=lambda x, m: (x, x, x)), "memory has no influence"),
    "keys from x": (decoder(cross=lambda x, m: (x, x, m)), "The keys of your cross-attention"),
    "values from x": (decoder(cross=lambda x, m: (x, m, x)), "The values of your cross-attention"),
    "queries from memory": (decoder(cross=lambda x, m: (m, m, m)), "The queries of your cross"),
    "queries and memory exchanged": (
        decoder(cross=lambda x, m: (m, x, x)), "The queries of your cross"),
    # masks
    "exchanged": (decoder(masks=lambda s, t: (t, s)), "^The masks are exchanged"),
    "exchanged, pre": (decoder(masks=lambda s, t: (t, s), **PRE), "^The masks are exchanged"),
    "src_mask for both": (decoder(masks=lambda s, t: (s, s)), "src_mask to the self-attention"),
    "tgt_mask for both": (decoder(masks=lambda s, t: (t, t)), "tgt_mask to the cross-attention"),
    "tgt_mask ignored": (
        decoder(masks=lambda s, t: (s, torch.ones_like(t))), "^You ignore tgt_mask"),
    "src_mask ignored": (
        decoder(masks=lambda s, t: (torch.ones_like(s), t)), "^You ignore src_mask"),
    "own triangle": (decoder(masks=own_triangle), "tgt_mask"),
    "inverted": (decoder(attention=attention(**inverted)), "mask is inverted"),
    "inverted, inf": (decoder(attention=attention(**inverted_inf)), "mask is inverted"),
    "src_mask inverted": (decoder(masks=lambda s, t: (~s, t)), "src_mask is inverted"),
    "tgt_mask inverted": (decoder(masks=lambda s, t: (s, ~t)), "tgt_mask is inverted"),
    "tgt_mask turned": (decoder(masks=lambda s, t: (s, t.mT)), "tgt_mask is inverted|tgt_mask|NaN"),
    "added": (
        decoder(attention=attention(weights=lambda s, m: (s + m).softmax(-1))), "is added"),
    "multiplied": (
        decoder(attention=attention(weights=lambda s, m: (s * m).softmax(-1))), "multiplied"),
    # the code
    "heads by a reshape": (
        decoder(attention=attention(
            split=lambda x, n: x.reshape(x.size(0), n, x.size(1), -1),
            merge=lambda x: x.reshape(x.size(0), x.size(2), -1))), "reshape"),
    "in place": (DecoderInPlace, "in place"),
    "through float32": (Decoder32, "float32"),
    "torch's layer": (ReadyDecoder, "ready-made"),
    "torch's layer as a base": (ReadySubclass, "ready-made"),
    "an encoder": (Encoder, "one attention only|can't be called"),
}


@pytest.mark.parametrize("style", DECODER_RIGHT)
def test_decoder_accepts(style: str):
    accepted("DecoderLayer", DECODER_RIGHT[style])


@pytest.mark.parametrize("mistake", DECODER_WRONG)
def test_decoder_rejects(mistake: str):
    rejected("DecoderLayer", *DECODER_WRONG[mistake])


@pytest.mark.parametrize("name, candidate", [
    *(("positional_encoding", f) for f in POSITIONS_RIGHT.values()),
    *(("layer_norm", f) for f in NORM_RIGHT.values()),
    *(("feed_forward", f) for f in FEED_RIGHT.values()),
    *(("EncoderLayer", f) for f in ENCODER_RIGHT.values()),
    *(("DecoderLayer", f) for f in DECODER_RIGHT.values()),
])
def test_accepts_in_a_notebook_that_works_in_float64(name: str, candidate: object):
    torch.set_default_dtype(torch.float64)
    try:
        accepted(name, candidate)
    finally:
        torch.set_default_dtype(torch.float32)
