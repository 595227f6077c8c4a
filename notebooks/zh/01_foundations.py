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
# # 01 · 基础
#
# > 五种网络，梯度全部手写：MLP、卷积、RNN、LSTM、GRU。
#
# **学完这一课，你能**
#
# - 说清什么是神经元、损失、梯度和训练循环，再亲手把它们写出来；
# - 推导五种网络的反向传播，用测试证明一个正负号都没错；
# - 说明普通的网络为什么读不了句子，卷积和循环又怎样解决这个问题；
# - 测量梯度怎样随距离变弱，说清门改变了什么；
# - 解释论文第 2 节的一句话：为什么“离得远”就“难学会”。
#
# **先修：** Python、矩阵乘法、导数。**完全不需要懂深度学习。** 这一页是主线的第一页，标有“选读”的部分第一遍可以跳过。
#
# **时间：** 75 分钟；加上标有“选读”的部分，共 120 分钟。**论文：** 第 1 节末尾、第 2 节、3.3 节，以及表 1 的“maximum path length”（最大路径长度）一栏。
#
# 论文想取代的那些网络，这一页全都实现一遍。Transformer 是答案，这一页先看问题。
#
# **形状**写在代码后面的注释里。N 是样本数，B 是一个批次（batch）里的样本数，L 是句子长度，D 是输入的宽度，O 是输出的宽度，H 是隐藏层或隐藏状态的宽度，K 是卷积核（kernel）的大小，也就是窗口的宽度，P 是窗口的个数，G 是所有的门合起来的行数，V 是词数。写成 `(B, L, D)`，意思是一个 B 乘 L 乘 D 的数组。

# %%
#| export
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = dict[str, Tensor]  # name of a weight, as torch.nn has it -> its numbers

# %% [markdown]
# 上面的单元格会写进库文件 `course/foundations.py`，凡是以 `#| export` 开头的单元格都是这样。下一个单元格只给这一页用。以 `# NBVAL_CHECK_OUTPUT` 开头的单元格，在任何机器上打印的内容都必须一样，课程的测试会比对。这一页全部在 CPU 上运行。

# %%
import math
from collections import Counter, deque
from functools import partial

from course.corpora import pairs
from course.device import by_scale
from course.homework import check, compare
from course.viz import foundations as draw

# %% [markdown]
# ## 1 · 一个神经元怎样学习
#
# 一条德语图片说明有 8 个词，它的英语译文会有多少个词？我们从例子里学着猜。课程的语料库有几千对句子，这里取 400 对。
#
# 要猜，最简单的办法是用一个**神经元**（neuron）：输入乘以一个数，叫**权重**（weight）$w$，再加上另一个数，叫**偏置**（bias）$b$：
#
# $$\hat y = w x + b .$$
#
# $x$ 表示德语句子有多长：先减去平均值，再除以标准差（离平均值的典型距离）。这叫**标准化**（standardising），好处你马上就会看到。$\hat y$ 戴着帽子，表示这是猜的；真正的长度是 $y$。
#
# 代码用**张量**（tensor）来算，张量就是 PyTorch 里装着许多数的数组。`+`、`*` 和 `.square()` 对每个数分别计算；`.mean()` 求平均值，`.std(correction=0)` 求标准差，`.item()` 把只有一个数的张量变成 Python 的数。`.T` 交换行和列。`.double()` 改用 16 位有效数字。`t[:, None]` 添上一个长度为 1 的轴；如果两个张量在这个轴上长度不同，PyTorch 就把短的那个重复几遍（**广播**，broadcasting）。

# %%
captions = pairs("captions", "train")
counts = torch.tensor([(len(de.split()), len(en.split())) for de, en in captions[:400]]).double()
german, english = counts.T  # (N,) words of each sentence
scaled = (german - german.mean()) / german.std(correction=0)  # (N,) mean 0, standard deviation 1
assert scaled.mean().abs() < 1e-12 and abs(scaled.square().mean() - 1) < 1e-12
print(f"{len(scaled)} pairs; a German caption has {german.mean():.1f} words, an English one "
      f"{english.mean():.1f}")

# %% [markdown]
# ### 损失：错得有多厉害？
#
# 要学习，先得用一个数来衡量猜得有多差。这个数叫**损失**（loss）。常用的一种是**均方误差**（mean squared error）：
#
# $$\mathcal{L}(w, b) = \frac{1}{N} \sum_{n=1}^{N} \left( \hat y_n - y_n \right)^2 ,
# \qquad \hat y_n = w x_n + b .$$
#
# 数据是固定的，损失只取决于 $w$ 和 $b$。可以把它想成一片地形：每一对 $(w, b)$ 是地上的一个点，损失就是那里的高度。**学习就是往下走。**
#
# ### 梯度下降：哪边是下坡？
#
# $w$ 稍微增大一点，高度怎样变？看损失对 $w$ 的导数就知道。用链式法则可以求出：
#
# $$\frac{\partial \mathcal{L}}{\partial w} = \frac{1}{N} \sum_n 2 (\hat y_n - y_n) \, x_n ,
# \qquad
# \frac{\partial \mathcal{L}}{\partial b} = \frac{1}{N} \sum_n 2 (\hat y_n - y_n) .$$
#
# 两个导数合起来就是**梯度**（gradient）。它是一个向量，指向上坡最陡的方向。所以我们朝反方向走一小步，一步接一步：
#
# $$w \leftarrow w - \eta \, \frac{\partial \mathcal{L}}{\partial w} , \qquad
# b \leftarrow b - \eta \, \frac{\partial \mathcal{L}}{\partial b} .$$
#
# $\eta$（读作 eta）叫**学习率**（learning rate）。把所有样本过一遍，叫一个**轮次**（epoch）。下面就是完整的训练循环，没有什么神秘的：

# %%
def descend(
    x: Tensor, y: Tensor, rate: float, epochs: int, w: float = 0.0, b: float = 0.0
) -> list[tuple[float, float, float]]:
    """Return (w, b, loss) before each step of gradient descent, and after the last."""
    path = []
    for _ in range(epochs + 1):
        error = w * x + b - y  # (N,)
        path.append((w, b, error.square().mean().item()))
        w = w - rate * (2 * error * x).mean().item()
        b = b - rate * (2 * error).mean().item()
    return path


paths = {0.1: descend(scaled, english, 0.1, epochs=30),
         0.9: descend(scaled, english, 0.9, epochs=30, w=11.0, b=4.0)}
some_w, some_b = torch.linspace(-7, 15, 80).double(), torch.linspace(-1, 23, 80).double()
guesses = some_w[:, None, None] * scaled + some_b[:, None]  # (80, 80, N)
heights = (guesses - english).square().mean(dim=2)  # (80, 80) the loss of each (w, b)
draw.descent(german, english, scaled, paths, (some_w, some_b, heights))

# %% [markdown]
# 左图里，直线一步步移到了合适的位置。右图是从上空俯视的地形，像登山地图：每一圈代表一个高度。学习率小，路线直奔中心。学习率大（换了一个起点，好让你把两条都看清），路线就在山谷两侧跳来跳去，但还是越来越近。
#
# 只有一个神经元时，地形像一只碗。我们把 $x$ 标准化了，所以碗是圆的；不然就是一条又长又窄的山谷，走起来很慢。碗只有一个最低点，求它有现成的公式，200 年前就有了，叫“最小二乘法”。
#
# **先猜**：学习率取 0.5、1.0 和 1.1，分别会走到哪里？

# %%
design = torch.stack([scaled, torch.ones_like(scaled)], dim=1)  # (N, 2)
best_w, best_b = torch.linalg.lstsq(design, english[:, None]).solution[:, 0].tolist()
w, b, lowest = paths[0.1][-1]
assert abs(w - best_w) < 0.05 and abs(b - best_b) < 0.05

one_step = descend(scaled, english, 0.5, 1)[-1]
assert abs(one_step[0] - best_w) < 1e-9 and abs(one_step[1] - best_b) < 1e-9
there_and_back = descend(scaled, english, 1.0, 30)
assert abs(there_and_back[30][2] - there_and_back[0][2]) < 1e-6
assert descend(scaled, english, 1.1, 30)[-1][2] > 1000 * there_and_back[0][2]
print(f"after 30 epochs: w {w:.2f}, b {b:.2f}; least squares: {best_w:.2f}, {best_b:.2f}")
eight = best_w * (8 - german.mean().item()) / german.std(correction=0).item() + best_b
print(f"a German caption of 8 words: {eight:.1f} English words")
print("rate 0.5: there in one step; 1.0: to and fro for ever; 1.1: away, faster and faster")

# %% [markdown]
# 在这只碗里，每走一步，到最低点的距离就乘以 $1 - 2\eta$。为什么？我们做过标准化：$x$ 的平均值是 0，$x^2$ 的平均值是 1。所以，设最低点是 $(w^*, b^*)$，两个导数就是 $2 (w - w^*)$ 和 $2 (b - b^*)$。走一步，$w - w^*$ 变成 $w - w^* - \eta \cdot 2 (w - w^*) = (1 - 2\eta)(w - w^*)$，$b$ 也一样。
#
# $\eta = 0.5$ 时因子是 0；$\eta = 1$ 时是 $-1$；$\eta = 1.1$ 时是 $-1.2$，而 $1.2^{30} \approx 237$：越走越远，这叫**发散**（diverge）。记住这条规律：一个数反复乘以同一个因子，只要这个因子不是非常接近一，最后不是消失就是爆炸。到第 10 节你会看到，一大类网络的命运就由这件小事决定。
#
# > **试一试。** 在新的单元格里计算 `descend(german, english, 0.1, 30)[-1]`，词数不做标准化。现在学习率要小到多少才不发散？
#
# <details><summary>答案</summary>
#
# 损失是 $10^{80}$：发散了。学习率不超过 0.0093 就不发散。道理和上面一样，只是词数平方的平均值现在约为 100，不再是 1，所以沿着这条山谷最陡的方向，每步的因子从 $1 - 2\,\eta$ 变成了 $1 - 214\,\eta$。要让因子大于 $-1$，就要 $\eta < 2/214$。沿着最平的方向，因子是 $1 - 0.25\,\eta$，几乎不动：学习率取 0.009，走 200 轮之后 $b$ 才到 0.43，最低点却在 1.02。
#
# </details>

# %% [markdown]
# ## 2 · 链式法则就是沿着一张图走
#
# 一个神经元有两个导数，我们在纸上就求出来了。论文的 base 模型有 6500 万个，谁也不会一个一个去推导。窍门是把整个计算拆成许多小步，画成一张**图**（graph），再用链式法则在图上从终点走回起点。这样往回走，叫做**反向传播**（backpropagation）。
#
# 取一个神经元，末尾加上函数 $\tanh$，只看一个样本。像 $\tanh$ 这样图像不是直线的函数，叫作**非线性函数**（本课程的英文版称 bend，即“弯折”），书上也叫“激活函数”。计算分成几步：
#
# $$a = w x, \qquad s = a + b, \qquad y = \tanh s, \qquad e = y - t, \qquad \mathcal{L} = e^2 .$$
#
# **前向**时，每一步算出自己的值。**反向**时，每一步都问：“已知损失随我的输出怎样变，那么它随我的输入怎样变？”答案总是同一个乘积：
#
# $$\frac{\partial \mathcal{L}}{\partial \text{input}}
# = \frac{\partial \mathcal{L}}{\partial \text{output}} \cdot
# \frac{\partial \text{output}}{\partial \text{input}} .$$
#
# 每一步只要知道自己那个小导数：$e^2$ 的导数是 $2e$；$\tanh s$ 的导数是 $1 - \tanh^2 s$；经过加法，梯度原样传下去；经过乘法，梯度乘上“另一个”因子再传下去。**先猜**：$x = 2$，$w = 0.5$，$x$ 和 $w$ 谁的梯度绝对值更大？（把猜测写进下一个单元格。测量之后，`compare` 会告诉你差多少；不猜，也不影响后面的运行。）

# %%
mine = None  # your guess: "x" or "w"

# %%
x1, w, b, target = 2.0, 0.5, -0.4, 1.0
a = w * x1
s = a + b
y = math.tanh(s)
e = y - target
loss = e**2

grad_e = 2 * e
grad_y = grad_e * 1
grad_s = grad_y * (1 - y**2)
grad_b = grad_s * 1
grad_a = grad_s * 1
grad_w = grad_a * x1
grad_x = grad_a * w

# %%
compare(mine, "w" if abs(grad_w) > abs(grad_x) else "x", "01: the larger gradient")

# %%
values = {"x": x1, "w": w, "a": a, "b": b, "s": s, "y": y, "e": e, "loss": loss}
slopes = {"x": grad_x, "w": grad_w, "a": grad_a, "b": grad_b, "s": grad_s, "y": grad_y,
          "e": grad_e, "loss": 1.0}
draw.graph(values, slopes)

# %% [markdown]
# 权重的梯度乘的是 $x = 2$，$x$ 的梯度乘的是 $w = 0.5$，所以权重的梯度更大，绝对值是另一个的四倍：$-1.318$ 对 $-0.329$。（负号表示：$w$ 增大，损失会减小。）这一页所有的梯度都这样理解：`grad_w` 是 $\partial \mathcal{L} / \partial w$ 的简写，意思是把 $w$ 推动一点点，损失的变化就是这一点点乘以 `grad_w`。这样就有了一种不用数学的检验：推一下，看看。PyTorch 里还有一个工具会自动往回走，叫做**自动求导**（autograd），这是第二种检验。（`requires_grad` 让它做记录，`backward()` 往回走，把结果填进 `.grad`；`no_grad` 和 `detach()` 关掉记录。）

# %%
# NBVAL_CHECK_OUTPUT
def nudged(function: Callable[[float], float], at: float, little: float = 1e-5) -> float:
    """Measure a derivative: move the input a little to both sides and look at the output."""
    return (function(at + little) - function(at - little)) / (2 * little)


assert abs(grad_w - nudged(lambda w: (math.tanh(w * x1 + b) - target) ** 2, w)) < 1e-9
assert abs(grad_x - nudged(lambda x: (math.tanh(w * x + b) - target) ** 2, x1)) < 1e-9

leaf = torch.tensor(w, dtype=torch.float64, requires_grad=True)
((torch.tanh(leaf * x1 + b) - target) ** 2).backward()
assert abs(leaf.grad.item() - grad_w) < 1e-12

assert abs(nudged(lambda w: w * 3 + w * w, 2.0) - (3 + 2 + 2)) < 1e-9
print(f"by hand {grad_w:.4f}, nudged the same, autograd the same")

# %% [markdown]
# 从最后一条断言还能看出一条规则。在 $3w + w \cdot w$ 里，权重用了三次。每用一次，就传回一个梯度（$3$、$w$ 和 $w$），而**汇合的梯度要相加**。记住这条规则：循环神经网络在每个词上用的都是同一个权重。
#
# 反向传播比“推一下”好在哪里？推 6500 万个权重，要把网络算 1.3 亿遍。反向只走**一遍**，就得到全部 6500 万个导数，代价大约是前向一遍的两倍。

