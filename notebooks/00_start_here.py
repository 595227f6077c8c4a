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
# **After this page you can**
#
# - say whether your machine is ready, and run a page of the course;
# - go from any box of the paper's figure 1 to the lesson that builds it;
# - read a research paper in three passes, with a plan for this one;
# - look up each hard word of the paper, in English, Chinese and German;
# - (more) read a line such as `scores = query @ key.mT  # (B, H, T, S)` aloud.
#
# **You need first:** Python. Some calculus later. No deep learning.
#
# **Time:** 25 minutes; 40 with all that is marked *more*. **In the paper:** title, abstract, figure 1.

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
# ## 1 · How to use the course
#
# | way | for whom | time |
# |---|---|---|
# | the **lessons** | you want to understand and build every part | about an hour each |
# | the [**walkthrough**](walkthrough.ipynb) | you want the whole paper, in its own order | about an hour |
# | the **homework** | you want to know whether you *can* do it | 15 minutes to 3 hours each |
#
# Lessons 01 to 08 end with a link to their homework: you close the lesson and write its parts yourself.
# Lesson 09c has an experiment of your own. `check` says what is right, and names the misunderstanding where something is not. At the end wait
# [the reasons](homework/release/reasons/reasons.ipynb), 34 questions on why,
# [the exam](homework/release/exam/exam.ipynb), an empty cell for a whole Transformer, and
# [the six questions](homework/release/questions/questions.ipynb). In a terminal,
# `python -m course homework list` shows what you have passed, and `homework report` makes one page of
# it. (Once in each terminal, first: `source .venv/bin/activate`; on Windows
# `.venv\Scripts\Activate.ps1`. Then `python` is the course's.) Section 5 of this page has a plan that puts lessons, walkthrough
# and paper into an order.
#
# **How a page works.** You read these pages in **JupyterLab**: `make lab` in the course's folder
# opens it (without `make`: `jupyter lab`, in a terminal that you have prepared as above). Click into a grey cell and press Shift+Enter: it runs, and the next one is selected. To
# run a page from the top, choose *Run, Restart Kernel and Run All Cells*. Change things!
# `git checkout -- notebooks/03_attention.*` brings a page back as it was. (While a lesson is changed,
# `make test` says that it is.)
#
# - **Guess first** marks a question. Answer it before you run the cell below it. A wrong guess is
#   worth more than no guess: you will remember the answer. Where a number or a choice is asked, put it
#   into the cell with `mine = None`. `compare` says later how far off it was, and the report draws all of
#   your guesses against the truth. Without a guess the page goes on all the same.
# - `check("why_scale")` asks for a **reason**. Answer by `check("why_scale", "b")`, or with another letter;
#   each wrong option says what is wrong with it.
# - A cell with `assert` is a **claim**. It checks the sentence beside it, and stops if the sentence
#   is false. What it prints, it has checked.
# - **Try it** marks something to change. Its answer is folded below it: change first, then open.
# - A heading that ends in **· more** may be left out at a first reading. JupyterLab folds it: click
#   the small arrow beside it. What stays open is the *core* of the page. Run the folded cells all the
#   same: later cells use their names. (The tables at a page's end name what they build, too.)
# - A cell that begins with `# NBVAL_CHECK_OUTPUT` must print the same on every machine: `make test`
#   compares it. For you it is a cell as any other.
#
# Each page exists twice: `03_attention.ipynb` is what you open; `03_attention.py` is the same page
# as plain text, easy to read and to compare in an editor. JupyterLab keeps the two alike when you
# save.

# %% [markdown]
# ## 2 · Is this machine ready?
#
# `doctor` looks at Python, the packages, the device and the data. `OK` is good. `NOTE` means:
# something is not here, and the course goes on without it. `FAIL` says what to do. Without a
# network all is well too: the only thing that would be fetched is the large corpus, and lessons
# that want it go on with a small one that comes with the course.

# %%
ready = doctor()

# %% [markdown]
# The same pages run on a small laptop and on a large server. Two words decide how much they
# compute. The **device** is where the arithmetic is done: `cpu`; `cuda`, an NVIDIA graphics
# processor; `mps`, a Mac's. The **scale** is how much of it:
#
# - `cpu`: made for two processor cores and about two minutes a lesson;
# - `gpu`: larger models and more data, if there is a graphics processor;
# - `smoke`: so small that everything runs within seconds. It is for tests; the results are bad.
#
# And here is the verdict.

