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
# # 作业 · 考试
#
# 一个单元格，一个函数，整篇论文：你要从零写出一个 Transformer。请留出 180 分钟。
#
# **规则。** [课文](../../05_transformer.ipynb)、你以前的作业、论文，全部合上；替你补全代码的助手，也要关掉。能用的只有 torch 和自己的脑子。torch 里允许用小部件：`nn.Linear`、`nn.Embedding`、`nn.LayerNorm`、`nn.Dropout`、softmax，还有 `F.scaled_dot_product_attention`。本身就是答案的不能用：`nn.Transformer`、它的各种层、`nn.MultiheadAttention`。卡了半小时？运行 `check`，读一读它说的话，再打开一条提示。这不丢人：记下卡在哪里，那就是要再学一遍的地方。
#
# **检查**不管你怎么写。后归一化或前归一化，查询、键、值共用一个矩阵或各用一个，正弦曲线或可学习的位置，带不带偏置，全都通得过。它只向你的模型提问。第 3 个词看得到第 5 个词吗？如果每个词只看得到相邻的词，信息经过三层能传多远？它把部件逐个查一遍，缺哪个就说出哪个。最后，你的模型还得学会一件事：复制一个符号序列，约需 20 秒。

# %% [markdown]
# ## 形状一览
#
# | 名称 | 形状 | 内容 |
# |---|---|---|
# | `src` | (B, S) | 源句的词元编号 |
# | `tgt_in` | (B, T) | 目标句的词元编号，已经右移：以 `<s>` 开头 |
# | `src_mask` | (B, 1, 1, S) | True 表示可以关注；填充处为 False |
# | `tgt_mask` | (B, 1, T, T) | True 表示可以关注；因果掩码与填充掩码合在一起 |
# | 编码器的状态 | (B, S, D) | 最后一层的就是记忆（memory） |
# | 解码器的状态 | (B, T, D) | |
# | 查询 | (B, H, Q, D / H) | Q 在编码器里是 S，在解码器里是 T |
# | 键、值 | (B, H, K, D / H) | K 在编码器里**以及在交叉注意力里**是 S，此外是 T |
# | 分数、权重 | (B, H, Q, K) | 两个掩码都可以直接广播到这个形状 |
# | logits | (B, T, `tgt_vocab`) | 任意的数：末尾没有 softmax |
#
# B 是句子数，D 是 `d_model`，H 是 `n_heads`，F 是 `d_ff`。前馈网络的宽度是 D → F → D，编码器和解码器各有 `n_layers` 层。60 个词的句子，模型要处理得了。
#
# 建议按这个次序写：先写注意力，调用一次，看看形状；再写前馈网络、两种层、模型。每写一步，都打印形状。

# %%
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display
from torch import Tensor, nn

from course.homework import check
from course.viz import finish

# %% [markdown]
# <!-- card: build_transformer -->
# ## `build_transformer`
#
# 从一个空白的单元格写出整个 Transformer：嵌入、位置、编码器、解码器、输出投影。每个子层都有残差和归一化。后归一化或前归一化，LayerNorm 或 RMSNorm，位置用哪一种，权重怎样摆放，都随你。
#
# **为什么重要。** 谁能不看资料写出它，谁就读懂了论文。
#
# ★★★★★ · 180 分钟 · 5 分
#
# ```text
# build_transformer(src_vocab, tgt_vocab, d_model, n_heads, d_ff, n_layers) -> 一
#     个 nn.Module，调用 (src, tgt_in, src_mask, tgt_mask) -> logits (B, T,
#     tgt_vocab)
# src (B, S) 和 tgt_in (B, T) 是词元编号，tgt_in 已经右移
# 掩码是布尔型，True = 可以关注：src_mask (B, 1, 1, S)，tgt_mask (B, 1, T, T)，
#     tgt_mask 由因果掩码与填充掩码合成。编码器和解码器各有 n_layers 层
# 如果用了暂退法，eval 模式下要关掉
# 60 个词的句子，模型要处理得了
# ```
#
# <details><summary>提示 1</summary>
#
# 先凭记忆画出图 1。编码器层有几个子层？解码器层有几个？每个注意力的查询、键、值从哪里来？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 五个类就够了：注意力 (query, memory, mask)、前馈网络、编码器层、解码器层、模型。每个子层都是 x = norm(x + sublayer(x))。编码器的自注意力和交叉注意力用 src_mask，解码器的自注意力用 tgt_mask。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# 解码器层：x = n1(x + self_attention(x, x, tgt_mask)); x = n2(x + cross_attention(x, memory, src_mask)); x = n3(x + feed_forward(x))。模型：嵌入源句，加上位置，走完所有编码器层；嵌入 tgt_in，加上位置，带着记忆走完所有解码器层；最后是 nn.Linear(d_model, tgt_vocab)。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "7ab122ac0f07359758b5929784670fc7", "grade": false, "grade_id": "build_transformer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def build_transformer(
    src_vocab: int, tgt_vocab: int, d_model: int, n_heads: int, d_ff: int, n_layers: int
) -> nn.Module:
    """Return your model; write its classes above or below this function, in this cell."""
    raise NotImplementedError  # your code


