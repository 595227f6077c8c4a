"""Lesson 08b: the fast searches and the cache, against lesson 08's plain ones."""

import math

import pytest
import torch
from test_decoding import (
    FIRST,
    GERMAN,
    GREEDY_LOSES,
    INF,
    bpe,
    make_model,
    model,
    never_ends,
    sources,
    table_score,
)

from course import cache, decoding
from course.cache import (
    beam_search,
    beam_step,
    cached_log_probs,
    continuations,
    in_turn,
    is_live,
    largest,
    translate,
    translate_batch,
)
from course.decoding import greedy_search, next_log_probs
from course.masking import pad
from course.seq2seq import RNNTranslator, Seq2SeqConfig
from course.text import BOS, EOS, PAD

__all__ = ["bpe", "model", "sources"]  # fixtures


class NeverEnds:
    """A score function with a cache that need not follow."""

    def follow(self, parents):
        pass

    def __call__(self, prefixes, rows):
        return never_ends(prefixes, rows)


def test_largest_is_topk_and_orders_ties():
    values = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    expected = values.topk(5)
    found, where = largest(values, 5)
    assert torch.equal(found, expected.values) and torch.equal(where, expected.indices)
    assert torch.isfinite(values).all(), "the caller's values are untouched"
    found, where = largest(torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]]), 4)
    assert where.tolist() == [[1, 2, 4, 3]] and found.tolist() == [[3.0, 3.0, 3.0, 2.0]]
    assert largest(torch.zeros(2, 3), 10)[0].shape == (2, 3)
    tied = torch.zeros(1, 1000)
    tied[0, [7, 70, 700]] = 1.0  # in three blocks
    assert largest(tied, 2)[1].tolist() == in_turn(tied, 2)[1].tolist() == [[7, 70]]


@pytest.mark.parametrize(
    "m, k, width", [(50, 5, 64), (64, 4, 64), (65, 4, 64), (1000, 7, 10), (9, 9, 2)]
)
def test_largest_looks_into_the_right_blocks(m, k, width):
    """Many equal values, so that every choice among blocks and within them counts."""
    values = torch.randint(0, 6, (40, m), generator=torch.Generator().manual_seed(m)).float()
    expected = values.sort(dim=1, descending=True, stable=True)
    found, where = largest(values, k, width)
    assert torch.equal(found, expected.values[:, :k])
    assert torch.equal(where, expected.indices[:, :k])


def test_one_step():
    score = table_score(GREEDY_LOSES, 3)
    prefixes, totals = torch.tensor([[[BOS]]]), torch.zeros(1, 1)
    for shape in [(1, 2, 2), (1, 2, 3), (1, 2, 4), (1, 2, 5)]:
        prefixes, totals, _ = beam_step(score, torch.tensor([0]), prefixes, totals, beam=2)
        assert prefixes.shape == shape and totals.shape == shape[:2]
    assert prefixes[0].tolist() == [[BOS, 5, 4, EOS, EOS], [BOS, 4, 4, EOS, EOS]]
    assert totals.exp().tolist() == [pytest.approx([0.36, 0.2])]
    assert not is_live(prefixes, totals).any()


def test_a_finished_prefix_goes_on_for_nothing():
    prefixes = torch.tensor([[[BOS, 4], [BOS, EOS], [BOS, 5]]])
    totals = torch.tensor([[-1.0, -2.0, -INF]])
    candidates, tokens = continuations(never_ends, torch.tensor([0]), prefixes, totals, best=2)
    assert candidates.shape == tokens.shape == (1, 3, 2)
    assert (candidates[0, 1, 0], tokens[0, 1, 0]) == (-2.0, EOS)
    assert candidates[0, 1].isfinite().sum() == 1
    assert not candidates[0, 2].isfinite().any()
    assert candidates[0, 0, 0].item() == pytest.approx(-1 + math.log(0.6))
    assert tokens[0, 0, 0] == 4


@pytest.mark.parametrize("beam", [1, 2, 5, 40])
def test_a_step_keeps_the_best_of_all_candidates(beam):
    """Against a search through all k * V of them; few different values, so that ties count."""
    generator = torch.Generator().manual_seed(beam)
    prefixes = torch.randint(FIRST, 9, (6, 3, 4), generator=generator)
    prefixes[0, 1, -1] = prefixes[3, :2, -1] = EOS
    totals = torch.randint(-4, 0, (6, 3), generator=generator).float()
    totals[2, 2] = totals[3, 2] = -INF
    table = torch.randint(-3, 1, (18, 9), generator=generator).float()
    score = lambda prefixes, rows: table[: len(prefixes)]  # noqa: E731
    grown, sums, _ = beam_step(score, torch.arange(6), prefixes, totals, beam)
    shown = iter(table.tolist())
    for i in range(6):
        candidates = []
        for ids, total in zip(prefixes[i].tolist(), totals[i].tolist()):
            if ids[-1] == EOS or total == -INF:
                candidates.append((total, [*ids, EOS]))
            else:
                candidates += [(total + p, [*ids, t]) for t, p in enumerate(next(shown))]
        best = [c for c in sorted(candidates, key=lambda c: -c[0]) if c[0] > -INF][:beam]
        alive = sums[i].isfinite()
        assert sums[i][alive].tolist() == [total for total, _ in best]
        assert grown[i][alive].tolist() == [ids for _, ids in best]


