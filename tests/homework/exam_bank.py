"""Transformers for the exam's bank: one with a switch for each organ, and others that are right."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def sinusoids(length, d_model):
    position = torch.arange(length)[:, None]
    angle = position * 10_000.0 ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :d_model]


class Norm(nn.Module):
    """LayerNorm or RMSNorm by hand, or one that normalises over the wrong dimension."""

    def __init__(self, d_model, kind="layer"):
        super().__init__()
        self.gain, self.kind = nn.Parameter(torch.ones(d_model)), kind

    def forward(self, x):
        if self.kind == "rms":
            return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.gain
        if self.kind == "centred":
            return (x - x.mean(-1, keepdim=True)) * self.gain
        dim = 1 if self.kind == "words" else -1
        spread = x.var(dim, unbiased=False, keepdim=True)
        return (x - x.mean(dim, keepdim=True)) / (spread + 1e-5).sqrt() * self.gain


class Attention(nn.Module):
    def __init__(self, d_model, n_heads, bias=True, mode=""):
        super().__init__()
        self.n_heads, self.mode = n_heads, mode
        for name in ("w_q", "w_k", "w_v", "w_o"):
            left_out = mode == f"no {name}"
            layer = nn.Identity() if left_out else nn.Linear(d_model, d_model, bias=bias)
            setattr(self, name, layer)

    def forward(self, query, memory, mask):
        d_k = query.size(-1) // self.n_heads
        n_heads = 1 if "one head" in self.mode else self.n_heads
        if self.mode == "eight heads":
            n_heads = 8 if query.size(-1) % 8 == 0 else n_heads

        def split(x):
            if self.mode == "split by view":
                return x.view(x.size(0), n_heads, x.size(1), -1)
            return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)

        q, k, v = (split(w(x)) for w, x in (
            (self.w_q, query), (self.w_k, memory), (self.w_v, memory)))
        scores = q @ k.mT / math.sqrt(q.size(-1) if self.mode == "one head" else d_k)
        if self.mode == "shared pattern":
            scores = scores.mean(1, keepdim=True)
        if self.mode == "mean":
            scores = scores * 0
        bare = scores
        if self.mode == "added":
            scores = scores + mask
        elif mask is not None:
            hidden = mask if self.mode == "inverted, big" else ~mask
            scores = scores.masked_fill(hidden, -1e9 if "big" in self.mode else -math.inf)
        weights = scores.softmax(-2 if self.mode == "over queries" else -1)
        if self.mode == "no softmax":
            weights = bare * mask
        if self.mode == "mask after softmax":
            weights = bare.softmax(-1) * mask
        if self.mode == "merged by view":
            return self.w_o((weights @ v).reshape(query.shape))
        return self.w_o((weights @ v).transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, d_model, d_ff, kind="relu"):
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)
        self.kind = kind

    def forward(self, x):
        if self.kind == "unused":
            return x * 0
        if self.kind == "late":
            return self.w_2(self.w_1(x)).relu()
        activation = {"relu": F.relu, "gelu": F.gelu}.get(self.kind, nn.Identity())
        return self.w_2(activation(self.w_1(x)))


class Layer(nn.Module):
    """One layer of either stack. broken: names of what is missing in it."""

    def __init__(self, d_model, n_heads, d_ff, order, norm, bias, broken, decoder):
        super().__init__()
        side = "decoder" if decoder else "encoder"
        self.order, self.decoder = order, decoder
        self.broken = {b.removeprefix(f"{side}: ") for b in broken if not b.startswith(
            "encoder: " if decoder else "decoder: ")}
        modes = ("one head", "one head, wrong scale", "mean", "added", "over queries",
                 "shared pattern", "no softmax", "no w_o", "no w_v", "eight heads", "big",
                 "inverted, big", "split by view", "merged by view",
                 "mask after softmax")
        mode = next((m for m in modes if m in self.broken), "")
        own = next((m for m in modes if f"self: {m}" in self.broken), mode)

        def cross_mode():
            return next((m for m in modes if f"cross: {m}" in self.broken), mode)

        if "self-attention" not in self.broken:
            self.self_attention = Attention(d_model, n_heads, bias, own)
        if decoder and "cross-attention" not in self.broken:
            self.cross_attention = Attention(d_model, n_heads, bias, cross_mode())
        kind = next((b[4:] for b in self.broken if b.startswith("ff: ")), "relu")
        if "feed-forward" not in self.broken:
            self.feed_forward = FeedForward(d_model, d_ff, kind)
        kind = next((b[6:] for b in self.broken if b.startswith("norm: ")), norm)
        make = nn.Identity if "norm" in self.broken or "inner norms" in self.broken else Norm
        self.norms = nn.ModuleList(make() if make is nn.Identity else make(d_model, kind)
                                   for _ in range(3))
        for number in range(3):
            if f"norm {number}" in self.broken:
                self.norms[number] = nn.Identity()
        unused = {0: "self-attention", 1: "cross-attention", 2: "feed-forward"}
        for number, name in unused.items():
            if not hasattr(self, name.replace("-", "_")) and "norms stay" not in self.broken:
                self.norms[number] = nn.Identity()

    def forward(self, x, memory, src_mask, tgt_mask):
        self_mask = tgt_mask if self.decoder else src_mask
        came = x
        if hasattr(self, "self_attention"):
            name = "self residual"
            x = self.add(0, x, lambda x: self.self_attention(x, x, self_mask), name)
        if hasattr(self, "cross_attention"):
            cross = (
                (lambda x: self.cross_attention(x, x, tgt_mask))
                if "cross on itself" in self.broken
                else (lambda x: self.cross_attention(x, memory, src_mask))
            )
            old = came if "cross residual to the input" in self.broken else x
            if self.order == "post":
                x = self.add(1, old, lambda _: cross(x), "cross residual")
            else:
                x = self.add(1, old, lambda _: cross(self.norms[1](x)), "cross residual")
        if hasattr(self, "feed_forward"):
            x = self.add(2, x, self.feed_forward, "ff residual")
        return x

    def add(self, number, x, sublayer, name):
        norm, kept = self.norms[number], not {name, "residual"} & self.broken
        if self.order == "pre":
            return x * kept + sublayer(norm(x))
        return norm(x * kept + sublayer(x))


class Toy(nn.Module):
    """broken: a set of organs to leave out; "encoder: x" and "decoder: x" for one side only."""

    def __init__(self, src_vocab, tgt_vocab, d_model, n_heads, d_ff, n_layers,
                 order="post", norm="layer", bias=True, broken=(), positions="sinusoids",
                 max_len=512):
        super().__init__()
        broken = self.broken = set(broken)
        self.src_embedding = nn.Embedding(src_vocab, d_model)
        self.tgt_embedding = nn.Embedding(tgt_vocab, d_model)
        nn.init.normal_(self.src_embedding.weight, std=d_model**-0.5)
        nn.init.normal_(self.tgt_embedding.weight, std=d_model**-0.5)
        max_len = 20 if "length" in broken else max_len
        self.positions = positions
        if positions == "learned":
            self.table = nn.Parameter(torch.randn(max_len, d_model) * 0.02)
        elif positions == "frozen":
            self.table = nn.Parameter(sinusoids(max_len, d_model), requires_grad=False)
        elif positions == "attribute":
            self.table = sinusoids(max_len, d_model)
        elif positions == "float32":
            self.register_buffer("table", sinusoids(max_len, d_model))
        else:
            self.register_buffer("table", sinusoids(max_len, d_model), persistent=False)
        n_layers = 1 if "one layer" in broken else n_layers

        def stack(decoder):
            side = "decoder" if decoder else "encoder"
            n = 1 if f"{side}: one layer" in broken else n_layers
            if "same layer" in broken or f"{side}: same layer" in broken:
                layer = Layer(d_model, n_heads, d_ff, order, norm, bias, broken, decoder)
                return nn.ModuleList([layer] * n)
            return nn.ModuleList(
                Layer(d_model, n_heads, d_ff, order, norm, bias, broken, decoder) for _ in range(n)
            )

        self.encoder, self.decoder = stack(False), stack(True)
        last = order == "pre" and not {"norm", "final norm"} & broken
        for side in ("encoder", "decoder"):
            given = last and f"{side}: norm" not in broken
            setattr(self, f"{side}_norm", Norm(d_model, norm) if given else nn.Identity())
        self.w_vocab = nn.Linear(d_model, tgt_vocab)
        if "list" in broken:
            layers = list(self.encoder)
            del self.encoder
            self.encoder = layers
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name and name != "table":
                nn.init.xavier_uniform_(parameter)
        if "frozen" in broken:
            self.encoder[0].requires_grad_(False)
        if "frozen embedding" in broken:
            self.src_embedding.requires_grad_(False)

    def embed(self, table, tokens, side):
        x = table(tokens) * math.sqrt(table.embedding_dim)
        if {f"{side}: positions", "positions"} & self.broken:
            return x
        if "positions by sentence" in self.broken:
            return x + self.table[: x.size(0), None]
        return x + self.table[: x.size(1)]

    def forward(self, src, tgt_in, src_mask, tgt_mask):
        broken = self.broken
        if "own causal only" in broken:
            size = tgt_in.size(1)
            tgt_mask = torch.ones(size, size, dtype=torch.bool, device=src.device).tril()
        if "own causal besides" in broken:
            size = tgt_in.size(1)
            tgt_mask = tgt_mask & torch.ones(size, size, dtype=torch.bool, device=src.device).tril()
        if "tgt_mask" in broken:
            tgt_mask = torch.ones_like(tgt_mask)
        if "src_mask" in broken:
            src_mask = torch.ones_like(src_mask)
        if "causal, one more" in broken or "causal, one less" in broken:
            more = 1 if "causal, one more" in broken else -1
            tgt_mask = torch.ones(tgt_in.size(1), tgt_in.size(1)).tril(more).bool()
        if "in place" in broken:
            src[~src_mask[:, 0, 0]] = 0
        if "inverted" in broken or "tgt inverted" in broken:
            tgt_mask = ~tgt_mask
        if "inverted" in broken or "src inverted" in broken:
            src_mask = ~src_mask
        if "exchanged" in broken:
            src_mask, tgt_mask = tgt_mask, src_mask
        if "first sentence" in broken:
            src_mask, tgt_mask = src_mask[:1], tgt_mask[:1]
        everything = torch.ones_like(src_mask)
        if "key padding" in broken:  # right, too
            src_mask = src_mask[:, 0, :1].unsqueeze(1)
        memory = self.embed(self.src_embedding, src, "encoder")
        encoder_mask = everything if "encoder: src_mask" in broken else src_mask
        for layer in self.encoder[: 1 if "encoder: runs one" in broken else None]:
            memory = layer(memory, None, encoder_mask, None)
        memory = self.encoder_norm(memory)
        if "detached" in broken:
            memory = memory.detach()
        if "encoder bypassed" in broken:
            memory = self.embed(self.src_embedding, src, "encoder")
        cross_mask = everything if "cross: src_mask" in broken else src_mask
        x = self.embed(self.tgt_embedding, tgt_in, "decoder")
        if "float32" in broken:
            x, memory = x.float(), memory.float()
        for layer in self.decoder[: 1 if "decoder: runs one" in broken else None]:
            x = layer(x, memory, cross_mask, tgt_mask)
        x = self.decoder_norm(x)
        if "dropout in eval" in broken:
            x = F.dropout(x, 0.1)
        if "projection" in broken:
            return x + 0 * self.w_vocab(x).sum()
        logits = self.w_vocab(x)
        if "softmax" in broken:
            return logits.softmax(-1)
        if "log_softmax" in broken:
            return logits.log_softmax(-1)
        if "padded" in broken:
            return F.pad(x, (0, logits.size(-1) - x.size(-1))) + 0 * logits
        if "relu" in broken:
            return logits.relu()
        if "batch of one" in broken:
            return logits[:1]
        if "transposed" in broken:
            return logits.mT
        if "tuple" in broken:
            return logits, None
        if "nan" in broken:
            return logits * torch.nan
        return logits


def toy(*broken, **options):
    """Return a build_transformer whose models lack the named organs."""

    def build_transformer(src_vocab, tgt_vocab, d_model, n_heads, d_ff, n_layers):
        return Toy(src_vocab, tgt_vocab, d_model, n_heads, d_ff, n_layers, broken=broken, **options)

    return build_transformer


class Packed(nn.Module):
    """Packed QKV, pre-norm, Linear without bias, learned positions."""

    def __init__(self, d_model, n_heads, cross=False):
        super().__init__()
        self.n_heads, self.cross = n_heads, cross
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, memory=None, mask=None):
        if memory is None:
            q, k, v = self.qkv(x).chunk(3, -1)
        else:
            w_q, w_kv = self.qkv.weight.split([x.size(-1), 2 * x.size(-1)])
            q, (k, v) = F.linear(x, w_q), F.linear(memory, w_kv).chunk(2, -1)
        q, k, v = (t.view(*t.shape[:2], self.n_heads, -1).permute(0, 2, 1, 3) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.permute(0, 2, 1, 3).flatten(2))


class PackedBlock(nn.Module):
    def __init__(self, d_model, n_heads, d_ff, cross):
        super().__init__()
        self.attention = Packed(d_model, n_heads)
        self.cross = Packed(d_model, n_heads) if cross else None
        self.up, self.down = (
            nn.Linear(d_model, d_ff, bias=False), nn.Linear(d_ff, d_model, bias=False)
        )
        self.ln1, self.ln2, self.ln3 = (nn.LayerNorm(d_model) for _ in range(3))
        if not cross:
            del self.ln3

    def forward(self, x, mask, memory=None, src_mask=None):
        x = x + self.attention(self.ln1(x), mask=mask)
        if self.cross is not None:
            x = x + self.cross(self.ln3(x), memory, src_mask)
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class PackedTransformer(nn.Module):
    """In nanoGPT's manner: N(0, 0.02), tied output, learned positions by an Embedding."""

    def __init__(self, src_vocab, tgt_vocab, d_model, n_heads, d_ff, n_layers, dropout=0.1):
        super().__init__()
        self.src, self.tgt = nn.Embedding(src_vocab, d_model), nn.Embedding(tgt_vocab, d_model)
        self.src_pos, self.tgt_pos = nn.Embedding(128, d_model), nn.Embedding(128, d_model)
        self.enc = nn.ModuleList(
            PackedBlock(d_model, n_heads, d_ff, False) for _ in range(n_layers)
        )
        self.dec = nn.ModuleList(PackedBlock(d_model, n_heads, d_ff, True) for _ in range(n_layers))
        self.enc_norm, self.dec_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, tgt_vocab, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        self.head.weight = self.tgt.weight
        self.drop = nn.Dropout(dropout)

    def forward(self, src, tgt_in, src_mask, tgt_mask):
        m = self.drop(self.src(src) + self.src_pos(torch.arange(src.size(1), device=src.device)))
        for block in self.enc:
            m = block(m, src_mask)
        m = self.enc_norm(m)
        x = torch.arange(tgt_in.size(1), device=src.device)
        x = self.drop(self.tgt(tgt_in) + self.tgt_pos(x))
        for block in self.dec:
            x = block(x, tgt_mask, m, src_mask)
        return self.head(self.dec_norm(x))


