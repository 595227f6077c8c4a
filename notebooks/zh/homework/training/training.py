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
# # 作业 · 训练
#
# 训练一个模型要用到的部件，你都要自己写出来：学习率、损失、Adam 的一步、暂退法（dropout）、检查点的平均。时间 80 分钟，除了 torch，只能靠自己的脑子。先合上[课文](../../07_training.ipynb)。查资料可以，照抄不行：自己写出来的，才是自己的。
#
# `check` 想运行几次都行。它每次换一批新的数来试，指出哪里错了，常常还会说明原因，再给一条对症的提示（三条提示全在题卡下面，卡住时再看）。每道练习的第二个 check 单元格用来打分：用 *Run All*（全部运行）时，一遇到还没通过的练习就停在那里，最后几行写着原因。B 是批次大小，T 是目标句的长度，V 是词表大小。

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from course.homework import check
from course.viz import finish

# %% [markdown]
# <!-- card: paper_learning_rate -->
# ## `paper_learning_rate`
#
# 论文的公式 3：学习率在前 `warmup` 步沿直线上升，然后像 1 / sqrt(step) 那样下降。
#
# **为什么重要。** 没有预热（warm-up），Adam 的头几步就走满步长，而那时的梯度大多是噪声，论文的模型可能根本学不起来。
#
# ★☆☆☆☆ · 10 分钟 · 1 分
#
# ```text
# paper_learning_rate(step, d_model, warmup) -> float
# 训练步从 1 数起，step 1 就是第一步，不会用 step 0 来调用
# ```
#
# <details><summary>提示 1</summary>
#
# 两条曲线，一条上升，一条下降。开头哪一条小？后来哪一条小？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 直线是 step * warmup ** -1.5，曲线是 step ** -0.5：两者在 step = warmup 处相遇，所以用 min 来选。（在第 0 步，曲线成了 0 ** -0.5，Python 算不了，会报错。）
#
# </details>
#
# <details><summary>提示 3</summary>
#
# d_model ** -0.5 * min(..., ...)
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "f4a9120095f7f18f329bc4145e4a479a", "grade": false, "grade_id": "paper_learning_rate", "locked": false, "schema_version": 3, "solution": true, "task": false}
def paper_learning_rate(step: int, d_model: int, warmup: int) -> float:
    raise NotImplementedError  # your code


# %%
check("paper_learning_rate", paper_learning_rate)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "49346e9f6c03d591c29a03f7a3ef6200", "grade": true, "grade_id": "paper_learning_rate-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("paper_learning_rate", paper_learning_rate, strict=True).passed

# %% [markdown]
# 这就是你写的学习率曲线，按论文 base 模型的设置画出。看图之前先想：预热的长度变成四倍，最高点变成几倍？

# %%
steps = range(1, 40_001, 50)
for warmup, line in ((4000, "-"), (16000, "--")):
    rates = [paper_learning_rate(step, 512, warmup) for step in steps]
    plt.plot(steps, rates, line, label=f"warm-up {warmup:,} steps")
plt.xlabel("step")
plt.ylabel("learning rate")
plt.title("Four times the warm-up, half the peak; later, the same curve")
plt.legend()
finish(plt.gcf())

# %% [markdown]
# <!-- card: label_smoothing_loss -->
# ## `label_smoothing_loss`
#
# 对软化过的目标求交叉熵：目标给正确的词 1 - epsilon，此外，再给全部 V 个词各 epsilon / V。
#
# **为什么重要。** 要求模型给出概率 1，它就会自信过头。用了平滑，论文的困惑度变差了，译文却变好了。
#
# ★★★☆☆ · 25 分钟 · 3 分
#
# ```text
# label_smoothing_loss(logits, target, pad_id, epsilon): logits (B, T, V)，target
#     (B, T) -> 标量张量，对批次里所有真正的词元取平均，单位是奈特
# epsilon 摊给全部 V 个词，正确的那个也有份
# target 为 pad_id 的位置不算
# ```
#
# <details><summary>提示 1</summary>
#
# 如果目标不是一个词，而是一个分布 q，一个词元的损失是什么？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# -sum(q * log p) = -(1 - epsilon) * log p[right] - epsilon * mean(log p)，其中 mean 是对 V 个词取平均。log_softmax 给出 log p，gather 取出正确的词的那一个。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# loss = -((1 - epsilon) * right + epsilon * log_p.mean(-1))  # (B, T)；再对 loss[target != pad_id] 求平均。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "5c48be94982914699cbf82a57ebcdcf9", "grade": false, "grade_id": "label_smoothing_loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
def label_smoothing_loss(logits: Tensor, target: Tensor, pad_id: int, epsilon: float) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("label_smoothing_loss", label_smoothing_loss)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "b6f25e244bcdaae2fba8700a4e780089", "grade": true, "grade_id": "label_smoothing_loss-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("label_smoothing_loss", label_smoothing_loss, strict=True).passed

