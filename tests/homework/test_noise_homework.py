"""The checks of what draws lots, dropout and BERT's masking, against learners' mistakes."""

import random

import pytest
import torch
import torch.nn.functional as F
from bank import accepted, rejected
from torch import nn

# dropout: right


def in_two_lines(x, p, training):
    return x * (torch.rand_like(x) >= p) / (1 - p) if training else x


def with_bernoulli(x, p, training):
    if not training or p == 0:
        return x.clone()
    keep = torch.bernoulli(torch.full(x.shape, 1 - p, dtype=x.dtype))
    return x * keep * (1 / (1 - p))


def by_filling(x, p, training):
    if training:
        return x.masked_fill(torch.rand(x.shape) < p, 0.0) / (1.0 - p)
    return x


def number_by_number(x, p, training):
    if not training:
        return x
    lots = [0.0 if random.random() < p else 1 / (1 - p) for _ in range(x.numel())]
    return x * x.new_tensor(lots).view(x.shape)


@pytest.mark.parametrize("right", [in_two_lines, with_bernoulli, by_filling, number_by_number])
def test_right_dropouts_pass(right):
    accepted("dropout", right)


# dropout: wrong


def mask(x, p):
    return (torch.rand_like(x) >= p).to(x.dtype)


def seeded(x, p, training):
    torch.manual_seed(0)
    return in_two_lines(x, p, training)


def by_luck(x, p, training):
    kept = mask(x, p)
    return x * kept / kept.mean() if training else x


def rows(x, p, training):
    return x * (torch.rand(*x.shape[:-1], 1) >= p) / (1 - p) if training else x


def columns(x, p, training):
    return x * (torch.rand(x.shape[-1]) >= p) / (1 - p) if training else x


def one_sentence(x, p, training):
    shape = x.shape[1:] if x.dim() > 2 else x.shape
    return x * (torch.rand(shape) >= p) / (1 - p) if training else x


def in_place(x, p, training):
    if training:
        x *= mask(x, p) / (1 - p)
    return x


