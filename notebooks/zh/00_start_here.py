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
# # 00 · 从这里开始
#
# > 这门课讲什么，你的机器跑不跑得动，怎样从头学到尾。
#
# 2017 年，八位作者发表了一篇不长的论文：*Attention Is All You Need*（Vaswani et al., arXiv 1706.03762）。文中的模型叫 **Transformer**，如今几乎每个大语言模型里都有它。许多读者打开论文，前两页看得懂，到第 3 节就迷路了。
#
# 这门课把论文里的模型一块一块地搭起来。学到最后，你会有一个自己的模型，在自己的笔记本电脑上把德语译成英语。不需要显卡；装好之后，也不用联网。
#
# **学完这一页，你能**
#
# - 判断自己的机器是否就绪，并运行课程的一页；
# - 从论文图 1 的任何一个方框，找到讲它的那一课；
# - 分三遍读一篇研究论文，并照着计划读这一篇；
# - 查到论文里的每个难词，英文、中文、德文都有；
# - （选读）把 `scores = query @ key.mT  # (B, H, T, S)` 这样的一行代码读出声来。
#
# **先修：** Python。后面会用到一点微积分。不需要学过深度学习。
#
# **时间：** 25 分钟；连标有“选读”的部分一起 40 分钟。**论文：** 标题、摘要、图 1。

# %%
import difflib
import math
import os
from collections import Counter
from importlib import import_module

import torch
from IPython.display import HTML, Markdown

from course import ASSETS
from course.authoring.minutes import measure
from course.corpora import captions
from course.device import SCALES, pick, scale
from course.doctor import doctor
from course.homework import compare
from course.look import look
from course.viz import show
from course.viz import start_here as draw

PAGES = ASSETS.parent / "notebooks"  # wherever this page's kernel was started

# %% [markdown]
# ## 1 · 怎样用这门课
#
# | 方式 | 适合谁 | 时间 |
# |---|---|---|
# | **课文** | 你想弄懂每一个部件，并亲手实现它 | 每课约一小时 |
# | [**导读**](walkthrough.ipynb) | 你想按论文自己的次序，把它从头看到尾 | 约一小时 |
# | **作业** | 你想知道自己是不是真的**会**了 | 每份 15 分钟到 3 小时 |
#
# 第 01 课到第 08 课的末尾都有作业的链接：合上课文，自己把各个部件写出来。第 09c 课有一个由你自己设计的实验。做对了，`check` 会告诉你；做错了，它会指出你误解了什么。最后还有三份作业：[为什么](homework/reasons/reasons.ipynb)，里面有 34 个问“为什么”的问题；[考试](homework/exam/exam.ipynb)，只给一个空白的单元格，要你写出整个 Transformer；还有[六个问题](homework/questions/questions.ipynb)。在终端里，`python -m course homework list` 列出你通过了哪些，`homework report` 把结果汇成一页。（每开一个终端，先运行一次 `source .venv/bin/activate`；在 Windows 上是 `.venv\Scripts\Activate.ps1`。之后的 `python` 就是课程的 Python。）本页第 5 节有一份计划，排好了课文、导读和论文的先后。
#
# **课程的页面怎样用。** 页面要在 **JupyterLab** 里读：在课程的文件夹里运行 `make lab`，它就会打开（没有 `make`，就先按上面的办法准备好终端，再运行 `jupyter lab`）。点一下灰色的单元格，按 Shift+Enter，它就会运行，并自动选中下一个。想从头运行整页，选 *Run, Restart Kernel and Run All Cells*（运行，重启内核并运行所有单元格）。放心改！`git checkout -- notebooks/03_attention.*` 就能让一页恢复原样。（只要有一课改动过，`make test` 就会提醒你。）
#
# - 看到**先猜**，就有一个问题要你回答。先回答，再运行下面的单元格。猜错也比不猜好：答案会记得更牢。如果要你答一个数或选一项，就写进有 `mine = None` 的单元格。后面 `compare` 会告诉你差多少，成绩报告会把你所有的猜测与真实结果画在一起。不猜，页面照样能往下走。
# - `check("why_scale")` 问的是**理由**。要选 b，就写 `check("why_scale", "b")`，选别的就换字母；选错了，它会说明错在哪里。
# - 带 `assert` 的单元格是**断言**。它检验旁边的那句话，不成立就停下。它打印出来的内容，都是检验过的。
# - **试一试**是要你动手改的地方。答案折叠在下面：先改，再打开。
# - 标题末尾写着“**· 选读**”的，第一遍可以跳过。JupyterLab 会把它折起来，点旁边的小箭头就能展开。没有折起来的，就是这一页的**主干**（core）。折起来的单元格也要运行，后面的单元格要用到其中的名字。（一页末尾的几张表，也会列出折叠部分里定义了哪些名字。）
# - 以 `# NBVAL_CHECK_OUTPUT` 开头的单元格，在任何机器上打印的内容都必须一样：`make test` 会比对。你把它当普通单元格看就行。
#
# 每一页都有两份：你打开的是 `03_attention.ipynb`；`03_attention.py` 是同一页的纯文本，便于在编辑器里阅读和比较。你一保存，JupyterLab 就会让两份保持一致。

