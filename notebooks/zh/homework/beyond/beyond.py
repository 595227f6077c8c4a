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
# # 作业 · 论文之后
#
# 论文之后的模型改了哪些地方，句法分析器怎样训练、怎样打分，你都要亲手写出来。时间两小时，除了 torch，只能靠自己的脑子。先合上[课文](../../10_beyond.ipynb)。查资料可以，照抄不行：自己写出来的，才是自己的。
#
# `check` 想运行几次都行。它每次换一批新的值来试，指出哪里错了，常常还会说明原因，再给一条对症的提示（三条提示全在题卡下面，卡住时再看）。每道练习的第二个 check 单元格用来打分：用 *Run All*（全部运行）时，一遇到还没通过的练习就停在那里，最后几行写着原因。B 是批次大小，H 是头数，L 或 t 是词数，D 是 d_model，Dk 是一个头的宽度，V 是词表大小。

# %%
import math
import re
from collections import Counter
from contextlib import suppress

import torch
from torch import Tensor

from course.homework import check

# %% [markdown]
# <!-- card: mask_for_bert -->
# ## `mask_for_bert`
#
# 准备 BERT 的输入和答案：选出 15% 的词。其中 80% 换成 mask_id，10% 换成 0 到 vocab_size - 1 之间的随机编号，10% 不动。labels 在选中的位置写原来的词，没有选中的位置一律是 -100。
#
# **为什么重要。** 编码器看得到每个词，再问它下一个词就没有意义了。BERT 的办法是把词藏起来：层还是论文里的那些层，只是问的问题不同。torch 的 cross_entropy 遇到 -100 就跳过。
#
# ★★☆☆☆ · 15 分钟 · 2 分
#
# ```text
# mask_for_bert(tokens, mask_id, vocab_size, special_ids) -> (inputs, labels)
# tokens (B, L)，整数
# special_ids 是编号的列表，这些编号从不选中
# inputs 和 labels (B, L)，类型同 tokens
# ```
#
# <details><summary>提示 1</summary>
#
# 每个词抽两次签：先抽选不选中；选中了，再抽用三种处理里的哪一种。labels 只由第一次抽签决定。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# chosen = (torch.rand(tokens.shape) < 0.15) & ~special，其中 special = torch.isin(tokens, torch.tensor(special_ids))。再用一个 torch.rand 决定：小于 0.8 换成掩码，小于 0.9 换成随机的，否则不动。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# inputs = torch.where(chosen & (lot < 0.8), mask_id, tokens)；lot 在 0.8 与 0.9 之间的地方，再用一次 where 和 torch.randint_like(tokens, vocab_size)；labels = torch.where(chosen, tokens, -100)。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "c9e2ac24a545dcf3c09073281436cd8b", "grade": false, "grade_id": "mask_for_bert", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mask_for_bert(
    tokens: Tensor, mask_id: int, vocab_size: int, special_ids: list[int]
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError  # your code


# %%
check("mask_for_bert", mask_for_bert)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "f714c8f21319882195d79d9a2172b4f2", "grade": true, "grade_id": "mask_for_bert-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("mask_for_bert", mask_for_bert, strict=True).passed

# %% [markdown]
# 什么也没学过的模型，给 1,000 个词同样的分数。它的损失是多少？2,000 个位置里，损失是对多少个取的平均？**先猜**，再运行。

# %%
torch.manual_seed(0)
tokens = torch.randint(5, 1000, (20, 100))
with suppress(NotImplementedError):  # quiet until you have written it
    inputs, labels = mask_for_bert(tokens, 4, 1000, [0, 1, 2, 3, 4])
    loss = torch.nn.functional.cross_entropy(torch.zeros(2000, 1000), labels.flatten())
    print(f"{int((labels != -100).sum())} places are asked for; loss {loss:.2f}, ln 1000 is 6.91")

