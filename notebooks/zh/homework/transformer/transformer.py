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
# # 作业 · Transformer
#
# 你要写出论文图 1 里注意力周围的那些部件，再写出两种层本身。时间 100 分钟。先合上[课文](../../05_transformer.ipynb)。查资料可以，照抄不行：自己写出来的，才是自己的。
#
# `check` 想运行几次都行。它每次换一批新的数来试，指出哪里错了，常常还会说明原因，再给一条对症的提示（三条提示全在题卡下面，卡住时再看）。每道练习的第二个 check 单元格用来打分：用 *Run All*（全部运行）时，一遇到还没通过的练习就停在那里，最后几行写着原因。B 是批次大小，S 和 T 是源句和目标句的词数，D 是 d_model，F 是 d_ff。掩码是布尔型，True 表示可以关注。

# %%
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course.homework import check
from course.viz import finish

# %% [markdown]
# <!-- card: positional_encoding -->
# ## `positional_encoding`
#
# 给每个位置配一个向量，每一列是一个波：第 2i 列是 sin(pos / 10000^(2i / d_model))，第 2i + 1 列是同一个角的余弦。
#
# **为什么重要。** 注意力不知道词的次序，要靠这些向量来告诉它。而且往后移 k 位，就是乘一个矩阵，在哪个位置都是同一个。
#
# ★★☆☆☆ · 15 分钟 · 2 分
#
# ```text
# positional_encoding(max_len, d_model) -> float32 (max_len, d_model)，d_model 是
#     偶数
# 行 = 位置，从 0 数起
# 正弦在第 0, 2, ... 列，余弦在第 1, 3, ... 列
# ```
#
# <details><summary>提示 1</summary>
#
# 先算角度：一列位置 (max_len, 1) 乘以一行频率 (d_model / 2,)。得到什么形状？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 频率是 10000 ** (-torch.arange(0, d_model, 2) / d_model)。正弦放进 0::2 各列，余弦放进 1::2 各列。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# table = torch.empty(max_len, d_model); table[:, 0::2] = angle.sin()；1::2 也照样写。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "8896ff1b5ed1df05059d5c5f3d8ee18a", "grade": false, "grade_id": "positional_encoding", "locked": false, "schema_version": 3, "solution": true, "task": false}
def positional_encoding(max_len: int, d_model: int) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("positional_encoding", positional_encoding)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "1fd3e335f18b1f537ddcab1490c9758b", "grade": true, "grade_id": "positional_encoding-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("positional_encoding", positional_encoding, strict=True).passed

# %% [markdown]
# 你算出来的表，画成图就是这样：一行是一个位置，一列是一个波。把一行从左往右读：波越来越慢，就像一个数的各位，从最低位到最高位。

# %%
import matplotlib.pyplot as plt

plt.imshow(positional_encoding(50, 64), cmap="RdBu", aspect="auto")
plt.title("Fast waves on the left, slow waves on the right")
plt.xlabel("column")
plt.ylabel("position")
plt.colorbar()
finish(plt.gcf())

# %% [markdown]
# <!-- card: layer_norm -->
# ## `layer_norm`
#
# 让每个词的特征均值为 0、方差为 1（有偏的方差，eps 在根号里面），再乘以增益，加上偏置。
#
# **为什么重要。** 层堆得再深，它也能让数值保持同样的大小。它每次只看一个词，所以批次多大、填充多少，结果都一样。
#
# ★★☆☆☆ · 10 分钟 · 2 分
#
# ```text
# layer_norm(x, gain, bias, eps): x (..., D)，gain 和 bias (D,) -> (..., D)
# 梯度要能经过每一步传回来
# ```
#
# <details><summary>提示 1</summary>
#
# 一个词有 D 个特征。x (B, L, D) 有多少个均值？每个均值各对应什么？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 沿 dim=-1 求 mean 和 var，用 keepdim=True。torch 的 var 默认除以 D - 1，不要这样就写明 unbiased=False。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# (x - mean) / torch.sqrt(variance + eps)，再乘以增益，加上偏置，这两个会自动广播。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "859f33fd3bb981b894b7dbd5b688909d", "grade": false, "grade_id": "layer_norm", "locked": false, "schema_version": 3, "solution": true, "task": false}
def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("layer_norm", layer_norm)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "c392a29a06659a4ba0572a08f32deed2", "grade": true, "grade_id": "layer_norm-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("layer_norm", layer_norm, strict=True).passed

