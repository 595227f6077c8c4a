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
# # 导读 · 一口气读完整篇论文
#
# > *Attention Is All You Need* 第 1 节到第 7 节，每节都配上对应的代码。
#
# Vaswani、Shazeer、Parmar、Uszkoreit、Jones、Gomez、Kaiser 和 Polosukhin 在 2017 年提出了 **Transformer**。这一页按论文的顺序和节号，用我们自己的话把这篇论文重讲一遍。每讲一节，旁边就放上对应的代码，并且当场小规模地跑一次。最后训练一个德译英的翻译模型，测一测它的水平。
#
# **怎样使用。** 打开论文（arXiv 1706.03762）放在旁边，从上到下运行各个单元格，边跑边读。在两个处理器核上，全部跑完大约十分钟，大部分时间花在最后的训练上。训练步数是固定的：机器忙就慢一些，得到的模型不变。开始训练之前，页面会告诉你在这台机器上要多久。
#
# - **现在读**：点开是论文的各个段落，用段首几个词标出，每段都写明大意、难词和讲到它的课。先去论文里读那几段，再回来接着往下看。
# - `check("...")` 问的是理由。用字母作答：`check("why_scale", "b")`；每个错误选项都有专门的解释。
# - **先猜**：看到这两个字，先回答问题，再运行下一个单元格。自己猜错一次，也比光读正确答案收获大。
# - 这一页的代码都来自课程的程序包，运行时直接从那里取，没有一行是粘贴的。每段代码上方有链接，指向逐行推导它的那一课。
# - 带 `assert` 的单元格是**断言**：上面那句话如果不成立，它就停下报错。
#
# **你将学会：** 说出模型的每个部件有什么用，它的输入和输出有多大，论文的各张表又测了什么。**先修：** Python；知道什么是矩阵乘法和导数。**时间：** 70 分钟。（不学任何一课也能读；按第 00 课的路线，它排在最后。）

# %%
import copy
import csv
import inspect
import json
import math
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from course import ASSETS, output_folder
from course.device import by_scale, pick, scale
from course.homework import check
from course.speed import keep_freed_memory
from course.viz import attention as draw_attention
from course.viz import masking as draw_masking
from course.viz import evaluation as draw_experiment
from course.viz import inside as draw_inside
from course.viz import training as draw_training
from course.viz import transformer as draw_transformer
from course.viz import walkthrough as draw

device = pick()
_ = keep_freed_memory()  # lesson 07c: on a CPU, large tensors then cost less
print(f"scale: {scale()}; device: {device.type}")

# %% [markdown]
# 本页只有一个辅助函数 `source`，下一个单元格就来定义。它显示程序包里某个类或函数的代码，并附上链接，指向写出这个模块的那一课。（每个模块的第一行都写着课名。）

# %%
def lesson_of(thing: Callable) -> str:
    """Return the name of the notebook that a class or function of the package comes from."""
    return re.search(r"notebooks/(\w+)\.py", inspect.getsource(inspect.getmodule(thing))).group(1)


def source(*things: Callable) -> None:
    """Show code as the package holds it, with a link to the lesson that derives it."""
    for thing in things:
        lesson, place = lesson_of(thing), f"{thing.__module__}.{thing.__name__}"
        link = f"`{place}` · derived in [{lesson}]({lesson}.ipynb)"
        display(Markdown(f"{link}\n\n```python\n{inspect.getsource(thing).rstrip()}\n```"))


# %% [markdown]
# 代码用到时才导入，这样你能看清每个部件来自哪里。先导入论文的核心；第 3 节再细讲。

# %%
from course.attention import scaled_dot_product_attention

assert lesson_of(scaled_dot_product_attention) == "03_attention"

# %% [markdown]
# ## 1 · 引言：循环的代价
#
# <details><summary><b>现在读：</b>论文的摘要及其脚注、第 1 节（6 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *The dominant sequence transduction models* | 摘要。当时最好的翻译模型用的是循环或卷积，编码器和解码器之间再加上注意力（attention）。论文的模型只留注意力：翻译得更好，训练更快，还会做句法分析。| sequence transduction（序列转换）：输入一个序列，输出另一个序列；BLEU：译文的评分，0 到 100 | [02](02_seq2seq.ipynb)、[09](09_evaluation.ipynb) |
# | *Equal contribution. Listing order is random* | 脚注交代分工：谁提出自注意力，谁提出缩放和多头，谁写代码。| ablation（消融实验）：拿掉一个部件，看它起什么作用 | [09c](09c_ablations.ipynb) |
# | *Recurrent neural networks, long short-term memory* | 在此之前，处理语言最好的是带门的循环网络。| LSTM、gated（门控）：用 0 到 1 之间的数决定保留什么 | [01](01_foundations.ipynb) |
# | *Recurrent models typically factor computation* | 循环模型逐词往前算，每个状态都要等前一个状态，所以一个句子没法并行计算，各种技巧也只能改善一点。| factor computation along positions：每个词算一步；fundamental constraint（根本限制）：怎么做都绕不开 | [01](01_foundations.ipynb)、[02](02_seq2seq.ipynb) |
# | *Attention mechanisms have become an integral* | 两个词隔得再远，注意力也能把它们连起来；不过它几乎总是与循环网络搭配使用。| dependencies（依赖关系）：要理解一个词，得先看另一个词 | [02](02_seq2seq.ipynb) |
# | *In this work we propose the Transformer* | 论文的提议：不用循环，只用注意力。八块 GPU 训练十二小时，就拿到了最好的成绩。| eschewing：避开不用；global（全局）：任意两个位置之间 | [03](03_attention.ipynb)、[05](05_transformer.ipynb) |
#
# </details>
#
# 2017 年，最好的翻译模型是**循环**神经网络（recurrent neural network，RNN）。RNN 逐词读句子，每读一个词，就由前一个状态算出新的状态：
#
# $$h_t = f(h_{t-1}, x_t)$$
#
# 问题就在公式里：没有 $h_{t-1}$，就算不出 $h_t$。60 个词的句子要一步接一步走 60 步，处理器再多也没用。注意力（Bahdanau et al. 2014）已经能让 RNN 回头看任何一个词，但还是离不开 RNN。论文的提议是：留下注意力，去掉循环。
#
# **先猜**：有些运算必须等前一个算完才能开始。从结果往回数到输入，这样一个等一个的运算，最长能排成多长的一串？如果句子长度加倍，RNN 的这一串会怎样？注意力的呢？

# %%
def longest_chain(output: Tensor) -> int:
    """Count the operations on the longest way from an output back through its computation."""
    depth: dict = {}
    waiting = [output.grad_fn]
    while waiting:
        before = [node for node, _ in waiting[-1].next_functions if node is not None]
        if unknown := [node for node in before if node not in depth]:
            waiting += unknown
        else:
            depth[waiting.pop()] = 1 + max((depth[node] for node in before), default=0)
    return depth[output.grad_fn]


def recurrent(x: Tensor, cell: nn.RNNCell) -> Tensor:
    """Read x (n, D) word by word and return the last state (1, D)."""
    state = torch.zeros_like(x[:1])
    for word in x:
        state = cell(word[None], state)
    return state


lengths = [4, 8, 16, 32, 64]
words = [torch.randn(n, 16, requires_grad=True) for n in lengths]  # (n, D)
cell = nn.RNNCell(16, 16)
chains = {
    "recurrence": [longest_chain(recurrent(x, cell)) for x in words],
    "attention": [longest_chain(scaled_dot_product_attention(x, x, x)[0]) for x in words],
}

# %%
draw.waiting(lengths, chains, "A recurrent layer waits once a word, attention does not")

# %% [markdown]
# 句子每多一个词，RNN 的这一串就加长一截，每次加的都一样多。注意力则不管句子长短，这一串总是一样长：所有的词**同时**与所有的词比较。图形处理器一次能做几千个乘法。用 RNN，它只能干等着；用注意力，和用卷积一样，一下子就有几千个不用互相等待的乘法可做。而且注意力能让任意两个词一步就碰面，卷积做不到。

# %%
# NBVAL_CHECK_OUTPUT
growth = {(b - a) / (m - n) for a, b, n, m in
          zip(chains["recurrence"], chains["recurrence"][1:], lengths, lengths[1:])}
assert len(growth) == 1 and growth.pop() >= 1
assert len(set(chains["attention"])) == 1
print("recurrence: the chain grows by the same amount with each word; attention: it does not grow")

# %%
check("new_in_2017")

# %%
check("bottleneck_attention")

# %% [markdown]
# ## 2 · 背景：还有谁想减少等待
#
# <details><summary><b>现在读：</b>论文第 2 节（4 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *The goal of reducing sequential computation* | 在此之前有三个模型用了卷积。用卷积时，两个词离得越远，中间要走的路就越长：ConvS2S 成正比，ByteNet 按对数增长。注意力只要一步；求平均会变模糊，就用多个头来弥补。| effective resolution（有效分辨率）：能把单个的词分得多清楚 | [01](01_foundations.ipynb)、[03](03_attention.ipynb) |
# | *Self-attention, sometimes called intra-attention* | 一个句子内部的注意力以前就有：用于阅读、摘要和文本蕴含。| entailment（蕴含）：由句子 A 能推出句子 B 吗？| [03](03_attention.ipynb) |
# | *End-to-end memory networks are based* | 记忆网络反复查看同一个记忆，每次问得更准。| recurrent attention（循环注意力）：一次查找要等上一次查完 | [02](02_seq2seq.ipynb) |
# | *To the best of our knowledge* | 作者声明，这是第一个只用自注意力的翻译模型。| transduction model（转换模型）：见上 | [05](05_transformer.ipynb) |
#
# </details>
#
# 这个问题，在这篇论文之前就有人看出来了。ByteNet 和 ConvS2S 用**卷积**代替循环：每个窗口只看相邻的几个词，所有窗口同时算。但是两个词如果相隔很远，就要过好几层才能碰面：层数随距离增长，ConvS2S 是线性增长，ByteNet 是对数增长。在 Transformer 里，任意两个词**一步**就能碰面。
#
# 论文也说了代价：注意力对看到的东西取加权**平均**，而一平均就模糊了。补救的办法是并排做几次注意力，也就是用几个**头**（3.2.2 节）。
#
# **自注意力**（self-attention）就是让同一个句子里的词互相关注。以前已经有人把它用于阅读和摘要；但是只靠它搭出一个完整的翻译模型，这还是头一回。