# %%
assert ready, "Not yet: do what the first FAIL above says, restart the kernel, run this page again."
assert os.environ.get("COURSE_SCALE", "auto") in ("auto", *SCALES)
print(f"VERDICT: ready. This machine runs the course on {pick().type}, at scale {scale()}.")

# %% [markdown]
# Does the device also compute *rightly*? The next cell takes a **softmax**, a function that you
# will meet on every page. It turns scores into positive numbers that sum to one:
# $p_i = e^{s_i} / \sum_j e^{s_j}$. We compare the device's answer with one made by hand.
#
# **Guess first:** the scores are 1, 2, 3. Does the largest get more or less than half?

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
# Two thirds: the exponential makes a lead larger. If this cell has passed, the device computes
# rightly.

# %% [markdown]
# ### Your own sentence, now
#
# A translator comes with the course, made as its lessons say: a Transformer that has read 29,000 captions of
# photographs, in German and English. At the end of lesson 09 you can make one yourself. But look at it now. Write a German
# sentence between the quotes, or keep this one.
#
# **Guess first:** how many pieces will the sentence be cut into?

# %%
MINE = "Ein Hund rennt durch den Schnee."  # yours

look(MINE)

# %% [markdown]
# The sentence is cut into **tokens**; ▁ is a space. The model reads them and writes English tokens, one after the other.
# The picture shows its **attention**. A row is a step: what was just written → what is written now. Its squares say
# which German tokens that step looks at; a row adds up to 100 %. The model has 36 such pictures, its *heads*: choose
# others by the menus (in JupyterLab). The note above the picture counts what of your sentence was new to the model.
#
# You need not understand more yet. Lesson 03 builds such a head, and lesson 09 asks what one square says. From a
# terminal, `python -m course look "Ein Hund rennt."` makes the same as a page of its own.
#
# > **Try it.** `MINE = "Ich liebe dich."` What comes out, and why?
#
# <details><summary>Answer</summary>
#
# *Ichite laying down.* That is nonsense, and the note says why: no caption has the word *dich*, and three of 29,000 have
# *liebe*. So the model has only pieces to go by. *▁lie* it knows well, from *liegen*, to lie: look at the row that
# writes *▁laying*. A model knows the world of its training text and no other.
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### To choose device and scale yourself · more
#
# Four environment variables, for whoever wants another device, other sizes, or the files of the large corpus from a folder.

# %% [markdown]
# Device and scale are chosen by themselves. You change them with **environment variables**, before
# you open JupyterLab:
#
# | variable | values | what it does |
# |---|---|---|
# | `COURSE_DEVICE` | `cpu`, `cuda`, `mps` | chooses the device |
# | `COURSE_SCALE` | `auto` (or not set), `smoke`, `cpu`, `gpu` | chooses the sizes |
# | `COURSE_DATA` | a folder | where the files of Multi30k lie, if you have them |
# | `COURSE_OFFLINE` | `1` | asks no network for data |
#
# On Linux and macOS: `COURSE_SCALE=smoke make lab`. In Windows PowerShell:
# `.venv\Scripts\Activate.ps1`, then `$env:COURSE_SCALE = "smoke"`, then `jupyter lab`.

# %% [markdown]
# ## 3 · Figure 1, and where each box is built
#
# The paper's figure 1 shows the whole model. Here it is, drawn anew. Read it from the bottom to
# the top. On the left the **encoder** reads the German sentence. On the right the **decoder** writes
# the English one, a word at a time. A dashed frame is one layer, and N × means: the same layer
# again and again, six times in the paper. A line that goes around a box carries the input past it.
#
# **Click a box:** it opens the lesson that builds it. Boxes of one colour belong to one lesson.
#
# **Guess first:** the figure has 22 boxes. How many *different* things are inside the two frames,
# where the model's work is done?

# %%
mine = None  # your guess: a number

# %%
figure = draw.figure_one()
HTML(draw.with_still(figure, "The Transformer, drawn by this course"))

