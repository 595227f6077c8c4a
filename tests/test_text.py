"""Text survives the way to ids and back, and batches waste little."""

import hashlib
import json
import os
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from course import text
from course.corpora import pairs
from course.text import (
    BOS,
    BPE,
    BYTE_NAMES,
    EOS,
    FIRST_BYTE,
    FIRST_SYMBOL,
    PAD,
    SPECIAL_TOKENS,
    UNK,
    Vocabulary,
    apply_merges,
    count_pieces,
    encode_pairs,
    learn_bpe,
    make_batches,
    merge_pair,
    normalise,
    pieces,
    to_tokenizers,
    token_batches,
    tokenize,
)

matplotlib.use("Agg")

real_corpus = pytest.mark.skipif(
    not os.environ.get("COURSE_DATA"),
    reason="needs the real Multi30k: set COURSE_DATA to its directory",
)

SENTENCES = [
    "Ein Hund läuft durch den Regen.",
    "Ein Hund läuft, und eine Katze läuft auch.",
    "Regenschirm, Regenmantel und Regenwolke",
    "A dog runs through the rain, and a cat runs too.",
    "Ein <a> und <a> und <ab> 3.",
]
NASTY = [
    "", " ", "  ", "a", " a", "a ", "  zwei  Leerzeichen  ", "\t\n\r\x0b\u2028", "3\u00a0km",
    "\u3000", "🐕‍🦺 und 👩🏽‍🚀", "女孩在笑。", "u\u0308 ü é e\u0301", "\u0308", "كلب",
    "<pad>", "</s><s>", "<unk>", "<0x41>", "<0xFF> <0x00", "▁", "▁Ein ▁Hund", "\ufffd", "\x00",
    "\U0010ffff", "A" * 300, "ＦＵＬＬ ﬁ Ⅳ ½", "İI ıi ß ẞ", "\ufeffa", "a_b-c's", "Ein Hund läuft.",
]

# characters that could be taken for something else are drawn more often than chance would
awkward = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("<>0x4F▁ pads"))
)
small_words = st.dictionaries(
    st.text("ab c", min_size=1, max_size=9), st.integers(1, 4), max_size=8
)


@pytest.fixture(scope="module")
def bpe() -> BPE:
    """A tokeniser of a few sentences: much text is unknown to it."""
    return BPE.learn(SENTENCES, 340, min_char_count=1)


@pytest.fixture(scope="module")
def captions() -> list[tuple[str, str]]:
    return pairs("captions", "train")


@pytest.fixture(scope="module")
def captions_bpe(captions: list[tuple[str, str]]) -> BPE:
    return BPE.learn([s for pair in captions for s in pair], 1000)


def check_identity(encode: Callable, decode: Callable, texts: Sequence[str]) -> None:
    """Raise AssertionError for the first text that does not come back as it was."""
    for one in texts:
        assert decode(encode(one)) == normalise(one), repr(one)


def library_ids(tokenizer, one: str) -> list[int]:
    return tokenizer.encode(BPE([], []).pieces(one), is_pretokenized=True).ids


# ---- words


def test_tokenize_splits_clitics_and_keeps_abbreviations():
    assert tokenize("Dr. Wolf can't swim.", "en") == ["Dr.", "Wolf", "ca", "n't", "swim", "."]
    assert tokenize("Der Hund  bellt.\n", "de") == ["Der", "Hund", "bellt", "."]


def test_tokenize_makes_each_pipeline_once():
    assert text.spacy_pipeline("de") is text.spacy_pipeline("de")


def test_vocabulary_does_not_depend_on_the_order_of_sentences():
    sentences = [s.split() for s in SENTENCES]
    tokens = Vocabulary.from_sentences(sentences).tokens
    for seed in range(5):
        random.Random(seed).shuffle(sentences)
        assert Vocabulary.from_sentences(sentences).tokens == tokens


