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
# # 03 · 注意力
#
# > 用点积来做软查找：分数要缩放，几个头同时查（论文 3.2 节）。
#
# **学完这一课，你能**
#
# - 说清查询、键、值各是什么，并能用手算出一个注意力输出；
# - 用数字解释论文为什么要除以 $\sqrt{d_k}$；
# - 写出多头注意力，每一步形状都对（选读：证明它与 PyTorch 的结果相等）；
# - 举出一个任务：参数量一样，一个头做不了，两个头就能做；
# - 看懂论文的表 1，并亲手数出运算次数来核对；
# - （选读）不改模型一行代码，就能看到任何模型里各个头关注哪里。
#
# **位置：** 主线，接在第 02 课之后。那一课里，注意力只是 RNN 的帮手；这一课里，它要独自工作。**先修：** 矩阵乘法和梯度（第 01 课），softmax（第 02 课）。
#
# **时间：** 65 分钟；连标有“选读”的部分一起 95 分钟。**论文：** 3.2 节、第 4 节、表 1，以及表 3 的 (A)、(B) 两组。（带小数点的数，如 3.2.1，是论文的节号；1 到 9 是本页的节号。）
#
# **形状**写在代码后面的注释里。B 是批次大小，Q 是查询的个数，K 是键的个数，H 是头数，D 是 $d_{\mathrm{model}}$，Dk 和 Dv 是 $d_k$ 和 $d_v$。（在形状里，Q 和 K 是数；在公式里，$Q, K, V$ 是矩阵。）

# %%
#| export
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# %% [markdown]
# 上面这个单元格会收进库文件 `course/attention.py`；凡是首行写着 `#| export` 的单元格都是这样。下一个单元格只供本页使用。有些单元格以 `# NBVAL_CHECK_OUTPUT` 开头：它们在任何机器上打印的内容都一样，课程的测试会逐一比对。

# %%
import copy
import time

from torch.utils.flop_counter import FlopCounterMode

from course.corpora import captions
from course.device import by_scale, pick
from course.homework import check, compare
from course.viz import bar, show
from course.viz import attention as draw

# %% [markdown]
# ## 1 · 会犹豫的查找
#
# Python 字典只认一模一样的问题：没存过，就没有答案。注意力也是一本字典，但不管问什么，它都给得出答案。要看清这一点，用不着词，也用不着训练，一张图上的四十个点就够了。
#
# 花园里放了一支温度计，放了一整天。有人不定时去看一眼，一共记下四十个读数。下午还下过一场阵雨。我们手里有的就是这些读数，略带一点噪声。**下午四点半，也就是 16.5 时，气温是多少？**

# %%
random = torch.Generator().manual_seed(10)


def garden(hour: Tensor) -> Tensor:
    """The true temperature [°C]: coldest at 3 h, warmest at 15 h, with a shower at 17 h."""
    return 14 - 6 * torch.cos(2 * math.pi * (hour - 3) / 24) - 5 * torch.exp(-((hour - 17) ** 2))


times = (24 * torch.rand(40, generator=random)).sort().values  # (K,) the keys, in hours
temperatures = garden(times) + torch.randn(40, generator=random)  # (K,) the values, in °C

readings = dict(zip(times.tolist(), temperatures.tolist()))
assert len(readings) == 40 and 16.5 not in readings
print("A dictionary of 40 readings has no answer for 16.5 h: nobody read it then.")

# %% [markdown]
# 字典拿问题与每个键比较，结果只有相等或不相等，也就是 1 或 0。现在放宽一点，中间的值也允许。每个读数得到一个**权重**：时间越近，权重越大。权重都是正数，加起来等于一。答案就是温度的**加权平均**：
#
# $$\hat v(q) = \sum_{j=1}^{K} \alpha_j \, v_j , \qquad
# \alpha_j = \frac{\exp(s_j)}{\sum_{i=1}^{K} \exp(s_i)} , \qquad
# s_j = -\frac{(q - k_j)^2}{2\,\sigma^2} .$$
#
# 下面三个名字，从这里一直用到课程结束。问题叫**查询**（query）$q$。每个读数有一个标签，要靠标签才能找到它；这个标签叫做读数的**键**（key）$k_j$。读数给出的内容，叫做**值**（value）$v_j$。$s_j$ 是**分数**（score），表示键与查询有多匹配。中间那个分式是 **softmax**，它把任意一组分数变成权重。宽度 $\sigma$ 决定离多远的读数还算数。
#
# **先猜**：$\sigma$ 几乎为零时，答案会变成什么？$\sigma$ 为 100 小时呢？

# %%
def soft_lookup(
    query: Tensor, keys: Tensor, values: Tensor, width: float
) -> tuple[Tensor, Tensor]:
    scores = -((query[:, None] - keys) ** 2) / (2 * width**2)  # (Q, K)
    weights = scores.softmax(dim=-1)  # (Q, K), every row sums to one
    return weights @ values, weights  # (Q,), (Q, K)


hours = torch.linspace(0, 24, 193)  # (Q,) the queries: every 7.5 minutes
curves = {w: soft_lookup(hours, times, temperatures, w)[0] for w in (0.05, 0.7, 8.0)}
asked = {w: soft_lookup(torch.tensor([16.5]), times, temperatures, w)[1][0] for w in curves}
draw.soft_lookup(times, temperatures, hours, garden(hours), curves, 16.5, asked)

# %% [markdown]
# 宽度极小，就是那本“硬”字典，外加一条规则：没有这个键，就取最近的。宽度极大，就完全不管问的是什么，总是返回全天的平均值。有用的答案在两者之间：几个读数一起投票，近的权重大，噪声也抵消掉一部分。统计学家从 1964 年起就知道这个办法，叫做**核回归**（kernel regression，Nadaraya；Watson）。
#
# 下面用代码写出断言。断言单元格上面那句话要是不成立，单元格就会报错停下。

# %%
# NBVAL_CHECK_OUTPUT
hard = soft_lookup(hours, times, temperatures, 1e-4)[0]
nearest = temperatures[(hours[:, None] - times).abs().argmin(dim=1)]
flat = soft_lookup(hours, times, temperatures, 1e4)[0]
assert torch.allclose(hard, nearest)
assert torch.allclose(flat, temperatures.mean().expand_as(flat), atol=1e-3)

error = {w: (answers - garden(hours)).square().mean().sqrt() for w, answers in curves.items()}
assert error[0.7] < 0.8 * error[0.05] and error[0.7] < 0.5 * error[8.0]
print("almost zero: the nearest reading. Very wide: the mean of all. Best of the three: between.")

# %% [markdown]
# ### 从距离到点积
#
# 说到这里，论文的点积（dot product）还没有出现。再看看时间：23.9 时和 0.1 时其实挨得很近，可是按上面的距离来算，却差得很远。有个老办法：看钟面。把每个时刻放到圆周上，写成长度为一的向量：$k = (\cos\varphi,\ \sin\varphi)$，其中 $\varphi = 2\pi \cdot \text{hour} / 24$。这时，两个向量之间的距离可以这样展开：
#
# $$-\frac{1}{2} \left| q - k_j \right|^2
# = q \cdot k_j - \frac{1}{2} |q|^2 - \frac{1}{2} |k_j|^2 .$$
#
# $|q|^2$ 这一项对所有的键都一样；$|k_j|^2$ 也一样，因为键的长度都是一。给所有分数加上同一个数，softmax 的结果不变。所以这两项都可以去掉，**只剩下点积**：点积大，就是离得近。

# %%
def on_clock(hour: Tensor) -> Tensor:
    angle = 2 * math.pi * hour / 24
    return torch.stack([angle.cos(), angle.sin()], dim=-1)  # (..., 2)


query, keys = on_clock(hours), on_clock(times)  # (Q, 2), (K, 2)
sharpness = 30.0
by_distance = (-sharpness * torch.cdist(query, keys) ** 2 / 2).softmax(dim=-1)
by_dot_product = (sharpness * query @ keys.T).softmax(dim=-1)
assert torch.allclose(by_distance, by_dot_product, atol=1e-4)

line_weights = soft_lookup(torch.tensor([23.9]), times, temperatures, 0.7)[1][0]
clock_weights = (sharpness * on_clock(torch.tensor([23.9])) @ keys.T).softmax(dim=-1)[0]
assert line_weights[times < 2].sum() < 1e-6 < 0.5 < clock_weights[times < 2].sum()
print(f"asked at 23.9 h, the readings after midnight weigh {clock_weights[times < 2].sum():.2f}"
      " on the clock, and nothing on the line")

# %% [markdown]
# 这一节要记住两点。
#
# 1. 注意力是**值的加权平均**。权重取决于查询与每个键有多匹配。
# 2. **分数的大小**决定查找有多犹豫。分数大，一个键独占全部权重；分数小，所有的键一样重要。在这里，控制分数大小的是 `sharpness`；论文里也有这样一个数，而且处理得格外小心，第 3 节会讲到。
#
# > **试一试。** 把 `sharpness` 设成 0.1，再设成 3000，以 `hours` 为横轴画出 `by_dot_product @ temperatures`。画出来的，是第一张图里的哪两条曲线？（最后一个 assert 两次都会失败。为什么？）
#
# <details><summary>答案</summary>
#
# 设成 0.1，就是宽度极大的那种查找：曲线始终在 13.8 到 14.4 °C 之间，接近总平均 14.1。设成 3000，就是宽度极小的那种：几乎在每个时刻都取最近的读数。那个 assert 说的是：在 23.9 时提问，午夜之后的读数合起来占一半以上的权重。设成 0.1，这些读数在全部读数里占多少，权重也只占多少；设成 3000，最近的一个读数独占全部权重，而那个读数是午夜之前读的。
#
# </details>

# %% [markdown]
# ## 2 · 查询、键、值：为什么要三个名字？
#
# 在花园里，键和值显然不是一回事：一个是时间，一个是温度。可是在句子里，三样东西都来自词，三个名字看上去就像故弄玄虚。其实它们是三个**角色**：
#
# | 角色 | 在字典里 | 在花园里 | 在句子里 |
# |---|---|---|---|
# | 查询 | 你要查的词 | 你问的时刻 | 这个词想找什么 |
# | 键 | 词条的词头 | 读数的时刻 | 靠什么找到那个词 |
# | 值 | 词条的释义 | 温度 | 找到之后，那个词告诉你什么 |
#
# 在“three dogs **are** playing”里，are 要找自己的主语（查询）。dogs 可以凭“名词，复数”找到（键）。找到之后，它给出的也许只是“复数”（值）。一个词要找的，和它能提供的，不是一回事。所以每个角色各有自己的向量，都由词的向量 $x$ 乘以一个可学习的矩阵得到：$q = xW^Q$，$k = xW^K$，$v = xW^V$。
#
# 如果省掉一个矩阵，让查询和键相同，即 $W^Q = W^K$，会怎样？**先猜**：每个词最关注的会是哪个词？（把猜测写在 `None` 的位置，不打分；`compare` 会把它和测得的结果放在一起。）