def test_the_source_is_read_once(model, sources, monkeypatch):
    calls = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda *a: calls.append(1) or encode(*a))
    translate_batch(model, sources, beam=3, alpha=0.6)
    assert len(calls) == 1


@pytest.mark.parametrize("beam", [1, 3])
def test_order_empty_lines_and_batches(model, bpe, beam):
    together = translate(model, bpe, GERMAN, beam=beam)
    assert [t == "" for t in together] == [not s.strip() for s in GERMAN]
    assert together == [translate(model, bpe, [s], beam=beam)[0] for s in GERMAN]
    assert together == translate(model, bpe, GERMAN, beam=beam, max_tokens=40)
    assert together[::-1] == translate(model, bpe, GERMAN[::-1], beam=beam)
    assert len(set(together)) > 3, "else the order would not show"


def test_the_limit_is_the_source_and_fifty(bpe, sources, monkeypatch):
    model = make_model(bpe)
    monkeypatch.setattr(cache, "cached_log_probs", lambda model, src: NeverEnds())
    written = translate_batch(model, sources, beam=1, alpha=0.6)
    assert [len(ids) for ids in written] == [len(s) + 50 for s in sources]
    assert [len(ids) for ids in translate_batch(model, sources, 2, 0.6)] == [
        len(s) + 50 for s in sources
    ]


def test_learned_positions_end(bpe, sources, monkeypatch):
    longest = max(map(len, sources))
    model = make_model(bpe, positions="learned", max_len=longest)
    assert len(translate(model, bpe, GERMAN, beam=2)) == len(GERMAN)  # no more than max_len
    with pytest.raises(ValueError, match=f"{longest + 1} tokens.*max_len={longest}"):
        translate_batch(model, [[FIRST] * longest + [EOS]], beam=2, alpha=0.6)
    monkeypatch.setattr(cache, "cached_log_probs", lambda model, src: NeverEnds())
    assert {len(ids) for ids in translate_batch(model, sources, 1, 0.6)} == {longest}


def test_translate_keeps_the_mode_and_switches_dropout_off(bpe):
    model = make_model(bpe)
    expected = translate(model, bpe, GERMAN[:3], beam=2)
    model.train()
    assert translate(model, bpe, GERMAN[:3], beam=2) == expected
    assert model.training
    assert not make_model(bpe).training


def test_the_mode_comes_back_after_an_error_too(bpe):
    model = make_model(bpe, positions="learned", max_len=3).train()
    with pytest.raises(ValueError, match="max_len=3"):
        translate(model, bpe, GERMAN)
    assert model.training


def test_edges_of_translate(model, bpe, capsys):
    assert translate(model, bpe, []) == []
    assert translate(model, bpe, ["", " \t"], beam=4) == ["", ""]
    with pytest.raises(TypeError, match=r"\[sentence\]"):
        translate(model, bpe, "Ein Hund schläft.")
    translate(model, bpe, GERMAN[:2], progress=True)
    assert "1/1" in capsys.readouterr().err


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_the_cache_changes_no_translation(bpe, sources, beam, norm, positions):
    model = make_model(bpe, norm=norm, positions=positions, max_len=80)
    src, limits = pad(sources, PAD), [len(s) + 9 for s in sources]
    plain = beam_search(next_log_probs(model, src), len(sources), limits, beam)
    score = cached_log_probs(model, src)
    cached = beam_search(score, len(sources), limits, beam, follow=score.follow)
    assert [[h.ids for h in hs] for hs in cached] == [[h.ids for h in hs] for hs in plain]
    for a, b in zip(cached, plain):
        assert [h.score for h in a] == pytest.approx([h.score for h in b], rel=1e-5)
    if beam == 1:
        cached = greedy_search(cached_log_probs(model, src), len(sources), limits)
        assert cached == [list(hs[0].ids) for hs in plain]