# %% [markdown]
# <!-- card: feed_forward -->
# ## `feed_forward`
#
# 论文的公式 2：把每个词的向量加宽到 F 个数，只留正的，再收窄到 D 个。
#
# **为什么重要。** 注意力只管收集：权重一旦定下，它就是线性的。模型真正的计算在前馈网络里，编码器层三分之二的权重也在这里。
#
# ★☆☆☆☆ · 5 分钟 · 1 分
#
# ```text
# feed_forward(x, w_1, b_1, w_2, b_2): x (..., D)，w_1 (D, F)，b_1 (F,)，w_2 (F,
#     D)，b_2 (D,) -> (..., D)
# 权重从右边乘，x @ w_1，与论文的公式 2 一样（nn.Linear 存的是转置）
# 梯度要能经过每一步传回来
# ```
#
# <details><summary>提示 1</summary>
#
# 两个线性变换，中间一个非线性函数。为什么没有这个非线性函数，两个变换就只相当于一个？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 中间那层的形状是 (..., F)：算出 x @ w_1 + b_1，再把负数都变成 0。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# torch.relu(x @ w_1 + b_1) 就是中间那层；再用 w_2 和 b_2 照样算一次，这次不用 relu。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "7f4545bec796622d29844c9613ea8ad9", "grade": false, "grade_id": "feed_forward", "locked": false, "schema_version": 3, "solution": true, "task": false}
def feed_forward(x: Tensor, w_1: Tensor, b_1: Tensor, w_2: Tensor, b_2: Tensor) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("feed_forward", feed_forward)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "591df51660b1d26421aa01e8645d6ee1", "grade": true, "grade_id": "feed_forward-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("feed_forward", feed_forward, strict=True).passed

# %% [markdown]
# ## 编码器层
#
# 现在你要把部件拼起来。怎么拼由你：查询、键、值共用一个 Linear 还是用三个，带不带偏置，层归一化放在每个子层之后（论文的做法）还是之前，都可以。检查不管你起什么名字，只看你的层**做**什么：谁能看到谁，掩码遮住什么，子层的矩阵全为零时还剩什么。
#
# 凭记忆再写一遍注意力，写成单独的类：两种层都要用它。这里可以用 `nn.Linear` 和 `nn.LayerNorm`，也可以用 `F.scaled_dot_product_attention`，这个函数你自己写过。`nn.MultiheadAttention` 和现成的层不能用。

