"""Lesson 10: one stack under two masks, texts drawn by lot, trees as sequences."""

import math
import random
import re
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_transformer import copy_layer, copy_norm, options
from torch import nn

from course.beyond import (
    MASK,
    BracketScore,
    LanguageModel,
    as_tree,
    bracket_score,
    causal_batch,
    language_loss,
    linearise,
    masked_batch,
    may_follow,
    next_word,
    nucleus,
    only_trees,
    sample,
)
from course.corpora import captions
from course.corpora.captions import constituents
from course.decoding import beam_search, greedy_search
from course.masking import causal_mask
from course.text import BOS, EOS, PAD, UNK
from course.transformer import TransformerConfig
from course.viz import beyond as draw

V = 20
CONFIG = TransformerConfig(V, V, 16, n_heads=4, d_ff=32, n_layers=2, dropout=0.0, norm="pre")
SENTENCES = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
TREE = "(S (NP (DT A) (NN dog)) (VP (VBZ sleeps) (PP (IN on) (NP (DT a) (NN bench)))) (. .))"
WORDS = "A dog sleeps on a bench .".split()  # noqa: SIM905


@pytest.fixture
def model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(CONFIG).eval()


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("causal", [True, False])
def test_the_stack_equals_torch(model, causal):
    layer = nn.TransformerEncoderLayer(**options(CONFIG))
    twin = nn.TransformerEncoder(layer, 2, nn.LayerNorm(16), enable_nested_tensor=False).eval()
    for theirs, ours in zip(twin.layers, model.encoder.layers):
        copy_layer(theirs, ours)
    copy_norm(twin.norm, model.encoder.norm)
    tokens = torch.randint(4, V, (3, 7))
    mask = causal_mask(7) if causal else None
    x = model.positions(model.embedding(tokens))
    expected = twin(x, mask=~causal_mask(7)[0, 0] if causal else None)
    torch.testing.assert_close(model.states(tokens, mask), expected, atol=1e-5, rtol=1e-5)
    logits = expected @ model.embedding.weight.T
    torch.testing.assert_close(model(tokens, mask), logits, atol=1e-5, rtol=1e-5)


def test_embedding_and_projection_are_one(model):
    names = [name for name, _ in model.named_parameters() if "embedding" in name]
    assert names == ["embedding.weight"]
    assert sum(p.numel() for p in model.parameters()) == V * 16 + sum(
        p.numel() for p in model.encoder.parameters()
    )


def test_only_the_causal_mask_hides_the_future(model):
    tokens = torch.randint(4, V, (1, 6))
    changed = tokens.clone()
    changed[0, 4] = (tokens[0, 4] + 1 - 4) % (V - 4) + 4
    before, after = (model(t, causal_mask(6)) for t in (tokens, changed))
    assert torch.equal(before[0, :4], after[0, :4]) and not torch.equal(before[0, 4], after[0, 4])
    assert not torch.allclose(model(tokens)[0, 0], model(changed)[0, 0])


# ---------------------------------------------------------------- batches


def test_a_causal_batch_asks_for_every_next_word():
    batch = causal_batch(SENTENCES)
    assert batch.tokens.tolist()[1] == [BOS, 8, EOS, PAD, PAD, PAD]
    assert batch.answers.tolist()[1] == [8, EOS, PAD, PAD, PAD, PAD]
    assert batch.answers.tolist()[2] == [9, 10, 11, 12, 13, EOS]
    assert batch.mask.shape == (3, 1, 6, 6) and not batch.mask[:, 0].triu(1).any()


def test_a_masked_batch_hides_what_it_asks_for():
    generator = torch.Generator().manual_seed(0)
    sentences = [[random.Random(i).randrange(MASK + 1, V) for _ in range(30)] for i in range(400)]
    batch = masked_batch(sentences, V, share=0.3, generator=generator)
    clean = torch.tensor([[BOS, *ids, EOS] for ids in sentences])
    asked = batch.answers != PAD
    assert torch.equal(batch.answers[asked], clean[asked])
    assert torch.equal(batch.tokens[~asked], clean[~asked])
    assert not asked[:, [0, -1]].any() and (batch.tokens[:, 0] == BOS).all()
    n = int(asked.sum())
    assert n / (400 * 30) == pytest.approx(0.3, abs=0.02)
    hidden = (batch.tokens[asked] == MASK).float().mean().item()
    stayed = (batch.tokens[asked] == clean[asked]).float().mean().item()
    assert hidden == pytest.approx(0.8, abs=0.02)
    assert stayed == pytest.approx(0.1 + 0.1 / (V - MASK - 1), abs=0.02)  # a lot may fall on itself
    assert batch.tokens.max() < V and not ((batch.tokens > EOS) & (batch.tokens < MASK)).any()


