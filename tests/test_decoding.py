"""Lesson 08: searches against a slow spec and against enumeration, BLEU against sacrebleu."""

import itertools
import math
from collections import Counter

import matplotlib
import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from course import cache, decoding
from course.decoding import (
    Hypothesis,
    bleu,
    greedy_search,
    length_penalty,
    next_log_probs,
    ngrams,
    ranked,
    translate,
    until_eos,
)
from course.masking import causal_mask, pad, padding_mask
from course.text import BOS, BPE, EOS, PAD, UNK
from course.transformer import Transformer, TransformerConfig

matplotlib.use("agg")
FIRST = 4  # the first id that is a word
INF = math.inf
plain_and_batched = pytest.mark.parametrize(
    "search", [decoding.beam_search, cache.beam_search], ids=["plain", "batched"]
)


# --- toy models -------------------------------------------------------------------------------


class RandomTrees:
    """A score function: every row has random probabilities after every prefix; counts its calls.

    With `ends`, only EOS is possible after `depth` words; without, EOS is never likelier than
    its place in the dice.
    """

    def __init__(self, n_trees, n_words, depth, seed, sharpness=2.0, ends=True, eos_bias=-2.0):
        generator = torch.Generator().manual_seed(seed)
        self.n_words, self.tables, self.seen = n_words, [], []
        for t in range(depth + 1):
            shape = (n_trees, n_words**t, FIRST + n_words)
            logits = sharpness * torch.randn(shape, generator=generator)
            logits[..., [PAD, BOS, UNK]] = -INF
            logits[..., EOS] += eos_bias
            if ends and t == depth:
                logits[..., FIRST:] = -INF
            self.tables.append(logits.log_softmax(-1))

    def __call__(self, prefixes, rows):
        assert prefixes.dim() == 2 and rows.shape == prefixes.shape[:1] and len(rows)
        self.seen += [(row, tuple(p)) for row, p in zip(rows.tolist(), prefixes.tolist())]
        which = torch.zeros(len(prefixes), dtype=torch.long)
        for token in prefixes[:, 1:].unbind(1):
            which = which * self.n_words + token - FIRST
        return self.tables[prefixes.size(1) - 1][rows, which]


def table_score(table, n_words):
    """Return a score function that reads {words so far: {id: probability}}; else it must end."""

    def score(prefixes, rows):
        log_probs = torch.full((len(prefixes), FIRST + n_words), -INF)
        for i, prefix in enumerate(prefixes.tolist()):
            for token, p in table.get(tuple(prefix[1:]), {EOS: 1.0}).items():
                log_probs[i, token] = math.log(p)
        return log_probs

    return score


def never_ends(prefixes, rows):
    """Two words, the first a little likelier; EOS has probability 0."""
    log_probs = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.6, 0.4]).log()
    return log_probs.expand(len(prefixes), -1)


# --- the spec: beam search in plain Python, one sentence at a time ------------------------------


def spec_beam_search(score, row, max_len, beam, alpha):
    """Return [(ids, score, finished)], best first, by sorting lists."""
    live_and_done = [((BOS,), 0.0)]
    for _ in range(max_len):
        candidates = []
        for prefix, total in live_and_done:
            if prefix[-1] == EOS:
                candidates.append((prefix, total))
                continue
            log_probs = score(torch.tensor([prefix]), torch.tensor([row]))[0]
            for token, log_prob in enumerate(log_probs):
                if log_prob > -INF:
                    value = (torch.tensor(total) + log_prob).item()  # rounds as float32 does
                    candidates.append(((*prefix, token), value))
        live_and_done = sorted(candidates, key=lambda c: -c[1])[:beam]
        if all(prefix[-1] == EOS for prefix, _ in live_and_done):
            break
    found = []
    for prefix, total in live_and_done:
        finished = prefix[-1] == EOS
        n_tokens = len(prefix) - 1
        ids = prefix[1:-1] if finished else prefix[1:]
        found.append((ids, total / ((5 + n_tokens) / 6) ** alpha, finished))
    return sorted(found, key=lambda f: (not f[2], -f[1]))


def as_tuples(hypotheses):
    return [(h.ids, pytest.approx(h.score, abs=1e-5), h.finished) for h in hypotheses]


