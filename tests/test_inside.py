"""Lesson 09b: every measurement equals a plain loop, and no hook stays behind."""

import copy
import json
import math
import random
import re

import pytest
import torch
import vl_convert
from torch import nn

from course.attention import record_attention
from course.cache import cached_log_probs
from course.corpora import captions
from course.evaluation import Interval
from course.inside import (
    KINDS,
    Head,
    Look,
    diagnose,
    gated,
    heads_of,
    importance,
    links_of,
    logit_lens,
    look_inside,
    marks_of,
    mean_share,
    prune,
    rank_correlation,
    split_compound,
    states_of,
    stem,
    sublayer,
    to_words,
    word_attention,
    word_index,
)
from course.masking import Batch
from course.text import BOS, BPE, EOS, PAD, encode_pairs
from course.training import batch_loss
from course.transformer import Transformer, TransformerConfig
from course.viz import inside as draw

CAPTIONS = captions.load("val")[:6]
PAIRS = [(c.de, c.en) for c in CAPTIONS]


@pytest.fixture(scope="module")
def bpe() -> BPE:
    return BPE.learn([s for c in captions.load("train")[:300] for s in (c.de, c.en)], 500)


def fresh(bpe: BPE, **changes) -> Transformer:
    """A small model that was never trained, and does not mind."""
    torch.manual_seed(0)
    sizes = dict(d_model=24, n_heads=3, d_ff=32, n_layers=2, norm="pre", dropout=0.1) | changes
    return Transformer(TransformerConfig(len(bpe), len(bpe), **sizes)).eval()


def batch_of(bpe: BPE, pairs=PAIRS) -> Batch:
    return Batch.from_sequences(*zip(*encode_pairs(bpe, pairs)), PAD, BOS)


def run(model: Transformer, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask)