def test_padding_is_never_asked_for_nor_seen():
    batch = masked_batch(SENTENCES, V, share=1.0)
    assert (batch.answers[1] != PAD).tolist() == [False, True, *[False] * 5]
    assert batch.mask[1, 0, 0].tolist() == [True] * 3 + [False] * 4


def test_the_same_generator_hides_the_same_words():
    lots = [torch.Generator().manual_seed(3) for _ in range(2)]
    first, second = (masked_batch(SENTENCES, V, 0.5, generator) for generator in lots)
    assert torch.equal(first.tokens, second.tokens) and torch.equal(first.answers, second.answers)


@pytest.mark.parametrize("ask", [causal_batch, lambda s: masked_batch(s, V, 0.5)])
def test_the_loss_is_torchs_over_the_places_that_ask(model, ask):
    batch = ask(SENTENCES).to("cpu")
    logits = model(batch.tokens, batch.mask)
    expected = F.cross_entropy(logits.flatten(0, 1), batch.answers.flatten(), ignore_index=PAD,
                               reduction="sum")
    torch.testing.assert_close(language_loss(model, batch), expected)


def test_padding_changes_no_loss(model):
    together = language_loss(model, causal_batch(SENTENCES))
    alone = sum(language_loss(model, causal_batch([ids])) for ids in SENTENCES)
    torch.testing.assert_close(together, alone)


# ---------------------------------------------------------------- writing


def test_next_word_is_the_last_row_of_the_whole_pass(model):
    prefixes = torch.tensor([[BOS, 5, 6], [BOS, 7, 8]])
    said = next_word(model)(prefixes, torch.arange(2))
    logits = model(prefixes, causal_mask(3))[:, -1]
    logits[:, [PAD, BOS, UNK]] = -math.inf
    torch.testing.assert_close(said, logits.log_softmax(-1))
    assert greedy_search(next_word(model), 1, 9)[0] == list(
        beam_search(next_word(model), 1, 9, beam=1)[0][0].ids
    )


def test_next_word_refuses_a_model_in_training(model):
    with pytest.raises(ValueError, match="model.eval"):
        next_word(model.train())