# %% [markdown]
# If you see the picture and, below it, rows of coloured links, you have not run the cell yet:
# JupyterLab does not trust what it has not made itself. Run it, and the links move into the picture.
#
# The same as a plain list, without a picture:
#
# | box of figure 1 | paper | lesson |
# |---|---|---|
# | inputs: text becomes numbers | 5.1 | [06 · Text](06_text.ipynb) |
# | input and output embedding | 3.4 | [05 · Transformer](05_transformer.ipynb) |
# | positional encoding | 3.5 | [05 · Transformer](05_transformer.ipynb) |
# | multi-head attention; the softmax | 3.2 | [03 · Attention](03_attention.ipynb) |
# | masked attention; outputs (shifted right) | 3.1, 3.2.3 | [04 · Masking](04_masking.ipynb) |
# | add and norm (residual connection, layer normalization) | 3.1 | [05 · Transformer](05_transformer.ipynb) |
# | feed forward | 3.3 | [05 · Transformer](05_transformer.ipynb) |
# | N ×, the encoder's output, linear | 3.1, 3.4 | [05 · Transformer](05_transformer.ipynb) |
# | output probabilities: how a sentence is made of them | 6.1 | [08 · Decoding](08_decoding.ipynb) |
#
# Two things are not in the figure: how the model **learns** ([07 · Training](07_training.ipynb),
# section 5 of the paper) and how it is **judged** ([09 · Evaluation](09_evaluation.ipynb), section 6).
#
# Now count.

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
# **Three.** Ten boxes do the work, and they are three things: attention collects from other words,
# the feed-forward network thinks about one word, and *add and norm* keeps both from running away.
# The mask is a detail of attention: it hides what must not be seen. The figure looks harder than
# it is.
#
# > **Try it.** Cover this page. Draw figure 1 from memory, as far as you get. Keep the sheet: you
# > will do it twice more.
#
# <details><summary>Answer</summary>
#
# Compare with the picture, from the bottom up. Most sheets have the two towers and forget one of these: the
# lines that go past a box, the arrow from the encoder into the *middle* attention of the decoder, the mask in
# the decoder's *first* attention, the positions, the last linear layer with its softmax. What is missing on
# yours is what to look for in the lessons.
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 4 · The map of the code · more
#
# One rule makes the code easy to find: **a lesson and the module that it makes bear the same
# name**. Lesson `03_attention` makes `course/attention.py`; the cells of the lesson that begin with
# `#| export` *are* the module. So whenever a page says `from course.attention import ...`, you know
# which page explains it. A module uses only modules of earlier lessons.
#
# **Numbers are the path.** Who reads 00 to 09 has read the paper and built a translator. **Letters
# are the machine room and the deeper rooms.** In 07b, 07c and 08b you see what makes a run safe and
# fast; 09b, 09c, 10 and 11 go deeper. They may be left out at a first reading.

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
# Follow the arrows below. A corpus gives **sentences**. `text` cuts them into tokens and numbers
# them. `masking` makes rectangles of them and says who may see what. The `transformer`, whose heart
# is `attention`, gives each possible next token a score, a *logit*. `training` improves the weights,
# and a run writes them into a **checkpoint**. `decoding` uses it to translate, and `evaluation` judges
# the translations. Lessons 01 and 02 stand before this way: they build what was there before the
# Transformer, and so show what it was made for.
#
# The table is made from the files that lie beside this page, the minutes too: at 180 words of text
# and 12 lines of code a minute, without the exercises. *Core* is what is not marked *more*.

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
# The claim: the table does not lie. Every module of a lesson that is there can be imported and has
# the names that the table gives it, and each name was made in that very module.

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
# ## 5 · How to read a paper: three times
#
# A paper is not a novel. Who reads it from the first line to the last gives up at the first formula.
# Keshav (2007) proposed to read in **three passes**, each with its own question and its own end. We
# adapt his method to this paper and to a reader who is new to the field: first an overview, then
# the parts, each with its derivation, and then the paper itself. Keshav's last pass is to build the
# paper again in your head. Here you build it again in code: that is what the lessons are.
#
# | pass | when | read | do not read | what you take from it |
# |---|---|---|---|---|
# | **1 · the skeleton** | today, 10 minutes | title, abstract, headings, figure 1, table 2, section 7 | formulas | five answers, one line each (below) |
# | **2 · the parts** | with the lessons | the sections that the lesson names in its first lines, pencil in hand | other papers | beside each symbol its shape; a list of what you still do not understand |
# | **3 · the paper itself** | at the end, with the [walkthrough](walkthrough.ipynb) beside it | every line, tables and footnotes too | nothing is left out | one page, written from memory: the model, its reasons, its limits, and what *you* would try next |
#
# **The five answers of the first pass** (Keshav's five Cs). Take ten minutes now. Write one line
# for each question; only then open our answers.
#
# 1. **Category:** what kind of paper is it? A new method, a measurement, a survey?
# 2. **Context:** on which earlier ideas does it build, and against which does it argue?
# 3. **Correctness:** do its assumptions seem to hold, at first sight?
# 4. **Contributions:** what is new?
# 5. **Clarity:** is it well written, and where did you stop?
#
# <details><summary>Our answers</summary>
# <ol>
# <li>A new method: a network architecture, with experiments.</li>
# <li>It builds on the encoder-decoder and on attention, which before helped a recurrent network. It
# argues against recurrence, because that cannot be computed in parallel.</li>
# <li>The main assumption is that attention, with positions added, needs no recurrence at all. The
# tables support it for translation and parsing. Which part is needed how much, table 3 asks.</li>
# <li>A model of attention alone; the scale; several heads; a better BLEU for less training.</li>
# <li>Short and dense. Many stop at section 3.2, where Q, K and V appear without a story. Lesson 03
# tells the story.</li>
# </ol>
# </details>
#
# **The second pass** needs help if recurrence, convolution, softmax or perplexity are new words:
# the lessons explain each one before they use it. Read the named section *before* the lesson, for
# five minutes, and mark what you do not understand. Read it again *after* the lesson. The marks
# that are left are your questions.
#
# **The third pass** is the test. For each sentence ask: how do they know? Is there a number, a
# reason, or only a guess ("we suspect", "we hypothesize")? The walkthrough has a measurement for
# many of them.
#
# ### The plan: the path, core by core
#
# The plan is the path: the cores of 00 to 09 in order, each with its sections of the paper, so that
# the second pass is done when you arrive. Then the third pass, with the walkthrough. Divide it into
# sittings of an hour or two; a lesson is a good place to stop.

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
# These are minutes of reading and running, without the exercises; if this is new to you, take twice
# as long, and nobody minds. The first pass, ten minutes, is part of this page.
#
# > **Try it.** Put what you know already into `KNOWN`, and run the cell. How many hours are left?
#
# <details><summary>Answer</summary>
#
# The last line of the table says it. With both foundation lessons in `KNOWN` their cores go, more than two
# hours. Even so, read the last section of each: they say what the paper wants to replace, and why.
#
# </details>

