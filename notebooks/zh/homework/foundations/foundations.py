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
# # 作业 · 基础
#
# 你要算出一摞卷积能看多远，自己动手写梯度的反向传播（卷积的、随时间的、LSTM 的），还要写出让循环网络真正好用的两种单元：140 分钟，分两次做，只用 torch 和你自己的头脑。先合上[课文](../../01_foundations.ipynb)。查资料可以，照抄不行：自己写出来的，才是自己的。
#
# `check` 想运行几次都行。它每次换一批新的数来试，指出哪里错了，常常还会说明原因，再给一条对症的提示（三条提示全在题卡下面，卡住时再看）。每道练习的第二个 check 单元格用来打分：用 *Run All*（全部运行）时，一遇到还没通过的练习就停在那里，最后几行写着原因。B 是批次大小，T（在卷积里是 L）是词数，D 是词向量的宽度，H 是状态的宽度，K 是窗口的宽度，O 是卷积输出的宽度。
#
# 循环单元的写法，有一点与课文不同。课文里，权重按 torch 的存法 (H, D) 存放，用的时候转置。这里的权重**从右边**乘：`x @ w_x`，其中 `w_x` 的形状是 (D, H)。前向计算省心一些，反向传播时却要多想一次转置。

# %%
from contextlib import suppress

import torch
from torch import Tensor

from course.homework import check

# %% [markdown]
# <!-- card: receptive_field -->
# ## `receptive_field`
#
# 几层卷积叠起来能看多远：最上面的一个输出，会受哪些词影响？从第一个数到最后一个，一共多少个词。
#
# **为什么重要。** 论文第 2 节就用这个数来论证：要把两个词联系起来，ConvS2S 需要的层数随距离增长，ByteNet 需要的层数随距离的对数增长。你的函数两种都算得出来。
#
# ★☆☆☆☆ · 10 分钟 · 1 分
#
# ```text
# receptive_field(layers) -> int
# layers：由 (kernel, stride, dilation) 组成的列表，从最底层到最顶层，都是不小于 1
#     的整数。结果：最顶层的一个输出覆盖多少个词，从它看得到的第一个到最后一个，
#     首尾都算
# ```
#
# <details><summary>提示 1</summary>
#
# 一层卷积，卷积核宽 K，能看到 K 个相邻的词。上面再叠一层：每多叠一层，能多看到几个词？它读到的相邻两个输出，落到词上又相隔多远？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 记住两个数：field = 1，step = 1（step 是相邻两个之间的距离）。每一层给 field 加上 (kernel - 1) 乘以 dilation 乘以 step；再往上一层，相邻两个的距离变成 stride 倍。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# for kernel, stride, dilation in layers: field += (kernel - 1) * dilation * step；然后 step *= stride。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "a8695433f03ac739714b98855368cf7b", "grade": false, "grade_id": "receptive_field", "locked": false, "schema_version": 3, "solution": true, "task": false}
def receptive_field(layers: list[tuple[int, int, int]]) -> int:
    raise NotImplementedError  # your code


# %%
check("receptive_field", receptive_field)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "5090c18cd6088650f13e262440d12987", "grade": true, "grade_id": "receptive_field-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("receptive_field", receptive_field, strict=True).passed

# %% [markdown]
# 论文第 2 节的道理，三行代码就说完了。两个词相距 500，要叠几层才能相遇？用宽度为 3 的普通层要几层，用间隔（dilation）逐层加倍的层又要几层？**先猜**。

# %%
with suppress(NotImplementedError):  # quiet until you have written it
    for name, dilation in (("plain", lambda layer: 1), ("doubling", lambda layer: 2**layer)):
        layers = []
        while receptive_field(layers) <= 500:
            layers.append((3, 1, dilation(len(layers))))
        print(f"{name}: {len(layers)} layers")

