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
# # 04 · Masking
#
# > Masks: what a position may see, and the batch that carries them (paper, sections 3.1 and 3.2.3).

# %%
#| export
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


# %%
#| export
def padding_mask(tokens: Tensor, pad_id: int) -> Tensor:
    """Return which keys are real tokens: tokens (B, K) -> (B, 1, 1, K), True = may attend."""
    return (tokens != pad_id)[:, None, None, :]


# %%
#| export
def causal_mask(size: int, device: torch.device | str | None = None) -> Tensor:
    """Return which keys lie at or before each query: (1, 1, size, size), True = may attend.

    Paper, section 3.2.3: no leftward flow of information in the decoder.
    """
    return torch.ones(1, 1, size, size, dtype=torch.bool, device=device).tril()


# %%
#| export
def combine_masks(*masks: Tensor | None) -> Tensor | None:
    """Return the mask that allows what every given mask allows; None stands for no restriction."""
    combined = None
    for mask in masks:
        if mask is not None:
            combined = mask if combined is None else combined & mask
    return combined


# %%
#| export
def shift_right(tgt: Tensor, bos_id: int) -> Tensor:
    """Return the decoder's input: `bos_id` first, then tgt (B, T) without its last column."""
    return torch.cat([torch.full_like(tgt[:, :1], bos_id), tgt[:, :-1]], dim=1)


# %%
#| export
@dataclass(frozen=True)
class Batch:
    """Sentences of several lengths in one rectangle, with the masks that undo the padding.

    src (B, S); tgt_in, tgt_out (B, T): what the decoder reads and what it must predict;
    src_mask (B, 1, 1, S), tgt_mask (B, 1, T, T): boolean, True = may attend; n_tokens: the real
    tokens of tgt_out.
    """

    src: Tensor
    tgt_in: Tensor
    tgt_out: Tensor
    src_mask: Tensor
    tgt_mask: Tensor
    n_tokens: int

    @classmethod
    def from_sequences(
        cls, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]], pad_id: int, bos_id: int
    ) -> "Batch":
        """Pad token ids (each ending in its eos) on the right and build the masks."""
        src_ids, tgt_ids = pad(src, pad_id), pad(tgt, pad_id)
        tgt_in = shift_right(tgt_ids, bos_id)
        return cls(
            src=src_ids,
            tgt_in=tgt_in,
            tgt_out=tgt_ids,
            src_mask=padding_mask(src_ids, pad_id),
            tgt_mask=combine_masks(padding_mask(tgt_in, pad_id), causal_mask(tgt_in.size(1))),
            n_tokens=int((tgt_ids != pad_id).sum()),
        )

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(
            **{k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}
        )


# %%
#| export
def pad(sequences: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Return the sequences as the rows of one tensor, (B, longest), filled up with `pad_id`."""
    longest = max(len(s) for s in sequences)
    return torch.tensor([[*s, *[pad_id] * (longest - len(s))] for s in sequences])