# %% [markdown]
# 设想一个模型，对 8 个词里正确的那个越来越有把握，其余各词的概率都相同。模型越有把握，普通的损失就越低，一直降下去；你写的损失降到某一点又会上升。这一点在哪里？为什么在那里？

# %%
sure = torch.linspace(0.05, 0.9999, 400)  # the probability of the right word
probabilities = ((1 - sure) / 7)[:, None].repeat(1, 8)
probabilities[:, 3] = sure
target = torch.tensor([[3]])
for epsilon, line in ((0.0, "--"), (0.1, "-")):
    losses = [
        label_smoothing_loss(p.log().reshape(1, 1, 8), target, pad_id=0, epsilon=epsilon).item()
        for p in probabilities
    ]
    plt.plot(sure, losses, line, label=f"epsilon {epsilon}")
plt.xlabel("probability of the right word")
plt.ylabel("loss in nats")
plt.title("With epsilon 0.1, being surer than 0.9125 costs more")
plt.legend()
finish(plt.gcf())

# %% [markdown]
# <!-- card: adam_step -->
# ## `adam_step`
#
# Adam 的一步：m 是梯度的滑动平均，v 是梯度平方的滑动平均，用 m 除以 v 的平方根。两者都从 0 开始，所以都要修正。
#
# **为什么重要。** Transformer 几乎都是用 Adam 或者由它改进来的 AdamW 训练的。现在，它的一步怎么走，检查点里必须保存哪些状态，你都一清二楚了。
#
# ★★★☆☆ · 25 分钟 · 3 分
#
# ```text
# adam_step(param, grad, state, lr, betas, eps) -> 新的参数，形状和类型同 param
# grad 的形状和类型同 param
# state 是这个参数的 dict，第一步之前是 {}，放什么由你定，下一步会原样还给你（如
#     果你的函数要求 state 事先备好，也能通过：检查时会替你填上零）
# betas (beta_1, beta_2)。就地修改 param，或者返回 (param, state)，也算对
# ```
#
# <details><summary>提示 1</summary>
#
# 下一次调用需要知道这一次的哪些东西？一共三样，都放进 state。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# m = beta_1 m + (1 - beta_1) g，v = beta_2 v + (1 - beta_2) g²；然后 m 除以 1 - beta_1 ** step，v 除以 1 - beta_2 ** step，其中第一步的编号是 1。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# param - lr * m_hat / (v_hat.sqrt() + eps)，开头用 state.get('m', 0)，最后 state.update(step=step, m=m, v=v)，存的 m 和 v 是还没修正的。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "0f1b76f017880f0eb1d2cfc81cb38b18", "grade": false, "grade_id": "adam_step", "locked": false, "schema_version": 3, "solution": true, "task": false}
def adam_step(
    param: Tensor, grad: Tensor, state: dict, lr: float, betas: tuple[float, float], eps: float
) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("adam_step", adam_step)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "cfa094e65367fa572326f32aa0210406", "grade": true, "grade_id": "adam_step-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("adam_step", adam_step, strict=True).passed

# %% [markdown]
# 让你写的 Adam 在一条窄谷里走走看，$f(x, y) = (x^2 + 100\,y^2) / 2$。它的梯度是 $(x, 100\,y)$：横穿山谷的方向，陡度是沿着山谷方向的一百倍。普通的梯度下降只能按陡的方向选学习率，在另一个方向上就只能慢慢爬。（这里出现 KeyError？说明你的 Adam 要读的名字，空的 state 里还没有。先把它的初值放进 `state`：零张量或 0。）

# %%
def slope(place: Tensor) -> Tensor:
    return place * torch.tensor([1.0, 100.0])


start = torch.tensor([1.0, 0.5])
plain, yours, state = [start], [start], {}
for _ in range(100):
    plain.append(plain[-1] - 0.01 * slope(plain[-1]))
    place = yours[-1].clone()  # a step may change it
    result = adam_step(place, slope(place), state, lr=0.05, betas=(0.9, 0.98), eps=1e-9)
    if isinstance(result, tuple):
        result, state = result
    yours.append(place if result is None else result)
for path, line, name in ((plain, "--", "gradient descent, rate 0.01"), (yours, "-", "your Adam")):
    plt.plot(*torch.stack(path).T, line, marker=".", markersize=4, label=name)
    print(f"{name}: {torch.stack(path)[-1].norm():.3f} from the lowest point after 100 steps")
plt.xlabel("x")
plt.ylabel("y")
plt.title("Adam takes steps of the same size along the valley and across it")
plt.legend()
finish(plt.gcf())