# %% [markdown]
# <!-- card: conv1d_backward -->
# ## `conv1d_backward`
#
# 卷积的反向传播：自己动手写，不用自动求导（autograd）。
#
# **为什么重要。** 卷积就是一个用在每个位置上的线性层。看它的梯度，第 01 课的两条规则就都有了：一个权重的梯度，要把所有位置传来的加起来；一个词的梯度，要把所有看过它的窗口传来的加起来。
#
# ★★★☆☆ · 25 分钟 · 3 分
#
# ```text
# conv1d_backward(x, weight, bias, grad) -> dict，键是 x、weight、bias，各梯度与
#     其张量同形状
# x (B, L, D)，weight (O, D, K)，bias (O,)，grad (B, L - K + 1, O) 是输出的梯度
# 输出 p 看到第 p 到第 p + K - 1 个词：不填充，步幅为 1，out[:, p] = bias + x[:, p
#     + k] @ weight[:, :, k].T（后一项对 k 求和）
# ```
#
# <details><summary>提示 1</summary>
#
# 先忘掉卷积，固定一个 k。剩下的就是 x[:, k : k + P] 上的一个线性层，它的三个梯度你都会求。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 共有 P = L - K + 1 个窗口。对每个 k：把 grad @ weight[:, :, k] 加回第 k 到第 k + P - 1 个词；weight[:, :, k] 的梯度是 grad 与这些词的乘积，对句子和窗口求和。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# grad_x[:, k : k + P] += grad @ weight[:, :, k]; grad_weight[:, :, k] = torch.einsum('bpo,bpd->od', grad, x[:, k : k + P])；偏置的梯度是 grad.sum((0, 1))。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "e239c5921c84f12337eb22f7a3661c50", "grade": false, "grade_id": "conv1d_backward", "locked": false, "schema_version": 3, "solution": true, "task": false}
def conv1d_backward(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> dict[str, Tensor]:
    raise NotImplementedError  # your code


# %%
check("conv1d_backward", conv1d_backward)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "bc0f610e5f1c5f8a70b254bf0f2b041f", "grade": true, "grade_id": "conv1d_backward-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("conv1d_backward", conv1d_backward, strict=True).passed

# %% [markdown]
# 梯度汇合时要相加。让每个窗口给自己的三个词各传回一个 1，九个词各收到多少？**先猜**：哪些词收到的比别的少？

# %%
with suppress(NotImplementedError):  # quiet until you have written it
    sent = conv1d_backward(torch.ones(1, 9, 1), torch.ones(1, 1, 3), torch.zeros(1), torch.ones(1, 7, 1))
    print([int(n) for n in sent["x"][0, :, 0]])

# %% [markdown]
# <!-- card: rnn_backward -->
# ## `rnn_backward`
#
# 随时间反向传播：自己动手写，不用自动求导。先让网络往前算一遍，再从最后一个词一步步往回，走到第一个。
#
# **为什么重要。** 相隔很远的联系为什么难学，你会亲眼看到：每往回一步，梯度都要乘以 w_h，再乘以一个小于一的斜率。提出注意力，就是为了缩短这段路。
#
# ★★★★☆ · 40 分钟 · 4 分
#
# ```text
# rnn_backward(x, h0, w_x, w_h, b, grad_h) -> dict，键是 x、h0、w_x、w_h、b，各梯
#     度与其张量同形状
# x (B, T, D)，h0 (B, H)，w_x (D, H)，w_h (H, H)，b (H,)
# 权重从右边乘：h_t = tanh(x_t @ w_x + h_{t-1} @ w_h + b)，t 从 1 到 T。grad_h (B,
#     T, H) 是损失对各个 h_t 的梯度，只把 h_t 当作输出，不含后面各步传回来的部
#     分：那部分由你加上
# ```
#
# <details><summary>提示 1</summary>
#
# h_t 用了两次：损失用一次，h_{t+1} 用一次。梯度汇合时怎么办？还有，w_h 用了几次？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 往前：每个状态都留着，h0 也留着。往回，t 从最后一个到第一个：total = grad_h[:, t] + 后面传回来的；da = total * (1 - h_t ** 2)。五个结果都由 da 得出：da @ w_x.T、x_t.T @ da、h_{t-1}.T @ da、da.sum(0)，以及继续往回传的梯度。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# later = da @ w_h.T；循环结束时，later 就是 h0 的梯度。w_x、w_h 和 b 的梯度从 zeros_like 开始，每一步用 += 累加。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "960f02575f46020898338bec5b3a0bb9", "grade": false, "grade_id": "rnn_backward", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rnn_backward(
    x: Tensor, h0: Tensor, w_x: Tensor, w_h: Tensor, b: Tensor, grad_h: Tensor
) -> dict[str, Tensor]:
    raise NotImplementedError  # your code


# %%
check("rnn_backward", rnn_backward)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "eed35f4d05e92c27504ea4954d577812", "grade": true, "grade_id": "rnn_backward-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("rnn_backward", rnn_backward, strict=True).passed

# %% [markdown]
# 现在用你的函数来看一件事。损失只看最后一个状态；它的梯度传到 5、10、20、40 步之前的词，还剩多少？权重 `w_h` 随机取，先像 torch 初始化的那样小，再取得大一些。**先猜**：三种情形里，哪一种梯度消失，哪一种梯度爆炸？

