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
# # 作业 · 文本
#
# 你要自己写代码，把文本变成子词，把句子排成批次。时间 65 分钟，只用纯 Python。先合上[课文](../../06_text.ipynb)。查资料可以，照抄不行：自己写出来的，才是自己的。
#
# `check` 想运行几次都行。它每次换一批新的词和长度来试，指出哪里错了，常常还会说明原因，再给一条对症的提示（三条提示全在题卡下面，卡住时再看）。每道练习的第二个 check 单元格用来打分：用 *Run All*（全部运行）时，一遇到还没通过的练习就停在那里，最后几行写着原因。
#
# 有一点与课文不同：这里不在词的前面加空格，而是标出词的末尾，论文那个年代就是这样做的。最后一个字符带着 `</w>`，所以 `low` 一开始切成 `l`、`o`、`w</w>`。最早把 BPE 用到翻译上的那些人，写的程序 subword-nmt 也是这样做的，你可以拿它与自己的程序对照着运行。

# %%
from collections import Counter

from course.homework import check

# %% [markdown]
# <!-- card: learn_bpe -->
# ## `learn_bpe`
#
# 找出出现最多的一对相邻符号，从左到右，凡是遇到就合成一个符号；然后再数一遍，如此反复。一对符号在词里出现几处就算几处，每一处再乘以这个词的出现次数：*banana* 里，`a n` 出现两处。
#
# **为什么重要。** 论文的模型读的就是这样学来的子词：常见的词整个是一个词元，罕见的词拆成几个，没有不认识的词。论文的词表约有 37,000 个词元。
#
# ★★★☆☆ · 30 分钟 · 3 分
#
# ```text
# learn_bpe(word_counts, n_merges): word_counts 是 dict，键是词，值是出现次数 ->
#     由 n_merges 对符号组成的列表，按学到的次序排列
# 只有当每个词都只剩一个符号时，才可以更少。符号起初是单个字符，最后一个带 </w>：
#     low 是 l、o、w</w>。次数相同时，取字典序最小的一对，比较方法和 Python 比较
#     元组一样
# ```
#
# <details><summary>提示 1</summary>
#
# 要反复做的是哪三步？每一步写成一个函数：数出各对符号，选出一对，在一个词里合并这一对。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 用一个 dict：键是一个词的符号元组，值是这个词的次数。相邻的各对用 zip(symbols, symbols[1:]) 取出，每一对加上这个词的次数。合并时用下标 i：合并之后前进 2，否则前进 1。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# best = min(counts, key=lambda pair: (-counts[pair], pair))：次数取负，最多的就排在最前；次数相同时，由符号对本身的次序来定。counts 空了就停。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "44630f11eff22322ef3d4d7a95e808bc", "grade": false, "grade_id": "learn_bpe", "locked": false, "schema_version": 3, "solution": true, "task": false}
def learn_bpe(word_counts: dict[str, int], n_merges: int) -> list[tuple[str, str]]:
    raise NotImplementedError  # your code


# %%
check("learn_bpe", learn_bpe)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "0cfce7c6eea8975f2c5f9b64788f1663", "grade": true, "grade_id": "learn_bpe-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("learn_bpe", learn_bpe, strict=True).passed

# %% [markdown]
# 看看你的函数怎样学。Regen 是雨，Schirm 是屏、伞面：两者合起来就是雨伞。它找到了哪些符号？其中哪些是语法书里没有的？

# %%
rain = {"Regen": 5, "Regenschirm": 4, "Schirm": 2, "Bildschirm": 2, "Regenmantel": 2, "Mantel": 3}
merges = learn_bpe(rain, 100)
print(" ".join(a + b for a, b in merges))

# %% [markdown]
# <!-- card: apply_bpe -->
# ## `apply_bpe`
#
# 切一个词，不管训练时见没见过：按学到的次序把各次合并重做一遍；每一次都从左到右，凡是遇到就合并。
#
# **为什么重要。** 训练和翻译时，词的切法必须相同：模型认识的是符号，换一种切法，就成了它从没读过的词。
#
# ★★☆☆☆ · 15 分钟 · 2 分
#
# ```text
# apply_bpe(word, merges): merges 是各对符号的列表，就像 learn_bpe 返回的那样 ->
#     这个词切成的符号的列表，最后一个以 </w> 结尾
# ```
#
# <details><summary>提示 1</summary>
#
# 在 learn_bpe 的第一次合并之前，一个词是什么样子？就从那里开始。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 然后照学习时那样做：按次序取出每次合并的那一对，在词里凡是遇到就连起来。这回什么都不用数了。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# symbols = [*word[:-1], word[-1] + '</w>']；在词里合并一对的函数，就是你为 learn_bpe 写的那个。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "963356ca5ffb7e7573e94e3bf468d234", "grade": false, "grade_id": "apply_bpe", "locked": false, "schema_version": 3, "solution": true, "task": false}
def apply_bpe(word: str, merges: list[tuple[str, str]]) -> list[str]:
    raise NotImplementedError  # your code