# %% [markdown]
# ## 6 · The words that stop a first reader
#
# A paper is hard for three reasons: its ideas, its formulas, and its *English*. The lessons care
# for the first two. For the third there is a **glossary** in three languages: the technical terms
# as textbooks in China and Germany use them, and the ordinary words of academic English that are
# in no textbook. For each there is one line of meaning in English and in Chinese, and the lesson
# where the thing is built (`00_start_here` means: an ordinary word, nothing is built).
#
# **Guess first.** What do these three words of the paper's first page mean: *eschew*, *preclude*,
# *transduction*? Say them in your own language, then look them up, one after the other.

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
# *Eschew*: avoid on purpose. *Preclude*: make impossible. *Transduction*: turning one sequence into
# another. `look_up` searches all three languages, and it forgives a slip of the finger: try
# `look_up("Skalarprodukt")`, `look_up("困惑度")`, `look_up("transducton")`.

# %%
# NBVAL_CHECK_OUTPUT
for word in ("residual", "残差", "Residualverbindung", "Skalarprodukt", "困惑度", "preclude"):
    best = draw.find_terms(terms, word)[0]
    assert word.lower() in "\n".join(best[:3]).lower()
    print(f"{word} -> {best.term_en} · {best.term_zh} · {best.term_de}")
assert len(terms) >= 200 and len({term.term_en for term in terms}) == len(terms)

# %% [markdown]
# **To type and see.** The chart below searches while you type, also in a built page, where no
# Python runs. Type into the box *under* the list; empty it to begin at the letter A.

# %%
show(draw.glossary_search(terms, first="residual"),
     alt="A field to type in, and the glossary's terms that hold what is typed: residual, with its kin")