# %% [markdown]
# <!-- card: rotary -->
# ## `rotary`
#
# 把一个词的查询和键转一个角度，用来表示它在哪个位置；两个数一对，一对一对地转：(a, b) 变成 (a cos - b sin, a sin + b cos)。
#
# **为什么重要。** 两个向量转过之后，点积只取决于它们的位置相隔多远。今天的语言模型大多用这种办法（Su et al. 2021），不再加正弦。
#
# ★★★☆☆ · 20 分钟 · 3 分
#
# ```text
# rotary(x, positions): x (B, H, L, Dk)，Dk 是偶数，positions (L,) -> 形状和类型
#     同 x
# 第 (2i, 2i + 1) 个数为一对，转过的角度是 position * 10000^(-2i / Dk)
# ```
#
# <details><summary>提示 1</summary>
#
# 哪两个数是一对？第 i 对在位置 p 的角度是多少？取 Dk = 4，把这两样都写出来。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 用外积 positions[:, None] * frequencies 一次算出所有角度，形状 (L, Dk / 2)。x[..., 0::2] 是各对的第一个数，x[..., 1::2] 是第二个。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2) 把各对再拼起来。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "c6c86a9a7de87307da0f454f752ead56", "grade": false, "grade_id": "rotary", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rotary(x: Tensor, positions: Tensor) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("rotary", rotary)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "23ef98e91b687d75055c5c734b5e49de", "grade": true, "grade_id": "rotary-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("rotary", rotary, strict=True).passed

# %% [markdown]
# <!-- card: alibi_bias -->
# ## `alibi_bias`
#
# 在分数上加一个数，用来表示两个词相距多远：离得越远，这个数越低，各个头的斜率不同。
#
# **为什么重要。** 不用位置向量，什么也不用学，而且文本比训练时见过的都长，也照样能用（Press et al. 2022）。
#
# ★★☆☆☆ · 10 分钟 · 2 分
#
# ```text
# alibi_bias(n_heads, length) -> (H, L, L)，float：对查询 i 和键 j，是斜率乘以 |i
#     - j| 再取负
# 头 h（从 1 数起）的斜率是 2^(-8h / H)
# ```
#
# <details><summary>提示 1</summary>
#
# 写出三个词的 |i - j| 表。距离一远，哪个头忘得最快？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# positions[:, None] - positions[None, :] 是差的表；slopes[:, None, None] 对它广播。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# -(2.0 ** (-8 * torch.arange(1, H + 1) / H))[:, None, None] * (i - j).abs()
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "7eef5fa86c9ba601ef9b324fd69254fd", "grade": false, "grade_id": "alibi_bias", "locked": false, "schema_version": 3, "solution": true, "task": false}
def alibi_bias(n_heads: int, length: int) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("alibi_bias", alibi_bias)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "cfc4e3cfbcb079ae3713bee33fcf38a3", "grade": true, "grade_id": "alibi_bias-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("alibi_bias", alibi_bias, strict=True).passed