# %%
check("path_neural_gpu")

# %%
check("memory_waits")

# %% [markdown]
# ## 3 · 模型的结构
#
# <details><summary><b>现在读：</b>论文第 3 节（2 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *Most competitive neural sequence transduction models* | 编码器把词变成向量；解码器一个词一个词地写，边写边读自己写过的词。| auto-regressive（自回归）：每次的输出都是下一次的输入 | [02](02_seq2seq.ipynb) |
# | *The Transformer follows this overall architecture* | 还是这两半，不过由注意力和逐位置的小网络组成。整个结构见图 1。| point-wise（逐点）：每个位置各算各的 | [05](05_transformer.ipynb) |
#
# </details>
#
# 模型是**编码器-解码器**（encoder-decoder）。编码器读德语句子，为每个词元（token）给出一个向量，这些向量合起来叫做**记忆**（memory）。解码器逐个词元地写英语句子；每写一个新词元，都要看记忆，也要看已经写出的部分。读自己输出的模型，叫做**自回归**模型。

# %%
draw.architecture("Figure 1 as a table of contents: each box names its section and its class")

# %% [markdown]
# 图要从下往上读。`N ×` 表示灰框里的部分重复 N 次；论文里 N 是 6，每一份都有自己的权重。绕过方框的箭头是残差连接。
#
# 这就是整个模型的代码。**请看** `forward` 的三步：编码、解码、投影。

# %%
# NBVAL_CHECK_OUTPUT
from course.transformer import Transformer, TransformerConfig

source(Transformer)

# %% [markdown]
# 第一次运行：用一个小模型，两个源句各有 7 个词元，两个目标句各有 5 个。请留意每一步的形状：B 是句子数，S 和 T 是源句和目标句的长度，D 是 `d_model`，V 是词表大小。

# %%
# NBVAL_CHECK_OUTPUT
from course.masking import causal_mask

torch.manual_seed(0)
config = TransformerConfig(100, 100, d_model=64, n_heads=4, d_ff=256, n_layers=2)
model = Transformer(config).eval()
src, tgt_in = torch.randint(4, 100, (2, 7)), torch.randint(4, 100, (2, 5))
memory = model.encode(src)  # (B, S, D)
states = model.decode(tgt_in, memory, tgt_mask=causal_mask(5))  # (B, T, D)
logits = model.project(states)  # (B, T, V)
assert torch.equal(logits, model(src, tgt_in, tgt_mask=causal_mask(5)))
print(f"memory {tuple(memory.shape)}, states {tuple(states.shape)}, logits {tuple(logits.shape)}")

# %%
check("parallel_writing")

# %%
check("teacher_forcing")

# %% [markdown]
# ### 3.1 编码器与解码器的堆叠
#
# <details><summary><b>现在读：</b>论文 3.1 节（2 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *Encoder: The encoder is composed* | 六个相同的层，每层两个部分。每个部分算完，先加上输入，再归一化。所有向量都是 512 个数，这样才能相加。| residual connection（残差连接）：输入加到输出上；layer normalization（层归一化）：让一个向量的各个数均值为 0、方差为 1 | [05](05_transformer.ipynb) |
# | *Decoder: The decoder is also composed* | 也是六层，每层多一个部分，用来看编码器的输出。加了掩码，哪个位置都看不到自己后面。| masking（加掩码）：分数设为 −∞；offset by one position（错开一位）：只读到前一个词为止 | [04](04_masking.ipynb)、[05](05_transformer.ipynb) |
#
# </details>
#
# 编码器的一层有两个**子层**：先是自注意力，再是前馈网络。解码器的一层在这两个子层之间还多一个：对记忆的注意力。每个子层外面，论文都套上同样的一层包装：
#
# $$\operatorname{LayerNorm}(x + \operatorname{Sublayer}(x)) .$$
#
# 这里的加法就是**残差连接**：子层只是给输入加一点修正，所以梯度可以直接往回传，穿过所有的层。然后**层归一化**让每个向量均值为 0、方差为 1（再乘一个可学习的增益，加一个偏置）。宽度相同才能相加，所以整个模型只用一个宽度：`d_model` = 512。

# %%
# NBVAL_CHECK_OUTPUT
from course.transformer import DecoderLayer, Encoder, EncoderLayer, Residual

source(Residual, EncoderLayer, DecoderLayer)

# %% [markdown]
# 这个类支持两种次序。`post` 就是论文里的次序；`pre` 则对子层的输入做归一化，今天的模型大多这样做，因为训练起来更省心。
#
# **先猜**：如果子层还什么都没学会，输出全是零，那么带残差的层会输出什么？

# %%
# NBVAL_CHECK_OUTPUT
x = 3 + 2 * torch.randn(2, 7, 64)  # (B, S, D), far from normalised
residual = Residual(config).eval()
silent = residual(x, torch.zeros_like)
assert torch.allclose(silent, F.layer_norm(x, (64,)), atol=1e-5)
assert silent.mean(-1).abs().max() < 1e-5
assert (silent.var(-1, unbiased=False) - 1).abs().max() < 1e-3
stack = Encoder(TransformerConfig(100, 100, 64, 4, 256, n_layers=6)).eval()
assert stack(x).shape == x.shape
print("a silent sub-layer passes its input on, normalised; six layers keep the shape", (*x.shape,))

# %%
check("residual_gradient")

# %%
check("residual_width")

# %% [markdown]
# ### 3.2.1 缩放点积注意力
#
# <details><summary><b>现在读：</b>论文 3.2 节、3.2.1 节及其脚注（6 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *An attention function can be described* | 查询（query）与各个键（key）比较；结果是对应的值（value）的加权和。| compatibility function（兼容性函数）：给两个向量的匹配程度打分 | [03](03_attention.ipynb) |
# | *We call our particular attention* | 分数是点积除以 $\sqrt{d_k}$；softmax 把分数变成权重。| dot product（点积）：逐个数相乘，再加起来 | [03](03_attention.ipynb) |
# | *In practice, we compute the attention* | 所有查询写成矩阵一起算：公式 (1)。| packed together：作为一个矩阵的各行 | [03](03_attention.ipynb) |
# | *The two most commonly used attention* | 另一种打分方法是用一个小网络（加性）。理论上两种代价差不多，实际上矩阵乘法快得多。| additive attention（加性注意力）：Bahdanau 的那种 | [02](02_seq2seq.ipynb)、[03](03_attention.ipynb) |
# | *While for small values of* | 不缩放的话，维数一高，点积就大，softmax 几乎学不到东西。| extremely small gradients（极小的梯度）：权重变了，结果几乎不变 | [03](03_attention.ipynb) |
# | *To illustrate why the dot products* | 脚注给出理由：$d_k$ 个独立的、方差为 1 的乘积相加，方差是 $d_k$。| independent random variables（独立随机变量）：知道一个，对另一个仍一无所知 | [03](03_attention.ipynb) |
#
# </details>
#
# 注意力就是“软”的查表。普通的查表，是拿一个问题（**查询**）与表中的**键**逐个比较，哪个键对得上，就取出它的**值**。“软”查表时，每个键都能对上几分，得到的是所有值的加权平均，键匹配得越好，对应的值权重越大：
#
# $$\operatorname{Attention}(Q, K, V)
# = \operatorname{softmax}\left(\frac{Q K^T}{\sqrt{d_k}}\right) V$$
#
# $Q K^T$ 用点积把每个查询与每个键比较一遍。softmax 把每一行分数变成和为 1 的权重。再乘 $V$，就是求平均。**请看**代码：每一步正好一行。

# %%
# NBVAL_CHECK_OUTPUT
from course.attention import attention_weights

source(attention_weights, scaled_dot_product_attention)

# %% [markdown]
# 来看一个手工编的例子。在“The dogs near the tree bark”（树旁的几只狗在叫）里，谁在叫？每个词的键由三个数组成：是不是名词，是不是复数，是不是单数。只有“bark”提了问：**要名词，要复数，不要单数**。其他的词什么也不问，查询是零。
#
# **先猜**：“bark”会给 tree 多少权重？什么也不问的词，又会得到什么？

