"""Floating-point operations, counted from shapes, and how many the device can do."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from course.bench.race import Work


class Sizes(Protocol):
    """What `flops_of` must know of a model: `course.transformer.TransformerConfig` has it."""

    d_model: int
    n_heads: int
    d_ff: int
    n_layers: int
    d_k: int | None
    d_v: int | None
    tgt_vocab: int


def flops_of(config: Sizes, batch: Sequence[tuple[Sequence[int], Sequence[int]]]) -> int:
    """Return the useful floating-point operations of a forward pass: its matrix products.

    batch: (source ids, target ids) of each sentence. Only these real tokens count, whatever a
    program pads or computes twice. A product of (n, m) and (m, p) costs 2nmp. Attention counts
    every query with every key of its sentence, also those that the causal mask hides, as the
    paper's table 1 does. Look-ups, norms, softmax and sums are left out. Training costs three times
    as much: the backward pass has two products for each one here.
    """
    d, h = config.d_model, config.n_heads
    k, v = h * (config.d_k or d // h), h * (config.d_v or d // h)

    def attention(queries: int, keys: int) -> int:
        maps = queries * d * k + keys * d * (k + v) + queries * v * d
        return 2 * (maps + queries * keys * (k + v))

    total = 0
    for src, tgt in batch:
        s, t = len(src), len(tgt)
        feed_forward = 4 * d * config.d_ff
        encoder = attention(s, s) + s * feed_forward
        decoder = attention(t, t) + attention(t, s) + t * feed_forward
        total += config.n_layers * (encoder + decoder) + 2 * t * d * config.tgt_vocab
    return total


def matrix_product(
    dtype: str, size: int, device: str, threads: int, seconds: float = 0.5
) -> Callable[[], Work]:
    """Return work that multiplies two (size, size) matrices for about so many seconds."""
    import torch

    torch.set_num_threads(threads)
    kind = getattr(torch, dtype)
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    out = torch.empty_like(a)

    def multiply(times: int) -> Work:
        for _ in range(times):
            torch.mm(a, b, out=out)
        flops = 2 * size**3 * times
        out[0, 0].item()  # waits for the device
        return Work(flops, flops)

    multiply(1)
    begun = time.perf_counter()
    multiply(2)
    times = max(1, round(2 * seconds / (time.perf_counter() - begun)))
    return lambda: multiply(times)