# %%
torch.manual_seed(0)
x, h0 = torch.randn(8, 41, 16).double(), torch.zeros(8, 32).double()
w_x, w_h, b = torch.randn(16, 32).double() / 4, torch.randn(32, 32).double(), torch.zeros(32).double()
grad_h = torch.zeros(8, 41, 32).double()
grad_h[:, -1] = 1
with suppress(NotImplementedError):  # quiet until you have written it
    for factor in (0.1, 0.3, 1.0):
        grads = rnn_backward(x, h0, w_x, factor * w_h, b, grad_h)
        size = grads["x"].norm(dim=2).mean(dim=0).flip(0)  # (T,), by steps back
        far = "  ".join(f"{steps} back: {size[steps] / size[0]:.0e}" for steps in (5, 10, 20, 40))
        print(f"w_h times {factor}   {far}")

# %% [markdown]
# <!-- card: lstm_cell -->
# ## `lstm_cell`
#
# LSTM 的一步：三个门和一个候选值，新的单元，新的状态。
#
# **为什么重要。** 单元靠相加往下传，所以梯度可以毫发无损地走过许多步。Transformer 的残差连接，在层与层之间也是这个道理。
#
# ★★☆☆☆ · 15 分钟 · 2 分
#
# ```text
# lstm_cell(x, h, c, w_x, w_h, b) -> 新的 (h, c)
# x (B, D)，h 和 c (B, H)，w_x (D, 4H)，w_h (H, 4H)，b (4H,)
# 权重从右边乘，分成四块，每块 H 列，次序同 torch：输入门 i，遗忘门 f，候选值 g，
#     输出门 o。b 只有一个，torch 是两个相加
# ```
#
# <details><summary>提示 1</summary>
#
# x @ w_x + h @ w_h + b 这一个和里就装着全部四块，形状是 (B, 4H)。四块中哪些必须在 0 与 1 之间，哪一块可以是负数？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 用 chunk(4, dim=-1) 切开。i、f、o 经过 sigmoid，g 经过 tanh。新的单元里，旧单元留下一部分（f），候选值写进一部分（i）。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# c = f * c + i * g；然后 h = o * torch.tanh(c)，用新的 c。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "2a3160ca8b0377f27f10c7ec1b0b4bdc", "grade": false, "grade_id": "lstm_cell", "locked": false, "schema_version": 3, "solution": true, "task": false}
def lstm_cell(
    x: Tensor, h: Tensor, c: Tensor, w_x: Tensor, w_h: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError  # your code


# %%
check("lstm_cell", lstm_cell)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "e66e67e6342717abab33054d3d4b2925", "grade": true, "grade_id": "lstm_cell-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("lstm_cell", lstm_cell, strict=True).passed

# %% [markdown]
# <!-- card: lstm_backward -->
# ## `lstm_backward`
#
# LSTM 一步的反向传播：自己动手写，不用自动求导。
#
# **为什么重要。** 这里可以看到门对梯度做了什么：沿着单元往回走，梯度只遇到 f，没有矩阵，也没有非线性函数。正是这条路，让远处的词也学得到。
#
# ★★★★☆ · 35 分钟 · 4 分
#
# ```text
# lstm_backward(x, h, c, w_x, w_h, b, grad_h, grad_c) -> dict，键是 x、h、c、
#     w_x、w_h、b，各梯度与其张量同形状
# 就是 lstm_cell 的那一步：x (B, D)，h 和 c (B, H)，w_x (D, 4H)，w_h (H, 4H)，b
#     (4H,)，四块依次是 i、f、g、o
# grad_h 和 grad_c (B, H)：新的 h 和新的 c 的梯度，各自不含经过对方传来的部分
# ```
#
# <details><summary>提示 1</summary>
#
# 新的 c 用了两次：h = o * tanh(c) 用一次，下一步用一次。先把这两份加起来；其余的梯度都由这个和与 grad_h 得出。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# dc = grad_c + grad_h * o * (1 - tanh(c) ** 2)。乘法往回传时，每个因子得到的是梯度乘以另一个因子：i 得到 dc * g，f 得到 dc * c_old，g 得到 dc * i，o 得到 grad_h * tanh(c)。然后各自经过自己的非线性函数，也就是乘以它在那里的斜率。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# gates = torch.cat([dc * g * i * (1 - i), dc * c_old * f * (1 - f), dc * i * (1 - g ** 2), grad_h * tanh(c) * o * (1 - o)], 1)；然后 x：gates @ w_x.T，w_x：x.T @ gates，h 也照样；b：gates.sum(0)；c：dc * f。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "8147d37dea8840b1e74656aa16c5dfee", "grade": false, "grade_id": "lstm_backward", "locked": false, "schema_version": 3, "solution": true, "task": false}
def lstm_backward(
    x: Tensor, h: Tensor, c: Tensor, w_x: Tensor, w_h: Tensor, b: Tensor, grad_h: Tensor,
    grad_c: Tensor,
) -> dict[str, Tensor]:
    raise NotImplementedError  # your code


# %%
check("lstm_backward", lstm_backward)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "4139d5b3d5ddb78a0bc60dcc93aa54a5", "grade": true, "grade_id": "lstm_backward-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("lstm_backward", lstm_backward, strict=True).passed

# %% [markdown]
# 在最后一步送进大小为 1 的梯度，往回走 50 步，到第一个单元时还剩多少？三种情形只有遗忘门的偏置不同。**先猜**：哪一种能留下十分之一以上？

# %%
torch.manual_seed(0)
w_x, w_h, words = torch.randn(8, 64) / 8, torch.randn(16, 64) / 8, torch.randn(50, 1, 8)
with suppress(NotImplementedError):  # quiet until you have written both
    for forget in (0.0, 1.0, 3.0):
        b = torch.zeros(64)
        b[16:32] = forget
        states = [(torch.zeros(1, 16), torch.zeros(1, 16))]
        for x in words:
            states.append(lstm_cell(x, *states[-1], w_x, w_h, b))
        grads = {"h": torch.zeros(1, 16), "c": torch.ones(1, 16)}
        for x, (h, c) in zip(reversed(words), reversed(states[:-1])):
            grads = lstm_backward(x, h, c, w_x, w_h, b, grads["h"], grads["c"])
        print(f"forget bias {forget:.0f}: {grads['c'].mean():.0e} comes back to the first cell")

# %% [markdown]
# <!-- card: gru_cell -->
# ## `gru_cell`
#
# GRU 的一步：两个门，一个候选值，再把新旧两者加权平均。
#
# **为什么重要。** LSTM 能做的，GRU 几乎都能做，还少一个状态；最早的带注意力的翻译模型，就是用 GRU 读句子的。加权平均 (1 - z) n + z h 就是给梯度走的捷径。
#
# ★★★☆☆ · 15 分钟 · 3 分
#
# ```text
# gru_cell(x, h, w_x, w_h, b_x, b_h) -> 新的 h
# x (B, D)，h (B, H)，w_x (D, 3H)，w_h (H, 3H)，b_x 和 b_h (3H,)
# 权重从右边乘，分成三块，每块 H 列，次序同 torch：重置门 r，更新门 z，候选值 n。
#     公式也同 torch：重置门作用在矩阵乘积之后，z = 1 保留旧状态
# ```
#
# <details><summary>提示 1</summary>
#
# 为什么这里有两个偏置，而 lstm_cell 里只有一个？看看 r 放在哪里。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# x @ w_x + b_x 和 h @ w_h + b_h 分开算，各切成三块。r 和 z：把两边相加，再取 sigmoid；n：先把 h 那一边乘以 r，再相加。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# n = torch.tanh(x_n + r * h_n)，其中 h_n 已经含有它的偏置；然后是 (1 - z) * n + z * h。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "62a4d2b3ffe0b6f9986540bede67df11", "grade": false, "grade_id": "gru_cell", "locked": false, "schema_version": 3, "solution": true, "task": false}
def gru_cell(
    x: Tensor, h: Tensor, w_x: Tensor, w_h: Tensor, b_x: Tensor, b_h: Tensor
) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("gru_cell", gru_cell)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "84490c8917e006e1b306f7756720d926", "grade": true, "grade_id": "gru_cell-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("gru_cell", gru_cell, strict=True).passed

# %% [markdown]
# 门是可以学习的开关。只用偏置，把 LSTM 的遗忘门打开，把输入门关上：单元里的一个数，经过 100 步噪声会怎样？再反过来试。

# %%
torch.manual_seed(0)
w_x, w_h = torch.randn(16, 4) / 4, torch.randn(1, 4) / 4
with suppress(NotImplementedError):  # quiet until you have written it
    for name, i, f in (("forget open, input shut", -8.0, 8.0), ("forget shut, input open", 8.0, -8.0)):
        h, c = torch.zeros(1, 1), torch.ones(1, 1)
        for _ in range(100):
            h, c = lstm_cell(torch.randn(1, 16), h, c, w_x, w_h, torch.tensor([i, f, 0.0, 0.0]))
        print(f"{name}: the cell began with 1 and ends with {c.item():.2f}")

# %% [markdown]
# 点了 *Run All*，页面跳到这里，上面却有单元格没有编号？那是运行停在了第一道还没通过的练习；原因写在那道练习的第二个 check 单元格下面。
#
# 全绿了？那么以后由 autograd 替你做的事，你都亲手写过一遍了，门有什么用也清楚了。成绩会汇总成报告：运行 `python -m course homework report`，生成 `build/report.html`，留给你自己看。老师要打分的话，交的是这个笔记本本身。接下来是[最早的注意力](../seq2seq/seq2seq.ipynb)。