# %% [markdown]
# **Six words that mean something else here.** They are dangerous, because you know them.
#
# | word | you may think of | here |
# |---|---|---|
# | *draw* dependencies | a picture | make a connection |
# | *employ* | a job | use |
# | *factor* (verb) | a cause | split into parts |
# | *literature* | novels | published research |
# | *memory* | what you remember | the stored vectors (in our code: the encoder's output) |
# | *respectively* | 尊敬地, respektvoll | in the order just named |

# %% [markdown]
# > **Try it.** The glossary is a plain file, `assets/glossary.tsv`: six columns with a tab between
# > them. Add a word that stopped *you*, run this section again, and find it in the chart.
#
# <details><summary>Answer</summary>
#
# The columns are the term in English, Chinese and German, its meaning in English and in Chinese, and the
# lesson that builds it (`00_start_here` for an ordinary word). If the cell stops, the line has fewer or more
# than five tabs: many editors put spaces where you press Tab.
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### The words in the order of the paper, and all of them · more
#
# Two lists to keep beside you in the first pass: the hard words of each section, and the whole glossary.

# %% [markdown]
# Click a section, and its words are explained.

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
# Some entries stand here under the name that the glossary uses: the paper writes *gated*, *dispensing
# with*, *desiderata*; you look up *gating*, *dispense with*, *desideratum*. One famous word is not in the paper:
# **ablation**. It is what everybody calls the kind of experiment that its table 3 reports.
#
# **The whole glossary**, to scroll and to print:

# %%
table = draw.glossary_table(terms, lessons_here)
HTML(f"<details><summary>All {len(terms)} terms: click to open</summary>\n{table}</details>")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 7 · The notation · more
#
# The course writes the paper's names in code, and behind each line the **shape** of what it makes:
# how many numbers there are along each axis. One capital letter is one axis.
#
# | letter | axis | in the paper | base model |
# |---|---|---|---|
# | B | sentences in a batch | | not said: about 25,000 tokens on each side |
# | S | positions of the **s**ource sentence | $n$ | |
# | T | positions of the **t**arget sentence | $m$ | |
# | L | positions, where there is only one sequence | $n$ | |
# | Q, K | how many queries, how many keys | | |
# | D | width of the model | $d_{model}$, in table 1 $d$ | 512 |
# | H | attention **h**eads | $h$ | 8 |
# | Dk, Dv | width of a key, of a value, in one head | $d_k$, $d_v$ | 64 |
# | F | inner width of the **f**eed-forward network | $d_{ff}$ | 2048 |
# | V | size of the **v**ocabulary | | about 37,000 |
#
# | in the paper | in the code |
# |---|---|
# | $d_{model}$, $h$, $d_{ff}$, $N$, $P_{drop}$ | `d_model`, `n_heads`, `d_ff`, `n_layers`, `dropout` |
# | $Q$, $K$, $V$ | `query`, `key`, `value` |
# | $W^Q$, $W^K$, $W^V$, $W^O$ | `w_q`, `w_k`, `w_v`, `w_o` |
# | the encoder's output | `memory` |
# | the source; the target | `src`; `tgt` (`tgt_in` goes into the decoder, `tgt_out` is what it must predict) |
# | $\epsilon_{ls}$, $\alpha$, $warmup\_steps$ | `label_smoothing`, `length_penalty`, `warmup_steps` |
#
# Four warnings. The paper's $n$ is a length and its $N$ a number of layers. Its $k$ is the width of
# a convolution in section 4 and a distance in section 3.5. In a shape, Q, K and V are *numbers* (queries,
# keys, words in the vocabulary); in a formula $Q$, $K$ and $V$ are *matrices*. And in our masks **True means: may
# attend**; some libraries mean the opposite.
#
# Let us read one line aloud. There are B = 2 sentences, the source has S = 7 words, the target
# T = 5. In each of H heads, every target word compares its query with every source word's key.
#
# **Guess first:** what is the shape of `scores`?

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
# Read it from the right: "for each source word, for each target word, in each head, of each
# sentence, one score". The axis Dk is gone: the dot product has summed over it. The softmax runs
# over the last axis, so that each target word shares out exactly one unit of attention.
#
# > **Try it.** Which shape has `weights @ value`, if `value` is (B, H, S, Dv)? Write it down, then
# > make a `value` and check.
#
# <details><summary>Answer</summary>
#
# (B, H, T, Dv). The axis S is summed away: each target word gets a weighted mean of the source's values. With
# `value = torch.zeros(B, H, S, 64)` the shape of `weights @ value` is (2, 8, 5, 64). A `value` with T rows in
# place of S stops with an error: five rows do not fit seven weights.
#
# </details>

