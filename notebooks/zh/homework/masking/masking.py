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
# # 作业 · 掩码
#
# 你要写三个小函数，有了它们，Transformer 才作不了弊。时间 15 分钟。先合上[课文](../../04_masking.ipynb)。查资料可以，照抄不行：自己写出来的，才是自己的。
#
# 这几个函数都只有一行，却都很容易写错，而且错了也不报错。所以动手之前，先拿一个三个词的句子，用手画出它的表。`check` 想运行几次都行。它每次换一批新的数来试，指出哪里错了，常常还会说明原因，再给一条对症的提示（三条提示全在题卡下面，卡住时再看）。每道练习的第二个 check 单元格用来打分：用 *Run All*（全部运行）时，一遇到还没通过的练习就停在那里，最后几行写着原因。B 是批次大小，T 是词数，Q 和 K 是查询和键的个数。
#
# 在这门课里，掩码是布尔型，True 表示“可以关注”。

# %%
import torch
from torch import Tensor

from course.homework import check

# %% [markdown]
# <!-- card: padding_mask -->
# ## `padding_mask`
#
# 对每个句子，标出哪些键是词，哪些只是补齐长度用的填充。大小为 1 的两个维，一个代表所有的头，一个代表所有的查询。
#
# **为什么重要。** 没有它，一个句子只要在批次里遇上更长的句子，译文就会变。
#
# ★☆☆☆☆ · 5 分钟 · 1 分
#
# ```text
# padding_mask(tokens, pad_id): tokens (B, K) -> 布尔型 (B, 1, 1, K)，True = 可以
#     关注
# ```
#
# <details><summary>提示 1</summary>
#
# 掩码与查询有关吗？在 B、H、Q、K 里，它取决于哪几个？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 一次比较就得到布尔型的 (B, K)。然后中间还缺两个维。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# tokens != pad_id 就是掩码；[:, None, None, :] 补上两个维。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "95664abe4ec9b475beafdadcc868ba94", "grade": false, "grade_id": "padding_mask", "locked": false, "schema_version": 3, "solution": true, "task": false}
def padding_mask(tokens: Tensor, pad_id: int) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("padding_mask", padding_mask)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "2851603ea56f8092a260b359ab4375fb", "grade": true, "grade_id": "padding_mask-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("padding_mask", padding_mask, strict=True).passed

# %% [markdown]
# <!-- card: causal_mask -->
# ## `causal_mask`
#
# 让每个词都能看到自己和前面的词，后面的一个也看不到。
#
# **为什么重要。** 有了这个三角形，算一遍就能训练所有位置。没有它，模型只是照抄下一个词：损失接近零，却连一个句子都写不出来。
#
# ★☆☆☆☆ · 5 分钟 · 1 分
#
# ```text
# causal_mask(size) -> 布尔型 (1, 1, size, size)，最后两维是 (Q, K)，True = 可以
#     关注
# ```
#
# <details><summary>提示 1</summary>
#
# 用手写出三个词的表。第 i 行是一个查询：它可以看哪些列 j？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# j <= i 时，查询 i 可以看键 j。这是一个三角形：在对角线下方，还是上方？
#
# </details>
#
# <details><summary>提示 3</summary>
#
# torch.ones(size, size, dtype=torch.bool).tril() 就是三角形；前面还缺两个维。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "02e0d670c687c9a9cff53d081b165593", "grade": false, "grade_id": "causal_mask", "locked": false, "schema_version": 3, "solution": true, "task": false}
def causal_mask(size: int) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("causal_mask", causal_mask)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "7ace9397953b8b9b690a1239db30068a", "grade": true, "grade_id": "causal_mask-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("causal_mask", causal_mask, strict=True).passed

# %% [markdown]
# 现在把你的两个掩码合起来，解码器都是这样做的：一个词不是填充，**并且**不在未来，才可以看。下面有两个句子，第二个只有两个词。运行单元格之前先想：第二张表的哪些列是空的？

# %%
tokens = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]])
both = padding_mask(tokens, pad_id=0) & causal_mask(4)  # (B, 1, 1, K) & (1, 1, Q, K)
for sentence in both[:, 0]:
    print("\n".join(" ".join("■" if seen else "·" for seen in row) for row in sentence), end="\n\n")

# %% [markdown]
# <!-- card: shift_right -->
# ## `shift_right`
#
# 由解码器要预测的序列，得出它要读的输入（tgt_in）：每个词元往右移一位。
#
# **为什么重要。** 右移与因果掩码缺一不可：在位置 t，解码器读过的是 t 之前的词，要预测的是词 t。
#
# ★☆☆☆☆ · 5 分钟 · 1 分
#
# ```text
# shift_right(tgt, bos_id): tgt (B, T) -> (B, T)，新的张量：先是 bos_id，再是去掉
#     最后一列的 tgt
# ```
#
# <details><summary>提示 1</summary>
#
# 拿一个句子写写看：要预测的是 [a, b, c, </s>]。每个位置读到的是什么？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 把一列 bos_id，即 (B, 1)，和去掉最后一列的 tgt，即 (B, T - 1)，并排放好。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# torch.full_like(tgt[:, :1], bos_id) 是那一列；torch.cat([..., ...], dim=1) 把两者连起来。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "602c70fdb8d9fdc613abac16ffb86544", "grade": false, "grade_id": "shift_right", "locked": false, "schema_version": 3, "solution": true, "task": false}
def shift_right(tgt: Tensor, bos_id: int) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("shift_right", shift_right)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "c55ef1bcee151943578d91e162f6c99c", "grade": true, "grade_id": "shift_right-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("shift_right", shift_right, strict=True).passed

# %% [markdown]
# 下面列出解码器在每个位置读到的词，以及在同一位置要预测的词。只要掩码遮住后面的词，解码器在任何位置都还没有读过要预测的词。

# %%
words = ["<pad>", "<s>", "</s>", "a", "dog", "runs"]
tgt_out = torch.tensor([[3, 4, 5, 2]])
for reads, predicts in zip(shift_right(tgt_out, bos_id=1)[0], tgt_out[0]):
    print(f"reads {words[reads]:5} predicts {words[predicts]}")

# %% [markdown]
# 点了 *Run All*，页面跳到这里，上面却有单元格没有编号？那是运行停在了第一道还没通过的练习；原因写在那道练习的第二个 check 单元格下面。
#
# 全绿了？那你的解码器就作不了弊。通过的练习会汇总成报告：运行 `python -m course homework report`，生成 `build/report.html`，留给你自己看。老师要打分的话，交的是这个笔记本本身。接下来是 [Transformer 的层](../transformer/transformer.ipynb)。