# %% [markdown]
# ## 2 · 这台机器准备好了吗？
#
# `doctor` 会检查 Python、各个软件包、设备和数据。`OK` 表示正常；`NOTE` 表示缺了点什么，但课程照样能走下去；出现 `FAIL`，后面会写明该怎么办。没有网络也不要紧：唯一要下载的是大语料库；下载不到，要用它的课就改用课程自带的小语料库。

# %%
ready = doctor()

# %% [markdown]
# 同样的页面，在小笔记本电脑上和大服务器上都能运行。怎样算，由两个设置决定。**设备**（device）决定在哪里算：`cpu`；`cuda`，即 NVIDIA 显卡；`mps`，即 Mac 的显卡。**规模**（scale）决定算多少：
#
# - `cpu`：按两个处理器核心设计，每课大约两分钟；
# - `gpu`：有显卡时，用更大的模型和更多的数据；
# - `smoke`：小到几秒钟就能全部跑完。它是测试用的，结果很差。
#
# 下面是结论。

# %%
assert ready, "Not yet: do what the first FAIL above says, restart the kernel, run this page again."
assert os.environ.get("COURSE_SCALE", "auto") in ("auto", *SCALES)
print(f"VERDICT: ready. This machine runs the course on {pick().type}, at scale {scale()}.")

# %% [markdown]
# 设备算得**对**吗？下一个单元格计算 **softmax**，这个函数每一页都会遇到。它把分数变成加起来等于一的正数：$p_i = e^{s_i} / \sum_j e^{s_j}$。我们把设备算出的结果和手算的比一比。
#
# **先猜**：分数是 1、2、3。经过 softmax，最大的那个占一半以上，还是不到一半？

# %%
mine = None  # your guess: "more" or "less"

# %%
# NBVAL_CHECK_OUTPUT
scores = [1.0, 2.0, 3.0]
by_hand = [math.exp(s) / sum(math.exp(t) for t in scores) for s in scores]
on_device = torch.tensor(scores, device=pick()).softmax(0).tolist()
assert all(abs(a - b) < 1e-5 for a, b in zip(by_hand, on_device))
assert abs(sum(by_hand) - 1) < 1e-9 and max(by_hand) > 1 / 2
print("softmax of 1, 2, 3:", [round(p, 3) for p in on_device])

# %%
compare(mine, "more" if max(by_hand) > 1 / 2 else "less", "00: the largest of three weights")

# %% [markdown]
# 三分之二：指数函数会把领先的优势放大。这个单元格通过了，就说明设备算得对。

# %% [markdown]
# ### 现在，试试你自己的句子
#
# 课程自带一个翻译模型，是照课文的办法做出来的：这个 Transformer 读过 29,000 条照片说明，德语和英语都有。学完第 09 课，你也能自己做一个。现在先来看看它。在引号之间写一句德语，也可以就用现成的这句（意思是“一只狗跑过雪地”）。
#
# **先猜**：这个句子会切成几块？

# %%
MINE = "Ein Hund rennt durch den Schnee."  # yours

look(MINE)

# %% [markdown]
# 句子切成了**词元**（token）；▁ 表示空格。模型读完这些词元，再一个接一个地写出英语词元。图里画的是模型的**注意力**（attention）。一行是一步，写成“刚写的词元 → 正在写的词元”。行里的方格表示这一步看了哪些德语词元；每行加起来是 100%。这样的图一共有 36 幅，每幅对应模型的一个**头**：在 JupyterLab 里，用图上的菜单可以换着看。图上方的说明会告诉你，你的句子里有多少内容是模型没见过的。
#
# 现在看懂这些就够了。第 03 课实现这样的头，第 09 课讨论一个方格究竟能说明什么。在终端里运行 `python -m course look "Ein Hund rennt."`，会把同样的内容做成单独的一页。
#
# > **试一试。** `MINE = "Ich liebe dich."`（“我爱你。”）译出来是什么？为什么？
#
# <details><summary>答案</summary>
#
# “Ichite laying down.”这是胡话，原因就写在图的上方：没有一条照片说明用过 dich，29,000 条里只有三条有 liebe。所以模型只能靠一些碎片去猜。其中 ▁lie 它很熟，来自 liegen（躺）：看写出 ▁laying 的那一行。模型只认识训练文本里的那个世界，别的一概不知。
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 自己选择设备和规模 · 选读
#
# 想换设备、换规模，或者从文件夹里读取大语料库，就用下面四个环境变量。

# %% [markdown]
# 设备和规模会自动选好。要改，就在打开 JupyterLab 之前设置**环境变量**：
#
# | 变量 | 取值 | 作用 |
# |---|---|---|
# | `COURSE_DEVICE` | `cpu`、`cuda`、`mps` | 选择设备 |
# | `COURSE_SCALE` | `auto`（或不设）、`smoke`、`cpu`、`gpu` | 选择规模 |
# | `COURSE_DATA` | 一个文件夹 | 如果你有 Multi30k 的文件，指明放在哪里 |
# | `COURSE_OFFLINE` | `1` | 不从网络取数据 |
#
# 在 Linux 和 macOS 上：`COURSE_SCALE=smoke make lab`。在 Windows PowerShell 里：先 `.venv\Scripts\Activate.ps1`，再 `$env:COURSE_SCALE = "smoke"`，最后 `jupyter lab`。

