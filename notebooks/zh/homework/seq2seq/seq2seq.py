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
# # 作业 · 序列到序列
#
# 先写最早的注意力，打破瓶颈的就是它；再写记忆网络的一跳，这种网络会反复看好几遍。时间 25 分钟，除了 torch，只能靠自己的脑子。先合上[课文](../../02_seq2seq.ipynb)。查资料可以，照抄不行：自己写出来的，才是自己的。
#
# `check` 想运行几次都行。它每次换一批新的数来试，指出哪里错了，常常还会说明原因，再给一条对症的提示（三条提示全在题卡下面，卡住时再看）。每道练习的第二个 check 单元格用来打分：用 *Run All*（全部运行）时，一遇到还没通过的练习就停在那里，最后几行写着原因。B 是批次大小，K 是键的个数（源句的词数），D 是向量的宽度，A 是打分的小网络内部的宽度。
#
# 在课文里，解码器每一步都问一次，查询的形状是 (B, T, D)。这里总共只问**一次**：查询是解码器在某一步的状态，形状是 (B, D)。

# %%
import math
from contextlib import suppress

import torch
from torch import Tensor

from course.homework import check

# %% [markdown]
# <!-- card: additive_attention -->
# ## `additive_attention`
#
# Bahdanau 的注意力，只做解码器的一步：用小网络 tanh(query w_q + key w_k) v 给每个键打分；分数对各个键做 softmax，变成权重；上下文就是键的加权和。
#
# **为什么重要。** 正是这种注意力，打破了固定向量的瓶颈。论文保留了它的想法，把小网络换成点积，这样一次矩阵乘法就能算完所有的查询。
#
# ★★☆☆☆ · 15 分钟 · 2 分
#
# ```text
# additive_attention(query, keys, w_q, w_k, v, mask=None) -> (context, weights)
# query (B, D)，keys (B, K, D)，w_q 和 w_k (D, A)，v (A,)
# 权重从右边乘，query @ w_q，与公式一样（nn.Linear 存的是转置），没有偏置
# mask (B, K) 是布尔型，True = 可以关注
# 每个句子至少有一个 True。context (B, D)，weights (B, K)
# ```
#
# <details><summary>提示 1</summary>
#
# 每个键都要与本句唯一的那个查询配对。query @ w_q 和 keys @ w_k 各是什么形状？其中一个缺了哪一维？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# (query @ w_q)[:, None] 的形状是 (B, 1, A)，会对各个键广播。tanh，再 @ v，得到分数 (B, K)。掩码为 False 的地方，分数取 -inf，权重就是 0。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# weights = scores.softmax(-1)；context = (weights[:, None] @ keys).squeeze(1)。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "4cabcfd18bb57a36b7cbce502cf2053e", "grade": false, "grade_id": "additive_attention", "locked": false, "schema_version": 3, "solution": true, "task": false}
def additive_attention(
    query: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, v: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError  # your code


# %%
check("additive_attention", additive_attention)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "161c00d2f9cbdb255eaebe911a1031b2", "grade": true, "grade_id": "additive_attention-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("additive_attention", additive_attention, strict=True).passed

# %% [markdown]
# 注意力能学会该看哪里吗？下面有六个键，每个都带着一个随机的名字（前 4 个数）和一条随机的消息（后 4 个数）。查询是其中一个键的名字，损失只要求答出这个键的消息；至于它排在哪里，谁也不告诉网络。**先猜**：正确的键，训练之前得到多少权重？训练之后呢？

# %%
torch.manual_seed(0)
place = torch.randint(6, (256,))  # where the right key stands
keys = torch.randn(256, 6, 8)
wanted = keys[torch.arange(256), place]  # (256, 8)
query = torch.cat([wanted[:, :4], torch.zeros(256, 4)], dim=1)
net = [torch.randn(8, 64) / 2, torch.randn(8, 64) / 2, torch.randn(64) / 8]  # w_q, w_k, v
optimiser = torch.optim.Adam([weight.requires_grad_() for weight in net], lr=0.02)
with suppress(NotImplementedError):  # quiet until you have written it
    for step in range(301):
        context, weights = additive_attention(query, keys, *net)
        if step % 100 == 0:
            looked = weights[torch.arange(256), place].mean().item()
            print(f"step {step:3}: the right key gets a weight of {looked:.2f}")
        loss = (context[:, 4:] - wanted[:, 4:]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

# %% [markdown]
# 训练之前，每个键分到约六分之一的权重。训练之后，虽然要的只是消息，网络却会去找名字对得上的那个键：该看哪里，是梯度教会它的。

# %% [markdown]
# <!-- card: memory_hop -->
# ## `memory_hop`
#
# 端到端记忆网络的一跳：用问题与每个事实的“索引”向量求点积，给事实打分；分数对各个事实做 softmax，变成权重；答案是各个事实的内容的加权和；再把它加到问题上。
#
# **为什么重要。** 学完第 05 课，再回头看一眼这一跳：一个查询，若干键，若干值，还把输入加到输出上。几跳叠起来，就是半个 Transformer，比论文早两年。
#
# ★☆☆☆☆ · 10 分钟 · 1 分
#
# ```text
# memory_hop(question, found_by, says) -> (question + answer, weights)
# question (B, D)，found_by 和 says (B, N, D)：N 个事实，每个有两个向量
# question + answer (B, D)，weights (B, N)
# ```
#
# <details><summary>提示 1</summary>
#
# 一个事实有两个向量，哪一个拿来与问题比较，哪一个拿来求和？这其实就是注意力，只是每个句子只有一个查询。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# (found_by @ question[..., None]) 的形状是 (B, N, 1)，每个事实一个分数。对各个事实做 softmax 之后，(weights[:, None] @ says) 的形状是 (B, 1, D)。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# weights = (found_by @ question[..., None]).squeeze(-1).softmax(-1); return question + (weights[:, None] @ says).squeeze(1), weights。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "467066d02e89596d66e036e331b5c4f0", "grade": false, "grade_id": "memory_hop", "locked": false, "schema_version": 3, "solution": true, "task": false}
def memory_hop(question: Tensor, found_by: Tensor, says: Tensor) -> tuple[Tensor, Tensor]:
    raise NotImplementedError  # your code


# %%
check("memory_hop", memory_hop)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "25b103be48bf1bc064cef60f0952188b", "grade": true, "grade_id": "memory_hop-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("memory_hop", memory_hop, strict=True).passed

# %% [markdown]
# 三个事实连成一串：*ball*（球）指向 *Anna*，*Anna* 指向 *kitchen*（厨房），*kitchen* 指向 *house*（房子）。每个词各有自己的向量。问球在哪里。**先猜**：第三跳看哪个事实？

# %%
words = ["ball", "Anna", "kitchen", "house"]
vectors = torch.eye(4)
found_by, says = 6 * vectors[None, :3], 2 * vectors[None, 1:]  # an answer is louder than the question
question = vectors[None, 0]
with suppress(NotImplementedError):  # quiet until you have written it
    for number in (1, 2, 3):
        question, weights = memory_hop(question, found_by, says)
        print(f"hop {number}: {[round(w, 2) for w in weights[0].tolist()]}")

# %% [markdown]
# 第三跳同时看两个事实。每一跳加进问题的东西都不会再消失，所以到第三跳时，*Anna* 和 *kitchen* 在问题里的分量一样重。网络经过训练，会学到能把它们区分开的向量。
#
# 点了 *Run All*，页面跳到这里，上面却有单元格没有编号？那是运行停在了第一道还没通过的练习；原因写在那道练习的第二个 check 单元格下面。
#
# 全绿了？那么论文是从哪个想法出发的，你已经掌握了。成绩会汇总成报告：运行 `python -m course homework report`，生成 `build/report.html`，留给你自己看。老师要打分的话，交的是这个笔记本本身。接下来是[不用循环的注意力](../attention/attention.ipynb)。
