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
# # 09 · Multi30k 实验
#
# > 实验：把真正的德语译成英语，用 BLEU 评判（论文 6.1 节）。
#
# **你将学会：** 用两个 CPU 核，在 29,000 个真实的句对上训练一个 Transformer；说出配方里每个数的理由；测量结果，让别人也能核对；说清一个分数有多可靠；判断一个系统是真的更好，还是只是碰巧。
#
# **先修：** 第 03 到 08 课。**时间：** 35 分钟；连标有“选读”的部分一起 45 分钟，其中计算两分钟。**论文：** 第 5 节和 6.1 节。这一课是主线的最后一步。
#
# 到现在为止，每个部件都检验过了，该做的事都做对了。现在要问唯一要紧的问题：整个模型会翻译吗？我们用 BLEU 来回答，而且这个 BLEU 谁都能重新测一遍。
#
# 你自己实现过的部件，工程篇里都有更快或更可靠的版本，这一课就用它们：`translate`（08b）、`FastStep`（07c）、`Trainer`、`load_checkpoint` 和 `read_log`（07b）。`recipe_of`（第 07 课第 9 节）给出一个预设的大小和配方。

# %%
#| export
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from course.cache import translate
from course.seq2seq import Translator
from course.text import BPE

# %%
import csv
import json
import math
import os
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from sacrebleu.significance import PairedTest

from course import ASSETS, output_folder
from course.corpora import choose, pairs
from course.decoding import bleu
from course.device import by_scale, pick
from course.homework import check, guesses
from course.look import look
from course.runs import Budget, Trainer, load_checkpoint, read_log
from course.speed import FastStep
from course.text import encode_pairs, make_batches, tokenize
from course.training import evaluate_loss, recipe_of
from course.viz import evaluation as draw

device = pick()

# %% [markdown]
# ## 1 · 数据
#
# **Multi30k** 收有 31,014 张照片的英语说明，每条都由专业译者译成德语（Elliott et al. 2016）；后来几年又增加了一些测试集。这些说明简短、浅白、具体，大小正适合笔记本电脑。它的条款允许研究和教学，不允许再分发，所以课程在运行时才下载，一句也不保存。在这一页里，你会看到 Multi30k 的统计和分数，还有我们自己写的**探针句**的译文。
#
# 没有网络，也没有文件？那么这一课改用课程自带的语料库 **captions**。代码一样，分数的意义却小一些，因为那些句子是由一套语法生成的。下一个单元格会说你用的是哪个语料库。

# %%
corpus = choose()
test_split = {"multi30k": "test_2016_flickr", "captions": "test"}[corpus]
train_pairs, val_pairs, test_pairs = (pairs(corpus, s) for s in ("train", "val", test_split))
print(f"corpus: {corpus}")
print(f"train {len(train_pairs):,} pairs, val {len(val_pairs):,}, {test_split} {len(test_pairs):,}")
words = {code: [w for pair in train_pairs for w in tokenize(pair[side], code)]
         for side, code in enumerate(("de", "en"))}
for code, name in (("de", "German"), ("en", "English")):
    mean = len(words[code]) / len(train_pairs)
    print(f"{name:8} {len(set(words[code])):6,} distinct words, {mean:.1f} in a sentence")

# %% [markdown]
# 请看两种语言各有多少个不同的词。德语句子更短，不同的词却更多：德语词要按格和性变化词尾，几个名词还会连写成一个词。第 06 课的字节对编码就是为此准备的。
#
# **测试集里，只有与训练集不重叠的部分才有价值。** 相信任何分数之前，先数一数重叠有多少。

# %%
known_sources = {german for german, _ in train_pairs}
known_pairs = set(train_pairs)
shared_sources = sum(german in known_sources for german, _ in test_pairs)
shared_pairs = sum(pair in known_pairs for pair in test_pairs)
print(f"test sentences whose German is in train: {shared_sources} of {len(test_pairs):,}")
print(f"test pairs that are in train as a whole: {shared_pairs} of {len(test_pairs):,}")
assert shared_pairs <= 0.01 * len(test_pairs)

# %% [markdown]
# 一句也没有，或者几乎没有：没有哪个测试句是模型训练时就背下来的。（几乎相同的句子没有算在内。）
#
# ## 2 · 配方，以及理由
#
# 论文的 base 模型有 6500 万参数，读了 450 万个句对。我们只有 29,000 个句对和两个核。照搬论文的数字有两处行不通：一是太慢，二是文本这么少，参数实在太多。下表列出我们改了什么，为什么改。（“本课”一栏是预设 `cpu`；课程自带的模型与它不同的地方，表下面的单元格会说明。）
#
# | 选择 | 论文（base）| 本课 | 理由 |
# |---|---|---|---|
# | 层数、宽度、d_ff、头数 | 6, 512, 2048, 8 | 3, 256, 512, 4 | 文本只有论文的 150 分之一，只够训练小一些的模型；处理一个词元的代价是论文的十二分之一 |
# | 词表 | 37,000，共用 | 5,000，共用 | 在小模型里，投影到词表再做 softmax，占四分之一的计算；用 5,000 个片段，句子仍然够短（多少个词元，见下面的单元格） |
# | 嵌入共享 | 是 | 是 | 一张表同时从两种语言和输出端学习：每个参数得到的信号更多 |
# | 归一化 | post | pre | 预热很短、学习率很高也能训练，不必小心翼翼（第 05 课第 7 节） |
# | 暂退法 | .1 | 更大（见下面的单元格）| 语料库要读很多遍；没有噪声，训练长了就会背下来（第 09c 课：训练短的话，暂退法只有坏处） |
# | 标签平滑 | .1 | .1 | 同论文 |
# | 批次 | 每侧 25,000 个词元 | 1,600 | 只有一台慢的设备时，许多小步胜过几个大步 |
# | 学习率 | 上升 4,000 步，然后按 1/√step 下降 | 上升 300 步到 1.5e-3，然后直线降到 0 | 训练的长度事先知道，所以学习率可以在终点降到 0 |
# | 梯度裁剪 | 没有提到 | 范数 1 | 一个古怪的批次造成不了大的破坏 |
# | 平均 | 最后 5 个检查点 | 最后十分之一里的 8 个快照 | 想法相同；训练短，快照的间隔也跟着调整 |
# | 束宽、长度惩罚 | 4, .6 | 在验证集上选 | 第 5 节会打印出来 |
#
# 正文里的表可能写错。所以下一个单元格读出训练自带模型时用的配方，与表核对。

