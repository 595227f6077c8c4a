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
# # 08 · Decoding
#
# > Decoding: greedy and beam search with a length penalty, and BLEU to judge them (paper, section 6.1).

# %%
#| export
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from course.masking import causal_mask, pad, padding_mask
from course.text import BOS, BPE, EOS, PAD
from course.transformer import Transformer

NextLogProbs = Callable[[Tensor, Tensor], Tensor]


# %%
#| export
def next_log_probs(model: Transformer, src: Tensor) -> NextLogProbs:
    """Return a function that scores the next token of prefixes, given the source sentences.

    src (B, S). The function takes prefixes (n, t), each beginning with BOS, and rows (n,), the
    source sentence of each prefix, and returns log-probabilities (n, V).
    """
    src_mask = padding_mask(src, PAD)
    memory = model.encode(src, src_mask)  # (B, S, D), read once

    def score(prefixes: Tensor, rows: Tensor) -> Tensor:
        tgt_mask = causal_mask(prefixes.size(1), prefixes.device)
        states = model.decode(prefixes, memory[rows], src_mask[rows], tgt_mask)  # (n, t, D)
        return model.project(states[:, -1]).log_softmax(-1)  # (n, V)

    return score


# %%
#| export
def greedy_search(
    score: NextLogProbs, n_sentences: int, max_len: int, device: torch.device | str = "cpu"
) -> list[list[int]]:
    """Take the likeliest token again and again; return the ids of each sentence, without BOS and EOS.

    A sentence leaves the batch when it writes EOS, or after `max_len` tokens.
    """
    written: list[list[int]] = [[] for _ in range(n_sentences)]
    rows = torch.arange(n_sentences, device=device)  # sentences still being written
    prefixes = torch.full((n_sentences, 1), BOS, device=device)
    for _ in range(max_len):
        token = score(prefixes, rows).argmax(-1)  # (n,)
        going_on = token != EOS
        rows, token = rows[going_on], token[going_on]
        if not len(rows):
            break
        prefixes = torch.cat([prefixes[going_on], token[:, None]], dim=1)
        for row, t in zip(rows.tolist(), token.tolist()):
            written[row].append(t)
    return written


# %%
#| export
@dataclass(frozen=True)
class Hypothesis:
    """A translation: its ids without BOS and EOS, and its log-probability over the length penalty."""

    ids: tuple[int, ...]
    score: float


def length_penalty(length: int, alpha: float) -> float:
    """Return what a log-probability is divided by; 1 for alpha 0. Wu et al. 2016, equation 14."""
    return ((5 + length) / 6) ** alpha