def test_vocabulary_sorts_by_count_then_by_spelling():
    vocabulary = Vocabulary.from_sentences([["b", "a", "c", "c"]])
    assert vocabulary.tokens == [*SPECIAL_TOKENS, "c", "a", "b"]
    assert len(vocabulary) == 7
    assert vocabulary.encode(["a", "nie", "c"]) == [5, UNK, 4]
    assert vocabulary.decode([5, UNK, 4]) == ["a", "<unk>", "c"]


def test_vocabulary_drops_rare_words():
    vocabulary = Vocabulary.from_sentences([["a", "a", "b"]], min_count=2)
    assert vocabulary.encode(["a", "b"]) == [4, UNK]


def test_vocabulary_never_gives_a_special_id_to_a_word():
    assert Vocabulary(["a"]).encode(SPECIAL_TOKENS) == [UNK] * 4
    assert min(Vocabulary.from_sentences([SPECIAL_TOKENS]).encode(SPECIAL_TOKENS)) > UNK


def test_vocabulary_refuses_a_token_that_comes_twice():
    with pytest.raises(ValueError, match="come twice: .'b'"):
        Vocabulary(["a", "b", "b"])


def test_vocabulary_knows_training_words_only(captions):
    sentences = [tokenize(de, "de") for de, _ in captions[:300]]
    vocabulary = Vocabulary.from_sentences(sentences)
    assert set(vocabulary.ids) == {w for words in sentences for w in words}
    assert vocabulary.encode(["Kürbissuppenwagen"]) == [UNK]


# ---- pieces and merges


@given(awkward)
def test_pieces_join_to_the_text(one: str):
    assert "".join(pieces(one)) == one


@pytest.mark.parametrize("one", NASTY)
def test_pieces_of_nasty_texts_join_to_the_text(one: str):
    assert "".join(pieces(one)) == one


def test_pieces_keep_one_space_with_the_word():
    assert pieces("Ein Hund, zwei  Katzen!") == ["Ein", " Hund", ",", " zwei", " ", " Katzen", "!"]


def test_count_pieces_treats_the_first_word_as_any():
    assert count_pieces(["Hund Hund"]) == {" Hund": 2}


def test_merge_pair_goes_from_the_left():
    assert merge_pair("aaaaa", ("a", "a")) == ("aa", "aa", "a")
    assert merge_pair(("ab", "a", "b"), ("a", "b")) == ("ab", "ab")
    assert merge_pair("", ("a", "b")) == ()


def learn_slowly(piece_counts: Mapping[str, int], n_merges: int) -> list[tuple[str, str]]:
    """Sennrich et al. 2016, algorithm 1, as it is said: count everything again each time."""
    words, merges = {tuple(piece): n for piece, n in piece_counts.items()}, []
    while len(merges) < n_merges:
        counts = Counter()
        for symbols, n in words.items():
            for pair in zip(symbols, symbols[1:]):
                counts[pair] += n
        if not counts:
            break
        merges.append(min(counts, key=lambda pair: (-counts[pair], pair)))
        words = {merge_pair(symbols, merges[-1]): n for symbols, n in words.items()}
    return merges


@given(small_words, st.integers(0, 30))
@settings(max_examples=300, deadline=None)
def test_fast_learning_equals_the_slow_definition(piece_counts, n_merges):
    assert learn_bpe(piece_counts, n_merges) == learn_slowly(piece_counts, n_merges)


def test_fast_learning_equals_the_slow_definition_on_captions(captions):
    piece_counts = count_pieces(s for pair in captions[:400] for s in pair)
    assert learn_bpe(piece_counts, 80) == learn_slowly(piece_counts, 80)


def test_ties_go_to_the_smallest_pair():
    assert learn_bpe({"zy": 2, "ab": 2, "mn": 3}, 3) == [("m", "n"), ("a", "b"), ("z", "y")]


def test_learning_stops_when_nothing_is_left():
    assert learn_bpe({"aaaa": 1}, 99) == [("a", "a"), ("aa", "aa")]
    assert learn_bpe({}, 5) == learn_bpe({"a": 3}, 5) == []