# %%
card = json.loads((ASSETS / "checkpoints" / "multi30k-de-en" / "results.json").read_text("utf-8"))
sizes, config = recipe_of(card["preset"], card["changes"])
assert [sizes[name] for name in ("n_layers", "d_model", "d_ff", "n_heads")] == [3, 256, 512, 4]
assert (sizes["vocab"], sizes["norm"]) == (5000, "pre") and sizes["dropout"] > 0.1
assert (config.label_smoothing, config.max_tokens, config.clip) == (0.1, 1600, 1.0)
assert (config.peak_lr, config.warmup, config.average) == (1.5e-3, 300, 8)
print(f"preset {card['preset']}, changed: {card['changes'] or 'nothing'}; {card['epochs']:g} passes")
print(f"dropout {sizes['dropout']:g}; an English sentence has {card['tokens'] / card['epochs'] / 29_000:.1f} "
      "tokens, its end sign counted")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 模型小，省了多少 · 选读
#
# 处理一个词元，论文的 base 模型的代价是这里的多少倍？由模型的各个尺寸就能算出来。

# %% [markdown]
# 选小模型省下了多少？下面的单元格来算：处理一个源词元加一个目标词元，一共要与多少个权重相乘。（查询与键之间的乘法另算；句子短，这种乘法很少。）

# %%
def multiplications(d_model: int, d_ff: int, n_layers: int, vocab: int) -> dict[str, int]:
    """Weights that one source token (encoder) and one target token (the rest) are multiplied by."""
    attention, feed_forward = 4 * d_model**2, 2 * d_model * d_ff
    return {
        "encoder": n_layers * (attention + feed_forward),
        "decoder": n_layers * (2 * attention + feed_forward),
        "projection": d_model * vocab,
    }


ours = multiplications(sizes["d_model"], sizes["d_ff"], sizes["n_layers"], sizes["vocab"])
base = multiplications(512, 2048, 6, 37_000)
for part in ours:
    print(f"{part:11}{ours[part] / 1e6:6.1f} million here, {base[part] / 1e6:6.1f} in the base model")
ratio = sum(base.values()) / sum(ours.values())
share = ours["projection"] / sum(ours.values())
assert 10 < ratio < 20 and share > 0.2
print(f"a pair of tokens costs {ratio:.0f} times less; the projection alone is {share:.0%} of it")

# %% [markdown]
# 词表要小，就是因为投影占了这么大的份额。
#
# > **试一试。** 让我们的模型用论文的 37,000 个片段：在 `ours` 里写 `multiplications(..., 37_000)`。
#
# <details><summary>答案</summary>
#
# 断言不成立了：处理一对词元，base 模型的代价现在只是我们的 4.7 倍，而我们的模型里单是投影就占 71%，比模型其余部分加起来还多。
#
# </details>

# %% [markdown]
# ## 3 · 亲手训练一次，小到可以看着它跑完
#
# 在你自己的机器上小规模地训练一次：预设 `tiny`，把语料库读一遍，不到一分钟。单元格会打印真正的训练用了多久，以及它的命令。（如果设了环境变量 `RETRAIN=1`，这一页就做真正的训练；中途停下，下次会接着训练。）
#
# **先猜**：什么都不懂的模型给 V 个词元同样的概率 1/V，每个词元的损失是 $\ln V$ 奈特。只知道词元频率的模型，损失是**一元熵**（unigram entropy）。Transformer 要训练多少步，损失才能低于一元熵？

# %%
mine = None  # your guess: a number of steps

# %%
print(f"the real run: {card['epochs']:g} passes over the corpus, {card['minutes']:.0f} minutes on "
      f"{card['threads']} thread(s) of {card['device']}")
print(card["command"])