# %% [markdown]
# ## 3 · 图 1，以及每个方框在哪一课实现
#
# 论文的图 1 画出了整个模型，这里重画了一幅，请从下往上看。左边的**编码器**（encoder）读德语句子，右边的**解码器**（decoder）写英语句子，一次写一个词。一个虚线框是一层；N × 表示同样的层反复叠上去，论文里一共六层。绕过方框的线，把输入直接送到方框后面。
#
# **点一个方框**，就会打开讲它的那一课。同色的方框属于同一课。
#
# **先猜**：图里有 22 个方框，模型真正的工作都在两个虚线框里完成。这两个框里有几种**不同**的部件？

# %%
mine = None  # your guess: a number

# %%
figure = draw.figure_one()
HTML(draw.with_still(figure, "The Transformer, drawn by this course"))

# %% [markdown]
# 如果图的下面还有几行彩色的链接，说明这个单元格你还没有运行：不是自己生成的内容，JupyterLab 不信任。运行一下，链接就会移到图里。
#
# 不看图，也可以查这张表，内容是一样的：
#
# | 图 1 的方框 | 论文 | 课 |
# |---|---|---|
# | 输入：文本变成数 | 5.1 | [06 · 文本](06_text.ipynb) |
# | 输入和输出的嵌入 | 3.4 | [05 · Transformer](05_transformer.ipynb) |
# | 位置编码 | 3.5 | [05 · Transformer](05_transformer.ipynb) |
# | 多头注意力；softmax | 3.2 | [03 · 注意力](03_attention.ipynb) |
# | 带掩码的注意力；输出（右移）| 3.1, 3.2.3 | [04 · 掩码](04_masking.ipynb) |
# | 相加与归一化（残差连接，层归一化）| 3.1 | [05 · Transformer](05_transformer.ipynb) |
# | 前馈网络 | 3.3 | [05 · Transformer](05_transformer.ipynb) |
# | N ×，编码器的输出，线性层 | 3.1, 3.4 | [05 · Transformer](05_transformer.ipynb) |
# | 输出概率：怎样由概率得到句子 | 6.1 | [08 · 解码](08_decoding.ipynb) |
#
# 有两件事图里没有：模型怎样**学习**（[07 · 训练](07_training.ipynb)，论文第 5 节），以及怎样**评价**它（[09 · 评估](09_evaluation.ipynb)，论文第 6 节）。
#
# 现在来数。

# %%
# NBVAL_CHECK_OUTPUT
def framed(block: draw.Block) -> bool:
    return any(x < block.x and block.x + block.width < x + width and y < block.y < y + height
               for x, y, width, height in draw.FRAMES)


inside = Counter(b.name.removeprefix("masked ") for b in draw.BLOCKS if framed(b))
assert len(draw.BLOCKS) == 22 and inside.total() == 10 and len(inside) == 3
assert all((PAGES / f"{block.lesson}.py").exists() for block in draw.BLOCKS)
print("; ".join(f"{name}: {count} times" for name, count in inside.most_common()))

# %%
compare(mine, len(inside), "00: different things in figure 1")

# %% [markdown]
# **三种。** 两个虚线框里有十个方框在干活，其实只有三种部件：注意力从别的词那里收集信息，前馈网络一次只加工一个词，“add and norm”（相加与归一化）不让注意力和前馈网络的数值失控。掩码只是注意力的一个细节，它把不该看的词遮住。这幅图看着难，其实不难。
#
# > **试一试。** 把这一页盖住，凭记忆画出图 1，能画多少画多少。画好的纸留着：后面还要再画两次。
#
# <details><summary>答案</summary>
#
# 拿图来对照，从下往上看。多数人画得出两座塔，却会漏掉下面的某一样：绕过方框的线；从编码器通到解码器**中间**那个注意力的箭头；解码器**第一个**注意力里的掩码；位置；最后的线性层和 softmax。你漏了什么，学的时候就特别留意什么。
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 4 · 代码地图 · 选读
#
# 记住一条规则，代码就很好找：**每课与它生成的模块同名**。`03_attention` 这一课生成 `course/attention.py`；课文里以 `#| export` 开头的单元格**就是**这个模块。所以，只要看到哪里写着 `from course.attention import ...`，你就知道该去哪一页找讲解。每个模块都只用前面各课的模块。
#
# **编号只有数字的是主线。** 读完 00 到 09，就读完了论文，也做好了翻译模型。**带字母的是工程篇和深入篇。** 07b、07c 和 08b 讲怎样让训练又稳又快；09b、09c、10 和 11 讲得更深。这些课，第一遍都可以不读。