def test_merges_apply_in_the_order_learned_not_from_left_to_right():
    assert apply_merges("abc", {("b", "c"): 0, ("a", "b"): 1}) == ("a", "bc")
    assert apply_merges("abc", {("b", "c"): 1, ("a", "b"): 0}) == ("ab", "c")


def apply_slowly(piece: str, ranks: Mapping[tuple[str, str], int]) -> tuple[str, ...]:
    """Join the best neighbours, look at all of them again: the rule as it is said."""
    symbols = list(piece)
    while known := [(ranks[p], i) for i, p in enumerate(zip(symbols, symbols[1:])) if p in ranks]:
        _, i = min(known)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return tuple(symbols)


@given(small_words, st.lists(st.text("ab c", max_size=30), max_size=5))
@settings(max_examples=300, deadline=None)
def test_fast_cutting_equals_the_slow_rule(piece_counts, words):
    ranks = {pair: rank for rank, pair in enumerate(learn_bpe(piece_counts, 25))}
    for word in words:
        assert apply_merges(word, ranks) == apply_slowly(word, ranks)


def test_a_long_word_takes_time_that_grows_with_its_length(captions_bpe: BPE):
    class Counted(dict):
        looked = 0

        def get(self, key, default=None):
            self.looked += 1
            return super().get(key, default)

        def __contains__(self, key):
            self.looked += 1
            return super().__contains__(key)

    looked = []
    for length in (1000, 16_000):
        ranks = Counted(captions_bpe.ranks)
        apply_merges("".join(random.Random(0).choices("aeinrst", k=length)), ranks)
        looked.append(ranks.looked)
    assert looked[1] < 17 * looked[0] and looked[1] < 6 * 16_000


# ---- one spelling


@given(awkward)
@settings(deadline=None)
def test_normalising_twice_changes_nothing_more(one: str):
    assert normalise(normalise(one)) == normalise(one)


