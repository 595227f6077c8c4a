# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Start here
#
# > What this course is, whether your machine can run it, and the way through it.
#
# In 2017 eight people published a short paper, *Attention Is All You Need* (Vaswani et al., arXiv
# 1706.03762). Its model, the **Transformer**, is inside nearly every large language model of today.
# Many readers open the paper, understand the first two pages, and get lost in section 3.
#
# This course builds the paper, piece by piece, until a model of your own translates German into
# English on your own laptop. No graphics processor is needed, and no network once it is installed.
#
# **After this page you know** that your machine is ready, which of the three ways through the
# course is yours, and where each part of the code comes from. **You need** Python, and some
# calculus later. **Time:** 10 minutes. **Paper:** its title and its figure 1.
#
# ## Three ways
#
# | way | for whom | time |
# |---|---|---|
# | the **lessons** | you want to understand and build every part | 1 to 2 hours each |
# | the [**walkthrough**](walkthrough.ipynb) | you want the whole paper once | 90 minutes |
# | the **homework** | you want to know whether you *can* do it | with each lesson |
#
# The homework has no pages of its own yet; until then, each lesson has exercises marked *Try it*.
#
# A good order: the walkthrough first, quickly, without stopping. Then the lessons, slowly. Then the
# walkthrough again: now each line of it should look like an old friend.
#
# ## How a page works
#
# You read these pages in **JupyterLab**: `make lab` in the course's folder opens it. Click into a
# grey cell and press Shift+Enter: it runs, and the next one is selected. To run a page from the
# top, choose *Run, Restart Kernel and Run All Cells*. Change things! Nothing can break: the
# original is one `git checkout` away.
#
# - **Guess first** marks a question. Answer it before you run the cell below it.
# - A cell with `assert` is a **claim**. It checks the sentence above it, and stops if it is false.
#   What it prints, it has checked.
# - **Try it** marks something to change.
#
# Each page exists twice: `03_attention.ipynb` is what you open; `03_attention.py` is the same page
# as plain text, easy to read and to compare in an editor. JupyterLab keeps the two alike when you
# save.
#
# ## Is this machine ready?

# %%
import math
import os
from importlib import import_module
from pathlib import Path

import torch
from IPython.display import Markdown

from course.corpora import captions
from course.device import SCALES, SIZES, pick, scale
from course.doctor import doctor
from course.viz.start_here import alignments, course_map

# %% [markdown]
# `doctor` looks at Python, the packages, the device and the data. `OK` is good. `NOTE` means:
# something is not here, and the course goes on without it. `FAIL` says what to do.

# %%
ready = doctor()

# %%
assert ready, "Not yet: do what the first FAIL above says, restart the kernel, run this page again."
print("Your machine can run the course.")

# %% [markdown]
# ## Device and scale
#
# The same pages run on a small laptop and on a large server. Two words decide how much they
# compute: the **device** (`cpu`; `cuda` for an NVIDIA graphics processor; `mps` for a Mac's) and
# the **scale**:
#
# - `cpu`: two processor cores, each lesson in about two minutes;
# - `gpu`: larger models and more data, if there is a graphics processor;
# - `smoke`: so small that everything runs within seconds. It is made for tests; the results are
#   bad.

# %%
print(f"device: {pick().type}, scale: {scale()}")
for name in ("walkthrough_minutes", "copy_steps"):
    print(f"  {name}: " + ", ".join(f"{s} {n:g}" for s, n in zip(SCALES, SIZES[name])))

# %% [markdown]
# You change them with **environment variables**, before you open JupyterLab:
#
# | variable | values | what it does |
# |---|---|---|
# | `COURSE_SCALE` | `auto` (or not set), `smoke`, `cpu`, `gpu` | chooses the sizes |
# | `COURSE_DATA` | a folder | where the files of Multi30k lie, if you have them |
# | `COURSE_OFFLINE` | `1` | asks no network for data |
#
# On Linux and macOS: `COURSE_SCALE=smoke make lab`. In Windows PowerShell:
# `$env:COURSE_SCALE = "smoke"`, then `jupyter lab`.
#
# The next cell proves that the device computes: it takes a softmax, the function that you will meet
# on every page, and compares the result with one made by hand.

# %%
# NBVAL_CHECK_OUTPUT
scores = [1.0, 2.0, 3.0]
by_hand = [math.exp(s) / sum(math.exp(t) for t in scores) for s in scores]
on_device = torch.tensor(scores, device=pick()).softmax(0).tolist()
assert all(abs(a - b) < 1e-5 for a, b in zip(by_hand, on_device))
assert os.environ.get("COURSE_SCALE", "auto") in ("auto", *SCALES)
print("softmax of 1, 2, 3:", [round(p, 3) for p in on_device], "and they sum to 1")

# %% [markdown]
# ## The map
#
# One rule makes the code easy to find: **a lesson and the module that it makes bear the same
# name**. Lesson `03_attention` makes `course/attention.py`; the cells of the lesson that begin with
# `#| export` *are* the module. So whenever a page says `from course.attention import ...`, you know
# which page explains it. A module uses only modules of earlier lessons.