# %% [markdown]
# ## 3 · 许多神经元，许多样本：张量
#
# 张量有若干个轴：向量有一个，矩阵有两个。把 O 个神经元并排放，每个有 D 个输入，它们的权重就是一个 O 行 D 列的矩阵 $W$。然后一次取 B 个样本，这样一组样本叫一个**批次**（batch）。一次矩阵乘法就算出每个神经元对每个样本的输出：
#
# $$Y = X W^T + b , \qquad \text{in numbers:} \qquad
# y_{no} = \sum_{d} x_{nd} \, w_{od} + b_o .$$
#
# 这就是**线性层**（linear layer），PyTorch 的 `nn.Linear` 存权重用的正是这个形状。
#
# 现在往回走。已知 $g_{no} = \partial \mathcal{L} / \partial y_{no}$，要求三个梯度。看着上面的求和式，每次都问：“这个数出现在哪些输出里，因子是什么？”
#
# - $x_{nd}$ 出现在同一个样本的每个输出 $o$ 里，因子是 $w_{od}$；
# - $w_{od}$ 出现在每个样本 $n$ 的同一个输出里，因子是 $x_{nd}$；
# - $b_o$ 出现在每个样本的同一个输出里，因子是 1。
#
# 汇合的梯度要相加：
#
# $$\frac{\partial \mathcal{L}}{\partial x_{nd}} = \sum_o g_{no} \, w_{od} , \qquad
# \frac{\partial \mathcal{L}}{\partial w_{od}} = \sum_n g_{no} \, x_{nd} , \qquad
# \frac{\partial \mathcal{L}}{\partial b_o} = \sum_n g_{no} .$$
#
# 每个求和又是一次矩阵乘法：$g W$、$g^T X$，以及对各行求和。如果忘了哪一边要转置，就看形状：**梯度的形状和它所属的那个量一样。**

# %%
#| export
def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute a layer of O neurons for each row of x: (..., D) -> (..., O).

    weight (O, D), bias (O,), as in torch.nn.Linear.
    """
    return x @ weight.T + bias


def linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias, given that of the output.

    grad (B, O), x (B, D), weight (O, D) -> (B, D), (O, D), (O,).
    """
    return grad @ weight, grad.T @ x, grad.sum(dim=0)

# %% [markdown]
# 这两行是这一页的核心。下面五种网络都由 `linear` 和几个对每个数分别计算的函数组成。
#
# ### 每个梯度都要检验
#
# 接下来要手写许多梯度。正负号错了不会报错，网络只是学得很差，而你白白浪费一个星期。所以先写检验，再写网络。这一页的每个网络都是一对函数：
#
# - `forward(x, weights)` 返回输出和一个**缓存**（cache），里面存着反向时要用的东西；
# - `backward(grad, cache, weights)` 接收输出的梯度，返回一个字典，按名字存放 `"x"` 的梯度和每个权重的梯度。
#
# 函数 `gradient_errors` 我们叫它**裁判**（judge）。它在输出处送入一个随机的梯度，用手写的反向算一遍，用自动求导再算一遍，按名字返回两者的最大差别。（自动求导这边，送入的就是 `torch.autograd.grad(output, inputs, gradient)` 的第三个参数：输出的梯度，往回走从它开始。）裁判用 **float64**，即 16 位有效数字。两边如果都算对了，相差不过 $10^{-15}$ 左右，错误就没法藏在舍入误差后面。

# %%
#| export
def gradient_errors(
    forward: Callable, backward: Callable, x: Tensor, weights: Weights
) -> dict[str, float]:
    """Compare a backward pass written by hand with autograd.

    forward(x, weights) -> output, cache; backward(grad, cache, weights) -> name -> gradient, for
    "x" and for every name of `weights`. Returns the largest absolute difference for each name;
    inf where a gradient is missing or its shape is not that of its tensor. Use float64.
    """
    leaves = {"x": x, **weights}
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in leaves.items()}
    inner = {name: leaves[name] for name in weights}
    output, cache = forward(leaves["x"], inner)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    expected = torch.autograd.grad(output, list(leaves.values()), grad)
    with torch.no_grad():
        by_hand = backward(grad, cache, inner)
    errors = {}
    for name, true in zip(leaves, expected):
        fits = name in by_hand and by_hand[name].shape == true.shape
        errors[name] = (by_hand[name] - true).abs().max().item() if fits else float("inf")
    return errors


def weights_of(module: nn.Module) -> Weights:
    """Copy the weights of a torch.nn module, under its names; "_l0" of recurrent ones is cut."""
    return {
        name.removesuffix("_l0"): tensor.detach().clone()
        for name, tensor in module.named_parameters()
    }

# %% [markdown]
# `weights_of` 向 PyTorch 借来初始值，都是些小的随机数。为什么要随机？两个神经元的权重要是相同，梯度也就相同，以后永远一模一样。可是明天再跑一遍，这些数又必须和今天一样，否则谁也没法核对结果。所以用**随机种子**（seed）把随机数固定下来：种子相同，数就相同。
#
# 裁判先检验我们的线性层，拿 PyTorch 自己的层（`theirs`）作对照，两者权重相同。然后再交给它一个写错的层，里面多了一个负号，看它能不能发现。

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)


def layer_forward(x: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    return linear(x, weights["weight"], weights["bias"]), x


def layer_backward(grad: Tensor, x: Tensor, weights: Weights, sign: int = 1) -> Weights:
    grad_x, grad_weight, grad_bias = linear_backward(grad, x, weights["weight"])
    return {"x": sign * grad_x, "weight": grad_weight, "bias": grad_bias}


theirs = nn.Linear(4, 3).double()
x, weights = torch.randn(5, 4).double(), weights_of(theirs)
assert torch.allclose(layer_forward(x, weights)[0], theirs(x), atol=1e-12)
right = gradient_errors(layer_forward, layer_backward, x, weights)
wrong = gradient_errors(layer_forward, partial(layer_backward, sign=-1), x, weights)
assert all(error < 1e-10 for error in right.values())
assert wrong["x"] > 0.1 and wrong["weight"] < 1e-10
print("equal to nn.Linear and to autograd; the wrong sign is found, and its name is x")

# %% [markdown]
# ## 4 · 多层感知机：非线性有什么用
#
# **问题：** 线性层只能画直线。要是数据的规律不是直线呢？
#
# 第一个想法：两个线性层，一个接一个。**先猜**：有什么事，一个做不到，两个能做到？

# %%
# NBVAL_CHECK_OUTPUT
first, second = nn.Linear(4, 8).double(), nn.Linear(8, 3).double()
one = nn.Linear(4, 3).double()
with torch.no_grad():
    one.weight.copy_(second.weight @ first.weight)
    one.bias.copy_(second.weight @ first.bias + second.bias)
assert torch.allclose(second(first(x)), one(x), atol=1e-12)
print("two linear layers are one linear layer")

# %% [markdown]
# 什么也没有！矩阵的乘积还是矩阵。两层之间必须加入非线性。最简单的非线性函数是 **ReLU**（修正线性单元，rectified linear unit）：$\max(0, a)$。负数变成零，正数原样通过。线性、非线性、线性，三步合起来就是**多层感知机**（multilayer perceptron，MLP）。
#
# $$a = x W_1^T + b_1 , \qquad h = \max(0, a) , \qquad y = h W_2^T + b_2 .$$
#
# $h$ 里的数叫**隐藏层**（hidden layer）：既不是输入，也不是输出。别忘了这个公式，它就是**论文的公式 2**，即 3.3 节的前馈网络。Transformer 的每一层里都有一个。
#
# **反向传播**分三步。已知输出的梯度 $g^y$。（右上角的小字母表示这是谁的梯度。）
#
# 1. 第二个线性层：$g^h = g^y W_2$，$W_2$ 和 $b_2$ 的梯度见第 3 节。
# 2. 非线性函数（ReLU）。它的斜率在 $a > 0$ 处是 1，别处是 0：$g^a = g^h \odot [a > 0]$。符号 $\odot$ 表示逐个数相乘。关闭了的隐藏神经元得不到梯度。
# 3. 第一个线性层：$g^x = g^a W_1$，以及 $W_1$ 和 $b_1$ 的梯度。
#
# 名字 `"0.weight"` 和 `"2.weight"` 来自 `nn.Sequential(nn.Linear(...), nn.ReLU(), nn.Linear(...))`：第 0 和第 2 个位置有权重，第 1 个位置是非线性函数。

# %%
#| export
def mlp_forward(x: Tensor, weights: Weights) -> tuple[Tensor, tuple]:
    """Compute linear, ReLU, linear: x (B, D) -> output (B, O), cache.

    weights: 0.weight (H, D), 0.bias (H,), 2.weight (O, H), 2.bias (O,), as in
    nn.Sequential(nn.Linear, nn.ReLU, nn.Linear). Paper, equation 2.
    """
    hidden = linear(x, weights["0.weight"], weights["0.bias"]).clamp(min=0)  # (B, H)
    return linear(hidden, weights["2.weight"], weights["2.bias"]), (x, hidden)


def mlp_backward(grad: Tensor, cache: tuple, weights: Weights) -> Weights:
    """Return the gradients of x and of each weight, by name: grad (B, O) is the output's."""
    x, hidden = cache
    grad_hidden, weight_2, bias_2 = linear_backward(grad, hidden, weights["2.weight"])
    grad_a = grad_hidden * (hidden > 0)  # (B, H)
    grad_x, weight_0, bias_0 = linear_backward(grad_a, x, weights["0.weight"])
    return {"x": grad_x, "0.weight": weight_0, "0.bias": bias_0, "2.weight": weight_2,
            "2.bias": bias_2}

# %%
# NBVAL_CHECK_OUTPUT
theirs = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
weights = weights_of(theirs)
assert torch.allclose(mlp_forward(x, weights)[0], theirs(x), atol=1e-12)
assert all(error < 1e-10 for error in gradient_errors(mlp_forward, mlp_backward, x, weights).values())


def forgets_the_bend(grad: Tensor, cache: tuple, weights: Weights) -> Weights:
    return mlp_backward(grad, (cache[0], cache[1] + 1e-9), weights)  # now every neuron counts as on


wrong = gradient_errors(mlp_forward, forgets_the_bend, x, weights)
assert wrong["0.weight"] > 1e-3 and wrong["2.bias"] < 1e-10
print("MLP: equal to nn.Sequential and to autograd; without the bend's slope it is not")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 用折线拼出的曲线，以及它的损失地形 · 选读
#
# 想看看 MLP 怎样拟合曲线，它的损失又为什么不是一只碗，就读这一节。

# %% [markdown]
# 花园里放了一支温度计，有人一天里读了四十次。（第 03 课会换一种工具，再回到这个花园。）一个隐藏的 ReLU 神经元，图像是一条**折线**（hinge）：先是平的，过了弯折点就是斜的。输出就是许多折线相加。有 48 条折线，网络就能跟上一天的温度变化。训练循环就是第 1 节那个，只是梯度来自 `mlp_backward`。

# %%
random = torch.Generator().manual_seed(10)
hours = (24 * torch.rand(40, generator=random).double()).sort().values
truth = 14 - 6 * torch.cos(2 * math.pi * (hours - 3) / 24) - 5 * torch.exp(-((hours - 17) ** 2))
degrees = truth + torch.randn(40, generator=random).double()
day_x = (hours[:, None] - 12) / 6  # (40, 1) from -2 to 2
day_y = (degrees[:, None] - 14) / 6  # (40, 1)


def fit(weights: Weights, epochs: int, rate: float = 0.05) -> list[Weights]:
    """Go down the gradient; return the weights after each epoch, those of the start first."""
    history = [weights]
    for _ in range(epochs):
        output, cache = mlp_forward(day_x, weights)
        grads = mlp_backward(2 * (output - day_y) / len(day_y), cache, weights)
        weights = {name: tensor - rate * grads[name] for name, tensor in weights.items()}
        history.append(weights)
    return history


def day_loss(weights: Weights) -> float:
    return (mlp_forward(day_x, weights)[0] - day_y).square().mean().item()


# %%
torch.manual_seed(0)
start = weights_of(nn.Sequential(nn.Linear(1, 48), nn.ReLU(), nn.Linear(48, 1)).double())
history = fit(start, epochs=3000)
end = history[-1]

design = torch.cat([day_x, torch.ones_like(day_x)], dim=1)
line = design @ torch.linalg.lstsq(design, day_y).solution  # the best straight line
straight = (line - day_y).square().mean().item()
assert day_loss(end) < 0.5 * straight
print(f"mean squared error: best straight line {straight:.3f}, MLP {day_loss(end):.3f}")

# %% [markdown]
# 再来看损失地形。每个权重一维，一共 145 维，而我们只能画两维。画哪两维？除了训练经过的点，地形上还有一个点，不用算就知道它在哪里。**先猜**：把两个隐藏神经元连同它们的全部权重对调，函数会怎样？损失会怎样？
#
# 我们把全部 48 个神经元的次序颠倒过来，就到了地形上的另一个点，叫**孪生点**。起点、训练的终点、终点的孪生点，三个点确定一个平面。

# %%
twin_end = {"0.weight": end["0.weight"].flip(0), "0.bias": end["0.bias"].flip(0),
            "2.weight": end["2.weight"].flip(1), "2.bias": end["2.bias"]}
between = {name: (end[name] + twin_end[name]) / 2 for name in end}
assert abs(day_loss(twin_end) - day_loss(end)) < 1e-9
assert day_loss(between) > 2 * day_loss(end)
print(f"loss at the end {day_loss(end):.3f}, at its twin {day_loss(twin_end):.3f}, "
      f"halfway between {day_loss(between):.3f}")

# %% [markdown]
# 要画这个平面，先把全部 145 个权重写成一个长向量，再沿两个方向走。（下一个单元格只是为画图做准备，第一遍可以跳过。）

# %%
def flat(weights: Weights) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in weights.values()])  # (145,)


def unflat(vector: Tensor) -> Weights:
    parts = vector.split([tensor.numel() for tensor in start.values()])
    return {name: part.view_as(start[name]) for name, part in zip(start, parts)}


origin = (flat(end) + flat(twin_end)) / 2
across = (flat(twin_end) - flat(end)) / 2  # the plane's two directions meet at a right angle
along = flat(start) - origin
along = along - across * (along @ across) / (across @ across)
ticks = torch.linspace(-1.6, 1.6, 41).double()
heights = torch.tensor([[day_loss(unflat(origin + u * across + v * along)) for u in ticks]
                        for v in ticks])  # (41, 41)
steps = [flat(weights) - origin for weights in history[::20]]
shadow = [(step @ across / (across @ across), step @ along / (along @ along)) for step in steps]
assert torch.allclose(flat(unflat(flat(start))), flat(start)) and (across @ along).abs() < 1e-9

# %%
curve_x = torch.linspace(-2, 2, 200).double()[:, None]
curves = {f"{epoch} epochs": 6 * mlp_forward(curve_x, history[epoch])[0][:, 0] + 14
          for epoch in (0, 100, 3000)}