CASES = json.loads(Path(__file__).with_name("normalise_cases.json").read_text("utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_the_cases_that_every_twin_of_normalise_must_pass(case):
    assert normalise(case["input"]) == case["output"] == normalise(case["output"])


PLAIN = "Ein Mädchen läuft über die Straße."
PASTED = {
    "NFD": unicodedata.normalize("NFD", PLAIN),
    "no-break": PLAIN.replace(" ", "\u00a0"),
    "tab": PLAIN.replace(" ", "\t"),
    "ideographic": PLAIN.replace(" ", "\u3000"),
    "line end": PLAIN.replace(" ", "\r\n"),
    "two blanks": PLAIN.replace(" ", "  "),
    "blanks at both ends": f"\t{PLAIN} \n",
    "soft hyphen": PLAIN.replace("d", "d\u00ad"),
    "joiners in words": PLAIN.replace("d", "d\u200d\u200c"),
    "zero width before a mark": PLAIN.replace("ä", "a\u200b\u0308").replace("ü", "u\u200b\u0308"),
    "byte-order mark": "\ufeff" + PLAIN,
}


@pytest.mark.parametrize("name", PASTED)
def test_pasted_text_has_the_ids_of_plain_text(captions_bpe: BPE, name: str):
    assert captions_bpe.encode(PASTED[name]) == captions_bpe.encode(PLAIN)
    assert BPE.learn([PASTED[name]] * 2, 400).merges == BPE.learn([PLAIN] * 2, 400).merges


@pytest.mark.parametrize(
    "one", ["🐕\u200d🦺", "👩🏽\u200d🚀", "❤\ufe0f\u200d🔥", "می\u200cخواهم", "क्\u200dष"]
)
def test_joiners_that_carry_meaning_stay(bpe: BPE, one: str):
    assert normalise(one) == one == bpe.decode(bpe.encode(one))


@pytest.mark.parametrize("one", ["हिन्दी", "தமிழ்", "שָׁלוֹם", "كِتَاب", "می\u200cخواهم"])
def test_a_word_is_not_cut_at_its_vowel_signs(one: str):
    assert pieces(f"{one} {one}") == [one, f" {one}"]


def test_marks_change_no_piece_of_german_and_english(captions):
    for one in (s for pair in captions for s in pair):
        assert pieces(one) == text.OLD_PIECE.findall(one)


def test_an_old_tokeniser_keeps_what_it_was_trained_with(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    BPE("aä ", [], normalises=False).save(path)
    assert json.loads(path.read_text()) == {"alphabet": [" ", "a", "ä"], "merges": []}
    old = BPE.load(path)
    assert old.decode(old.encode("a\u0308\u00a0")) == "a\u0308\u00a0"
    assert old.pieces("हि") == [" ह", "ि"]
    BPE("aä ", []).save(path)
    assert BPE.load(path).normalises
    path.write_text("\ufeff" + path.read_text("utf-8"), "utf-8")  # as some editors store it
    assert BPE.load(path).alphabet == [" ", "a", "ä"]


# ---- the tokeniser


@given(awkward)
@settings(max_examples=500, deadline=None)
def test_decode_undoes_encode(bpe: BPE, one: str):
    ids = bpe.encode(one)
    assert bpe.decode(ids) == normalise(one)
    assert all(UNK < i < len(bpe) for i in ids), "no text may write a special id"


def test_nasty_texts_come_back(bpe: BPE, captions_bpe: BPE):
    for tokeniser in (bpe, captions_bpe, BPE([], [])):
        check_identity(tokeniser.encode, tokeniser.decode, NASTY)


LOSSY = {
    "lower-cased": (str.lower, str),
    "compatibility forms": (lambda s: unicodedata.normalize("NFKC", s), str),
    "words joined": (lambda s: tokenize(s, "de"), " ".join),
    "▁ for the space": (lambda s: s.replace(" ", "▁"), lambda s: s.replace("▁", " ")),
    "one unknown for all": (
        lambda s: s.encode("latin-1", "replace"),
        lambda b: b.decode("latin-1"),
    ),
    "signals by name": (lambda s: s.replace("<pad>", "\x00"), lambda s: s.replace("\x00", "")),
}


@pytest.mark.parametrize("name", LOSSY)
def test_the_nasty_texts_catch_tokenisers_that_lose_something(name: str):
    with pytest.raises(AssertionError):
        check_identity(*LOSSY[name], NASTY)


def test_half_a_surrogate_is_no_text(bpe: BPE):
    with pytest.raises(UnicodeEncodeError):
        bpe.encode("\ud83d")


def test_ids_go_special_bytes_alphabet_merges():
    bpe = BPE("ba", [("a", "b"), ("ab", "a")])
    assert bpe.names == [*SPECIAL_TOKENS, *BYTE_NAMES, "a", "b", "ab", "aba"]
    assert len(bpe) == FIRST_SYMBOL + 4
    assert bpe.encode("aba") == [FIRST_BYTE + 0x20, FIRST_SYMBOL + 3]


def test_unknown_characters_are_spelled_in_bytes(bpe: BPE):
    assert bpe.tokens("猫") == ["▁", "<0xE7>", "<0x8C>", "<0xAB>"]
    assert UNK not in bpe.encode("猫")


def test_a_token_may_begin_with_an_angle(bpe: BPE):
    assert "▁<" in bpe.names, "the sentences above make it a symbol"
    own = BPE(" <?a", [("<", "?"), ("<", "a")])
    assert own.encode("<?")[1:] == [own.ids["<?"]] == [FIRST_SYMBOL + 4]
    assert own.symbol_ids("<a") == [FIRST_SYMBOL + 5]


def test_a_symbol_spelled_like_a_special_token_is_a_symbol_still():
    byte, pad = "<0x41>", "<pad>"
    merges = [(word[:i], word[i]) for word in (byte, pad) for i in range(1, len(word))]
    bpe = BPE(set(byte + pad), merges)
    for word in (byte, pad):
        assert bpe.symbol_ids(word) == [bpe.ids[word]] and bpe.ids[word] >= FIRST_SYMBOL
        assert bpe.decode(bpe.symbol_ids(word)) == word
        assert bpe.decode(bpe.encode(word)) == word
    assert len(bpe) == len(bpe.names) == FIRST_SYMBOL + len(bpe.symbols)
    with pytest.raises(ValueError, match="cannot tell these symbols .*'<0x41>', '<pad>'"):
        to_tokenizers(bpe)


def test_two_merges_that_spell_the_same_share_an_id():
    bpe = BPE("abc", [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")])
    assert bpe.symbols.count("abc") == 1 and len(bpe) == FIRST_SYMBOL + 6


def test_a_merge_listed_twice_counts_once_at_its_first_place():
    bpe = BPE("abc", [("a", "b"), ("b", "c"), ("a", "b")])
    assert bpe.merges == [("a", "b"), ("b", "c")]
    assert bpe.split("abc") == ("ab", "c")


@pytest.mark.parametrize(
    ("alphabet", "merges", "message"),
    [
        ("ab", [("a", "c")], "merge 0.*nothing before it makes 'c'"),
        ("abc", [("ab", "c"), ("a", "b")], "merge 0.*nothing before it makes 'ab'"),
        (["a", "bc"], [], "'bc', which is not one character"),
        ("ab", [("a", "b", "a")], "too many values"),
    ],
)
def test_impossible_merges_are_refused(alphabet, merges, message):
    with pytest.raises(ValueError, match=message):
        BPE(alphabet, merges)


def test_learn_refuses_a_vocabulary_that_is_too_small():
    with pytest.raises(ValueError, match="vocab_size=260 is too small: .* take 262"):
        BPE.learn(["abab"], 260)
    assert len(BPE.learn(["abab"], 263, min_char_count=1)) == 263


def test_learn_refuses_one_string():
    with pytest.raises(TypeError, match="this is one string"):
        BPE.learn("Ein Hund", 300)


def test_learn_leaves_rare_characters_to_the_bytes():
    sentences = ["aa bb ñ"]
    assert BPE.learn(sentences, 400).alphabet == [" ", "a", "b"]
    assert BPE.learn(sentences, 400, min_char_count=1).alphabet == [" ", "a", "b", "ñ"]


def test_learn_never_exceeds_the_size(captions):
    for size in (330, 400, 1000, 100_000):
        assert len(BPE.learn([en for _, en in captions[:300]], size)) <= size


def test_a_smaller_vocabulary_is_the_beginning_of_a_larger_one(captions_bpe, captions):
    small = BPE.learn([s for pair in captions for s in pair], 500)
    assert small.names == captions_bpe.names[:500] and len(captions_bpe) == 1000


def test_special_tokens_say_nothing(bpe: BPE):
    ids = bpe.encode("Ein Hund")
    assert bpe.decode([BOS, *ids, EOS, PAD, UNK]) == "Ein Hund"
    assert bpe.decode([]) == bpe.decode([PAD]) == ""


def test_broken_bytes_become_replacement_characters(bpe: BPE):
    start, rest = bpe.encode("猫")[1:2], bpe.encode("猫")[2:]
    assert bpe.decode(start) == "\ufffd"
    assert bpe.decode([*start, *bpe.encode("a")]) == "\ufffd a"
    assert bpe.decode(rest) == "\ufffd\ufffd"


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_decode_refuses_what_is_no_id(bpe: BPE, wrong: int):
    with pytest.raises(ValueError, match=f"{wrong} is no id: .* 0 to {len(bpe) - 1}"):
        bpe.decode([wrong])


def test_the_cache_is_bounded_and_changes_nothing(bpe: BPE, monkeypatch):
    monkeypatch.setattr(text, "CACHED_PIECES", 3)
    small = BPE(bpe.alphabet, bpe.merges)
    for sentence in SENTENCES * 2:
        assert small.encode(sentence) == bpe.encode(sentence)
        assert len(small.cache) <= 3


def test_encoding_gives_a_list_of_its_own(bpe: BPE):
    bpe.encode("Hund").append(99)
    assert 99 not in bpe.encode("Hund")


def test_ids_stay_as_a_trained_model_knows_them():
    """A checkpoint is worth nothing once these change."""
    bpe = BPE.learn(SENTENCES, 320)
    assert "".join(bpe.alphabet) == " ,.<>EHRacdefghilmnorstuä"
    assert ["".join(pair) for pair in bpe.merges[:6]] == ["un", "und", "in", " und", "en", " <"]
    assert bpe.encode("Ein Hund im Regen.") == [298, 308, 260, 275, 277, 301, 262]


@real_corpus
def test_ids_of_multi30k_stay_as_a_trained_model_knows_them():
    sentences = [s for side in zip(*pairs("multi30k", "train")) for s in side]
    bpe = BPE.learn(sentences, 5000)
    digest = hashlib.sha256(json.dumps(bpe.symbols).encode()).hexdigest()
    assert (len(bpe), digest[:16]) == (5000, "ca5d15ff5bbb8868")
    fast = to_tokenizers(bpe)
    for sentence in sentences[::3]:
        ids = bpe.encode(sentence)
        assert bpe.decode(ids) == normalise(sentence)
        assert library_ids(fast, sentence) == ids


SHIPPED = Path(__file__).parents[1] / "assets" / "checkpoints" / "multi30k-de-en" / "tokenizer.json"


def test_the_shipped_tokeniser_keeps_its_symbols_and_normalises():
    shipped = BPE.load(SHIPPED)
    digest = hashlib.sha256(json.dumps(shipped.symbols).encode()).hexdigest()
    assert digest[:16] == "ef674a8f846cd812", "its weights know these ids and no others"
    assert shipped.normalises
    assert all(shipped.encode(one) == shipped.encode(PLAIN) for one in PASTED.values())


@real_corpus
def test_the_shipped_tokeniser_cuts_training_text_as_it_did_but_for_blanks():
    shipped = BPE.load(SHIPPED)
    as_trained = BPE(shipped.alphabet, shipped.merges, normalises=False)
    train = [s for pair in pairs("multi30k", "train") for s in pair]
    other = [s for s in train if shipped.pieces(s) != as_trained.pieces(s)]
    assert len(other) == 130 and all(" ".join(s.split()) != s for s in other)


# ---- keeping it


def test_a_saved_tokeniser_comes_back(bpe: BPE, tmp_path: Path):
    bpe.save(tmp_path / "tokenizer.json")
    again = BPE.load(tmp_path / "tokenizer.json")
    assert again.names == bpe.names and again.merges == bpe.merges
    assert all(again.encode(s) == bpe.encode(s) for s in [*SENTENCES, *NASTY])


def test_the_format_of_the_file_stays_readable(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"alphabet": [" ", "a", "ß"], "merges": [["a", "ß"]]}', encoding="utf-8")
    assert BPE.load(path).encode("aß") == [FIRST_SYMBOL, FIRST_SYMBOL + 3]


BROKEN = {
    "empty": "",
    "cut off": '{"alphabet": ["a", "b"], "merges": [["a", "b"]',
    "a list": "[]",
    "no merges": '{"alphabet": ["a"]}',
    "a merge of three": '{"alphabet": ["a"], "merges": [["a", "a", "a"]]}',
    "an impossible merge": '{"alphabet": ["a"], "merges": [["a", "b"]]}',
    "a number": '{"alphabet": ["a"], "merges": 3}',
    "numbers in a merge": '{"alphabet": ["a"], "merges": [[1, 2]]}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named(name: str, tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text(BROKEN[name], encoding="utf-8")
    with pytest.raises(ValueError, match="tokenizer.json is no tokeniser as BPE.save writes it"):
        BPE.load(path)


def test_bytes_that_are_no_utf8_are_a_broken_file(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UnicodeDecodeError"):
        BPE.load(tmp_path / "tokenizer.json")


def test_a_missing_file_is_missing(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        BPE.load(tmp_path / "nowhere.json")


# ---- the library


def test_the_library_gives_the_same_ids_for_captions(captions_bpe: BPE, captions):
    fast = to_tokenizers(captions_bpe)
    for one in [*NASTY, *(s for pair in captions[:1500] for s in pair)]:
        assert library_ids(fast, one) == captions_bpe.encode(one), one
        assert fast.decode(library_ids(fast, one)) == normalise(one)


@given(awkward)
@example("  two spaces in front")
@settings(max_examples=200, deadline=None)
def test_the_library_gives_the_same_ids_for_any_text(bpe: BPE, one: str):
    fast = to_tokenizers(bpe)
    assert library_ids(fast, one) == bpe.encode(one)
    assert fast.decode(bpe.encode(one)) == normalise(one)


@given(small_words, st.lists(st.text("ab c", max_size=25), max_size=5))
@settings(max_examples=300, deadline=None)
def test_the_library_agrees_where_everything_ties(piece_counts, texts):
    bpe = BPE("ab c", learn_bpe(piece_counts, 25))
    fast = to_tokenizers(bpe)
    for one in texts:
        assert library_ids(fast, one) == bpe.encode(one)


# ---- batches


def check_batches(make: Callable, sizes: Sequence[tuple[int, int]], max_tokens: int) -> None:
    """Raise AssertionError unless every index comes once and every rectangle fits the budget."""
    batches = make(sizes, max_tokens)
    found = sorted(i for batch in batches for i in batch)
    assert found == list(range(len(sizes))), "every index exactly once"
    for batch in batches:
        assert batch, "no batch is empty"
        for side in (0, 1):
            assert len(batch) * max(sizes[i][side] for i in batch) <= max_tokens, "over the budget"


lengths = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=60)


@given(lengths, st.integers(20, 100), st.none() | st.integers(0, 9))
def test_every_index_once_and_no_batch_over_the_budget(sizes, max_tokens, seed):
    check_batches(lambda s, m: token_batches(s, m, seed), sizes, max_tokens)


def drops_the_last(sizes, max_tokens):
    return token_batches(sizes, max_tokens)[:-1]


def counts_real_tokens_only(sizes, max_tokens):
    batches, cost = [[]], 0
    for i, size in enumerate(sizes):
        if cost + max(size) > max_tokens:
            batches.append([])
            cost = 0
        batches[-1].append(i)
        cost += max(size)
    return batches


def looks_at_the_source_only(sizes, max_tokens):
    return token_batches([src for src, _ in sizes], max_tokens)


def draws_with_replacement(sizes, max_tokens):
    dice = random.Random(0)
    return [[dice.randrange(len(sizes))] for _ in sizes]


@pytest.mark.parametrize(
    "wrong",
    [drops_the_last, counts_real_tokens_only, looks_at_the_source_only, draws_with_replacement],
)
def test_the_check_of_batches_catches_wrong_ones(wrong: Callable):
    dice = random.Random(0)
    sizes = [(dice.randint(1, 20), dice.randint(1, 20)) for _ in range(80)]
    check_batches(token_batches, sizes, 60)
    with pytest.raises(AssertionError):
        check_batches(wrong, sizes, 60)


def test_the_target_is_sorted_first_then_the_source():
    assert token_batches([(5, 1), (1, 5), (1, 1), (5, 5)], 10) == [[2, 0], [1, 3]]


def test_numbers_are_lengths_too():
    assert token_batches([3, 1, 2, 1], 4) == [[1, 3], [2], [0]]
    assert token_batches([], 10) == []


def test_a_seed_repeats_and_another_reorders():
    sizes = [(n % 7 + 1, n % 5 + 1) for n in range(100)]
    assert token_batches(sizes, 40, seed=3) == token_batches(sizes, 40, seed=3)
    assert token_batches(sizes, 40, seed=3) != token_batches(sizes, 40, seed=4)
    assert token_batches(sizes, 40) == token_batches(sizes, 40)


def test_a_seed_does_not_touch_other_random_numbers():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    token_batches([(1, 2)] * 50, 10, seed=1)
    assert random.random() == expected


def test_an_example_over_the_budget_is_named():
    with pytest.raises(ValueError, match="example 1 has 9 tokens, more than max_tokens=8: raise"):
        token_batches([(3, 3), (2, 9)], 8)


def test_both_sides_end_in_eos_once(captions_bpe: BPE, captions):
    for (src, tgt), (de, en) in zip(encode_pairs(captions_bpe, captions[:50]), captions):
        assert src == [*captions_bpe.encode(de), EOS] and tgt == [*captions_bpe.encode(en), EOS]
    assert encode_pairs(captions_bpe, [("", "")]) == [([*captions_bpe.encode(""), EOS],) * 2]


def test_less_than_a_tenth_is_padding(captions_bpe: BPE, captions):
    batches = list(make_batches(encode_pairs(captions_bpe, captions), 1600, seed=0))
    padded = sum((b.src == PAD).sum() + (b.tgt_out == PAD).sum() for b in batches)
    positions = sum(b.src.numel() + b.tgt_out.numel() for b in batches)
    assert padded / positions < 0.10
    assert max(max(b.src.numel(), b.tgt_out.numel()) for b in batches) <= 1600
    assert sum(len(b.src) for b in batches) == len(captions)


def test_batches_hold_the_pairs_and_resume(captions_bpe: BPE, captions):
    examples = encode_pairs(captions_bpe, captions[:200])
    batches = list(make_batches(examples, 300, seed=1))
    rest = list(make_batches(examples, 300, seed=1, start=4))
    assert len(rest) == len(batches) - 4 > 0
    for a, b in zip(batches[4:], rest):
        assert a.src.equal(b.src) and a.tgt_in.equal(b.tgt_in) and a.tgt_out.equal(b.tgt_out)
    found = [
        (captions_bpe.decode(src.tolist()), captions_bpe.decode(tgt.tolist()))
        for batch in batches
        for src, tgt in zip(batch.src, batch.tgt_out)
    ]
    assert sorted(found) == sorted(captions[:200])
    assert all((batch.tgt_in[:, 0] == BOS).all() for batch in batches)


# ---- pictures


def draw_all() -> dict[str, Callable]:
    from course.viz import text as draw

    word = [("characters", tuple("abc")), ("merge 1", ("ab", "c")), ("merge 2", ("abc",))]
    cuts = {"words": [3, 4], "BPE": [5, 6], "characters": [9, 20]}
    return {
        "merge_panels": lambda: draw.merge_panels(
            {"0": [(" ", "a", "b")], "1": [(" ", "ab")]}, "t"
        ),
        "build_up": lambda: draw.build_up(word, "t"),
        "zipf": lambda: draw.zipf({"one": [9, 4, 1], "two": [3, 1]}, "t"),
        "length_histograms": lambda: draw.length_histograms({"de": cuts, "en": cuts}, "t"),
        "trade_off": lambda: draw.trade_off([300, 400], {"de": [9, 5]}, {"de": 4.0}, "t"),
        "padding": lambda: draw.padding({"a": 0.5, "b": 0.1}, {"a": [3, 9], "b": [4, 4]}, "t"),
    }


@pytest.mark.parametrize("name", draw_all())
def test_pictures_have_a_title_and_are_shown_once(name: str):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = draw_all()[name]()
    figure.canvas.draw()
    assert figure.get_suptitle() == "t"
    assert plt.get_fignums() == before, "an open figure would be shown a second time"


def test_the_newest_symbol_stands_out():
    from course.viz import text as draw

    figure = draw.build_up([("", ("a", "b", "c")), ("", ("ab", "c")), ("", ("abc",))], "t")
    new = [p for p in figure.axes[0].patches if p.get_linewidth() == 1.8]
    assert [round(p.get_width() + 0.12) for p in new] == [2, 3]