@plain_and_batched
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_words=st.integers(1, 3),
    beam=st.integers(1, 7),
    alpha=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    limits=st.lists(st.integers(1, 6), min_size=3, max_size=3),
)
def test_beam_search_equals_the_spec(search, seed, n_words, beam, alpha, limits):
    trees = RandomTrees(3, n_words, depth=5, seed=seed)
    found = search(trees, 3, limits, beam, alpha)
    for row, limit in enumerate(limits):
        assert spec_beam_search(trees, row, limit, beam, alpha) == as_tuples(found[row])


def all_scores(trees, n_trees, n_words, max_len):
    """Return all finished sentences of at most max_len tokens and their totals (n_trees, .)."""
    sentences = [
        s
        for n in range(max_len)
        for s in itertools.product(range(FIRST, FIRST + n_words), repeat=n)
    ]
    totals = torch.zeros(n_trees, len(sentences))
    for j, sentence in enumerate(sentences):
        prefix = [BOS]
        for token in (*sentence, EOS):
            prefixes = torch.tensor([prefix]).expand(n_trees, -1)
            totals[:, j] += trees(prefixes, torch.arange(n_trees))[:, token]
            prefix.append(token)
    return sentences, totals


@plain_and_batched
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize(("n_words", "depth", "seed"), [(1, 4, 0), (2, 4, 1), (3, 3, 2), (4, 2, 3)])
def test_a_beam_as_wide_as_the_tree_is_exhaustive_search(search, alpha, n_words, depth, seed):
    n_trees = 60
    trees = RandomTrees(n_trees, n_words, depth, seed)
    sentences, totals = all_scores(trees, n_trees, n_words, depth + 1)
    assert torch.allclose(totals.exp().sum(1), torch.ones(n_trees), atol=1e-4)
    divisors = torch.tensor([((5 + len(s) + 1) / 6) ** alpha for s in sentences])
    order = (totals / divisors).argsort(1, descending=True)
    found = search(trees, n_trees, depth + 1, len(sentences), alpha)
    for row in range(n_trees):
        assert len(found[row]) == len(sentences)  # every sentence, each once
        assert [h.ids for h in found[row]][:3] == [sentences[j] for j in order[row, :3]]


@plain_and_batched
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_exhaustive_search_under_a_limit_returns_the_best_that_ends(search, alpha):
    n_trees, limit = 60, 3
    trees = RandomTrees(n_trees, 2, depth=5, seed=4, ends=False)
    sentences, totals = all_scores(trees, n_trees, 2, limit)
    divisors = torch.tensor([length_penalty(len(s) + 1, alpha) for s in sentences])
    best = (totals / divisors).argmax(1)
    found = search(trees, n_trees, limit, 100, alpha)
    assert [h[0].ids for h in found] == [sentences[j] for j in best]
    assert all(h[0].finished and not h[-1].finished for h in found)


@plain_and_batched
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_words=st.integers(1, 4),
    alpha=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    limits=st.lists(st.integers(1, 7), min_size=8, max_size=8),
)
def test_beam_1_is_greedy_search(search, seed, n_words, alpha, limits):
    trees = RandomTrees(8, n_words, depth=6, seed=seed)
    found = search(trees, 8, limits, beam=1, alpha=alpha)
    assert [list(h[0].ids) for h in found] == greedy_search(trees, 8, limits)
    assert all(len(h) == 1 for h in found)


@plain_and_batched
def test_the_mean_score_rises_with_the_beam_but_not_for_every_sentence(search):
    n_trees = 2000
    trees = RandomTrees(n_trees, 3, depth=4, seed=1, eos_bias=-3.0)
    best = [[h[0].score for h in search(trees, n_trees, 5, b, 0.0)] for b in (1, 2, 4)]
    means = [sum(scores) / n_trees for scores in best]
    assert means[0] < means[1] < means[2]
    assert any(two < one - 1e-4 for one, two in zip(best[0], best[1]))