def test_the_cache_follows_prefixes_in_any_order(model, sources):
    src = pad(sources, PAD)
    plain, cached = next_log_probs(model, src), cached_log_probs(model, src)
    rows = torch.tensor([0, 1, 2, 3])
    prefixes = torch.full((4, 1), BOS)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        expected = plain(prefixes, rows)
        assert torch.allclose(cached(prefixes, rows), expected, atol=1e-4)
        parents = torch.randint(len(rows), (5,), generator=generator)  # some twice, some not at all
        tokens = torch.randperm(expected.size(1) - FIRST, generator=generator)[:5] + FIRST
        cached.follow(parents)
        rows = rows[parents]
        prefixes = torch.cat([prefixes[parents], tokens[:, None]], dim=1)


def test_the_cache_reads_one_position_a_step_and_the_source_is_not_copied(model, sources):
    seen = []
    handle = model.decoder.layers[0].feed_forward.register_forward_hook(
        lambda module, args, output: seen.append(args[0].shape[:-1].numel())
    )
    score = cached_log_probs(model, pad(sources, PAD))
    cache = score.cache
    shared = cache.source[0].room
    prefixes, rows = torch.full((5, 1), BOS), torch.arange(5)
    score(prefixes, rows)
    twice = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    tokens = torch.arange(FIRST, FIRST + 10)[:, None]
    score.follow(twice)
    score(torch.cat([prefixes[twice], tokens], 1), rows[twice])
    handle.remove()
    assert seen == [5, 10]
    assert cache.source[0].room is shared and len(cache.own[0].keys) == 10
    shown = "layer 0: own 10 rows x 2 heads x 2 places x 8: 0.01 MB, source 5 rows x"
    assert repr(cache).startswith(shown)


def test_a_sentence_that_nobody_asks_leaves_the_cache(model, sources):
    score = cached_log_probs(model, pad(sources, PAD))
    cache = score.cache
    score(torch.full((5, 1), BOS), torch.arange(5))
    score(torch.tensor([[BOS, FIRST], [BOS, FIRST]]), torch.tensor([1, 4]))
    assert cache.sentences.tolist() == [1, 4] and len(cache.source[0].keys) == 2
    assert len(cache.src_mask) == 2 and len(cache.own[0].keys) == 2


def test_a_prefix_that_did_not_grow_is_refused(model, sources):
    score = cached_log_probs(model, pad(sources, PAD))
    score(torch.full((5, 1), BOS), torch.arange(5))
    with pytest.raises(ValueError, match="did not grow out of"):
        score(torch.tensor([[BOS, FIRST, FIRST]]), torch.tensor([0]))


def test_a_recurrent_model_translates_without_a_cache(bpe):
    config = Seq2SeqConfig(len(bpe), len(bpe), d_model=16)
    translations = translate(RNNTranslator(config).eval(), bpe, GERMAN, beam=2)
    assert len(translations) == len(GERMAN)


def test_a_beam_search_that_does_not_say_the_parents_is_refused(model, sources):
    score = cached_log_probs(model, pad(sources, PAD))
    with pytest.raises(ValueError, match="follow=score.follow"):
        beam_search(score, len(sources), 9, beam=3)


def test_only_further_children_are_copied_until_a_quarter_is_free(model, sources):
    score = cached_log_probs(model, pad(sources, PAD))
    own, rows = score.cache.own[0], torch.arange(5)
    score(torch.full((5, 1), BOS), rows)
    room = own.room
    prefixes = torch.full((4, 2), BOS)  # four of five: a fifth is out of use
    prefixes[:, 1] = torch.tensor([4, 5, 6, 7])
    score.follow(torch.tensor([4, 2, 2, 0]))
    score(prefixes, torch.tensor([4, 2, 2, 0]))
    assert own.room is room and score.cache.slots.tolist() == [4, 2, 1, 0]
    score.follow(torch.tensor([1, 3, 0]))  # three of five
    score(torch.cat([prefixes[[1, 3, 0]], torch.full((3, 1), 8)], 1), torch.tensor([2, 0, 4]))
    assert own.room is not room and score.cache.slots.tolist() == [0, 1, 2] and len(own.room) == 3


@pytest.mark.parametrize("change", [
    dict(beam=0), dict(beam=-4), dict(alpha=math.nan), dict(alpha=1000.0), dict(alpha=-1000.0),
    dict(alpha=-0.1), dict(max_tokens=0),
])
def test_numbers_that_mean_nothing_are_refused(model, bpe, change):
    with pytest.raises(ValueError, match="choose|at least"):
        translate(model, bpe, GERMAN, **change)
    if "max_tokens" not in change:
        with pytest.raises(ValueError, match="choose|at least"):
            decoding.translate(model, bpe, GERMAN, **change)


@pytest.mark.parametrize("beam", [1, 4])
def test_the_fast_translate_writes_what_the_slow_one_writes(model, bpe, beam):
    slow = decoding.translate(model, bpe, GERMAN, beam)
    assert translate(model, bpe, GERMAN, beam) == translate(model, bpe, GERMAN, beam, max_tokens=40)
    assert translate(model, bpe, GERMAN, beam) == slow
