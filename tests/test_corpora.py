"""Multi30k is found, fetched, verified and read, or the reader is told what to do."""

import csv
import gzip
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from course import corpora
from course.corpora import CorpusError, multi30k, plain

COURSE_DATA = os.environ.get("COURSE_DATA")
PROBES = Path(__file__).parents[1] / "assets" / "probe_sentences.tsv"
GERMAN = "Ein Hund bellt.\nZwei Kinder\u00a0lachen.\n"
ENGLISH = "A dog barks.\nTwo children laugh.\n"
PAIRS = [("Ein Hund bellt.", "A dog barks."), ("Zwei Kinder\u00a0lachen.", "Two children laugh.")]
FILES = {
    "val.de.gz": gzip.compress(GERMAN.encode(), mtime=0),
    "val.en.gz": gzip.compress(ENGLISH.encode(), mtime=0),
}

real_corpus = pytest.mark.skipif(
    not COURSE_DATA, reason="needs the real Multi30k: set COURSE_DATA to its directory"
)


@pytest.fixture(autouse=True)
def tiny_multi30k(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A val split of two lines, an empty cache, and a server that refuses every connection."""
    for name, content in FILES.items():
        monkeypatch.setitem(multi30k.SHA256, name, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(multi30k, "cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(multi30k, "BASE_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("COURSE_DATA", raising=False)
    monkeypatch.delenv("COURSE_OFFLINE", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with the two files of val."""
    directory = tmp_path / "data"
    directory.mkdir()
    for name, content in FILES.items():
        (directory / name).write_bytes(content)
    return directory


class Handler(BaseHTTPRequestHandler):
    """Serves FILES; `body` may spoil what a GET receives, after its length was announced."""

    def __init__(self, *arguments, body: Callable[[bytes], bytes], asked: list[str]):
        self.body, self.asked = body, asked
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        content = FILES.get(self.path[1:])
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.body(FILES.get(self.path[1:], b"")))

    def log_message(self, *arguments) -> None:
        pass