# %%
#| export
def beam_search(
    score: NextLogProbs,
    n_sentences: int,
    max_len: int,
    beam: int = 4,
    alpha: float = 0.6,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """Keep the `beam` likeliest prefixes of every sentence; return the finished ones, best first.

    A prefix that writes EOS is finished (its EOS counts towards probability and length); at
    `max_len` tokens the live ones are finished as they stand. A sentence leaves the batch when
    no live prefix can still beat its `beam` finished ones. Paper, section 6.1.
    """
    finished: list[list[Hypothesis]] = [[] for _ in range(n_sentences)]
    rows = torch.arange(n_sentences, device=device)  # sentences still searched
    prefixes = torch.full((n_sentences, 1, 1), BOS, device=device)  # (n, beam, t)
    totals = torch.zeros(n_sentences, 1, device=device)  # log-probability of each prefix
    for length in range(1, max_len + 1):
        n, width, t = prefixes.shape
        log_probs = score(prefixes.flatten(0, 1), rows.repeat_interleave(width))
        candidates = (totals[..., None] + log_probs.view(n, width, -1)).flatten(1)  # (n, width*V)
        vocab = log_probs.size(-1)
        # at most `width` of the best can be EOS, so 2 * beam leave `beam` that go on
        best, index = candidates.topk(min(2 * beam, candidates.size(1)))
        parent, token = index // vocab, index % vocab
        collect(finished, rows, prefixes, parent, token, best, length, beam, alpha)
        live = best.masked_fill(token == EOS, -math.inf)
        totals, chosen = live.topk(min(beam, live.size(1)))  # (n, beam)
        parent, token = parent.gather(1, chosen), token.gather(1, chosen)
        prefixes = prefixes.gather(1, parent[..., None].expand(-1, -1, t))
        prefixes = torch.cat([prefixes, token[..., None]], dim=-1)
        going_on = still_open(finished, rows, totals, beam, alpha, max_len)
        rows, prefixes, totals = rows[going_on], prefixes[going_on], totals[going_on]
        if not len(rows):
            break
    for row, hypotheses, values in zip(rows.tolist(), prefixes.tolist(), totals.tolist()):
        for ids, total in zip(hypotheses, values):
            if total > -math.inf:
                value = total / length_penalty(len(ids) - 1, alpha)
                finished[row].append(Hypothesis(tuple(ids[1:]), value))
    return [sorted(f, key=lambda h: -h.score)[:beam] for f in finished]


# %%
#| export
def collect(finished, rows, prefixes, parent, token, best, length, beam, alpha) -> None:
    """Move the candidates that write EOS, and rank among the first `beam`, to `finished`."""
    ends = (token[:, :beam] == EOS) & best[:, :beam].isfinite()
    for i, k in ends.nonzero().tolist():
        ids = tuple(prefixes[i, parent[i, k], 1:].tolist())
        value = best[i, k].item() / length_penalty(length, alpha)
        finished[rows[i]].append(Hypothesis(ids, value))


def still_open(finished, rows, totals, beam, alpha, max_len) -> Tensor:
    """Return for each sentence whether a live prefix could still enter its `beam` best."""
    best_total = totals.amax(1).tolist()
    going_on = []
    for row, total in zip(rows.tolist(), best_total):
        scores = sorted((h.score for h in finished[row]), reverse=True)
        # log-probabilities only fall; the longest sentence is divided by the most
        hope = total / length_penalty(max_len, alpha)
        going_on.append(len(scores) < beam or hope > scores[beam - 1])
    return torch.tensor(going_on, device=rows.device)


# %%
#| export
@torch.inference_mode()
def translate(
    model: Transformer,
    bpe: BPE,
    sentences: Sequence[str],
    beam: int = 1,
    alpha: float = 0.6,
    max_tokens: int = 2000,
    progress: bool = False,
) -> list[str]:
    """Translate sentences, in their order; beam 1 is greedy. Empty lines stay empty.

    At most 50 tokens more than the source are written, as in the paper (section 6.1).
    """
    device = next(model.parameters()).device
    sources = {i: [*bpe.encode(s), EOS] for i, s in enumerate(sentences) if s.strip()}
    order = sorted(sources, key=lambda i: len(sources[i]))
    translations = [""] * len(sentences)
    bar = tqdm(total=len(sentences), unit="sentence", disable=not progress)
    while order:
        longest = len(sources[order[-1]])
        chosen = [order.pop() for _ in range(min(len(order), max(1, max_tokens // longest // beam)))]
        src = pad([sources[i] for i in chosen], PAD).to(device)
        score, limit = next_log_probs(model, src), longest + 50
        if beam == 1:
            ids = greedy_search(score, len(chosen), limit, device)
        else:
            found = beam_search(score, len(chosen), limit, beam, alpha, device)
            ids = [hypotheses[0].ids for hypotheses in found]
        for i, sentence in zip(chosen, ids):
            translations[i] = bpe.decode(sentence)
        bar.update(len(chosen))
    bar.close()
    return translations


# %%
#| export
def ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Count the runs of n tokens."""
    return Counter(zip(*(tokens[i:] for i in range(n))))


def bleu(hypotheses: Iterable[Sequence[str]], references: Iterable[Sequence[str]]) -> float:
    """Return corpus BLEU, 0 to 100: tokens in, one reference a sentence, up to 4-grams.

    Counts are summed over the corpus before anything is divided; no smoothing, so a corpus
    without a single right 4-gram scores 0. Papineni et al. 2002.
    """
    matched, total = [0] * 4, [0] * 4
    hyp_len = ref_len = 0
    for hyp, ref in zip(hypotheses, references, strict=True):
        hyp_len, ref_len = hyp_len + len(hyp), ref_len + len(ref)
        for n in range(1, 5):
            found, wanted = ngrams(hyp, n), ngrams(ref, n)
            matched[n - 1] += (found & wanted).total()  # each n-gram counts as often as it is wanted
            total[n - 1] += found.total()
    if min(matched) == 0:
        return 0.0
    precision = math.exp(sum(math.log(m / t) for m, t in zip(matched, total)) / 4)
    brevity = min(1.0, math.exp(1 - ref_len / hyp_len))
    return 100 * brevity * precision