draw.mlp(hours, degrees, 6 * curve_x[:, 0] + 12, curves, ticks, heights, shadow)

# %% [markdown]
# 对调之后，损失一点不变：两个山谷一样深，中间隔着一座山。（图上两者形状不同，因为平面切过它们的方向不同。）所以这个地形**不是一只碗**。这样的孪生点有 $48!$ 个，最低点没有现成的公式。我们只有梯度下降，而它的结果取决于从哪里出发，也就是取决于种子。（白线是路线在这个平面上的投影；真正的路线在 145 维里。）
#
# > **试一试。** 隐藏神经元不用 48 个，只用 3 个。曲线上能数出几个弯折点？
#
# <details><summary>答案</summary>
#
# 两个。神经元在 $w x + b = 0$ 的地方弯折：三个弯折点分别在 11.4 时、23.6 时（几乎看不出来），以及这一天开始之前 578 小时；最后这个隔得太远，它的曲线在这一天里就是一条直线。误差停在 0.23，断言 `< 0.5 * straight` 不成立。换另外三个种子，这一天里也都是两个弯折点；其中两个种子的弯折点在别的时刻，误差是 0.09。
#
# </details>

# %% [markdown]
# ## 5 · 句子放不进去
#
# MLP 能读句子吗？它只收宽度固定的向量。句子却是一串词，而且有长有短。
#
# 先看一个词。词不是数。把**词表**（vocabulary）里的词从 0 到 V - 1 编上号，每个词在一张表里占一行，这一行有 D 个数，像别的权重一样学出来，叫做这个词的**嵌入**（embedding）。“dog”不是 17 这个数，它是第 17 行。只有一个 1、其余全是零的向量叫**独热向量**（one-hot vector）；从表里查出一行，等于把这样一个向量送进没有偏置的线性层。
#
# 反向怎么算，由“汇合的梯度要相加”就能推出：一个词出现在哪些位置，就把那些位置的梯度都加到它那一行上。没有出现的词，梯度是零。

# %%
#| export
def embedding_backward(grad: Tensor, ids: Tensor, table: Tensor) -> Tensor:
    """Return the gradient of an embedding table, given that of the rows looked up.

    grad (B, L, D) of table[ids], ids (B, L), table (V, D) -> (V, D).
    """
    return torch.zeros_like(table).index_add_(0, ids.flatten(), grad.flatten(0, 1))

# %%
# NBVAL_CHECK_OUTPUT
words = ["the", "dog", "chases", "man", "a"]


def numbered(text: str) -> Tensor:
    return torch.tensor([[words.index(word) for word in text.split()]])  # (1, L)


ids = numbered("the dog chases the man")  # (1, 5)
table = torch.randn(5, 3).double().requires_grad_()  # (V, D)
one_hot = F.one_hot(ids, 5).double()  # (1, 5, V)
assert torch.equal(one_hot @ table, table[ids])

grad = torch.randn(1, 5, 3).double()
(expected,) = torch.autograd.grad(table[ids], table, grad)
by_hand = embedding_backward(grad, ids, table)
assert torch.allclose(by_hand, expected, atol=1e-12)
assert torch.allclose(by_hand[0], grad[0, 0] + grad[0, 3], atol=1e-12)
assert not by_hand[words.index("a")].any()
print("'the' collects two gradients, 'a' collects none")

# %% [markdown]
# 现在看整个句子。用 MLP 有两种办法，两种都不好。
#
# **办法一：把各行并排放。** 五个词，每个词的嵌入有 3 个数，拼起来就是 15 个数的向量。六个词的句子就放不进去了。再说，就算网络在第 2 个位置学会了“dog”是什么意思，第 3 个位置用的是另外的权重，在那里又得把“dog”重学一遍。
#
# **办法二：取各行的平均。** 多长的句子都放得进去。可是取了平均，丢掉了什么？得到的是一个**词袋**（bag of words）：词都在，次序没了。

# %%
# NBVAL_CHECK_OUTPUT
weights = weights_of(nn.Sequential(nn.Linear(15, 8), nn.ReLU(), nn.Linear(8, 1)).double())
mlp_forward(table[ids].flatten(1), weights)  # five words fit ...
too_long = torch.cat([ids, ids[:, :1]], dim=1)
try:
    mlp_forward(table[too_long].flatten(1), weights)
    raise AssertionError("six words should not fit")
except RuntimeError:
    print("side by side: a network for five words cannot read six")

other = numbered("the man chases the dog")
assert torch.allclose(table[ids].mean(dim=1), table[other].mean(dim=1), atol=1e-12)
print("bag of words: who chases whom? The mean does not know")

# %% [markdown]
# 所以我们需要的网络，要能读任意长的句子，要知道词的次序，而且一个词在某个位置学会了，在每个位置都用得上。老办法有两类：**卷积**（convolution）用一个小窗口沿着句子滑动；**循环网络**一个词一个词地读，一路带着记忆。这一页剩下的部分把两类都实现一遍，再量一量各有什么代价。（第三类是注意力。）

# %% [markdown]
# ## 6 · 卷积：一个小网络，用在每个位置
#
# **问题：** 一个位置怎样用上另一个位置学到的东西？
#
# 办法是让所有位置共用一套权重。取一个线性层，让它沿着句子滑动，每次看 K 个相邻的词，也就是一个**窗口**（window）。宽度是 D 时，一个窗口有 K 乘 D 个数：
#
# $$y_{po} = b_o + \sum_{k=0}^{K-1} \sum_{d} w_{odk} \; x_{(p s + k \delta), d} .$$
#
# K 叫**卷积核大小**（kernel size）。另外还有两个数。**步幅**（stride）$s$ 是从一个输出到下一个，窗口移动多远。**间隔**（dilation）$\delta$ 是窗口里的词彼此隔多远（$\delta = 1$ 是相邻，$\delta = 2$ 是隔一个取一个）。一个窗口对应输出的一行：
#
# $$P = \left\lfloor \frac{L - 1 - (K - 1)\,\delta}{s} \right\rfloor + 1 .$$
#
# 把每个窗口写成一长行，这个求和就正好是第 3 节的线性层。代码里只要把窗口切出来：`x.unfold(1, span, stride)` 沿第 1 轴切，每 `stride` 个位置切一段，每段 `span` 个相邻的词，放在新的最后一轴上；`[..., ::dilation]` 每 $\delta$ 个留一个；`.flatten(2)` 把每段变成一长行。
#
# **反向传播。** 线性层给出权重、偏置和“窗口”的梯度。一个词最多属于 K 个窗口，在这个窗口里排第 0 位，在那个窗口里排第 1 位。汇合的梯度要相加，所以按窗口里的位置 $k$ 一位一位地来，把各窗口的梯度加回当初切下来的地方。

# %%
#| export
def conv1d_forward(
    x: Tensor, weights: Weights, stride: int = 1, dilation: int = 1
) -> tuple[Tensor, tuple]:
    """Slide a linear layer along a sentence: x (B, L, D) -> output (B, P, O), cache.

    weights: weight (O, D, K), bias (O,), as in nn.Conv1d, whose x is (B, D, L). Nothing is padded:
    P = (L - 1 - (K - 1) * dilation) // stride + 1. Raises ValueError if no window fits.
    """
    weight, bias = weights["weight"], weights["bias"]
    span = (weight.size(2) - 1) * dilation + 1
    if span > x.size(1):
        raise ValueError(f"a window spans {span} words, the sentence has {x.size(1)}: pad it, or "
                         "take a smaller kernel or dilation")
    windows = x.unfold(1, span, stride)[..., ::dilation]  # (B, P, D, K)
    windows = windows.flatten(2)  # (B, P, D * K)
    return linear(windows, weight.flatten(1), bias), (windows, x.shape, stride, dilation)


def conv1d_backward(grad: Tensor, cache: tuple, weights: Weights) -> Weights:
    """Return the gradients of x, weight and bias, by name: grad (B, P, O) is the output's."""
    windows, shape, stride, dilation = cache
    weight = weights["weight"]
    grad_windows, grad_weight, grad_bias = linear_backward(
        grad.flatten(0, 1), windows.flatten(0, 1), weight.flatten(1)
    )
    grad_windows = grad_windows.view(*grad.shape[:2], *weight.shape[1:])  # (B, P, D, K)
    grad_x, reach = grad.new_zeros(shape), (grad.size(1) - 1) * stride + 1
    for k in range(weight.size(2)):  # place k of every window goes back to where it was cut
        start = k * dilation
        grad_x[:, start : start + reach : stride] += grad_windows[..., k]
    return {"x": grad_x, "weight": grad_weight.view_as(weight), "bias": grad_bias}

# %%
# NBVAL_CHECK_OUTPUT
x = torch.randn(2, 13, 4).double()  # (B, L, D)
for stride, dilation in ((1, 1), (2, 1), (1, 3), (3, 2)):
    theirs = nn.Conv1d(4, 5, 3, stride=stride, dilation=dilation).double()
    weights = weights_of(theirs)
    forward = partial(conv1d_forward, stride=stride, dilation=dilation)
    output, cache = forward(x, weights)
    assert torch.allclose(output, theirs(x.mT).mT, atol=1e-12)
    errors = gradient_errors(forward, conv1d_backward, x, weights)
    assert all(error < 1e-10 for error in errors.values())
    too_early = (cache[0], cache[1], stride, dilation - 1)  # place k goes back k words too early
    wrong = gradient_errors(forward, lambda g, c, w, cut=too_early: conv1d_backward(g, cut, w),
                            x, weights)
    assert wrong["x"] > 1e-3
    print(f"stride {stride}, dilation {dilation}: 13 words, {output.size(1):2} windows; equal to "
          "nn.Conv1d and autograd")

# %% [markdown]
# PyTorch 的 `nn.Conv1d` 要求宽度在长度前面，即 (B, D, L)；本课程把长度放在中间。所以比较时要用 `.mT` 转置。
#
# ## 7 · 卷积能看多远？
#
# K = 3 的卷积，一层看三个词。上面再叠一层，看的是下面的三个输出，每个输出又看过三个词。一个输出能看到的所有词，叫做它的**感受野**（receptive field）。每加一层，按下面的式子算一次：
#
# $$\text{field} \leftarrow \text{field} + (K - 1) \cdot \delta \cdot \text{step} , \qquad
# \text{step} \leftarrow \text{step} \cdot s ,$$
#
# 这里的 step，是下面一层从一个输出到下一个输出要跨过的词数（最底下是词本身，取 1）。

# %%
#| export
def receptive_field(layers: Sequence[tuple[int, int, int]]) -> int:
    """Count the words from the first to the last that one output of stacked convolutions hears of.

    layers: (kernel, stride, dilation), the first layer first. Words in holes count, too.
    """
    field, step = 1, 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * step
        step *= stride
    return field

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 问问梯度 · 选读
#
# 不轻信公式，就读这一节：画出三种叠法，看哪些输入得到了梯度。

# %% [markdown]
# 我们叠几层权重全为 1 的卷积，在**一个**输出处送入梯度，用 `conv1d_backward` 往回走。凡是梯度不为零的输入，这个输出都看到了。**先猜**：四层，K = 2，普通卷积能看多远？如果各层的间隔依次是 1、2、4、8 呢？

# %%
mine = None  # your guess: how many words four layers with the dilations 1, 2, 4, 8 hear

# %%
# NBVAL_CHECK_OUTPUT
ones = {"weight": torch.ones(1, 1, 2).double(), "bias": torch.zeros(1).double()}  # K = 2


def heard(layers: Sequence[tuple[int, int, int]], words: int = 20) -> list[Tensor]:
    """Say for each level, the words first, which places send something to the one output."""
    x, caches = torch.ones(1, words, 1).double(), []
    for _, stride, dilation in layers:
        x, cache = conv1d_forward(x, ones, stride, dilation)
        caches.append(cache)
    grad = torch.zeros_like(x)
    grad[:, 0] = 1
    levels = [grad]
    for cache in reversed(caches):
        levels.insert(0, conv1d_backward(levels[0], cache, ones)["x"])
    return [level[0, :, 0] != 0 for level in levels]


stacks = {"plain": [(2, 1, 1)] * 4, "stride 2": [(2, 2, 1)] * 4,
          "dilation 1, 2, 4, 8": [(2, 1, 2**i) for i in range(4)]}
fields = {name: heard(layers) for name, layers in stacks.items()}
for name, layers in stacks.items():
    assert fields[name][0].sum() == receptive_field(layers)
    print(f"four layers, {name}: one output hears {int(fields[name][0].sum())} words")

# %%
compare(mine, int(fields["dilation 1, 2, 4, 8"][0].sum()), "01: words that four dilated layers hear")

# %%
draw.receptive_fields(stacks, fields)

# %% [markdown]
# 普通卷积每加一层，只多看一个词。用上步幅或间隔，每加一层，感受野就**加倍**。两种办法代价不同：用步幅会丢掉位置（四层之后，每 16 个位置只剩一个）；用间隔则一个位置也不丢，一层的空洞由别的层填上，一个词也不漏。

# %% [markdown]
# ### 数层数，验证论文的那句话
#
# 论文第 2 节说：要把两个位置联系起来，ConvS2S 所需的运算次数随距离**线性**增长，ByteNet 则按**对数**增长。ConvS2S（Gehring 等 2017）叠的是普通卷积；ByteNet（Kalchbrenner 等 2016）的间隔逐层加倍。数一数：两个词相隔一定距离，要多少层才能在一个输出里相遇？

# %%
# NBVAL_CHECK_OUTPUT
def layers_to_meet(distance: int, dilation_of: Callable[[int], int], kernel: int = 3) -> int:
    layers = []
    while receptive_field(layers) <= distance:
        layers.append((kernel, 1, dilation_of(len(layers))))
    return len(layers)


distances = [2**i for i in range(1, 11)]
meet = {"plain": [layers_to_meet(d, lambda layer: 1) for d in distances],
        "dilated": [layers_to_meet(d, lambda layer: 2**layer) for d in distances]}
