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
# # 作业 · 六个问题
#
# 六个问题，问的都是这篇论文，一共两个小时。每个问题都配一个不超过一分钟的实验，留一个写答案的地方，还有一份参考答案供你对照。
#
# 1. **先猜**，写在纸上。然后运行实验，读图。
# 2. 写下你的答案：至少 100 个词，或者 100 个汉字，用什么语言都行。说清结论是什么，为什么，实验显示了什么。`answer` 会数字数，并把文字存进你的报告。
# 3. 要看参考答案，用 `model_answer`。它末尾列着几条**要点**：对照着给自己的答案打勾，缺的补上。没有实验数字的答案，只算半个答案。
#
# 带 `assert` 的单元格是断言：打印出来的那句话如果不成立，单元格就会报错停下。课程里实现过的东西，这里都可以用。用得着的课是[第 03 课](../../03_attention.ipynb)、[第 04 课](../../04_masking.ipynb)和[第 05 课](../../05_transformer.ipynb)。

# %%
from course.homework.questions import answer, model_answer

# %% [markdown]
# ## 问题 1 · 注意力与自注意力有什么区别？
#
# 课程自带的模型把德语译成英语。它有三处用到注意力：编码器里，解码器里，两者之间。我们给它一个德语句子和英语译文，然后把**其中一个**句子里的**一个**词换掉，看哪些注意力权重会变。（看第一层：那里每个词的向量还没有混进别的词的信息。）
#
# **先猜**：德语词“Akkordeon”（手风琴）换成“Gitarre”（吉他）。三种注意力里哪些会变？如果换的是英语词呢？

# %%
from course.homework.questions import self_attention

moved, figure = self_attention.experiment()
figure

# %% [markdown]
# 行是提问的一方，列是回答的一方。先比较三张表的行和列各是什么，再看柱形图。

# %%
# NBVAL_CHECK_OUTPUT
assert moved["encoder self-attention"]["English"] == 0
assert moved["decoder self-attention"]["German"] == 0
assert moved["encoder self-attention"]["German"] > 0.01
assert moved["decoder self-attention"]["English"] > 0.01
assert min(moved["cross-attention"].values()) > 0.01
print("each self-attention moves with its own sentence only; cross-attention moves with both")

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "30aa484f183bb28fc66e6629e9ff87fc", "grade": true, "grade_id": "answer-1", "locked": false, "points": 7, "schema_version": 3, "solution": true, "task": false}
# write between the quotes, in place of the lines that stand there
answer(1, r"""
raise NotImplementedError  # your code
""")

# %%
model_answer(1)

# %% [markdown]
# ## 问题 2 · Transformer 为什么要有残差连接？
#
# 六个字母围成一圈（字母表共有八个字母），送进叠起来的若干层，要在每个位置说出前一个字母是什么。我们训练两次。其他设置完全相同，归一化也一样（前归一化：放在子层之前）；唯一的差别，是把相加 `x + sublayer(norm(x))` 换成 `sublayer(norm(x))`。模型如果什么都不知道，只能从八个字母里瞎猜一个，损失就是 ln 8，也就是图上的点线。
#
# **先猜**：第 05 课发现，**刚初始化的**网络只要有归一化，不论有没有相加，梯度传到底部时大小都合适。那么训练起来，梯度会怎样？损失呢？2 层怎样，24 层又怎样？

# %%
from course.homework.questions import residuals

ends, figure = residuals.experiment()
figure

# %%
# NBVAL_CHECK_OUTPUT
deepest = max(ends["with"])
assert ends["without"][deepest]["loss"] > residuals.BASELINE - 0.1
assert ends["with"][deepest]["loss"] < residuals.BASELINE - 0.4
assert ends["without"][2]["loss"] < residuals.BASELINE - 0.3
assert ends["without"][deepest]["gradient"] < ends["with"][deepest]["gradient"] / 10
print("without the sum, two layers learn something and the deepest stack nothing;")
print("what reaches its lowest layer is less than a tenth of what the sum lets through")

# %% [markdown]
# 再看中间那幅图：梯度一开始是有的。你已经知道三个理由（梯度的通路，信号的通路，让各个词保持不同），哪一个与此相符？

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "637c3f32cd2ba7a7f95f112bfa05e516", "grade": true, "grade_id": "answer-2", "locked": false, "points": 7, "schema_version": 3, "solution": true, "task": false}
# write between the quotes, in place of the lines that stand there
answer(2, r"""
raise NotImplementedError  # your code
""")