TRAP = {  # beam 2 drops the prefix that greedy search keeps
    (): {4: 0.4, 5: 0.35, 6: 0.25},
    (4,): {4: 0.4, 5: 0.3, 6: 0.3},
    (5,): {4: 0.5, 5: 0.5},
    (6,): {4: 0.4, 5: 0.3, 6: 0.3},
    (4, 4): {4: 1.0},
    (5, 4): {4: 0.6, 5: 0.4},
    (5, 5): {4: 0.5, 5: 0.5},
}
GREEDY_LOSES = {
    (): {4: 0.5, 5: 0.4, 6: 0.1},
    (4,): {4: 0.4, 5: 0.35, 6: 0.25},
    (5,): {4: 0.9, 5: 0.1},
}


@plain_and_batched
@pytest.mark.parametrize(
    ("table", "beam", "ids", "p"),
    [
        (GREEDY_LOSES, 1, (4, 4), 0.5 * 0.4),
        (GREEDY_LOSES, 2, (5, 4), 0.4 * 0.9),
        (TRAP, 1, (4, 4, 4), 0.4 * 0.4),
        (TRAP, 2, (5, 4, 4), 0.35 * 0.5 * 0.6),
        (TRAP, 3, (4, 4, 4), 0.4 * 0.4),
    ],
)
def test_tables_one_can_multiply(search, table, beam, ids, p):
    best = search(table_score(table, 3), 1, 10, beam, alpha=0.0)[0][0]
    assert best.ids == ids
    assert math.exp(best.score) == pytest.approx(p, rel=1e-5)


@plain_and_batched
def test_without_a_length_penalty_the_half_sentence_wins(search):
    table = {
        (): {4: 1.0},
        (4,): {EOS: 0.42, 5: 0.58},
        (4, 5): {EOS: 0.2, 6: 0.8},
        (4, 5, 6): {4: 0.8, 5: 0.2},
    }
    best = {a: search(table_score(table, 3), 1, 9, 2, a)[0][0].ids for a in (0.0, 0.6)}
    assert best == {0.0: (4,), 0.6: (4, 5, 6, 4)}


# --- what a search must not do -------------------------------------------------------------------


@plain_and_batched
@pytest.mark.parametrize("beam", [1, 2, 5])
def test_finished_and_impossible_prefixes_are_not_shown_to_the_model(search, beam):
    trees = RandomTrees(20, 3, depth=4, seed=5)
    search(trees, 20, 5, beam)
    assert all(EOS not in prefix for _, prefix in trees.seen)
    assert len(trees.seen) == len(set(trees.seen)), "no prefix is scored twice"
    steps = Counter((row, len(prefix)) for row, prefix in trees.seen)
    assert max(steps.values()) <= beam

    narrow = RandomTrees(4, 1, depth=3, seed=0)  # fewer candidates than places
    search(narrow, 4, 4, beam)
    assert all(set(prefix[1:]) <= {FIRST} for _, prefix in narrow.seen)


@plain_and_batched
@pytest.mark.parametrize("beam", [1, 2, 3, 50])
def test_hypotheses_are_distinct_and_no_more_than_the_beam(search, beam):
    found = search(RandomTrees(20, 2, depth=3, seed=6), 20, 4, beam)
    for hypotheses in found:
        ids = [h.ids for h in hypotheses]
        assert len(ids) == len(set(ids)) == min(beam, 15)
        scores = [h.score for h in hypotheses]
        assert scores == sorted(scores, reverse=True)


@plain_and_batched
def test_a_sentence_that_never_ends_is_cut_at_its_limit(search):
    assert greedy_search(never_ends, 2, [3, 5]) == [[4] * 3, [4] * 5]
    found = search(never_ends, 2, [3, 5], beam=2, alpha=0.6)
    assert [h[0].ids for h in found] == [(4,) * 3, (4,) * 5]
    assert not any(h.finished for hypotheses in found for h in hypotheses)
    assert found[0][0].score == pytest.approx(3 * math.log(0.6) / (8 / 6) ** 0.6)


@plain_and_batched
def test_a_finished_hypothesis_goes_before_a_likelier_unfinished_one(search):
    table = {(): {4: 0.9, EOS: 0.1}, (4,): {4: 1.0}, (4, 4): {4: 1.0}}
    best, cut = search(table_score(table, 1), 1, 2, beam=2, alpha=0.0)[0]
    assert (best.ids, best.finished) == ((), True)
    assert (cut.ids, cut.finished) == ((4, 4), False)
    assert cut.score > best.score


