"""Question 1: the three attentions of one trained model, and which sentence each of them hears."""

import csv

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course import ASSETS
from course.attention import record_attention
from course.device import one_thread
from course.masking import Batch
from course.runs import load_checkpoint
from course.text import BOS, EOS, PAD
from course.transformer import Transformer
from course.viz import BLUE, ORANGE, finish

# in the first layer, where nothing but its own sentence has reached a word yet
PLACES = {
    "encoder self-attention": "encoder.layers.0.self_attention",
    "decoder self-attention": "decoder.layers.0.self_attention",
    "cross-attention": "decoder.layers.0.cross_attention",
}
PROBE = "p21"
EDITS = {"German": ("▁Akkordeon", "▁Gitarre"), "English": ("▁accordion", "▁guitar")}


def weights(model: Transformer, src: list[int], tgt: list[int]) -> dict[str, Tensor]:
    """Return the mean over the heads of the attention weights at each of the three places."""
    batch = Batch.from_sequences([src], [tgt], PAD, BOS)
    with torch.no_grad(), record_attention(model) as recorded:
        model(batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask)
    return {place: recorded[name][0].mean(0) for place, name in PLACES.items()}


@one_thread()
def experiment() -> tuple[dict[str, dict[str, float]], Figure]:
    """Replace one word of one sentence, and see which attention weights move.

    Returns place -> {"German": ..., "English": ...}, the largest change of a weight when a word of
    that sentence is replaced by another, and a figure: the three maps, and these changes.
    """
    model, bpe = load_checkpoint("multi30k-de-en")
    with (ASSETS / "probe_sentences.tsv").open(encoding="utf-8") as file:
        probe = next(row for row in csv.DictReader(file, delimiter="\t") if row["id"] == PROBE)
    sentences = {"German": bpe.encode(probe["de"]), "English": bpe.encode(probe["en"])}
    before = weights(model, *([*ids, EOS] for ids in sentences.values()))
    moved: dict[str, dict[str, float]] = {place: {} for place in PLACES}
    for language, (old, new) in EDITS.items():
        old_id, new_id = bpe.names.index(old), bpe.names.index(new)
        ids = [new_id if i == old_id else i for i in sentences[language]]
        edited = sentences | {language: ids}
        after = weights(model, *([*ids, EOS] for ids in edited.values()))
        for place in PLACES:
            moved[place][language] = (after[place] - before[place]).abs().max().item()
    german, english = ([bpe.names[i].strip("▁") for i in ids] for ids in sentences.values())
    return moved, _picture(before, [*german, "</s>"], ["<s>", *english], moved)


def _map(axis: Axes, place: str, table: Tensor, asks: list[str], answers: list[str]) -> None:
    shape = " x ".join(map(str, table.shape))
    axis.imshow(table, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(answers)), answers, rotation=90, fontsize=8)
    axis.set_yticks(range(len(asks)), asks, fontsize=8)
    axis.tick_params(length=0)
    sides = ["German" if "</s>" in words else "English" for words in (asks, answers)]
    axis.set(ylabel=f"who asks: {sides[0]}", xlabel=f"who answers: {sides[1]}")
    axis.set_title(f"{place}, {shape}", fontsize=10)


def _picture(
    maps: dict[str, Tensor], german: list[str], english: list[str], moved: dict[str, dict]
) -> Figure:
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 8.2), layout="constrained")
    words = [(german, german), (english, english), (english, german)]
    for axis, (place, table), sides in zip(axes.flat, maps.items(), words):
        _map(axis, place, table, *sides)
    last = axes[1, 1]
    styles = ((-0.2, BLUE, "", "German"), (0.2, ORANGE, "//", "English"))
    for shift, colour, hatch, language in styles:
        values = [moved[place][language] for place in PLACES]
        places = [y + shift for y in range(len(values))]
        last.barh(places, values, 0.36, color=colour, hatch=hatch,
                  edgecolor="white", label=f"one {language} word is replaced")
        for y, value in zip(places, values):
            text = f" {value:.2f}" if value else " exactly 0"
            last.text(value, y, text, va="center", fontsize=9)
    last.set_yticks(range(len(PLACES)), [place.replace(" ", "\n") for place in PLACES])
    last.set(xlabel="largest change of a weight")
    last.margins(x=0.25)
    last.invert_yaxis()
    last.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.16))
    last.set_title("Which sentence does each of them hear?", fontsize=10)
    figure.suptitle("Self-attention hears one sentence, cross-attention hears both", x=0.01,
                    ha="left")
    return finish(figure)