# %%
LESSONS = [  # notebook, title, main names that its module defines, minutes
    ("01_foundations", "Foundations", [], 120),
    ("02_seq2seq", "Sequences", [], 120),
    ("03_attention", "Attention", ["attention_weights", "MultiHeadAttention"], 120),
    ("04_masking", "Masking", ["causal_mask", "padding_mask", "Batch"], 60),
    ("05_transformer", "Transformer", ["EncoderLayer", "DecoderLayer", "Transformer"], 120),
    ("06_text", "Text", ["BPE", "token_batches", "make_batches"], 90),
    ("07_training", "Training", ["label_smoothed_loss", "paper_learning_rate", "Trainer"], 90),
    ("08_decoding", "Decoding", ["greedy_search", "beam_search", "translate", "bleu"], 75),
    ("09_multi30k", "Multi30k", ["score", "evaluate"], 60),
    ("10_beyond", "Beyond", [], 90),
]
here = {name: Path(f"{name}.py").exists() for name, *_ in LESSONS}
module_of = {name: name[3:] for name, *_ in LESSONS if here[name]}
boxes = [("00", "Start here", "this page", True)]
boxes += [(n[:2], title, module_of.get(n, ""), here[n]) for n, title, _, _ in LESSONS]
boxes += [("", "walkthrough", "the whole paper", True)]
numbers = {module: name[:2] for name, module in module_of.items()}
course_map(boxes, numbers, "Each lesson makes one module, and the modules hand the data on")

# %% [markdown]
# Follow the arrows below. A corpus gives **sentences**. `text` cuts them into tokens and numbers
# them. `masking` makes rectangles of them and says who may see what. The `transformer`, whose heart
# is `attention`, gives each possible next token a score, a *logit*. `training` improves the weights
# and writes a **checkpoint**. `decoding` uses it to translate, and `multi30k` judges the
# translations.
#
# The table tells the same with links. It is made from the files that lie beside this page, so a
# lesson that is not written yet has no link.

# %%
rows = ["| lesson | makes | main names | minutes |", "|---|---|---|---|"]
for name, title, names, minutes in LESSONS:
    label = f"{name[:2]} · {title}"
    link = f"[{label}]({name}.ipynb)" if here[name] else f"{label} (to come)"
    module = f"`course.{module_of[name]}`" if here[name] else ""
    time = minutes if here[name] else ""
    rows.append(f"| {link} | {module} | {', '.join(f'`{n}`' for n in names)} | {time} |")
Markdown("\n".join(rows))

# %% [markdown]
# The claim: the table does not lie. Every module of a lesson that is there can be imported and has
# the names that the table gives it, and each name was made in that very module.

# %%
# NBVAL_CHECK_OUTPUT
for name, _, names, _ in LESSONS:
    if here[name] and names:
        module = import_module(f"course.{module_of[name]}")
        assert all(getattr(module, n).__module__ == module.__name__ for n in names)
        print(f"{module.__name__}: {', '.join(names)}")

# %% [markdown]
# ## How to read the paper: three times
#
# 1. **The skeleton** (10 minutes): title, abstract, figure 1, table 2, conclusion. Question: what
#    do they claim?
# 2. **The model** (with the walkthrough): section 3, with a pencil. Write the shape beside each
#    symbol of each formula. Question: could I draw figure 1 without looking?
# 3. **The reasons** (with the lessons): sections 4 to 6. Question: what would get worse if I took
#    this part away? Table 3 is the authors' answer; the lessons let you find your own.
#
# ## A first taste: what a translator must do
#
# The course brings its own small corpus, **captions**: German image captions with their English
# translation, made by a grammar, so that for every pair it is known which words belong together.
# This is called the **gold alignment**.
#
# **Guess first.** If you translate German into English word by word, from left to right, in how
# many of the sentences must you jump: less than a tenth, a third, or more than half?

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
alignments(drawn, "Some captions keep their order, some move a word, some are turned around")

# %% [markdown]
# Dashed blue lines keep their order; solid orange ones cross another line. In the second caption
# look at the German verb: it stands in two pieces, one of them at the very end. In the third, the
# place comes first and the subject last.

# %%
share = sum(n > 0 for n in counts) / len(counts)
assert share > 1 / 3
assert all(0 <= i < len(p.de_tokens) and 0 <= j < len(p.en_tokens)
           for p in pairs for i, j in p.alignment)  # fmt: skip
print(f"{share:.0%} of {len(pairs)} captions change the order of their words")

# %% [markdown]
# So a translator cannot just go along. For each English word it must find, anywhere in the German
# sentence, the words that matter now. A mechanism that can look anywhere, and learns where: this is
# **attention**, and lesson [03 · Attention](03_attention.ipynb) begins with it.
#
# > **Try it.** Find a caption in `pairs` whose German verb stands at the end (search for
# > "während"). Draw it with `alignments`. How far must the translator look?
#
# ## Summary · 小结
#
# - The course builds the paper in notebooks that run; a lesson and its module bear the same name.
# - Three ways: the walkthrough for the whole, the lessons for the parts, the exercises for
#   yourself.
# - Device and scale are chosen by themselves; environment variables change them.
#
# - 本课程用可以运行的笔记本逐步实现论文；每一课与它生成的模块同名。
# - 三种学法：walkthrough 通读全文，lessons 逐个部件，练习检验自己。
# - 设备与规模自动选择，也可用环境变量修改；没有网络时用自带的 captions 语料。
# - 翻译不能逐字从左到右：必须能看任意位置，这正是注意力的作用。
#
# **Where next:** the [walkthrough](walkthrough.ipynb), or lesson
# [03 · Attention](03_attention.ipynb).