# %%
model_answer(2)

# %% [markdown]
# ## 问题 3 · 为什么要几个头，而不是一个？
#
# 第 03 课让一层去找两样东西。这里的任务看起来还更容易：求**差**。一个圈上有八个位置，每个位置有八个随机数。在每个位置，这一层要返回**后一个**位置的数减去**前一个**位置的数，也就是回答：这里有多陡？
#
# **先猜**：一个宽度为 16 的头，与两个宽度为 8 的头，参数一样多。把什么都不做的误差记作 1，只用一个头，误差能降到多少？把它加宽到四倍有用吗？（提示：头的权重都是正数。减号怎么办？）

# %%
from course.homework.questions import heads

found, figure = heads.experiment()
figure

# %%
# NBVAL_CHECK_OUTPUT
one, wide, two, four = found.values()
assert one["parameters"] == two["parameters"] == four["parameters"] == wide["parameters"] / 4
assert one["error"] > 0.45 and wide["error"] > 0.45
assert two["error"] < 0.05 and four["error"] < 0.05
print("one head keeps half of the error, even with four times the parameters; two heads lose it")

# %% [markdown]
# 为什么是二分之一？所有位置都要经过这个头的**同一个**矩阵 $M$。如果这个头给后一个位置的权重是 $w$，给前一个的是 $1 - w$，输出就是 $M(w\,a + (1 - w)\,b)$。要接近 $a - b$，$M$ 对 $a$ 必须是正的，对 $b$ 必须是负的。最好也只能取 $w = 1$ 或 $w = 0$：一个位置答对，另一个放弃。放弃了哪一个，看第一幅图就知道。

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "b2587ad2324a9401d38a51437e42473b", "grade": true, "grade_id": "answer-3", "locked": false, "points": 7, "schema_version": 3, "solution": true, "task": false}
# write between the quotes, in place of the lines that stand there
answer(3, r"""
raise NotImplementedError  # your code
""")

# %%
model_answer(3)

# %% [markdown]
# ## 问题 4 · 自注意力层的代价是多少？为什么？
#
# 第 03 课数的是运算次数。现在来量时间和内存，分两部分：四个**投影**（查询、键、值、输出），以及**注意力**本身（分数、softmax、加权和）。注意力量两种：一种是你自己会写的那样，一种是 PyTorch 的融合函数。旁边再放一个同样宽度的循环层。时间只算这台机器的一个核心真正在算的时间，所以别的程序干扰不大；内存只算训练时为求梯度而保留的那部分。
#
# **先猜**：句子长度加倍，每一部分的代价变成几倍？模型宽度加倍呢？从什么长度起，注意力本身占的代价比投影大？

# %%
from course.homework.questions import cost

exponents, figure = cost.experiment()
figure

# %% [markdown]
# 图例里的数是拟合出的指数：`n^2.0` 表示长度加倍，代价变成四倍。曲线在哪里拐弯，那里起决定作用的就不再是运算次数。输入短时，主要是每次调用的固定开销；表太大，处理器的高速缓存装不下时，实际代价就比按乘法次数算出来的高。

# %%
# NBVAL_CHECK_OUTPUT
over_n, over_d, memory = (exponents[name] for name in cost.MEASURED)
assert over_n["attention"] > over_n["projections"] + 0.4
assert over_n["attention, fused"] > over_n["projections"] + 0.4
assert over_d["projections"] > over_d["attention"] + 0.4
assert memory["attention"] > 1.75
assert max(memory[part] for part in ("projections", "attention, fused", "recurrence")) < 1.1
assert cost.WIDTH / 8 < exponents["crossing"]["time"] < 8 * cost.WIDTH
print("over n attention grows faster, over d the projections do;")
print("a table of n x n is kept by the hand-written attention only")

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "36d3a2c2930f42b50a5f5cb898636ab3", "grade": true, "grade_id": "answer-4", "locked": false, "points": 7, "schema_version": 3, "solution": true, "task": false}
# write between the quotes, in place of the lines that stand there
answer(4, r"""
raise NotImplementedError  # your code
""")

# %%
model_answer(4)