def hooks_in(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# ---------------------------------------------------------------- heads and looks


def test_heads_are_named_as_on_the_page(bpe):
    model = fresh(bpe)
    heads = heads_of(model)
    assert len(set(heads)) == 3 * 2 * 3
    assert str(heads[0]) == "encoder 1.1" and str(heads[-1]) == "cross 2.3"
    assert sublayer(model, "cross", 1) is model.decoder.layers[1].cross_attention
    assert sublayer(model, "encoder", 0) is model.encoder.layers[0].self_attention


def test_a_look_is_what_one_sentence_alone_would_show(bpe):
    model = fresh(bpe)
    looks = look_inside(model, bpe, PAIRS, batch_size=4)
    assert len(looks) == len(PAIRS)
    for look, pair in zip(looks, PAIRS):
        batch = batch_of(bpe, [pair])
        with record_attention(model) as recorded:
            run(model, batch)
        assert look.src == batch.src[0].tolist() and look.tgt == batch.tgt_out[0].tolist()
        assert look.tgt_in == batch.tgt_in[0].tolist()
        for kind, (stack, name) in KINDS.items():
            for layer in range(2):
                expected = recorded[f"{stack}.layers.{layer}.{name}"][0]
                torch.testing.assert_close(look.weights[kind][layer], expected, atol=1e-5, rtol=0)
    assert hooks_in(model) == 0


def test_a_model_in_training_mode_is_refused(bpe):
    with pytest.raises(ValueError, match="eval"):
        look_inside(fresh(bpe).train(), bpe, PAIRS)


# ---------------------------------------------------------------- shares


@pytest.mark.parametrize("kind", KINDS)
def test_mean_share_is_the_loop(kind):
    random.seed(1)
    weights, marks = [], []
    for n in (3, 5, 7):
        w = torch.rand(2, 3, n, n)
        w = w.tril() if kind == "decoder" else w
        weights.append(w / w.sum(-1, keepdim=True))
        marks.append(torch.rand(n, n) < 0.3)
    shares, uniform = mean_share(kind, weights, marks)
    for layer in range(2):
        for head in range(3):
            given, even = [], []
            for w, m in zip(weights, marks):
                for q in range(len(m)):
                    seen = range(q + 1 if kind == "decoder" else len(m))
                    marked = [k for k in seen if m[q, k]]
                    if marked:
                        given.append(sum(w[layer, head, q, k].item() for k in marked))
                        even.append(len(marked) / len(seen))
            assert shares[layer, head].item() == pytest.approx(sum(given) / len(given), abs=1e-5)
    assert uniform == pytest.approx(sum(even) / len(even), abs=1e-6)


def test_uniform_attention_gets_the_uniform_share():
    for kind in KINDS:
        even = torch.ones(1, 1, 6, 6)
        even = even.tril() if kind == "decoder" else even
        even = even / even.sum(-1, keepdim=True)
        shares, uniform = mean_share(kind, [even], [torch.eye(6, dtype=torch.bool)])
        assert shares.item() == pytest.approx(uniform)


def test_a_mark_in_the_future_does_not_count():
    future = torch.ones(4, 4, dtype=torch.bool).triu(1)
    with pytest.raises(ValueError, match="nothing to average"):
        mean_share("decoder", [torch.eye(4)[None, None]], [future])


def test_word_index_puts_captions_together_again(bpe):
    for c in captions.load("val")[:100]:
        for text, tokens in ((c.de, c.de_tokens), (c.en, c.en_tokens)):
            ids, index = bpe.encode(text), word_index(bpe, text)
            assert len(ids) == len(index)
            words = [bpe.decode(i for i, w in zip(ids, index) if w == word)
                     for word in range(len(tokens))]
            assert words == list(tokens)
    assert word_index(bpe, "Ω!") == [0, 0, 0, 1]  # a space and two bytes, then the mark


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_marks_of_self_attention_are_the_loop(bpe, kind):
    pair = ("Der Kürbissuppenwagen, der große Hund, der Kürbissuppenwagen.",) * 2
    look = look_inside(fresh(bpe), bpe, [pair])[0]
    marks = marks_of(look, kind, bpe)
    ids = look.src if kind == "encoder" else look.tgt_in
    words = word_index(bpe, pair[0])
    words = [*words, None] if kind == "encoder" else [None, *words]
    for q in range(len(ids)):
        for k in range(len(ids)):
            for name, marked in marks.items():
                edge = ids[k] in (BOS, EOS)
                expected = {
                    "itself": q == k,
                    "same word": q != k and words[q] == words[k],
                    "same token": q != k and ids[q] == ids[k],
                    "a mark": not edge and bpe.decode([ids[k]]).strip() in {",", "."},
                    "start": edge,
                    "end": edge,
                }
                expected = expected[name] if name in expected else k - q == int(name)
                assert bool(marked[q, k]) == expected, (name, q, k)
    assert marks["same word"].any() and marks["same token"].any() and marks["a mark"].any()


def test_marks_of_cross_attention(bpe):
    look = look_inside(fresh(bpe), bpe, PAIRS[:1])[0]
    marks = marks_of(look, "cross", bpe)
    t, s = len(look.tgt), len(look.src)
    assert {m.shape for m in marks.values()} == {(t, s)}
    assert (marks["same place"].sum(1) == 1).all()
    assert marks["same place"][0, 0] and marks["same place"][-1, -1]
    assert marks["end"].nonzero()[:, 1].unique().tolist() == [s - 1]


# ---------------------------------------------------------------- words and links


def test_to_words_is_the_loop():
    torch.manual_seed(0)
    tgt, src = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2]
    weights = torch.rand(2, 3, 6, 4).softmax(-1)
    merged = to_words(weights, tgt, src)
    for i in range(3):
        for j in range(3):
            asks = [t for t in range(6) if tgt[t] == i]
            expected = sum(
                weights[:, :, t, s] for t in asks for s in range(4) if src[s] == j
            ) / len(asks)
            torch.testing.assert_close(merged[:, :, i, j], expected)
    torch.testing.assert_close(merged.sum(-1), torch.ones(2, 3, 3))


