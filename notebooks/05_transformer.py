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
# # 05 · The Transformer
#
# > The Transformer: embeddings, positions, sub-layers, layers, stacks (paper, section 3).

# %%
#| export
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course.attention import MultiHeadAttention


# %%
#| export
@dataclass(frozen=True)
class TransformerConfig:
    """The sizes and choices that make one Transformer; the defaults are the paper's base model.

    Raises ValueError for sizes that do not fit together. Paper, table 3.
    """

    src_vocab: int
    tgt_vocab: int
    d_model: int = 512
    n_heads: int = 8
    d_ff: int = 2048
    n_layers: int = 6
    d_k: int | None = None
    d_v: int | None = None
    dropout: float = 0.1
    norm: Literal["post", "pre"] = "post"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    tie_embeddings: bool = True
    max_len: int = 512

    def __post_init__(self) -> None:
        if self.tie_embeddings and self.src_vocab != self.tgt_vocab:
            raise ValueError(
                f"tied embeddings need one vocabulary, not src_vocab={self.src_vocab} and "
                f"tgt_vocab={self.tgt_vocab}: make them equal, or set tie_embeddings=False"
            )
        for name, known in (("norm", ("post", "pre")), ("positions", ("sinusoidal", "learned"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: choose from {known}")

    @classmethod
    def base(cls, vocab: int) -> "TransformerConfig":
        """Return the paper's base model over one shared vocabulary."""
        return cls(vocab, vocab)

    @classmethod
    def big(cls, vocab: int) -> "TransformerConfig":
        """Return the paper's big model over one shared vocabulary."""
        return cls(vocab, vocab, d_model=1024, d_ff=4096, n_heads=16, dropout=0.3)


# %%
#| export
class TokenEmbedding(nn.Module):
    """Look up a vector for each token: (B, L) -> (B, L, D), scaled by sqrt(d_model).

    The table starts as N(0, 1/d_model), so that what comes out has unit variance.
    Paper, section 3.4.
    """

    def __init__(self, vocab: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocab, d_model) * d_model**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight) * math.sqrt(self.weight.size(1))


# %%
#| export
def positional_encoding(length: int, d_model: int) -> Tensor:
    """Return sines (even columns) and cosines (odd columns) of falling frequency, (length, D).

    Paper, section 3.5.
    """
    position = torch.arange(length, dtype=torch.float32)[:, None]  # (L, 1)
    frequency = 10_000.0 ** (-torch.arange(0, d_model, 2) / d_model)  # (D/2,)
    angle = position * frequency  # (L, D/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :d_model]


# %%
#| export
class PositionalEncoding(nn.Module):
    """Add to each vector a pattern that says where it stands: (B, L, D) -> (B, L, D), then drop out.

    Sinusoids go on for any length; learned positions end at `max_len` (ValueError beyond).
    Paper, sections 3.5 and 5.4.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.learned = config.positions == "learned"
        if self.learned:
            self.table = nn.Parameter(torch.randn(config.max_len, config.d_model) * 0.02)
        else:
            table = positional_encoding(config.max_len, config.d_model)
            self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        length = x.size(1)
        if length > len(self.table):
            if self.learned:
                raise ValueError(
                    f"a sentence of {length} tokens, but learned positions end at "
                    f"max_len={len(self.table)}: shorten it, or use sinusoidal positions"
                )
            self.table = positional_encoding(length, x.size(2)).to(x.device)
        return self.dropout(x + self.table[:length])


# %%
#| export
def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Return each vector of x (..., D) with mean 0 and variance 1, then times gain plus bias (D,).

    Ba et al. 2016: the variance is the biased one, eps stands inside the root.
    """
    mean = x.mean(-1, keepdim=True)
    variance = x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias


# %%
#| export
class LayerNorm(nn.Module):
    """Normalise each vector, with a learned gain and bias: (..., D) -> (..., D)."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # `layer_norm` above in one fused kernel
        return F.layer_norm(x, self.gain.shape, self.gain, self.bias, self.eps)


# %%
#| export
class FeedForward(nn.Module):
    """Widen each position to `d_ff`, keep what is positive, narrow again: (B, L, D) -> (B, L, D).

    Paper, equation 2.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(d_model, d_ff)
        self.w_2 = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(torch.relu(self.w_1(x)))


# %%
#| export
class Residual(nn.Module):
    """Add what a sub-layer finds to what came in, and normalise: (B, L, D) -> (B, L, D).

    post: norm(x + dropout(sublayer(x))), as the paper prints it (section 3.1);
    pre: x + dropout(sublayer(norm(x))), as its code came to do.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.pre = config.norm == "pre"

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))


# %%
#| export
def attention_of(config: TransformerConfig) -> MultiHeadAttention:
    """Return a fresh attention sub-layer of the configured sizes."""
    return MultiHeadAttention(config.d_model, config.n_heads, config.d_k, config.d_v)


# %%
#| export
class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each in a residual: x (B, S, D), mask -> (B, S, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attention = attention_of(config)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.residuals = nn.ModuleList(Residual(config) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.residuals[0](x, lambda x: self.self_attention(x, x, x, mask))
        return self.residuals[1](x, self.feed_forward)


# %%
#| export
class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the source, feed-forward, each in a residual.

    x (B, T, D), memory (B, S, D), src_mask (B, 1, 1, S), tgt_mask (B, 1, T, T) -> (B, T, D).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attention = attention_of(config)
        self.cross_attention = attention_of(config)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.residuals = nn.ModuleList(Residual(config) for _ in range(3))

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        x = self.residuals[0](x, lambda x: self.self_attention(x, x, x, tgt_mask))
        x = self.residuals[1](x, lambda x: self.cross_attention(x, memory, memory, src_mask))
        return self.residuals[2](x, self.feed_forward)


# %%
#| export
class Encoder(nn.Module):
    """`n_layers` encoder layers; a pre-norm stack ends in one more norm: (B, S, D) -> (B, S, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model) if config.norm == "pre" else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


# %%
#| export
class Decoder(nn.Module):
    """`n_layers` decoder layers; a pre-norm stack ends in one more norm: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model) if config.norm == "pre" else nn.Identity()

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        for layer in self.layers:
            x = layer(x, memory, src_mask, tgt_mask)
        return self.norm(x)


# %%
#| export
class Transformer(nn.Module):
    """The whole model: src (B, S), tgt_in (B, T) and their masks -> logits (B, T, V).

    `encode`, `decode` and `project` are its three steps, for a decoder that takes them one by one.
    Paper, figure 1.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.src_embedding = TokenEmbedding(config.src_vocab, config.d_model)
        self.tgt_embedding = (
            self.src_embedding
            if config.tie_embeddings
            else TokenEmbedding(config.tgt_vocab, config.d_model)
        )
        self.positions = PositionalEncoding(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.w_vocab = nn.Linear(config.d_model, config.tgt_vocab, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name and "positions" not in name:
                nn.init.xavier_uniform_(parameter)
        if config.tie_embeddings:
            self.w_vocab.weight = self.tgt_embedding.weight

    def encode(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """Read the source once: (B, S) -> memory (B, S, D)."""
        return self.encoder(self.positions(self.src_embedding(src)), src_mask)

    def decode(
        self,
        tgt_in: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        """Read what is written so far and the memory: (B, T) -> states (B, T, D)."""
        x = self.positions(self.tgt_embedding(tgt_in))
        return self.decoder(x, memory, src_mask, tgt_mask)

    def project(self, states: Tensor) -> Tensor:
        """Score every word of the vocabulary: (..., D) -> logits (..., V)."""
        return self.w_vocab(states)

    def forward(
        self,
        src: Tensor,
        tgt_in: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        memory = self.encode(src, src_mask)
        return self.project(self.decode(tgt_in, memory, src_mask, tgt_mask))