# %%
check("build_transformer", build_transformer)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "7b8502f502392cc81b9c18c75e1f790c", "grade": true, "grade_id": "build_transformer-check", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("build_transformer", build_transformer, strict=True).passed

# %% [markdown]
# ## 你的模型再学一样东西
#
# 复制已经学会了。现在让同一个模型学着把序列**倒过来写**：`3 1 2` 变成 `2 1 3`。最先要写的符号，是最后读到的那个。你的模型必须看哪里？
#
# 不用把模型打开，直接问它就行：换掉一个源词，量一量每个位置的 logit 变了多少。先猜猜图是什么样子，再运行单元格（约半分钟）。

# %%
def reversal(n: int, length: int = 8) -> tuple[Tensor, ...]:
    """Return src, tgt_in, src_mask, tgt_mask and what is to be written: symbols are 2 ... 11."""
    src = torch.randint(2, 12, (n, length))
    tgt_out = src.flip(1)
    tgt_in = torch.cat([torch.ones(n, 1, dtype=torch.long), tgt_out[:, :-1]], dim=1)  # <s> is 1
    src_mask = torch.ones(n, 1, 1, length, dtype=torch.bool)
    tgt_mask = torch.ones(length, length).tril().bool().expand(n, 1, -1, -1)
    return src, tgt_in, src_mask, tgt_mask, tgt_out


def learn_to_reverse(n_steps: int) -> tuple[nn.Module, list[float]]:
    """Train a small model of yours; return it and the loss at each step."""
    torch.manual_seed(2017)
    model = build_transformer(12, 12, 32, 4, 64, 2)
    if model is None:
        raise NotImplementedError("write build_transformer first")
    optimizer, losses = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98)), []
    for step in range(1, n_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(step / 100, (200 / step) ** 0.5, 1)  # warm up, hold, decay
        *args, tgt_out = reversal(64)
        loss = F.cross_entropy(model(*args).flatten(0, 1), tgt_out.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), losses


@torch.no_grad()
def influence(model: nn.Module) -> Tensor:
    """Return how far logits t (rows) move when source word j (columns) is replaced: (T, S)."""
    src, *others, _ = reversal(200)
    before, moved = model(src, *others), []
    for j in range(src.size(1)):
        changed = src.clone()
        changed[:, j] = (src[:, j] - 2 + torch.randint(1, 10, (200,))) % 10 + 2  # another symbol
        moved.append((model(changed, *others) - before).abs().mean((0, 2)))  # (T,)
    return torch.stack(moved, dim=1)


# %%
try:
    model, losses = learn_to_reverse(500)
except NotImplementedError as not_yet:
    print(not_yet)
else:
    *args, tgt_out = reversal(200)
    right = (model(*args).argmax(-1) == tgt_out).float().mean().item()
    figure, (left, middle) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.plot(losses)
    left.axhline(math.log(10), color="grey", linestyle="--", label="guessing: ln 10")
    left.set(title=f"Reversing: {right:.0%} of fresh symbols are right",
             xlabel="step", ylabel="loss in nats a symbol")
    left.legend()
    shown = middle.imshow(influence(model), cmap="viridis")
    middle.set(title="Each position reads its mirror image",
               xlabel="source word that is replaced", ylabel="position written")
    figure.colorbar(shown, label="mean change of the logits")
    display(finish(figure))

# %% [markdown]
# 图上有一条亮的对角线，从右上到左下：该看哪里，是模型自己找到的，谁也没有告诉它。可以试一试：去掉编码器里的位置信息，再运行这两个单元格。两幅图中哪一幅变了？为什么？
#
# 点了 *Run All*，页面跳到这里，上面却有单元格没有编号？那是运行停在了第一道还没通过的练习；原因写在那道练习的第二个 check 单元格下面。
#
# 全绿了？那你已经能凭记忆写出 Transformer。谈论它的人很多，写得出的很少。成绩会汇总成报告：运行 `python -m course homework report`，生成 `build/report.html`，留给你自己看。老师要打分的话，交的是这个笔记本本身。还剩六个问题，问的是为什么：[六个问题](../questions/questions.ipynb)。