def test_word_attention_reads_one_step_later_than_it_writes(bpe):
    look = look_inside(fresh(bpe), bpe, PAIRS[:1])[0]
    weights = look.weights["cross"]
    writes, reads = word_attention(look, bpe), word_attention(look, bpe, reads=True)
    index = word_index(bpe, PAIRS[0][1])
    source = word_index(bpe, PAIRS[0][0])
    for word in range(max(index) + 1):
        steps = [t for t, w in enumerate(index) if w == word]
        for found, shift in ((writes, 0), (reads, 1)):
            row = torch.stack([weights[:, :, t + shift] for t in steps]).mean(0)  # (N, H, S)
            first = row[:, :, [s for s, w in enumerate(source) if w == 0]].sum(-1)
            torch.testing.assert_close(found[:, :, word, 0], first)
            torch.testing.assert_close(found[:, :, word, -1], row[:, :, -1])  # EOS


def test_links_leave_out_the_end():
    weights = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0]])
    assert links_of(weights) == {(0, 0)}  # word 1 looks at EOS; the last row is EOS itself


# ---------------------------------------------------------------- pruning


def without_columns(model: Transformer, heads) -> Transformer:
    """The slow way: a copy whose w_o ignores the heads."""
    copied = copy.deepcopy(model)
    for kind, layer, head in heads:
        attention = sublayer(copied, kind, layer)
        width = attention.w_o.in_features // attention.n_heads
        with torch.no_grad():
            attention.w_o.weight[:, head * width : (head + 1) * width] = 0
    return copied


@pytest.mark.parametrize("sizes", [{}, {"norm": "post"}, {"d_k": 5, "d_v": 7}])
def test_pruning_equals_zero_columns(bpe, sizes):
    model, batch = fresh(bpe, **sizes), batch_of(bpe)
    before = run(model, batch)
    for gone in ([Head("encoder", 0, 1)], [Head("cross", 1, 0), Head("cross", 1, 2)],
                 [Head("decoder", 0, 0), Head("encoder", 1, 2)], heads_of(model)):
        with prune(model, gone):
            pruned = run(model, batch)
        torch.testing.assert_close(pruned, run(without_columns(model, gone), batch))
        assert not torch.allclose(pruned, before)
    assert torch.equal(run(model, batch), before)
    with prune(model, []):
        assert torch.equal(run(model, batch), before)


def test_pruning_reaches_the_decoder_with_a_cache(bpe):
    model, src = fresh(bpe), batch_of(bpe).src
    gone = [h for h in heads_of(model) if h.kind != "encoder" and h.head < 2]

    def first_step(model: Transformer) -> torch.Tensor:
        return cached_log_probs(model, src)(torch.full((len(src), 1), BOS), torch.arange(len(src)))

    with prune(model, gone):
        pruned = first_step(model)
    torch.testing.assert_close(pruned, first_step(without_columns(model, gone)))
    assert not torch.allclose(pruned, first_step(model))


def test_no_hook_stays_behind_even_after_an_error(bpe):
    model = fresh(bpe)
    with pytest.raises(KeyError), prune(model, heads_of(model)):
        assert hooks_in(model) == 6
        raise KeyError
    assert hooks_in(model) == 0


def test_a_head_that_is_not_there_is_named(bpe):
    with pytest.raises(ValueError, match="no head cross 3.1"), prune(fresh(bpe), [("cross", 2, 0)]):
        pass


def test_importance_is_the_slope_of_every_sentence(bpe):
    model = fresh(bpe).double()
    batches = [batch_of(bpe, PAIRS[:4]), batch_of(bpe, PAIRS[4:])]
    found = importance(model, batches)
    step = 1e-6
    for head in random.Random(0).sample(heads_of(model), 5):
        slopes = []
        for pair in PAIRS:
            losses = []
            for value in (1 + step, 1 - step):
                gate = torch.ones(3, dtype=torch.float64)
                gate[head.head] = value
                with gated(model, {(head.kind, head.layer): gate}), torch.no_grad():
                    losses.append(batch_loss(model, batch_of(bpe, [pair])).item())
            slopes.append(abs(losses[0] - losses[1]) / (2 * step))
        assert found[head] == pytest.approx(sum(slopes) / len(slopes), rel=1e-4)
    assert hooks_in(model) == 0 and all(p.grad is None for p in model.parameters())