# %%
real = os.environ.get("RETRAIN") == "1"
preset, changes = (card["preset"], card["changes"]) if real else ("tiny", {})
budget = Budget(epochs=int(card["epochs"] if real else by_scale(smoke=1, cpu=1, gpu=2)))
shown = train_pairs if real else train_pairs[: by_scale(smoke=8000, cpu=29000, gpu=29000)]
seed = card["seed"] if real else 0
text = (sentence for pair in train_pairs for sentence in pair)
recipe = recipe_of(preset, changes)
model, bpe = recipe.fresh(text, seed)
run = (output_folder() if real else Path(tempfile.mkdtemp())) / "lesson09"
config = replace(recipe.training, seed=seed)
trainer = Trainer(model.to(device), bpe, config, budget, run, quiet=not real, stepper=FastStep)
if not trainer.run(shown, val_pairs, resume=(run / "state.safetensors").exists()):
    raise KeyboardInterrupt("stopped: run this cell again, and the training goes on")
log = read_log(run)
print(f"{trainer.position.step} steps, {trainer.position.tokens:,} tokens")

# %%
examples = encode_pairs(bpe, train_pairs)
token_counts = Counter(token for _, tgt in examples for token in tgt)
total = token_counts.total()
unigram = -sum(n / total * math.log(n / total) for n in token_counts.values())
baselines = {"knows nothing: ln V": math.log(len(bpe)), "knows frequencies": unigram}
logged = [(line["step"], line["loss"]) for line in log if "loss" in line]
passed = next(logged[i][0] for i in range(4, len(logged))
              if sum(loss for _, loss in logged[i - 4 : i + 1]) / 5 < unigram)
draw.learning_curves(log, baselines, f"By step {passed} the model beats word frequencies")

# %%
guesses.compare(mine, passed, "09: steps to beat word frequencies")

# %% [markdown]
# 单个批次的损失起伏很大，所以“到第几步”这样算：最近记下的五个批次，平均损失低于那条线，才算到了。这样算很谨慎：训练时开着暂退法，目标又平滑过，这两样都使训练损失偏高，而那条线是不带这两样的普通损失。普通损失在训练之后用验证集（val）来测。
#
# 断言：模型对下一个词的了解，已经超过全部词频所能提供的。（是从源句知道的，还是只靠前面的词？这个数说明不了。）

# %%
val_batches = list(make_batches(encode_pairs(bpe, val_pairs), 1600))
fresh_loss = evaluate_loss(model, val_batches)
assert fresh_loss < unigram < math.log(len(bpe))
print(f"val loss {fresh_loss:.2f} nats a token; unigram {unigram:.2f}; ln V {math.log(len(bpe)):.2f}")

# %% [markdown]
# ## 4 · 怎样评判译文
#
# 第 08 课实现了 BLEU。要**报告**它，必须说明三件事，否则数字毫无意义：怎样**词元化**，是否区分**大小写**，用哪份**参考译文**。sacrebleu（Post 2018）在分数旁边打印一个**签名**：大小写、词元化、平滑、参考译文的份数、它的版本。至于是**哪一份**参考译文，得你自己说明：`test_2016_flickr`。交给 sacrebleu 的是完整的句子，和读者看到的一样，由它自己来切（`13a`），这样谁也不能靠自己的词元化方法抬高分数。
#
# chrF 数的是连续的字符，不是词（输出里写作 chrF2：漏掉的比多出的扣得重）。词尾错了，chrF 只扣一点；在 BLEU 看来，整个词都错了。

# %%
#| export
@dataclass(frozen=True)
class Scores:
    """Corpus scores, 0 to 100, each with the sacrebleu signature that says how it was measured."""

    sentences: int
    bleu: float
    bleu_lowercased: float
    chrf: float
    chrf_lowercased: float
    signatures: dict[str, str]


def score(hypotheses: Sequence[str], references: Sequence[str]) -> Scores:
    """Compare translations with one reference each, as plain sentences. Post 2018."""
    if len(hypotheses) != len(references) or not references:
        raise ValueError(f"{len(hypotheses)} translations for {len(references)} references")
    values, signatures = {}, {}
    for name, metric in {
        "bleu": BLEU(),
        "bleu_lowercased": BLEU(lowercase=True),
        "chrf": CHRF(),
        "chrf_lowercased": CHRF(lowercase=True),
    }.items():
        values[name] = metric.corpus_score(list(hypotheses), [list(references)]).score
        signatures[name] = str(metric.get_signature())
    return Scores(len(references), **values, signatures=signatures)


# %%
#| export
def evaluate(
    model: Translator,
    bpe: BPE,
    sentence_pairs: Sequence[tuple[str, str]],
    beam: int = 4,
    alpha: float = 0.6,
    progress: bool = False,
) -> tuple[Scores, list[str]]:
    """Translate the German side and score it against the English; return scores and translations."""
    sources, references = zip(*sentence_pairs)
    translations = translate(model, bpe, sources, beam, alpha, progress=progress)
    return score(translations, references), translations


# %% [markdown]
# > **试一试。** 以 *A dog runs through the snow.* 为参考译文，给 *a dog runs through the snow.* 打分。四个数里哪些仍然是 100？
#
# <details><summary>答案</summary>
#
# 不分大小写的那两个。区分大小写的 BLEU 只因一个小写字母就掉到 80.9：七个词里错了一个，于是六个二元组、五个三元组、四个四元组里也各错一个。chrF 掉到 95.1：许多字符里只错一个。所以 BLEU 的签名里如果没写 `case`，就无法比较。
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 先评判指标本身 · 选读
#
# sacrebleu 数的与第 08 课数的一样吗？它分得清对错吗？