Serve = Callable[..., list[str]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server on this machine; returns the list in which it notes what it was asked."""
    servers = []

    def start(body: Callable[[bytes], bytes] = lambda content: content) -> list[str]:
        asked: list[str] = []
        handler = partial(Handler, body=body, asked=asked)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(multi30k, "BASE_URL", f"http://127.0.0.1:{server.server_port}/")
        servers.append(server)
        return asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def cached() -> list[str]:
    return sorted(path.name for path in multi30k.cache().rglob("*"))


# Where the files come from


def test_the_argument_names_the_directory(data: Path):
    assert multi30k.load("val", data) == PAIRS


def test_course_data_names_the_directory(data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COURSE_DATA", str(data))
    assert multi30k.load("val") == PAIRS
    assert multi30k.available("val") and multi30k.found("val")


def test_the_argument_wins_over_course_data(data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COURSE_DATA", str(data / "nowhere"))
    assert multi30k.load("val", data) == PAIRS


def test_a_download_is_kept_and_not_repeated(serve: Serve):
    asked = serve()
    assert multi30k.available("val") and not multi30k.found("val")
    assert multi30k.load("val") == PAIRS
    assert cached() == sorted(FILES)
    assert multi30k.found("val")
    asked.clear()
    assert multi30k.load("val") == PAIRS
    assert asked == []


def test_a_directory_without_the_split_falls_on_to_the_download(data: Path, serve: Serve):
    (data / "val.en.gz").unlink()
    asked = serve()
    assert multi30k.load("val", data) == PAIRS
    assert cached() == ["val.en.gz"]
    assert asked == ["HEAD /val.en.gz", "GET /val.en.gz"]


def test_a_damaged_cache_is_replaced(serve: Serve):
    multi30k.cache().mkdir()
    (multi30k.cache() / "val.de.gz").write_bytes(b"half a fi")
    serve()
    assert multi30k.load("val") == PAIRS


@pytest.mark.parametrize(
    "spoil",
    [lambda content: content[: len(content) // 2], lambda content: content[::-1]],
    ids=["broken off", "wrong checksum"],
)
def test_a_spoiled_download_leaves_nothing_behind(serve: Serve, spoil: Callable[[bytes], bytes]):
    asked = serve(spoil)
    with pytest.raises(CorpusError, match="the download failed"):
        multi30k.load("val")
    assert "GET /val.de.gz" in asked
    assert cached() == []


def test_an_interrupted_download_leaves_nothing_behind(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*arguments, **keywords):
        assert len(cached()) == 1
        raise KeyboardInterrupt

    serve()
    monkeypatch.setattr("pooch.core.hash_matches", interrupt)
    with pytest.raises(KeyboardInterrupt):
        multi30k.load("val")
    assert cached() == []


def test_offline_the_message_says_what_was_tried_and_what_to_do(data: Path):
    (data / "val.en.gz").unlink()
    with pytest.raises(CorpusError) as caught:
        multi30k.load("val", data)
    message = str(caught.value)
    places = [str(data), str(multi30k.cache()), f"{multi30k.BASE_URL}val.en.gz: cannot be reached"]
    positions = [message.index(place) for place in places]
    assert positions == sorted(positions)
    for advice in ("val.de.gz and val.en.gz by hand", "COURSE_DATA", "captions", "offline"):
        assert advice in message
    assert not multi30k.available("val")


def test_a_server_without_the_file_is_not_taken_for_a_broken_network(serve: Serve):
    serve()
    with pytest.raises(CorpusError, match="does not offer this file"):
        multi30k.load("test_2018_flickr")
    assert not multi30k.available("test_2018_flickr")


def test_course_offline_asks_no_network(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    asked = serve()
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    assert not multi30k.available("val")
    with pytest.raises(CorpusError, match="COURSE_OFFLINE"):
        multi30k.load("val")
    assert asked == []


def test_a_name_server_that_never_answers_costs_no_more_than_the_time_out(
    monkeypatch: pytest.MonkeyPatch,
):
    released = Event()
    monkeypatch.setattr(multi30k, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(multi30k, "_ask", lambda url: str(released.wait(10)))
    assert not multi30k.available("val")
    with pytest.raises(CorpusError, match=r"no answer within 0\.05 s"):
        multi30k.load("val")
    released.set()


def test_a_directory_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CorpusError, match="nowhere, named by the argument directory"):
        multi30k.load("val", tmp_path / "nowhere")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(CorpusError, match="nowhere, named by COURSE_DATA"):
        multi30k.load("val")
    assert not multi30k.available("val")


def test_a_named_file_with_the_wrong_checksum_is_refused(data: Path, serve: Serve):
    asked = serve()
    (data / "val.de.gz").write_bytes(gzip.compress(b"Etwas anderes.\n", mtime=0))
    with pytest.raises(CorpusError, match=r"val\.de\.gz is damaged.* not [0-9a-f]{64}.*fetch it"):
        multi30k.load("val", data)
    assert asked == []


@pytest.mark.parametrize("function", [multi30k.load, multi30k.available, multi30k.found])
def test_an_unknown_split_lists_the_known_ones(function: Callable[[str], object]):
    with pytest.raises(ValueError, match="unknown split 'test'.*test_2016_flickr"):
        function("test")


# What the files hold


@pytest.fixture
def two_files(tmp_path: Path) -> Callable[[bytes, bytes], tuple[Path, Path]]:
    def write(src: bytes, tgt: bytes) -> tuple[Path, Path]:
        paths = tmp_path / "own.de", tmp_path / "own.en"
        for path, content in zip(paths, (src, tgt), strict=True):
            path.write_bytes(content)
        return paths

    return write


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["text", "gzip"])
def test_a_corpus_of_the_readers_own(two_files, pack: Callable[[bytes], bytes]):
    assert plain.read_parallel(*two_files(pack(GERMAN.encode()), ENGLISH.encode())) == PAIRS


def test_windows_line_ends_a_byte_order_mark_and_no_last_newline(two_files):
    files = two_files(b"\xef\xbb\xbfEins\r\nZwei\r\n", b"One\nTwo")
    assert plain.read_parallel(*files) == [("Eins", "One"), ("Zwei", "Two")]


def test_only_the_newline_goes(two_files):
    line = " a\u0308 \u00a0\u2028\x85 "
    files = two_files(f"{line}\n".encode(), b"x\n")
    assert plain.read_parallel(*files) == [(line, "x")]


@pytest.mark.parametrize(
    ("src", "complaint"),
    [
        (b"Eins\n", r"own\.de has 1 lines, .*own\.en has 2: .*own\.en, line 2, .*'Two'.*Give"),
        (b"1\n2\n3\n", r"own\.de has 3 lines, .*own\.de, line 3, has no partner \('3'\)"),
        (b"Eins\nZw\xfcei\n", r"own\.de, line 2: byte 3 is 0xfc, not UTF-8.*xfcei.*Save .*UTF-8"),
        (b"Eins\nZw\x93ei\n", r"line 2: byte 3 is 0x93, .*iconv -f cp1252 -t utf-8 .*own\.de"),
        ("Eins\nZwei\n".encode("utf-16"), r"own\.de is not UTF-8 but UTF-16.*iconv -f utf-16 "),
        ("Eins\nZwei\n".encode("utf-16-le"), r"own\.de is not UTF-8 but .*iconv -f utf-16le "),
        ("Eins\nZwei\n".encode("utf-16-be"), r"own\.de is not UTF-8 but .*iconv -f utf-16be "),
        ("Eins\nZwei\n".encode("utf-32"), r"own\.de is not UTF-8 but UTF-32.*iconv -f utf-32 "),
        (b"Eins zwei.\r" * 300 + b"\nb", r"own\.de, line 1: 600 tokens.*299 carriage returns.*tr "),
        (b"Eins\n \xc2\xa0\n", r"own\.de, line 2: empty \(' .*'\).*delete it"),
        (b"", r"own\.de, line 1: empty"),
        (b"Eins\n" + b"und " * 5000, r"own\.de, line 2: 5000 tokens.*500 allowed.*'und und.*Put"),
        (gzip.compress(GERMAN.encode())[:-9], r"own\.de is a broken gzip file.*fetch it again"),
        (b"\x1f\x8bnot gzip", r"own\.de is a broken gzip file"),
    ],
    ids=["fewer", "more", "encoding", "of Windows", "two bytes", "little", "big", "four bytes",
         "carriage returns", "empty", "no lines", "long", "truncated", "not gzip"],
)
def test_what_is_wrong_where_and_what_to_do(two_files, src: bytes, complaint: str):
    with pytest.raises(CorpusError, match=complaint):
        plain.read_parallel(*two_files(src, b"One\nTwo\n"))


def test_held_out_are_sentences_that_are_not_learned_from(two_files):
    src = [f"Satz {n % 50}" for n in range(60)]  # ten of them have two translations
    files = two_files("\n".join(src).encode(), "\n".join(f"Line {n}" for n in range(60)).encode())
    train, val = plain.own_pairs(*files)
    assert len(train) + len(val) == 60 and len({source for source, _ in val}) == 3
    assert not {source for source, _ in train} & {source for source, _ in val}
    assert plain.own_pairs(*files) == (train, val), "the same each time, so that a run can go on"


def test_one_sentence_alone_can_not_be_held_out(two_files):
    with pytest.raises(CorpusError, match=r"own\.de has one sentence only: .*Give it more lines"):
        plain.own_pairs(*two_files(b"Eins\nEins\n", b"One\nA one\n"))


def test_a_directory_of_pairs(tmp_path: Path):
    (tmp_path / "train.hi").write_text("x")
    with pytest.raises(CorpusError, match=r"train\.src and train\.tgt.*it has train\.hi\. Re"):
        plain.pairs_of(tmp_path)
    for part, n in (("train", 40), ("val", 5)):
        for side in ("src", "tgt"):
            text = "".join(f"{part} {side} {i}\n" for i in range(n))
            (tmp_path / f"{part}.{side}").write_text(text)
        train, val = plain.pairs_of(tmp_path)
        assert (len(train), len(val)) == ((38, 2) if part == "train" else (40, 5))
    assert val[4] == ("val src 4", "val tgt 4")
    (tmp_path / "val.tgt").unlink()
    with pytest.raises(CorpusError, match=r"val\.tgt cannot be read"):
        plain.pairs_of(tmp_path)


def test_one_file_missing(two_files):
    german, english = two_files(b"Eins\n", b"One\n")
    english.unlink()
    with pytest.raises(CorpusError, match=r"own\.en cannot be read.*Check the name"):
        plain.read_parallel(german, english)


def test_the_longest_line_allowed(two_files):
    line = b"und " * plain.MAX_TOKENS
    assert len(plain.read_parallel(*two_files(line, b"and"))) == 1


# Both corpora behind one door


def test_pairs_of_multi30k(data: Path):
    assert corpora.pairs("multi30k", "val", data) == PAIRS


def test_pairs_of_captions():
    pairs = corpora.pairs("captions", "val")
    assert pairs and all(german and english for german, english in pairs)


def test_an_unknown_corpus_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown corpus 'wmt14'.*captions, multi30k"):
        corpora.pairs("wmt14", "train")


@pytest.mark.parametrize("available", [True, False])
def test_choose(available: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(multi30k, "available", lambda: available)
    assert corpora.choose() == ("multi30k" if available else "captions")


def test_statistics():
    statistics = corpora.statistics([("ein Hund", "a dog"), ("ein Hund bellt laut", "a dog barks")])
    assert statistics == corpora.Statistics(
        pairs=2, de=corpora.Side(6, 4, 3.0, 4), en=corpora.Side(5, 3, 2.5, 3)
    )
    with pytest.raises(ValueError, match="no pairs"):
        corpora.statistics([])


# The real files, and the course's own sentences beside them


@pytest.fixture(scope="module")
def real_pairs() -> list[tuple[str, str]]:
    directory = Path(COURSE_DATA or "")
    splits = ("train", "val", "test_2016_flickr")
    return [
        pair
        for split in splits
        for pair in plain.read_parallel(
            directory / f"{split}.de.gz", directory / f"{split}.en.gz"
        )
    ]


@real_corpus
@pytest.mark.parametrize(
    ("split", "lines"), [("train", 29_000), ("val", 1_014), ("test_2016_flickr", 1_000)]
)
def test_the_real_corpus(split: str, lines: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    pairs = multi30k.load(split)
    assert len(pairs) == lines
    if split == "train":
        assert sum("\u00a0" in german for german, _ in pairs) == 44


def probes() -> list[dict[str, str]]:
    with PROBES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def words(sentence: str) -> list[str]:
    return re.findall(r"\w+", sentence.lower())


def test_forty_probe_sentences():
    rows = probes()
    assert [row["id"] for row in rows] == [f"p{number:02d}" for number in range(1, 41)]
    assert all(row["de"] and row["en"] and row["probes"] for row in rows)
    assert len({row["de"] for row in rows}) == 40


@real_corpus
def test_no_probe_sentence_is_taken_from_multi30k(real_pairs: list[tuple[str, str]]):
    def runs(sentence: str) -> set[tuple[str, ...]]:
        """Every eight consecutive words; a shorter sentence whole."""
        tokens = words(sentence)
        return {tuple(tokens[i : i + 8]) for i in range(max(1, len(tokens) - 7))}

    for side, language in enumerate(("de", "en")):
        known = {run for pair in real_pairs for run in runs(pair[side])}
        assert [row["id"] for row in probes() if runs(row[language]) & known] == []