# %% [markdown]
# <!-- card: kv_cache_step -->
# ## `kv_cache_step`
#
# 让一个新词关注它前面的所有词和它自己，前面的词不再重算：一个头，分数除以 D 的平方根。
#
# **为什么重要。** 没有缓存，写第 n 个词就要把 n 个词都算一遍。有了缓存，生成才有现在这么快。
#
# ★★★☆☆ · 20 分钟 · 3 分
#
# ```text
# kv_cache_step(x, cache, w_q, w_k, w_v): x (B, 1, D)，cache 是 None 或 (keys,
#     values)，两者各 (B, t, D)，权重 (D, D)（nn.Linear 存的是转置），按论文的公
#     式用作 x @ w -> (output (B, 1, D), 新的 cache)
# ```
#
# <details><summary>提示 1</summary>
#
# 新词的查询、键、值，哪些以后还用得着？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 把 x 投影三次；新的键和值接在缓存的后面（dim=1）；剩下就是普通的注意力，只有一个查询，没有掩码。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# keys = key if cache is None else torch.cat([cache[0], key], dim=1)，值也一样；softmax(query @ keys.mT / sqrt(D)) @ values。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "278d3c7f5bf58a588c251b64c7e0efd6", "grade": false, "grade_id": "kv_cache_step", "locked": false, "schema_version": 3, "solution": true, "task": false}
def kv_cache_step(
    x: Tensor, cache: tuple[Tensor, Tensor] | None, w_q: Tensor, w_k: Tensor, w_v: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    raise NotImplementedError  # your code


# %%
check("kv_cache_step", kv_cache_step)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "79e83fa79e1ea70809ea7bb20b1490bb", "grade": true, "grade_id": "kv_cache_step-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("kv_cache_step", kv_cache_step, strict=True).passed

# %% [markdown]
# <!-- card: nucleus -->
# ## `nucleus`
#
# 从概率最大的词留起，留到合起来占 top_p 为止，再把全部概率分给留下的词。
#
# **为什么重要。** 从全部词里抽样，迟早会抽到坏的：成千上万个不太可能的词，合起来分量不小。按概率截断，不按个数截断（Holtzman et al. 2020）。
#
# ★★★☆☆ · 20 分钟 · 3 分
#
# ```text
# nucleus(log_probs, top_p): log_probs (..., V) -> (..., V)：取总概率达到 top_p 的
#     最小一组词，给出它们重新归一化后的对数概率，其余全是 -inf
# ```
#
# <details><summary>提示 1</summary>
#
# 把词按概率排序，从最大的加起。最后一个留下的是哪个词？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 排在一个词**前面**的概率之和小于 top_p，就留下这个词：cumsum 减去这个词自己的概率。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# kept 是在排好序的次序里得出的，要用 torch.zeros_like(kept).scatter(-1, order, kept) 放回原来的次序。然后是 masked_fill(~kept, -inf).log_softmax(-1)。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "c06e9d74fd242e3aeb5423afe340c8d4", "grade": false, "grade_id": "nucleus", "locked": false, "schema_version": 3, "solution": true, "task": false}
def nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("nucleus", nucleus)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "fe4165a8644b0f6cbf5eedd8f0dced4d", "grade": true, "grade_id": "nucleus-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("nucleus", nucleus, strict=True).passed

# %% [markdown]
# <!-- card: linearise -->
# ## `linearise`
#
# 把一棵句法树写成一个序列，这样翻译模型就能写出它。
#
# **为什么重要。** 树写成了序列，句法分析就成了翻译（Vinyals et al. 2015），所以论文的 6.3 节不用改动模型。
#
# ★★☆☆☆ · 20 分钟 · 2 分
#
# ```text
# linearise(tree): tree 形如 "(S (NP (DT a) (NN dog)) (VP (VBZ sleeps)))" -> 符号
#     的列表：短语开始处是 "(NP"，结束处是 ")NP"，每个带词性的词是 "XX"
# ```
#
# <details><summary>提示 1</summary>
#
# 把文本从头走一遍。你会遇到哪三种东西？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 只看右括号，看不出它关的是哪个短语：把还没关的标签放进一个列表，后开的先关。带词性的词，如 (NN dog)，不开新短语。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# tree.replace("(", " ( ").replace(")", " ) ").split() 给出各个片段。左括号后面是标签；标签后面如果不是又一个左括号，就是一个词，再接右括号。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "6a37c4d9153a62f0f6c4a3ea34cfe44f", "grade": false, "grade_id": "linearise", "locked": false, "schema_version": 3, "solution": true, "task": false}
def linearise(tree: str) -> list[str]:
    raise NotImplementedError  # your code


# %%
check("linearise", linearise)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "bc771696509676d0ae9a48cfce8be8f3", "grade": true, "grade_id": "linearise-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("linearise", linearise, strict=True).passed

# %% [markdown]
# <!-- card: bracket_f1 -->
# ## `bracket_f1`
#
# 给句法分析器打分：数一数它与标准树有多少个括号相同，一句一句地数，数遍整个语料库。出现两次的括号算两次。
#
# **为什么重要。** 论文表 4 里就是这个数：在小数据上，Transformer 得 91.3。
#
# ★★☆☆☆ · 15 分钟 · 2 分
#
# ```text
# bracket_f1(predicted, gold): 每个句子一个括号的列表，括号写作 (label, start,
#     end)，两边句子的次序相同 -> F1，以百分数计，0 到 100
# ```
#
# <details><summary>提示 1</summary>
#
# 数三个数就够了：预测对的括号、预测出的括号、标准树里的括号。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# Counter(a) & Counter(b) 就是两个列表相同的部分，连同次数。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# 所有句子都数完之后，算 100 * 2 * right / (predicted + gold)；一个括号都没有时为 0。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "492c11870a4f8f7ad64df3295cc840bd", "grade": false, "grade_id": "bracket_f1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def bracket_f1(
    predicted: list[list[tuple[str, int, int]]], gold: list[list[tuple[str, int, int]]]
) -> float:
    raise NotImplementedError  # your code


# %%
check("bracket_f1", bracket_f1)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "843653dcafa5b5af5cf5b5c9ad814f64", "grade": true, "grade_id": "bracket_f1-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bracket_f1", bracket_f1, strict=True).passed

# %% [markdown]
# 点了 *Run All*，页面跳到这里，上面却有单元格没有编号？那是运行停在了第一道还没通过的练习；原因写在那道练习的第二个 check 单元格下面。
#
# 全绿了？成绩会汇总成报告：运行 `python -m course homework report`，生成 `build/report.html`，留给你自己看。老师要打分的话，交的是这个笔记本本身。剩下的是[考试](../exam/exam.ipynb)。