# %%
check("apply_bpe", apply_bpe)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "77dc23ef48d976b3ccac2cdc8e6da358", "grade": true, "grade_id": "apply_bpe-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("apply_bpe", apply_bpe, strict=True).passed

# %% [markdown]
# 训练时没见过的词也不成问题：它会拆成几块，每一块都认识。合并次数越多，块就越大。（`bild` 仍是一个个字母：训练时只见过 `Bild`。）

# %%
for n in (0, 5, 15, len(merges)):
    print(f"{n:3} merges:", " ".join(apply_bpe("Regenbildschirm", merges[:n])))

# %% [markdown]
# <!-- card: token_batches -->
# ## `token_batches`
#
# 按词元数把语料库切成批次，填充也算在内。
#
# **为什么重要。** 批次的每个位置都要占内存、花时间，是不是填充都一样。论文的批次装约 25,000 个词元，不管有多少句。批次分得不好，一半的算力就白白浪费了。
#
# ★★☆☆☆ · 20 分钟 · 2 分
#
# ```text
# token_batches(lengths, max_tokens): lengths 是各句词元数的列表 -> 由批次组成的
#     列表，每个批次又是一个列表，装着 lengths 的下标，每个下标恰好出现一次。一个
#     批次的代价是句子数乘以其中最长一句的词元数，不能超过 max_tokens，而且只有下
#     一句装不下了，这个批次才能结束。长度相近的放在一起：1000 个句子分下来，填充
#     不到十分之一。比 max_tokens 还长的句子：抛出 ValueError，或者自成一批
# ```
#
# <details><summary>提示 1</summary>
#
# 句子该按什么次序排，相邻的长度才相近？一批 n 个句子，最长的有 L 个词元，代价是多少？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# order = sorted(range(len(lengths)), key=lambda i: lengths[i])；按这个次序往批次里装；如果再装下一句，代价就超过上限，那就另起一批。在这个次序里，下一句总是最长的。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# if batch and (len(batch) + 1) * lengths[i] > max_tokens：把 batch 放进 batches，另起一个空的 []。无论哪种情况，都要 batch.append(i)。循环结束之后呢？
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "1753c7a606e9a162736df3bd8f4a7b89", "grade": false, "grade_id": "token_batches", "locked": false, "schema_version": 3, "solution": true, "task": false}
def token_batches(lengths: list[int], max_tokens: int) -> list[list[int]]:
    raise NotImplementedError  # your code


# %%
check("token_batches", token_batches)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "257d3cc73b6f87855caa093b5b4c3fd2", "grade": true, "grade_id": "token_batches-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("token_batches", token_batches, strict=True).passed

# %% [markdown]
# 填充有多少？把一个小语料库的各个批次画成矩阵：`#` 是词元，`.` 是填充。

# %%
lengths = [3, 11, 5, 2, 8, 4, 12, 3, 6, 5, 9, 4]
for batch in token_batches(lengths, max_tokens=24):
    width = max(lengths[i] for i in batch)
    for i in batch:
        print(f"sentence {i:2}  " + "#" * lengths[i] + "." * (width - lengths[i]))
    print(f"             {len(batch)} x {width} = {len(batch) * width} tokens")

# %% [markdown]
# 点了 *Run All*，页面跳到这里，上面却有单元格没有编号？那是运行停在了第一道还没通过的练习；原因写在那道练习的第二个 check 单元格下面。
#
# 全绿了？那么什么文本你都能切成子词，什么语料库你都能分成填充很少的批次。成绩会汇总成报告：运行 `python -m course homework report`，生成 `build/report.html`，留给你自己看。老师要打分的话，交的是这个笔记本本身。接下来是[学习率、损失和优化器](../training/training.ipynb)。
