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
# # 作业 · 解码
#
# 你要自己写代码，把概率变成句子，再用一个数来评判句子的好坏。时间 105 分钟，除了 torch，只能靠自己的脑子。先合上[课文](../../08_decoding.ipynb)。查资料可以，照抄不行：自己写出来的，才是自己的。
#
# `check` 想运行几次都行。它每次换一批新的模型和文本来试，指出哪里错了，常常还会说明原因，再给一条对症的提示（三条提示全在题卡下面，卡住时再看）。每道练习的第二个 check 单元格用来打分：用 *Run All*（全部运行）时，一遇到还没通过的练习就停在那里，最后几行写着原因。
#
# 搜索程序完全不知道 Transformer 是什么，它只拿到一个函数：`next_log_probs(prefixes)`，输入一个 LongTensor，形状 (n, t)，每行是一个以 bos_id 开头的前缀；返回下一个编号的对数概率，形状 (n, V)。课文里同名的函数，**返回**的就是这样一个函数；课文里有许多源句，所以还要用 `rows` 说明哪个前缀属于哪一句。这里只有一个句子，好让你专心想搜索。下面就是这样一个模型，小到可以手算，只认识六个编号。

# %%
import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from course.homework import check

NAMES = ["<s>", "</s>", "the", "a", "dog", "cat"]  # bos_id is 0, eos_id is 1
TABLE = {
    "": {"the": 0.5, "a": 0.4},
    "the": {"dog": 0.4, "cat": 0.35},
    "a": {"dog": 0.9},
    "the dog": {"</s>": 0.9},
    "the cat": {"</s>": 0.9},
    "a dog": {"</s>": 0.9},
}


def next_log_probs(prefixes: Tensor) -> Tensor:
    rows = []
    for prefix in prefixes.tolist():
        row = TABLE.get(" ".join(NAMES[i] for i in prefix[1:]), {})
        rest = (1 - sum(row.values())) / (len(NAMES) - len(row))  # for all that is not listed
        rows.append([math.log(row.get(name, rest)) for name in NAMES])
    return torch.tensor(rows)  # (n, V)


next_log_probs(torch.tensor([[0], [0]])).exp()  # two equal prefixes, two equal rows

# %% [markdown]
# <!-- card: greedy_decode -->
# ## `greedy_decode`
#
# 取概率最大的编号，接在后面，再问；遇到 eos 就停，或者写满 max_len 个新编号就停。
#
# **为什么重要。** 模型给出的是概率，不是句子。贪心搜索（greedy search）是写出句子最省计算的办法，更好的搜索都要和它比。
#
# ★★☆☆☆ · 15 分钟 · 2 分
#
# ```text
# greedy_decode(next_log_probs, bos_id, eos_id, max_len) -> 编号的列表：先是 bos，
#     再是最多 max_len 个新编号，如果写出了 eos，最后一个就是 eos。
#     next_log_probs(prefixes) 接收一个 LongTensor (n, t)，是以 bos_id 开头的前
#     缀，返回下一个编号的对数概率 (n, V)
# ```
#
# <details><summary>提示 1</summary>
#
# 第一步，模型看到什么？第二步呢？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 用一个普通的列表存编号，每次调用时变成张量：torch.tensor([ids]) 的形状是 (1, t)。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# for _ in range(max_len): ids.append(next_log_probs(torch.tensor([ids]))[0].argmax().item())，最后一个编号是 eos_id 时离开循环。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "50804ccf3a11627d7646a3fe346c186a", "grade": false, "grade_id": "greedy_decode", "locked": false, "schema_version": 3, "solution": true, "task": false}
def greedy_decode(
    next_log_probs: Callable[[Tensor], Tensor], bos_id: int, eos_id: int, max_len: int
) -> list[int]:
    raise NotImplementedError  # your code


# %%
check("greedy_decode", greedy_decode)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "0af77ee4bb560f6cd5463b7141738174", "grade": true, "grade_id": "greedy_decode-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("greedy_decode", greedy_decode, strict=True).passed