# %%
mine = None  # "itself", "the next one" or "any"

# %%
# NBVAL_CHECK_OUTPUT
random = torch.Generator().manual_seed(0)
x = torch.randn(200, 12, 64, generator=random)  # 200 sentences of 12 words
w_q, w_k = torch.randn(2, 64, 64, generator=random)


def share_on_itself(query: Tensor, key: Tensor) -> float:
    scores = query @ key.mT  # (200, 12, 12); .mT exchanges the last two axes
    return (scores.argmax(dim=-1) == torch.arange(12)).float().mean().item()


tied = (x @ w_q) @ (x @ w_q).mT
assert torch.allclose(tied, tied.mT, rtol=1e-3, atol=1e-2)  # symmetric
assert share_on_itself(x @ w_q, x @ w_q) > 0.99
assert share_on_itself(x @ w_q, x @ w_k) < 0.2
print("one matrix for both: every word mostly finds itself; two matrices: it may find any word")

# %%
compare(mine, "itself", "03: whom a word finds with one matrix for query and key")

# %% [markdown]
# 只用一个矩阵，分数就是对称的：are 找 dogs，dogs 也必须同样卖力地找 are。而且，一个词与自己算出的分数，就是长度的平方；向量如果是随机的，这个分数几乎比其他所有分数都大。想找**别的**词，就得用两个矩阵。
#
# > **试一试。** 设 `w_k = -w_q`。现在每个词躲着谁？
#
# <details><summary>答案</summary>
#
# 躲着自己。2,400 行里，每一行最小的分数都在对角线上：它等于 $-|q|^2$，是唯一一个必定为负的分数。
#
# </details>

# %% [markdown]
# ## 3 · 点积有多大？
#
# 第 1 节说过，一切取决于分数的大小。所以在用点积之前，应该先问它有多大。设查询和键的 $d_k$ 个分量相互独立，均值为 0，方差（variance）为 1。（这里说的是训练**开始**时的情形，那时大致成立：第 05 课就是这样初始化矩阵的。训练之后，查询和键就不一定如此了。）这时每个乘积 $q_i k_i$ 的均值也是 0，方差也是 1，而点积把 $d_k$ 个这样的乘积加起来：
#
# $$\operatorname{Var}(q \cdot k) = \sum_{i=1}^{d_k} \operatorname{Var}(q_i k_i) = d_k ,
# \qquad \text{so a typical score is } \pm\sqrt{d_k} .$$
#
# 这就是论文 3.2.1 节的脚注。先测一测，再相信它。

# %%
random = torch.Generator().manual_seed(1)
sizes = [4, 16, 64, 256, 1024]


def random_scores(d_k: int, n_keys: int = 16, trials: int = 1000) -> Tensor:
    """Scores of one random query with random keys, as they are: (trials, n_keys)."""
    query = torch.randn(trials, 1, d_k, generator=random)
    key = torch.randn(trials, n_keys, d_k, generator=random)
    return (query @ key.mT).squeeze(1)


ratios = {d_k: random_scores(d_k).var().item() / d_k for d_k in sizes}
assert all(0.85 < ratio < 1.15 for ratio in ratios.values())
print("variance over d_k:", {d_k: round(ratio, 2) for d_k, ratio in ratios.items()})

# %% [markdown]
# 现在把这样的分数送进 softmax。这里什么也没学过，查询和键都是随机的。好的查找不该偏向谁，16 个键应该各得 1/16 左右。
#
# **先猜**：论文用的是 $d_k = 64$。这时，16 个随机的键里运气最好的那个会拿到多少权重？

# %%
mine = None  # 0 to 1

# %%
treatments = {"as it is": lambda d_k: 1.0, r"over $\sqrt{d_k}$": lambda d_k: math.sqrt(d_k)}
profiles, shares = {}, {}
for name, divisor in treatments.items():
    weights = {d_k: (random_scores(d_k) / divisor(d_k)).softmax(dim=-1) for d_k in sizes}
    ranked = {d_k: w.sort(descending=True).values.mean(dim=0) for d_k, w in weights.items()}
    profiles[name] = {d_k: ranked[d_k] for d_k in (4, 64, 1024)}
    shares[name] = [(w * (1 - w)).mean().item() for w in weights.values()]
draw.saturation(profiles, shares, sizes)

# %% [markdown]
# 不缩放，查找的结果就由 $d_k$ 自己定了：分量越多，选择越“硬”，而模型其实什么都还没学。除以 $\sqrt{d_k}$ 之后，三条曲线重合：向量的宽度不再起作用。
#
# ### 一开始就选得很“硬”，有什么不好？
#
# 不好在很难再**改过来**。设 $p = \operatorname{softmax}(s)$，它的导数是
#
# $$\frac{\partial p_i}{\partial s_j} = p_i \left( \delta_{ij} - p_j \right) ,
# \qquad \text{so} \qquad \frac{\partial p_i}{\partial s_i} = p_i \, (1 - p_i) .$$
#
# （$\delta_{ij}$ 在 $i = j$ 时为 1，否则为 0。）只要权重接近 0 或接近 1，乘积 $p\,(1-p)$ 就接近 0，梯度传不过来。第三幅图画的是这个乘积的平均值：不缩放，它随 $d_k$ 增大而下降；缩放之后，它保持不变。

# %%
# NBVAL_CHECK_OUTPUT
scores = torch.randn(6, dtype=torch.float64, generator=random)
p = scores.softmax(dim=-1)
slopes = torch.autograd.functional.jacobian(lambda s: s.softmax(dim=-1), scores)  # all 6 x 6
assert torch.allclose(slopes, torch.diag(p) - torch.outer(p, p))

plain, over = profiles.values()
assert plain[64][0] > 0.75 and plain[1024][0] > 0.9
assert (over[1024] - over[4]).abs().max() < 0.03
assert shares[r"over $\sqrt{d_k}$"][-1] > 10 * shares["as it is"][-1]
print("at d_k = 64 the luckiest of 16 random keys holds over three quarters of the weight;")
print("at d_k = 1024 the scale keeps more than ten times the gradient")

# %%
compare(mine, plain[64][0].item(), "03: weight of the luckiest of 16 random keys")

# %% [markdown]
# 论文猜测会出现“extremely small gradients”（极小的梯度），说的就是这件事，所以才除以 $\sqrt{d_k}$。这样做，不是要注意力永远软下去，只是让它**开始**时不抱成见。训练可以让查询和键变大，哪里需要，哪里的查找就会变得尖锐。（3.2.1 节还说，$d_k$ 大时，第 02 课的加性注意力胜过不缩放的点积。之所以仍用点积，是因为矩阵乘法快得多。）
#
# > **试一试。** 在 `treatments` 里，把除数从 $\sqrt{d_k}$ 换成 $d_k$。$d_k = 1024$ 时，每个键得到多少权重？这相当于本课第一张图的哪一端？（上面有一个 assert 会失败。是哪一个？为什么说它失败才对？）
#
# <details><summary>答案</summary>
#
# 每个键约得 $1/16 = 0.06$（0.059 到 0.066）：这就是第一张图里宽度极大的那种查找，返回总平均。`(over[1024] - over[4]).abs().max() < 0.03` 会失败，因为运气最好的键在 $d_k = 4$ 时占 0.135，在 1024 时占 0.066。失败才对：除以 $d_k$，结果又取决于向量的宽度了，只不过这次是越宽越软。
#
# </details>

# %% [markdown]
# **为什么**会这样，你也明白了吗？`check("why_scale")` 会给出一道题，用字母作答：`check("why_scale", "b")`。每个错误选项都有专门的解释。（选项的次序因人而异。）

# %%
check("why_scale")

# %%
check("scale_by_d_k")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 选得太“硬”，要多花多少步 · 选读
#
# 一次查找要改变主意，梯度下降得走多少步？缩放与不缩放，差别有多大？你要是不信梯度小有那么糟，就往下看。

# %% [markdown]
# 你也许会反驳：分类器的末尾也是 softmax，答错了照样学得很好。没错：用交叉熵损失时，分数的梯度是 $p - y$，答错时它很大。可是没有谁告诉注意力哪个词才是对的。它的梯度只能穿过“对值取平均”这一步传回来，而那里始终有因子 $p\,(1-p)$。
#
# 代价有多大？设有两个键。权重应该归第二个，可是第一个在开始时分数领先 `gap`。我们沿着损失 $(1-p)^2$ 的负梯度方向走，数一数走多少步 $p$ 才超过二分之一。

# %%
def steps_to_change_its_mind(gap: float, push: float = 1.0) -> int:
    """Count gradient steps of size `push` until the right one of two keys has half the weight."""
    right, wrong, steps = 0.0, gap, 0
    while (p := 1 / (1 + math.exp(wrong - right))) < 0.5:
        slope = 2 * (1 - p) * p * (1 - p)  # minus the derivative of (1 - p)² for `right`
        right, wrong, steps = right + push * slope, wrong - push * slope, steps + 1
    return steps


# %% [markdown]
# 两个随机的键，不缩放时分数大约相差 $\sqrt{2 d_k}$，缩放后大约相差 $\sqrt{2}$。$d_k = 64$ 时，不缩放领先 11.3；缩放后只领先 1.4，走几步就够了。**先猜**：不缩放要走多少步？

# %%
mine = None  # a number of steps

# %%
# NBVAL_CHECK_OUTPUT
for gap in (2, 4, 6, 8, 10):
    print(f"lead of {gap:2}: {steps_to_change_its_mind(gap):5} steps")
unscaled = steps_to_change_its_mind(math.sqrt(2 * 64))
by_query = steps_to_change_its_mind(math.sqrt(2 * 64), push=64)
scaled = steps_to_change_its_mind(math.sqrt(2))
assert unscaled > 1000 * scaled and by_query > 100 * scaled
print(f"typical lead at d_k = 64: {unscaled} steps without the scale, {scaled} with it")
print(f"without the scale, but with steps 64 times as large: {by_query}")

# %%
compare(mine, unscaled, "03: steps to change a mind without the scale")

# %% [markdown]
# 领先很多时，每再多领先两分，步数大约就变成七倍，因为 $e^2 \approx 7.4$。
#
# 不过，这里移动的是分数本身；在网络里，移动的是查询。不缩放时，查询的梯度是斜率乘以 $k$，所以分数的移动量是斜率的 $k \cdot k$ 倍，也就是大约 $d_k = 64$ 倍。缩放之后，两个因子都要除以 $\sqrt{d_k}$，就只剩斜率乘以 1。步子大确实有帮助（最后一行），但步数仍是缩放时的一百多倍。