assert meet["plain"] == [d // 2 for d in distances]  # linear: distance over (K - 1)
assert meet["dilated"] == [math.ceil(math.log2(d / 2 + 1)) for d in distances]  # logarithmic
growth = [later - earlier for earlier, later in zip(meet["dilated"], meet["dilated"][1:])]
assert growth == [1] * 9  # each doubling of the distance costs one layer
print("distance  ", distances, "\nplain     ", meet["plain"], "\ndilated   ", meet["dilated"])

# %%
draw.path_lengths(distances, meet)

# %% [markdown]
# 两个词相隔 1024 个词，要让它们相遇，普通卷积要 512 层，空洞卷积（dilated convolution）要 10 层。（真正的 ByteNet 不会一直加倍：间隔到 16 之后又从 1 开始，所以文本很长时，它也是线性增长，只是系数小。）不过，走 10 步和走 1 步毕竟不一样。记住这个对比，到这一页的最后会用到。
#
# > **试一试。** 在新的单元格里计算 `[layers_to_meet(d, lambda layer: 1, kernel=5) for d in distances]`，再换成 `lambda layer: 2**layer` 算一次。两行各变成什么样？
#
# <details><summary>答案</summary>
#
# 普通卷积那一行减半，`1, 1, 2, 4, ... 256`：每层多看 $K - 1 = 4$ 个词，而不是 2 个。空洞卷积那一行从距离 4 起少一层，`1, 1, 2, 3, ... 9`：窗口加宽，只相当于多加倍一次。卷积核加宽，改变的是系数，不是增长的方式。
#
# </details>
#
# 这一节有两道题。这里的题目叫**检查**（check）：运行单元格，读选项，然后用 `check("path_conv", "b")` 作答，字母换成你选的那个。选错了，会告诉你错在哪里。

# %%
check("path_conv")

# %%
check("path_bytenet")

# %% [markdown]
# ## 8 · 循环网络：一路带着走的记忆
#
# **问题：** 大小固定的网络，怎样按次序读任意长度的句子？
#
# 就像你自己那样读：一个词接一个词，边读边记。**隐藏状态**（hidden state）$h_t$ 是 H 个数组成的向量，存着网络读完第 $t$ 个词之后记住的东西。每读一个词，就由这个词和旧状态得到新状态，**用的始终是同一套权重**（Elman 1990）：
#
# $$a_t = W_{ih} \, x_t + b_{ih} + W_{hh} \, h_{t-1} + b_{hh} , \qquad h_t = \tanh(a_t) ,
# \qquad h_0 = 0 .$$
#
# 非线性函数用 $\tanh$，它让每个数都留在 $-1$ 和 1 之间。偏置有两个，其实一个就够；不过 PyTorch 用两个，我们和它保持一致。
#
# **反向走一步。** 已知 $g^{h_t}$。先是 $\tanh$，它的斜率是 $1 - h_t^2$：
#
# $$g^{a_t} = g^{h_t} \odot (1 - h_t^2) .$$
#
# 然后是两个线性层，一个作用在 $x_t$ 上，一个作用在 $h_{t-1}$ 上，两者的梯度都是 $g^{a_t}$。
#
# 这样的一步，从 $(x_t, h_{t-1})$ 到 $h_t$，叫做一个**单元**（cell；不要和笔记本的单元格混淆）。RNN、LSTM 和 GRU 的**第一步**都是两个线性层，所以往回走的最后一步也都是这两个线性层，我们只写一次。

# %%
#| export
def gates_backward(
    grad_ih: Tensor, grad_hh: Tensor, x: Tensor, h: Tensor, weights: Weights
) -> tuple[Weights, Tensor]:
    """Walk back through the two linear layers of a cell, one on x (B, D), one on h (B, H).

    grad_ih, grad_hh (B, G): the gradients of what they gave -> gradients by name, that of h.
    """
    grad_x, weight_ih, bias_ih = linear_backward(grad_ih, x, weights["weight_ih"])
    grad_h, weight_hh, bias_hh = linear_backward(grad_hh, h, weights["weight_hh"])
    grads = {"x": grad_x, "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih,
             "bias_hh": bias_hh}
    return grads, grad_h

# %%
#| export
State = tuple[Tensor, ...]  # what a cell remembers: (h,), or (h, c) for the LSTM; each (B, H)


def rnn_step(x: Tensor, state: State, weights: Weights) -> tuple[State, tuple]:
    """Read one word: x (B, D), state (h,) with h (B, H) -> new state, cache.

    weights: weight_ih (H, D), weight_hh (H, H), bias_ih, bias_hh (H,), as in nn.RNNCell.
    Elman 1990.
    """
    (h,) = state
    from_x = linear(x, weights["weight_ih"], weights["bias_ih"])  # (B, H)
    from_h = linear(h, weights["weight_hh"], weights["bias_hh"])  # (B, H)
    new = torch.tanh(from_x + from_h)
    return (new,), (x, h, new)


def rnn_step_backward(grad_state: State, cache: tuple, weights: Weights) -> tuple[Weights, State]:
    """Return the gradients of x and the weights, by name, and of the old state."""
    (grad_new,), (x, h, new) = grad_state, cache
    grad_a = grad_new * (1 - new**2)  # (B, H)
    grads, grad_h = gates_backward(grad_a, grad_a, x, h, weights)
    return grads, (grad_h,)

# %% [markdown]
# ### 随时间反向传播
#
# 现在写循环。把它展开：L 个词的句子，就是一个 L 层的网络，每层的权重都一样。往回走时，从最后一个词走到第一个词。（$J_t$ 是 $h_t$ 对 $h_{t-1}$ 的导数，梯度从一个状态传到前一个，就要乘上它；这一节末尾细讲。）

# %%
draw.unrolled(["two", "dogs", "are", "playing"])

# %% [markdown]
# 要用到两条规则，前面都讲过：
#
# 1. **状态 $h_t$ 用了两次**：一次给第 $t$ 步的输出，一次给下一个状态。两个梯度在 $h_t$ 汇合，要相加：一个来自它自己的输出，一个从 $t + 1$ 传回来。
#
#    $$g^{h_t} = g^{\text{out}_t} + W_{hh}^T \left( g^{h_{t+1}} \odot (1 - h_{t+1}^2) \right) .$$
#
#    （这里和多数书一样，向量是列。代码里每个样本是一行，所以同样的乘积写成 `grad @ weight_hh`。）
#
# 2. **权重用了 L 次。** 它们的梯度是各步之和：
#
#    $$\frac{\partial \mathcal{L}}{\partial W_{hh}} = \sum_{t=1}^{L} g^{a_t} \, h_{t-1}^T .$$
#
# 这就是**随时间反向传播**（backpropagation through time，BPTT；Werbos 1990）。名字听起来像科幻小说，其实就是一个倒着跑的 `for` 循环。前向和反向这两个循环，我们只写一次，对任何单元都适用：一步怎么走，由单元自己定。

# %%
#| export
@dataclass(frozen=True)
class Recurrent:
    """A cell that reads a sentence word by word, and its backpropagation through time.

    step(x, state, weights) -> state, cache; step_backward(grad_state, cache, weights) ->
    gradients by name, gradient of the old state; n_states: tensors in the state, h first.
    """

    step: Callable
    step_backward: Callable
    n_states: int = 1

    def forward(self, x: Tensor, weights: Weights) -> tuple[Tensor, list]:
        """Read x (B, L, D) from a state of zeros -> h after each word (B, L, H), cache."""
        state = (x.new_zeros(x.size(0), weights["weight_hh"].size(1)),) * self.n_states
        outputs, caches = [], []
        for x_t in x.unbind(dim=1):  # L times (B, D)
            state, cache = self.step(x_t, state, weights)
            outputs.append(state[0])
            caches.append(cache)
        return torch.stack(outputs, dim=1), caches

    def backward(self, grad: Tensor, caches: list, weights: Weights) -> Weights:
        """Return the gradients of x and each weight, by name: grad (B, L, H) is the outputs'."""
        total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        grad_state, grad_x = (torch.zeros_like(grad[:, 0]),) * self.n_states, []
        for grad_output, cache in zip(reversed(grad.unbind(dim=1)), reversed(caches)):
            grad_state = (grad_state[0] + grad_output, *grad_state[1:])  # two gradients meet at h
            grads, grad_state = self.step_backward(grad_state, cache, weights)
            grad_x.append(grads.pop("x"))
            total = {name: total[name] + grads[name] for name in total}  # the same weights
        return {"x": torch.stack(grad_x[::-1], dim=1), **total}


RNN = Recurrent(rnn_step, rnn_step_backward)

# %%
# NBVAL_CHECK_OUTPUT
x = torch.randn(3, 7, 4).double()  # (B, L, D)


def agrees(network: Recurrent, theirs: nn.Module) -> None:
    """Compare a recurrent network with that of torch.nn, forward and backward."""
    weights = weights_of(theirs)
    assert torch.allclose(network.forward(x, weights)[0], theirs(x)[0], atol=1e-12)
    errors = gradient_errors(network.forward, network.backward, x, weights)
    assert all(error < 1e-10 for error in errors.values())


def spoiled(network: Recurrent, theirs: nn.Module, spoil: Callable) -> dict[str, float]:
    """Return the judge's verdict on a step back that was given something wrong."""
    def wrong_step(grad: State, cache: tuple, weights: Weights) -> tuple[Weights, State]:
        return network.step_backward(*spoil(grad, cache), weights)

    broken = Recurrent(network.step, wrong_step, network.n_states)
    return gradient_errors(broken.forward, broken.backward, x, weights_of(theirs))


theirs = nn.RNN(4, 5, batch_first=True).double()
agrees(RNN, theirs)
forgot_tanh = spoiled(RNN, theirs, lambda g, c: (g, (c[0], c[1], torch.zeros_like(c[2]))))
assert forgot_tanh["weight_hh"] > 1e-3 and forgot_tanh["x"] > 1e-3
print("RNN: equal to nn.RNN and to autograd over 7 words; without the slope of tanh it is not")

# %% [markdown]
# ### 雅可比矩阵的乘积
#
# 第 $k$ 个词处的状态变一点，后面第 $T$ 个词处的状态会怎样变？向量对向量的导数是一个矩阵，叫**雅可比矩阵**（Jacobian）。一步的雅可比矩阵是
#
# $$J_t = \frac{\partial h_t}{\partial h_{t-1}} = \operatorname{diag}(1 - h_t^2) \; W_{hh} ,$$
#
# 按链式法则，许多步就是一个**乘积**：
#
# $$\frac{\partial h_T}{\partial h_k} = J_T \, J_{T-1} \cdots J_{k+1} .$$
#
# 上面的循环并没有真的把这些矩阵算出来，只是让一个向量依次乘过去。许多相近的因子相乘，不是消失就是爆炸：这在第 1 节已经见过，第 10 节还会测量。

# %%
check("shared_gradient")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 把这个乘积真的算出来 · 选读
#
# 想看看这些矩阵，就读这一节：把矩阵一个个算出来，乘在一起，再与自动求导的结果比较。

# %%
# NBVAL_CHECK_OUTPUT
weights = weights_of(nn.RNN(4, 5).double())
sentence = x[:1]  # (1, 7, 4)
outputs, _ = RNN.forward(sentence, weights)
product = torch.eye(5).double()
for h in outputs[0, 2:]:  # the steps after the second word
    product = torch.diag(1 - h**2) @ weights["weight_hh"] @ product


def rest(h: Tensor) -> Tensor:
    state = (h[None],)
    for x_t in sentence[:, 2:].unbind(dim=1):
        state, _ = rnn_step(x_t, state, weights)
    return state[0][0]


jacobian = torch.autograd.functional.jacobian(rest, outputs[0, 1])
assert torch.allclose(product, jacobian, atol=1e-12)
print("the product of five Jacobians is the derivative of the seventh state by the second")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 9 · 次序决定答案的任务 · 选读
#
# 想用手写的梯度来训练，就读这一节：MLP、卷积和 RNN 做同一个任务，用上交叉熵、裁剪和 Adam。

# %% [markdown]
# 从图片说明里取出这样的句子：
#
# > two children are dancing **while** a dog is chasing a duck
#
# 再把它前后调换：“a dog is chasing a duck while two children are dancing”。问题是：**第一个分句里，在做动作的人或动物是一个，还是几个？** 原句的答案是“几个”（两个孩子），调换后的孪生句是“一个”（一条狗）。两句的词完全相同，词袋看不出任何差别，答案却相反。

# %%
def clauses(english: str) -> list[str]:
    """Cut "A while B." or "While B, A." into [A, B] if each has one "is" or "are", else []."""
    text = english.lower().removesuffix(".")
    if text.startswith("while ") and text.count(", ") == 1:
        parts = text.removeprefix("while ").split(", ")[::-1]
    else:
        parts = text.split(" while ")
    verbs = [sum(word in ("is", "are") for word in part.split()) for part in parts]
    return parts if verbs == [1, 1] and "," not in "".join(parts) else []


def question(split: str, opposite: bool = True) -> list[tuple[str, int]]:
    """Return sentences with answers, 1 for several; each one is followed by its turned twin.

    opposite: only twins with opposite answers, one with "is" first and one with "are" first.
    """
    cuts = [cut for _, english in pairs("captions", split) if (cut := clauses(english))]
    cuts = [(a, b) for a, b in cuts if not opposite or ("are" in a.split()) != ("are" in b.split())]
    return [(f"{a} while {b}", int("are" in a.split()))
            for cut in cuts for a, b in (cut, cut[::-1])]


train_set, held_out = question("train"), question("val") + question("test")
twins = [*zip(train_set[::2], train_set[1::2]), *zip(held_out[::2], held_out[1::2])]
assert all(one[1] + two[1] == 1 for one, two in twins)
assert all(sorted(one[0].split()) == sorted(two[0].split()) for one, two in twins)
for text, label in held_out[:2]:
    print(f"{'several' if label else 'one':8} {text}")
print(f"{len(train_set)} sentences to learn from, {len(held_out)} to be asked about")

# %% [markdown]
# 用来提问的句子是**留出来**的（held out），哪个网络都没学过。只会死记例子的网络，到这里就不行了。
#
# 词变成数。短句在**前面**用词 0 补齐，这样一个批次里所有句子一样长，最后一个词也都排在最后。训练时没见过的词编为 1，表示“未知”。

# %%
seen = sorted({word for text, _ in question("train", False) for word in text.split()})
vocabulary = {"(fill)": 0, "(unknown)": 1} | {word: i for i, word in enumerate(seen, 2)}


def as_ids(sentences: Sequence[str]) -> Tensor:
    rows = [[vocabulary.get(word, 1) for word in text.split()] for text in sentences]
    longest = max(map(len, rows))
    return torch.tensor([[0] * (longest - len(row)) + row for row in rows])  # (B, L)


assert (as_ids(["a dog", "the dog is"])[:, 0] == torch.tensor([0, vocabulary["the"]])).all()
print(f"{len(vocabulary)} words; {as_ids(['a dog', 'the dog is']).tolist()}")

# %% [markdown]
# ### 二选一的损失
#
# 网络最后给出一个数，即**分数**（score）$s$：大表示“几个”，小表示“一个”。**sigmoid** 函数把它变成概率：
#
# $$p = \sigma(s) = \frac{1}{1 + e^{-s}} .$$
#
# 正确答案是 $y = 1$ 或 $y = 0$。网络给正确答案的概率，取 $-\log$ 就是损失，即 $-\log p$ 或 $-\log(1 - p)$。又自信又错，损失就很大。这就是**交叉熵**（cross-entropy）。把 $p$ 代入，稍加化简，得到
#
# $$\mathcal{L} = \log(1 + e^s) - y s , \qquad
# \frac{\partial \mathcal{L}}{\partial s} = \frac{e^s}{1 + e^s} - y = p - y .$$
#
# 网络说的概率减去正确答案：这一页里，没有比这更简单的梯度了。如果网络什么都不知道，它就说 $p = 1/2$，损失是 $\log 2 \approx 0.69$。（这里的对数是自然对数，这样算出的损失，单位是**奈特**，nat。）

# %%
#| export
def logistic_loss(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy [nats] of yes-or-no answers, and the gradient of the scores.

    scores (B,), labels (B,) of 0 and 1 -> loss (), gradient (B,).
    """
    loss = (F.softplus(scores) - labels * scores).mean()  # softplus(s) is log(1 + e^s)
    return loss, (scores.sigmoid() - labels) / len(scores)

# %%
# NBVAL_CHECK_OUTPUT
scores = torch.randn(6).double().requires_grad_()
labels = torch.tensor([0.0, 1, 1, 0, 1, 0]).double()
loss, grad = logistic_loss(scores, labels)
expected = F.binary_cross_entropy_with_logits(scores, labels)
assert torch.allclose(loss, expected, atol=1e-12)
assert torch.allclose(grad, torch.autograd.grad(expected, scores)[0], atol=1e-12)
assert abs(logistic_loss(torch.zeros(4), labels[:4])[0] - math.log(2)) < 1e-6
print("equal to PyTorch's; knowing nothing costs log 2 = 0.69")

# %% [markdown]
# ### 一个框架，几种读法
#
# 几个网络读句子的方法不同，框架都一样：先查嵌入表；再由**主体**（body）把句子变成一个向量；最后用线性层把向量变成分数。主体就是我们写的一对函数：前向和反向。主体有三种：
#
# - **bag**（词袋）：各个嵌入取平均，再经过第 4 节的 MLP；
# - **window**（窗口）：K = 3 的卷积，一个 ReLU，再对各个位置取平均；
# - **RNN**：最后一个隐藏状态。

# %%
def bag_forward(x: Tensor, weights: Weights) -> tuple[Tensor, tuple]:
    output, cache = mlp_forward(x.mean(dim=1), weights)  # (B, H)
    return output, (x, cache)


def bag_backward(grad: Tensor, cache: tuple, weights: Weights) -> Weights:
    grads = mlp_backward(grad, cache[1], weights)
    return grads | {"x": (grads["x"][:, None] / cache[0].size(1)).expand_as(cache[0])}


def window_forward(x: Tensor, weights: Weights) -> tuple[Tensor, tuple]:
    places, cache = conv1d_forward(x, weights)  # (B, P, H)
    return places.clamp(min=0).mean(dim=1), (places, cache)


def window_backward(grad: Tensor, cache: tuple, weights: Weights) -> Weights:
    places, inner = cache
    return conv1d_backward(grad[:, None] * (places > 0) / places.size(1), inner, weights)


def last_state(network: Recurrent) -> tuple[Callable, Callable]:
    """Return forward and backward of a network of which only the last state is used."""
    def forward(x: Tensor, weights: Weights) -> tuple[Tensor, tuple]:
        outputs, caches = network.forward(x, weights)
        return outputs[:, -1], (outputs.shape, caches)  # (B, H)

    def backward(grad: Tensor, cache: tuple, weights: Weights) -> Weights:
        grad_outputs = grad.new_zeros(cache[0])
        grad_outputs[:, -1] = grad
        return network.backward(grad_outputs, cache[1], weights)

    return forward, backward


# %% [markdown]
# 这几对函数是新写的，使用之前必须先过裁判这一关：

# %%
# NBVAL_CHECK_OUTPUT
D, H = 16, 32
bodies = {
    "bag of words": ((bag_forward, bag_backward),
                     nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, H))),
    "window of 3": ((window_forward, window_backward), nn.Conv1d(D, H, 3)),
    "RNN": (last_state(RNN), nn.RNN(D, H)),
}
x = torch.randn(3, 9, D).double()
for name, (pair, module) in bodies.items():
    errors = gradient_errors(*pair, x, {n: w.double() for n, w in weights_of(module).items()})
    assert all(error < 1e-10 for error in errors.values())
    print(f"{name}: equal to autograd")

# %% [markdown]
# 下面计算完整的梯度，依次经过损失、输出层、主体和嵌入表，每一段都用这一页的函数。我们还要**裁剪**（clip）：把整个梯度看成一个长向量，如果它的长度超过上限，就缩短到上限。这样，一个异常的批次就不会把权重甩到天边去（Pascanu、Mikolov 和 Bengio 2013）。

# %%
#| export
def clip_gradients(grads: Weights, limit: float) -> Weights:
    """Scale all gradients by one factor so that their common norm is at most `limit`."""
    norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
    return {name: grad * (limit / norm).clamp(max=1) for name, grad in grads.items()}

# %%
@dataclass
class Reader:
    """An embedding table, a body (forward, backward) with weights, and one score."""

    pair: tuple[Callable, Callable]
    body: Weights
    ends: Weights  # table (V, D), weight (1, H), bias (1,)

    def scores(self, ids: Tensor) -> tuple[Tensor, tuple]:
        x = self.ends["table"][ids]  # (B, L, D)
        summary, cache = self.pair[0](x, self.body)  # (B, H)
        return linear(summary, self.ends["weight"], self.ends["bias"])[:, 0], (summary, cache)

    def gradients(self, ids: Tensor, labels: Tensor) -> tuple[float, Weights, Weights]:
        scores, (summary, cache) = self.scores(ids)
        loss, grad = logistic_loss(scores, labels)
        grad, weight, bias = linear_backward(grad[:, None], summary, self.ends["weight"])
        body = self.pair[1](grad, cache, self.body)
        table = embedding_backward(body.pop("x"), ids, self.ends["table"])
        return loss.item(), body, {"table": table, "weight": weight, "bias": bias}


def new_reader(pair: tuple[Callable, Callable], weights: Weights, n_words: int) -> Reader:
    ends = {"table": torch.randn(n_words, D), "weight": torch.randn(1, H) / H**0.5,
            "bias": torch.zeros(1)}
    return Reader(pair, {name: tensor.clone() for name, tensor in weights.items()}, ends)


# %% [markdown]
# 训练循环就是第 1 节那个，有三处改动。
#
# - 每一步不看全部句子，只随机取一小**批**，64 句。梯度有点不准，但计算量小得多，所以可以多走许多步。
# - 梯度要裁剪。
# - 更新用 **Adam**（Kingma 和 Ba 2015）：它也是梯度下降，但每个权重有自己的步长。论文用的也是它，第 07 课会把它拆开来看。Adam 到 `.grad` 里取每个权重的梯度，我们就把手算的梯度放在那里。自动求导没有参与。

# %%
def train(reader: Reader, make_batch: Callable[[], tuple[Tensor, Tensor]], steps: int,
          rate: float = 0.01) -> list[float]:
    """Train on `steps` batches of (ids, labels); return the loss of each [nats]."""
    everything = [*reader.body.values(), *reader.ends.values()]
    optimiser, losses = torch.optim.Adam(everything, lr=rate), []
    for _ in range(steps):
        loss, body, ends = reader.gradients(*make_batch())
        grads = {f"body.{name}": body[name] for name in reader.body}
        grads = clip_gradients(grads | {name: ends[name] for name in reader.ends}, limit=1.0)
        for tensor, grad in zip(everything, grads.values()):
            tensor.grad = grad
        optimiser.step()
        losses.append(loss)
    return losses


# %% [markdown]
# 三个辅助函数：取一个批次的图片说明；数答对了几个；新建一个网络并训练。

# %%
def captions_batch(
    data: Sequence[tuple[str, int]], random: torch.Generator
) -> tuple[Tensor, Tensor]:
    chosen = torch.randint(len(data), (64,), generator=random).tolist()
    return as_ids([data[i][0] for i in chosen]), torch.tensor([float(data[i][1]) for i in chosen])


def share_right(reader: Reader, sentences: Sequence[str], labels: Sequence[int]) -> float:
    """Return how many of the answers are right, from 0 to 1; a score above 0 says "several"."""
    said = reader.scores(as_ids(sentences))[0] > 0
    return (said == torch.tensor(labels).bool()).double().mean().item()


def learn(
    pair: tuple[Callable, Callable], weights: Weights, data: Sequence[tuple[str, int]]
) -> tuple[Reader, list[float]]:
    reader = new_reader(pair, weights, len(vocabulary))
    random = torch.Generator().manual_seed(0)
    steps = by_scale(smoke=120, cpu=250, gpu=300)
    return reader, train(reader, lambda: captions_batch(data, random), steps)


ids, labels = captions_batch(train_set, torch.Generator().manual_seed(0))
assert len(ids) == len(labels) == 64 and set(labels.tolist()) == {0.0, 1.0}
print("a batch:", tuple(ids.shape), "words and", tuple(labels.shape), "answers")

# %% [markdown]
# **先猜**：三个当中，哪个能超过 90%？（有一个的结果可能出乎你的意料。）

# %%
mine = None  # your guess: how many of the three, 0 to 3

# %%
torch.manual_seed(0)
texts, answers = zip(*held_out)
readers, losses = {}, {}
for name, (pair, module) in bodies.items():
    readers[name], losses[name] = learn(pair, weights_of(module), train_set)
right = {name: share_right(reader, texts, answers) for name, reader in readers.items()}
draw.order_task(losses, right)

# %%
# NBVAL_CHECK_OUTPUT
scores = readers["bag of words"].scores(as_ids(texts))[0]  # each sentence is followed by its twin
assert torch.allclose(scores[::2], scores[1::2], atol=1e-4)
assert abs(right["bag of words"] - 0.5) < 0.02
assert right["window of 3"] > 0.9 and right["RNN"] > 0.95
assert sum(losses["bag of words"][-20:]) / 20 > 0.66
assert sum(losses["RNN"][-20:]) / 20 < 0.1
print("bag of words: one half; window and RNN: far above")

# %%
compare(mine, sum(share > 0.9 for share in right.values()), "01: readers above 90 %")

# %% [markdown]
# 词袋正好答对一半：一对孪生句得到同样的分数，所以两个答案里必有一个错。怎么训练也改变不了，它的损失停在 $\log 2$。RNN（几乎）全部答对。
#
# 窗口又是怎么回事？窗口网络对各个位置取“平均”，超出三个词的次序，它一概不知。那它怎么知道哪个分句在前？**先猜**：三个词的窗口里，你能看到什么线索？
#
# 我们怀疑，窗口网络根本没有去找第一个分句。它看的是“while”旁边的词（“while two”），以及句首填充旁边的词（“(fill) two”）。这可以检验。我们在两个分句前面都加上“in the park”：“in the park two children are dancing while in the park a dog is chasing a duck”。对你来说，问题还是一样容易。

# %%
moved = [" while ".join(f"in the park {part}" for part in text.split(" while ")) for text in texts]
after = {name: share_right(reader, moved, answers) for name, reader in readers.items()}
assert after["RNN"] > 0.9 and after["window of 3"] < 0.75
print(moved[0])
print({name: f"{right[name]:.0%} -> {share:.0%}" for name, share in after.items()})

# %% [markdown]
# 露馅了。窗口网络的高分，靠的是在这个语料库上管用的小聪明。以后看到高分，记得问一句：“这个网络能看到什么？”窗口只有三个词，不可能把隔得更远的词联系起来；多叠几层就可以（第 7 节），层数就是代价。
#
# > **试一试。** RNN 就没有嫌疑吗？想一个办法，完全不记第一个分句也能答对。（看看“最后一个”动词。）这扇后门，第 11 节会关上。
#
# <details><summary>答案</summary>
#
# 这样的句子，每句都有且只有一个分句用“are”。所以如果最后一个动词是“is”，第一个分句用的就是“are”：回答“几个”，否则回答“一个”。172 个留出的句子，用这条规则全都答对，而且只要记住几个词就够了。RNN 得分高，并不说明它记得第一个分句。
#
# </details>

# %% [markdown]
# ## 10 · 离得远就难学会
#
# 要隔五十个词还记得住的东西，RNN 学得会吗？
#
# 学习要靠梯度。梯度往回传 $d$ 步，就要乘上 $d$ 个雅可比矩阵 $\operatorname{diag}(1 - h_t^2) \, W_{hh}$。先去掉 $\tanh$，这些矩阵的乘积就是 $W_{hh}^d$。如果 $W_{hh}$ 一边旋转向量，一边把每个向量都拉长到 $\rho$ 倍，梯度的大小就正好是 $\rho^d$：

# %%
# NBVAL_CHECK_OUTPUT
turn = torch.linalg.qr(torch.randn(64, 64).double()).Q  # turns a vector, keeps its length
for rho, expected in ((0.9, 0.9**50), (1.0, 1.0), (1.1, 1.1**50)):
    gradient = torch.ones(1, 64).double() / 8  # length 1
    for _ in range(50):
        gradient = gradient @ (rho * turn)
    assert abs(gradient.norm() / expected - 1) < 1e-9
    print(f"factor {rho}: after 50 steps {gradient.norm():.3g}")

# %% [markdown]
# 又是第 1 节见过的情形。因子是 0.9，就只剩下百分之零点五；因子是 1.1，就变成一百多倍。这就是**梯度消失**（vanishing gradient）和**梯度爆炸**（exploding gradient；Hochreiter 1991；Bengio、Simard 和 Frasconi 1994）。
#
# 多数矩阵对不同的向量，拉长的倍数并不一样。取一个 2 x 2 的矩阵，让它作用在所有长度为 1 的向量上。这些向量构成一个圆，矩阵把圆变成椭圆。

# %%
# NBVAL_CHECK_OUTPUT
small = torch.tensor([[0.9, 0.8], [0.0, 0.7]]).double()
stretch = torch.linalg.matrix_norm(small, ord=2).item()  # the longest vector of the ellipse
factors = torch.linalg.eigvals(small).abs()
lengths = [torch.linalg.matrix_norm(torch.linalg.matrix_power(small, d), ord=2).item() for d in range(31)]
assert stretch > 1.2 and factors.max() < 0.91 and lengths[30] < 0.2 < 1 < lengths[1]
assert abs(lengths[30] / lengths[29] - 0.9) < 0.001  # in the end each step has the eigenvalue's factor
print(f"one step: up to {stretch:.2f} times as long; thirty steps: {lengths[30]:.2f} times at most")

# %%
draw.stretching(small, lengths)

# %% [markdown]
# 椭圆上最长的向量有多长，矩阵的**范数**（norm）$\|W\|$ 就是多少：走一步，最多能把向量拉长到这么多倍。可是这个向量出来时方向变了，下一步就拉得没那么长。走许多步，起决定作用的是另一个数。有的向量经过矩阵只伸缩、不转动，叫**特征向量**（eigenvector），伸缩的倍数叫**特征值**（eigenvalue）。这里的特征值是 0.9 和 0.7。在 $W^d$ 里，最后总是最大的那个说了算：每多一步，就乘以 0.9，所以尽管范数大于 1，梯度还是越来越弱。（如果所有向量都被矩阵转动了，特征值就是复数，它的模仍然是每一步的倍数。）
#
# 加上 $\tanh$，每一步又多一个因子 $1 - h_t^2 \le 1$，所以
#
# $$\left\| \frac{\partial h_T}{\partial h_k} \right\| \le \left\| W_{hh} \right\|^{T-k} .$$
#
# $\|W_{hh}\|$ 小于 1，梯度**必定**消失。大于 1，梯度**可能**爆炸，但不是一定。
#
# PyTorch 让权重在 $-1/\sqrt{H}$ 和 $1/\sqrt{H}$ 之间均匀分布，所以方差是 $1 / (3H)$（在 $\pm a$ 之间均匀分布，方差是 $a^2/3$）。随机矩阵有一条定理，叫“圆律”（circular law）：如果 $H \times H$ 个数互相独立，平均值为 0，方差为 $v$，那么特征值的模最大约为 $\sqrt{H v}$。这里就是 $\sqrt{H / (3H)} = 1/\sqrt{3} \approx 0.58$。（我们直接用，不证明；下面的断言会测量它。）**先猜**：50 步之后，梯度还剩下几分之几？

# %%
mine = None  # your guess: the share that is left, from 0 to 1

# %%
def over_distance(network: Recurrent, weights: Weights, distance: int = 60) -> Tensor:
    """Measure the gradient norm of the word d steps back, that of the last word being 1.

    The words are random vectors; a random gradient enters at the last state. Returns (distance + 1,)
    for d = 0, 1, ..., the mean over 32 sentences.
    """
    random = torch.Generator().manual_seed(0)
    hidden, width = weights["weight_hh"].size(1), weights["weight_ih"].size(1)
    x = torch.randn(32, distance + 1, width, generator=random).double()
    outputs, caches = network.forward(x, weights)
    grad = torch.zeros_like(outputs)
    grad[:, -1] = torch.randn(32, hidden, generator=random)
    norms = network.backward(grad, caches, weights)["x"].norm(dim=2).mean(dim=0).flip(0)
    return norms / norms[0]


def no_slopes(grad_state: State, cache: tuple, weights: Weights) -> tuple[Weights, State]:
    x, h, new = cache
    return rnn_step_backward(grad_state, (x, h, torch.zeros_like(new)), weights)  # 1 - 0 = 1


only_matrix = Recurrent(rnn_step, no_slopes)  # the control: tanh has no slope on the way back


torch.manual_seed(0)
fresh = weights_of(nn.RNN(16, 64).double())
stretched = {scale: fresh | {"weight_hh": scale * fresh["weight_hh"]} for scale in (1, 2, 4)}
rnn_curves = {f"RNN, W_hh times {scale}": over_distance(RNN, weights)
              for scale, weights in stretched.items()}
draw.over_distance([("A simple RNN forgets, or it explodes", rnn_curves)])

# %%
plain, doubled, fourfold = rnn_curves.values()
norm = torch.linalg.matrix_norm(fresh["weight_hh"], ord=2).item()
radius = torch.linalg.eigvals(fresh["weight_hh"]).abs().max().item()
assert norm > 1 and 0.5 < radius < 0.7
assert plain[50] < 1e-9  # vanished
assert 1e-4 < doubled[50] < 1  # on the edge
assert fourfold[50] > 1000  # exploded
print(f"norm of W_hh {norm:.2f}, largest eigenvalue {radius:.2f}; left after 50 steps:")
shares = []
for scale, curve in zip((1, 2, 4), (plain, doubled, fourfold)):
    eigenvalue_alone, straight = (scale * radius) ** 50, over_distance(only_matrix, stretched[scale])[50]
    assert eigenvalue_alone / 20 < straight < eigenvalue_alone
    shares.append(curve[50] / straight)
    print(f"  W_hh times {scale}: eigenvalue alone {eigenvalue_alone:.0e}, without the slopes of tanh "
          f"{straight:.0e}, with them {curve[50]:.0e}")
assert shares[0] < 0.05 and shares[1] < 1e-3 * shares[0] and shares[2] < 1e-3 * shares[1]

# %%
compare(mine, plain[50].item(), "01: an RNN's gradient after 50 steps")

# %% [markdown]
# 用 PyTorch 的初始值，传到的还不到十亿分之一：五十步之前那个词从损失得到的信号，完全淹没在最后几个词的信号里。$W_{hh}$ 乘以 4，就反过来了，远处的词得到的梯度是近处的一千多倍。这两种情形之间有一条分界线，在线上梯度既不消失，也不爆炸。可是训练每走一步都要改动 $W_{hh}$，没有什么能让它停在线上。
#
# 每一行里，实际传到的梯度都比按特征值估计的少。少掉的去了哪里？做个对照：往回走时去掉 $\tanh$ 的斜率。即使这样，传到的也只有估计的六分之一（另外两个种子是三分之一），因为送入的梯度不是特征向量。再少掉的部分，就都是斜率造成的：每一步乘一个 $1 - h_t^2 < 1$。$W_{hh}$ 越大，状态越大，斜率就越小。所以去掉斜率，“times 2”会爆炸；保留斜率，就不会。
#
# 对付爆炸有个简单的办法，就是**裁剪**：梯度太长就缩短，方向不变。对付消失，裁剪帮不上忙：小梯度可以放大，但其中来自远处的那一份，仍然只有来自近处的十亿分之一。
#
# > **试一试。** 在 2 和 3 之间找一个倍数，使梯度走 50 步既不变弱也不变强。然后给权重换一个种子，这个倍数还合适吗？
#
# <details><summary>答案</summary>
#
# 种子 0 是 2.50。种子 1 和 2 分别是 2.40 和 2.39；这两个种子要是也用 2.50，梯度会增大到 1.8 和 3.5。可见分界线很窄，而且每个矩阵的分界线都在不同的地方。靠选倍数解决不了问题：训练每走一步都要改动 $W_{hh}$，而且词再多一些，同一个倍数又会让梯度变弱或变强。
#
#     for factor in (2.3, 2.4, 2.5, 2.6):
#         weights = fresh | {"weight_hh": factor * fresh["weight_hh"]}
#         print(factor, over_distance(RNN, weights)[50].item())
#
# </details>

# %%
check("gradient_fades")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 检验裁剪 · 选读
#
# 不放心的话，就读这一节：拿我们的裁剪和 PyTorch 的比一比。

# %%
# NBVAL_CHECK_OUTPUT
module = nn.Linear(3, 2)
for tensor in module.parameters():
    tensor.grad = 100 * torch.randn(tensor.shape)
wild = {name: tensor.grad.clone() for name, tensor in module.named_parameters()}
clipped = clip_gradients(wild, limit=1.0)
nn.utils.clip_grad_norm_(module.parameters(), 1.0)
assert all(torch.allclose(clipped[name], t.grad) for name, t in module.named_parameters())
assert torch.equal(clip_gradients(clipped, limit=5.0)["weight"], clipped["weight"])  # short enough
assert torch.allclose(F.cosine_similarity(wild["bias"], clipped["bias"], dim=0), torch.tensor(1.0))
print("as nn.utils.clip_grad_norm_: shorter, in the same direction")

# %% [markdown]
# ## 11 · LSTM：带门的记忆
#
# **问题：** 能不能让一个状态传过许多步，而不用每一步都乘矩阵、再过一遍 $\tanh$？
#
# Hochreiter 和 Schmidhuber（1997）给网络加了第二个状态 $c$，更新时用的是“加法”。在 LSTM 里，**单元**（cell）一词指的就是这个状态，从这里起我们也这样用。改不改、改多少，由**门**（gate）决定。门是一个向量，由当前的词和旧状态经过 sigmoid，即 $\sigma(a) = 1/(1+e^{-a})$ 得到，里面的数都在 0 和 1 之间。想通过的东西，要逐个数与门相乘：0 是关，1 是开。今天通用的形式还加上了 Gers、Schmidhuber 和 Cummins（2000）的遗忘门，共有三个门和一个候选值：
#
# | | 公式 | 决定什么 |
# |---|---|---|
# | 输入门 | $i = \sigma(W_{i} x_t + U_{i} h_{t-1} + b_i)$ | 新内容写入多少 |
# | 遗忘门 | $f = \sigma(W_{f} x_t + U_{f} h_{t-1} + b_f)$ | 旧内容**保留**多少 |
# | 候选值 | $g = \tanh(W_{g} x_t + U_{g} h_{t-1} + b_g)$ | 新内容 |
# | 输出门 | $o = \sigma(W_{o} x_t + U_{o} h_{t-1} + b_o)$ | 单元里的内容输出多少 |
#
# $$c_t = f \odot c_{t-1} + i \odot g , \qquad h_t = o \odot \tanh(c_t) .$$
#
# （“遗忘门”这个名字起反了：门开着表示“保留”。）代码里，四个矩阵 $W$ 上下摞成一个，就是 `weight_ih`，按 PyTorch 的次序 i、f、g、o；四个 $U$ 在 `weight_hh` 里。一次乘法就算出全部四个。每个 $b$ 是 PyTorch 的两个偏置之和。
#
# **反向传播。** 已知 $g^{h}$ 和 $g^{c}$，即新的 $h$ 和新的 $c$ 的梯度。（注意字母：$g$ 右上角有字母，和以前一样是梯度；单独的 $g$ 是候选值。）
#
# 1. 先看 $h = o \odot \tanh(c)$。经过乘法，梯度乘上另一个因子再传下去：$\;g^o = g^h \odot \tanh(c)$。$c$ 还得到第二个梯度，要加上去：$\;g^c \leftarrow g^c + g^h \odot o \odot (1 - \tanh^2 c)$。
# 2. 再看 $c = f \odot c_{t-1} + i \odot g$：$\;g^i = g^c \odot g$，$\;g^f = g^c \odot c_{t-1}$，$\;g^g = g^c \odot i$，传给旧单元的是 **$\;g^{c_{t-1}} = g^c \odot f$**。这一步没有矩阵，也没有非线性函数。
# 3. 然后是各个非线性函数。sigmoid 的斜率是 $\sigma (1 - \sigma)$。对这些函数的输入求梯度，用代码里的名字写就是：`grad_i` $= g^i \odot i \odot (1 - i)$，`grad_f` $= g^f \odot f \odot (1 - f)$，`grad_g` $= g^g \odot (1 - g^2)$，`grad_o` $= g^o \odot o \odot (1 - o)$。
# 4. 最后是两个线性层：和前面一样，用 `gates_backward`。

# %%
#| export
def lstm_step(x: Tensor, state: State, weights: Weights) -> tuple[State, tuple]:
    """Read one word: x (B, D), state (h, c), each (B, H) -> new state, cache.

    weights: weight_ih (4H, D), weight_hh (4H, H), bias_ih, bias_hh (4H,), as in nn.LSTMCell, the
    gates in the order i, f, g, o. Hochreiter and Schmidhuber 1997; Gers et al. 2000.
    """
    h, c = state
    from_x = linear(x, weights["weight_ih"], weights["bias_ih"])  # (B, 4H)
    from_h = linear(h, weights["weight_hh"], weights["bias_hh"])  # (B, 4H)
    i, f, g, o = (from_x + from_h).chunk(4, dim=1)  # (B, H) each
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new_c = f * c + i * g
    return (o * new_c.tanh(), new_c), (x, h, c, i, f, g, o, new_c)


def lstm_step_backward(grad_state: State, cache: tuple, weights: Weights) -> tuple[Weights, State]:
    """Return the gradients of x and the weights, by name, and of the old h and c."""
    (grad_h, grad_c), (x, h, c, i, f, g, o, new_c) = grad_state, cache
    shown = new_c.tanh()
    grad_c = grad_c + grad_h * o * (1 - shown**2)  # (B, H) two gradients meet at c
    grad_i = grad_c * g * i * (1 - i)
    grad_f = grad_c * c * f * (1 - f)
    grad_g = grad_c * i * (1 - g**2)
    grad_o = grad_h * shown * o * (1 - o)
    grad_gates = torch.cat([grad_i, grad_f, grad_g, grad_o], dim=1)  # (B, 4H)
    grads, grad_h = gates_backward(grad_gates, grad_gates, x, h, weights)
    return grads, (grad_h, grad_c * f)


LSTM = Recurrent(lstm_step, lstm_step_backward, n_states=2)

# %%
# NBVAL_CHECK_OUTPUT
x = torch.randn(3, 7, 4).double()
theirs = nn.LSTM(4, 5, batch_first=True).double()
agrees(LSTM, theirs)
lost_cell = spoiled(LSTM, theirs, lambda g, c: ((g[0], torch.zeros_like(g[1])), c))
assert lost_cell["weight_ih"] > 1e-3
wrong_sign = spoiled(LSTM, theirs, lambda g, c: ((g[0], -g[1]), c))
assert wrong_sign["weight_ih"] > 1e-3
print("LSTM: equal to nn.LSTM and to autograd; the cell's way back forgotten or turned: found")

# %% [markdown]
# ### 反向时，新在哪里？
#
# **只沿单元走**，$g^{c_{t-1}} = g^{c_t} \odot f_t$。走许多步，梯度一共要乘上
#
# $$f_T \odot f_{T-1} \odot \cdots \odot f_{k+1} .$$
#
# （门取决于 $h$，所以还有别的路；有多少梯度走的是别的路，第 13 节会测量。）这仍然是乘积！但里面的因子是**门**：单元里的每个数各有自己的门，而且这些门是网络**学**出来的。遗忘门是 1 的地方，梯度原样通过，网络想让它传多远都行。RNN 却只有一个矩阵，所有的时刻、所有的用途都靠它。
#
# 可以让门一开始就开着：把它的偏置调高就行。

# %%
def opened(module: nn.Module, bias: float) -> Weights:
    """Copy the weights of an LSTM or GRU and raise the bias of its keeping gate, the second one."""
    weights, hidden = weights_of(module), module.hidden_size
    weights["bias_ih"][hidden : 2 * hidden] += bias
    return weights


# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 看一个门怎样做决定 · 选读
#
# 读过第 9 节，可以接着读这一节：一个 LSTM 学会记住第一个分句，我们来看它记在哪里。

# %% [markdown]
# 先要关上一扇后门。第 9 节的句子，每句都有且只有一个分句用“are”，看**最后**一个动词就知道答案，根本不必记住第一个分句。现在改用所有带两个分句的图片说明来学，两个都用“is”、两个都用“are”的也包括在内。在这些句子里，最后一个动词说明不了什么：必须把**第一个**动词一直记到句末，中间还要越过第二个。
#
# 提问时，两种留出的句子都用。如果只知道最后一个动词，别的都不知道，最多能答对多少？下一个单元格来数。遗忘门的偏置初值取 1，所以门一开始就开到 $\sigma(1) = 0.73$，而不是 $\sigma(0) = 0.5$（第 13 节会说为什么）。

# %%
torch.manual_seed(0)
fair_set = question("train", opposite=False)
fair_texts, fair_answers = zip(*question("val", opposite=False), *question("test", opposite=False))
reader, _ = learn(last_state(LSTM), opened(nn.LSTM(D, H), 1), fair_set)
fair_right = share_right(reader, fair_texts, fair_answers)

last_verbs = [[word for word in text.split() if word in ("is", "are")][-1] for text in fair_texts]
cases = Counter(zip(last_verbs, fair_answers))
by_last_verb = sum(max(cases[verb, 0], cases[verb, 1]) for verb in ("is", "are")) / len(fair_texts)
assert fair_right > 0.9 and by_last_verb < 0.7
print(f"{len(fair_set)} sentences to learn from; of {len(fair_texts)} held-out ones the LSTM answers "
      f"{fair_right:.0%},\nthe best that the last verb alone allows is {by_last_verb:.0%}")

# %% [markdown]
# 后门关上了：LSTM 记住了第一个分句。记在哪里？我们来读训练好的网络的缓存。一共 32 个分量，是哪一个记着谁在前？回到第 9 节的孪生句，它们的答案相反；哪个分量的单元值在两句之间差别最大，就取哪个。

# %%
_, caches = LSTM.forward(reader.ends["table"][as_ids(texts)], reader.body)
_, _, _, i_gates, f_gates, _, o_gates, cells = (torch.stack(part, dim=1) for part in zip(*caches))
final = cells[:, -1]  # (sentences, H) the cells after the last word
unit = (final[0::2] - final[1::2]).abs().mean(dim=0).argmax().item()
several = torch.tensor(answers) == 1
sign = 1 if final[several, unit].mean() > final[~several, unit].mean() else -1
held, opening, growing = [], [], []
for text, is_several, f, c in zip(texts, several, f_gates[..., unit], cells[..., unit]):
    rest = len(text.split()) - text.split().index("while")  # from "while" to the end
    held.append(((sign * c[-rest:] > 0) == is_several).double().mean().item())
    opening.append(f[-rest:].mean().item())
    growing.append(bool(c[-1].abs() > c[-rest].abs()))
held, opening, growing = (sum(part) / len(part) for part in (held, opening, growing))
assert held > 0.85 and opening > 0.7 and growing > 0.5
print(f'from "while" on: the sign of this one cell is right in {held:.0%} of the words, '
      f"and its forget gate is {opening:.2f} open;\nin {growing:.0%} of the sentences its size still grows")

# %%
shortest = min(range(0, len(texts), 2), key=lambda n: len(texts[n]))
shown = []
for n in (shortest, shortest + 1):
    words = texts[n].split()
    i, f, o, c = (part[n, -len(words):, unit] for part in (i_gates, f_gates, o_gates, cells))
    shown.append((words, {"input gate i": i, "forget gate f": f, "output gate o": o}, sign * c))
draw.gates(shown, "The first clause sets the cell's sign; the second clause does not turn it around")

# %% [markdown]
# 单元里有一个数，专门记住了一件事。第一个分句定下它是正是负；第二个动词给出相反的信息，也没能让它变号。输入门也开着，所以在多数句子里，这个数的绝对值甚至还在增大。遗忘门开着，已有的内容就保住了；第二个分句也往里写，但写进去的是正是负，由第一个分句选定。保留与写入是配合着来的。没有人教网络这样做。（一个分量的正负本身没有意义；画图时我们让“几个”朝上。）

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 12 · GRU：同样的想法，更省 · 选读
#
# 想再看一种门控单元，就读这一节：一个状态，两个门。
#
# **问题：** 真的需要两个状态和三个门吗？
#
# Cho 等（2014）设计这种单元，是为了在统计翻译系统里给短语对打分；它的名字**门控循环单元**（gated recurrent unit，GRU）是同年晚些时候才有的（Chung 等 2014）。它有一个状态、两个门：
#
# $$\begin{aligned}
# r &= \sigma(W_r x_t + b_r + U_r h_{t-1} + b'_r) && \text{reset gate} \\
# z &= \sigma(W_z x_t + b_z + U_z h_{t-1} + b'_z) && \text{update gate} \\
# n &= \tanh(W_n x_t + b_n + r \odot u) , \quad u = U_n h_{t-1} + b'_n && \text{proposal} \\
# h_t &= (1 - z) \odot n + z \odot h_{t-1}
# \end{aligned}$$
#
# 新状态是旧状态与候选值的“加权平均”：保留的和写入的加起来是一。所以 $z$ 一身兼任遗忘门和输入门；和 LSTM 一样，开着表示保留。
#
# **一个陷阱。** 在原文里，重置门在矩阵“之前”作用于 $h_{t-1}$：$U_n (r \odot h_{t-1})$。PyTorch 则在矩阵“之后”，作用于已经加上偏置的 $u$。后一种形式只要一次矩阵乘法，就能算出全部三块，所以更快。这是两个不同的函数：按一种形式训练的权重，拿给另一种用就错了。
#
# **反向传播**，从 $h_t$ 的梯度 $g^h$ 开始：
#
# 1. 先看加权平均：$\;g^n = g^h \odot (1 - z)$，$\;g^z = g^h \odot (h_{t-1} - n)$，直接传给旧状态的是 $\;g^h \odot z$。
# 2. 再经过 $n$ 的 $\tanh$，到它的自变量 $a$：$\;g^a = g^n \odot (1 - n^2)$，代码里是 `grad_n`。它原样传给 $W_n x_t + b_n$，传给 $u$ 的是 $\;g^a \odot r$，传给重置门的是 $\;g^r = g^a \odot u$。
# 3. 然后是两个 sigmoid：`grad_r` $= g^r \odot r \odot (1 - r)$，`grad_z` $= g^z \odot z \odot (1 - z)$。
# 4. 最后是两个线性层。这一次，两者的梯度“不一样”：在第三块里，作用于 $h$ 的那个多一个因子 $r$。

# %%
#| export
def gru_step(x: Tensor, state: State, weights: Weights) -> tuple[State, tuple]:
    """Read one word: x (B, D), state (h,) with h (B, H) -> new state, cache.

    weights: weight_ih (3H, D), weight_hh (3H, H), bias_ih, bias_hh (3H,), as in nn.GRUCell, the
    blocks in the order r, z, n. As PyTorch, r acts after the matrix. Cho et al. 2014.
    """
    (h,) = state
    x_r, x_z, x_n = linear(x, weights["weight_ih"], weights["bias_ih"]).chunk(3, dim=1)  # (B, H)
    h_r, h_z, h_n = linear(h, weights["weight_hh"], weights["bias_hh"]).chunk(3, dim=1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    n = (x_n + r * h_n).tanh()
    return ((1 - z) * n + z * h,), (x, h, r, z, n, h_n)


def gru_step_backward(grad_state: State, cache: tuple, weights: Weights) -> tuple[Weights, State]:
    """Return the gradients of x and the weights, by name, and of the old state."""
    (grad,), (x, h, r, z, n, h_n) = grad_state, cache
    grad_n = grad * (1 - z) * (1 - n**2)  # (B, H)
    grad_z = grad * (h - n) * z * (1 - z)
    grad_r = grad_n * h_n * r * (1 - r)
    grad_ih = torch.cat([grad_r, grad_z, grad_n], dim=1)  # (B, 3H)
    grad_hh = torch.cat([grad_r, grad_z, grad_n * r], dim=1)
    grads, grad_h = gates_backward(grad_ih, grad_hh, x, h, weights)
    return grads, (grad_h + grad * z,)


GRU = Recurrent(gru_step, gru_step_backward)

# %%
# NBVAL_CHECK_OUTPUT
theirs = nn.GRU(4, 5, batch_first=True).double()
agrees(GRU, theirs)
swapped = spoiled(GRU, theirs, lambda g, c: (g, (c[0], c[1], c[3], c[2], *c[4:])))  # r and z
assert swapped["weight_ih"] > 1e-3


def article_step(x: Tensor, h: Tensor, weights: Weights) -> Tensor:
    """The GRU of the article: the reset gate before the matrix."""
    r, z = gru_step(x, (h,), weights)[1][2:4]
    x_n = linear(x, weights["weight_ih"], weights["bias_ih"]).chunk(3, dim=1)[2]
    h_n = linear(r * h, weights["weight_hh"], weights["bias_hh"]).chunk(3, dim=1)[2]
    return (1 - z) * (x_n + h_n).tanh() + z * h


weights, h = weights_of(theirs), torch.randn(3, 5).double()
assert (article_step(x[:, 0], h, weights) - gru_step(x[:, 0], (h,), weights)[0][0]).abs().max() > 1e-3
sizes = {name: sum(w.numel() for w in weights_of(kind(16, 32)).values())
         for name, kind in (("RNN", nn.RNN), ("GRU", nn.GRU), ("LSTM", nn.LSTM))}
assert sizes["GRU"] == 3 * sizes["RNN"] and sizes["LSTM"] == 4 * sizes["RNN"]
print("GRU: equal to nn.GRU and to autograd; the article's form is another function")
print("weights, D 16 and H 32:", sizes)

# %% [markdown]
# ## 13 · 谁能把梯度传得更远？
#
# 现在把 RNN、LSTM 和 GRU（选读的第 12 节：只有一个状态，由门 $z$ 决定留下多少）放在一起比较，测量方法和第 10 节一样。**先猜**：PyTorch 里，LSTM 的偏置初值在 0 附近。这时遗忘门开多大？50 步之后还剩下多少？如果遗忘门的偏置初值取 1，或者取 3 呢？（取 1 是 Jozefowicz、Zaremba 和 Sutskever 2015 的建议；Gers 等 2000 则给每组单元不同的初值。在 GRU 里，起这个作用的是更新门 $z$。）

# %%
mine = None  # your guess: what is left after 50 steps of an LSTM with forget bias 1, from 0 to 1

# %%
torch.manual_seed(0)
lstm, gru = nn.LSTM(16, 64).double(), nn.GRU(16, 64).double()
as_started = {"RNN": plain, "LSTM": over_distance(LSTM, opened(lstm, 0)),
              "GRU": over_distance(GRU, opened(gru, 0))}
gates_open = {"RNN": plain, "LSTM, forget bias 1": over_distance(LSTM, opened(lstm, 1)),
              "GRU, update bias 1": over_distance(GRU, opened(gru, 1)),
              "LSTM, forget bias 3": over_distance(LSTM, opened(lstm, 3)),
              "RNN, W_hh times 2": doubled}
draw.over_distance([("As PyTorch starts them, all three forget", as_started),
                    ("A more open gate: more gradient comes back", gates_open)])

# %%
assert as_started["LSTM"][50] < 1e-8 and as_started["GRU"][50] < 1e-8
assert gates_open["LSTM, forget bias 1"][50] > 1e8 * plain[50]
assert gates_open["GRU, update bias 1"][50] > 1e5 * plain[50]
wide_open = gates_open["LSTM, forget bias 3"]
assert wide_open[50] > 0.3 and wide_open.min() > 0.2 and wide_open[60] > 2 * wide_open.min()
assert doubled[50] > 10 * gates_open["LSTM, forget bias 1"][50]  # the stretched RNN, at the start
for name, curve in (as_started | gates_open).items():
    print(f"{name:22} after 50 steps: {curve[50]:.0e}")

# %%
compare(mine, gates_open["LSTM, forget bias 1"][50].item(), "01: an LSTM's gradient after 50 steps")

# %% [markdown]
# 刚初始化的 LSTM，遗忘门得到的是小随机数，所以 $f \approx \sigma(0) = 0.5$：它一开始也很健忘！改一个数就能解决。**遗忘门的偏置取 1**，门就从 $\sigma(1) = 0.73$ 开始；取 3，就从 $\sigma(3) = 0.95$ 开始。
#
# 你猜的是 $0.5^{50} \approx 10^{-15}$、$0.73^{50} \approx 10^{-7}$ 和 $0.95^{50} \approx 0.1$ 吗？实际传到的要多得多。这样估计有两点不准：一是把所有的门看成一样，二是只沿单元走，漏掉了经过 $h$ 的路，而 $h$ 决定下一个词的门。哪一点要紧？我们在往回走时剪断经过 $h$ 的路，再测一次：

# %%
def along_the_cell(grad_state: State, cache: tuple, weights: Weights) -> tuple[Weights, State]:
    grads, (grad_h, grad_c) = lstm_step_backward(grad_state, cache, weights)
    return grads, (torch.zeros_like(grad_h), grad_c)  # nothing comes back through h


cell_alone = Recurrent(lstm_step, along_the_cell, n_states=2)
for bias in (0, 1, 3):
    estimate = (1 / (1 + math.exp(-bias))) ** 50
    alone = over_distance(cell_alone, opened(lstm, bias))[50].item()
    whole = over_distance(LSTM, opened(lstm, bias))[50].item()
    off = max(alone / estimate, estimate / alone)
    assert off < 50 and whole > 5 * alone
    print(f"forget bias {bias}: estimate {estimate:.0e}, the cell alone {alone:.0e} (a factor of "
          f"{off:.1f} from it), with the paths through h {whole:.0e}")

# %% [markdown]
# 只沿单元走时，估计与实测相差不到 50 倍，而三种初值之间相差好多个数量级。传到的梯度里，至少五分之四是经过 $h$ 来的：单元格里的断言检查的就是这一点。图中偏置为 3 的曲线也与此相符：它先降到三分之一，然后**回升**，到 60 步时几乎是 1。梯度经过这些门几乎不变弱，每一步又有经过 $h$ 来的梯度加进来。
#
# 看右图，话不能说过头。遗忘门的偏置取 1，走 50 步传回来的梯度大约是 RNN 的十亿倍。但是 LSTM 能赢，**靠的是我们给门设的初值**，不是因为它叫 LSTM。而且在刚开始的这一刻，第 10 节里权重放大过的 RNN 比偏置为 1 的 LSTM 更能保住梯度。

# %%
check("forget_gate")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 谁学得会？· 选读
#
# 读过第 9 节，可以接着读这一节：一个只考记忆的任务，四个网络来做。

# %% [markdown]
# 所以不能只问一开始谁能传递梯度，还要问谁能**学会**。下一个任务只考记忆：第一个词是 A 或 B，接着是 $d$ 个噪声词，最后问第一个词是哪个。门的偏置初值取 6：一步保留 $\sigma(6) \approx 0.998$，五十步保留 $0.998^{50} \approx 0.9$。RNN 用 PyTorch 的初值。另外有一个 LSTM，偏置初值取 0，看看光靠“LSTM”这个名字行不行。

# %%
def noise_batch(distance: int, random: torch.Generator, n: int = 64) -> tuple[Tensor, Tensor]:
    """Return sentences (n, distance + 1): word 0 or 1, then noise, words 2 to 7; and the answers."""
    ids = torch.randint(2, 8, (n, distance + 1), generator=random)
    labels = torch.randint(2, (n,), generator=random)
    ids[:, 0] = labels
    return ids, labels.float()


def remembers(network: Recurrent, weights: Weights, distance: int) -> float:
    """Train on the memory task; return the share of right answers on 500 fresh sentences."""
    reader = new_reader(last_state(network), weights, 8)
    random = torch.Generator().manual_seed(1)
    train(reader, lambda: noise_batch(distance, random), by_scale(smoke=100, cpu=150, gpu=200))
    ids, labels = noise_batch(distance, random, n=500)
    return ((reader.scores(ids)[0] > 0) == labels.bool()).double().mean().item()


gaps = [5, 10, 20, 30, 50][:: by_scale(smoke=4, cpu=1, gpu=1)]  # words of noise
torch.manual_seed(0)
starts = {"RNN": (RNN, weights_of(nn.RNN(D, H))),
          "LSTM, forget bias 0": (LSTM, opened(nn.LSTM(D, H), 0)),
          "LSTM, forget bias 6": (LSTM, opened(nn.LSTM(D, H), 6)),
          "GRU, update bias 6": (GRU, opened(nn.GRU(D, H), 6))}
recalled = {name: [remembers(*start, gap) for gap in gaps] for name, start in starts.items()}
draw.memory(gaps, recalled)

# %%
for name, shares in recalled.items():
    if "bias 6" in name:
        assert min(shares) > 0.95
    else:
        assert shares[0] > 0.95 and all(s < 0.65 for gap, s in zip(gaps, shares) if gap >= 20)
    print(f"{name:19} right over {gaps[0]} words: {shares[0]:.0%}, over {gaps[-1]}: {shares[-1]:.0%}")

# %% [markdown]
# 任务很容易，只要记住一个比特。每个距离上，四个网络的训练步数都一样。门开着的网络在每个距离上都学会了（每个只跑了一次）。简单的 RNN 从距离 20 起就是瞎猜：几乎没有梯度传到，也就几乎什么都没学到。偏置为 0 的 LSTM 也一样：**起决定作用的是初值，不是名字。**（训练也会改动 RNN 的权重，运气好的话，它也可能自己找到出路。）
#
# > **试一试。** 把偏置为 3 的 LSTM 交给 `remembers`，取 $d = 50$，用四个种子。是每次都学会，每次都学不会，还是有时能学会？再试试 $W_{hh}$ 乘以 2 的 RNN。
#
# <details><summary>答案</summary>
#
# 有时能学会。偏置为 3 时，四个种子里有三个达到 100%，一个是 52%，等于瞎猜。再看 $W_{hh}$ 乘以 2 的 RNN：第 10 节测到，50 步之后它剩下的梯度比偏置为 1 的 LSTM 还多，可是四个种子全是瞎猜（50 到 52%）。一开始有梯度传到，是必要的，但还不够。
#
# </details>

# %% [markdown]
# ## 14 · 论文对这一切怎么说
#
# 设两个词相隔 $n$ 个词，把测量结果放在一起：
#
# | 网络 | 信号要走多远？| 路上会遇到什么 | 所有位置能同时算吗？ |
# |---|---|---|---|
# | 词袋 | 1 步 | 次序丢了 | 能 |
# | 普通卷积（ConvS2S）| $n / (K - 1)$ 层 | 每步过一层 | 能 |
# | 空洞卷积（ByteNet）| 大约 $\log_2 n$ 层 | 每步过一层 | 能 |
# | RNN | $n$ 步 | 每步乘一个 $\operatorname{diag}(1 - h^2) W$ | 不能，只能一个词接一个词 |
# | LSTM、GRU | $n$ 步 | 每步乘一个门 | 不能，只能一个词接一个词 |
# | 自注意力（第 03 课）| **1 步** | 一次加权平均 | **能** |
#
# 论文第 2 节、第 4 节，以及表 1 的“maximum path length”一栏，说的就是这个意思：**两个词之间的路径越短，就越容易学到两者有关。** 上表最后一栏，说的是第 1 节的意思：网络如果必须一个词接一个词地读，哪怕机器能同时计算一切，也派不上用场。注意力当初是作为 RNN 的帮手发明的（第 02 课）。论文扔掉 RNN，留下了帮手。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 数一数 LSTM 的捷径 · 选读
#
# LSTM 走的步数和 RNN 一样多，到底省了什么？想知道，就读这一节。

# %% [markdown]
# LSTM 走的步数和 RNN 一样多，它省了什么？每个数由哪些数算出，自动求导都记了下来，这就是一张图。在图上从最后的状态往回走到第一个词，我们找经过**非线性函数**最少的那条路：每个 $\tanh$、每个 sigmoid 都算一个。**先猜**：16 个词要几个？256 个词呢？

# %%
mine = None  # your guess: the LSTM's fewest bends over 256 words

# %% [markdown]
# 一个结果是由哪一步运算得到的，看 `result.grad_fn`；这一步的输入又是由哪些运算得到的，看它的 `next_functions`。（怎样在这张图里搜索，可以跳过不看。）

# %%
# NBVAL_CHECK_OUTPUT
def fewest_bends(network: Recurrent, module: nn.Module, distance: int) -> int:
    """Return the fewest bends on any way from the last state to the word `distance` before."""
    first, state = torch.ones(1, 8, requires_grad=True), (torch.zeros(1, 8),) * network.n_states
    for word in [first] + [torch.ones(1, 8)] * distance:
        state, _ = network.step(word, state, weights_of(module))
    ways, best = deque([(state[0].grad_fn, 0)]), {}
    while ways:
        node, bends = ways.popleft()
        if bends < best.get(node, math.inf):
            best[node] = bends
            bends += node.name() in ("TanhBackward0", "SigmoidBackward0")
            ways += [(parent, bends) for parent, _ in node.next_functions if parent]
    return next(bends for node, bends in best.items() if getattr(node, "variable", None) is first)


networks = {"RNN": (RNN, nn.RNN(8, 8)), "LSTM": (LSTM, nn.LSTM(8, 8)), "GRU": (GRU, nn.GRU(8, 8))}
expected = {"RNN": [17, 257], "LSTM": [2, 2], "GRU": [1, 1]}
for name, (network, module) in networks.items():
    assert [fewest_bends(network, module, n) for n in (16, 256)] == expected[name]
    print(f"{name:4} 16 words apart: {expected[name][0]:2} bends, 256 words: {expected[name][1]:3}")
layers = [[layers_to_meet(n, of) for n in (16, 256)]
          for of in (lambda layer: 1, lambda layer: 2**layer)]
assert layers == [[8, 128], [4, 8]]
print("plain convolutions: 8 layers, 128 layers; dilated: 4 layers, 8 layers")

# %%
compare(mine, fewest_bends(LSTM, nn.LSTM(8, 8), 256), "01: bends of an LSTM over 256 words")

# %% [markdown]
# RNN 每过一个词，就要经过一次非线性函数。LSTM 不管隔多远都只有两次：进单元一次，出单元一次；中间只是乘以门。（GRU 只有一次。）这就是 LSTM 的捷径。（第 13 节里，**刚初始化**的 LSTM 大部分梯度是经过 $h$ 来的。但只有沿单元走的路上没有非线性函数、没有矩阵，所以网络只有沿着单元，才能学会什么也不丢。）捷径是给“梯度”走的，时间一点也没省：$n$ 步还是要一步一步走完。

# %% [markdown]
# ## 你实现了什么
#
# | 名称 | 输入 | 输出 |
# |---|---|---|
# | `linear`、`linear_backward` | x (..., D)、权重 (O, D)、偏置 (O,) | (..., O)；反向给出梯度 |
# | `mlp_forward`、`mlp_backward` | x (B, D) | (B, O)；反向给出梯度 |
# | `conv1d_forward`、`conv1d_backward` | x (B, L, D)、步幅、间隔 | (B, P, O)；反向给出梯度 |
# | `rnn_step`、`lstm_step`、`gru_step`，各有 `_backward` | x (B, D)、状态 (B, H) | 新状态；反向给出梯度 |
# | `Recurrent`：`RNN`、`LSTM`、`GRU` | x (B, L, D) | (B, L, H)；随时间反向给出梯度 |
# | `embedding_backward` | 编号 (B, L)、嵌入表 (V, D) | 梯度 (V, D) |
# | `logistic_loss` | 分数 (B,)、答案 (B,) | 损失、梯度 (B,) |
# | `clip_gradients` | 按名字给出的梯度、上限 | 缩短后的梯度 |
# | `receptive_field` | 每层的（卷积核、步幅、间隔）| 词数 |
# | `gradient_errors` | forward、backward、x、权重 | 每个名字的最大误差 |
# | `weights_of` | torch.nn 的一个模块 | 它的权重，按名字 |
#
# ## 练习
#
# 1. **手算（难度 1/5，10 分钟）。** 把第 2 节的 $\tanh$ 换成 ReLU，先取 $b = -0.4$，再取 $b = -1.4$。用铅笔算出所有梯度，再用 `nudged` 核对。
#
#    <details><summary>答案</summary>
#
#    $b = -0.4$ 时：$s = y = 0.6$，$e = -0.4$，损失是 0.16，斜率是 1。所以 $w$ 的梯度是 $-1.6$，$x$ 的是 $-0.4$，$b$ 的是 $-0.8$。$b = -1.4$ 时：$s = -0.4$，$y = 0$，损失是 1，斜率是 0：三个梯度都是零。这个神经元错了，却没有任何信号告诉它怎样变好。这样的神经元叫做“死神经元”（dead）。
#
#    </details>
#
# 2. **找错（难度 2/5，15 分钟）。** 在 `gru_step_backward`（第 12 节）里，把 `grad_n * r` 换成 `grad_n`。裁判会指出哪些名字？解释为什么句子只有一个词时 `bias_ih` 不在其中，句子一长就在其中了。
#
#    <details><summary>答案</summary>
#
#    句子只有一个词时，裁判只指出 `bias_hh`。这一行算的是 $u$ 的梯度，它只传到 `weight_hh` 和 `bias_hh`；第一个词之前的状态是 0，所以 `weight_hh` 得到的反正是零。有两个或更多的词时，五个全错。错误的梯度经过 $W_{hh}$ 传到 $h_1$，再由 $h_1$ 传给算出它的所有量。
#
#    </details>
#
# 3. **换一种非线性函数（难度 3/5，30 分钟）。** 把 ReLU 换成 sigmoid，重写 `mlp_forward` 和 `mlp_backward`，要能通过裁判的检验。
#
#    <details><summary>答案</summary>
#
#    改两行。前向：`.sigmoid()` 代替 `.clamp(min=0)`。反向：`grad_a = grad_hidden * hidden * (1 - hidden)`，因为 sigmoid 的斜率是 $\sigma (1 - \sigma)$，而 `hidden` 已经是 $\sigma$。拿两层之间放 `nn.Sigmoid()` 的网络来比较，裁判没有发现大于 $10^{-15}$ 的误差。
#
#    </details>
#
# 4. **两个方向（难度 3/5，40 分钟）。** 用两个 RNN，一个从左往右读句子，一个从右往左读，把状态拼在一起。与 `nn.RNN(bidirectional=True)` 比较，梯度也要比较。
#
#    <details><summary>答案</summary>
#
#    从右往左读，就是读倒过来的句子。PyTorch 把第二个网络的权重叫做 `weight_ih_l0_reverse` 等等；把 `weights_of` 的结果分成两半、改个名字，就是 `left` 和 `right`。
#
#    ```python
#    def both_forward(x, left, right):
#        one, cache_1 = RNN.forward(x, left)
#        two, cache_2 = RNN.forward(x.flip(1), right)
#        return torch.cat([one, two.flip(1)], dim=2), (cache_1, cache_2)
#
#    def both_backward(grad, caches, left, right):
#        grad_1, grad_2 = grad.chunk(2, dim=2)
#        one = RNN.backward(grad_1, caches[0], left)
#        two = RNN.backward(grad_2.flip(1), caches[1], right)
#        return one.pop("x") + two.pop("x").flip(1), one, two  # x was read twice
#    ```
#
#    输出相等，梯度的最大误差约为 $10^{-15}$。
#
#    </details>
#
# 5. **原文的 GRU（难度 4/5，45 分钟）。** 推导 `article_step`（第 12 节）的反向，交给裁判审查。
#
#    <details><summary>答案</summary>
#
#    第三块现在是作用于 $r \odot h_{t-1}$ 的线性层。所以 $g^{a}$ 先经过 $U_n$，再像乘法那样分成两路：
#
#    ```python
#    w_n = weights["weight_hh"].chunk(3)[2]
#    grad_n = grad * (1 - z) * (1 - n**2)
#    grad_rh = grad_n @ w_n                      # at r * h
#    grad_r = grad_rh * h * r * (1 - r)
#    grad_z = grad * (h - n) * z * (1 - z)
#    # weight_hh: the blocks r and z meet h, the block n meets r * h: grad_n.T @ (r * h)
#    # old state: through r and z as before, and grad_rh * r + grad * z
#    ```
#
#    照这样写，裁判没有发现大于 $10^{-15}$ 的误差。
#
#    </details>
#
# ## 小结
#
# 网络是一个带许多权重的函数；错得多厉害，用损失来衡量；梯度下降让损失变小。反向传播就是链式法则，从损失走回权重：每个部件乘以自己的斜率，汇合的梯度要相加。MLP 要求固定的宽度，词袋不知道次序。卷积在各个位置共享权重，能看多远由层数决定：随层数线性增长，用空洞卷积则按指数增长。循环网络能按次序读任意长的句子，但它的梯度是所有步的乘积，不是消失就是爆炸。有了门，这个乘积里的因子可以学到接近 1。即使这样，路径还是有 $n$ 步。到了注意力，就只有一步。
#
# ## 延伸阅读
#
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762：第 1、2、4 节。
# - Rumelhart, Hinton, Williams 1986, *Learning Representations by Back-propagating Errors*; Werbos 1990, *Backpropagation Through Time: What It Does and How to Do It*; Elman 1990, *Finding Structure in Time*.
# - Hochreiter 1991, *Untersuchungen zu dynamischen neuronalen Netzen*（德语）；Bengio, Simard, Frasconi 1994, *Learning Long-Term Dependencies with Gradient Descent is Difficult*；Pascanu, Mikolov, Bengio 2013, *On the Difficulty of Training Recurrent Neural Networks*, arXiv 1211.5063。
# - Hochreiter, Schmidhuber 1997, *Long Short-Term Memory*；Gers, Schmidhuber, Cummins 2000, *Learning to Forget*；Jozefowicz, Zaremba, Sutskever 2015, *An Empirical Exploration of Recurrent Network Architectures*：LSTM、它的遗忘门，以及遗忘门的偏置。
# - Cho et al. 2014, *Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation*, arXiv 1406.1078：GRU。
# - Gehring et al. 2017, *Convolutional Sequence to Sequence Learning*, arXiv 1705.03122 (ConvS2S); Kalchbrenner et al. 2016, *Neural Machine Translation in Linear Time*, arXiv 1610.10099 (ByteNet).
# - Chung et al. 2014, *Empirical Evaluation of Gated Recurrent Neural Networks on Sequence Modeling*, arXiv 1412.3555：GRU 这个名字的由来。
# - Kingma, Ba 2015, *Adam: A Method for Stochastic Optimization*, arXiv 1412.6980.
#
# **作业。** [作业：基础](homework/foundations/foundations.ipynb)：自己写随时间反向传播、一个 LSTM 单元和一个 GRU 单元；哪里错了，检查会指出来。
#
# **下一课：** [第 02 课](02_seq2seq.ipynb)把两个循环网络合在一起，让它们做翻译。
