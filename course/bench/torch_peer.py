"""torch's own nn.Transformer as a contestant: same sizes, same batches, a plain good loop."""

import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course.bench.flops import flops_of
from course.bench.jobs import TrainJob
from course.bench.race import Work


class TorchTransformer(nn.Module):
    """nn.Transformer between tied embeddings: src (B, S), tgt_in (B, T) -> logits (B, T, V).

    It has what ours leaves out: biases in attention. Its one dropout rate also drops attention
    weights and the inside of the feed-forward layer; with `same_dropout` it drops only what ours
    does.
    """

    def __init__(
        self, src_vocab: int, tgt_vocab: int, d_model: int = 512, n_heads: int = 8,
        d_ff: int = 2048, n_layers: int = 6, dropout: float = 0.1, norm: str = "post",
        pad_id: int = 0, max_len: int = 512, same_dropout: bool = False,
    ) -> None:
        super().__init__()
        if src_vocab != tgt_vocab:
            raise ValueError("one vocabulary, please: source and target share their embedding")
        self.pad_id, self.scale = pad_id, math.sqrt(d_model)
        self.embedding = nn.Embedding(tgt_vocab, d_model)
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)
        frequency = 10_000.0 ** (-torch.arange(0, d_model, 2) / d_model)
        angle = torch.arange(max_len)[:, None] * frequency
        table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
        self.register_buffer("positions", table, persistent=False)
        self.dropout = nn.Dropout(dropout)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of nested tensors, which only inference would use
            self.transformer = nn.Transformer(
                d_model, n_heads, n_layers, n_layers, d_ff, dropout, batch_first=True,
                norm_first=norm == "pre",
            )
        if same_dropout:
            for module in self.transformer.modules():
                if isinstance(module, nn.MultiheadAttention):
                    module.dropout = 0.0
                if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
                    module.dropout = nn.Identity()

    def embed(self, tokens: Tensor) -> Tensor:
        return self.dropout(
            self.embedding(tokens) * self.scale + self.positions[: tokens.size(1)]
        )

    def forward(self, src: Tensor, tgt_in: Tensor) -> Tensor:
        # no mask for the padding of tgt_in: it lies behind every real token, so causality hides it
        causal = nn.Transformer.generate_square_subsequent_mask(
            tgt_in.size(1), device=tgt_in.device, dtype=torch.bool
        )
        src_padding = src == self.pad_id
        states = self.transformer(
            self.embed(src), self.embed(tgt_in), tgt_mask=causal, tgt_is_causal=True,
            src_key_padding_mask=src_padding, memory_key_padding_mask=src_padding,
        )
        return F.linear(states, self.embedding.weight)


def batch_of(batch: list, job: TrainJob) -> tuple[Tensor, Tensor, Tensor]:
    """Return source, decoder input and target of a batch, padded to its longest."""
    src, tgt = zip(*batch)
    tgt_in = [[job.bos_id, *ids[:-1]] for ids in tgt]
    return tuple(
        nn.utils.rnn.pad_sequence(
            [torch.tensor(ids) for ids in side], batch_first=True, padding_value=job.pad_id
        ).to(job.device)
        for side in (src, tgt_in, tgt)
    )


def nn_transformer(job: TrainJob, same_dropout: bool = False) -> Callable[[], Work]:
    """Return steps of nn.Transformer on the sorted batches: fused Adam, clipping, float32."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    model = TorchTransformer(**job.model, pad_id=job.pad_id, same_dropout=same_dropout)
    model.to(job.device).train()
    optimizer = torch.optim.Adam(model.parameters(), job.rate, job.betas, job.eps, fused=True)
    batches = [batch_of(batch, job) for batch in job.batches]
    sizes = SimpleNamespace(**{"d_k": None, "d_v": None, **job.model})
    flops = 3 * sum(flops_of(sizes, batch) for batch in job.batches)

    def work() -> Work:
        for src, tgt_in, tgt in batches:
            loss = F.cross_entropy(
                model(src, tgt_in).flatten(0, 1), tgt.flatten(), ignore_index=job.pad_id,
                label_smoothing=job.label_smoothing,
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), job.clip)
            optimizer.step()
        return Work(job.tokens, flops, {"loss": loss.item()})

    return work