# %% [markdown]
# ## 4 · 公式 1：手算与代码
#
# 把查询一行一行叠成矩阵 $Q$，键叠成 $K$ 的各行，值叠成 $V$ 的各行。这样一行就写完了（论文的公式 1）：
#
# $$\operatorname{Attention}(Q, K, V)
# = \operatorname{softmax}\left( \frac{Q K^{T}}{\sqrt{d_k}} \right) V$$
#
# 从里往外读。$QK^T$ 就是所有的点积，每个查询占一行。接着做除法。softmax 对**每一行**单独计算。最后乘以 $V$，就是加权平均。
#
# 取三个词，$d_k = 2$，用计算器算出最后一行。这一行的词是 barks，它的查询是 $(2, 1)$：
#
# | | the | dog | barks |
# |---|---|---|---|
# | 键 | $(0, 0)$ | $(1, 1)$ | $(1, -1)$ |
# | $q \cdot k$ | $2(0) + 1(0) = 0$ | $2(1) + 1(1) = 3$ | $2(1) + 1(-1) = 1$ |
# | 除以 $\sqrt{2} = 1.414$ | 0 | 2.121 | 0.707 |
# | $\exp$ | 1 | 8.342 | 2.028 |
# | 权重：除以总和 11.370 | 0.088 | 0.734 | 0.178 |
# | 值 | $(0, 0)$ | $(10, 0)$ | $(0, 10)$ |
#
# 输出是 $0.088 \cdot (0,0) + 0.734 \cdot (10,0) + 0.178 \cdot (0,10) = (7.34,\ 1.78)$。barks 看了一遍整个句子，带回来的主要是 dog。三行一起算，就是这样：

# %%
names = ["the", "dog", "barks"]
query = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])  # (3, 2)
key = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, -1.0]])  # (3, 2)
value = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])  # (3, 2)
scores = query @ key.T  # (3, 3)
weights = (scores / math.sqrt(2)).softmax(dim=-1)  # (3, 3)
output = weights @ value  # (3, 2)
steps = [("Q", query), ("K", key), ("Q Kᵀ", scores), ("weights", weights), ("V", value),
         ("output", output)]
draw.worked_example(names, steps, ("Q Kᵀ", "weights"),
                    "Each row asks once: the third row is the one computed by hand")

# %%
# NBVAL_CHECK_OUTPUT
by_hand = torch.tensor([7.34, 1.78])
assert torch.allclose(output[2], by_hand, atol=0.005)
assert torch.allclose(weights.sum(dim=-1), torch.ones(3))
print("barks:", [round(number, 2) for number in output[2].tolist()])

# %% [markdown]
# 现在把这个公式写成库函数。函数还接受一个**掩码**（mask）。
#
# ### 掩码是什么
#
# 有时候，查询不该看到某个键：这个键只是短句末尾的填充，或者是还没有写出来的词。掩码是一个由 `True` 和 `False` 组成的矩阵，每对查询和键各占一格。在这门课和 `F.scaled_dot_product_attention` 里，**True 表示“可以关注”**。被禁止的那一对，分数改成 $-\infty$；由于 $\exp(-\infty) = 0$，它得不到权重。
#
# 为什么让 True 表示“可以”？因为这样一来，几个条件合起来最顺手：“是真正的词，**并且**不在未来”就写成 `real & past`。（`nn.MultiheadAttention` 的含义正好相反，第 6 节会遇到。）
#
# 掩码的**维数与分数相同**，每一维的大小或者与分数一样，或者是 1；1 表示“对全部都一样”。如果维数少了，PyTorch 会从右边对齐，把一张（句子，键）的表当成（查询，键）来读；要是大小碰巧合得上，连错也不报。所以库函数干脆不接受这样的掩码。

# %% [markdown]
# **轮到你了**，先别看我们的答案。写出带掩码的公式 1，运行这个单元格，`check` 会告诉你哪里对、哪里理解错了。不写也行，它会说“not written yet”（还没写），后面照样用课程自己的版本。

# %%
def my_attention(query, key, value, mask=None):
    """query (..., Q, Dk), key (..., K, Dk), value (..., K, Dv), mask True = may attend,
    -> (output (..., Q, Dv), weights (..., Q, K)); who may see nothing gets zeros."""
    raise NotImplementedError


check("scaled_dot_product_attention", my_attention)

# %% [markdown]
# 下面是我们的写法。后面还要单独看权重，所以从中间断开，分成两个函数：

# %%
#| export
def _check_mask(mask: Tensor, n_dims: int) -> None:
    """Refuse a mask that would be added instead of applied, or would act along a wrong axis."""
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask is {mask.dtype}: make it boolean, True = may attend")
    if mask.dim() != n_dims:
        wanted = {2: "(Q, K)", 3: "(B, Q, K)", 4: "(B, H, Q, K)"}.get(n_dims, "(..., Q, K)")
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}: give it {n_dims} dimensions, as the scores "
            f"have, {wanted} with a 1 for each that it does not depend on"
        )


# %%
#| export
def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return how much each query attends to each key; every row sums to one.

    query (..., Q, Dk), key (..., K, Dk) -> (..., Q, K). mask: boolean, True = may attend, with as
    many dimensions as the result, each of its size or 1. A query that may attend to nothing gets
    a row of zeros. Raises TypeError for a mask that is not boolean, ValueError for one with more
    or fewer dimensions: it would act along a wrong axis. Paper, section 3.2.1.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))  # (..., Q, K)
    if mask is None:
        return scores.softmax(dim=-1)
    _check_mask(mask, scores.dim())
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)  # an all-False row would be NaN


