"""What beginners raise, by name: each error says what it means before what Python said."""

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course.homework import check
from course.homework.checking import examine
from course.homework.exercises import EXERCISES


def attention(scores, weigh=lambda scores: scores.softmax(-1)):
    def candidate(query, key, value, mask=None):
        weights = weigh(scores(query, key, mask))
        return weights @ value, weights

    return candidate


def plain(query, key, mask):
    return query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))


def masked(how):
    def scores(query, key, mask):
        before = plain(query, key, mask)
        return before if mask is None else how(before, mask)

    return attention(scores)


def no_return(query, key, value, mask=None):
    weights = plain(query, key, mask).softmax(-1)
    weights @ value, weights


def by_number(query, key, value, mask=None):
    weights = (query * key).softmax(-1)
    return weights * value, weights


def output_alone(query, key, value, mask=None):
    return plain(query, key, mask).softmax(-1) @ value


def transposed_before(query, key, mask):
    turned = key.T
    return query @ turned


def overwrites_a_weight(x, dim):
    weight = torch.ones(3, requires_grad=True)
    weight += 1
    return x


SDPA = {
    ".T": (attention(lambda q, k, m: q @ k.T), r"^\.T turns all dimensions round"),
    ".T, a line before": (attention(transposed_before), r"^\.T turns all dimensions round"),
    ".t()": (attention(lambda q, k, m: q @ k.t()), r"^\.T turns all dimensions round"),
    "transpose(1, 2)": (attention(lambda q, k, m: q @ k.transpose(1, 2) / q.size(-1) ** 0.5),
                        r"three heads: transpose\(1, 2\) counts from the front"),
    "not transposed": (attention(lambda q, k, m: q @ k), "^A matrix product .* is transpose"),
    "bmm": (attention(lambda q, k, m: torch.bmm(q, k.mT) / q.size(-1) ** 0.5), "@ works for any"),
    "dot": (attention(lambda q, k, m: torch.dot(q, k)), "@ works for any"),
    "*": (by_number, r"\* multiplies number by number"),
    "softmax without dim": (attention(plain, torch.softmax), "softmax without dim"),
    "F.softmax without dim": (attention(plain, F.softmax), "softmax without dim"),
    "int mask": (masked(lambda s, m: s.masked_fill(m.int(), -math.inf)), "leave it boolean"),
    "1 - mask": (masked(lambda s, m: s.masked_fill(1 - m, -math.inf)), "~mask turns a boolean"),
    "not mask": (masked(lambda s, m: s.masked_fill(not m, -math.inf)), "one yes or no"),
    "~ of floats": (masked(lambda s, m: s.masked_fill(~m.float(), 0)), r"without \.float\(\)"),
    "inverted": (masked(lambda s, m: s.masked_fill(m, -math.inf)), "inverted"),
    "float mask added": (masked(lambda s, m: s + m.float()), "You add the mask"),
    "mask is None": (attention(lambda q, k, mask: plain(q, k, mask).masked_fill(~mask, 0)),
                     "^mask may be None"),
    "no return": (no_return, r"None \(is a return missing\?\)"),
    "no pair": (output_alone, r"you return a tensor: it should be \(output, weights\)"),
    "torch.sqrt": (attention(lambda q, k, m: plain(q, k, m) / torch.sqrt(4)), "plain number"),
    "no such name": (attention(lambda q, k, m: plain(q, k, m) / d_k), "^There is no d_k"),  # noqa: F821
}
OTHERS = {
    "view": ("merge_heads", lambda x: x.transpose(1, 2).view(x.size(0), x.size(2), -1),
             "^view can't be used on a transposed tensor"),
    "sizes": ("split_heads", lambda x, n: x.view(x.size(0), n, x.size(1), 3), "do not multiply"),
    "/": ("split_heads", lambda x, n: x.view(*x.shape[:2], n, x.size(-1) / n), "divide by //"),
    "numpy": ("softmax", lambda x, dim: np.exp(x) / np.sum(np.exp(x), axis=dim), "^np.exp does"),
    "no keepdim": ("softmax", lambda x, dim: x.exp() / x.exp().sum(dim), "keepdim=True it stays"),
    "max gives two": ("softmax", lambda x, dim: (x - x.max(dim)).exp(), r": amax\(dim, keepdim"),
    "math": ("softmax", lambda x, dim: math.exp(x), "The functions of math take one number"),
    "a leaf": ("softmax", overwrites_a_weight, "^You change a tensor in place"),
    "cat": ("shift_right", lambda t, b: torch.cat([b, t[:, :-1]], 1), "make a column of it"),
}


@pytest.mark.parametrize("mistake", SDPA)
def test_attention_names_what_beginners_raise(mistake, recwarn):
    candidate, says = SDPA[mistake]
    wrong = examine(EXERCISES["scaled_dot_product_attention"], candidate, 1)
    assert re.search(says, wrong.message), wrong.message
    assert not recwarn.list


@pytest.mark.parametrize("mistake", OTHERS)
def test_other_exercises_name_it_too(mistake, recwarn):
    name, candidate, says = OTHERS[mistake]
    wrong = examine(EXERCISES[name], candidate, 1)
    assert re.search(says, wrong.message), wrong.message
    assert not recwarn.list


def hints(candidate, times: int = 1) -> tuple[str, ...]:
    for _ in range(times):
        result = check("softmax", candidate)
    return result.hints


def test_a_hint_fits_the_mistake_and_not_the_number_of_misses(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    first, second, third = EXERCISES["softmax"].hints
    assert "overflow" in third and "overflow" not in first + second
    assert hints(lambda x, dim: x.exp() / x.exp().sum(), 4) == (second,)  # the wrong sum
    assert hints(lambda x, dim: x.exp() / x.exp().sum(dim, keepdim=True)) == (third,)
    assert hints(lambda x, dim: x.exp() / x.exp().sum(dim)) == ()  # the message says all
    assert hints(lambda x, dim: x.exp() * 0.123, 5) == (first, second)  # who knows?


def test_the_example_says_which_of_a_pair_was_compared_and_names_arguments():
    result = check("scaled_dot_product_attention", attention(plain, lambda s: s.softmax(-1) * 1.1))
    assert result.expected.startswith("output, shape") and result.actual.startswith("output, shape")
    assert "query=tensor (1, 2, 3) float32" in result.given and "\nkey: shape" in result.given
    html = result._repr_html_()
    assert html.index(">expected<") < html.index(">yours<") < html.index("<p>")
    assert html.index("<p>") < html.index("<details><summary>called<")


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_the_first_example_fits_on_the_first_screen(name):
    wrong = examine(EXERCISES[name], lambda *arguments: 0.5, 1)
    assert len(wrong.expected.splitlines()) <= 8, wrong.expected