# %% [markdown]
# 让指标评判模型之前，先来评判指标。参考译文本身必须得 100 分；把参考译文的句子错开次序，得分必须接近零；给我们手写的 BLEU 同样的词元，结果必须一致。

# %%
references = [english for _, english in test_pairs]
perfect = score(references, references)
shuffled = score(references[1:] + references[:1], references)
cut = BLEU().tokenizer
by_hand = bleu(
    [cut(s).split() for s in references[1:] + references[:1]], [cut(s).split() for s in references]
)
assert round(perfect.bleu, 6) == 100
assert shuffled.bleu < 15
assert abs(by_hand - shuffled.bleu) < 1e-6
print(f"reference against itself {perfect.bleu:.0f}, one sentence further {shuffled.bleu:.1f}")
print(f"the same by hand {by_hand:.1f}; signature {perfect.signatures['bleu']}")

# %% [markdown]
# ## 5 · 课程自带的模型
#
# `assets/checkpoints/multi30k-de-en` 里存的就是第 3 节所说的那次真正的训练。`load_checkpoint` 用名字打开它，不用网络，只要一秒。一起存下来的还有训练记录和**模型卡**：卡上写明模型是什么，怎样得来，达到什么水平，不能用来做什么。它的学习过程是这样的。

# %%
shipped, shipped_bpe = load_checkpoint("multi30k-de-en")
shipped.to(device)
directory = ASSETS / "checkpoints" / "multi30k-de-en"
shipped_log = read_log(directory)
parameters = sum(p.numel() for p in shipped.parameters())
assert parameters == card["parameters"]
print(f"{parameters:,} parameters; {card['steps']:,} steps, {card['tokens']:,} target tokens")

# %%
last = [line["val_loss"] for line in shipped_log if "val_loss" in line]
draw.learning_curves(
    shipped_log, {"knows nothing: ln V": math.log(len(shipped_bpe))},
    f"The shipped run ends at {last[-1]:.2f} nats a token, a perplexity of {math.exp(last[-1]):.1f}",
)

# %% [markdown]
# 训练损失一直到最后都在验证损失**上方**。这没有错：它是开着暂退法、对着平滑过的目标测的，单是这个目标的熵就明显高于 0，训练损失不可能降到它以下（第 07 课）。

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 取平均有多大好处 · 选读
#
# 曲线的最后一点，是训练最后十分之一里 8 个快照的平均。有必要取平均吗？

# %% [markdown]
# **先猜**：平均模型的损失，比最后一步的低多少奈特？

# %%
mine = None  # your guess, in nats a token

# %%
averaged = shipped_log[-1]
before = [line for line in shipped_log if "val_loss" in line and "averaged" not in line][-1]
late = [line["loss"] for line in shipped_log if "loss" in line][-20:]
assert sum(late) / len(late) > last[-1]
assert averaged["averaged"] >= 5 and abs(averaged["val_loss"] - before["val_loss"]) < 0.01
print(f"val loss of the last step {before['val_loss']:.3f}, of the average of "
      f"{averaged['averaged']} snapshots {averaged['val_loss']:.3f}")
for line in card["averaging"]:
    print(f"the last {line['snapshots']}: loss {line['val_loss']:.4f}, BLEU on val {line['val_bleu']:.2f}")
guesses.compare(mine, before["val_loss"] - averaged["val_loss"], "09: gain of the average in nats")

# %% [markdown]
# 几乎没有差别：学习率降到了 0，最后的权重早已不动了。论文的训练结束时，学习率还有最高点的 $\sqrt{4{,}000 / 100{,}000} = 1/5$；学习率像那样下降，取平均就有好处，第 07 课测到过。

# %% [markdown]
# ### 它写出了什么
#
# 我们为课程写了四十个探针句，大多考的是德语有、英语没有的现象。下面是前十二个。先自己读译文，再看分数。它错在哪里？错得像人，还是像机器？

# %%
with (ASSETS / "probe_sentences.tsv").open(encoding="utf-8") as file:
    probes = list(csv.DictReader(file, delimiter="\t"))
probe_pairs = [(row["de"], row["en"]) for row in probes]
decoding = card["decoding"]
probe_scores, said = evaluate(
    shipped, shipped_bpe, probe_pairs, decoding["beam"], decoding["length_penalty"]
)
for row, english in list(zip(probes, said))[:12]:
    print(f"{row['probes']}\n  {row['de']}\n  model:     {english}\n  reference: {row['en']}\n")

# %% [markdown]
# 探针句比语料库难：里面的一些词和词形，语料库的图片说明很少用，或者从来不用。所以分数比测试集低得多。但这个分数仍然说明，模型是在翻译：乱猜的话，分数会接近 0。

# %%
assert 15 < probe_scores.bleu < card["test_2016_flickr"]["bleu"] - 5
assert probe_scores.chrf > 40
print(f"40 probe sentences: BLEU {probe_scores.bleu:.1f}, chrF {probe_scores.chrf:.1f}")
print(probe_scores.signatures["bleu"])

# %% [markdown]
# ### 你自己的句子
#
# 现在轮到你的句子。和第 00 课一样，你会看到它的词元、译文和每一个头，还会看到其中哪些是训练中没见过的。用菜单选择头。**先猜**：写英语动词的那一步，哪个德语片段得到的权重最大？

# %%
MINE = "Ein Hund rennt durch den Schnee."  # yours