# %%
#| export
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the weighted mean of the values for each query, and the weights.

    query (..., Q, Dk), key (..., K, Dk), value (..., K, Dv), mask as in `attention_weights`
    -> output (..., Q, Dv), weights (..., Q, K). Paper, equation 1.
    """
    weights = attention_weights(query, key, mask)
    return weights @ value, weights


# %% [markdown]
# （`attention_weights` 的最后一行，照顾的是一个键都看不到的查询。它的权重全是零：什么都看不到，输出也就是零。别的实现在这里怎么做，见第 04 课。）
#
# 两行公式，两个函数。写对了吗？PyTorch 里有同样的函数，叫 `F.scaled_dot_product_attention`。它的快速版本从不把整个权重矩阵算出来，所以也没法给你看。我们用双精度和一个随机的掩码，比较两者的输出和梯度。

# %%
# NBVAL_CHECK_OUTPUT
random = torch.Generator().manual_seed(2)
shapes = {"query": (2, 4, 5, 8), "key": (2, 4, 7, 8), "value": (2, 4, 7, 3)}
made = [torch.randn(s, generator=random, dtype=torch.float64) for s in shapes.values()]
ours = [t.clone().requires_grad_() for t in made]
theirs = [t.clone().requires_grad_() for t in made]
mask = torch.rand(2, 1, 5, 7, generator=random) < 0.6  # (B, 1, Q, K): the same for every head
mask[..., 0] = True  # every query may see at least one key

output, weights = scaled_dot_product_attention(*ours, mask)
expected = F.scaled_dot_product_attention(*theirs, attn_mask=mask)
output.square().sum().backward()
expected.square().sum().backward()
assert torch.allclose(output, expected, atol=1e-12)
assert all(torch.allclose(a.grad, b.grad, atol=1e-10) for a, b in zip(ours, theirs))
assert (weights.sum(dim=-1) - 1).abs().max() < 1e-12 and not weights[~mask.expand_as(weights)].any()
print("equal to PyTorch's, forward and backward:", tuple(output.shape), tuple(weights.shape))

# %% [markdown]
# > **试一试。** softmax 的轴取错，是最常见的错误：在上面手算的例子里，把 `dim=-1` 改成 `dim=-2`。哪个 assert 会发现它？光看形状能发现吗？
#
# <details><summary>答案</summary>
#
# 第一个 assert 会发现，即 `torch.allclose(output[2], by_hand)`：最后一行变成了 (6.73, 4.46)。第二个也能发现：各行的和是 0.61、0.94 和 1.45；现在是每一**列**加起来等于一。光看形状看不出来：查询和键都是三个，两种写法形状一样。
#
# </details>

# %%
check("mask_before_softmax")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### PyTorch 函数的一个陷阱 · 选读
#
# 如果你打算自己调用 `F.scaled_dot_product_attention`，就读一读这一段。（另有两个陷阱留到第 04 课：由 0.0 和 1.0 组成的掩码，以及 `is_causal`。）

# %% [markdown]
# 第 02 课讲过的**暂退法**（dropout），是在训练时随机把一些数置零，用在这里，置零的是**注意力权重**；`model.eval()` 会把它关掉。**先猜**：它也会关掉 `dropout_p` 吗？

# %%
# NBVAL_CHECK_OUTPUT
sdpa = F.scaled_dot_product_attention
query, key, value = (torch.randn(1, n, 4) for n in (2, 5, 5))
assert not torch.allclose(sdpa(query, key, value, dropout_p=0.5), sdpa(query, key, value))
print("dropout_p drops always: the function cannot know that you are in eval mode")

# %% [markdown]
# ## 5 · Q、K、V 从哪里来？
#
# 公式 1 没有说。Transformer 有三个地方用到这个公式（3.2.3 节），区别只在两点：Q、K、V 从哪里来，用什么掩码。
#
# | 位置 | 查询来自 | 键和值来自 | 掩码 | 权重 |
# |---|---|---|---|---|
# | 编码器自注意力 | 源句 | 源句 | 填充 | S x S |
# | 解码器自注意力 | 已写出的目标句 | 已写出的目标句 | 填充，不看未来 | T x T |
# | 交叉注意力 | 已写出的目标句 | 编码器的输出 | 源句的填充 | T x S |
#
# **自注意力**（self-attention）：同一个句子里的词互相看。**交叉注意力**（cross-attention）：每写一个英语词，都要看一看德语句子；第 02 课做的就是这件事。键和值总是来自同一个地方：找到的是谁，就该由谁来回答。查询可以来自任何地方，而且**有多少个查询，就有多少个输出**。
#
# 现在问一个问题，答案出人意料。“The dog chases the man”（狗追人）与“the man chases the dog”（人追狗）：自注意力让每个词与其他所有词交换信息。**先猜**：做完自注意力，dog 的向量在两个句子里相同吗？

# %%
mine = None  # "the same" or "different"

# %%
# NBVAL_CHECK_OUTPUT
random = torch.Generator().manual_seed(4)
table = {word: torch.randn(16, generator=random) for word in ("the", "dog", "chases", "man")}
places = torch.randn(5, 16, generator=random)  # one vector for each place in the sentence
one, other = "the dog chases the man", "the man chases the dog"


def dog_after_attention(sentence: str, with_places: bool) -> Tensor:
    words = sentence.split()
    x = torch.stack([table[word] for word in words])  # (5, 16)
    if with_places:
        x = x + places
    return scaled_dot_product_attention(x, x, x)[0][words.index("dog")]


for with_places in (False, True):
    gap = (dog_after_attention(one, with_places) - dog_after_attention(other, with_places)).abs()
    assert gap.max() > 0.1 if with_places else gap.max() < 1e-5
print("dog is the same in both sentences; with a vector added for each place, it is not")

# %%
compare(mine, "the same", "03: 'dog' in two sentences")

# %% [markdown]
# 注意力看到的是词的**集合**，不是序列。把输入打乱，输出只是以同样的方式打乱，别无变化：这叫**置换等变**（permutation equivariant）。写成公式，对任意置换矩阵 $P$，
#
# $$\operatorname{Attention}(PX, PX, PX) = P \, \operatorname{Attention}(X, X, X) .$$
#
# （这里略去了 $W^Q, W^K, W^V$。它们对每个词单独作用，在每个位置作用都一样，所以也不可能把次序找回来。）
#
# 从一个查询的角度看：把键连同它们的值一起打乱，结果完全不变。加权平均无论按什么次序相加，结果都一样。所以 Transformer 必须给输入加上位置（第 05 课），而 RNN 用不着。

# %%
# NBVAL_CHECK_OUTPUT
x = torch.randn(2, 9, 16, dtype=torch.float64, generator=random)
order = torch.randperm(9, generator=random)
mixed = x[:, order]
straight, _ = scaled_dot_product_attention(x, x, x)
permuted, _ = scaled_dot_product_attention(mixed, mixed, mixed)
same_query, _ = scaled_dot_product_attention(x, mixed, mixed)
assert torch.allclose(permuted, straight[:, order], atol=1e-12)
assert torch.allclose(same_query, straight, atol=1e-12)
assert not torch.allclose(permuted, straight, atol=1e-2)
print("input permuted, output permuted; keys and values permuted, output unchanged")

# %%
check("self_attention_is")

# %% [markdown]
# ## 6 · 多个头
#
# **问题：** 一次查找只返回一个平均值。要是一个词同时需要两样东西呢？
#
# 在“three dogs are playing”里，are 可能既需要主语，**又**需要分词 playing。只有一个注意力，就只能把权重分给这两个词，返回它们的平均。而一取平均，信息就丢了：10 与 0 的平均是 5，0 与 10 的平均也是 5。如果两个词把信息写在同样的分量里，后面无论哪一层，都分不清哪个数来自哪个词。
#
# 论文的办法（3.2.2 节）：并行地查 $h$ 次，每次用另一组较小的投影（projection），再把结果并排放好：
#
# $$\begin{aligned}
# \operatorname{MultiHead}(Q, K, V)
# &= \operatorname{Concat}(\mathrm{head}_1, \ldots, \mathrm{head}_h) \, W^O \\
# \mathrm{head}_i &= \operatorname{Attention}(Q W_i^Q,\; K W_i^K,\; V W_i^V)
# \end{aligned}$$
#
# **注意，字母的意思在这里变了。** 在公式 1 里，$Q$ 装的是现成的查询。在这里，$Q, K, V$ 是**送进**这一层的东西（自注意力里三者是同一个 $X$），$Q W_i^Q$ 才是第 $i$ 个头的查询。下面的代码也一样：进来的叫 `query`，真正提问的是 `self.split_heads(self.w_q(query))`。
#
# $W_i^Q$ 和 $W_i^K$ 是 $d_{\mathrm{model}} \times d_k$ 的矩阵，$W_i^V$ 是 $d_{\mathrm{model}} \times d_v$，$W^O$ 是 $h d_v \times d_{\mathrm{model}}$。为什么要有 $W^O$？拼接（Concat）之后，每个头各占一段列。$W^O$ 把各段混合起来，让每个头都能写到每个分量；当 $h d_v \ne d_{\mathrm{model}}$ 时，它还把宽度变回 $d_{\mathrm{model}}$。
#
# 每个头都很窄：$d_k = d_v = d_{\mathrm{model}} / h$，base 模型里是 $512 / 8 = 64$。所以 $h$ 个头的乘法次数，与一个宽的头一样多。计算量一点没有增加，只是把同样的宽度分给几次查找来用。
#
# ### 八个矩阵合成一个，结果怎样切开
#
# $h$ 个小矩阵 $W_i^Q$ 并排放在一个大矩阵里，这样只乘一次，就得到所有头的查询。结果有 $h \cdot d_k$ 列：前 $d_k$ 列属于第 1 个头，接下来的属于第 2 个头，依此类推。现在要让每个头自成一个矩阵，从 (L, H·Dk) 变成 (H, L, Dk)。下面是一个三个词的句子，两个头，$d_k = 2$；每个数表示它原来排在哪里。**先猜**：`x.view(2, 3, 2)` 行吗？它的形状是对的。

# %%
mine = None  # "yes" or "no"

# %%
x = torch.arange(12).view(3, 4)  # (L, H * Dk)
split = x.unflatten(-1, (2, -1)).transpose(0, 1)  # (L, H, Dk), then (H, L, Dk)
viewed = x.view(2, 3, 2)  # the right shape, the wrong numbers
draw.split_heads(x, split, viewed)

# %% [markdown]
# `view` 一行一行地填新形状，所以它的“第 1 个头”装着词 1 的全部和词 2 的一半。程序不报错，网络甚至还能训练，只是差一些。检查形状，找不到这个错误；检查含义，就能找到：**第 $i$ 个头在第 $t$ 个词处的内容，只能取决于第 $t$ 个词。**

# %%
# NBVAL_CHECK_OUTPUT
assert split.shape == viewed.shape == (2, 3, 2)
assert split[0].tolist() == [[0, 1], [4, 5], [8, 9]]  # columns 1 and 2 of every word
assert viewed[0].tolist() == [[0, 1], [2, 3], [4, 5]]  # word 1, and half of word 2
assert torch.equal(split.transpose(0, 1).flatten(-2), x)  # and back
print("split, head 1:", split[0].tolist(), " view, head 1:", viewed[0].tolist())

# %%
compare(mine, "no", "03: does view cut the heads?")

# %% [markdown]
# **轮到你了**，一共三次：切开，合回去，再写出整个层（最后一个要留出半小时）。

# %%
def my_split_heads(x, n_heads):
    """x (B, L, D) -> (B, H, L, D / H)."""
    raise NotImplementedError


def my_merge_heads(x):
    """x (B, H, L, Dv) -> (B, L, H * Dv)."""
    raise NotImplementedError


check("split_heads", my_split_heads)

# %%
check("merge_heads", my_merge_heads)

# %%
class MyMultiHeadAttention(nn.Module):
    """With w_q, w_k, w_v, w_o, each nn.Linear(d_model, d_model); called
    (query (B, Q, D), key (B, K, D), value (B, K, D), mask=None) -> (B, Q, D)."""

    def __init__(self, d_model, n_heads):
        super().__init__()
        raise NotImplementedError


check("MultiHeadAttention", MyMultiHeadAttention)

# %% [markdown]
# 下面是课程自己的类。`forward` 用 PyTorch 的快速函数；那个函数不给看权重，由 `weights` 另外算出来。没有偏置，因为论文的公式里也没有。

# %%
#| export
class MultiHeadAttention(nn.Module):
    """Attend `n_heads` times in parallel, each head in a subspace of its own.

    Called (query, key, value, mask=None) with query (B, Q, D), key and value (B, K, D), mask
    boolean, True = may attend, of four dimensions, each that of (B, H, Q, K) or 1 -> (B, Q, D).
    `d_k` and `d_v` are d_model / n_heads unless given. Raises ValueError if that division leaves
    a remainder, or for a mask of another number of dimensions; TypeError for a mask that is not
    boolean. Paper, section 3.2.2; without biases, as its equation has none.
    """

    def __init__(
        self, d_model: int, n_heads: int, d_k: int | None = None, d_v: int | None = None
    ) -> None:
        super().__init__()
        if (d_k is None or d_v is None) and d_model % n_heads:
            raise ValueError(
                f"d_model={d_model} does not divide into n_heads={n_heads}: "
                "choose a divisor, or give d_k and d_v"
            )
        self.n_heads = n_heads
        d_k, d_v = d_k or d_model // n_heads, d_v or d_model // n_heads
        self.w_q = nn.Linear(d_model, n_heads * d_k, bias=False)
        self.w_k = nn.Linear(d_model, n_heads * d_k, bias=False)
        self.w_v = nn.Linear(d_model, n_heads * d_v, bias=False)
        self.w_o = nn.Linear(n_heads * d_v, d_model, bias=False)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, L, H*Dk) -> (B, H, L, Dk)

    def merge_heads(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(-2)  # (B, H, L, Dv) -> (B, L, H*Dv)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        if mask is not None:
            _check_mask(mask, 4)
        query = self.split_heads(self.w_q(query))  # (B, H, Q, Dk)
        key = self.split_heads(self.w_k(key))  # (B, H, K, Dk)
        value = self.split_heads(self.w_v(value))  # (B, H, K, Dv)
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.w_o(self.merge_heads(heads))  # (B, Q, D)

    def weights(
        self, query: Tensor, key: Tensor, value: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` keeps to itself: the attention weights, (B, H, Q, K)."""
        query, key = self.split_heads(self.w_q(query)), self.split_heads(self.w_k(key))
        return attention_weights(query, key, mask)


# %% [markdown]
# 跟着形状走一遍，尺寸取论文的 base 模型：两个句子，英语 5 个词，德语 7 个词，每个英语词都要看所有的德语词。**先猜**：运行之前，先写下 `forward` 每一行之后的形状。

# %%
# NBVAL_CHECK_OUTPUT
layer = MultiHeadAttention(d_model=512, n_heads=8)
english, german = torch.randn(2, 5, 512), torch.randn(2, 7, 512)
query = layer.split_heads(layer.w_q(english))
key, value = layer.split_heads(layer.w_k(german)), layer.split_heads(layer.w_v(german))
heads, weights = scaled_dot_product_attention(query, key, value)
merged = layer.merge_heads(heads)
table = {"english": english, "w_q(english)": layer.w_q(english), "split: query": query,
         "split: key": key, "weights": weights, "heads": heads, "merged": merged,
         "w_o(merged)": layer.w_o(merged)}
for name, tensor in table.items():
    print(f"{name:14} {tuple(tensor.shape)}")
assert torch.allclose(layer.w_o(merged), layer(english, german, german), atol=1e-5)
assert torch.allclose(weights, layer.weights(english, german))

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 与 PyTorch 的结果相同 · 选读
#
# 用同样的权重，把这个类与 `nn.MultiheadAttention` 比一比：结果相等。

# %% [markdown]
# `nn.MultiheadAttention` 算出来的数应该一样。不过要比较，先得知道它的三个习惯。第一，$W^Q, W^K, W^V$ 装在同一个矩阵里，有 $3 d_{\mathrm{model}}$ 行。第二，掩码含义相反：True 表示**不可以**关注。第三，返回的权重默认对各个头取了平均，想分开看，要另外说明。

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(6)
ours = MultiHeadAttention(32, 4).double()
theirs = nn.MultiheadAttention(32, 4, bias=False, batch_first=True).double()
with torch.no_grad():
    packed = torch.cat([ours.w_q.weight, ours.w_k.weight, ours.w_v.weight])  # (3 * 32, 32)
    theirs.in_proj_weight.copy_(packed)
    theirs.out_proj.weight.copy_(ours.w_o.weight)