# ---------------------------------------------------------------- the lens


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_states_are_what_the_layers_give(bpe, norm):
    model, batch = fresh(bpe, norm=norm), batch_of(bpe)
    seen: dict[str, list] = {"encoder": [], "decoder": []}
    handles = [layer.register_forward_hook(lambda m, a, out, stack=stack: seen[stack].append(out))
               for stack in seen for layer in getattr(model, stack).layers]
    logits = run(model, batch)
    for handle in handles:
        handle.remove()
    source, target = states_of(model, batch)
    torch.testing.assert_close(source[1:], torch.stack(seen["encoder"]))
    torch.testing.assert_close(target[1:], torch.stack(seen["decoder"]))
    torch.testing.assert_close(source[0], model.positions(model.src_embedding(batch.src)))
    torch.testing.assert_close(target[0], model.positions(model.tgt_embedding(batch.tgt_in)))
    torch.testing.assert_close(logit_lens(model, target[-1]), logits.log_softmax(-1))


# ---------------------------------------------------------------- errors

COUNTS = {"kürbis": 5, "suppe": 9, "wagen": 80, "suppenwagen": 1, "regen": 70, "bogen": 20,
          "regenbogen": 4, "hund": 900, "see": 50, "hunde": 30, "hütte": 7, "arbeit": 9, "amt": 3}


def test_compounds_are_cut_into_known_words():
    assert split_compound("Kürbissuppenwagen", COUNTS) == ("kürbis", "suppe", "wagen")
    assert split_compound("Hundehütte", COUNTS) == ("hunde", "hütte")
    assert split_compound("Arbeitswagen", COUNTS) == ("arbeit", "wagen")  # with a linking s
    assert split_compound("Regenbogen", COUNTS) == ("regen", "bogen")  # more frequent than itself
    assert split_compound("Hund", COUNTS) == ("hund",)
    assert split_compound("Seehund", COUNTS) == ()  # "see" is too short
    assert split_compound("Xylophon", COUNTS) == split_compound("", COUNTS) == ()


def test_compound_splitting_is_the_brute_force():
    counts = {"abab": 3, "ababa": 2, "baba": 5, "abba": 1, "bbaba": 4, "aaaa": 6}
    links = ("", "s", "es", "n", "en", "er")

    def ways(rest):
        if counts.get(rest):
            yield (rest,)
        for part, count in counts.items():
            for link in links:
                if count and rest.startswith(part + link) and len(rest) > len(part + link):
                    yield from ((part, *more) for more in ways(rest[len(part + link) :]))

    def mean(way):
        return math.prod(counts[part] for part in way) ** (1 / len(way))

    lots = random.Random(0)
    cut = 0
    for _ in range(300):
        word = "".join(lots.choice([*counts, "s", "en", "b"]) for _ in range(lots.randint(1, 4)))
        found, best = split_compound(word, counts), max(map(mean, ways(word)), default=0)
        assert bool(found) == bool(best), word
        if found:
            cut += 1
            assert mean(found) == pytest.approx(best), word
    assert cut > 50


@pytest.mark.parametrize("words", [
    "give gives giving", "run runs running", "dog dogs", "carry carries carried", "dress dresses",
    "jump jumped jumping", "bus",
])
def test_forms_of_a_word_have_one_stem(words):
    assert len({stem(word) for word in words.split()}) == 1


def test_other_words_have_other_stems():
    words = ["dog", "door", "cat", "car", "red", "ring", "bus", "sing", "sling"]
    assert len(set(map(stem, words))) == len(words)


@pytest.mark.parametrize("said, meant, notes", [
    ("A dog runs.", "A dog runs.", {}),
    ("A dog runs.", "The dog runs.", {}),  # small words are not judged
    ("A dog.", "A dog runs.", {"missing": ["runs"]}),
    ("A big dog runs.", "A dog runs.", {"added": ["big"]}),
    ("A dog runs.", "Dogs run.", {"form": ["dog for dogs", "runs for run"]}),
    ("A dog and a dog.", "A dog and a cat.", {"missing": ["cat"], "twice": ["dog"]}),
    ("A dog and a dog.", "A dog and a dog.", {}),
    ("A a dog.", "A dog.", {"twice": ["a"]}),
    ("", "A dog.", {"missing": ["dog"]}),
    ("The father's dog.", "The dog of the father.", {"form": ["father's for father"]}),
])
def test_the_diagnosis_names_what_is_wrong(said, meant, notes):
    assert diagnose(said, meant) == notes


