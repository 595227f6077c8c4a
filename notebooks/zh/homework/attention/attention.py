# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 作业 · 注意力
#
# 你要写出论文的核心，从 softmax 一直到多个头。时间 80 分钟，除了 torch，只能靠自己的脑子。先合上[课文](../../03_attention.ipynb)。查资料可以，照抄不行：自己写出来的，才是自己的。
#
# `check` 想运行几次都行。它每次换一批新的数来试，指出哪里错了，常常还会说明原因，再给一条对症的提示（三条提示全在题卡下面，卡住时再看）。每道练习的第二个 check 单元格用来打分：用 *Run All*（全部运行）时，一遇到还没通过的练习就停在那里，最后几行写着原因。B 是批次大小，L 是词数，D 是 d_model，H 是头数，Q 和 K 是查询和键的个数。

# %%
import math

import torch
from torch import Tensor, nn

from course.homework import check

# %% [markdown]
# <!-- card: softmax -->
# ## `softmax`
#
# 把任意的数变成权重：每个数取指数，再除以沿 `dim` 的总和。
#
# **为什么重要。** 注意力是加权平均，softmax 算的就是其中的权重。在 float16 里，大于 11 的数一取指数就会溢出；softmax 写得不稳定，真正训练时就会前功尽弃。
#
# ★★☆☆☆ · 10 分钟 · 2 分
#
# ```text
# softmax(x, dim) -> 形状和类型同 x，沿 dim 求和为 1
# x 里可以有 -inf：它的权重是 0
# ```
#
# <details><summary>提示 1</summary>
#
# 两步：每个数取指数，再除以一个和。如果 x 有三个维，dim 是中间那个，每个和加的是哪些数？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# e / e.sum(dim, keepdim=True)：keepdim 保留求和的那一维，大小为 1，这样除法才对得上。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# 大于 88 的数，取指数会溢出。一行里所有的 x 都减去同一个数，商不变。那就减去最大的那个，x.amax(dim, keepdim=True)，这样要取指数的数都不会大于 0。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "b73a4b984b38b1ce64b2bf1fb6985196", "grade": false, "grade_id": "softmax", "locked": false, "schema_version": 3, "solution": true, "task": false}
def softmax(x: Tensor, dim: int) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("softmax", softmax)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "b4018e7c8af64351b30cd1471003eb14", "grade": true, "grade_id": "softmax-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("softmax", softmax, strict=True).passed

# %% [markdown]
# <!-- card: scaled_dot_product_attention -->
# ## `scaled_dot_product_attention`
#
# 论文的公式 1，带掩码。一个查询如果什么都不能关注，得到的就是零。
#
# **为什么重要。** 论文的全部想法就在这三行里：Transformer 的其余部分，不是为它准备输入，就是替它收尾。
#
# ★★★☆☆ · 20 分钟 · 3 分
#
# ```text
# scaled_dot_product_attention(query, key, value, mask=None) -> (output, weights)
# query (..., Q, Dk)，key (..., K, Dk)，value (..., K, Dv)，mask 是布尔型，True =
#     可以关注，能广播到 (..., Q, K)
# output (..., Q, Dv)，weights (..., Q, K)
# ```
#
# <details><summary>提示 1</summary>
#
# 三步：分数 (..., Q, K)，权重 (..., Q, K)，输出 (..., Q, Dv)。在每一行旁边写上形状。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# scores = query @ key.transpose(-2, -1) / math.sqrt(Dk)。掩码为 False 的地方，分数取 -inf，权重就是 0。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# 一整行都遮住时，softmax 的结果是 NaN（0 / 0）。用 weights.masked_fill(~mask, 0) 补救，别的数都不变。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "bf3d9ede49d8cf3c8dcef0ac7524431d", "grade": false, "grade_id": "sdpa", "locked": false, "schema_version": 3, "solution": true, "task": false}
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError  # your code


# %%
check("scaled_dot_product_attention", scaled_dot_product_attention)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "8f06692f9e2bf1b8d2af63e527c45901", "grade": true, "grade_id": "sdpa-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("scaled_dot_product_attention", scaled_dot_product_attention, strict=True).passed