# %%
LESSONS = {  # page -> title, main names that its module defines
    "01_foundations": ("Foundations", ["mlp_forward", "conv1d_forward", "lstm_step"]),
    "02_seq2seq": ("Sequences", ["RNNTranslator", "alignment_error_rate"]),
    "03_attention": ("Attention", ["attention_weights", "MultiHeadAttention"]),
    "04_masking": ("Masking", ["causal_mask", "padding_mask", "Batch"]),
    "05_transformer": ("Transformer", ["EncoderLayer", "DecoderLayer", "Transformer"]),
    "06_text": ("Text", ["BPE", "token_batches", "make_batches"]),
    "07_training": ("Training", ["label_smoothed_loss", "paper_learning_rate", "train_step"]),
    "08_decoding": ("Decoding", ["greedy_search", "beam_search", "bleu"]),
    "09_evaluation": ("Evaluation", ["score", "evaluate", "compare"]),
    "07b_runs": ("Runs", ["Budget", "Trainer"]),
    "07c_speed": ("Speed", ["Switches", "FastStep"]),
    "08b_cache": ("Cache", ["DecoderCache", "cached_log_probs"]),
    "09b_inside": ("Inside", ["prune"]),
    "09c_ablations": ("Ablations", ["run_trial", "pooled_spread"]),
    "10_beyond": ("Beyond", ["LanguageModel", "sample", "linearise"]),
    "11_clinic": ("Clinic", ["Case", "overfit", "twin"]),
}
here = {name: (PAGES / f"{name}.py").exists() for name in LESSONS}
number_of = {name: name.split("_")[0] for name in LESSONS}
module_of = {name: name.split("_")[1] for name in LESSONS if here[name]}
boxes = [("00", "Start here", "this page", True)]
boxes += [(number_of[n], title, module_of.get(n, ""), here[n]) for n, (title, _) in LESSONS.items()]
boxes += [("", "walkthrough", "the whole paper", True)]
numbers = {module: number_of[name] for name, module in module_of.items()}
draw.course_map(boxes, numbers, "Each lesson makes one module, and the modules hand the data on")

# %% [markdown]
# 顺着下面的箭头看。先从语料库取来**句子**。`text` 把句子切成词元，编上号。`masking` 把词元排成矩阵，并规定谁能看到什么。`transformer` 以 `attention` 为核心，给每个可能的下一个词元打一个分数，即 logit。`training` 改进权重，训练时把权重存进**检查点**（checkpoint）。`decoding` 用检查点来翻译，`evaluation` 评价译文。第 01 课和第 02 课排在这条路之前：那里实现的是 Transformer 出现以前的模型，做过一遍，你就明白 Transformer 是为了解决什么问题。
#
# 这张表是由本页旁边的各个文件自动生成的，分钟数也是：按每分钟读 180 个词、12 行代码计算，练习不算在内。**core** 一栏是没有标“选读”的部分。

# %%
def link_to(page: str, label: str) -> str:
    """Return a link to a page, or its name alone while the page is still to come."""
    return f"[{label}]({page}.ipynb)" if (PAGES / f"{page}.py").exists() else f"{label} (to come)"


minutes = {p.stem: measure(p) for p in PAGES.glob("*.py") if p.stem in here or p.stem in
           ("00_start_here", "walkthrough")}  # page -> (core, all)
rows = ["| lesson | makes | main names | minutes: core | all |", "|---|---|---|---|---|"]
for name, (title, names) in LESSONS.items():
    module = f"`course.{module_of[name]}`" if here[name] else ""
    core, whole = minutes.get(name, ("", ""))
    label = link_to(name, f"{number_of[name]} · {title}")
    rows.append(f"| {label} | {module} | {', '.join(f'`{n}`' for n in names)} | {core} | {whole} |")
Markdown("\n".join(rows))

# %% [markdown]
# 断言：表里说的都属实。凡是已有的课，模块都能导入，里面有表中列出的名字，而且每个名字都是在那个模块里定义的。

# %%
# NBVAL_CHECK_OUTPUT
checked = 0
for name, (_, names) in LESSONS.items():
    if here[name]:
        module = import_module(f"course.{module_of[name]}")
        assert all(getattr(module, n).__module__ == module.__name__ for n in names), name
        checked += 1
assert checked == sum(here.values()) >= 13
print("each lesson's module has the names that the table gives it")