# ---------------------------------------------------------------- the pictures


def numbers_of(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_the_explorer_holds_every_weight_and_needs_no_network():
    torch.manual_seed(0)
    weights = torch.rand(2, 3, 2, 4).softmax(-1)
    records = [("cross", "Ein Satz.", ["a → b", "b → c"], list("wxyz"), weights)]
    chart = draw.explorer(records, {"cross": weights.amax(-1).mean(-1)}, ("cross", 1, 2), "title")
    spec = chart.to_dict()
    assert "url" not in json.dumps(spec["layer"]) + json.dumps(spec.get("data", {}))
    rows = spec["data"]["values"]
    assert len(rows) == 2 * (3 + 1)  # every head, and their mean
    for row in rows:
        layer = weights[int(row["layer"]) - 1]
        expected = layer.mean(0) if row["head"] == "mean" else layer[int(row["head"]) - 1]
        shown = torch.tensor([int(n) for n in row["w"].split()]) / 100
        torch.testing.assert_close(shown, expected.flatten(), atol=0.0051, rtol=0)
    start = {p["name"]: p["value"] for p in spec["params"]}
    assert start["choose_layer"] == "2" and start["choose_head"] == "3"


def test_the_menus_change_the_picture():
    weights = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.5, 0.5]]]])  # one layer
    records = [(kind, "Zwei Worte.", ["a", "b"], ["x", "y"], weights) for kind in KINDS]
    sharp = {kind: weights.amax(-1).mean(-1) for kind in KINDS}
    shown = set()
    for start in (("cross", 0, 0), ("cross", 0, 1), ("encoder", 0, 0)):
        spec = draw.explorer(records, sharp, start, "title").to_dict()
        svg = vl_convert.vegalite_to_svg(spec, vl_version="5.20")
        cells = re.findall(r'aria-label="key: who answers: (\d \w); query: who asks: (\d \w); '
                           r'weight \[%\]: (\d+);', svg)
        assert len(cells) == 4
        for key, query, weight in cells:
            expected = weights[0, start[2], int(query[0]) - 1, int(key[0]) - 1]
            assert int(weight) == round(100 * expected.item())
        shown.add(tuple(cells))
    assert len(shown) == 2  # the two heads differ; the kinds hold the same weights here


def test_profiles_name_the_best_head_and_mark_the_best_untrained_one():
    table = {"encoder": {"-1": (torch.tensor([[0.3, 0.1]]), 0.1)},
             "cross": {"end": (torch.tensor([[0.2, 0.5]]), 0.1)}}
    blank = {"encoder": {"-1": (torch.tensor([[0.15, 0.05]]), 0.1)},
             "cross": {"end": (torch.tensor([[0.1, 0.2]]), 0.1)}}
    figure = draw.profiles(table, blank, "title", {"encoder": "here", "cross": "there"})
    for axis, heads, best, name, chance in zip(
        figure.axes, ([3, 1], [2, 5]), (3, 5), ("1.1", "1.2"), (1.5, 2)
    ):
        dots, filled, cross = axis.get_lines()[:3]
        assert list(dots.get_xdata()) == pytest.approx(heads)
        assert float(filled.get_xdata()[0]) == pytest.approx(best)
        assert float(cross.get_xdata()[0]) == pytest.approx(chance)
        assert numbers_of(axis) == [name]
    assert [axis.get_title(loc="left").split()[-1] for axis in figure.axes] == ["(here)", "(there)"]