x, memory = torch.randn(3, 5, 32).double(), torch.randn(3, 7, 32).double()
real = torch.arange(7) < torch.tensor([7, 4, 6])[:, None]  # (B, K): True = a real word
output = ours(x, memory, memory, mask=real[:, None, None, :])
expected, expected_weights = theirs(
    x, memory, memory, key_padding_mask=~real, average_attn_weights=False
)
assert torch.allclose(output, expected, atol=1e-12)
weights = ours.weights(x, memory, memory, real[:, None, None, :])
assert torch.allclose(weights, expected_weights, atol=1e-12)
wrong, _ = theirs(x, memory, memory, key_padding_mask=real)  # ~ forgotten
assert not torch.allclose(output[1:], wrong[1:], atol=1e-2)  # sentence 0, without padding, is NaN
print("equal to nn.MultiheadAttention, with the mask inverted:", tuple(weights.shape))

# %% [markdown]
# ### 一个头做不到的事
#
# 前面说，一取平均，两个答案就混在一起了，现在就来测一测。一共八样东西，每样有一个地址（1 到 8）和一份内容（八个随机数）。查询指定**两个**地址；这一层要把两份内容都返回，第一份放左边，第二份放右边。我们训练宽度为 16 的一层来做这件事，分别用 1、2、4、8、16 个头，每种用三个随机种子各训练一次。参数量每次都相同：四个 16 x 16 的矩阵。
#
# 一个头最好能做到什么程度？它返回 $u = w\,a + (1-w)\,b$，其中 $a$ 和 $b$ 是那两份内容。设两者方差都是 1，由 $u$ 对 $a$ 作最佳线性估计，就是 $c\,u$，其中 $c = w / (w^2 + (1-w)^2)$，误差是 $(1-w)^2 / (w^2 + (1-w)^2)$；对 $b$ 的最佳估计，误差是 $w^2 / (w^2 + (1-w)^2)$。**无论 $w$ 是多少，两者之和都是 1。** 所以不管权重怎么分，训练多久，一个头的均方误差都不可能低于二分之一。（这里假设权重与内容无关，因为内容里没有关于问题的线索。什么都不做，误差是 1。）
#
# **先猜**：2、4、8、16 个头的误差会是多少？头总是越多越好吗？写下你对十六个头的猜测。

# %%
mine = None  # 0 to 1

