"""The translator in the page computes what the course computes: pieces, ids, weights, beams.

The engine is run by node where there is one. The comparison of all 1,000 test sentences takes
minutes: COURSE_PAGE_FULL=1 python -m pytest tests/test_page.py -k full
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from babel.messages.catalog import Message
from hypothesis import given, settings
from hypothesis import strategies as st

import course.page
from course import ASSETS
from course.__main__ import main
from course.attention import record_attention
from course.authoring import lint
from course.cache import beam_search, cached_log_probs
from course.corpora import CorpusError, pairs
from course.decoding import greedy_search, ranked
from course.look import Seen, fnv1a
from course.masking import causal_mask
from course.runs import load_checkpoint, save_checkpoint
from course.seq2seq import RNNTranslator, Seq2SeqConfig
from course.text import BOS, BPE, EOS, PAD, UNK
from course.transformer import Transformer, TransformerConfig

HERE = Path(__file__).parent
PAGE = HERE.parent / "course" / "page"
CHECKPOINT = ASSETS / "checkpoints" / "multi30k-de-en"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(not NODE, reason="no node here: nothing runs the page's engine")
full = pytest.mark.skipif(
    os.environ.get("COURSE_PAGE_FULL") != "1", reason="takes minutes: COURSE_PAGE_FULL=1 runs it"
)


def node(jobs: Sequence[dict], checkpoint: Path = CHECKPOINT) -> list[list[dict]]:
    """Return what the worker posts for each job."""
    lines = "".join(json.dumps(job) + "\n" for job in jobs)
    done = subprocess.run(
        [NODE, str(HERE / "page" / "engine.mjs"), str(PAGE), str(checkpoint)],
        input=lines, capture_output=True, encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def shipped():
    return load_checkpoint("multi30k-de-en")


def probes() -> list[str]:
    with (ASSETS / "probe_sentences.tsv").open(encoding="utf-8") as file:
        return [row["de"] for row in csv.DictReader(file, delimiter="\t")]


def flickr(side: int = 0) -> list[str]:
    try:
        return [pair[side] for pair in pairs("multi30k", "test_2016_flickr")]
    except CorpusError as error:
        pytest.skip(f"Multi30k is not here: {error}")


# ---- pieces


def check_pieces(bpe, texts: Sequence[str]) -> None:
    for text, [theirs] in zip(texts, node([{"bpe": text} for text in texts])):
        assert theirs["ids"] == bpe.encode(text), repr(text)
        assert theirs["back"] == bpe.decode(bpe.encode(text)), repr(text)


@needs_node
def test_pieces_of_the_probe_sentences_are_equal(shipped):
    check_pieces(shipped[1], [*probes(), "", " ", "  zwei  Blanke ", "a\u0308", "\ufeffEin"])


@needs_node
def test_text_is_normalised_as_the_table_says():
    cases = json.loads((HERE / "normalise_cases.json").read_text("utf-8"))
    for case, [theirs] in zip(cases, node([{"bpe": case["input"]} for case in cases])):
        assert theirs["normal"] == case["output"], case["case"]
        assert theirs["back"] == case["output"], case["case"]


@needs_node
def test_pieces_of_the_corpus_are_equal(shipped):
    check_pieces(shipped[1], [*flickr(0), *flickr(1)])


@needs_node
def test_pieces_of_any_text_are_equal(shipped):
    """A property test that asks node once: 3,000 texts out of a seed."""
    texts = []
    known = st.characters(exclude_categories=["Cs", "Cn", "Co"])
    special = st.sampled_from("\u200b\u200c\u200d\u00ad\ufeff\u0308\u0301\ufe0f\u00a0\u3000\x1c\x85"
                              "\r\n\t _🐕❤🔥👩🏽🚀äößÄ'’\u0627\u0644\u093f\u0915\u094d一二½²\u2028")
    words = st.sampled_from(["Ein", " Hund", "läuft", "über", "123", "...", "🏽\u200d♂\ufe0f"])
    some = st.one_of(st.text(known, max_size=8), special, words)

    @given(st.lists(some, max_size=12).map("".join))
    @settings(max_examples=3000, deadline=None, derandomize=True, database=None)
    def collect(text):
        texts.append(text)

    collect()
    check_pieces(shipped[1], texts)


@needs_node
def test_word_classes_are_those_of_python(shipped):
    """Each assigned character stands between two letters: it is cut off, or it is not."""
    every = map(chr, range(sys.maxunicode))
    every = [c for c in every if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    every = [c for c in every if not "\u3400" <= c <= "\u9fff" and not "\uac00" <= c <= "\ud7a3"
             and not "\U00017000" <= c <= "\U0003ffff"]  # long rows of alike letters
    texts = ["".join(f"a{c}b " for c in every[i : i + 200]) for i in range(0, len(every), 200)]
    for text, [theirs] in zip(texts, node([{"bpe": text} for text in texts])):
        assert theirs["ids"] == shipped[1].encode(text)


# ---- translations


def log_probs(model, source: Sequence[int], written: Sequence[int]):
    """Return the log-probabilities at each step (T, V), and the weights of each attention."""
    src, tgt = torch.tensor([source]), torch.tensor([[BOS, *written[:-1]]])
    with torch.no_grad(), record_attention(model) as weights:
        states = model.decode(tgt, model.encode(src), None, causal_mask(tgt.size(1)))
        logits = model.project(states)[0]
    logits[:, [PAD, BOS, UNK]] = -torch.inf
    return logits.log_softmax(-1), {name: w[0] for name, w in weights.items()}


def check_greedy(shipped, texts: Sequence[str], attention: int, ask: Callable = node) -> int:
    """Compare greedy translations; the weights of the first few. Return how many ended in a tie."""
    model, bpe = shipped
    sources = [[*bpe.encode(text), EOS] for text in texts]
    limits = [len(source) + 50 for source in sources]
    width = max(map(len, sources))
    rows = torch.tensor([[*s, *[PAD] * (width - len(s))] for s in sources])
    ours = greedy_search(cached_log_probs(model, rows), len(rows), limits)
    ties = 0
    jobs = [{"text": text, "attention": i < attention} for i, text in enumerate(texts)]
    for i, answers in enumerate(ask(jobs)):
        kinds = {answer["kind"]: answer for answer in answers}
        steps = [answer["step"] for answer in answers if answer["kind"] == "step"]
        written = kinds["written"]["ids"]
        scores, weights = log_probs(model, sources[i], written)  # along their path
        for t, step in enumerate(steps):
            top = torch.tensor([place["id"] for place in step["top"]])
            theirs = torch.tensor([place["logProb"] for place in step["top"]])
            torch.testing.assert_close(scores[t, top], theirs, atol=1e-3, rtol=0)
            torch.testing.assert_close(scores[t].topk(5).values, theirs, atol=1e-3, rtol=0)
        expected = [*ours[i], EOS] if kinds["written"]["ended"] else ours[i]
        if written != expected:
            t = next(t for t, (a, b) in enumerate(zip(written, expected)) if a != b)
            assert abs(scores[t, written[t]] - scores[t, expected[t]]) < 1e-4, texts[i]
            ties += 1
        if i < attention:
            for name, theirs in kinds["read"]["attention"].items():
                whole = torch.tensor(theirs).float()
                torch.testing.assert_close(weights[name], whole, atol=1e-4, rtol=0)
            for t, step in enumerate(steps):
                for name, theirs in step["attention"].items():
                    for head, row in enumerate(theirs):
                        row, own = torch.tensor(row).float(), weights[name][head, t, : len(row)]
                        torch.testing.assert_close(own, row, atol=1e-4, rtol=0)
    return ties


def check_beam(shipped, texts: Sequence[str], ask: Callable = node) -> None:
    """Compare the best hypotheses of beam 4; equal scores within 1e-4 make either right."""
    (model, bpe), beam, alpha = shipped, 4, 0.6
    for text, answers in zip(texts, ask([{"text": text, "beam": beam} for text in texts])):
        last = [answer["row"] for answer in answers if answer["kind"] == "beam"][-1]
        prefixes = [[BOS, *h["ids"], *[EOS] * h["ended"]] for h in last]
        theirs = ranked(prefixes, [h["total"] for h in last], alpha)
        source = [*bpe.encode(text), EOS]
        score = cached_log_probs(model, torch.tensor([source]))
        ours = beam_search(score, 1, [len(source) + 50], beam, alpha, follow=score.follow)[0]
        assert theirs[0].score == pytest.approx(ours[0].score, abs=1e-3)
        if theirs[0].ids != ours[0].ids:
            assert abs(theirs[0].score - ours[0].score) < 1e-4, text


@needs_node
def test_greedy_translations_of_the_probe_sentences_are_equal(shipped):
    assert check_greedy(shipped, probes(), attention=10) == 0


@needs_node
def test_beams_of_the_probe_sentences_are_equal(shipped):
    check_beam(shipped, probes()[:8])


@needs_node
@full
def test_full_greedy_on_a_thousand_sentences(shipped, capsys):
    ties = check_greedy(shipped, flickr(), attention=100)
    with capsys.disabled():
        print(f"\n1,000 sentences: greedy ids equal, {ties} of them up to a tie within 1e-4")


@needs_node
@full
def test_full_beam_4_on_two_hundred_sentences(shipped):
    check_beam(shipped, flickr()[:200])


@needs_node
@pytest.mark.parametrize(
    "broken", [{"positions": False}, {"scale": False}, {"residual": False}, {"causal": False},
               {"maskBeforeSoftmax": False}, {"headsOff": [f"encoder.layers.{n}.self_attention/{h}"
                                                           for n in range(3) for h in range(4)]}],
    ids=lambda broken: next(iter(broken)),
)
def test_each_switch_breaks_something(broken):
    text = probes()[0]
    whole, other = node([{"text": text}, {"text": text, "set": broken}])
    one, two = (next(a["total"] for a in answers if a["kind"] == "written")
                for answers in (whole, other))
    assert abs(one - two) > 0.005


# ---- any checkpoint, and the file


SHAPES = {
    "post-norm, learned positions, untied": {
        "norm": "post", "positions": "learned", "tie_embeddings": False, "n_layers": 2},
    "odd widths, d_k other than d_v": {"d_k": 3, "d_v": 5, "d_ff": 13, "n_layers": 1},
}


def small_model(sizes: dict) -> tuple[Transformer, BPE]:
    bpe = BPE.learn(["ein Hund rennt", "ein Hund", "a dog"], 290, min_char_count=1)
    torch.manual_seed(0)
    small = {"d_model": 12, "n_heads": 2, "d_ff": 16} | sizes
    return Transformer(TransformerConfig(len(bpe), len(bpe), **small)).eval(), bpe


@needs_node
@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_of_another_shape_is_computed_as_in_python(shape, tmp_path):
    model, bpe = small_model(SHAPES[shape])
    save_checkpoint(tmp_path, model, bpe)
    ask = partial(node, checkpoint=tmp_path)
    assert check_greedy((model, bpe), ["ein Hund rennt", "rennt ein Hund?"], 2, ask) == 0


def test_the_file_holds_everything_and_asks_for_nothing(tmp_path):
    model, bpe = small_model({})
    save_checkpoint(tmp_path / "mine", model, bpe)
    out = tmp_path / "new" / "mine.html"
    assert main(["page", "--checkpoint", str(tmp_path / "mine"), "--out", str(out)]) == 0
    page = out.read_text("utf-8")
    assert not re.search(r"(?:src|href)=\"(?!data:|#|book/)", page)
    assert not re.search(r"^(?:import|export) ", page, re.MULTILINE)
    data = re.search(r'id="page-data">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(data)["seen"] is None  # nobody has counted
    assert len(json.loads(data)["probes"]) == 20


def test_modules_that_define_a_name_twice_are_refused(monkeypatch, tmp_path):
    (tmp_path / "one.js").write_text('import { x } from "./two.js";\nconst y = x;\n')
    (tmp_path / "two.js").write_text("export const x = 1;\nfunction y() {}\n")
    monkeypatch.setattr(course.page, "HERE", tmp_path)
    with pytest.raises(ValueError, match="define y"):
        course.page.joined("one.js")


def test_a_recurrent_model_is_refused_in_a_sentence(tmp_path, capsys):
    bpe = small_model({})[1]
    model = RNNTranslator(Seq2SeqConfig(len(bpe), len(bpe), 8))
    save_checkpoint(tmp_path, model, bpe)
    assert main(["page", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "x.html")]) == 1
    assert "runs Transformers alone" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


@needs_node
def test_the_page_knows_what_training_saw():
    seen = Seen.load(CHECKPOINT / "seen.safetensors")
    (answers,) = node([{"text": "Der HUND zieht 3 Kürbissuppenwagen."}])
    (words,) = [answer["words"] for answer in answers if "words" in answer]
    known = {word["text"]: word["known"] for word in words}
    assert known == {" Der": True, " HUND": True, " zieht": True, " 3": True, ".": True,
                     " Kürbissuppenwagen": False} and seen.count("hund") == 255
    pieces = [piece for word in words for piece in word["pieces"]]
    assert [piece["count"] for piece in pieces] == [seen.tokens[p["id"]] for p in pieces]


@needs_node
def test_fingerprints_of_words_are_the_same_in_both_languages(tmp_path):
    words = ["hund", "straße", "🐕", ""]
    code = f"import {{ fingerprint }} from {json.dumps((PAGE / 'worker.js').as_uri())};"
    code += f"console.log(JSON.stringify({json.dumps(words)}.map(fingerprint)))"
    file = tmp_path / "ask.mjs"
    file.write_text(code, "utf-8")
    said = subprocess.run([NODE, str(file)], capture_output=True, encoding="utf-8", check=True)
    assert json.loads(said.stdout) == [fnv1a(word) for word in words]


def test_the_engine_stays_small_enough_to_read():
    texts = [(PAGE / name).read_text("utf-8") for name in ("bpe.js", "transformer.js")]
    assert sum(len(text.splitlines()) for text in texts) < 400


def test_the_page_says_in_chinese_what_it_says_in_english():
    english, chinese = (
        dict(re.findall(r'(\w+): "((?:[^"\\]|\\.)*)"', (PAGE / name).read_text("utf-8")))
        for name in ("messages.js", "chinese.js"))
    assert english.keys() == chinese.keys()
    places = [{*re.findall(r"\{\w+\}", text)} for text in (english["intro"], chinese["intro"])]
    assert places == [{"{millions}"}, {"{wan}"}]  # 5.2 million are 523 万
    for key in english.keys() - {"intro"}:
        faults = lint.faults(Message(english[key], chinese[key]))
        theirs, ours = (sorted(re.findall(r"\{\w+\}", text[key])) for text in (english, chinese))
        # titles, `decoding.js`, and formulas have their own brackets
        assert theirs == ours
        assert [fault for fault in faults if not fault.startswith(("term", "punctuation ("))] == []


def test_every_message_that_is_said_is_in_the_dictionary():
    dictionary = (PAGE / "messages.js").read_text("utf-8")
    known = {a or b for a, b in re.findall(r"^    (\w+):|, (\w+): \"", dictionary, re.MULTILINE)}
    asks = re.compile(r"""(?:\bsay|button|tell|nothing)\("(\w+)"|data-say="(\w+)\"""")
    for file in {*PAGE.glob("*.js"), PAGE / "index.html"} - {PAGE / "messages.js"}:
        said = {a or b for a, b in asks.findall(file.read_text("utf-8"))}
        assert said <= known, file.name