@plain_and_batched
def test_a_limit_belongs_to_its_sentence(search):
    trees = RandomTrees(6, 3, depth=6, seed=7, eos_bias=-6.0)
    limits = [1, 2, 3, 4, 5, 7]
    together = search(trees, 6, limits, beam=3)
    for row, limit in enumerate(limits):

        def only(prefixes, rows, row=row):
            return trees(prefixes, torch.full_like(rows, row))

        assert search(only, 1, limit, beam=3)[0] == together[row]
        assert greedy_search(only, 1, limit)[0] == greedy_search(trees, 6, limits)[row]
        assert max(len(h.ids) for h in together[row]) <= limit


@plain_and_batched
def test_ties_go_to_the_first_word(search):
    def uniform(prefixes, rows):
        log_probs = torch.full((len(prefixes), 8), -INF)
        log_probs[:, [EOS] if prefixes.size(1) > 2 else list(range(FIRST, 8))] = 0.0
        return log_probs.log_softmax(-1)

    found = search(uniform, 2, 5, beam=3, alpha=0.0)
    assert [h.ids for h in found[0]] == [(4, 4), (4, 5), (4, 6)]
    assert found[0] == found[1]
    assert greedy_search(uniform, 1, 5) == [[4, 4]]


@plain_and_batched
def test_edges_of_the_searches(search):
    assert greedy_search(never_ends, 0, 5) == [] == search(never_ends, 0, 5)
    assert greedy_search(never_ends, 0, []) == [] == search(never_ends, 0, [])
    with pytest.raises(ValueError, match="beam=0"):
        search(never_ends, 1, 5, beam=0)
    for either in (greedy_search, search):
        with pytest.raises(ValueError, match="max_len=0"):
            either(never_ends, 2, [4, 0])
        with pytest.raises(ValueError, match="3 limits for 2 sentences"):
            either(never_ends, 2, [4, 4, 4])
    assert until_eos([BOS, 5, EOS, EOS]) == [5]
    assert until_eos([BOS]) == []
    assert ranked([[BOS, 4, EOS]], [-INF], 0.6) == []


def test_length_penalty_is_equation_14():
    assert length_penalty(1, 0.6) == 1.0
    assert length_penalty(100, 0.0) == 1.0
    assert length_penalty(7, 1.0) == 2.0
    for n, alpha in itertools.product((1, 5, 50), (0.2, 0.6, 1.5)):
        assert length_penalty(n, alpha) == pytest.approx((5 + n) ** alpha / (5 + 1) ** alpha)
    short, long = ranked([[BOS, EOS, EOS, EOS], [BOS, 4, 5, EOS]], [-1.0, -1.2], 0.0)
    assert (short, long) == (Hypothesis((), -1.0), Hypothesis((4, 5), -1.2))
    first = ranked([[BOS, EOS, EOS, EOS], [BOS, 4, 5, EOS]], [-1.0, -1.2], 1.0)[0]
    assert first == Hypothesis((4, 5), pytest.approx(-1.2 / (8 / 6)))


# --- with a Transformer --------------------------------------------------------------------------

GERMAN = ["Ein Hund schläft.", "", "Zwei Kinder spielen mit einem roten Ball im Park.", "Ja", "  ",
          "Eine alte Frau liest am Morgen in der Küche ein Buch.", "Ein Hund rennt."]


@pytest.fixture(scope="module")
def bpe():
    return BPE.learn(GERMAN, 330, min_char_count=1)


def make_model(bpe, **sizes):
    torch.manual_seed(0)
    sizes = dict(d_model=16, n_heads=2, d_ff=32, n_layers=2, dropout=0.2, norm="pre") | sizes
    model = Transformer(TransformerConfig(len(bpe), len(bpe), **sizes)).eval()
    with torch.no_grad():  # far from uniform, so that no two sums are nearly equal
        model.w_vocab.weight *= 4
    return model.double()  # rounding must not decide


@pytest.fixture(scope="module")
def model(bpe):
    return make_model(bpe)