def test_the_tables_print_their_numbers():
    rates = {"writes": torch.tensor([[0.25, 0.5]]), "reads": torch.tensor([[0.75, 0.8]])}
    axes = draw.alignment_errors(rates, 0.5, "title").axes
    assert [numbers_of(axis) for axis in axes] == [["0.25", "0.50"], ["0.75", "0.80"]]
    alone = {("cross", 0, 0): 0.01, ("cross", 0, 1): 0.2}
    axis = draw.removal_costs(alone, {("cross", 0): 0.5}, "title").axes[0]
    assert numbers_of(axis) == ["0.010", "0.200", "0.500"]
    axis = draw.stand_in({"a": 0.1, "b": 0.2, "added": 0.3, "both": 0.5}, "title").axes[0]
    assert numbers_of(axis) == ["0.100", "0.200", "0.300", "0.500"]


def test_the_curves_show_what_was_measured():
    curves = {"cheapest first": [40, 30], "random 1": [40, 20]}
    axis = draw.removal_curves([0, 0.5], curves, "t").axes[0]
    assert [list(line.get_ydata()) for line in axis.get_lines()] == list(curves.values())
    axis = draw.removal_curves([0, 0.5], curves, "t", margin=2.0).axes[0]
    assert "95 % interval of one score" in axis.get_legend_handles_labels()[1]
    lens = {name: torch.tensor([0.1, 1.0]) for name in ("final", "right", "read")}
    figure = draw.lens_by_layer({**lens, "ranks": torch.tensor([[9, 9, 9], [1, 1, 1]])}, "t")
    assert list(figure.axes[1].get_lines()[1].get_ydata()) == [9, 1]
    left = {name: torch.tensor([0.9, 0.5]) for name in ("own", "others", "nearest")}
    assert len(draw.word_left(left, "t").axes[0].get_lines()) == 3
    axis = draw.beam_grid({(1, 0.6): 40.0, (3, 0.6): 41.0, (3, 2.1): 42.5}, "t").axes[0]
    assert numbers_of(axis) == ["40.0", "41.0", "42.5"]
    assert [text.get_position() for text in axis.texts] == [(0, 0), (0, 1), (1, 1)]
    assert [text.get_weight() for text in axis.texts] == ["normal", "normal", "bold"]


def test_the_lens_grid_shows_the_words():
    probability = torch.tensor([[0.1, 0.2], [0.9, 1.0]])
    axis = draw.lens_grid([["a", "b"], ["c", "d"]], probability, ["x", "y"], "t").axes[0]
    assert numbers_of(axis) == ["a", "b", "c", "d"]


def test_error_bars_stand_at_their_scores():
    group = {"to 9": Interval(40, 2, 50), "longer": Interval(30, 3, 50)}
    axis = draw.error_bars({"words": {"bleu": group, "chrf": group}}, "t").axes[0]
    assert [bar.get_height() for bar in axis.patches] == [40, 30, 40, 30]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["to 9\n(50)", "longer\n(50)"]


def test_a_look_knows_what_the_decoder_reads():
    assert Look([7, EOS], [8, 9, EOS], {}).tgt_in == [BOS, 8, 9]


def test_attention_grid_shows_a_map_per_layer():
    weights = torch.rand(3, 4, 5)
    figure = draw.attention_grid(weights, list("abcd"), list("vwxyz"), "title")
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert all((image.get_array() == map_.numpy()).all() for image, map_ in zip(images, weights))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list("vwxyz")


def test_need_and_weight_stand_side_by_side():
    axes = draw.need_and_weight(["Ein", "Hund"], [0.5, 4.0], [1.0, 2.0], "title").axes
    assert [[bar.get_width() for bar in axis.patches] for axis in axes] == [[0.5, 4.0], [1.0, 2.0]]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["Ein", "Hund"]


def test_rank_correlation_shares_ranks_between_ties():
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [9, 2, 1]) == pytest.approx(-1)
    # by hand: ranks 1.5 1.5 3 4 and 1 3 2 4, both with mean 2.5
    cov = (-1) * (-1.5) + (-1) * 0.5 + 0.5 * (-0.5) + 1.5 * 1.5
    spread = (1 + 1 + 0.25 + 2.25) * (2.25 + 0.25 + 0.25 + 2.25)
    assert rank_correlation([7, 7, 8, 9], [0, 2, 1, 5]) == pytest.approx(cov / spread**0.5)