WRONG_DROPOUTS = [
    (lambda x, p, training: x * mask(x, p) if training else x, "do not scale"),
    (lambda x, p, training: x * mask(x, p) if training else x * (1 - p), "older form"),
    (lambda x, p, training: x * mask(x, p) / p if training else x, "divide by p"),
    (lambda x, p, training: x * mask(x, p) * (1 - p) if training else x, "multiply by 1 - p"),
    (lambda x, p, training: x * mask(x, p) / (1 - p) ** 0.5 if training else x, "the root"),
    (lambda x, p, training: x * mask(x, 1 - p) / p if training else x, "keep each number with"),
    (lambda x, p, training: x * mask(x, 1 - p) / (1 - p) if training else x, "keep each number"),
    (lambda x, p, training: in_two_lines(x, p, True), "in evaluation, too"),
    (lambda x, p, training: in_two_lines(x, p, not training), "turned round"),
    (lambda x, p, training: x, "drop nothing"),
    (lambda x, p, training: in_two_lines(x.detach(), p, training), "No gradient flows"),
    (lambda x, p, training: in_two_lines(x, p, training).float(), "float64"),
    (lambda x, p, training: mask(x, p) / (1 - p) if training else x, "not scaled by one number"),
    (by_luck, "happened to stay"),
    (seeded, "new lots each time"),
    (rows, "whole rows"),
    (columns, "whole columns"),
    (one_sentence, "Every sentence loses the same"),
    (in_place, "in place"),
    (F.dropout, "ready-made"),
    (lambda x, p, training: nn.Dropout(p).train(training)(x), "ready-made"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG_DROPOUTS)
def test_wrong_dropouts_are_named(wrong, why):
    rejected("dropout", wrong, why)


# mask_for_bert: right


def with_one_lot(tokens, mask_id, vocab_size, special_ids):
    special = torch.isin(tokens, torch.tensor(special_ids))
    lot = torch.rand(tokens.shape).masked_fill(special, 1.0)
    inputs = torch.where(lot < 0.12, mask_id, tokens)
    drawn = torch.randint_like(tokens, vocab_size)
    inputs = torch.where((lot >= 0.12) & (lot < 0.135), drawn, inputs)
    return inputs, torch.where(lot < 0.15, tokens, -100)


def with_three_lots(tokens, mask_id, vocab_size, special_ids):
    """As Hugging Face's collator: among the chosen 80 % are masked, of the rest a half is drawn."""
    probabilities = torch.full(tokens.shape, 0.15)
    for special in special_ids:
        probabilities[tokens == special] = 0.0
    chosen = torch.bernoulli(probabilities).bool()
    labels = tokens.clone()
    labels[~chosen] = -100
    masked = torch.bernoulli(torch.full(tokens.shape, 0.8)).bool() & chosen
    drawn = torch.bernoulli(torch.full(tokens.shape, 0.5)).bool() & chosen & ~masked
    inputs = tokens.clone()
    inputs[masked] = mask_id
    inputs[drawn] = torch.randint(vocab_size, tokens.shape)[drawn]
    return inputs, labels


def word_by_word(tokens, mask_id, vocab_size, special_ids):
    inputs, labels = tokens.clone(), torch.full_like(tokens, -100)
    for b, row in enumerate(tokens.tolist()):
        for i, word in enumerate(row):
            if word in special_ids or random.random() >= 0.15:
                continue
            labels[b, i] = word
            lot = random.random()
            if lot < 0.8:
                inputs[b, i] = mask_id
            elif lot < 0.9:
                inputs[b, i] = random.randrange(vocab_size)
    return inputs, labels


def a_fixed_number_each(tokens, mask_id, vocab_size, special_ids):
    """As BERT's own code: of each sentence 15 % of the words, at least one."""
    inputs, labels = tokens.clone(), torch.full_like(tokens, -100)
    for b in range(len(tokens)):
        words = [i for i, t in enumerate(tokens[b].tolist()) if t not in special_ids]
        random.shuffle(words)
        count = int(len(words) * 0.15 + random.random())
        for i in words[:count]:
            labels[b, i], lot = tokens[b, i], random.random()
            inputs[b, i] = (mask_id if lot < 0.8 else
                            random.randrange(vocab_size) if lot < 0.9 else tokens[b, i])
    return inputs, labels


@pytest.mark.parametrize("right", [with_one_lot, with_three_lots, word_by_word,
                                   a_fixed_number_each])
def test_right_maskings_pass(right):
    accepted("mask_for_bert", right)


# mask_for_bert: wrong


def masking(share=0.15, mask=0.8, drawn=0.9, nested=None, spare=True, among=None, label=None,
            words=None, places=None):
    """Return a masking with one step replaced."""
    def candidate(tokens, mask_id, vocab_size, special_ids):
        special = torch.isin(tokens, torch.tensor(special_ids))
        chosen = (places or torch.rand)(tokens.shape) < share
        if spare:
            chosen = chosen & ~special
        lot, second = torch.rand(tokens.shape), torch.rand(tokens.shape)
        masked = chosen & (lot < mask)
        random_ones = chosen & (lot >= mask) & ((second < nested) if nested else (lot < drawn))
        if among == "all":
            random_ones = ~chosen & ~special & (lot < 0.1)
        ids = words(tokens, vocab_size) if words else torch.randint_like(tokens, vocab_size)
        inputs = torch.where(masked, mask_id, tokens)
        inputs = torch.where(random_ones, ids, inputs)
        if label:
            return label(tokens, inputs, chosen, masked)
        return inputs, torch.where(chosen, tokens, -100)

    return candidate


def same_everywhere(shape):
    return torch.rand(shape[1]).expand(shape)


def masking_seeded(*args):
    torch.manual_seed(0)
    return with_one_lot(*args)


def masking_in_place(tokens, mask_id, vocab_size, special_ids):
    inputs, labels = with_one_lot(tokens, mask_id, vocab_size, special_ids)
    tokens[:] = inputs
    return tokens, labels


WRONG_MASKINGS = [
    (masking(spare=False), "choose special tokens"),
    (masking(mask=1.0), "All chosen words become"),
    (masking(mask=0.0, drawn=0.5), "No chosen word becomes"),
    (masking(nested=0.1), "must be a half"),
    (masking(drawn=1.0), "10 % of the chosen stay"),
    (masking(mask=0.6, drawn=0.8), "It should be 80, 10 and 10"),
    (masking(share=0.3), "should be 15 %"),
    (masking(share=0.85), "turned round"),
    (masking(among="all"), "words that have no label"),
    (masking(label=lambda tokens, inputs, chosen, masked: (
        inputs, torch.where(masked, tokens, -100))), "Only words that became|have no label"),
    (masking(label=lambda tokens, inputs, chosen, masked: (inputs, tokens)),
     "Every place has a label"),
    (masking(label=lambda tokens, inputs, chosen, masked: (
        inputs, torch.where(chosen, tokens, 0))), "0 is a token"),
    (masking(label=lambda tokens, inputs, chosen, masked: (
        inputs, torch.where(chosen, inputs, -100))), "not the word that stood there"),
    (masking(label=lambda tokens, inputs, chosen, masked: (
        torch.where(chosen, tokens, -100), inputs)), "-100 stands in your inputs"),
    (masking(label=lambda tokens, inputs, chosen, masked: inputs), r"\(inputs, labels\)"),
    (masking(words=lambda tokens, size: torch.full_like(tokens, 7)), "all alike"),
    (masking(words=lambda tokens, size: torch.randint_like(tokens, size) + size), "no word"),
    (masking(places=same_everywhere), "same places in every sentence"),
    (masking_seeded, "new lots each time"),
    (masking_in_place, "in place"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG_MASKINGS)
def test_wrong_maskings_are_named(wrong, why):
    rejected("mask_for_bert", wrong, why)