# %% [markdown]
# ## 5 · 怎样读一篇论文：读三遍
#
# 论文不是小说。要是从第一行一直读到最后一行，遇到第一个公式就会放弃。Keshav（2007）建议分**三遍**读，每一遍要回答什么问题、读到哪里为止，都不一样。我们调整了他的方法，让它适合这篇论文，也适合刚入门的读者：先看概貌，再看各个部件和它们的推导，最后读论文本身。Keshav 的最后一遍，是在脑子里把论文重新实现一遍。在这里，你用代码重新实现一遍：课文就是做这件事的。
#
# | 遍 | 什么时候 | 读 | 不读 | 得到什么 |
# |---|---|---|---|---|
# | **1 · 骨架** | 今天，10 分钟 | 标题、摘要、各节标题、图 1、表 2、第 7 节 | 公式 | 五个答案，每个一行（见下文） |
# | **2 · 部件** | 跟着课文 | 课文开头列出的那几节，手里拿着铅笔 | 别的论文 | 每个符号旁边写上形状；列出还不明白的地方 |
# | **3 · 论文本身** | 最后，旁边放着[导读](walkthrough.ipynb) | 每一行，表格和脚注也读 | 什么都不略过 | 凭记忆写一页：模型、理由、局限，以及**你**接下来会试什么 |
#
# **第一遍的五个答案**（Keshav 的五个 C）。现在花十分钟，每个问题写一行；写完再打开我们的答案。
#
# 1. **类别（Category）：** 这是哪一类论文？新方法，测量，还是综述？
# 2. **背景（Context）：** 它建立在哪些已有的想法上？它反对的是什么？
# 3. **正确性（Correctness）：** 初看起来，它的假设站得住吗？
# 4. **贡献（Contributions）：** 新在哪里？
# 5. **清晰（Clarity）：** 写得好吗？你在哪里卡住了？
#
# <details><summary>我们的答案</summary>
# <ol>
# <li>一种新方法：一个网络结构，并有实验。</li>
# <li>它建立在编码器-解码器和注意力之上；在此之前，注意力只是循环网络的帮手。它反对循环，因为循环没法并行计算。</li>
# <li>主要的假设是：只用注意力，再加上位置信息，就完全不需要循环。表格里的翻译和句法分析结果支持这一点。至于每个部件有多重要，要看表 3。</li>
# <li>只用注意力的模型；缩放；多个头；训练开销更小，BLEU 更高。</li>
# <li>篇幅短，内容密。许多人停在 3.2 节：Q、K、V 突然冒了出来，没有交代来由。第 03 课会把来由讲给你听。</li>
# </ol>
# </details>
#
# 如果循环、卷积、softmax、困惑度对你都是生词，读**第二遍**就要靠课文帮忙：用到哪个词，都会先解释。学一课**之前**，先花五分钟读它列出的那一节，不懂的做上记号。学完**之后**再读一遍。这时还剩下的记号，就是你的问题。
#
# **第三遍**是检验。每读一句都问：作者怎么知道的？有数字，有理由，还是只是猜测（“we suspect”“we hypothesize”，即“我们猜想”“我们假设”）？论文里的许多句子，导读都用测量检验过。
#
# ### 计划：沿着主线，一课一课读主干
#
# 计划就是沿着主线走：按次序读 00 到 09 的主干，每课配上论文里对应的那几节；走到头，第二遍也就读完了。然后配着导读，读第三遍。每次学一两个小时；学完一课，正好歇一歇。

# %%
PATH = ["00_start_here", *(name for name in LESSONS if number_of[name].isdigit() and number_of[name] < "10")]
KNOWN: list[str] = []  # put "01_foundations" and "02_seq2seq" here if you know backpropagation and RNNs
rows = ["| stage | what | minutes: core | hours so far | all |", "|---|---|---|---|---|"]
steps = [("pass 1 and 2", name, *minutes[name]) for name in PATH if name not in KNOWN]
steps += [("pass 3", "walkthrough", *minutes["walkthrough"]), ("pass 3", "the paper, every line", 60, 60)]
clock = 0
for stage, step, core, whole in steps:
    clock += core
    what = link_to(step, step) if step in minutes else step
    rows.append(f"| {stage} | {what} | {core} | {clock // 60}:{clock % 60:02} | {whole} |")
Markdown("\n".join(rows))

# %%
# NBVAL_CHECK_OUTPUT
assert [name[:2] for name in PATH] == [f"{number:02}" for number in range(10)]
assert all(here[name] for name in PATH[1:])
assert all(core <= whole for core, whole in minutes.values())
print("the path:", " ".join(name[:3].rstrip("_") for name in PATH))

# %% [markdown]
# 这里的分钟数只算阅读和运行，练习不算；如果这些内容你都没学过，花两倍的时间也很正常。第一遍的十分钟，已经算在这一页里了。
#
# > **试一试。** 把你已经会的写进 `KNOWN`，运行这个单元格。还剩几个小时？
#
# <details><summary>答案</summary>
#
# 看表的最后一行。如果把打基础的两课都写进 `KNOWN`，它们的主干就不用读了，能省两个多小时。即便如此，也请读一读这两课的最后一节：那里讲了论文想取代什么，又为什么要取代。
#
# </details>

# %% [markdown]
# ## 6 · 拦住初读者的词
#
# 论文难读，难在三处：想法、公式，还有**英语**。前两样交给课文。第三样可以查**术语表**，英、中、德三种语言都有：既收专业术语，用的是中国和德国教科书里的说法；也收学术英语的日常词，这些词哪本教科书都不讲。每个词用英文和中文各解释一行，再注明在哪一课实现（`00_start_here` 表示这是日常词，没有什么要实现）。
#
# **先猜**：论文第一页上的三个词 *eschew*、*preclude*、*transduction* 是什么意思？先用自己的话说出来，再一个一个地查。

# %%
terms = draw.read_glossary()
lessons_here = {name for name in here if here[name]} | {"00_start_here", "walkthrough"}