# %% [markdown]
# <!-- card: beam_search -->
# ## `beam_search`
#
# 保留 `beam` 个概率最大的前缀，每个后面都接上所有可能的编号，再从得到的全部前缀里留下最好的 `beam` 个。以 eos 结尾的不再延长，放到一边等结束。
#
# **为什么重要。** 论文的译文是用束搜索得到的，束宽 4，长度惩罚 0.6。第一个词看着好，贪心搜索就会上当；没有长度惩罚，又太容易选中短句子。
#
# ★★★★★ · 60 分钟 · 5 分
#
# ```text
# beam_search(next_log_probs, bos_id, eos_id, max_len, beam, length_penalty) -> 列
#     表，1 到 `beam` 对 (ids, score)，最好的在最前。ids：先是 bos，再是新编号，
#     最后一个是 eos，或者写满 max_len 个。score：新编号的对数概率之和，除以 ((5 +
#     length) / 6) ** length_penalty，length 是新编号的个数，eos 也算（不算 eos，
#     或者算上 bos，检查也接受，只要所有 score 都这样算）。
#     next_log_probs(prefixes) 接收一个 LongTensor (n, t)，是以 bos_id 开头的前
#     缀，返回下一个编号的对数概率 (n, V)
# ```
#
# <details><summary>提示 1</summary>
#
# 先写一步：输入是由 (ids, sum) 组成的列表，求出它们的所有后继，留下最好的 `beam` 个。以 eos 结尾的候选译文，在这一步该怎么办？
#
# </details>
#
# <details><summary>提示 2</summary>
#
# 从唯一的一对 ([bos_id], 0.0) 开始。后继：对所有的 i，取 (ids + [i], total + log_probs[i])；按和排序。以 eos 结尾的放进第二个列表 finished。长度惩罚只在最后算分数时才用。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# for _ in range(max_len)：求出 live 里所有前缀的后继，排序，取 [:beam]；已结束的移到 finished；len(finished) >= beam 或者 live 空了，就停。最后按 total / ((5 + length) / 6) ** length_penalty 排序：sorted(finished or live, ..., reverse=True)。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "a9706ec487ea5417541201bfbb71f028", "grade": false, "grade_id": "beam_search", "locked": false, "schema_version": 3, "solution": true, "task": false}
def beam_search(
    next_log_probs: Callable[[Tensor], Tensor],
    bos_id: int,
    eos_id: int,
    max_len: int,
    beam: int,
    length_penalty: float,
) -> list[tuple[list[int], float]]:
    raise NotImplementedError  # your code


# %%
check("beam_search", beam_search)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "0233f32d4ec74a0b4debc50a5e985fd3", "grade": true, "grade_id": "beam_search-check", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("beam_search", beam_search, strict=True).passed

# %% [markdown]
# 用上面的模型，比较贪心搜索与束宽 2。乘一乘：0.5 · 0.4 · 0.9 = 0.18，而 0.4 · 0.9 · 0.9 = 0.324。贪心搜索选了“the”，因为 0.5 比 0.4 大，等它发现选错了，已经晚了。

# %%
print("greedy:", " ".join(NAMES[i] for i in greedy_decode(next_log_probs, 0, 1, 5)))
for ids, score in beam_search(next_log_probs, 0, 1, 5, beam=2, length_penalty=0.0):
    print(f"beam 2: {' '.join(NAMES[i] for i in ids)}   probability {math.exp(score):.3f}")

# %% [markdown]
# <!-- card: bleu -->
# ## `bleu`
#
# 语料库 BLEU：1 到 4 个词的 n 元语法，次数截断后对所有句子求和，算出精确率；四个精确率取几何平均，再乘以简短惩罚 min(1, exp(1 - r / c))。不做平滑：只要有一个精确率为 0，结果就是 0。
#
# **为什么重要。** 论文的表 2 列的就是 BLEU 值。亲手写过它，才知道 28.4 说明了什么，没说明什么。
#
# ★★★☆☆ · 30 分钟 · 3 分
#
# ```text
# bleu(hypotheses, references) -> 0 到 100 之间的数
# 两者都是句子的列表，一个句子是词元的列表（字符串，原样比较），每句有一个参考译
#     文
# ```
#
# <details><summary>提示 1</summary>
#
# 整个语料库要数出哪十个数？四个匹配数，四个总数，两个长度。先对所有句子加起来，再做除法。
#
# </details>
#
# <details><summary>提示 2</summary>
#
# Counter(zip(*(tokens[i:] for i in range(n)))) 数出 n 元语法，(a & b).total() 就是两个 Counter 截断后的匹配数。
#
# </details>
#
# <details><summary>提示 3</summary>
#
# 如果 min(matched) 为 0，返回 0.0。否则是 100 * min(1, exp(1 - r / c)) * exp(...)，括号里是 log(matched / total) 对 n = 1 到 4 的平均。
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "62796fa44ef71ca6a868a72f67897ad1", "grade": false, "grade_id": "bleu", "locked": false, "schema_version": 3, "solution": true, "task": false}
def bleu(hypotheses: list[list[str]], references: list[list[str]]) -> float:
    raise NotImplementedError  # your code


# %%
check("bleu", bleu)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "ab34b795d89626903ede06f30d0d2845", "grade": true, "grade_id": "bleu-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bleu", bleu, strict=True).passed

# %% [markdown]
# BLEU 只看词，不看意思。一个“not”能让意思完全颠倒，却扣不了几分；好译文只是换了个说法，却得零分。

# %%
reference = str.split("a dog is sleeping on the red sofa in the kitchen .")
for text in (
    "a dog is not sleeping on the red sofa in the kitchen .",
    "in the kitchen , a hound takes a nap on a scarlet couch .",
):
    print(f"{bleu([text.split()], [reference]):5.1f}  {text}")

# %% [markdown]
# 点了 *Run All*，页面跳到这里，上面却有单元格没有编号？那是运行停在了第一道还没通过的练习；原因写在那道练习的第二个 check 单元格下面。
#
# 全绿了？那么论文 6.1 节讲的，你都写出来了：搜索、搜索用的长度惩罚，还有表 2 里的那个数。成绩会汇总成报告：运行 `python -m course homework report`，生成 `build/report.html`，留给你自己看。老师要打分的话，交的是这个笔记本本身。剩下的是[考试](../exam/exam.ipynb)：从一个空白的单元格开始，写出整个模型。