# %% [markdown]
# <!-- card: EncoderLayer -->
# ## `EncoderLayer`
#
# 多头自注意力，然后前馈网络；两者外面各包一个残差连接和一个层归一化。
#
# **为什么重要。** 这样的层叠六个，就是论文的编码器。次序从来不变：先让词互相看，再让每个词各自思考。
#
# ★★★★☆ · 35 分钟 · 4 分
#
# ```text
# EncoderLayer(d_model, n_heads, d_ff): 一个 nn.Module，调用 (x, mask)：x (B, S,
#     D)，mask 是布尔型 (B, 1, 1, S)，True = 可以关注 -> (B, S, D)，只返回这个张
#     量
# 层归一化在每个子层之后（post，论文的做法）或之前（pre）
# 分数除以 sqrt(d_k)
# 名字和偏置随你
# ```
#
# <details><summary>提示 1</summary>
#
# 哪些部件你已经写过？要用到的是：多头注意力、前馈网络、两个层归一化（这里可以用 nn.LayerNorm）。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 每个子层都用同样的方式包起来：x = norm(x + sublayer(x))。在第一个子层里，查询、键、值都是 x，掩码原样往下传。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# x = self.norm_1(x + self.attention(x, x, x, mask))，再用 norm_2 和前馈网络把同一行写一遍。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "feb35d20d795e8ce625a72186119cbb6", "grade": false, "grade_id": "EncoderLayer", "locked": false, "schema_version": 3, "solution": true, "task": false}
class Attention(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        raise NotImplementedError  # your code

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError  # your code


class EncoderLayer(nn.Module):
    def __init__(self, d_model: int, n_heads: int, d_ff: int) -> None:
        super().__init__()
        raise NotImplementedError  # your code

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError  # your code


# %%
check("EncoderLayer", EncoderLayer)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "1a408040a200abd4f27f96486ce10065", "grade": true, "grade_id": "EncoderLayer-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("EncoderLayer", EncoderLayer, strict=True).passed

# %% [markdown]
# <!-- card: DecoderLayer -->
# ## `DecoderLayer`
#
# 先是带掩码的自注意力，再是看编码器输出的交叉注意力，最后是前馈网络；三者外面各包一个残差连接和一个层归一化。
#
# **为什么重要。** 自注意力读已经写出的部分，交叉注意力读源句。除此之外，两种语言之间再没有别的联系。
#
# ★★★★☆ · 35 分钟 · 4 分
#
# ```text
# DecoderLayer(d_model, n_heads, d_ff): 一个 nn.Module，调用 (x, memory, src_mask,
#     tgt_mask)：x (B, T, D)，memory (B, S, D)，src_mask (B, 1, 1, S) 用于
#     memory，tgt_mask (B, 1, T, T) 或 (1, 1, T, T) 用于 x，两者都是布尔型，True =
#     可以关注 -> (B, T, D)，只返回这个张量
# 层归一化在每个子层之后（post，论文的做法）或之前（pre）
# 分数除以 sqrt(d_k)
# 名字和偏置随你
# ```
#
# <details><summary>提示 1</summary>
#
# 它就是你的编码器层，中间多一个子层。这个子层的查询从哪里来？键和值从哪里来？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 自注意力的 query = key = value = x，用 tgt_mask。交叉注意力的 query = x，key = value = memory，用 src_mask。两者各有自己的权重和归一化。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# 中间那一行是 x = self.norm_2(x + self.cross_attention(x, memory, memory, src_mask))；它前后的两行，就是编码器层的那两行。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "3c91e9e8fe4f668bb14e6325d77595ce", "grade": false, "grade_id": "DecoderLayer", "locked": false, "schema_version": 3, "solution": true, "task": false}
class DecoderLayer(nn.Module):
    def __init__(self, d_model: int, n_heads: int, d_ff: int) -> None:
        super().__init__()
        raise NotImplementedError  # your code

    def forward(self, x: Tensor, memory: Tensor, src_mask: Tensor, tgt_mask: Tensor) -> Tensor:
        raise NotImplementedError  # your code


# %%
check("DecoderLayer", DecoderLayer)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "0a436f90345db2e37f4187ad75dba675", "grade": true, "grade_id": "DecoderLayer-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("DecoderLayer", DecoderLayer, strict=True).passed

# %% [markdown]
# 在你的解码器层里，谁能看到谁？看梯度就知道。每个方格表示一个导数有多大：输出的词（行）对输入的词（列）求导。白色表示恰好为零。运行之前先想：左图的哪一半是白的？右图的哪一列是白的？

# %%
layer = DecoderLayer(32, 4, 64).eval()
x, memory = torch.randn(1, 6, 32, requires_grad=True), torch.randn(1, 8, 32, requires_grad=True)
src_mask = torch.arange(8)[None, None, None] != 7  # the last source word is padding
tgt_mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
output = layer(x, memory, src_mask, tgt_mask)
probe = torch.randn(32)  # a plain sum is the same for every normalised word

figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
for axis, source, name in zip(axes, (x, memory), ("target word", "source word")):
    rows = [torch.autograd.grad(word @ probe, source, retain_graph=True)[0][0] for word in output[0]]
    axis.imshow(torch.stack(rows).norm(dim=-1).sqrt(), cmap="Blues")  # the root lifts what is small
    axis.set(xlabel=name, ylabel="output word")
figure.suptitle("Nothing comes from the future, nothing from padding")
finish(figure)

# %% [markdown]
# 点了 *Run All*，页面跳到这里，上面却有单元格没有编号？那是运行停在了第一道还没通过的练习；原因写在那道练习的第二个 check 单元格下面。
#
# 全绿了？两种层各叠六个，就是论文的模型；考试要你写的就是它。通过的练习会汇总成报告：运行 `python -m course homework report`，生成 `build/report.html`，留给你自己看。老师要打分的话，交的是这个笔记本本身。接下来是送进模型的[文本](../text/text.ipynb)。
