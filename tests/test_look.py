"""Your own sentence: what is new to the model is counted, one cell is the largest, one page."""

import json
import os
import re
import shutil
import unicodedata

import numpy as np
import pytest
import torch

from course.__main__ import main
from course.cache import translate
from course.corpora import pairs
from course.look import LONGEST, SEEN, Seen, fnv1a, look, words_of
from course.runs import SHIPPED, load_checkpoint, save_checkpoint
from course.seq2seq import RNNTranslator, Seq2SeqConfig
from course.text import BPE

NAME = "multi30k-de-en"
SNOW = "Ein Hund rennt durch den Schnee."


@pytest.fixture(scope="module")
def snow():
    return look(SNOW)


# ---------------------------------------------------------------- what training saw


def test_words_are_counted_in_any_case_and_end_at_255(tmp_path):
    bpe = BPE.learn(["Der Hund sieht den Hund."], 300)
    seen = Seen.of(bpe, ["Der Hund sieht den hund.", *["Katze"] * 300])
    assert [seen.count(w) for w in ("hund", "HUND", "Katze", "Maus", "")] == [2, 2, 255, 0, 0]
    assert seen.tokens[bpe.encode("Hund")[0]] == 1 and seen.tokens[:4].sum() == 0
    seen.save(tmp_path / SEEN)
    again = Seen.load(tmp_path / SEEN)
    assert all(np.array_equal(getattr(seen, part), getattr(again, part)) for part in vars(seen))


def test_the_hash_is_fnv1a_as_published():
    assert [fnv1a(text) for text in ("", "a", "foobar")] == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]


def test_no_word_can_be_read_from_the_file_that_is_shipped():
    raw, seen = (SHIPPED / NAME / SEEN).read_bytes().lower(), Seen.load(SHIPPED / NAME / SEEN)
    frequent = ("schnee", "mädchen", "straße", "sitzt", "spielt", "wasser", "rennt", "menschen")
    assert len(raw) < 120_000 and all(seen.count(word) == 255 for word in frequent)
    assert not any(word.encode("utf-8") in raw for word in frequent)


@pytest.mark.skipif(not os.environ.get("COURSE_DATA"), reason="needs Multi30k")
def test_the_counts_that_are_shipped_are_those_of_the_training_text():
    _, bpe = load_checkpoint(NAME)
    german = [de for de, _ in pairs("multi30k", "train")]
    seen, shipped = Seen.of(bpe, german), Seen.load(SHIPPED / NAME / SEEN)
    assert all(np.array_equal(getattr(seen, part), getattr(shipped, part)) for part in vars(seen))
    words = {word for sentence in german for word in words_of(sentence)}
    assert len(words) == len(seen.words)  # no two words share a hash


# ---------------------------------------------------------------- a sentence


def test_a_look_shows_what_the_model_says(snow):
    model, bpe = load_checkpoint(NAME)
    assert snow.english == translate(model, bpe, [SNOW], beam=4)[0]
    assert "".join(snow.tokens).replace("▁", " ").strip() == SNOW
    assert "".join(snow.written).replace("▁", " ").strip() == snow.english
    assert all(text in str(snow) for text in (SNOW, snow.english, "each of its words"))


def test_the_cell_is_the_largest_of_its_head(snow):
    row, column, weight = snow.cell()
    rows, columns = snow.labels["cross"]
    weights = snow.look.weights["cross"][snow.head.layer, snow.head.head]
    assert weights[rows.index(row), columns.index(column)] == weight == weights[:-1, :-1].max()
    assert snow.head.kind == "cross"
    assert row in snow.question() and f"{weight:.2f}" in snow.question()


def test_what_training_never_saw_is_named():
    found = look("Ich liebe dich.")
    assert found.new_words == ["dich"] and set(found.rare_words) == {"liebe"}
    assert "dich" in found.note() and "captions" in found.note()
    emoji = look("Ein 🐶 rennt.")
    assert emoji.new_signs == ["🐶"] and "🐶" in emoji.note() and not emoji.new_words
    assert "no word" in look("🐶🐶").note()


def test_line_breaks_and_taken_apart_umlauts_change_nothing():
    whole, apart = look("Ein Mädchen läuft."), unicodedata.normalize("NFD", "Ein Mädchen\n läuft. ")
    assert str(look(apart)) == str(whole)


@pytest.mark.parametrize(("sentence", "words"), [
    ("", "there is no sentence"), (" \n\t", "there is no sentence"),
    ("Hund " * 400, f"can show {LONGEST}"), ("ä" * 2000, f"can show {LONGEST}"),
])
def test_what_cannot_be_shown_is_told_kindly(sentence, words):
    with pytest.raises(ValueError, match=words) as told:
        look(sentence)
    assert told.value._render_traceback_() == [str(told.value)]  # a notebook shows no more
    with pytest.raises(TypeError, match="in quotes, not list"):
        look([SNOW])


def test_a_checkpoint_without_counts_says_so(tmp_path):
    shutil.copytree(SHIPPED / NAME, tmp_path / "mine", ignore=shutil.ignore_patterns(SEEN))
    found = look("Ich liebe dich.", tmp_path / "mine")
    assert not found.known and "no counts" in str(found) and not found.new_words


def test_a_recurrent_network_has_no_heads(tmp_path):
    bpe = BPE.learn(["Ein Hund rennt."], 300)
    torch.manual_seed(0)
    sizes = Seq2SeqConfig(len(bpe), len(bpe), d_model=8)
    save_checkpoint(tmp_path / "rnn", RNNTranslator(sizes), bpe)
    with pytest.raises(ValueError, match="no heads"):
        look(SNOW, tmp_path / "rnn")


# ---------------------------------------------------------------- the page


def test_the_page_is_whole_and_asks_no_network():
    page = look("Ein <b> & 'Hund'</script>.").to_html()
    assert "<h1 lang=\"de\">Ein &lt;b&gt; &amp; &#x27;Hund&#x27;&lt;/script&gt;.</h1>" in page
    head, _, body = page.rpartition("</head><body>")  # a script may hold the first word, too
    assert page.count("</script>") == 1 and not re.search(r'(?:src|href)="(?!data:)', body)
    spec = re.search(r'window\.vegaEmbed\("#chart", (.*), \{"actions": false\}\);', head)[1]
    assert json.loads(spec)["layer"] and "<noscript>" in body
    assert body.count("<details>") == 5  # the question, its options open to their verdicts


def test_the_command_writes_the_page_and_prints_where(tmp_path, capsys):
    page = tmp_path / "pages" / "mine.html"
    assert main(["look", SNOW, "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == str(page) and "A dog runs" in said and "one cell" in said
    assert page.read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("sentence", ["", "Hund " * 400])
def test_the_command_tells_in_one_line(sentence, tmp_path, capsys):
    assert main(["look", sentence, "--out", str(tmp_path / "x.html")]) == 1
    told = capsys.readouterr().err
    assert told.startswith("look: th") and told.count("\n") == 1
    assert not (tmp_path / "x.html").exists()