own = look(MINE)
own

# %% [markdown]
# 最后一行指出图中的一个格子。这样一个格子**说明**了什么？用字母回答：`check("one_cell", "a")`。（如果页面生成时没有连上内核，点开每个选项就能看到对错。）

# %%
check("one_cell")

# %% [markdown]
# （这个头在别的句子里也常常这样看吗？少了它有没有影响？见第 09b 课。）
#
# > **试一试。** `MINE = "Ich liebe dich."`，再试 `MINE = "Ein 🐶 rennt."`
#
# <details><summary>答案</summary>
#
# *Ichite laying down.* 训练中从没见过 *dich*，*liebe* 只见过三次。表情符号没有对应的词元，读成四个字节，而这些字节在哪条说明里都没出现过，于是模型写出 *A furry with his face is running.* 两句都有几处通顺，但都是瞎猜。这一点只有图下的提示会告诉你：光看译文，看不出模型没把握。
#
# </details>
#
# ## 6 · 一个分数有多可靠？
#
# 在一些句子上的分数，不等于在所有同类句子上的分数。换一千句，就会得到另一个数。差多少？谁也没法抽一千次、每次抽一千个新句子；但可以从手头的句子里**有放回地**抽：有些抽到两次，有些一次也没有。这样抽一千次，看分数散得有多开，就大致知道这个分数有多不确定。这叫**自助法**（bootstrap；Efron 1979；用于 BLEU：Koehn 2004）。sacrebleu 自带这个功能。**误差范围**，也就是 ± 后面的数，是这样算的：找出装得下 95% 抽样分数的区间，取宽度的一半。

# %%
#| export
@dataclass(frozen=True)
class Interval:
    """A score and its margin: half the width of what holds 95 % of the resampled scores."""

    score: float
    margin: float
    sentences: int

    def __str__(self) -> str:
        return f"{self.score:.1f} ± {self.margin:.1f}"


def with_interval(
    hypotheses: Sequence[str], references: Sequence[str], metric: str = "bleu", samples: int = 1000
) -> Interval:
    """Return corpus BLEU or chrF (metric "bleu" or "chrf") with its 95 % bootstrap margin.

    Raises ValueError for lists of different lengths, or empty ones. Koehn 2004; sacrebleu's own.
    """
    if len(hypotheses) != len(references) or not references:
        raise ValueError(f"{len(hypotheses)} translations for {len(references)} references")
    measure = {"bleu": BLEU, "chrf": CHRF}[metric]()
    found = measure.corpus_score(list(hypotheses), [list(references)], n_bootstrap=samples)
    return Interval(found.score, float(found._ci), len(references))


# %% [markdown]
# **先猜**：如果句子只有四分之一，误差范围会变成几倍？

# %%
mine = None  # your guess: how many times wider