def look_up(word: str) -> HTML:
    """Show the entries of the glossary that hold a word of any of the three languages."""
    found = draw.find_terms(terms, word)
    if not found:
        known = {name.lower(): term for term in terms for name in term[:3]}
        near = [known[name] for name in difflib.get_close_matches(word.lower(), known)]
        print(f"Nothing holds {word!r}." + (" Did you mean one of these?" if near else ""))
        found = near
    return HTML(draw.glossary_table(found, lessons_here))


look_up("eschew")

# %% [markdown]
# *eschew*：有意避开。*preclude*：使不可能。*transduction*：把一个序列变成另一个序列。`look_up` 三种语言都查，打错一两个字母也不要紧：试试 `look_up("Skalarprodukt")`、`look_up("困惑度")`、`look_up("transducton")`。

# %%
# NBVAL_CHECK_OUTPUT
for word in ("residual", "残差", "Residualverbindung", "Skalarprodukt", "困惑度", "preclude"):
    best = draw.find_terms(terms, word)[0]
    assert word.lower() in "\n".join(best[:3]).lower()
    print(f"{word} -> {best.term_en} · {best.term_zh} · {best.term_de}")
assert len(terms) >= 200 and len({term.term_en for term in terms}) == len(terms)

# %% [markdown]
# **边打边查。** 下面的图表随打随查；生成的网页版不运行 Python，也照样能查。在列表**下方**的框里输入；清空以后，又从字母 A 开始。

# %%
show(draw.glossary_search(terms, first="residual"),
     alt="A field to type in, and the glossary's terms that hold what is typed: residual, with its kin")

# %% [markdown]
# **六个词，在这里另有意思。** 正因为你认识它们，才最容易误读。
#
# | 词 | 你可能想到 | 在这里 |
# |---|---|---|
# | *draw* dependencies | 画图 | 建立联系 |
# | *employ* | 工作，雇用 | 使用 |
# | *factor*（动词）| 因素 | 拆成几部分 |
# | *literature* | 小说，文学 | 已发表的研究 |
# | *memory* | 你记得的事 | 存下来的向量（在我们的代码里：编码器的输出） |
# | *respectively* | 尊敬地，respektvoll | 分别，即按刚才列出的次序 |

# %% [markdown]
# > **试一试。** 术语表就是一个普通的文件 `assets/glossary.tsv`，共六列，用制表符隔开。挑一个难住**你**的词加进去，重新运行这一节，再到图表里把它找出来。
#
# <details><summary>答案</summary>
#
# 六列依次是：英文词、中文词、德文词、英文解释、中文解释、在哪一课实现（日常词写 `00_start_here`）。如果单元格停下报错，说明这一行的制表符不是五个：许多编辑器会把你按的 Tab 换成空格。
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 按论文次序排列的词，以及全部的词 · 选读
#
# 读第一遍时，可以把这两份清单放在手边：一份是每一节的难词，一份是整个术语表。

# %% [markdown]
# 点一节的标题，就会看到这一节的词和解释。

# %%
PAPER_WORDS = {
    "abstract": "sequence transduction, propose, solely, dispense with, superior, ensemble, establish, "
    "state of the art, literature, generalize, constituency parsing",
    "1 introduction": "recurrent neural network, long short-term memory, gating, language model, "
    "push the boundaries, factor, hidden state, inherently, preclude, parallelization, constraint, "
    "conditional computation, compelling, integral part, dependency, without regard to, "
    "in conjunction with, eschew, rely on, draw dependencies",
    "2 background": "arbitrary, albeit, at the cost of, effective resolution, counteract, "
    "intra-attention, reading comprehension, abstractive summarization, textual entailment, "
    "end-to-end, memory network, to the best of our knowledge",
    "3 model": "encoder-decoder, auto-regressive, point-wise, fully connected layer, respectively, "
    "stack, sub-layer, employ, residual connection, layer normalization, facilitate, subsequent, "
    "offset",
    "3.2 attention": "query, key, value, compatibility function, additive attention, "
    "matrix multiplication, outperform, suspect, magnitude, beneficial, projection, concatenate, "
    "jointly attend, representation subspace, inhibit, mimic, information flow, illegal connection",
    "3.3 to 3.5": "position-wise, kernel, linear transformation, embedding, weight sharing, inject, "
    "sinusoid, wavelength, geometric progression, hypothesize, extrapolate",
    "4 why self-attention": "desideratum, complexity, path length, long-range dependency, traverse, "
    "contiguous, dilated convolution, separable convolution, restricted self-attention, "
    "interpretable, exhibit, syntactic, semantic",
    "5 training": "regime, byte-pair encoding, word piece, optimizer, warm-up, thereafter, "
    "inverse square root, regularization, dropout, label smoothing, perplexity, BLEU",
    "6 results": "surpass, checkpoint averaging, beam search, length penalty, hyperparameter, "
    "development set, floating point operation, sustained, vary, sophisticated, over-fitting, "
    "inference, attain, semi-supervised, yield",
    "7 conclusion": "modality",
}
entry = {term.term_en: term for term in terms}
parts = []
for section, words in PAPER_WORDS.items():
    explained = draw.glossary_table([entry[word] for word in words.split(", ")], lessons_here)
    parts.append(f"<details><summary><b>{section}:</b> {words}</summary>\n{explained}</details>")