def slow_nucleus(row: list[float], top_p: float) -> set[int]:
    """Return the words that stay: the likeliest ones, until they hold top_p."""
    kept: set[int] = set()
    held = 0.0
    for word in sorted(range(len(row)), key=lambda i: -row[i]):
        if kept and held >= top_p:
            break
        kept.add(word)
        held += math.exp(row[word])
    return kept


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3, 0.5, 0.9, 0.99]))
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(seed, top_p):
    log_probs = torch.randn(3, 9, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    kept = nucleus(log_probs, top_p)
    for row, ours in zip(log_probs.tolist(), kept):
        stays = slow_nucleus(row, top_p)
        assert {i for i, value in enumerate(ours.tolist()) if value > -math.inf} == stays
    assert torch.equal(kept[kept.isfinite()], log_probs[kept.isfinite()])


def test_all_of_the_probability_is_the_whole_vocabulary():
    log_probs = torch.randn(2, 9).log_softmax(-1)
    assert torch.equal(nucleus(log_probs, 1.0), log_probs)


def coin(prefixes: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Say word 5 three times as often as word 6, and stop half of the time."""
    row = torch.tensor([0.0, 0, 0.5, 0, 0, 0.375, 0.125]).log()
    return row.expand(len(prefixes), -1)


def test_lots_fall_as_the_probabilities_say():
    texts = sample(coin, 4000, 1, generator=torch.Generator().manual_seed(0))
    counts = Counter(tuple(text) for text in texts)
    assert counts[()] / 4000 == pytest.approx(0.5, abs=0.03)
    assert counts[(5,)] / 4000 == pytest.approx(0.375, abs=0.03)
    cold = sample(coin, 4000, 1, temperature=0.5, generator=torch.Generator().manual_seed(0))
    share = 0.5**2 / (0.5**2 + 0.375**2 + 0.125**2)
    assert sum(not text for text in cold) / 4000 == pytest.approx(share, abs=0.03)
    assert {6} & {w for t in sample(coin, 500, 3, top_p=0.8) for w in t} == set()


def test_a_text_keeps_its_prompt_and_its_limit():
    texts = sample(coin, 50, 4, prompt=[6, 6], generator=torch.Generator().manual_seed(1))
    assert all(text[:2] == [6, 6] and len(text) <= 4 and EOS not in text for text in texts)
    assert len({len(text) for text in texts}) > 1


def test_a_finished_text_is_not_sampled_any_more():
    asked = []

    def counted(prefixes: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        assert not (prefixes == EOS).any() and len(prefixes) == len(rows)
        asked.append(rows.tolist())
        return coin(prefixes, rows)

    texts = sample(counted, 50, 6, generator=torch.Generator().manual_seed(1))
    for step, rows in enumerate(asked):  # who is asked has written so many words
        assert rows == [i for i, text in enumerate(texts) if len(text) >= step]
    assert len(asked[-1]) < 50


@pytest.mark.parametrize("knobs", [{"temperature": 0.0}, {"temperature": -1.0}, {"top_p": 0.0},
                                   {"top_p": 1.1}, {"temperature": math.nan}])
def test_impossible_knobs_are_refused(knobs):
    with pytest.raises(ValueError, match="give a temperature above 0"):
        sample(coin, 1, 3, **knobs)


# ---------------------------------------------------------------- trees


def test_a_tree_by_hand():
    symbols = linearise(TREE)
    by_hand = "(S (NP XX XX )NP (VP XX (PP XX (NP XX XX )NP )PP )VP XX )S"
    assert " ".join(symbols) == by_hand
    assert as_tree(symbols, WORDS) == re.sub(r"\([^\s()]+ ([^\s()]+)\)", r"(XX \1)", TREE)


def test_every_caption_goes_there_and_back():
    for caption in captions.load("val"):
        symbols = linearise(caption.tree)
        tree = as_tree(symbols, caption.en_tokens)
        assert constituents(tree) == constituents(caption.tree) and linearise(tree) == symbols


@pytest.mark.parametrize("tree", ["(S (NP (NN a)", "(NN a))", ")"])
def test_brackets_that_do_not_balance_are_named(tree):
    with pytest.raises(ValueError, match="closed|opened"):
        linearise(tree)


@pytest.mark.parametrize("symbols, message", [
    ("(S XX XX", "1 open brackets and 0 words"),
    ("(S XX )S", "0 open brackets and 1 words"),
    ("(S XX XX XX )S", "more XX than the 2 words"),
    ("(S XX XX )NP", r"\(S is closed by \)NP, symbol 4 of 4"),
    ("(S (NP )NP XX XX )S", r"\(NP is empty, symbol 3"),
    ("(S XX XX )S (S )S", "ends before"),
    ("XX XX", "begins"),
    (")S XX XX", "begins"),
    ("", "left over: 0 open brackets and 2 words"),
])
def test_what_is_no_tree_is_named(symbols, message):
    with pytest.raises(ValueError, match=message):
        as_tree(symbols.split(), ["a", "b"])


def test_a_word_may_look_like_a_bracket():
    tree = as_tree(["(S", "XX", "XX", ")S"], ["S", "NP"])
    assert linearise(tree) == ["(S", "XX", "XX", ")S"]


# ---------------------------------------------------------------- brackets


def test_scores_by_hand():
    gold = [("S", 0, 4), ("NP", 0, 1), ("VP", 1, 4)]
    other = [("S", 0, 4), ("VP", 0, 1), ("VP", 2, 4)]
    assert bracket_score([gold], [gold]) == BracketScore(3, 3, 3)
    assert bracket_score([other], [gold]) == BracketScore(1, 3, 3)
    assert bracket_score([other], [gold], labelled=False) == BracketScore(2, 3, 3)
    assert bracket_score([other, gold], [gold, gold]).f1 == pytest.approx(4 / 6)
    assert bracket_score([[]], [gold]).f1 == 0 == bracket_score([], []).f1


def test_a_bracket_that_comes_twice_counts_twice():
    twice = [("NP", 0, 2), ("NP", 0, 2)]
    assert bracket_score([twice], [twice[:1]]) == BracketScore(1, 2, 1)
    assert bracket_score([[("NP", 0, 2), ("S", 0, 2)]], [twice], labelled=False).right == 2


def test_as_many_predictions_as_gold_trees():
    with pytest.raises(ValueError, match="1 predictions for 2"):
        bracket_score([[]], [[], []])


# ---------------------------------------------------------------- only trees

NAMES = ["<pad>", "<s>", "</s>", "<unk>", "XX", "(S", ")S", "(NP", ")NP", "(VP", ")VP"]


@given(st.integers(0, 100_000), st.integers(1, 7))
def test_whoever_obeys_writes_a_tree(seed, n_words):
    dice = random.Random(seed)
    symbols: list[str] = []
    while True:
        choices = [name for name in NAMES if may_follow(symbols, n_words)(name)]
        assert choices, f"a dead end after {symbols}"
        symbol = dice.choice(choices)
        if symbol == "</s>":
            break
        symbols.append(symbol)
        assert len(symbols) < 1000
    as_tree(symbols, ["word"] * n_words)  # raises for what is none


def test_every_gold_tree_obeys():
    for caption in captions.load("test"):
        symbols = [*linearise(caption.tree), "</s>"]
        for i, symbol in enumerate(symbols):
            assert may_follow(symbols[:i], len(caption.en_tokens))(symbol), (symbols[:i], symbol)


@given(st.lists(st.sampled_from([n for n in NAMES if n[0] != "<"]), min_size=1, max_size=7))
def test_a_tree_is_what_may_be_written(symbols):
    n_words = symbols.count("XX")
    obeys = all(may_follow(symbols[:i], n_words, 9)(s) for i, s in enumerate(symbols) if (
        all(may_follow(symbols[:j], n_words, 9)(symbols[j]) for j in range(i))))
    obeys = obeys and may_follow(symbols, n_words, 9)("</s>") if obeys else False
    try:
        as_tree(symbols, ["word"] * n_words)
    except ValueError:
        assert not obeys
    else:
        assert obeys


def test_the_constraint_keeps_the_scores_of_what_is_allowed():
    free = torch.randn(2, len(NAMES)).log_softmax(-1)
    strict = only_trees(NAMES, lambda prefixes, rows: free, [2, 1])
    prefixes = torch.tensor([[BOS, 5, 4], [BOS, 5, 4]])  # "(S XX", over two words and over one
    said = strict(prefixes, torch.tensor([0, 1]))
    allowed = [[NAMES[i] for i in row.isfinite().nonzero()[:, 0].tolist()] for row in said]
    assert allowed == [["XX", "(S", "(NP", "(VP"], [")S"]]
    kept = said[0].isfinite()
    assert torch.equal(said[0][kept], free[0][kept])  # a forced step costs what the model says


def test_an_untrained_parser_writes_trees_when_it_must():
    torch.manual_seed(0)
    n_words_of = [3, 5, 1]
    score = only_trees(NAMES, lambda p, r: torch.randn(len(p), 11).log_softmax(-1), n_words_of)
    beams = [found[0].ids for found in beam_search(score, 3, 300, 3)]
    for search in (greedy_search(score, 3, 300), beams):
        for ids, n_words in zip(search, n_words_of):
            as_tree([NAMES[i] for i in ids], ["word"] * n_words)


# ---------------------------------------------------------------- pictures


def test_the_pictures_show_their_numbers():
    ladder = draw.loss_ladder([(1, 4.0), (2, 3.0)], {"uniform": 8.5, "bigram": 3.7}, "Down")
    texts = [text.get_text() for text in ladder.axes[0].texts]
    assert texts == ["uniform: 8.50", "bigram: 3.70"]
    bars = draw.surprises({"greedy": 1.0, "drawn": 3.0}, 3.2, "Typical")
    assert [bar.get_height() for bar in bars.axes[0].patches] == [1.0, 3.0]
    blanks = draw.blanks({"A [MASK].": [("▁dog", 0.5), ("cat", 0.2)]}, "Blank")
    assert [label.get_text() for label in blanks.axes[0].get_yticklabels()] == ["dog", "cat"]
    labels = draw.few_labels([4, 16], {"none": [[0.5, 0.6], [0.8]], "some": [[0.7], [0.9]]}, "Few")
    assert list(labels.axes[0].lines[0].get_ydata()) == pytest.approx([55, 80])
    table = draw.parsing_bars({"flat": (0.2, 0.3), "a, b": (0.9, 0.95)}, "Parse")
    heights = sorted(bar.get_height() for bar in table.axes[0].patches)
    assert heights == pytest.approx([20, 30, 90, 95])
    looks = draw.looked_at(range(-1, 2), torch.tensor([[0.1, 0.5, 0.2]]), 0.1, "Looks")
    assert list(looks.axes[0].lines[0].get_ydata()) == pytest.approx([0.1, 0.5, 0.2])


def test_only_the_brackets_that_differ_are_marked():
    gold, said = constituents(TREE), [("S", 0, 7), ("NP", 0, 2), ("VP", 2, 7)]
    figure = draw.bracketings(WORDS, gold, said, "Two")
    dashed = [[bar for bar in axis.patches if bar.get_linestyle() != "-"] for axis in figure.axes]
    assert [len(axis.patches) for axis in figure.axes] == [len(gold), 3]
    assert [len(bars) for bars in dashed] == [3, 1]
    whole = draw.bracketings(WORDS, gold, gold, "Same")
    assert all(bar.get_linestyle() == "-" for axis in whole.axes for bar in axis.patches)


def test_bars_stand_above_what_they_hold():
    assert draw._heights(constituents(TREE)) == [4, 1, 3, 2, 1]