# %%
judged = val_pairs[: by_scale(smoke=80, cpu=400, gpu=1014)]
asked, wanted = (list(side) for side in zip(*judged))
greedy = translate(shipped, shipped_bpe, asked, max_tokens=4000)
whole = with_interval(greedy, wanted)
quarter = with_interval(greedy[: len(greedy) // 4], wanted[: len(greedy) // 4])
assert 1.3 < quarter.margin / whole.margin < 3.2  # the root of 4 is 2, and margins scatter, too
print(f"{whole.sentences} sentences of val: BLEU {whole}; the first {quarter.sentences}: {quarter}")
guesses.compare(mine, quarter.margin / whole.margin, "09: margin of a quarter")

# %% [markdown]
# 大约两倍：误差范围与句子数的平方根成反比。（它只反映抽取**句子**带来的偶然波动。换一个随机种子，就是另一个模型；随机种子带来的波动，第 09c 课来测。）

# %%
check("margin_sentences")

# %% [markdown]
# ## 7 · 真的更好，还是只是碰巧？
#
# 两个系统在同一个测试集上相差 0.4 BLEU。真的有一个更好吗？要回答这个问题，第 6 节的误差范围太粗：难的句子对两个系统都难，由此带来的波动，在两个分数的**差**里抵消了。
#
# 所以我们换个问法。**假定两个系统一样好。** 那么哪句译文由谁写出，就无所谓了。我们为每个句子抛一次硬币：正面，两个系统交换译文；反面，各留各的。这样得到两个混合系统，它们之间的差纯属偶然。抛一千遍。**p 值**（p-value）就是一个比例：这一千个差里，有多少至少和我们测到的差一样大。习惯上，低于 0.05 就叫**显著**。这个检验叫**近似随机化检验**（approximate randomisation；Riezler and Maxwell 2005）。
#
# BLEU 先把各句的计数加起来，再做除法（第 08 课）。所以每句的计数只要算一次，混合系统的计数就是它们的和：抛一千遍硬币也费不了多少计算。

# %%
#| export
def chance(metric: BLEU | CHRF, baseline: np.ndarray, system: np.ndarray, samples: int) -> float:
    """Return the p-value of a difference: how often coins make one that is as large, or larger.

    baseline, system: the counts of each sentence, (sentences, counts), of which the metric makes
    its score. Ties count. Riezler and Maxwell 2005; the same coins as sacrebleu's.
    """

    def difference(one: np.ndarray, other: np.ndarray) -> float:
        scores = (metric._compute_score_from_stats(counts.tolist()).score for counts in (one, other))
        return abs(next(scores) - next(scores))

    total = baseline.sum(0) + system.sum(0)
    observed = difference(baseline.sum(0), system.sum(0))
    coins = np.random.default_rng(12345).integers(2, size=(samples, len(system)), dtype=bool)
    mixed = coins @ baseline + ~coins @ system  # (samples, counts); the other system is the rest
    as_large = sum(difference(one, total - one) >= observed - 1e-9 for one in mixed)
    return (as_large + 1) / (samples + 1)


@dataclass(frozen=True)
class Comparison:
    """Two systems by one metric: their scores, the difference (system - baseline), its p-value."""

    baseline: float
    system: float
    difference: float
    p_value: float
    signature: str

    @property
    def verdict(self) -> str:
        """Say whether chance alone would explain the difference."""
        return "significant" if self.p_value < 0.05 else "may be chance"

    def __str__(self) -> str:
        return (f"{self.baseline:5.1f} -> {self.system:5.1f}  {self.difference:+5.1f}  "
                f"p = {self.p_value:.3f}  {self.verdict}")


# %% [markdown]
# 分子分母都加 1，是把实际测到的这种分法也算作一次抛硬币的结果，所以 p 永远不会是 0。一个 `Comparison` 就是报告里的一行。`compare` 为两种指标各填一行：

# %%
#| export
def compare(
    baseline: Sequence[str], system: Sequence[str], references: Sequence[str], samples: int = 1000
) -> dict[str, Comparison]:
    """Compare two systems' translations of the same sentences: "BLEU" and "chrF2" -> Comparison.

    By approximate randomisation. Raises ValueError for lists of different lengths, or empty ones.
    """
    if not len(baseline) == len(system) == len(references) or not references:
        raise ValueError(
            f"{len(baseline)} and {len(system)} translations for {len(references)} references: "
            "give one of each for every sentence"
        )
    comparisons = {}
    for name, metric in {"BLEU": BLEU(), "chrF2": CHRF()}.items():
        sides = [list(baseline), list(system)]
        first, second = (metric.corpus_score(side, [list(references)]).score for side in sides)
        counts = [np.array(metric._extract_corpus_statistics(side, [list(references)])) for side in sides]
        signature = f"{metric.get_signature()}|ar:{samples}|seed:12345"
        comparisons[name] = Comparison(
            first, second, second - first, chance(metric, *counts, samples), signature
        )
    return comparisons


# %% [markdown]
# 拿四个系统分别与贪心搜索比较：贪心搜索自己；只改**一个**句子的贪心搜索；束宽 4；第 3 节的小模型。**先猜**：一个系统与自己比，p 值是多少？哪些差别是真的？

# %%
mine = None  # your guess: p of a system against itself, 0 to 1

# %%
changed = [*greedy[:-1], "A dog."]
systems = {"itself": greedy, "one sentence changed": changed,
           "beam 4, α 0.6": translate(shipped, shipped_bpe, asked, beam=4, alpha=0.6, max_tokens=4000),
           "the small model": translate(model, bpe, asked, max_tokens=4000)}
compared = {name: compare(greedy, said_by, wanted) for name, said_by in systems.items()}
for name, by_metric in compared.items():
    for metric, comparison in by_metric.items():
        print(f"{name:22} {metric:6} {comparison}")

# %%
for name in ("itself", "one sentence changed"):
    assert all(comparison.p_value == 1 for comparison in compared[name].values())  # by construction
assert all(c.difference < 0 and c.p_value < 0.01 for c in compared["the small model"].values()) or real
print(compared["itself"]["BLEU"].signature)
guesses.compare(mine, compared["itself"]["BLEU"].p_value, "09: p of a system against itself")

# %% [markdown]
# 与自己比，每次抛硬币得到的差都是 0，正好和测到的 0 一样大：p = 1。只改一个句子，每次得到的差就是测到的差，最多符号相反：仍是 p = 1。单凭一个句子，什么也证明不了。
#
# 如果你比较了很多次，就别把其中一次“显著”当成发现：拿一样好的系统比较二十次，纯属偶然也会有一次显著。

# %%
check("p_value_says")

# %%
check("not_significant")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 检验这个检验，另一种没有通过 · 选读
#
# 一个检验如果把一样好的系统判为不同，就毫无价值。如果你用 sacrebleu 的配对自助法，也请读这一段。

# %% [markdown]
# 用抛硬币的办法，把贪心搜索与束宽 4 混成两个系统。这样得到的两个系统，本来就一样好。混四百次。**先猜**：p < 0.05 应该占多大比例？

# %%
mine = None  # your guess: a share of the mixtures, 0 to 1

# %%
def counts_of(said_by: list[str]) -> np.ndarray:
    """BLEU's counts of each sentence: (sentences, 10)."""
    return np.array(BLEU()._extract_corpus_statistics(said_by, [wanted]))


one, other = counts_of(systems["itself"]), counts_of(systems["beam 4, α 0.6"])
coin = np.random.default_rng(0)
mixtures = []
for _ in range(by_scale(smoke=200, cpu=400, gpu=400)):
    heads = coin.integers(2, size=(len(one), 1), dtype=bool)
    mixtures.append((np.where(heads, one, other), np.where(heads, other, one)))
p_values = np.array([chance(BLEU(), *mixture, samples=200) for mixture in mixtures])
alarms = (p_values < 0.05).mean()
assert abs(alarms - 0.05) < 3.5 * (0.05 * 0.95 / len(mixtures)) ** 0.5
print(guesses.compare(mine, float(alarms), "09: equal systems called different"))
draw.p_values(p_values, f"Of {len(mixtures)} pairs of equal systems {alarms:.1%} are called significant")

# %% [markdown]
# 二十次里有一次，和检验承诺的一样；而且 p 值的分布大致均匀。
#
# 更常用的是 sacrebleu 的**配对自助法**（paired bootstrap，Koehn 2004）。它把一样好的系统判为不同，次数大约是应有的两倍。它有放回地抽句子，用同一次抽样给两个系统打分，取每个差的**绝对值**，减去这些绝对值的平均，再数有多少仍然大于测到的差。这样一来，本来有两条尾巴的分布，它只看了一条。而且它只数更大的，不数相等的。两点都能看出来：

# %%
raw = PairedTest([("greedy", greedy), ("greedy again", list(greedy))], {"BLEU": BLEU()},
                 [wanted], test_type="bs", n_samples=1000)
itself = raw()[1]["BLEU"][1].p_value
draws = np.random.default_rng(1).choice(len(wanted), size=(200, len(wanted)))


def bootstrap_p(first: np.ndarray, second: np.ndarray) -> float:
    """The p-value of the paired bootstrap, as sacrebleu computes it."""
    sums = [[side.sum(0), *side[draws].sum(1)] for side in (first, second)]
    scores = np.array([[BLEU()._compute_score_from_stats(row.tolist()).score for row in rows] for rows in sums])
    measured, *sizes = abs(scores[0] - scores[1])
    return ((sizes - np.mean(sizes) > measured).sum() + 1) / (len(sizes) + 1)


bootstrapped = np.array([bootstrap_p(*mixture) for mixture in mixtures])
false_alarms = (bootstrapped < 0.05).mean()
assert itself < 0.05 and false_alarms > 0.07
print(f"paired bootstrap: a system against itself p = {itself:.4f}; {false_alarms:.1%} of the {len(mixtures)} "
      f"pairs of equal systems significant")

# %% [markdown]
# （用这种检验，请把 p < 0.025 看作显著。）sacrebleu 也有近似随机化检验（`test_type="ar"`），用的硬币和我们的一样；但是它不数相等的情形，于是只改一个句子，就足以让系统“显著”不同。所以课程自己来数。

# %% [markdown]
# ## 8 · 分数
#
# 最后的数字：在整个 `test_2016_flickr` 上，区分大小写，由 sacrebleu 计算，附误差范围。先看两种不用挑选的解码方式，再看从 55 种里挑出来的一种，它在**验证集**（val）上 BLEU 最高（第 09b 课把这些结果都画了出来）。¹
#
# ¹ 最好的 α 是对某一种**搜索**而言的。我们的搜索把写完的和没写完的译文放在同一个束里。论文自己的代码则把写完的单独存放；那样的搜索用束宽 4，在验证集（val）上 α 为 0.6 时得 42.7，1.5 时 43.2，2.1 时 39.6（我们的搜索 2.1 时：43.2）。[第 08 课](08_decoding.ipynb)第 8 节比较了这两种。不要把 2.1 搬到别的程序里去。

# %%
decodings = {"greedy": "test_2016_flickr_greedy", "beam 5, α 0.6": "test_2016_flickr_beam5",
             f"beam {decoding['beam']}, α {decoding['length_penalty']}": "test_2016_flickr"}
for name, key in decodings.items():
    print(f"{name:14} BLEU {card[key]['bleu']:.2f} ± {card[key]['margin']:.1f}   chrF {card[key]['chrf']:.2f}")
stored = card["test_2016_flickr"]
best = max(decoding["tried"], key=lambda row: row[2])
assert [stored["beam"], stored["length_penalty"]] == best[:2]  # chosen on val, not on test
print(stored["signatures"]["bleu"])
print(f"python -m course evaluate --checkpoint multi30k-de-en --corpus multi30k --split "
      f"test_2016_flickr --beam {stored['beam']} --length-penalty {stored['length_penalty']}")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### 再测一次、你自己的训练、别的系统 · 选读
#
# 存下来的数，在你的机器上还对吗？你用 `RETRAIN=1` 训练的模型能到多少分？别人公布的结果又如何？

# %% [markdown]
# 存下来的数不必轻信。如果你有语料库，下一个单元格用贪心搜索翻译测试集的一部分（有 GPU 就翻译全部），与模型卡上的分数比较。只取一部分，分数会有波动。模型卡上的 ± 是整个测试集的两个标准误（**标准误**，standard error，就是结果的标准差）；只取四分之一的句子，标准误就是两倍。单元格允许相差三个标准误，并打印出这个数。

# %%
part = test_pairs[: by_scale(smoke=20, cpu=100, gpu=1000)]
if corpus == "multi30k":
    fresh, said_now = evaluate(shipped, shipped_bpe, part, beam=1)
    on_all = card["test_2016_flickr_greedy"]
    error = on_all["margin"] / 2 * (len(test_pairs) / len(part)) ** 0.5
    allowed = 0.5 if len(part) == len(test_pairs) else 3 * error
    assert abs(fresh.bleu - on_all["bleu"]) < allowed
    print(f"greedy on {len(part)} sentences: BLEU {fresh.bleu:.1f}; card, greedy on all: {on_all['bleu']:.1f}; "
          f"allowed: {allowed:.1f} apart")
else:
    print("Multi30k is not here: `python -m course data` says how to get it.")

# %% [markdown]
# 同样的配方换一台机器，得到的会是另一个模型。两次同样的训练相差多远，第 09c 课来测。

# %%
if real:
    own, _ = evaluate(model, bpe, test_pairs, stored["beam"], stored["length_penalty"])
    print(f"retrained: BLEU {own.bleu:.2f} on {test_split}; the shipped model: {stored['bleu']:.2f}")
else:
    print("not retrained (RETRAIN=1 does it)")

# %% [markdown]
# 数字不说明是哪种指标，就只能算传闻，所以这张表写明了指标。全部是德译英，用 `test_2016_flickr`。
#
# | 系统 | 指标 | 分数 |
# |---|---|---|
# | pytorch-seq2seq 的 Transformer 教程，9.0M 参数 | torchtext 的 BLEU，小写的 spaCy 词元 | 36.52 |
# | JoeyNMT 的配置，10.9M | sacrebleu，束宽 5；大小写和词元化没有说明 | 35.06 |
# | 这个检查点，5.2M | sacrebleu 13a，区分大小写 | 见上面的单元格 |
# | the Annotated Transformer；attention-is-all-you-need-pytorch | | 没有公布 |
#
# 第一行数的是小写的 spaCy 词元。下一个单元格对我们的贪心译文也这样数：先看模型卡上全部一千句的结果，再测你的那一部分。

# %%
tutorial = card["tutorial_metric"]
print(f"lowercased spaCy tokens, greedy: {tutorial['bleu']:.2f} against 36.52")
if corpus == "multi30k":
    sides = said_now, [english for _, english in part]
    cut_now = [[tokenize(s.lower(), "en") for s in side] for side in sides]
    print(f"on {len(part)} sentences now: {bleu(*cut_now):.2f}")

# %% [markdown]
# ## 你实现了什么
#
# | 名称 | 输入 | 输出 |
# |---|---|---|
# | `score` | 译文、参考译文 | `Scores`：BLEU 和 chrF，区分与不区分大小写，附签名 |
# | `evaluate` | 模型、词元化程序、句对、束宽、α | `Scores` 和译文 |
# | `with_interval` | 译文、参考译文 | 一个 `Interval`：分数和误差范围 |
# | `compare`, `chance` | 两个系统的译文、参考译文 | 每种指标一个 `Comparison`，附 p 值 |
#
# > **试一试。** 用束宽 1、2、4、8 评判探针句。束越宽，BLEU 越高吗？`compare` 说差别显著吗？
#
# <details><summary>答案</summary>
#
# BLEU 依次是 26.6、28.3、27.9、27.8：比贪心搜索高，但不是越来越高。与贪心搜索比，BLEU 的 p 是 0.054、0.050（刚刚低于 0.05）和 0.107；chrF 的 p 是 0.055、0.439 和 0.104。四十个句子说明不了什么；六次比较里有一次刚刚过线，也算不上发现。
#
# </details>
#
# ## 小结
#
# - 语料小，就该用正则化充分的小模型。配方由三个限制决定：文本有多少，时间有多少，乘法花在哪里。
# - 一个 BLEU 是一个数**加**一个签名。不说明词元化、大小写和参考译文，就无法比较。
# - 分数没有误差范围，只能算半个分数。两个系统要在同样的句子上比较，检验方法本身也要先在一样好的系统上检查。
# - 先数重叠。在验证集（val）上调参。测试集我们看过不止一次（什么时候看的，见第 09c 课），但没有用它选过任何东西。
#
# ## 延伸阅读
#
# - Elliott, Frank, Sima'an, Specia 2016, *Multi30K: Multilingual English-German Image Descriptions*, W16-3210
# - Post 2018, *A Call for Clarity in Reporting BLEU Scores*, arXiv 1804.08771
# - Popović 2015, *chrF: character n-gram F-score for automatic MT evaluation*, W15-3049
# - Efron 1979, *Bootstrap Methods: Another Look at the Jackknife*, Annals of Statistics 7(1); Koehn 2004, *Statistical Significance Tests for Machine Translation Evaluation*, W04-3250
# - Riezler and Maxwell 2005, *On Some Pitfalls in Automatic Evaluation and Significance Testing for MT*, W05-0908
# - Trevett, *pytorch-seq2seq*, tutorial 6，以及 Kreutzer, Bastings and Riezler 2019, *Joey NMT*, arXiv 1907.12484：表中的两个系统
#
# **作业。** [第 09c 课](09c_ablations.ipynb)最后让你自己做一个实验。另外还剩两页。在[考试](homework/exam/exam.ipynb)里，你从空白的单元格开始写出整个 Transformer。[六个问题](homework/questions/questions.ipynb)考的是你理解了什么。最后，`python -m course homework report` 把你做过的一切汇总在一页上。
#
# **下一课：** 主线到此结束。想再深入，就读[第 09b 课](09b_inside.ipynb)，那里把翻译模型打开来看：每个头在做什么，拿掉一个头会损失多少，错误从哪里来。