HTML("\n".join(parts))

# %%
# NBVAL_CHECK_OUTPUT
listed = [word for words in PAPER_WORDS.values() for word in words.split(", ")]
assert set(listed) <= set(entry) and len(set(listed)) == len(listed)
print(f"All {len(listed)} words are in the glossary.")

# %% [markdown]
# 有些词要按术语表里的写法来查：论文写的是 *gated*、*dispensing with*、*desiderata*，就查 *gating*、*dispense with*、*desideratum*。有一个出名的词，论文里其实没有：**ablation**（消融实验）。表 3 那一类实验，大家都这么叫。
#
# **整份术语表**，可以滚动，也可以打印：

# %%
table = draw.glossary_table(terms, lessons_here)
HTML(f"<details><summary>All {len(terms)} terms: click to open</summary>\n{table}</details>")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 7 · 记号 · 选读
#
# 代码沿用论文里的名字，每行后面写着结果的**形状**，也就是每个轴上有多少个数。一个大写字母代表一个轴。
#
# | 字母 | 轴 | 论文里 | base 模型 |
# |---|---|---|---|
# | B | 一个批次（batch）里的句子 | | 没有说有多少句，只说每一侧约 25,000 个词元 |
# | S | 源句（**s**ource）的位置 | $n$ | |
# | T | 目标句（**t**arget）的位置 | $m$ | |
# | L | 只有一个序列时的位置 | $n$ | |
# | Q, K | 查询的个数，键的个数 | | |
# | D | 模型的宽度 | $d_{model}$，在表 1 里是 $d$ | 512 |
# | H | 注意力头（**h**ead）| $h$ | 8 |
# | Dk, Dv | 一个头里，键的宽度、值的宽度 | $d_k$, $d_v$ | 64 |
# | F | 前馈网络（**f**eed-forward）内部的宽度 | $d_{ff}$ | 2048 |
# | V | 词表（**v**ocabulary）的大小 | | 约 37,000 |
#
# | 论文里 | 代码里 |
# |---|---|
# | $d_{model}$, $h$, $d_{ff}$, $N$, $P_{drop}$ | `d_model`, `n_heads`, `d_ff`, `n_layers`, `dropout` |
# | $Q$, $K$, $V$ | `query`, `key`, `value` |
# | $W^Q$, $W^K$, $W^V$, $W^O$ | `w_q`, `w_k`, `w_v`, `w_o` |
# | 编码器的输出 | `memory` |
# | 源句；目标句 | `src`；`tgt`（`tgt_in` 送进解码器，`tgt_out` 是解码器要预测的） |
# | $\epsilon_{ls}$, $\alpha$, $warmup\_steps$ | `label_smoothing`, `length_penalty`, `warmup_steps` |
#
# 四点提醒。论文里的 $n$ 是长度，$N$ 是层数。$k$ 在论文第 4 节是卷积的宽度，在 3.5 节是距离。在形状里，Q、K、V 是**数**（查询的个数、键的个数、词表的词数）；在公式里，$Q$、$K$、$V$ 是**矩阵**。还有，在我们的掩码里，**True 表示可以关注**；有些库的含义相反。
#
# 我们来把一行代码读出声。一共有 B = 2 个句子，源句有 S = 7 个词，目标句有 T = 5 个词。注意力有 H 个头；在每个头里，每个目标词都拿自己的查询，去和每个源词的键比较。
#
# **先猜**：`scores` 的形状是什么？

# %%
# NBVAL_CHECK_OUTPUT
B, S, T, H, D = 2, 7, 5, 8, 512
Dk = D // H
assert Dk == 64
source, target = torch.zeros(B, S, D), torch.zeros(B, T, D)
key = source.view(B, S, H, Dk).transpose(1, 2)  # (B, H, S, Dk)
query = target.view(B, T, H, Dk).transpose(1, 2)  # (B, H, T, Dk)
scores = query @ key.mT  # (B, H, T, S)
weights = scores.softmax(dim=-1)  # (B, H, T, S)
assert scores.shape == (B, H, T, S)
assert torch.allclose(weights.sum(dim=-1), torch.ones(B, H, T))
print("scores:", tuple(scores.shape), "= (B, H, T, S)")

# %% [markdown]
# 从右往左念：“每个源词，每个目标词，每个头，每个句子，都有一个分数。”Dk 这个轴没有了：做点积时已经沿着它求了和。softmax 沿最后一个轴计算，所以每个目标词分出去的注意力，加起来正好是一。
#
# > **试一试。** 如果 `value` 的形状是 (B, H, S, Dv)，`weights @ value` 是什么形状？先写下来，再生成一个 `value` 来核对。
#
# <details><summary>答案</summary>
#
# (B, H, T, Dv)。S 这个轴在求和时消掉了：每个目标词得到源句各个值的加权平均。取 `value = torch.zeros(B, H, S, 64)`，`weights @ value` 的形状就是 (2, 8, 5, 64)。如果 `value` 的行数是 T 而不是 S，就会报错停下：权重有七个，行只有五行，对不上。
#
# </details>