# %%
def two_questions(batch: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Make queries (B, 1, 16), items (B, 8, 16) and the wanted answers (B, 1, 16)."""
    content = torch.randn(batch, 8, 8, generator=random)
    address = torch.eye(8)
    first = torch.randint(8, (batch,), generator=random)
    second = (first + torch.randint(1, 8, (batch,), generator=random)) % 8  # never the same
    asked = torch.cat([address[first], address[second]], dim=-1)
    items = torch.cat([address.expand(batch, 8, 8), content], dim=-1)
    rows = torch.arange(batch)
    wanted = torch.cat([content[rows, first], content[rows, second]], dim=-1)
    return asked[:, None], items, wanted[:, None]


# %%
def learn_two_questions(n_heads: int, d_k: int, d_v: int, seed: int) -> float:
    """Train one layer; return its mean squared error on questions that it has not seen."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    layer = MultiHeadAttention(16, n_heads, d_k, d_v)
    adam = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(400):
        asked, items, wanted = two_questions(128, random)
        loss = (layer(asked, items, items) - wanted).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    asked, items, wanted = two_questions(2000, random)
    with torch.no_grad():
        return (layer(asked, items, items) - wanted).square().mean().item()


def errors_of(n_heads: int, d_k: int, d_v: int) -> list[float]:
    seeds = range(by_scale(smoke=1, cpu=3, gpu=3))
    return [learn_two_questions(n_heads, d_k, d_v, seed) for seed in seeds]


layers = bar((1, 2, 4, 8, 16), "layer")  # shows how far it is
errors = {h: errors_of(h, 16 // h, 16 // h) for h in layers}
parameters = {h: sum(p.numel() for p in MultiHeadAttention(16, h).parameters()) for h in errors}

# %%
draw.heads_needed(errors, width=16, floor=0.5)

# %%
# NBVAL_CHECK_OUTPUT
assert set(parameters.values()) == {1024}
assert all(0.48 < error < 0.55 for error in errors[1])  # the floor, and the luck of a finite test
assert max(errors[2] + errors[4]) < 0.01 and max(errors[8]) < 0.1
assert min(errors[16]) > 0.5
print("1024 parameters each: one head fails, two to eight succeed, sixteen of width 1 fail again")

# %%
compare(mine, sum(errors[16]) / len(errors[16]), "03: the error of sixteen heads of width 1")

# %% [markdown]
# 只有一个头，误差就停在下限上。两个头可以各问一个问题。分成十六个头，每个头就太窄了：键和值同时变窄。
#
# 论文在翻译任务上也看到，头太少、太多都不好（表 3）。(A) 组：1 个头得 24.9 BLEU（译文的评分，越高越好，见第 08 课），8 个或 16 个头得 25.8，32 个头得 25.4；(B) 组：把键缩窄到 $d_k = 16$，损失 0.7 BLEU。在翻译任务上，只用一个头不过是差一些，还不至于失败。
#
# > **试一试。** 让查询指定三个地址，内容各为五个数，层的宽度为 24：每样东西不足 24 个数，就用零补齐；输出只比较前 15 个数。需要几个头？两个头的下限是多少？
#
# <details><summary>答案</summary>
#
# 三个，每个地址一个。两个头的下限是三分之一。一个头返回三份内容的一种混合，两个头就返回两种。三份内容相互独立，方差都是 1；只凭两种混合去估计，估得再好，总误差也有 1，由三个答案分摊。（一个头、两份内容时也是这样算：1 由两个答案分摊，就是二分之一。）
#
# </details>

# %%
check("heads_why")

# %%
check("heads_cost")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 十六个头为什么失败 · 选读
#
# 是键太窄，还是值太窄？每次只放宽一样。

# %% [markdown]
# 十六个头为什么失败？每个头的宽度只有 1，键（$d_k = 1$）和值（$d_v = 1$）就同时变窄了。想知道问题出在哪一样，就一次只放宽一样。（这样会增加参数，但单靠参数多没有用：第四行的那一层就有 1152 个参数。）**先猜**：是哪一样？

# %%
mine = None  # "the keys", "the values" or "both together"

# %%
others = bar(((16, 2, 1), (16, 1, 8), (4, 1, 8), (2, 1, 8)), "layer")
narrow = {(16, 1, 1): errors[16], **{how: errors_of(*how) for how in others}}
for (n_heads, d_k, d_v), row in narrow.items():
    print(f"{n_heads:2} heads, d_k {d_k}, d_v {d_v}:", *(f"{error:.3f}" for error in row))
assert max(narrow[16, 2, 1]) < 0.12 and max(narrow[16, 1, 8]) < 0.02
assert min(narrow[4, 1, 8]) > 0.3 and min(narrow[2, 1, 8]) > 0.5
compare(mine, "both together", "03: why sixteen heads of width 1 fail")

# %% [markdown]
# 只窄一样不会失败，两样都窄才失败。$d_k = 1$ 时，键只是一个数，查询只能偏爱“最大的”或“最小的”。中间的六个地址，一个头选不出来；这样的头，用两个或四个也会失败。但如果有十六个头，每个都带来**整份**内容，混合的方式又各不相同，$W^O$ 就可以把它们加加减减，还原出来。$d_v = 1$ 时，一个头只带来一个数，而一共要十六个数：没有多余的头可以用来纠正，所以每个头都必须选得准。要选得准，$d_k = 2$ 就够了：八个键可以围成一圈，每个都在自己的方向上最突出。（这个解释与这五行结果相符，但这五行还证明不了它。）

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 一个头能做什么：亲手设定 · 选读
#
# $W^Q$ 和 $W^K$ 到底在**说**什么？我们亲手来设定。设一个词的向量由两部分组成：是哪个词，在哪个位置；每部分都只有一个 1，其余为零，也就是独热向量（one-hot）。于是
#
# - **前一个词**：查询说“我的位置”，键说“我的位置加一”。键的位置恰好在查询前面一格时，两者对上；
# - **后一个词**：同上，改成减一；
# - **同一个词**：查询和键都说自己是哪个词；
# - **所有词**：查询为零，所有分数相等。
#
# 注意力还要除以 $\sqrt{d_k}$，所以我们先给查询乘上它，这样分数就正好是我们写的数。系数 20 让选择变得尖锐：权重之比是 $e^{20}$ 比 1。

# %%
def hand_set(n_words: int, n_places: int) -> MultiHeadAttention:
    """Four heads over one-hot words and places: previous, next, same word, everyone."""
    width = n_words + n_places
    is_word = torch.arange(width) < n_words
    word, place = torch.diag(is_word.float()), torch.diag((~is_word).float())  # (width, width)
    queries = [place, place, word, torch.zeros(width, width)]
    keys = [place.roll(1, 0), place.roll(-1, 0), word, word]  # roll: "my place plus one"
    layer = MultiHeadAttention(width, 4, d_k=width, d_v=width)
    with torch.no_grad():
        layer.w_q.weight.copy_(20 * math.sqrt(width) * torch.cat(queries))
        layer.w_k.weight.copy_(torch.cat(keys))
    return layer


# %%
chosen = ["Two women are putting on old glasses .", "The old man is drinking hot tea .",
          "A cat is climbing up a small tree ."]
sentence = chosen[2].lower().split()
hand_words = sorted({word for text in chosen for word in text.lower().split()})


def one_hot(words: list[str], n_places: int = 10) -> Tensor:
    which = F.one_hot(torch.tensor([hand_words.index(word) for word in words]), len(hand_words))
    where = F.one_hot(torch.arange(len(words)), n_places)
    return torch.cat([which, where], dim=-1).float()[None]  # (1, L, words + places)


assert max(len(text.split()) for text in chosen) <= 10
x = one_hot(sentence)
by_hand = hand_set(len(hand_words), 10).weights(x, x)[0].detach()  # (H, L, L)
titles = ["previous word", "next word", "same word", "everyone"]
draw.maps([(t, w, sentence, sentence) for t, w in zip(titles, by_hand)],
          "Four heads, four projections: what a word looks for is in the two matrices")

# %%
# NBVAL_CHECK_OUTPUT
previous, following, same, everyone = by_hand
length = len(sentence)
assert previous.diagonal(-1).min() > 0.99 and following.diagonal(1).min() > 0.99
both = [i for i, word in enumerate(sentence) if word == "a"]
assert torch.allclose(same[both][:, both], torch.tensor(0.5), atol=1e-3)
assert torch.allclose(everyone, torch.tensor(1 / length))
assert torch.allclose(previous[0], torch.tensor(1 / length), atol=1e-3)
print(f"the two words 'a', at places {both}, share their weight; word 0 has no previous one")

# %% [markdown]
# 看第一幅图的第一行。第一个词前面没有词，可是它的权重加起来还得是一，只好平均分给所有词。**一个头不能弃权。** 所以，不要看到亮的方格就以为有什么含义。
#
# 训练出来的头，会自己学成这样的角色吗？第 9 节会训练一个小模型来看；更大的模型，见第 05 课和第 09 课。用到的工具是 `record_attention(model)`，也由这一页导出（第 8 节）：在它的 `with` 块里，只要有注意力层运行，权重就会收集起来。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 一个跨两种语言的头 · 选读
#
# 亲手设定一个交叉注意力的头：查询的矩阵就用一本词典，看它能找对多少德语词。想知道只凭词、完全不管次序能做到什么程度，就往下看。

# %% [markdown]
# 图片说明语料库（corpus）里标好了哪个德语词对应哪个英语词。我们在训练句子里数一数，英语词 $e$ 与德语词 $g$ 对应了多少次，把分数定为 $\log P(g \mid e)$。这样，查询的矩阵**就是**一本词典。

# %%
train, val = captions.load("train"), captions.load("val")
german = {w: i for i, w in enumerate(sorted({w for c in train for w in c.de_tokens}))}
english = {w: i for i, w in enumerate(sorted({w for c in train for w in c.en_tokens}))}
counts = torch.full((len(english), len(german)), 1e-3)  # not 0 for pairs never seen: log 0 is -inf
for caption in train:
    for i, j in caption.alignment:
        counts[english[caption.en_tokens[j]], german[caption.de_tokens[i]]] += 1
dictionary = (counts / counts.sum(dim=1, keepdim=True)).log()  # (English words, German words)


def look_up(caption: captions.Caption) -> Tensor:
    """Attention of each English word to each German word: (T, S)."""
    query = dictionary[[english[w] for w in caption.en_tokens]] * math.sqrt(len(german))
    key = F.one_hot(torch.tensor([german[w] for w in caption.de_tokens]), len(german)).float()
    return attention_weights(query, key)


# %%
caption = next(c for c in val if len(c.en_tokens) <= 9 and c.de_tokens[-2] in ("auf", "an"))
links = [(j, i) for i, j in caption.alignment]
draw.maps([("cross-attention of the dictionary head", look_up(caption), caption.en_tokens,
            caption.de_tokens)], "Framed: the true links. Filled: where the head looks", links)

# %%
hits = total = guesses = 0
for caption in val:
    linked, best = {(j, i) for i, j in caption.alignment}, look_up(caption).argmax(dim=1).tolist()
    for j in {j for j, _ in linked}:
        total += 1
        hits += (j, best[j]) in linked
        guesses += sum(1 for pair in linked if pair[0] == j) / len(caption.de_tokens)
assert total > 1000 and hits / total > 0.9 and hits / total > 8 * guesses / total
print(f"{total} English words: the dictionary head finds a true link for {hits / total:.0%},"
      f" a blind guess for {guesses / total:.0%}")

# %% [markdown]
# 不看位置，不看次序，只凭词，这个头却找到了大多数对应关系。一个词出现两次时（“a”“the”），它只能把权重分开。模型学会了翻译，交叉注意力又是什么样子？见第 09 课。

# %% [markdown]
# ## 7 · 代价：把表 1 亲手数一遍
#
# 要让 $n$ 个宽度为 $d$ 的位置互相交换信息，有四种办法，论文第 4 节作了比较：
#
# | 层 | 运算次数 | 顺序操作 | 最长路径 |
# |---|---|---|---|
# | 自注意力 | $n^2 \cdot d$ | 1 | 1 |
# | 循环 | $n \cdot d^2$ | $n$ | $n$ |
# | 卷积，卷积核宽 $k$ | $k \cdot n \cdot d^2$ | 1 | $\log_k n$ |
# | 只看 $r$ 个邻居的自注意力 | $r \cdot n \cdot d$ | 1 | $n / r$ |
#
# 别急着相信，自己数一数。PyTorch 的 `FlopCounterMode` 会统计 with 块里的所有矩阵乘法，数出一共做了多少次乘法和加法：不用秒表，在哪台机器上数出来都一样。下面每个函数都按给定的宽度 $d$ 生成一次权重，再返回这个层。**先猜**：句子长度加倍，各层的运算次数变成几倍？写下你对自注意力的猜测。

# %%
mine = None  # a factor

# %%
def attention(d: int):
    return lambda x: scaled_dot_product_attention(x, x, x)[0]  # (n, d); it has no weights


def recurrence(d: int):
    """h_t = tanh(x_t W + h_{t-1} U), one step after the other."""
    w, u = torch.randn(2, d, d) / math.sqrt(d)

    def layer(x: Tensor) -> Tensor:
        h, states = torch.zeros(1, d), []
        for x_t in x.split(1):
            h = torch.tanh(x_t @ w + h @ u)
            states.append(h)
        return torch.cat(states)  # (n, d)

    return layer


def convolution(d: int, k: int = 3, dilation: int = 1):
    """Each position hears itself and k - 1 positions before it, `dilation` apart."""
    kernel = torch.rand(d, d, k) / (k * d)

    def layer(x: Tensor) -> Tensor:
        padded = F.pad(x.T[None], ((k - 1) * dilation, 0))  # (1, d, n + (k - 1) * dilation)
        return F.conv1d(padded, kernel, dilation=dilation)[0].T  # (n, d)

    return layer


def neighbours(d: int, r: int = 3):
    """Self-attention to itself and the r - 1 positions before (zeros before the first)."""

    def layer(x: Tensor) -> Tensor:
        windows = F.pad(x, (0, 0, r - 1, 0)).unfold(0, r, 1)  # (n, d, r)
        scores = x[:, None] @ windows / math.sqrt(d)  # (n, 1, r)
        return (scores.softmax(dim=-1) @ windows.mT).squeeze(1)  # (n, d)

    return layer


LAYERS = {"self-attention": attention, "recurrence": recurrence, "convolution, k = 3": convolution,
          "to 3 neighbours": neighbours}


# %%
def count(kind, n: int, d: int) -> int:
    layer, x = kind(d), torch.randn(n, d)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    return counter.get_total_flops()


grid = [16, 32, 64, 128, 256]
counted = {name: {(n, d): count(kind, n, d) for n in grid[:4] for d in grid[:4]}
           for name, kind in LAYERS.items()}
by_length = {name: [count(kind, n, 64) for n in grid] for name, kind in LAYERS.items()}
by_width = {name: [count(kind, 64, d) for d in grid] for name, kind in LAYERS.items()}
draw.costs(grid, by_length, by_width, at_width=64, at_length=64)

# %% [markdown]
# 三个轴都取对数之后，$c \cdot n^a d^b$ 就是一个平面，斜率就是指数：$\log F = \log c + a \log n + b \log d$。我们在十六种尺寸组成的网格上，用最小二乘法拟合 $a$ 和 $b$。

# %%
# NBVAL_CHECK_OUTPUT
def exponents(table: dict[tuple[int, int], int]) -> list[float]:
    """Fit log F = log c + a log n + b log d; return a and b."""
    design = torch.tensor([[1.0, math.log(n), math.log(d)] for n, d in table]).double()
    logs = torch.tensor([math.log(flops) for flops in table.values()]).double()
    return torch.linalg.lstsq(design, logs[:, None]).solution[1:, 0].tolist()


paper = {"self-attention": (2, 1), "recurrence": (1, 2), "convolution, k = 3": (1, 2),
         "to 3 neighbours": (1, 1)}
for name, (a, b) in paper.items():
    n_exponent, d_exponent = exponents(counted[name])
    assert abs(n_exponent - a) < 0.01 and abs(d_exponent - b) < 0.01
    print(f"{name:20} n^{n_exponent:.2f} d^{d_exponent:.2f}")
assert count(lambda d: convolution(d, 6), 64, 32) == 2 * count(convolution, 64, 32)  # twice the k
assert count(lambda d: neighbours(d, 6), 64, 32) == 2 * count(neighbours, 64, 32)  # twice the r
print("and k and r to the power 1")

# %%
twice = by_length["self-attention"][1] / by_length["self-attention"][0]
compare(mine, twice, "03: self-attention on a sentence twice as long")

# %% [markdown]
# 所以，单看查找这一步，只要 $n < d$，注意力的运算就比循环少。句子有 20 到 70 个词元，论文的 $d$ 是 512，显然是注意力占优。换成一整本书，就不是这样了。
#
# 但这张表漏了一样东西：**投影**。多头注意力层还要乘以 $W^Q, W^K, W^V, W^O$，一共 $4 n d^2$ 次乘法，比循环本身的 $2 n d^2$ 还多。把整个层都数进来：

# %%
# NBVAL_CHECK_OUTPUT
def whole_layer(d: int):
    layer = MultiHeadAttention(d, 4)

    def run(x: Tensor) -> Tensor:  # `forward`, with our own look-up: the counter sees its products
        query, key, value = (w(x[None]) for w in (layer.w_q, layer.w_k, layer.w_v))
        heads, _ = scaled_dot_product_attention(*map(layer.split_heads, (query, key, value)))
        return layer.w_o(layer.merge_heads(heads))

    return run


assert all(count(attention, n, n) == count(recurrence, n, n) for n in (16, 64))
for n, d in ((32, 128), (256, 128), (512, 128)):
    look, whole, plain = (count(kind, n, d) for kind in (attention, whole_layer, recurrence))
    assert whole == 4 * n * n * d + 8 * n * d * d  # a product and a sum: two operations each
    assert whole > 2 * plain
    assert (whole < 3 * plain) == (n < d) and (whole < 4 * plain) == (n < 2 * d)  # GRU, LSTM
    print(f"n {n:3}, d {d}: looking {look / whole:4.0%} of the whole layer")
print("equal to recurrence at n = d; half of the whole layer at n = 2 d")

# %%
check("cost_short")

# %% [markdown]
# 句子短时，平方不是问题：在 $n = 32$、$d = 128$ 时，查找只占九分之一的计算量，其余都是投影。算上投影，不论句子多长，一个注意力层的计算量都超过**普通**循环的两倍。（GRU 的矩阵是普通 RNN 的三倍，LSTM 是四倍。与这两种相比，整个注意力层分别在 $n < d$ 和 $n < 2d$ 时计算量更小。）注意力真正的优势，在另外两列。
#
# ### 要等多少步，信号要走多远
#
# **顺序操作**：有多少次矩阵乘法必须等前一次做完？自动求导（autograd）记下了每个结果是由哪些结果算出来的。我们从输出往回走到开头，数一数**最长**的链上有多少次乘法。
#
# **最长路径**：从第一个位置到最后一个位置，隔着多少层（或多少步）？我们一层一层往上叠，直到最后一个输出对第一个输入的梯度不再为零。（`retain_graph=True` 保留计算的记录，这样再加一层之后，还能再求一次梯度。）

# %%
PRODUCTS = ("MmBackward0", "BmmBackward0", "ConvolutionBackward0")


def longest_chain(result: Tensor) -> int:
    """Count the matrix products, each waiting for the one before, that lead to a result."""
    depth, stack = {None: 0}, [result.grad_fn]
    while stack:
        node = stack[-1]
        before = [parent for parent, _ in node.next_functions]
        waiting = [parent for parent in before if parent not in depth]
        if waiting:
            stack += waiting
        else:
            depth[node] = max((depth[p] for p in before), default=0) + (node.name() in PRODUCTS)
            stack.pop()
    return depth[result.grad_fn]


def layers_to_hear(layers, n: int) -> int:
    """Stack layers until the last of n positions hears the first one."""
    first = torch.rand(n, 4).requires_grad_()
    x = first
    for number, layer in enumerate(layers, 1):
        x = layer(x)
        if torch.autograd.grad(x[-1].sum(), first, retain_graph=True)[0][0].any():
            return number
    raise ValueError("the last position never hears the first one")


# %%
# NBVAL_CHECK_OUTPUT
def stacked(kind: str):
    """Yield the layers of a stack: convolutions may grow their dilation, 1, 3, 9, ..."""
    for depth in range(100):
        if kind == "dilated":
            yield convolution(4, 3, 3**depth)
        else:
            yield LAYERS[kind](4)


print(f"{'n':>36} {9:4} {27:4} {81:4}")
for name, kind in LAYERS.items():
    chain = [longest_chain(kind(4)(torch.rand(n, 4).requires_grad_())) for n in (9, 27, 81)]
    assert chain == ([9, 27, 81] if name == "recurrence" else [chain[0]] * 3)
    print(f"{'waiting: ' + name:36}", *(f"{c:4}" for c in chain))
wanted = {"self-attention": [1, 1, 1], "convolution, k = 3": [4, 13, 40], "dilated": [2, 3, 4],
          "to 3 neighbours": [4, 13, 40]}
for kind, expected in wanted.items():
    path = [layers_to_hear(stacked(kind), n) for n in (9, 27, 81)]
    assert path == expected
    print(f"{'path: ' + kind:36}", *(f"{p:4}" for p in path))
for kind in (convolution, neighbours):
    assert layers_to_hear([kind(4, 5)] * 81, 82) == 21  # (n - 1) / (k - 1), rounded up

# %% [markdown]
# 不论句子多长，注意力都只有一前一后两次乘法：先算分数，再取平均。循环需要 $n$ 次（它的路径也就是这条链：从第一个词到最后一个词，$n$ 次乘法）。卷积可以并行，但信号要一层一层往上传。宽度为 3 的窗口包括自己的位置，所以每加一层，只能多看到 2 个位置，需要 $(n-1)/2$ 层；一般地，是 $(n-1)/(k-1)$ 或 $(n-1)/(r-1)$ 层。论文正文里的 $n/k$ 和表里的 $n/r$ 说的是增长的阶，不是准确的层数。如果间隔逐层增大（1、3、9），只要 $\log_3 n$ 层就够：这就是表中的 $\log_k n$。
#
# 在这两列里，注意力都是常数；为此付出的代价，就是运算次数里的平方。（路径长为什么不好？第 01 课测过，梯度在长路径上会怎样一步步消失。）

# %%
check("cost_why_prefer")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 用秒表来量 · 选读
#
# 还是这四种层，在你的机器上用秒表计时：曲线在哪里相交？

# %% [markdown]
# 秒表反映的是这台机器此刻的情形，所以这里不作断言；请比较曲线的形状，不要比毫秒数。其中一条曲线是**对照**：它的乘法和循环一样多，但所有位置同时算，没有一步要等。（它算的是别的东西，这里只看它的代价。）

# %%
def nothing_waits(d: int):
    """The recurrence's two products, for all positions at once: a control, not a useful layer."""
    w, u = torch.randn(2, d, d) / math.sqrt(d)
    return lambda x: torch.tanh(x @ w + x @ u)


@torch.no_grad()
def seconds(kind, n: int, d: int = 64, repeats: int = 9) -> float:
    """The fastest of a few runs: the one that other programs disturbed least."""
    layer, x, taken = kind(d), torch.randn(n, d), []
    for _ in range(repeats):
        start = time.perf_counter()
        layer(x)
        taken.append(time.perf_counter() - start)
    return min(taken)


raced = {**LAYERS, "recurrence's products, not waiting": nothing_waits}
assert count(nothing_waits, 64, 64) == count(recurrence, 64, 64)
lengths = [2**i for i in range(4, by_scale(smoke=8, cpu=11, gpu=12) + 1)]
measured = {name: [seconds(kind, n) for n in lengths] for name, kind in raced.items()}
draw.wall_time(lengths, measured)

# %% [markdown]
# 按次数算，$n = d = 64$ 时，自注意力与循环一样多。用秒表量，循环在这个尺寸上却慢得多。看看对照就明白了：乘法还是那么多，只要哪一步都不用等，时间就只要一小部分。真正费时间的，是那 $n$ 次首尾相接的小调用。$n$ 增大时，自注意力因为有平方，会渐渐追上来，但要远远超过 $n = d$ 才追得上。在你的机器上，曲线相交吗？在哪里相交？
#
# > **试一试。** 在 `seconds` 里把 `d` 设成 512。交点向左移还是向右移？（它可能移出图外。）为什么交点仍然不在 $n = d$？
#
# <details><summary>答案</summary>
#
# 向右移：$d$ 变成八倍，$n^2 d$ 变成八倍，$n d^2$ 变成六十四倍，所以按次数算，两条线在 $n = 512$ 处相交。按秒表，交点还要更靠后，因为循环还要等待 $n$ 次，而数乘法时等待是不算的。
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 8 · 只看里面，不动模型 · 选读
#
# `record_attention` 是怎样做到的？最容易想到的办法，为什么反而不行？想看看自己的模型内部，就读这一节。

# %% [markdown]
# 模型训练好了，我们想看每一层的权重。最容易想到的办法是存起来：在 `forward` 里写 `self.last = weights`。许多教程都这么写。**先猜**：这样一来，会有哪两个地方出毛病？

# %%
class Hoarder(MultiHeadAttention):
    """The obvious way, and a mistake: the layer keeps its latest weights."""

    def forward(self, query, key, value, mask=None):
        self.last = self.weights(query, key, value, mask)
        return super().forward(query, key, value, mask)


# %%
# NBVAL_CHECK_OUTPUT
hoarder, tidy = Hoarder(16, 2), MultiHeadAttention(16, 2)
x = torch.randn(2, 5, 16)
tidy(x, x, x)
hoarder(x, x, x)  # the output is thrown away at once
assert hoarder.last.grad_fn is not None  # and yet its whole history is still there
copy.deepcopy(tidy)
try:
    copy.deepcopy(hoarder)
    copied = True
except RuntimeError:
    copied = False
assert not copied
print("the hoarder keeps a history alive and cannot be copied; the tidy layer can")

# %% [markdown]
# 存下来的权重，牵着产生它的整个计算图不放，所以这一步的内存要一直占用到下一步。带着计算历史的张量又不能深拷贝，所以用到 `copy.deepcopy` 的工具都会失败。此外，我们也许一天才看一次权重，模型却每一步都要算。
#
# 干净的办法是用**钩子函数**（hook）：模块的 `forward` 一运行完，PyTorch 就会调用它。`record_attention` 给模型里的每个 `MultiHeadAttention` 挂上一个钩子函数，不带梯度地重新算一遍权重，with 块结束时再把钩子取下来。

# %%
#| export
@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the weights of every `MultiHeadAttention` in `model` while the block is open.

    Yields a dict from module name to the weights of its latest call, (B, H, Q, K), without
    gradient. Outside the block the model does no extra work.
    """
    recorded: dict[str, Tensor] = {}

    def recorder(name: str):
        @torch.no_grad()
        def hook(module, args, kwargs, output) -> None:
            recorded[name] = module.weights(*args, **kwargs)

        return hook

    handles = [
        module.register_forward_hook(recorder(name or "attention"), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, MultiHeadAttention)
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


# %%
# NBVAL_CHECK_OUTPUT
stack = nn.ModuleDict({"lower": MultiHeadAttention(16, 2), "upper": MultiHeadAttention(16, 4)})
x = torch.randn(3, 5, 16)
with record_attention(stack) as recorded:
    h = stack["lower"](x, x, x)
    stack["upper"](h, h, h)
    copy.deepcopy(stack)  # works even now
assert torch.allclose(recorded["lower"], stack["lower"].weights(x, x))
assert not any(weights.requires_grad for weights in recorded.values())
assert not any(module._forward_hooks for module in stack.modules())  # nothing is left behind
print({name: tuple(weights.shape) for name, weights in recorded.items()})

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 9 · 注意力头画廊 · 选读
#
# 没有人设定，头也会自己学成第 6 节那样的角色吗？这里用几秒钟训练一个模型，再把它所有的头都展示出来。

# %% [markdown]
# 我们训练一个非常小的模型：两层注意力，除此之外，词与词之间不再交换信息。它的任务是**填空**：英语图片说明里有一个词换成了 `___`，模型要说出是哪个词。要知道答案，就必须看看周围的词。
#
# 模型把每一层的输出加到每个词原有的向量上，即 `x + layer(...)`；原因见第 05 课。它还给每个位置加上一个可学习的向量，原因见第 5 节。

# %%
PAD, BLANK = 0, 1


class FillIn(nn.Module):
    """Two layers of attention that guess a blank: ids (B, L) -> logits (B, L, V)."""

    def __init__(self, vocab: int, d_model: int = 64, n_heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab, d_model)
        self.places = nn.Embedding(32, d_model)
        self.layers = nn.ModuleList(MultiHeadAttention(d_model, n_heads) for _ in range(2))
        self.guess = nn.Linear(d_model, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != PAD)[:, None, None, :]  # (B, 1, 1, L): no one attends to the filling
        x = self.words(ids) + self.places.weight[: ids.size(1)]  # (B, L, D)
        for layer in self.layers:
            x = x + layer(x, x, x, mask)
        return self.guess(x)


# %%
ids = {w: i for i, w in enumerate(["<pad>", "___", *english])}


def encode(corpus: list[captions.Caption]) -> Tensor:
    """Turn captions of at most 16 English words into ids (N, 16), filled up with PAD."""
    rows = [[ids[w] for w in c.en_tokens] for c in corpus if len(c.en_tokens) <= 16]
    return torch.tensor([row + [PAD] * (16 - len(row)) for row in rows])


def make_blanks(rows: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Hide one word a row (not the full stop): ids, the places (N,), the hidden words (N,)."""
    real = (rows != PAD).sum(dim=1) - 1
    at = (torch.rand(len(rows), generator=random) * real).long()
    every = torch.arange(len(rows))
    hidden = rows.clone()
    hidden[every, at] = BLANK
    return hidden, at, rows[every, at]


# %%
torch.manual_seed(0)
random = torch.Generator().manual_seed(0)
device = pick()
model = FillIn(len(ids)).to(device)
adam = torch.optim.Adam(model.parameters(), lr=5e-3)
train_rows, val_rows = encode(train), encode(val)
for _ in bar(range(by_scale(smoke=250, cpu=400, gpu=400)), "step"):
    batch = train_rows[torch.randint(len(train_rows), (128,), generator=random)]
    hidden, at, word = (t.to(device) for t in make_blanks(batch, random))
    loss = F.cross_entropy(model(hidden)[torch.arange(len(at), device=device), at], word)
    adam.zero_grad()
    loss.backward()
    adam.step()
model = model.cpu().eval()

# %% [markdown]
# 它学会看周围的词了吗？图片说明里有现成的考题。“Two women ___ putting on old glasses”，填 is 还是 are？要找到主语才知道。一律答 is，也能对一半以上；模型必须比这样答好得多才行。

# %%
is_or_are = torch.tensor([ids["is"], ids["are"]])
verbs = torch.isin(val_rows, is_or_are)  # (N, 16)
rows, at = val_rows[verbs.any(dim=1)], verbs[verbs.any(dim=1)].int().argmax(dim=1)
every = torch.arange(len(rows))
hidden = rows.clone()
hidden[every, at] = BLANK
with torch.no_grad():
    logits = model(hidden)[every, at]
answers = is_or_are[logits[:, is_or_are].argmax(dim=1)]
right = (answers == rows[every, at]).float().mean().item()
always_is = (rows[every, at] == ids["is"]).float().mean().item()
assert right > always_is + 0.15
print(f"{len(rows)} captions not seen in training: {right:.0%} right; 'always is': {always_is:.0%}")

# %% [markdown]
# 现在用 `record_attention` 打开模型看看。模型的代码一行也不用改。对空格处的查询，我们看每个头关注哪里：有多少权重落在前一个词上，多少落在后一个词上，等等。

# %%
hidden, at, word = make_blanks(val_rows, random)
with record_attention(model) as recorded, torch.no_grad():
    model(hidden)
inner = ((at > 1) & (at + 2 < (hidden != PAD).sum(dim=1))).nonzero().squeeze(1)
offsets = (-2, -1, 0, 1, 2)
looks = {  # (layer, head) -> mean weight at each offset
    (layer, head): [weights[inner, head, at[inner], at[inner] + o].mean().item() for o in offsets]
    for layer, weights in enumerate(recorded.values(), 1) for head in range(4)
}
print("layer head  " + "  ".join(f"{o:+d}" if o else " 0" for o in offsets))
for (layer, head), row in looks.items():
    print(f"{layer:5} {head + 1:4}  " + " ".join(f"{share:.1f}" for share in row))

# %% [markdown]
# 一行一行地读。训练几秒钟之后，有些头就把大部分权重放在一个固定的地方：空格的后一个词，或者前一个词。没有谁要求过要有一个“后一个词”头。如果一行里每一份都小，这个头就没有固定要看的地方：权重可能很分散，也可能很集中，只是集中在按**内容**找到的词上。对许多图片说明取平均，看不出是哪一种；下面的图能看出来。
#
# 断言：有一个头看前一个词，另有一个头看后一个词。

# %%
strongest = {pair: offsets[row.index(max(row))] for pair, row in looks.items()}
directions = {strongest[pair] for pair, row in looks.items() if max(row) > 0.4}
sharpest = max(max(row) for row in looks.values())
assert directions >= {-1, 1} and sharpest > 0.5
print(f"{len(directions)} different fixed places among 8 heads (mean weight over 0.4); the sharpest"
      f" head puts {sharpest:.0%} of its weight on one")

# %% [markdown]
# 同一个句子，十二个头：第一行是第 6 节亲手设定的四个头（空格的位置上，它们看到的是 tree），下面是模型的两层。

# %%
blanks = ["Two women ___ putting on old glasses .", "The old man is ___ hot tea .",
          "A cat is climbing up a small ___ ."]


def by_layer(text: str, blank: str) -> dict[str, tuple[list[str], Tensor]]:
    """Return layer -> its words and its weights (H, L, L): set by hand, then learned."""
    words = text.lower().split()
    by_hand = hand_set(len(hand_words), 10).weights(*[one_hot(words)] * 2)[0].detach()
    with record_attention(model) as recorded:
        model(torch.tensor([[ids[word] for word in blank.split()]]))
    learned = {f"learned, layer {i}": (blank.split(), weights[0])
               for i, weights in enumerate(recorded.values(), 1)}
    return {"set by hand": (words, by_hand), **learned}


look = by_layer(chosen[2], blanks[2])
words = blanks[2].split()
blank = words.index("___")
learned = [table for layer, (_, tables) in look.items() if layer != "set by hand" for table in tables]
assert {int(table[blank].argmax()) - blank for table in learned} >= {-1, 1}
draw.head_grid({layer: weights for layer, (_, weights) in look.items()}, words,
               "Asked at the blank, one learned head looks one word on, another one word back")

# %% [markdown]
# 这些图会不会只是这一句特有的？选一层、一个头、一个句子，把鼠标指向方格，就能读出它的权重。（如果查看器不运行脚本，你看到的是第一个选项。）

# %%
records = []
for text, blank in zip(chosen, blanks):
    for layer, (words, weights) in by_layer(text, blank).items():
        for head in range(4):
            note = titles[head]
            if layer != "set by hand":
                pair = int(layer[-1]), head
                note = f"mean over captions: {max(looks[pair]):.0%} at {strongest[pair]:+d}"
            records.append({"layer": layer, "head": str(head + 1), "sentence": text, "note": note,
                            "queries": words, "keys": words, "weights": weights[head]})
assert len(records) == 3 * 3 * 4
sharp_layer, sharp_head = max(looks, key=lambda pair: max(looks[pair]))
start = 4 * sharp_layer + sharp_head
show(draw.gallery(records, "One head of twelve: choose another", start))

# %% [markdown]
# 看这类图时都要小心：权重只说明一个**值**取了多少，不说明它有多重要。这一点有过争论，第 09 课还会谈到；去掉一个头会损失多少，第 09b 课会测量。

# %% [markdown]
# ## 你实现了什么
#
# | 名称 | 输入 | 输出 |
# |---|---|---|
# | `attention_weights` | 查询 (..., Q, Dk)，键 (..., K, Dk)，掩码 | 权重 (..., Q, K) |
# | `scaled_dot_product_attention` | 再加上值 (..., K, Dv) | 输出 (..., Q, Dv)，权重 |
# | `MultiHeadAttention` | 查询 (B, Q, D)，键和值 (B, K, D)，掩码 | (B, Q, D) |
# | `record_attention` | 一个模型 | 各层的名字 -> 权重 (B, H, Q, K) |
#
# ## 练习
#
# 1. **手算（难度 2/5，10 分钟）。** 在第 4 节里，把 barks 的查询改成 $(0, 2)$。用计算器算出它的权重，再核对。
# 2. **重写一遍（难度 3/5，30 分钟）。** 合上这一页，用 `torch.einsum` 写出 `MultiHeadAttention`，不许用 transpose。（`einsum` 给每个输入和结果的轴起名字，结果里没有的字母就求和：`torch.einsum("bqhd,bkhd->bhqk", q, k)` 一次算出所有分数。）用 float64 与我们的比较。
# 3. **加性注意力（难度 4/5，40 分钟）。** 第 02 课不用点积，用一个小网络打分：$v^\top \tanh(W_1 q + W_2 k)$。用它重做第 3 节的实验：它需要缩放吗？
# 4. **剪枝（难度 3/5，20 分钟；第 9 节）。** 把 `FillIn` 里一个头在 `w_o` 中的那几列置零，重新测 is / are 的正确率。八个头里，少了谁损失最大？是你看画廊时想到的那个吗？
#
# <details><summary>答案 1</summary>
#
# 分数是 0、2、−2，除以 $\sqrt 2$：0、1.414、−1.414。取指数：1、4.113、0.243，和为 5.356。权重 0.187、0.768、0.045；输出 (7.68, 0.45)。
#
# </details>
#
# <details><summary>答案 2</summary>
#
#     q, k, v = (w(x).unflatten(-1, (n_heads, -1)) for w, x in zip(maps, (query, key, value)))
#     scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.size(-1))
#     heads = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
#     return self.w_o(heads.flatten(-2))
#
# 其中 `maps = self.w_q, self.w_k, self.w_v`，掩码加在第二行与第三行之间。权重相同时，与我们的最大相差 $10^{-16}$。
#
# </details>
#
# <details><summary>答案 3</summary>
#
# 不需要。取 $W_1, W_2$ 的方差为 $1/d_k$，$v$ 的方差为 $1/64$（64 个隐藏单元），在所有尺寸下，分数的方差都在 0.23 到 0.59 之间，16 个键里运气最好的那个，权重总是 0.12 到 0.15。无论 $d_k$ 是多少，tanh 都限制了每一项的大小。
#
# </details>
#
# <details><summary>答案 4</summary>
#
# 对一个头：`model.layers[i].w_o.weight.data[:, 16 * h : 16 * (h + 1)] = 0`，测量，再把原来的数放回去，然后才轮到下一个头。少了哪个头损失最大，每次训练都不一样。看看它是只看固定位置的头，还是按内容找词的头：从画廊里能看出一个头看哪里；它有多重要，只有做这个实验才知道。第 09b 课用真正的翻译模型做同样的事。
#
# </details>
#
# ## 小结
#
# 注意力是值的加权平均；每个键与查询有多匹配，用分数表示，分数经过 softmax 就成了权重。点积的大小随 $\sqrt{d_k}$ 增长，所以论文除以它；否则 softmax 一开始就把权重几乎全给了一个键，梯度的因子 $p(1-p)$ 也接近零。注意力看到的是集合：输入怎样打乱，输出就怎样打乱。一个头返回一个平均；分成几个较窄的头，就能同时查找几样东西，计算量不变。注意力的运算量是 $n^2 d$，但哪一步都不用等别的步，任何两个词之间也只隔一步。
#
# ## 延伸阅读
#
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762：3.2 节和第 4 节。
# - Bahdanau, Cho, Bengio 2014, *Neural Machine Translation by Jointly Learning to Align and Translate*, arXiv 1409.0473；Luong, Pham, Manning 2015, *Effective Approaches to Attention-based Neural Machine Translation*, arXiv 1508.04025：这篇论文之前的注意力。
# - Nadaraya 1964, *On Estimating Regression*；Watson 1964, *Smooth Regression Analysis*：第 1 节的花园。
# - Clark et al. 2019, *What Does BERT Look At?*, arXiv 1906.04341；Voita et al. 2019, *Analyzing Multi-Head Self-Attention*, arXiv 1905.09418；Michel, Levy, Neubig 2019, *Are Sixteen Heads Really Better than One?*, arXiv 1905.10650：头在做什么，少了哪些头损失大。
# - Dao et al. 2022, *FlashAttention*, arXiv 2205.14135：为什么快速函数从不算出整个权重矩阵。
#
# **作业。** [作业：注意力](homework/attention/attention.ipynb)：亲手写出 softmax、带掩码的注意力和多头注意力；哪里错了，检查会指出来。
#
# **下一课：** [第 04 课](04_masking.ipynb)，掩码。