# %% [markdown]
# <!-- card: split_heads -->
# ## `split_heads`
#
# 把每个词的特征切成 n_heads 等份，并把头的那一维放到词的前面。
#
# **为什么重要。** 这样，头就相当于又一个批次维，一次矩阵乘法就能同时算完所有的头。
#
# ★★☆☆☆ · 10 分钟 · 2 分
#
# ```text
# split_heads(x, n_heads): x (B, L, D) -> (B, H, L, D / H)
# 头 0 取每个词的前 D / H 个特征
# ```
#
# <details><summary>提示 1</summary>
#
# 两步：把最后一维切成两维，再交换两个维。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 切开之后，形状是 (B, L, H, D / H)。哪两个维要换位置？
#
# </details>
#
# <details><summary>提示 3</summary>
#
# 切开用 x.unflatten(-1, (n_heads, -1))；交换用 transpose(1, 2)。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "fe528dc729dc257c57be245163eda011", "grade": false, "grade_id": "split_heads", "locked": false, "schema_version": 3, "solution": true, "task": false}
def split_heads(x: Tensor, n_heads: int) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("split_heads", split_heads)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "ecee3396f5bdab59284d2cc5ade42452", "grade": true, "grade_id": "split_heads-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("split_heads", split_heads, strict=True).passed

# %% [markdown]
# <!-- card: merge_heads -->
# ## `merge_heads`
#
# 把 split_heads 倒过来做：对每个词，把各个头的输出并排放好。
#
# **为什么重要。** 这就是论文的 Concat(head_1, ..., head_h)。注意力代码里最隐蔽的错误就出在这里：一个 reshape 把不同的词混在一起，却不报错。
#
# ★★☆☆☆ · 10 分钟 · 2 分
#
# ```text
# merge_heads(x): x (B, H, L, Dv) -> (B, L, H * Dv)
# 头 0 的特征排在最前
# ```
#
# <details><summary>提示 1</summary>
#
# 两步，就是 split_heads 的两步倒过来。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 先交换头和词，让 H 和 Dv 相邻；再把最后两维合起来。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# 先 x.transpose(1, 2)，再 flatten(-2)。这里用 view 会报错：transpose 只改步幅，不搬动数据。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "0ab803eb92a5201218da2a0bc04102b3", "grade": false, "grade_id": "merge_heads", "locked": false, "schema_version": 3, "solution": true, "task": false}
def merge_heads(x: Tensor) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("merge_heads", merge_heads)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "9d4741a24480bfdfaba7b3c9b19efa54", "grade": true, "grade_id": "merge_heads-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("merge_heads", merge_heads, strict=True).passed

# %% [markdown]
# <!-- card: MultiHeadAttention -->
# ## `MultiHeadAttention`
#
# 投影，切成多个头，各自做注意力，合并，再投影一次。
#
# **为什么重要。** 一个头只做一个加权平均，所以只能看一个地方。几个头就能看几个地方，计算量却差不多。
#
# ★★★★☆ · 30 分钟 · 4 分
#
# ```text
# MultiHeadAttention(d_model, n_heads): 一个 nn.Module，有 w_q、w_k、w_v、w_o，各
#     是 nn.Linear(d_model, d_model)，偏置要不要都行
# 调用 (query, key, value, mask=None)：query (B, Q, D)，key 和 value (B, K, D)，
#     mask 能广播到 (B, H, Q, K) -> (B, Q, D)，也可以连同权重返回一对
# ```
#
# <details><summary>提示 1</summary>
#
# 部件你都有了：四个线性层（Linear）、split_heads、scaled_dot_product_attention、merge_heads。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# d_k 等于 d_model / n_heads；缩放用的是 d_k，不是 d_model。掩码送进来时已经可以对各个头广播：原样往下传就行。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# heads, _ = scaled_dot_product_attention(*(split_heads(w(x), n_heads)，对每一对 w 和 x), mask)；return self.w_o(merge_heads(heads))。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "7551f16f5fa316f1e67094a91b4ea0c8", "grade": false, "grade_id": "multi_head", "locked": false, "schema_version": 3, "solution": true, "task": false}
class MultiHeadAttention(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        raise NotImplementedError  # your code

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError  # your code


# %%
check("MultiHeadAttention", MultiHeadAttention)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "f67c8f3025dc68c1888a6bf7593505d6", "grade": true, "grade_id": "multi_head-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("MultiHeadAttention", MultiHeadAttention, strict=True).passed

# %% [markdown]
# 点了 *Run All*，页面跳到这里，上面却有单元格没有编号？那是运行停在了第一道还没通过的练习；原因写在那道练习的第二个 check 单元格下面。
#
# 全绿了？那么论文标题说的那个函数，你已经写出来了。成绩会汇总成报告：运行 `python -m course homework report`，生成 `build/report.html`，留给你自己看。老师要打分的话，交的是这个笔记本本身。接下来是[掩码](../masking/masking.ipynb)。