# %% [markdown]
# ## 问题 5 · Transformer 为什么需要掩码？
#
# 一个极小的翻译任务：十个源字母，**每个都有两种正确的译法**。输入一行字母，每个字母随机译成两个词中的一个。谁也不可能知道会是哪一个。所以，只要没有作弊，损失就有下限：每个字母 ln 2，结尾为 0，平均每个词 0.59 奈特。
#
# 我们训练两个 Transformer，一个带因果掩码，一个不带。然后让两个都自己写，一个词一个词地写；两种译法写出哪个都算对。最后取写得好的那个，让它读输入时不用**填充**掩码。
#
# **先猜**：哪个的训练损失小？哪个写得好？一行后面加上多少个凑数的词元，译文就坏了？

# %%
from course.homework.questions import masks

found, figure = masks.experiment()
figure

# %%
# NBVAL_CHECK_OUTPUT
honest, leaky = "with the causal mask", "without"
assert found["loss"][leaky] < 0.7 * masks.FLOOR < 0.95 * masks.FLOOR < found["loss"][honest]
assert found["right"][honest] > 0.75 and found["right"][leaky] < 0.2
assert abs(found["padding"]["kept"] - found["right"][honest]) < 0.03
assert found["padding"]["forgotten"] < found["right"][honest] - 0.4
print("without the causal mask: a loss that nobody can have, and hardly a row written rightly;")
print("without the padding mask: dummies are read as words")

# %% [markdown]
# 要证明有泄漏，最好的证据就是损失低于下限。所以只要办得到，训练**之前**就把下限算出来。

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "f9e20bfe6697129d0905d4448d2965b2", "grade": true, "grade_id": "answer-5", "locked": false, "points": 7, "schema_version": 3, "solution": true, "task": false}
# write between the quotes, in place of the lines that stand there
answer(5, r"""
raise NotImplementedError  # your code
""")

# %%
model_answer(5)

# %% [markdown]
# ## 问题 6 · 除了论文的办法，还有哪些位置嵌入？
#
# 注意力不知道次序（第 05 课）。所以总要在某个地方告诉模型，每个词在哪里。论文把正弦和余弦加到嵌入上。后来，人们试过在别的地方告诉它。下面有五种办法，每种只有几行；还有 `none`，什么也不告诉它。
#
# 位置信息可以从四个地方加进来。下面这个类哪里都不加；其余的类各改写它的一两个函数。模型的其他部分都不变。

# %%
import torch

from course.homework.questions import positions

positions.source(positions.Positions)

# %% [markdown]
# 下面是注意力；每算到其中一处，它就调用相应的函数：

# %%
positions.source(positions.Attention)

# %% [markdown]
# ### 正弦（论文 3.5 节）：加到嵌入上
#
# $$x_i \leftarrow x_i + PE_i, \qquad PE_{(i,\,2j)} = \sin(i\,\omega_j), \quad
# PE_{(i,\,2j+1)} = \cos(i\,\omega_j), \quad \omega_j = 10000^{-2j/d_{model}}$$
#
# 每个位置有自己的一组数：这是**绝对**位置。没有参数；多远的位置都算得出来。

# %%
positions.source(positions.sinusoids, positions.Sinusoidal)

# %% [markdown]
# ### 可学习的（Gehring et al. 2017；BERT、GPT-2）：加到嵌入上
#
# $$x_i \leftarrow x_i + p_i, \qquad p_i \in \mathbb{R}^{d_{model}} \text{ is a learned row}$$
#
# 也是绝对位置。文本长了，可能出两种错：表里没有那一行（报错），或者有那一行，但训练从没碰过。用一行五个字母训练，表里哪些行会得到梯度？

# %%
positions.source(positions.Learned)

# %%
# NBVAL_CHECK_OUTPUT
model = positions.Recall("learned", positions.Sizes(longest=10))
model(torch.tensor([[1, 2, 3, 4, 5]])).sum().backward()
touched = model.positions.table.grad.abs().sum(dim=1) > 0
assert touched.tolist() == [True] * 5 + [False] * 5
print("rows of the table that learn:", touched.nonzero().flatten().tolist())

# %% [markdown]
# ### 相对（Shaw et al. 2018）：加到键和值上
#
# $$e_{ij} = \frac{q_i \cdot (k_j + a^K_{ij})}{\sqrt{d_k}}, \qquad
# z_i = \sum_j \alpha_{ij}\,(v_j + a^V_{ij}), \qquad a_{ij} = w_{\operatorname{clip}(j - i,\,k)}$$
#
# 可学习的向量按**距离**来分，每个距离一个，不再是每个位置一个。超过 $k$ 的距离共用最后那个：$\operatorname{clip}(d, k) = \max(-k, \min(k, d))$。所以不论多远，都有向量可用。点积分成两部分，$q_i \cdot k_j$ 和 $q_i \cdot a^K_{ij}$：代码加上的是第二部分。

