"""The two paths through attention as contestants: every weight written down, or none."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from course.attention import scaled_dot_product_attention
from course.bench.jobs import AttentionJob
from course.masking import causal_mask


def passes(
    job: AttentionJob, attend: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Callable[[int], int]:
    """Return work that attends over `length` positions, forward and back."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)

    def random_tensor(length: int) -> Tensor:
        return torch.randn(job.batch, job.heads, length, job.d_k, device=job.device)

    inputs = {n: [random_tensor(n).requires_grad_() for _ in "qkv"] for n in job.lengths}
    gradient = {n: random_tensor(n) for n in job.lengths}

    def work(length: int) -> int:
        for _ in range(job.passes(length)):
            torch.autograd.grad(attend(*inputs[length]), inputs[length], gradient[length])
        return job.passes(length)

    work(job.lengths[0])  # what the first call alone needs is not the attention's
    return work


def manual(job: AttentionJob) -> Callable[[int], int]:
    """Return lesson 03's attention: scores, mask and weights are (H, length, length) tensors."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mask = causal_mask(query.size(-2), query.device)
        return scaled_dot_product_attention(query, key, value, mask)[0]

    return passes(job, attend)


def fused(job: AttentionJob) -> Callable[[int], int]:
    """Return torch's fused attention, which goes through the keys block by block."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)

    return passes(job, attend)


def flash(job: AttentionJob) -> Callable[[int], int]:
    """Return torch's flash attention alone, in bfloat16: it raises where the device has none."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        inputs = (x.bfloat16() for x in (query, key, value))
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(*inputs, is_causal=True).float()

    return passes(job, attend)