@pytest.fixture(scope="module")
def sources(bpe):
    return [[*bpe.encode(s), EOS] for s in GERMAN if s.strip()]


def test_scores_are_those_of_the_model_read_in_one_piece(model, bpe, sources):
    src = pad(sources, PAD)
    tgt = torch.randint(FIRST, len(bpe), (len(sources), 6))
    tgt[:, 0] = BOS
    score = next_log_probs(model, src)
    with torch.no_grad():
        mask = padding_mask(src, PAD)
        memory = model.encode(src, mask)
        states = model.decode(tgt, memory, mask, causal_mask(6))
        logits = model.project(states)
    logits[..., [PAD, BOS, UNK]] = -INF
    for t in range(1, 7):
        expected = logits[:, t - 1].log_softmax(-1)
        got = score(tgt[:, :t], torch.arange(len(sources)))
        assert torch.allclose(got.double(), expected, atol=1e-4)
    picked = score(tgt[[3, 1, 3]], torch.tensor([3, 1, 3]))  # rows say which source
    assert torch.allclose(picked.double(), expected[[3, 1, 3]], atol=1e-4)


def test_special_tokens_are_never_written(model, sources):
    log_probs = next_log_probs(model, pad(sources, PAD))(torch.tensor([[BOS]]), torch.tensor([0]))
    assert log_probs[0, [PAD, BOS, UNK]].tolist() == [-INF] * 3
    assert log_probs[0, EOS].isfinite()
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert log_probs.dtype == torch.float32 and not log_probs.requires_grad


def test_a_model_in_training_mode_is_refused(bpe, sources):
    model = make_model(bpe).train()
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        next_log_probs(model, pad(sources, PAD))


@plain_and_batched
def test_beam_1_is_greedy_search_on_a_model(search, model, sources):
    score = next_log_probs(model, pad(sources, PAD))
    limits = [len(s) + 10 for s in sources]
    single = search(score, len(sources), limits, beam=1, alpha=0.6)
    assert [list(h[0].ids) for h in single] == greedy_search(score, len(sources), limits)


def checked(log_probs):
    assert not log_probs.requires_grad and not torch.is_grad_enabled()
    return log_probs


@plain_and_batched
def test_searches_keep_no_graph(search, model, sources):
    score = next_log_probs(model, pad(sources, PAD))
    search(lambda *a: checked(score(*a)), len(sources), 3, beam=2)
    greedy_search(lambda *a: checked(score(*a)), len(sources), 3)


# --- BLEU ----------------------------------------------------------------------------------------


def tokens_13a(texts):
    return [Tokenizer13a()(text).split() for text in texts]


def both(hypotheses, references):
    theirs = sacrebleu.corpus_bleu(hypotheses, [references], smooth_method="none").score
    return bleu(tokens_13a(hypotheses), tokens_13a(references)), pytest.approx(theirs, abs=1e-6)


words = st.lists(st.sampled_from(str.split("a b c d . don't 3.5 Ä, (x)")), max_size=10)
texts = words.map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
def test_bleu_equals_sacrebleu_on_random_text(corpus):
    ours, theirs = both([h for h, _ in corpus], [r for _, r in corpus])
    assert ours == theirs


def test_bleu_equals_sacrebleu_on_a_models_output(model, bpe):
    references = [s or "." for s in GERMAN]
    ours, theirs = both(translate(model, bpe, GERMAN, beam=2), references)
    assert ours == theirs
    edited = [r.replace("roten", "blauen").replace("Ein ", "Der ") for r in references]
    ours, theirs = both(edited, references)
    assert ours == theirs and 20 < ours < 95
    short = [r.rsplit(" ", 2)[0] for r in references]
    ours, theirs = both(short, references)
    assert ours == theirs and 20 < ours < 95


def test_smoothing_matters_only_where_a_precision_is_0():
    hyp, ref = "a small dog sleeping on the the sofa .", "a small dog is sleeping on the red sofa ."
    assert bleu([hyp.split()], [ref.split()]) == 0
    values = {
        m: sacrebleu.corpus_bleu([hyp], [[ref]], smooth_method=m).score for m in ("floor", "exp")
    }
    assert 10 < values["floor"] < values["exp"]
    pair = ["two children are playing with a ball .", "two children are playing with the ball ."]
    values = {
        m: sacrebleu.corpus_bleu(pair[:1], [pair[1:]], smooth_method=m).score
        for m in ("none", "floor", "exp")
    }
    assert len(set(values.values())) == 1