# %%
positions.source(positions.Relative)

# %%
# NBVAL_CHECK_OUTPUT
rows = positions.Relative(positions.Sizes(clip=2)).row(6)  # (Q, K)
assert rows[5].tolist() == [0, 0, 0, 0, 1, 2] and rows[0].tolist() == [2, 3, 4, 4, 4, 4]
print("k = 2: which of the five vectors stands between query (row) and key (column)")
print(rows)

# %% [markdown]
# ### 旋转，RoPE（Su et al. 2021）：转动查询和键
#
# $$\begin{pmatrix} q_{2j} \\ q_{2j+1} \end{pmatrix} \leftarrow
# \begin{pmatrix} \cos i\,\omega_j & -\sin i\,\omega_j \\ \sin i\,\omega_j & \cos i\,\omega_j \end{pmatrix}
# \begin{pmatrix} q_{2j} \\ q_{2j+1} \end{pmatrix}, \qquad \omega_j = 10000^{-2j/d_k},$$
#
# 每个键也同样处理。就像钟的两根指针，各按自己的位置转动：它们之间的夹角，只取决于两个位置相隔多远。每个向量按自己的位置转（绝对），每个**分数**却只与距离有关（相对）。没有参数。

# %%
positions.source(positions.rotate, positions.Rotary)

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
query, key = torch.randn(2, 1, 8)
scores = []
for i, j in ((5, 3), (105, 103), (5, 4)):
    turned_query = positions.rotate(query, torch.tensor([i]))
    turned_key = positions.rotate(key, torch.tensor([j]))
    assert torch.isclose(turned_query.norm(), query.norm())  # turned, not stretched
    scores.append((turned_query @ turned_key.T).item())
    print(f"query at {i}, key at {j}: q·k = {scores[-1]:.2f}")
assert abs(scores[0] - scores[1]) < 1e-3 < abs(scores[0] - scores[2])

# %% [markdown]
# ### ALiBi（Press et al. 2021）：给分数加偏置
#
# $$e_{ij} = \frac{q_i \cdot k_j}{\sqrt{d_k}} - m_h\,(i - j), \qquad m_h = 2^{-8h/H}
# \quad (h = 1, \dots, H)$$
#
# 离得越远，分量越轻，沿一条直线下降。什么也不用学。每个头有自己的斜率：第一个头只看几个词，最后一个几乎看到全部。这种办法是给只看前文的模型设计的；如果模型也看后文，我们的代码就取 $|i - j|$。

# %%
positions.source(positions.slopes, positions.ALiBi)

# %%
# NBVAL_CHECK_OUTPUT
assert (1 / positions.slopes(8)).tolist() == [2, 4, 8, 16, 32, 64, 128, 256]
print("8 heads, one divided by the slope:", (1 / positions.slopes(8)).int().tolist())

# %% [markdown]
# ### 它们各对分数做了什么
#
# 把一行 91 个相同的字母送进刚初始化的模型，不训练。两个查询往回看，一个在位置 40，一个在位置 90。字母都相同，有差别也只能来自位置。
#
# **先猜**：在哪几幅图里，两条曲线重合？

# %%
positions.draw_effects()

# %% [markdown]
# 上面一排：`none` 什么也分不出来；两种绝对的办法，换一个位置，曲线就不同。下面一排：两个查询的曲线重合。Shaw 的线从截断距离（$k = 8$）起是平的，旋转是许多波之和，ALiBi 按定义就是一条直线。（对正弦曲线，第 05 课发现，两个**编码**的点积只取决于距离。但分数不只取决于编码：中间还有矩阵 $W^Q$ 和 $W^K$，也还有字母。）

# %% [markdown]
# ### 用短的训练，用长的测试
#
# 任务：在每个位置，说出往回数第 1、2、3、4 个字母。共有 8 个字母，所以瞎猜的正确率是 1/8。模型只有一个因果层，8 个头。**训练用 16 个字母的行，测试用 128 个字母的行。** 掩码是因果的，所以长行的位置 50，就相当于一行 50 个字母的末尾：只要一个长行，就能测出所有长度。
#
# **先猜**：画六条曲线，表示正确率随长度的变化，长度从 5 到 128。哪些在 16 以内达到 1？超过 16 之后哪些会掉下来，是一下子掉还是慢慢掉？（约需一分钟。）