# %% [markdown]
# ## 8 · 先看一眼：翻译要做什么
#
# 课程自带一个小语料库 **captions**：德语的图片说明和英语译文。这些句子由语法规则生成，所以每一对里哪些词互相对应，我们都知道。这种已知正确的对应关系，叫做**标准对齐**（gold alignment）。
#
# **先猜**：从左到右，把德语逐词译成英语，有多少句子必须跳着译？不到十分之一，三分之一，还是一半以上？

# %%
mine = None  # your guess: a share, 0 to 1

# %%
pairs = captions.load("val")


def crossings(links: tuple[tuple[int, int], ...]) -> int:
    """Count the pairs of links that cross: the order of two words is turned around."""
    return sum((i - k) * (j - m) < 0 for n, (i, j) in enumerate(links) for k, m in links[:n])


assert crossings(((0, 0), (1, 1))) == 0 and crossings(((0, 2), (1, 1), (2, 0))) == 3
counts = [crossings(pair.alignment) for pair in pairs]
short = [(n, p) for n, p in zip(counts, pairs) if 6 <= len(p.de_tokens) <= 9]
chosen = [next(p for n, p in short if low <= n <= high) for low, high in ((0, 0), (2, 2), (14, 99))]

# %%
drawn = [(p.de_tokens, p.en_tokens, p.alignment) for p in chosen]
draw.alignments(drawn, "Some captions keep their order, some move a word, some are turned around")

# %% [markdown]
# 蓝色虚线表示次序没有变；橙色实线与别的线交叉。看第二条说明里的德语动词：它拆成了两截，一截放在句子最末尾。第三条里，地点在最前面，主语在最后面。

# %%
share = sum(n > 0 for n in counts) / len(counts)
assert share > 1 / 2
assert all(0 <= i < len(p.de_tokens) and 0 <= j < len(p.en_tokens)
           for p in pairs for i, j in p.alignment)
print(f"{share:.0%} of {len(pairs)} captions change the order of their words")

# %%
compare(mine, share, "00: captions that change their order")

# %% [markdown]
# 一半以上。所以翻译不能只是顺着次序译下去。每写一个英语词，都要在德语句子里找出此刻要紧的词，不管在什么位置。这就需要一种机制，哪里都能看，还能学会该看哪里：这就是**注意力**。在第 02 课，它还只是循环网络的帮手；到了第 03 课，它就独当一面了。
#
# > **试一试。** 在 `pairs` 里找一条德语动词在句末的图片说明（搜索“während”），用 `draw.alignments` 画出来。翻译时要看多远？
#
# <details><summary>答案</summary>
#
# 500 条里有 101 条含有这个词。第一条是 *Während ein Kind einen warmen Pullover anzieht, ...*（“一个孩子正在穿一件暖和的毛衣，同时……”）。英语说完“a child”，紧接着就说“is putting on”；在德语里，与它对应的 *anzieht* 却要等到 *Kind* 之后第四个词。译完这个动词，又得回头来取 *einen warmen Pullover*。
#
#     found = [p for p in pairs if "während" in p.de.lower()]
#     draw.alignments([(p.de_tokens, p.en_tokens, p.alignment) for p in found[:1]], "The verb waits")
#
# </details>

# %% [markdown]
# ## 你现在有了什么
#
# | 你有了 | 用来做什么 |
# |---|---|
# | 机器的检查结论 | 每一页都要在这台机器上运行 |
# | 带链接的图 1 | 从方框找到那一课 |
# | 三遍读法和一份计划 | 沿着主线，一课接一课 |
# | `look_up`，以及上面的图表 | 用三种语言查词 |
# | B、S、T、L、D、H、V 这些字母（选读）| 读懂课程里的每一行代码 |
#
# ## 小结
#
# - 这门课用能运行的笔记本实现整篇论文；每课与它生成的模块同名。
# - 图 1 里有十个方框在干活，其实只有三种部件：注意力、前馈网络、相加与归一化。
# - 论文读三遍：骨架、部件、论文本身。每一遍都有自己的问题。
# - 难词查术语表。形状写在每行代码后面。
# - 翻译时，必须能看到句子的任何位置：在我们的图片说明里，一半以上的句子，译过去词序就变了。
#
# ## 延伸阅读
#
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762。把它打印出来，你用得着页边的空白。
# - Keshav 2007, *How to Read a Paper*, ACM SIGCOMM Computer Communication Review 37(3)：两页，讲三遍读法和五个 C。
# - Zhang, Lipton, Li, Smola, *Dive into Deep Learning*, d2l.ai（中文版：《动手学深度学习》，zh.d2l.ai）：可以与这门课配着读的教科书，有中文术语。
#
# **下一课：** 如果你没学过深度学习，读 [01 · 基础](01_foundations.ipynb)；否则读 [03 · 注意力](03_attention.ipynb)，或者在[导读](walkthrough.ipynb)里看整篇论文。