def test_corpus_bleu_is_not_the_mean_of_sentences():
    hyps = [str.split("a small dog sleeping on the the sofa ."),
            str.split("two children are playing with a ball in a park .")]
    refs = [str.split("a small dog is sleeping on the red sofa ."),
            str.split("two children are playing with a ball in the park .")]
    assert bleu(hyps, refs) == pytest.approx(55.52, abs=0.01)
    assert sum(bleu([h], [r]) for h, r in zip(hyps, refs)) / 2 == pytest.approx(37.1, abs=0.1)


def test_counts_are_clipped_and_short_texts_pay():
    reference = [str.split("the cat is on the mat")]
    assert bleu([["the"] * 6], reference) == 0
    assert ngrams(["the"] * 3, 2) == {("the", "the"): 2}
    assert ngrams(["a"], 2) == {}
    assert bleu(reference, reference) == pytest.approx(100)
    shorter = bleu([reference[0][:5]], reference)
    assert shorter == pytest.approx(100 * math.exp(1 - 6 / 5))
    longer = [reference[0] * 2]
    assert bleu(longer, reference) == pytest.approx(
        100 * ((6 / 12) * (5 / 11) * (4 / 10) * (3 / 9)) ** 0.25
    )


def test_edges_of_bleu():
    assert bleu([], []) == 0
    assert bleu([[]], [["a"]]) == 0 == bleu([["a"]], [[]])
    some = ["a", "b", "c", "d"]
    assert bleu([some, []], [some, ["e"]]) == pytest.approx(100 * math.exp(1 - 5 / 4))
    assert bleu(iter([some]), (s for s in [some])) == pytest.approx(100)
    with pytest.raises(ValueError, match="2 hypotheses for 1 references"):
        bleu([some, some], [some])
    with pytest.raises(TypeError, match="split"):
        bleu(["a b c d"], [some])


# --- pictures ------------------------------------------------------------------------------------


def test_pictures():
    from course.viz import decoding as draw

    nodes = {
        ("the",): (0.5, "kept"),
        ("a",): (0.4, "winner"),
        ("one",): (0.1, "pruned"),
        ("a", "</s>"): (0.4, "winner"),
        ("the", "dog"): (0.3, "pruned"),
        ("the", "cat"): (0.2, "pruned"),
    }
    places = draw.tree_places(nodes)
    assert len(set(places.values())) == len(nodes) + 1
    assert places[("the",)][1] == (places[("the", "dog")][1] + places[("the", "cat")][1]) / 2
    assert {x for x, _ in places.values()} == {0, 1, 2}

    hypothesis = str.split("a small dog sleeping on the the sofa .")
    reference = str.split("a small dog is sleeping on the red sofa .")
    figures = {
        "winner": draw.beam_tree(nodes, "winner"),
        "": draw.length_penalties(length_penalty, {"a": (-1.0, 3), "b": (-1.2, 7)}, (0, 1), 0.4),
        "8 of 9, 5 of 8, 2 of 7, 0 of 6": draw.ngram_boxes(hypothesis, reference),
        "paraphrase": draw.what_is_missed({"x": (1.0, 2.0), "y": (50.0, 0.0)}),
        "Place 5: only what is new": draw.layer_with_cache(written=5, source=7),
        "Beam 2: BLEU 30.0 at α = 0, 25.0 at 1": draw.over_beam(
            (1, 2), [-3.0, -2.5], {0.0: [20.0, 30.0], 1.0: [20.0, 25.0]}, {0.0: [1, 1], 1.0: [1, 1]}
        ),
    }
    for words_, figure in figures.items():
        titles = [axis.get_title(loc="left") for axis in figure.axes]
        assert words_ in " ".join([*titles, figure.get_suptitle()])
        figure.canvas.draw()
    assert not matplotlib.pyplot.get_fignums(), "a figure left open would be shown twice"