# %%
runs = positions.experiment()
positions.draw(runs)

# %% [markdown]
# 色带的上下边，是各个随机种子的最大值和最小值。左边是四个距离的平均；右边每个距离单独画，只画到训练时的长度为止。

# %%
# NBVAL_CHECK_OUTPUT
found, back = positions.means(runs), positions.by_distance(runs)
inside, near, far = "trained length", "up to twice", "four to eight times"
assert all(found[kind][inside] > 0.7 for kind in ("sinusoidal", "learned", "relative", "rotary"))
assert all(found[kind][near] < 0.4 for kind in ("sinusoidal", "learned"))
assert found["rotary"][near] > 0.8 and found["rotary"][far] < 0.4
assert found["relative"][far] > 0.95
assert found["alibi"][far] > found["alibi"][inside] - 0.15
assert back["alibi"][0] > 0.9 and back["alibi"][3] < back["alibi"][0] - 0.2
print("just beyond the trained length: sinusoidal and learned fail, the other three go on;")
print("at four to eight times: rotary fails too, relative and ALiBi go on;")
print("but ALiBi is worse the farther back the letter is, even inside")

# %%
for kind, spans in found.items():
    print(f"{kind:10}", *(f"  {name}: {value:.2f}" for name, value in spans.items()))

# %% [markdown]
# **那么 `none` 呢？** 它比瞎猜好。一层没有位置信息，仍能看到前面出现过**哪些**字母，就像字母都装在一个袋子里。面对一袋字母，最好的办法是说最常见的那个。这样能猜对几成？不用模型就数得出来。

# %%
# NBVAL_CHECK_OUTPUT
sizes = positions.Sizes()
counting = positions.commonest_so_far(sizes)
for name, span in positions.spans(sizes).items():
    assert abs(found["none"][name] - counting[span].mean().item()) < 0.05
print("none is as good as naming the commonest letter so far")

# %% [markdown]
# **旋转是相对的，为什么也失败了？** 有一个头学会了往回看一个字母，我们就看它，输入还是一行相同的字母。灰色的是训练时见过的距离。

# %%
positions.draw_reasons(runs)

# %%
# NBVAL_CHECK_OUTPUT
models = {run.kind: run.model for run in runs}
curves = {
    kind: positions.scores_by_distance(models[kind], 127)[positions.looks_back_one(models[kind])]
    for kind in ("relative", "rotary", "alibi")
}
beyond = sizes.trained
assert curves["rotary"][beyond:].max() > curves["rotary"][:beyond].max()
for kind in ("relative", "alibi"):
    assert curves[kind][beyond:].max() < curves[kind][1]
print("rotary: some letter farther than ever seen gets more than all trained distances;")
print("relative is held down by its clipping, ALiBi by a line")

# %% [markdown]
# 训练让那些波在距离 0 到 15 上都对，更远的距离会怎样，训练没有管。波会转回来：一个很远的字母，分数反而高过正确的那个。大模型也有同样的麻烦（Chen et al. 2023）；解决办法是转得慢一些，让长文本也落在训练时见过的角度之内。“相对”的办法不会遇到陌生的距离：截断之后，远处的字母用的也都是训练时见过的向量。
#
# 提醒一句：这个任务只看附近，截断距离取 8 和偏向近处的办法都占了便宜。换成别的任务，名次就不同（Kazemnejad et al. 2023）。
#
# > **试一试。**（1）`positions.experiment(["none"], positions.Sizes(n_layers=2), seeds=1)`：有了第二层，因果掩码本身就带来了位置信息。画出来，从哪里看得出这一点？（2）给 `"relative"` 用 `Sizes(clip=2)`：哪些距离会答错？（3）在 `Sizes(distances=...)` 里加上距离 12：ALiBi 会怎样？相对的那种呢？

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "fea0c5de636e0b19cf1ffd177bef8c0f", "grade": true, "grade_id": "answer-6", "locked": false, "points": 7, "schema_version": 3, "solution": true, "task": false}
# write between the quotes, in place of the lines that stand there
answer(6, r"""
raise NotImplementedError  # your code
""")

# %%
model_answer(6)

# %% [markdown]
# 都答完了？那么过一天，把你的六个答案再读一遍，不看参考答案。还能讲给朋友听的，才是你的。答案会汇总成报告：运行 `python -m course homework report`，生成 `build/report.html`，留给你自己看。老师要打分的话，交的是这个笔记本本身。