class WithoutDevice(PackedTransformer):
    def forward(self, src, tgt_in, src_mask, tgt_mask):
        self.enc[0].ln1(self.src_pos(torch.arange(src.size(1))))
        return super().forward(src, tgt_in, src_mask, tgt_mask)


class PerHead(nn.Module):
    """Each head a module of its own; keys and values by einsum; a loop over heads."""

    def __init__(self, d_model, n_heads):
        super().__init__()
        shape = (n_heads, d_model, d_model // n_heads)
        self.q, self.k, self.v = (
            nn.ParameterList(torch.randn(shape[1:]) * d_model**-0.5 for _ in range(n_heads))
            for _ in range(3)
        )
        self.o = nn.Parameter(torch.randn(n_heads, shape[2], d_model) * d_model**-0.5)

    def forward(self, x, y, mask):
        out = 0
        for q, k, v, o in zip(self.q, self.k, self.v, self.o):
            scores = torch.einsum("btd,dk,bsk->bts", x, q, y @ k) / math.sqrt(q.size(1))
            scores = scores + torch.zeros_like(scores).masked_fill(~mask.squeeze(1), -1e9)
            e = (scores - scores.amax(-1, keepdim=True)).exp()
            out = out + e / e.sum(-1, keepdim=True) @ (y @ v) @ o
        return out


class HandMade(nn.Module):
    """Post-norm with heads in a loop, a gated feed-forward and no biases; frozen sinusoids."""

    def __init__(self, d_model, n_heads, d_ff, cross):
        super().__init__()
        self.attentions = nn.ModuleList(PerHead(d_model, n_heads) for _ in range(1 + cross))
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2 + cross))
        hidden = max(1, int(2 * d_ff / 3))
        self.gate, self.up = (nn.Linear(d_model, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, d_model, bias=False)

    def forward(self, x, mask, memory=None, src_mask=None):
        x = self.norms[0](x + self.attentions[0](x, x, mask))
        if memory is not None:
            x = self.norms[1](x + self.attentions[1](x, memory, src_mask))
        return self.norms[-1](x + self.down(F.silu(self.gate(x)) * self.up(x)))


class HandMadeTransformer(nn.Module):
    def __init__(self, src_vocab, tgt_vocab, d_model, n_heads, d_ff, n_layers):
        super().__init__()
        self.src = nn.Parameter(torch.randn(src_vocab, d_model))
        self.tgt = nn.Parameter(torch.randn(tgt_vocab, d_model))
        self.table = nn.Parameter(sinusoids(256, d_model), requires_grad=False)
        for i in range(n_layers):
            self.add_module(f"enc{i}", HandMade(d_model, n_heads, d_ff, False))
            self.add_module(f"dec{i}", HandMade(d_model, n_heads, d_ff, True))
        self.n_layers = n_layers

    def forward(self, src, tgt_in, src_mask=None, tgt_mask=None):
        memory = self.src[src] + self.table[None, : src.shape[1]]
        x = F.one_hot(tgt_in, len(self.tgt)).to(self.tgt) @ self.tgt
        x = x + self.table[None, : tgt_in.shape[1]]
        for i in range(self.n_layers):
            memory = getattr(self, f"enc{i}")(memory, src_mask)
        for i in range(self.n_layers):
            x = getattr(self, f"dec{i}")(x, tgt_mask, memory, src_mask)
        return x @ self.tgt.T


class Rotary(nn.Module):
    """Positions only inside self-attention (rotary), RMSNorm, one key and value for all heads."""

    def __init__(self, d_model, n_heads, rotate):
        super().__init__()
        self.n_heads, self.d_k, self.rotate = n_heads, d_model // n_heads, rotate
        self.w_q = nn.Linear(d_model, d_model, bias=False)
        self.w_kv = nn.Linear(d_model, 2 * self.d_k, bias=False)
        self.w_o = nn.Linear(d_model, d_model, bias=False)

    def turn(self, x):
        half = x.size(-1) // 2
        frequency = 100.0 ** (-torch.arange(half, device=x.device) / half)
        angle = torch.arange(x.size(-2), device=x.device)[:, None] * frequency
        a, b = x[..., :half], x[..., half : 2 * half]
        turned = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
        return torch.cat([*turned, x[..., 2 * half :]], -1)

    def forward(self, x, memory, mask):
        q = self.w_q(x).unflatten(-1, (self.n_heads, self.d_k)).transpose(1, 2)
        k, v = self.w_kv(memory)[:, None].chunk(2, -1)
        if self.rotate:
            q, k = self.turn(q), self.turn(k)
        scores = (q @ k.mT * self.d_k**-0.5).where(mask, -torch.inf)
        return self.w_o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class RotaryTransformer(nn.Module):
    def __init__(self, src_vocab, tgt_vocab, d_model, n_heads, d_ff, n_layers):
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(v, d_model) for v in (src_vocab, tgt_vocab))
        self.stacks = nn.ModuleList()
        for kinds in ("sf", "scf"):
            self.stacks.append(nn.ModuleList())
            for kind in kinds * n_layers:
                inner = (
                    nn.Sequential(
                        nn.Linear(d_model, d_ff), nn.Tanh(), nn.Dropout(0.1),
                        nn.Linear(d_ff, d_model),
                    ) if kind == "f" else Rotary(d_model, n_heads, True)
                )
                inner.kind, inner.norm = kind, nn.RMSNorm(d_model)
                self.stacks[-1].append(inner)
        self.head = nn.Sequential(nn.RMSNorm(d_model), nn.Linear(d_model, tgt_vocab, bias=False))

    def forward(self, src, tgt_in, src_mask, tgt_mask):
        memory, x = (e(t) for e, t in zip(self.embeddings, (src, tgt_in)))
        for part in self.stacks[0]:
            y = part.norm(memory)
            memory = memory + (part(y, y, src_mask) if part.kind == "s" else part[:4](y))
        for part in self.stacks[1]:
            y = part.norm(x)
            if part.kind == "f":
                x = x + part[:4](y)
            else:
                given = (y, tgt_mask) if part.kind == "s" else (memory, src_mask)
                x = x + part(y, *given)
        return self.head(x)