# %% [markdown]
# ## 8 · A first taste: what a translator must do
#
# The course brings its own small corpus, **captions**: German image captions with their English
# translation, made by a grammar, so that for every pair it is known which words belong together.
# This is called the **gold alignment**.
#
# **Guess first.** If you translate German into English word by word, from left to right, in how
# many of the sentences must you jump: less than a tenth, a third, or more than half?

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
# Dashed blue lines keep their order; solid orange ones cross another line. In the second caption
# look at the German verb: it stands in two pieces, one of them at the very end. In the third, the
# place comes first and the subject last.

# %%
share = sum(n > 0 for n in counts) / len(counts)
assert share > 1 / 2
assert all(0 <= i < len(p.de_tokens) and 0 <= j < len(p.en_tokens)
           for p in pairs for i, j in p.alignment)
print(f"{share:.0%} of {len(pairs)} captions change the order of their words")

# %%
compare(mine, share, "00: captions that change their order")

# %% [markdown]
# More than half. So a translator cannot just go along. For each English word it must find, anywhere
# in the German sentence, the words that matter now. A mechanism that can look anywhere, and learns
# where: this is **attention**. Lesson 02 meets it as a helper of a recurrent network; in lesson 03 it
# works alone.
#
# > **Try it.** Find a caption in `pairs` whose German verb stands at the end (search for
# > "während"). Draw it with `draw.alignments`. How far must the translator look?
#
# <details><summary>Answer</summary>
#
# 101 of the 500 captions have the word. In the first, *Während ein Kind einen warmen Pullover anzieht, ...*,
# English says "is putting on" right after "a child". Its partner *anzieht* stands four words after *Kind*;
# and then the translator must come back for *einen warmen Pullover*.
#
#     found = [p for p in pairs if "während" in p.de.lower()]
#     draw.alignments([(p.de_tokens, p.en_tokens, p.alignment) for p in found[:1]], "The verb waits")
#
# </details>

# %% [markdown]
# ## What you have now
#
# | you have | what it is for |
# |---|---|
# | a verdict on your machine | every page runs on it |
# | figure 1 with links | from a box to its lesson |
# | three passes and a plan | the path, lesson by lesson |
# | `look_up`, and the chart above | words, in three languages |
# | the letters B, S, T, L, D, H, V (more) | to read every line of code of the course |
#
# ## Summary
#
# - The course builds the paper in notebooks that run; a lesson and its module bear the same name.
# - Figure 1 has ten boxes that work, and they are three things: attention, feed-forward, and add
#   and norm.
# - Read a paper three times: its skeleton, its parts, the paper itself. Each pass has a question.
# - Hard words are in the glossary. Shapes stand behind each line of code.
# - A translator must be able to look anywhere: in more than half of our captions the order of the
#   words changes.
#
# ## Summary · 小结
#
# <div lang="zh">
#
# - 本课程用可以运行的笔记本逐步实现论文；每一课与它生成的模块同名。
# - 图 1 中真正做计算的方框有十个，其实只有三种：注意力、前馈网络、残差相加与归一化。
# - 论文要读三遍：先看骨架，再跟着各课弄懂每个部件及其推导，最后通读论文本身。
# - 生词查术语表（英、中、德三种语言）；每行代码后面的注释写着张量的形状。
# - 设备与规模自动选择，也可用环境变量修改；没有网络时用自带的 captions 语料。
# - 翻译不能逐词从左到右：一半以上的句子词序会变，所以模型必须能看任意位置，这正是注意力的作用。
#
# </div>
#
# ## Further reading
#
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762. Print it: you need its
#   margins.
# - Keshav 2007, *How to Read a Paper*, ACM SIGCOMM Computer Communication Review 37(3): two pages,
#   the three passes and the five Cs.
# - Zhang, Lipton, Li, Smola, *Dive into Deep Learning*, d2l.ai (Chinese edition: 《动手学深度学习》,
#   zh.d2l.ai): a textbook beside this course, with the Chinese terms.
#
# **Next:** [01 · Foundations](01_foundations.ipynb) if deep learning is new to you; otherwise
# [03 · Attention](03_attention.ipynb), or the whole paper in the [walkthrough](walkthrough.ipynb).