# %% [markdown]
# <!-- card: dropout -->
# ## `dropout`
#
# 反向缩放的暂退法：训练时，每个数各抽一次签，以概率 p 变成 0，其余的都除以 1 - p。不训练时，x 原样返回。
#
# **为什么重要。** 论文在每个子层和嵌入上都用它。只有两行，却有四种写错的可能：没有缩放，缩放错了，评估时也抽签，整行一起抽签。
#
# ★☆☆☆☆ · 10 分钟 · 1 分
#
# ```text
# dropout(x, p, training) -> 形状和类型同 x
# x 的形状任意
# p 不小于 0，小于 1，是一个数变成 0 的概率
# training 是 True 或 False
# ```
#
# <details><summary>提示 1</summary>
#
# 给 x 的每个数抽一个随机数。其中有多大比例小于 p？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# torch.rand_like(x) 在 0 与 1 之间均匀分布。大于或等于 p 的地方保留。这样一来，总和变成原来的 1 - p 倍：用什么来弥补？
#
# </details>
#
# <details><summary>提示 3</summary>
#
# if not training: return x。否则：return x * (torch.rand_like(x) >= p) / (1 - p)。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "bc12d39252af24e5e050190484b3b40b", "grade": false, "grade_id": "dropout", "locked": false, "schema_version": 3, "solution": true, "task": false}
def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("dropout", dropout)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "1658d36057b68569ba949b88f2c1c208", "grade": true, "grade_id": "dropout-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("dropout", dropout, strict=True).passed

# %% [markdown]
# 为什么要除以 1 - p？下一层的一个神经元，把 1,000 个平均值为 1 的数加起来。**先猜**：丢掉一半时，这个和在训练中是多少？在评估中又是多少？

# %%
try:
    for training in (True, False):
        sums = dropout(torch.ones(200, 1000), 0.5, training).sum(1)
        print(f"training {training}: the sum is {sums.mean():.0f}, give or take {sums.std():.0f}")
except NotImplementedError:
    pass  # quiet until you have written it

# %% [markdown]
# <!-- card: average_checkpoints -->
# ## `average_checkpoints`
#
# 把几个检查点的权重按名字一个一个求平均，做法同论文 6.1 节。
#
# **为什么重要。** 论文的结果，都是用 5 个或 20 个检查点的平均得出的。翻译时不用多算一点东西，还抹平了最后几个批次的噪声。
#
# ★☆☆☆☆ · 10 分钟 · 1 分
#
# ```text
# average_checkpoints(states): states 是列表，里面有一个或多个 dict，键是名字，值
#     是张量，各个 dict 的名字和形状都相同 -> 新的 dict，键是名字，值是平均，形状
#     和类型同原来的张量
# states 保持不变
# ```
#
# <details><summary>提示 1</summary>
#
# 三个形状相同的张量，平均怎么算？另外，第一个张量还有谁在用？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 对每个名字，把各个检查点里叫这个名字的张量加到一个新的张量里，最后除以一次 len(states)。写成 total +=，就会把第一个检查点也改掉。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# 对 states[0] 的每个 name：torch.stack([state[name] for state in states]).mean(0)
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "9f6357890031dea032a299eb8591e527", "grade": false, "grade_id": "average_checkpoints", "locked": false, "schema_version": 3, "solution": true, "task": false}
def average_checkpoints(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    raise NotImplementedError  # your code


# %%
check("average_checkpoints", average_checkpoints)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "bd1bf40ad09917af4a0be48cc159c24b", "grade": true, "grade_id": "average_checkpoints-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("average_checkpoints", average_checkpoints, strict=True).passed

# %% [markdown]
# 取平均为什么有用？用数字来看：二十个检查点散布在一个好位置周围，各自被最后几个批次的噪声推偏了。取了平均，离这个位置会近多少？

# %%
good = torch.zeros(1000)
noisy = [{"w": good + torch.randn(1000)} for _ in range(20)]
for count in (1, 5, 20):
    distance = (average_checkpoints(noisy[:count])["w"] - good).norm().item()
    print(f"mean of {count:2} checkpoints: {distance:4.1f} from the good place")

# %% [markdown]
# 点了 *Run All*，页面跳到这里，上面却有单元格没有编号？那是运行停在了第一道还没通过的练习；原因写在那道练习的第二个 check 单元格下面。
#
# 全绿了？那么训练程序里的每一行，你都看得明白了。成绩会汇总成报告：运行 `python -m course homework report`，生成 `build/report.html`，留给你自己看。老师要打分的话，交的是这个笔记本本身。接下来是[解码](../decoding/decoding.ipynb)：训练好的模型怎样写出句子。
