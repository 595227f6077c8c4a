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
# # 03 · Attention
#
# > Attention: a soft look-up, scaled, in several heads (paper, section 3.2).

# %%
#| export
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


# %%
#| export
def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return how much each query attends to each key; every row sums to one.

    query (..., Q, Dk), key (..., K, Dk), mask boolean, True = may attend, broadcastable to
    (..., Q, K) -> (..., Q, K). A query that may attend to nothing gets a row of zeros.
    Paper, section 3.2.1.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))  # (..., Q, K)
    if mask is None:
        return scores.softmax(dim=-1)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)  # an all-False row would be NaN


# %%
#| export
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the weighted mean of the values for each query, and the weights.

    query (..., Q, Dk), key (..., K, Dk), value (..., K, Dv), mask as in `attention_weights`
    -> output (..., Q, Dv), weights (..., Q, K). Paper, equation 1.
    """
    weights = attention_weights(query, key, mask)
    return weights @ value, weights


# %%
#| export
class MultiHeadAttention(nn.Module):
    """Attend `n_heads` times in parallel, each head in a subspace of its own.

    Called (query, key, value, mask=None) with query (B, Q, D), key and value (B, K, D), mask
    boolean, True = may attend, broadcastable to (B, H, Q, K) -> (B, Q, D). `d_k` and `d_v` are
    d_model / n_heads unless given. Raises ValueError if that division leaves a remainder.
    Paper, section 3.2.2; without biases, as its equation has none.
    """

    def __init__(
        self, d_model: int, n_heads: int, d_k: int | None = None, d_v: int | None = None
    ) -> None:
        super().__init__()
        if (d_k is None or d_v is None) and d_model % n_heads:
            raise ValueError(
                f"d_model={d_model} does not divide into n_heads={n_heads}: "
                "choose a divisor, or give d_k and d_v"
            )
        self.n_heads = n_heads
        d_k, d_v = d_k or d_model // n_heads, d_v or d_model // n_heads
        self.w_q = nn.Linear(d_model, n_heads * d_k, bias=False)
        self.w_k = nn.Linear(d_model, n_heads * d_k, bias=False)
        self.w_v = nn.Linear(d_model, n_heads * d_v, bias=False)
        self.w_o = nn.Linear(n_heads * d_v, d_model, bias=False)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, L, H*Dk) -> (B, H, L, Dk)

    def merge_heads(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(-2)  # (B, H, L, Dv) -> (B, L, H*Dv)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        query = self.split_heads(self.w_q(query))  # (B, H, Q, Dk)
        key = self.split_heads(self.w_k(key))  # (B, H, K, Dk)
        value = self.split_heads(self.w_v(value))  # (B, H, K, Dv)
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.w_o(self.merge_heads(heads))  # (B, Q, D)

    def weights(
        self, query: Tensor, key: Tensor, value: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` keeps to itself: the attention weights, (B, H, Q, K)."""
        query, key = self.split_heads(self.w_q(query)), self.split_heads(self.w_k(key))
        return attention_weights(query, key, mask)


# %%
#| export
@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the weights of every `MultiHeadAttention` in `model` while the block is open.

    Yields a dict from module name to the weights of its latest call, (B, H, Q, K), without
    gradient. Outside the block the model does no extra work.
    """
    recorded: dict[str, Tensor] = {}

    def recorder(name: str):
        @torch.no_grad()
        def hook(module, args, kwargs, output) -> None:
            recorded[name] = module.weights(*args, **kwargs)

        return hook

    handles = [
        module.register_forward_hook(recorder(name or "attention"), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, MultiHeadAttention)
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