# %%
sentence = ["The", "dogs", "near", "the", "tree", "bark"]
key = torch.tensor(
    [[0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float
)  # (K, Dk): noun, plural, singular
query = torch.zeros_like(key)  # (Q, Dk)
query[5] = torch.tensor([4.0, 4.0, -4.0])
weights = attention_weights(query, key)  # (Q, K)
draw_attention.maps(
    [("", weights, sentence, sentence)], '"bark" finds its subject over three words'
)

# %% [markdown]
# “bark”隔着三个词，把大部分权重给了“dogs”；距离不起作用。（它也给自己一点，因为它自己也是复数。）不提问的词，得到的是所有值的普通平均。在真正的模型里，键和查询不用人来手写：拿三个权重矩阵去乘词向量就能得到，而矩阵是训练出来的。
#
# **为什么要除以** $\sqrt{d_k}$？两个 $d_k$ 维随机向量的点积是 $d_k$ 项之和，所以方差是 $d_k$。不除的话，模型越大，分数越大，softmax 几乎只选中一个键，梯度也随之消失。下面的断言测量方差、最大的权重和梯度，再把我们这四行代码与 PyTorch 自带的函数比较。

# %%
torch.manual_seed(0)
d_k = 512
query, key, value = torch.randn(3, 2000, 10, d_k)
scores = query @ key.transpose(-2, -1)  # (2000, 10, 10)
variance = scores.var().item() / d_k
tables = scores.softmax(-1), attention_weights(query, key)
largest = [table.amax(-1).mean().item() for table in tables]
slopes = [(table * (1 - table)).mean().item() for table in tables]  # of a weight, by its own score
ours, _ = scaled_dot_product_attention(query, key, value)
assert 0.9 < variance < 1.1
assert largest[0] > 0.9 and largest[1] < 0.5 and slopes[0] < slopes[1] / 5
assert torch.allclose(ours, F.scaled_dot_product_attention(query, key, value), atol=1e-4)
assert weights[5].argmax() == 1 and weights[5, 4] < 0.01
print(f"variance of a dot product over d_k: {variance:.2f}")
print(f"largest of ten weights: {largest[0]:.2f} without the division, {largest[1]:.2f} with it")
print(f"slope of the softmax:   {slopes[0]:.3f} without the division, {slopes[1]:.3f} with it")

# %%
check("why_scale")

# %%
check("scale_by_d_k")

# %% [markdown]
# ### 3.2.2 多头注意力
#
# <details><summary><b>现在读：</b>论文 3.2.2 节（3 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *Instead of performing a single attention* | 几个小注意力并排着算，各有自己的三个投影；结果拼在一起，再投影一次。| projection（投影）：乘一个可学习的矩阵 | [03](03_attention.ipynb) |
# | *Multi-head attention allows the model* | 每个头可以看不同的地方。只有一个头，就只能求平均。| representation subspaces（表示子空间）：向量空间的一部分 | [03](03_attention.ipynb) |
# | *In this work we employ* | 八个宽 64 的头，计算量大约等于一个宽 512 的头。| parallel attention layers（并行的注意力层）：就是头 | [03](03_attention.ipynb) |
#
# </details>
#
# 查一次表，得到一个平均。可是一个词往往同时有几个问题：**我的主语是谁？前一个词是什么？我指的是什么？** 所以模型并行地做 $h$ 次注意力，每次都在较小的空间里，维度是 $d_k = d_v = d_{model} / h$，各用自己的矩阵；结果并排放好，再用一个矩阵混合：
#
# $$\operatorname{MultiHead}(Q, K, V)
# = \operatorname{Concat}(\mathrm{head}_1, \ldots, \mathrm{head}_h)\, W^O$$
#
# $$\mathrm{head}_i = \operatorname{Attention}(Q W_i^Q, K W_i^K, V W_i^V)$$
#
# 论文里 $h = 8$，$d_k = 64$。**请看** `split_heads`：所谓的头，不过是把一个大乘积的列切成八条。

# %%
# NBVAL_CHECK_OUTPUT
from course.attention import MultiHeadAttention

source(MultiHeadAttention)

# %% [markdown]
# **先猜**：一层里用 8 个头，权重的个数会是只用 1 个头时的 8 倍吗？
#
# 下面的断言会给出答案，同时检验对公式的另一种理解：“拼接起来，再乘 $W^O$”，等于“每个头写出自己的一份，再加起来”。

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
attention = MultiHeadAttention(512, 8)
x = torch.randn(2, 7, 512)  # (B, L, D)
weights = attention.weights(x, x)  # (B, H, Q, K)
value = attention.split_heads(attention.w_v(x))  # (B, H, K, Dv)
w_o = attention.w_o.weight.unflatten(1, (8, 64))  # (D, H, Dv)
by_head = torch.einsum("bhqk,bhkv,dhv->hbqd", weights, value, w_o)  # (H, B, Q, D)
assert torch.allclose(by_head.sum(0), attention(x, x, x), atol=1e-5)
counts = {h: sum(p.numel() for p in MultiHeadAttention(512, h).parameters()) for h in (1, 8, 32)}
assert set(counts.values()) == {4 * 512**2}
print(f"weights {tuple(weights.shape)}; parameters with 1, 8, 32 heads: {[*counts.values()]}")

# %%
check("heads_why")

# %%
check("heads_cost")

# %% [markdown]
# ### 3.2.3 注意力的三种用法，以及掩码
#
# <details><summary><b>现在读：</b>论文 3.2.3 节（3 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *In encoder-decoder attention layers* | 查询来自解码器，键和值来自编码器：正在写的每个词都可以看整个源句。| memory（记忆）：这里指编码器的输出 | [04](04_masking.ipynb)、[05](05_transformer.ipynb) |
# | *The encoder contains self-attention layers* | 查询、键和值都来自下面一层，每个位置都能看到所有位置。| self-attention：自注意力 | [03](03_attention.ipynb) |
# | *Similarly, self-attention layers in the decoder* | 同上，但最多只能看到自己的位置：再往后的内容，在 softmax 内部就遮住了。| leftward information flow（向左的信息流）：从后面的词流向前面的词；illegal connections（非法连接）| [04](04_masking.ipynb) |
#
# </details>
#
# 图中有三处用的是同一个类，区别只在谁提问、谁回答。
#
# | 位置 | 查询来自 | 键和值来自 | 可以看 |
# |---|---|---|---|
# | 编码器自注意力 | 源句 | 源句 | 每个源词元 |
# | 解码器自注意力 | 目标句 | 目标句 | 自己和前面的词元 |
# | 交叉注意力（论文称 encoder-decoder attention，编码器-解码器注意力）| 目标句 | 记忆 | 每个源词元 |
#
# 第二行需要**掩码**（mask）。训练时，解码器一次拿到整个英语句子，右移一位：每个位置都要预测下一个词元。如果能往后看，它就会照抄答案，什么也学不到。所以在 softmax 之前，把后面各位置的分数设为 $-\infty$，权重就恰好是 0。另一个掩码是我们自己需要的：长短不同的句子要用 `<pad>` 补到一样长，才能排成一个矩阵，而 `<pad>` 谁也不许看。

# %%
# NBVAL_CHECK_OUTPUT
from course.masking import combine_masks, padding_mask, shift_right

source(causal_mask, padding_mask, combine_masks, shift_right)

# %% [markdown]
# 下面这个批次有两个句对，图中画的是较短的那一对：行提问，列回答，蓝色的格子可以看。

# %%
from course.masking import Batch
from course.text import BOS, EOS, PAD, Vocabulary

german = ["zwei Hunde bellen sehr laut", "ein Kind lacht"]
english = ["two dogs bark very loudly", "a child laughs"]
vocabulary = Vocabulary.from_sentences(s.split() for s in german + english)
sides = german, english
src_ids, tgt_ids = ([[*vocabulary.encode(s.split()), EOS] for s in side] for side in sides)
batch = Batch.from_sequences(src_ids, tgt_ids, PAD, BOS)
reads, sees = (vocabulary.decode(ids[1].tolist()) for ids in (batch.src, batch.tgt_in))
source_mask, target_mask = batch.src_mask[1, 0], batch.tgt_mask[1, 0]  # (1, S), (T, T)
panels = {
    "encoder: source to source": (source_mask.expand(len(reads), -1), reads, reads),
    "decoder: target to target": (target_mask, sees, sees),
    "decoder: target to source": (source_mask.expand(len(sees), -1), sees, reads),
}
title = "Three uses, two masks: no padding, and in the decoder no future"
draw_masking.masks(panels, title, columns=3)

# %% [markdown]
# **先猜**：把第四个目标词元换成另一个词，解码器的哪些输出可能改变？

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
model = Transformer(TransformerConfig(len(vocabulary), len(vocabulary), 64, 4, 256, 2)).eval()
masks = batch.src_mask, batch.tgt_mask
changed = batch.tgt_in.clone()
changed[0, 3] = batch.tgt_in[0, 1]
before, after = model(batch.src, batch.tgt_in, *masks), model(batch.src, changed, *masks)
moved = (before - after).abs().amax(-1)[0]  # (T,)
alone = model(batch.src[1:, :4], batch.tgt_in[1:, :4], tgt_mask=causal_mask(4))  # without padding
assert (moved[:3] == 0).all() and (moved[3:] > 1e-4).all()
assert torch.allclose(alone, before[1:, :4], atol=1e-5)
assert (attention_weights(x, x, causal_mask(7)[0]).triu(1) == 0).all()
print("outputs that changed:", [i + 1 for i, change in enumerate(moved.tolist()) if change > 0])
print("a sentence gives the same with padding and alone")

# %%
check("mask_before_softmax")

# %%
check("mask_encoder")

# %% [markdown]
# ### 3.3 逐位置的前馈网络
#
# <details><summary><b>现在读：</b>论文 3.3 节（2 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *In addition to attention sub-layers* | 一个两层的网络，每个位置都一样：从 512 加宽到 2,048，再变回来，中间是 ReLU。| ReLU（修正线性单元）：负数变成 0 | [05](05_transformer.ipynb) |
# | *While the linear transformations are* | 同一层的所有位置用同样的权重，不同的层用不同的权重。它就是宽度为 1 的卷积。| kernel size（卷积核大小）：卷积能看到的宽度 | [05](05_transformer.ipynb) |
#
# </details>
#
# 注意力在位置之间搬运信息，第二个子层加工搬来的信息。加工时每个位置各算各的，用的权重都一样：把向量加宽到四倍，负数变成零，再收窄回来。
#
# $$\operatorname{FFN}(x) = \max(0, x W_1 + b_1)\, W_2 + b_2$$
#
# 论文里的宽度是 512 和 2048。**先猜**：编码器的一层里，哪个子层参数更多，注意力还是前馈网络？

# %%
# NBVAL_CHECK_OUTPUT
from course.transformer import FeedForward

source(FeedForward)

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
feed_forward = FeedForward(512, 2048)
one_by_one = torch.stack([feed_forward(x[:, i]) for i in range(7)], dim=1)  # (B, L, D)
assert torch.allclose(feed_forward(x), one_by_one, atol=1e-5)
sizes = [sum(p.numel() for p in part.parameters()) for part in (feed_forward, attention)]
assert 0.66 < sizes[0] / sum(sizes) < 0.67
print(f"feed-forward {sizes[0]:,} parameters, attention {sizes[1]:,}: two thirds and one third")

# %%
check("feed_forward_why")

# %% [markdown]
# ### 3.4 嵌入与 softmax
#
# <details><summary><b>现在读：</b>论文 3.4 节（1 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *Similarly to other sequence transduction* | 查一张表，词变成向量；把同一张表转置，向量又变成概率。嵌入要乘以 $\sqrt{d_{model}}$。| learned embeddings：可学习的嵌入；pre-softmax linear transformation（softmax 前的线性变换）：算出所有词的分数 | [05](05_transformer.ipynb) |
#
# </details>
#
# 词元是一个编号，而模型需要向量。**嵌入**（embedding）是一张表，词表里的每个词元占一行。在另一端，一个线性变换加上 softmax，把解码器的向量变成每个词元的概率。论文把**同一张**表用了三次：用于源句，用于目标句，转置后用于输出。读表时，每一行还要乘以 $\sqrt{d_{model}}$。
#
# 为什么要乘？在输出端，行向量必须短，不然 logit 会大得惊人；我们的行向量一开始的方差是 $1 / d_{model}$。在输入端，向量要与位置编码（3.5 节）相加，而位置编码的各分量在 −1 与 1 之间；不乘的话，词本身的信息就会被位置信息淹没。

# %%
# NBVAL_CHECK_OUTPUT
from course.transformer import TokenEmbedding

source(TokenEmbedding)

# %%
# NBVAL_CHECK_OUTPUT
with torch.device("meta"):  # shapes without memory: a model to count, not to run
    base = Transformer(TransformerConfig.base(41_100))
torch.manual_seed(0)
embedding = TokenEmbedding(1000, 512)
std = embedding(torch.arange(1000)).std().item()
n_parameters = sum(p.numel() for p in base.parameters())  # a shared table counts once
assert 0.98 < std < 1.02
assert base.w_vocab.weight is base.src_embedding.weight is base.tgt_embedding.weight
assert round(n_parameters / 1e6) == 65
print(f"embeddings come out with standard deviation {std:.1f}")
millions = [count / 1e6 for count in (n_parameters, base.src_embedding.weight.numel())]
print(f"base: {millions[0]:.1f} million parameters, the table {millions[1]:.0f} of them")

# %% [markdown]
# 论文说这个模型有 6500 万参数，又说词表“about 37000 tokens”（约 37000 个词元）。这两个数对不上。第 05 课由表 3 的各行推出：词表若是 41,100 个词元，几乎每一行的参数量都对得上。

# %% [markdown]
# ### 3.5 位置编码
#
# <details><summary><b>现在读：</b>论文 3.5 节（4 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *Since our model contains no recurrence* | 注意力看不到词序，必须另外告诉它：给每个词的向量加上一个表示位置的向量。| inject（注入）：放进去 | [05](05_transformer.ipynb) |
# | *In this work, we use sine* | 这些向量由许多波长的正弦和余弦组成。| frequency（频率）；geometric progression（等比数列）：每个波长都是前一个的固定倍数 | [05](05_transformer.ipynb) |
# | *where pos is the position* | 不论从哪里出发，移动 $k$ 个位置都是同一个线性变换，所以距离应该容易学。| linear function of $PE_{pos}$：用一个矩阵乘它 | [05](05_transformer.ipynb) |
# | *We also experimented with using learned* | 可学习的位置向量效果差不多。论文仍用正弦，是因为不管句子多长，正弦都有值。| extrapolate（外推）：用到没见过的范围 | [05](05_transformer.ipynb)、[09c](09c_ablations.ipynb) |
#
# </details>
#
# 到现在为止，没有任何部件知道词序。注意力只做比较和平均；把词打乱，出来的还是那些向量，只是跟着打乱了。所以模型给每个词向量**加上**一组有规律的数，标明这个词在哪个位置：这组数是频率逐渐降低的正弦和余弦。
#
# $$PE_{(pos, 2i)} = \sin\left(\frac{pos}{10000^{2i/d_{model}}}\right)
# \qquad PE_{(pos, 2i+1)} = \cos\left(\frac{pos}{10000^{2i/d_{model}}}\right)$$
#
# **请看**第二个函数：句子比表还长时会怎样？

# %%
# NBVAL_CHECK_OUTPUT
from course.transformer import PositionalEncoding, positional_encoding

source(positional_encoding, PositionalEncoding)

# %%
draw_transformer.encoding_map(positional_encoding(64, 64), [0, 8, 16, 24])

# %% [markdown]
# 位置编码就像时钟：左边的快波数秒，右边的慢波数小时。论文选用正弦的理由是：不论从哪里出发，移动 $k$ 个位置都是**同一个**线性变换。把一对余弦和正弦写成复数 $e^{i\,pos\,\omega}$，移动就是乘以 $e^{i k \omega}$，从哪里出发都一样。所以一个头只要学会一次“往前数三个词”，就对所有位置有效。断言检验两件事：没有位置编码，次序就丢了；移动 $k$ 个位置，就是一次乘法。

# %%
# NBVAL_CHECK_OUTPUT
shuffle = torch.tensor([3, 0, 6, 2, 5, 1, 4])
assert torch.allclose(attention(x, x, x)[:, shuffle], attention(*[x[:, shuffle]] * 3), atol=1e-5)
with_positions = x + positional_encoding(7, 512)
shuffled = x[:, shuffle] + positional_encoding(7, 512)
outputs = attention(*[with_positions] * 3)[:, shuffle], attention(*[shuffled] * 3)
assert not torch.allclose(*outputs, atol=1e-2)
table = positional_encoding(500, 512).double()
waves = torch.complex(table[:, 1::2], table[:, 0::2])  # (position, D/2): exp(i pos omega)
for k in (1, 3, 100):
    assert (waves[k:] - waves[:-k] * waves[k]).abs().max() < 1e-3
print("attention alone does not see order; with positions it does")
print("a shift by k is one multiplication, the same at every position")

# %%
check("positions_why")

# %%
check("positions_sines")

# %% [markdown]
# ## 4 · 为什么用自注意力？
#
# <details><summary><b>现在读：</b>论文第 4 节（6 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *In this section we compare various* | 比较几种把 $n$ 个向量变成 $n$ 个向量的层，看三个方面。| desiderata：希望具备的性质 | [03](03_attention.ipynb) |
# | *One is the total computational complexity* | 总共要算多少？其中有多少步必须一个等一个？| parallelized（并行化）：同时计算 | [03](03_attention.ipynb) |
# | *The third is the path length* | 两个词之间隔着几步：路越短越好学。| long-range dependencies：长程依赖；traverse：穿过 | [01](01_foundations.ipynb)、[03](03_attention.ipynb) |
# | *As noted in Table 1* | 自注意力一步连接所有位置；只要句长小于向量的宽度，它的计算量就比循环少。| restricted（受限的）：只看附近 $r$ 个位置 | [03](03_attention.ipynb) |
# | *A single convolutional layer with kernel* | 卷积要叠许多层，才能连到远处的词，而且计算量更大。| dilated（空洞的）：中间有间隔；separable（可分离的）：各通道先分开算，再混合 | [01](01_foundations.ipynb)、[03](03_attention.ipynb) |
# | *As side benefit, self-attention could* | 注意力可以直接画出来看，有些头在做什么，似乎还说得清楚。| interpretable（可解释的）：读者能明白为什么 | [09b](09b_inside.ipynb) |
#
# </details>
#
# 论文比较三种层，它们都把 $n$ 个宽为 $d$ 的向量变成另外 $n$ 个。论文的表 1 问：这一层要做多少运算？其中有多少必须一个等一个？离得最远的两个词之间，路有多长？
#
# | 层 | 运算次数 | 顺序操作 | 最长路径 |
# |---|---|---|---|
# | 自注意力 | $n^2 \cdot d$ | 1 | 1 |
# | 循环 | $n \cdot d^2$ | $n$ | $n$ |
# | 宽度为 $k$ 的卷积 | $k \cdot n \cdot d^2$ | 1 | $\log_k n$ |
# | 只看附近 $r$ 个位置的自注意力 | $r \cdot n \cdot d$ | 1 | $n / r$ |
#
# （对数是空洞卷积的情形；普通卷积要 $n/k$。）**先猜**：$d = 512$ 时，句子长到多少，自注意力的运算量就会超过循环？
#
# 这些公式不必盲信：不管什么代码，里面的矩阵乘法做了多少次乘法和加法，PyTorch 都能数出来。我们数两种情形：普通的句子，$n = 32$；长文档，$n = 2048$。

# %%
def count_operations(layer: Callable[[Tensor], Tensor], n: int, d: int = 512) -> int:
    """Count the multiplications and additions of a layer on n vectors, without computing them."""
    with FlopCounterMode(display=False) as counter:
        layer(torch.empty(1, n, d, device="meta"))
    return counter.get_total_flops()


with torch.device("meta"):
    w_x, w_h = nn.Linear(512, 512), nn.Linear(512, 512)
    convolution = nn.Conv1d(512, 512, kernel_size=3, padding=1)


def recurrence(x: Tensor) -> Tensor:
    """Run a plain recurrent layer over x (1, n, D); return its last state (1, D)."""
    state = torch.zeros_like(x[:, 0])
    for t in range(x.size(1)):
        state = torch.tanh(w_x(x[:, t]) + w_h(state))
    return state


layers = {
    "self-attention": lambda x: scaled_dot_product_attention(x, x, x)[0],
    "recurrent": recurrence,
    "convolution, k = 3": lambda x: convolution(x.transpose(1, 2)),
}
operations = {name: [count_operations(f, n) for n in (32, 2048)] for name, f in layers.items()}

# %%
# NBVAL_CHECK_OUTPUT
short, long = (dict(zip(operations, column)) for column in zip(*operations.values()))
assert short["recurrent"] == 16 * short["self-attention"]  # d / n
assert long["self-attention"] == 4 * long["recurrent"]  # n / d
assert short["convolution, k = 3"] == 1.5 * short["recurrent"]  # k, against two products
assert [long[name] // short[name] for name in operations] == [64**2, 64, 64]
assert count_operations(layers["self-attention"], 512) == count_operations(recurrence, 512)
print("millions of operations".ljust(24), "n = 32".rjust(10), "n = 2048".rjust(10))
for name in operations:
    print(f"{name:24} {short[name] / 1e6:10.1f} {long[name] / 1e6:10.1f}")

# %% [markdown]
# 对矩阵乘法，公式分毫不差。自注意力和循环的运算量在 $n = d = 512$ 处相等：句子比这短，注意力本身做的运算比循环**更少**，而且一步也不用等。普通的句子远没有这么长。处理长文档，就要付出 $n^2$ 的代价；后来许多模型的对策，论文已经提出来了：只看附近 $r$ 个位置。和论文的表一样，这里没有算 3.2.2 节的投影，那还要再做 $4 n d^2$ 次乘法。把投影也算上，不论句子多长，完整的一层运算量都比这个简单的循环大；换来的是谁也不用等谁。

# %%
check("cost_double")

# %%
check("path_attention")

# %% [markdown]
# ## 5 · 训练

# %% [markdown]
# ### 5.1 数据与批次
#
# <details><summary><b>现在读：</b>论文第 5 节开头和 5.1 节（1 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *We trained on the standard WMT* | 几百万个句对，词切成片段；一个批次里，源句和目标句各约 25,000 个片段，长度相近的句对放在一起。| byte-pair encoding：字节对编码；vocabulary：词表；token：词元 | [06](06_text.ipynb) |
#
# </details>
#
# 论文用 WMT 2014 训练：英德 450 万个句对，英法 3600 万个。词用**字节对编码**（byte-pair encoding，BPE）切成片段：先拆成字符，然后一次又一次地合并最常见的相邻对，直到词表装满（约 37,000 个词元，两种语言共用；英法用的是 32,000 个**词片**，方法相近）。常见的词成为一个词元，少见的词分成几个。训练中没见过的字符，就用它的 UTF-8 字节来拼：这一条是我们加的，这样就不会有“未知”的词元。长度相近的句子放在同一批次，源句和目标句各约 25,000 个词元。
#
# 这一页用小一点的语料库。能拿到 **Multi30k**（29,000 条照片说明）就用它，拿不到就用课程自带的 **captions**。用的是哪一个，运行下一个单元格就知道；BPE 也在那里学，只用训练句子。

# %%
from course.corpora import choose, pairs
from course.training import PRESETS, preset_model

corpus = choose()
test_split = {"multi30k": "test_2016_flickr", "captions": "test"}[corpus]
train_pairs, val_pairs, test_pairs = (pairs(corpus, s) for s in ("train", "val", test_split))
train_pairs = train_pairs[: by_scale(smoke=6_000, cpu=29_000, gpu=29_000)]
preset = {"smoke": "tiny", "cpu": "small", "gpu": "cpu"}[scale()]
translator, bpe = preset_model(preset, (s for pair in train_pairs for s in pair), seed=0)
why = {"multi30k": "it can be had here", "captions": "Multi30k cannot be had here and now"}
print(f"corpus: {corpus} ({why[corpus]})")
sizes = [f"{len(split):,}" for split in (train_pairs, val_pairs, test_pairs)]
print(f"pairs: train {sizes[0]}, val {sizes[1]}, {test_split} {sizes[2]}")
print(f"preset {preset}: {len(bpe):,} tokens in the vocabulary")

# %% [markdown]
# 几乎没见过的词，BPE 会怎么切？拿几个**探针句**来试试，这些句子是我们专门为课程写的，故意写得难。符号 ▁ 表示词前面的空格。

# %%
with (ASSETS / "probe_sentences.tsv").open(encoding="utf-8", newline="") as file:
    probes = {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}
for name in ("p34", "p21", "p24"):
    print(" | ".join(bpe.tokens(probes[name]["de"])))

# %%
# NBVAL_CHECK_OUTPUT
from course.text import learn_bpe, token_batches

source(learn_bpe, token_batches)

# %% [markdown]
# 三个断言：任何文本，切开再拼起来都能还原，哪怕是训练中没出现过的语言；没有一个批次超过上限；长度相近的句子放在一起，所以批次里的填充很少。填充的算法同第 06 课：源句和目标句分开算，各按自己这边最长的句子补齐。作为对照，再看每批 64 句、次序随机的情形。

# %%
from course.text import encode_pairs

texts = [row[side] for row in probes.values() for side in ("de", "en")] + ["你只需要注意力"]
assert all(bpe.decode(bpe.encode(text)) == text for text in texts)
recipe = PRESETS[preset][1]  # how this size of model is trained
recipe = replace(recipe, max_tokens=by_scale(smoke=1000, cpu=800, gpu=recipe.max_tokens))
examples = encode_pairs(bpe, train_pairs)
sizes_of = [(len(src), len(tgt)) for src, tgt in examples]


def waste(batches: list[list[int]]) -> float:
    """Return the share of padding on both sides of the given batches of examples."""
    widths = [[max(sizes_of[i][side] for i in batch) for side in (0, 1)] for batch in batches]
    cells = sum(len(batch) * sum(width) for batch, width in zip(batches, widths))
    return 1 - sum(map(sum, sizes_of)) / cells


batches = token_batches(sizes_of, recipe.max_tokens, seed=0)
assert sorted(i for batch in batches for i in batch) == list(range(len(examples)))
assert max(len(batch) * max(max(sizes_of[i]) for i in batch) for batch in batches) <= recipe.max_tokens
order = random.Random(0).sample(range(len(examples)), len(examples))
by_chance = [order[i : i + 64] for i in range(0, len(order), 64)]
assert waste(batches) < 0.1 < 0.4 < waste(by_chance)
print(f"padding: {waste(batches):.1%} with similar lengths, {waste(by_chance):.0%} by chance")

# %%
check("mask_padding")

# %% [markdown]
# ### 5.2 硬件与训练时间
#
# <details><summary><b>现在读：</b>论文 5.2 节（1 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *We trained our models on one* | 八块 P100 GPU；base 模型 100,000 步，12 小时；big 模型 300,000 步，三天半。| step（步）：更新一次权重 | [07](07_training.ipynb)、[07c](07c_speed.ipynb) |
#
# </details>
#
# 论文用了一台机器，上面有 8 块 P100 图形处理器。base 模型训练 100,000 步，每步 0.4 秒；big 模型 300,000 步，每步 1.0 秒。论文还用 **FLOPs**（浮点运算次数）来说明代价：时间 × 处理器个数 × 每秒 9.5 万亿次运算。三行代码就能核对论文的计算。

# %%
# NBVAL_CHECK_OUTPUT
hours = {"base": 100_000 * 0.4 / 3600, "big": 300_000 * 1.0 / 3600}
assert 11 < hours["base"] < 12.5 and 3.4 < hours["big"] / 24 < 3.6
cost = {"base": 12 * 3600 * 8 * 9.5e12, "big": 3.5 * 24 * 3600 * 8 * 9.5e12}
assert f"{cost['base']:.1e}" == "3.3e+18" and f"{cost['big']:.1e}" == "2.3e+19"
print(f"base {hours['base']:.0f} hours (paper: 12), big {hours['big'] / 24:.1f} days (paper: 3.5)")
print(f"FLOPs: base {cost['base']:.1e}, big {cost['big']:.1e}, as the paper's table 2 says")

# %% [markdown]
# ### 5.3 优化器
#
# <details><summary><b>现在读：</b>论文 5.3 节（1 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *We used the Adam optimizer* | 优化器用 Adam；学习率先上升 4,000 步，然后与步数的平方根成反比，逐渐下降。| inverse square root：平方根的倒数；warm-up：预热 | [07](07_training.ipynb) |
#
# </details>
#
# Adam 取 $\beta_1 = 0.9$，$\beta_2 = 0.98$，$\epsilon = 10^{-9}$，学习率随步数变化：
#
# $$lrate = d_{model}^{-0.5} \cdot \min\left(step^{-0.5},\; step \cdot warmup^{-1.5}\right)$$
#
# 前 4,000 步，学习率线性上升（**预热**，warm-up），之后按 $1/\sqrt{step}$ 下降。开头为什么要这么小心？因为最初 Adam 的估计只靠少数几个梯度，而模型用的又是后归一化，很容易跑偏。我们自己的训练很短，长度又事先知道，所以学习率在预热之后线性降到 0。

# %%
# NBVAL_CHECK_OUTPUT
from course.training import (
    apply_gradient,
    linear_learning_rate,
    paper_learning_rate,
    train_step,
)

source(paper_learning_rate, linear_learning_rate, train_step, apply_gradient)

# %%
steps = range(1, 20_001)
of_paper = {
    f"$d_{{model}}$ = {d}": [paper_learning_rate(step, d) for step in steps] for d in (512, 1024)
}
ours = [linear_learning_rate(step, step / 5000, 1.5e-3, 300) for step in range(1, 5001)]
draw_training.schedules(of_paper, {"ours, 5000 steps": ours}, warmup=300)

# %%
# NBVAL_CHECK_OUTPUT
rates = [paper_learning_rate(step, 512) for step in steps]
peak = max(steps, key=lambda step: rates[step - 1])
assert peak == 4000
assert math.isclose(rates[peak - 1], (512 * 4000) ** -0.5)
assert math.isclose(rates[16_000 - 1], rates[4000 - 1] / 2)
print(f"the rate is highest at step {peak}: {rates[peak - 1]:.5f}; at step 16,000 it is half")

# %%
check("warmup_why")

# %%
check("warmup_peak")

# %% [markdown]
# ### 5.4 正则化
#
# <details><summary><b>现在读：</b>论文 5.4 节（3 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *We employ three types of regularization* | 论文说有三种，却只列出两种。（暂退法用在两个地方。）| regularization（正则化）：不让模型把数据背下来 | [07](07_training.ipynb) |
# | *Residual Dropout: We apply dropout* | 每个部分算完之后、相加之前用，嵌入与位置编码相加之后也用；比率是 0.1。| dropout（暂退法）：训练时随机把一些数变成 0 | [05](05_transformer.ipynb)、[07](07_training.ipynb) |
# | *Label Smoothing: During training* | 对正确的词，只要求概率是 0.9，不要求是 1。模型不那么有把握了，译文却更好。| perplexity（困惑度）：$e$ 的“平均损失”次方 | [07](07_training.ipynb) |
#
# </details>
#
# 这么大的模型，能把训练句子背下来。防止死背的办法有两个。**暂退法**（dropout）随机把十分之一的数值变成零，用在每个子层的输出上，也用在嵌入与位置编码之和上。**标签平滑**（label smoothing）不要求正确的词概率为 1，只要求 0.9，剩下的平均分给其他的词。（论文说有三种，讲到的就是这两种。）标签平滑的效果，论文也写了：**困惑度**（perplexity，e 的“损失”次方）变差，因为模型学得不那么有把握；准确率和 BLEU 却变好了。

# %%
# NBVAL_CHECK_OUTPUT
from course.training import label_smoothed_loss

source(label_smoothed_loss)

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
logits, target = 3 * torch.randn(50, 20), torch.randint(20, (50,))
ours = label_smoothed_loss(logits, target, epsilon=0.1)
torchs = F.cross_entropy(logits, target, label_smoothing=0.1, reduction="sum")
assert torch.allclose(ours, torchs)
sure = [label_smoothed_loss(c * torch.eye(20)[:1], target[:1] * 0) for c in (2.0, 5.1, 15.0)]
assert sure[1] < sure[0] and sure[1] < sure[2]
model.train()
runs = [model(batch.src, batch.tgt_in, *masks) for _ in range(2)]
model.eval()
assert not torch.equal(*runs) and torch.equal(before, model(batch.src, batch.tgt_in, *masks))
print("smoothed: being right with probability 0.9 costs less than being right for certain")
print("dropout: two runs differ in training and agree in use")

# %%
check("smoothing_perplexity")

# %%
check("dropout_where")

# %% [markdown]
# ## 它到底能不能学？复制任务
#
# 处理真正的语言之前，先做一个玩具任务：读一个符号序列，再原样写出来。听起来简单，可是样样都要对：嵌入、位置、三种注意力、掩码、右移、损失和解码。只要有一处接错，就到不了 100%。
#
# 每个序列有 3 到 8 个符号，取自十个符号的字母表。其中 200 个留作测试，训练中绝不出现。训练循环只有十来行。
#
# **先猜**：只有一层的模型，要训练多少步才够？每步 64 个序列。

# %%
from course.text import SPECIAL_TOKENS

N_SYMBOLS, FIRST = 10, len(SPECIAL_TOKENS)  # the first ids are <pad>, <s>, </s>, <unk>


def sequences(n: int, dice: random.Random, known: frozenset = frozenset()) -> list[tuple[int, ...]]:
    """Throw n sequences of 3 to 8 symbols, none of them in `known`."""
    made: list[tuple[int, ...]] = []
    while len(made) < n:
        one = tuple(FIRST + dice.randrange(N_SYMBOLS) for _ in range(dice.randint(3, 8)))
        if one not in known:
            made.append(one)
    return made


def copy_batch(rows: list[tuple[int, ...]]) -> Batch:
    """Return a batch whose target is its source."""
    ids = [[*row, EOS] for row in rows]
    return Batch.from_sequences(ids, ids, PAD, BOS).to(device)


unseen = sequences(200, random.Random(1))
forbidden, dice = frozenset(unseen), random.Random(0)
torch.manual_seed(0)
vocab = FIRST + N_SYMBOLS
copier = Transformer(TransformerConfig(vocab, vocab, 32, 4, 64, n_layers=1, dropout=0.0)).to(device)

# %%
n_steps = by_scale(smoke=400, cpu=600, gpu=600)
optimizer = torch.optim.Adam(copier.parameters(), betas=(0.9, 0.98), eps=1e-9)
copy_losses = []
for step in range(1, n_steps + 1):
    copies = copy_batch(sequences(64, dice, forbidden))
    logits = copier(copies.src, copies.tgt_in, copies.src_mask, copies.tgt_mask)  # (B, T, V)
    real = copies.tgt_out != PAD
    loss = F.cross_entropy(logits[real], copies.tgt_out[real])
    optimizer.param_groups[0]["lr"] = 4e-3 * min(1, step / 50, 2 * (n_steps + 1 - step) / n_steps)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    copy_losses.append(loss.item())
print(f"loss {copy_losses[0]:.2f} before the first of {n_steps} steps, {copy_losses[-1]:.4f} at the last")

# %% [markdown]
# 使用模型，就是让它自己写：取概率最大的符号，接在后面，再问，直到它写出结束符。这叫**贪心搜索**（greedy search）。

# %%
# NBVAL_CHECK_OUTPUT
from course.decoding import greedy_search, next_log_probs

source(greedy_search)

# %%
# NBVAL_CHECK_OUTPUT
copier.eval()
with torch.no_grad():
    questions = copy_batch(unseen)
    written = greedy_search(next_log_probs(copier, questions.src), len(unseen), 12, device)
right = sum(tuple(answer) == row for answer, row in zip(written, unseen))
assert right == 200, f"only {right} of 200 are right: more steps in the training cell should mend it"
print(f"{right} of 200 unseen sequences copied without a mistake")

# %% [markdown]
# 全对，而且没有一个在训练里出现过。复制的时候，解码器在看哪里？模型运行时，`record_attention` 会取出交叉注意力的权重。每一行对应一个正要写的符号。（最后一行对应结束符。）

# %%
from course.attention import record_attention

row = max(unseen, key=lambda r: (len(set(r)), r))
one = copy_batch([row])
with torch.no_grad(), record_attention(copier) as recorded:
    copier(one.src, one.tgt_in, one.src_mask, one.tgt_mask)
weights = recorded["decoder.layers.0.cross_attention"][0].cpu()  # (H, T, S)
letters = ["ABCDEFGHIJ"[i - FIRST] for i in row] + ["end"]
share = weights.diagonal(dim1=1, dim2=2).mean(1).max()  # of the head that looks most at its symbol
panels = [(f"head {h + 1}", weights[h], letters, letters) for h in range(len(weights))]
draw_attention.maps(panels, f"The sharpest head has {share:.0%} of its weight on the symbol it copies")

# %% [markdown]
# 没有人告诉模型要从左到右，单靠训练时的损失，它就学会了。翻译需要的也是这种本领，只是还要调整语序、换成另一种语言的词。

# %% [markdown]
# ## 6 · 结果

# %% [markdown]
# ### 6.1 机器翻译
#
# <details><summary><b>现在读：</b>论文 6.1 节及其脚注（4 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *On the WMT 2014 English-to-German* | big 模型 28.4 BLEU：比之前最好的高两分多，集成模型也算在内。| ensemble（集成模型）：几个模型投票 | [09](09_evaluation.ipynb) |
# | *On the WMT 2014 English-to-French* | 表里写 41.8（正文这一句写 41.0：论文自相矛盾）。| previous state-of-the-art：此前的最好成绩 | [09](09_evaluation.ipynb) |
# | *For the base models, we used* | 最后 5 个检查点取平均（big 是 20 个）；束宽 4，长度惩罚 0.6。| checkpoint（检查点）：保存下来的权重；hyperparameter（超参数）：人选定的，不是学来的 | [07](07_training.ipynb)、[08](08_decoding.ipynb) |
# | *Table 2 summarizes our results* | 质量旁边列出代价，用浮点运算次数表示。脚注说明每种 GPU 的速度按多少算。| FLOPs：加法和乘法的次数 | [09](09_evaluation.ipynb) |
#
# </details>
#
# 论文在 WMT 2014 测试集上的成绩如下。（BLEU 从 0 到 100，数的是译文与参考译文有多少相同的短词串；第 08 课会带你自己动手实现。）
#
# | 模型 | BLEU en-de | BLEU en-fr | 训练代价（FLOPs） |
# |---|---|---|---|
# | Transformer, base | 27.3 | 38.1 | 3.3 · 10¹⁸ |
# | Transformer, big | 28.4 | 41.8 | 2.3 · 10¹⁹ |
#
# 英德翻译上，big 比此前发表的所有结果高出 2 BLEU 以上，连集成模型（几个模型合起来）也比不过它，而它的训练代价只是那些模型的一小部分。（英法的成绩，6.1 节正文写 41.0，表 2 写 41.8。）为了得到这些数，作者把最后 5 个或 20 个检查点的权重取平均，并用宽度为 4 的**束**搜索，长度惩罚 α = 0.6。

# %%
# NBVAL_CHECK_OUTPUT
from course.decoding import beam_search, length_penalty
from course.training import average_checkpoints

source(average_checkpoints, length_penalty, beam_search)

# %% [markdown]
# 现在做我们自己的实验，德译英。先要有两个**基线**，不然光看损失看不出好坏。第一个基线给每个词元同样的概率，每个词元的损失是多少奈特？（奈特（nat）是 $-\ln p$ 的单位。**困惑度**是 e 的“损失”次方，意思是：犹豫的程度，相当于要在这么多个同样可能的词元里挑一个。）第二个基线只知道每个词元出现得多频繁，损失又是多少？第三个数是我们的模型在训练之前的损失。

# %%
from course.text import make_batches
from course.training import evaluate_loss

counts = Counter(token for _, tgt in examples for token in tgt)
val_examples = encode_pairs(bpe, val_pairs)
val_tokens = [token for _, tgt in val_examples for token in tgt]
total = counts.total() + len(bpe)  # every token counted once more, so that none is impossible
unigram = sum(-math.log((counts[token] + 1) / total) for token in val_tokens) / len(val_tokens)
val_batches = list(make_batches(val_examples, 1600))
translator.to(device)
untrained = evaluate_loss(translator, val_batches)
n_parameters = sum(p.numel() for p in translator.parameters())
print(f"{n_parameters:,} parameters")
print(f"ln V {math.log(len(bpe)):.2f}, frequencies {unigram:.2f}, untrained model {untrained:.2f}")

# %% [markdown]
# 然后开始训练。不管在哪台机器上，也不管机器多忙，语料库过几遍、用哪些批次、用什么随机种子，都完全一样。**在这台机器上要多久？** 先拿模型的一份拷贝跑几步，估计一下，再把拷贝扔掉。

# %%
from course.runs import Budget, Trainer
from course.training import make_optimizer

epochs = by_scale(smoke=1, cpu=5, gpu=12)
trial = copy.deepcopy(translator).train()
optimizer, clock = make_optimizer(trial, recipe), []
for some in islice(make_batches(examples, recipe.max_tokens, seed=0), 25):
    clock.append(time.perf_counter())
    train_step(trial, [some.to(device)], optimizer, 0.0, recipe)
minutes = epochs * len(batches) * (clock[-1] - clock[5]) / (len(clock) - 6) / 60
print(f"{epochs} epochs of {len(batches)} steps: about {max(1, round(minutes))} min, if this machine stays as busy as it is")

# %% [markdown]
# 去喝杯咖啡，或者趁这段时间读 6.2 节。每个轮次结束后会输出一行，是在验证句子（val）上的损失。训练损失要比它高，因为算训练损失时开着暂退法，目标也经过平滑。

# %%
run = Path(tempfile.mkdtemp()) / "run"
trainer = Trainer(translator, bpe, recipe, Budget(epochs=epochs), run)
trainer.run(train_pairs, val_pairs)
translator.eval()
position = trainer.position
assert position.epoch == epochs and position.step == epochs * trainer.n_batches
print(f"{position.step:,} steps, {position.tokens:,} target tokens, {position.epoch} epochs, "
      f"in {position.seconds / 60:.1f} minutes")

# %%
from course.runs import read_log

trained = evaluate_loss(translator, val_batches)
baselines = {"knows nothing: ln V": math.log(len(bpe)), "knows frequencies": unigram}
title = f"{epochs} epochs take the val loss from {untrained:.1f} to {trained:.2f}"
draw_experiment.learning_curves(read_log(run), baselines, title)

# %% [markdown]
# 不管什么机器、什么语料库，下面这个断言都必须成立：训练之后，模型猜下一个词元，胜过只看词频。

# %%
assert trained < unigram < math.log(len(bpe))
assert trained < untrained
print(f"val loss {trained:.2f} nats a token: perplexity {math.exp(trained):.1f} instead of "
      f"{math.exp(unigram):.0f} (frequencies) and {len(bpe):,} (chance)")

# %% [markdown]
# 那么，模型译得怎么样？取八个探针句，与课程自带的模型对照着看：那个模型的权重个数是我们的四倍，训练了两小时（第 09 课）。**先猜**：哪几句会翻错？德语的动词有的放在句末，有的拆成两半，要留意；还要留意谁对谁做了什么，以及少见的词。

# %%
from course.cache import translate
from course.runs import load_checkpoint

beam = by_scale(smoke=1, cpu=4, gpu=4)
chosen = [probes[name] for name in ("p34", "p19", "p18", "p01", "p21", "p11", "p13", "p09")]
shipped, shipped_bpe = load_checkpoint("multi30k-de-en")
both = {"our model": (translator, bpe), "the shipped model": (shipped.to(device).eval(), shipped_bpe)}
asked = [row["de"] for row in chosen]
said = {name: translate(*one, asked, beam) for name, one in both.items()}
lines = ["| German | reference | our model | the shipped model |", "|---|---|---|---|"]
for row, *answers in zip(chosen, *said.values()):
    cells = (row["de"], row["en"], *answers)
    lines.append("| " + " | ".join(re.sub(r"[|\s]+", " ", cell) for cell in cells) + " |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# 八个句子只是印象，不是测量。要测量，就在测试集上算 BLEU：用 sacrebleu，评的是读者看到的完整句子。它的**签名**说明分数是怎么算的；没有签名，两个 BLEU 值就不能比较。

# %%
from course.evaluation import evaluate

part = test_pairs[: by_scale(smoke=40, cpu=1000, gpu=1000)]
results = {name: evaluate(*one, part, beam, 0.6)[0] for name, one in both.items()}
result, best = results.values()
expected = by_scale(smoke=0, cpu=33, gpu=33) if corpus == "multi30k" else 0
assert expected <= result.bleu < 100 and result.sentences == len(part)
print(f"{corpus} {test_split}, {result.sentences:,} sentences, beam {beam}")
print("; ".join(f"{name}: BLEU {one.bleu:.1f}" for name, one in results.items()))
print(result.signatures["bleu"])

# %% [markdown]
# 我们的模型小，只训练了几分钟。自带的那个模型，就是你也能达到的水平：第 09 课会把它训练出来，再与别人报告的结果比较。（它是用 Multi30k 训练的；如果你的语料库是 **captions**，它从没见过这种句子，那就没什么可比的。）
#
# 翻译的时候，解码器在看哪里？再来看交叉注意力，对各个头取平均，一层一层地看，这次用自带的模型。**请看**“手风琴”这个词：德语把它放在句末，英语却放在“摊位”前面。

# %%
index = asked.index(probes["p21"]["de"])
german, english, of_shipped = asked[index], *(answers[index] for answers in said.values())
src = torch.tensor([[*shipped_bpe.encode(german), EOS]], device=device)
tgt_in = torch.tensor([[BOS, *shipped_bpe.encode(of_shipped)]], device=device)
with torch.no_grad(), record_attention(shipped) as recorded:
    shipped(src, tgt_in, padding_mask(src, PAD), causal_mask(tgt_in.size(1), device))
maps = torch.stack([w[0].mean(0) for name, w in recorded.items() if "cross" in name]).cpu()  # (N, T, S)
written = [*shipped_bpe.tokens(of_shipped), "</s>"]
read = [*shipped_bpe.tokens(german), "</s>"]
looks = maps[-1, written.index("▁accordion"), read.index("▁Akkordeon")]
assert looks > 0.9
draw_inside.attention_grid(
    maps, written, read,
    f'To write "accordion" the last layer has {looks:.0%} of its weight on "Akkordeon", words further on',
)

# %%
check("averaging_what")

# %%
check("bleu_tokens")

# %% [markdown]
# ### 6.2 模型的变体
#
# <details><summary><b>现在读：</b>论文 6.2 节（3 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *To evaluate the importance of different* | 一次只改一样，用开发集来评判。| development set（开发集）：既不拿来训练，也不是测试集 | [09c](09c_ablations.ipynb) |
# | *In Table 3 rows (A)* | 只用一个头，比最好的低 0.9；头太多，也会变差。| constant amount of computation：计算量不变 | [03](03_attention.ipynb)、[09c](09c_ablations.ipynb) |
# | *In Table 3 rows (B)* | 键变窄，成绩就变差；模型变大，成绩就变好；暂退法很有用；改用可学习的位置，几乎没有差别。| compatibility：见 3.2 节 | [09c](09c_ablations.ipynb) |
#
# </details>
#
# 论文的表 3 每次只改 base 模型的一个地方，在 newstest2013 上测量。这是全篇最有教益的一页。这种实验叫**消融实验**（ablation）：做完就知道每个选择值多少分。

# %%
table_three = [  # group, change, BLEU
    ("A", "1 head of 512", 24.9), ("A", "4 heads of 128", 25.5),
    ("A", "16 heads of 32", 25.8), ("A", "32 heads of 16", 25.4),
    ("B", "$d_k$ = 16", 25.1), ("B", "$d_k$ = 32", 25.4),
    ("C", "2 layers", 23.7), ("C", "4 layers", 25.3), ("C", "8 layers", 25.5),
    ("C", "$d_{model}$ = 256", 24.5), ("C", "$d_{model}$ = 1024", 26.0),
    ("C", "$d_{ff}$ = 1024", 25.4), ("C", "$d_{ff}$ = 4096", 26.2),
    ("D", "no dropout", 24.6), ("D", "dropout 0.2", 25.5),
    ("D", "no label smoothing", 25.3), ("D", "label smoothing 0.2", 25.7),
    ("E", "learned positions", 25.7), ("big", "6 layers, 1024, 4096", 26.4),
]
title = "Too little depth, width, dropout or heads costs most; learned positions cost 0.1"
draw.table_three(table_three, 25.8, title)

# %% [markdown]
# 各组的结论：
#
# - **A，头数**（计算量相同）：一个头比八个头低 0.9，可是 32 个头也变差。论文只报告了结果，没有说原因。
# - **B，键的大小：** $d_k$ 变小，成绩就下降。作者猜想，判断查询与键是否匹配并不容易。
# - **C，模型大小：** 越大越好，而深度影响最大：只有两层，要低 2.1。（不过这里八层并不比六层好。）
# - **D，正则化：** 不用暂退法，低 1.2。不用标签平滑，困惑度反而**更好**，从 4.92 变成 4.67，但 BLEU 更差。
# - **E，位置：** 用可学习的表，结果与正弦几乎相同。论文留用正弦，因为正弦也许还能用于比训练句更长的句子。

# %%
# NBVAL_CHECK_OUTPUT
bleu = {change: value for _, change, value in table_three}
assert max(bleu["1 head of 512"], bleu["32 heads of 16"]) < 25.8 <= bleu["16 heads of 32"]
assert bleu["2 layers"] == min(bleu.values()) and bleu["6 layers, 1024, 4096"] == max(bleu.values())
assert abs(bleu["learned positions"] - 25.8) < 0.15
print("worst: two layers; best: big; learned positions: -0.1")

# %%
check("table3_noise")

# %%
check("table3_dk")

# %% [markdown]
# ### 6.3 另一项任务：句法分析
#
# <details><summary><b>现在读：</b>论文 6.3 节（5 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *To evaluate if the Transformer can* | Transformer 能不能做别的事，比如写出句子的句法树？| constituency parsing（成分句法分析）：哪些词属于同一个短语 | [10](10_beyond.ipynb) |
# | *We trained a 4-layer transformer* | 四层，用 40,000 个句子训练；另一次再加上别的分析器分析好的 1700 万个句子。| semi-supervised（半监督）：一部分答案来自程序 | [10](10_beyond.ipynb) |
# | *We performed only a small number* | 只试了几组设置；束宽 21，α 为 0.3。| Section 22：惯用的开发数据 | [10](10_beyond.ipynb) |
# | *Our results in Table 4* | F1 为 91.3，数据更多时 92.7：几乎赶上专门为此设计的分析器。| task-specific tuning：针对任务的调整 | [10](10_beyond.ipynb) |
# | *In contrast to RNN sequence-to-sequence* | 只用那 40,000 个句子，它就胜过一个较早的专用分析器。| BerkeleyParser：2006 年的，基于语法 | [10](10_beyond.ipynb) |
#
# </details>
#
# 这个模型只能做翻译吗？作者还训练了一个 4 层的 Transformer，让它把英语句子的语法树写成一串括号。只用《华尔街日报》的 40,000 个句子，F1 达到 91.3；数据更多时达到 92.7：几乎没有调整，却只输给当时最好的几个分析器。这是“把句法分析当作翻译”，也预示了后来的发展。[第 10 课](10_beyond.ipynb)会用图片说明来做这件事。

# %%
check("parsing_linear")

# %%
check("parsing_f1")

# %% [markdown]
# ## 7 · 结论，以及后来的事
#
# <details><summary><b>现在读：</b>论文第 7 节（4 段）</summary>
#
# | 段首 | 大意 | 难词 | 课 |
# |---|---|---|---|
# | *In this work, we presented* | 第一个只用注意力的序列模型。| transduction（转换）：见上 | [05](05_transformer.ipynb) |
# | *For translation tasks, the Transformer* | 训练更快，两项任务都最好。| architecture（结构）：各部件怎样拼在一起 | [09](09_evaluation.ipynb) |
# | *We are excited about the future* | 下一步：图像、声音、视频、局部注意力、用更少的步数生成。| modalities（模态）：数据的种类 | [10](10_beyond.ipynb) |
# | *The code we used to train* | 代码放在 tensor2tensor 里。|  | [10](10_beyond.ipynb) |
#
# </details>
#
# 论文最后总结：这个模型只用注意力，训练比循环或卷积模型快，翻译也更好；作者还打算把它用于图像、声音和视频。这个模型的各个部件后来怎样了？
#
# | 论文的部件 | 今天 |
# |---|---|
# | 编码器 | 单独拿出来，成了 BERT（Devlin et al. 2018） |
# | 解码器 | 单独拿出来，成了 GPT（Radford et al. 2018） |
# | 后归一化与预热 | 大多改用 pre-norm，即前归一化（Xiong et al. 2020） |
# | 嵌入加上正弦 | 常改为旋转查询和键，即 RoPE（Su et al. 2021） |
# | 前馈网络中的 ReLU（修正线性单元）| GELU，或带门的变体（Shazeer 2020） |
# | $n^2$ 的注意力 | 公式不变，分块计算：FlashAttention（Dao et al. 2022） |
# | 输入输出共用一张表 | 小模型仍然这样；大模型常用两张 |
# | 每个头各有自己的键和值 | 常由几个头共用（Shazeer 2019；Ainslie et al. 2023） |
# | 残差连接、缩放 | 没有变 |

# %%
check("bert_gpt_difference")

# %% [markdown]
# ## 接下来去哪里
#
# | 你想知道 | 课 |
# |---|---|
# | 为什么要缩放，为什么要几个头，表 1 里的代价 | [03 · 注意力](03_attention.ipynb) |
# | 掩码写错会怎样 | [04 · 掩码](04_masking.ipynb) |
# | 位置、归一化、残差；数一数参数 | [05 · Transformer](05_transformer.ipynb) |
# | 一步一步做出 BPE，再分成批次 | [06 · 文本](06_text.ipynb) |
# | 训练循环、学习率的变化、检查点平均 | [07 · 训练](07_training.ipynb) |
# | 束搜索、长度惩罚、手算 BLEU | [08 · 解码](08_decoding.ipynb) |
# | 耗时长的实验，以及得到的数字 | [09 · 评估](09_evaluation.ipynb) |
# | 每个选择值多少：小型的表 3 | [09c · 消融实验](09c_ablations.ipynb) |
# | 用同样的层搭出 BERT 和 GPT；句法分析 | [10 · 翻译之外](10_beyond.ipynb) |
# | 模型能训练，却不会翻译，毛病在哪里 | [11 · 诊所](11_clinic.ipynb) |
#
# > **试一试。**
# > 1. 在复制任务里，让 `tgt_mask` 只剩填充掩码。训练损失会降得更低。留作测试的那 200 个序列会怎样？为什么？
# > 2. 用 `reversed(row)` 作目标来训练复制任务。注意力的图会变成什么样？
# > 3. 把位置编码从复制模型里拿掉（`copier.positions = nn.Identity()`，然后训练）。哪些序列它还能复制？
# > 4. 只看第 3 节的图，给别人讲清楚注意力的三种用法。
#
# <details><summary>答案</summary>
#
# 各跑一次，600 步，一个随机种子。(1) 训练损失降到 0.001，200 个序列只对 4 个：训练时每个位置都能读到下一个符号，而自己写的时候，下一个符号还不存在。(2) 200 个全对，对角线换了方向，从右上到左下。(3) 损失停在 0.88，200 个里对了 6 个。但是 200 个答案的符号全都对，只是次序不同：没有位置编码，编码器看到的只是一袋符号，丢掉的只有次序。(4) 答案在 3.2.3 节：编码器里、解码器里，以及两者之间。
#
# </details>

# %% [markdown]
# ## 你运行了什么
#
# | 名称 | 输入 | 输出 |
# |---|---|---|
# | `attention_weights` | 查询 (…, Q, Dk)，键 (…, K, Dk) | 权重 (…, Q, K) |
# | `scaled_dot_product_attention` | 同上，再加值 (…, K, Dv) | (…, Q, Dv)，权重 |
# | `MultiHeadAttention` | (B, Q, D)，两个 (B, K, D) | (B, Q, D) |
# | `EncoderLayer`, `DecoderLayer` | (B, L, D) | (B, L, D) |
# | `Transformer` | src (B, S)，tgt_in (B, T) | logits (B, T, V) |
# | `BPE` | 一个句子 | 词元编号，也能变回句子 |
# | `Trainer` | 模型、句对、预算 | 一个检查点 |
# | `translate`, `evaluate` | 模型、句子 | 英语译文；BLEU 及其签名 |

# %% [markdown]
# ## 小结
#
# - 循环网络每读一个词都要等一次。用注意力，不管句子多长，都只要固定的步数就能让所有词两两比较完，所以在能并行的机器上快。
# - 注意力就是软性的查表：比较，除以 $\sqrt{d_k}$，softmax，求平均。用几个头，就能同时问几个问题，计算量不变。
# - 同一个类，三种用法；掩码决定谁能看到什么。
# - 有了其余的部件，模型才训练得起来：残差连接、归一化、位置编码、预热、暂退法、标签平滑。
# - 损失要有基线，BLEU 要有签名。

# %% [markdown]
# ## 延伸阅读
#
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762
# - Bahdanau, Cho, Bengio 2014, *Neural Machine Translation by Jointly Learning to Align and Translate*, arXiv 1409.0473
# - Sennrich, Haddow, Birch 2016, *Neural Machine Translation of Rare Words with Subword Units*, arXiv 1508.07909
# - Rush 2018, *The Annotated Transformer*
# - Elliott et al. 2016, *Multi30K: Multilingual English-German Image Descriptions*, W16-3210
#
# 最后一个单元格把这次运行的结果记在文件夹 `build` 里，供 `python -m course walkthrough` 使用。

# %%
note = {
    "corpus": corpus, "split": test_split, "sentences": result.sentences, "bleu": result.bleu,
    "signature": result.signatures["bleu"], "german": german, "english": english,
    "shipped": of_shipped, "shipped_bleu": best.bleu,
}
(output_folder() / "walkthrough.json").write_text(json.dumps(note, ensure_ascii=False), encoding="utf-8")
print(f"{german}\nyour model, BLEU {result.bleu:.1f}:        {english}")
print(f"the shipped model, BLEU {best.bleu:.1f}: {of_shipped}")
