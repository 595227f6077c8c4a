"""Multi30k, German and English: found or downloaded, verified, read.

Elliott, Frank, Sima'an and Specia (2016), "Multi30K: Multilingual English-German Image
Descriptions", W16-3210. For researchers and educators, non-commercial research and education.
"""

import os
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import pooch

from course.corpora import CorpusError
from course.corpora.plain import read_parallel

BASE_URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"
SPLITS = (
    "train",
    "val",
    "test_2016_flickr",
    "test_2017_flickr",
    "test_2017_mscoco",
    "test_2018_flickr",
)
SHA256 = {
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2017_flickr.de.gz": "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
    "test_2017_flickr.en.gz": "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
    "test_2017_mscoco.de.gz": "799e4854c25d601cb6cb6be29eabe5667734c61ace2f495e03e429031a0bc338",
    "test_2017_mscoco.en.gz": "aab300bfb4427697987e02cd0aacd44bfe8aa50456231b6474c08038bbed2b58",
    "test_2018_flickr.de.gz": "ddd0130c7d97482dc5197a02141dae8dd79f20f03586c480d675c09a32daf608",
    "test_2018_flickr.en.gz": "ef4f4844037d4c5dea75c9a8ed5fd78905967a26f67c255e230cc9780032654d",
}
TIMEOUT_S = 5.0


def load(split: str, directory: Path | None = None) -> list[tuple[str, str]]:
    """Read one split, from `directory` (or COURSE_DATA), else the cache, else a download.

    Returns (German, English) pairs in the file's order, without the newline and else unchanged.
    Raises ValueError for an unknown split, CorpusError where a file cannot be had or is damaged.
    """
    german, english = (_obtain(name, directory) for name in _files(split))
    return read_parallel(german, english)


def available(split: str = "train") -> bool:
    """Say quietly, within seconds, whether `load` would find or could download a split.

    Returns False rather than raising; asks no network where COURSE_OFFLINE=1. Raises ValueError
    for an unknown split.
    """
    names = _files(split)
    try:
        return all(_find(name, None)[0] or not _obstacle(BASE_URL + name) for name in names)
    except CorpusError:
        return False


def found(split: str = "train") -> bool:
    """Say whether a split lies, undamaged, in COURSE_DATA or in the cache; asks no network.

    Returns False where a file is missing. Raises CorpusError where COURSE_DATA names no directory
    or a damaged file, ValueError for an unknown split.
    """
    return all(_find(name, None)[0] for name in _files(split))


def cache() -> Path:
    """Return the directory in which downloaded files are kept."""
    return Path(pooch.os_cache("attention-course")) / "multi30k"


def _files(split: str) -> tuple[str, str]:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    return f"{split}.de.gz", f"{split}.en.gz"


def _named(directory: Path | None) -> Path | None:
    """The directory that the reader names, if any."""
    name = directory or os.environ.get("COURSE_DATA")
    if not name:
        return None
    path = Path(name).expanduser()
    if not path.is_dir():
        origin = "the argument directory" if directory else "COURSE_DATA"
        raise CorpusError(
            f"{path}, named by {origin}, is not a directory. Correct {origin}, or leave it out: "
            "the files then come from the cache or a download."
        )
    return path


def _find(name: str, directory: Path | None) -> tuple[Path | None, list[str]]:
    """The verified local file, if there is one, and why each place before it does not serve."""
    tried = []
    named = _named(directory)
    for place in filter(None, (named, cache())):
        path = place / name
        if not path.exists():
            tried.append(f"{place}: {name} is not there")
            continue
        try:
            _verify(path)
            return path, tried
        except CorpusError as error:
            if place == named:
                raise
            tried.append(str(error))
    return None, tried


def _verify(path: Path) -> None:
    try:
        actual = pooch.file_hash(str(path))
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}). Fetch it again.") from error
    if actual != SHA256[path.name]:
        raise CorpusError(
            f"{path} is damaged or another version: its sha256 is {actual}, not "
            f"{SHA256[path.name]}. Delete it, and fetch it again, still gzipped, from "
            f"{BASE_URL}{path.name}"
        )


def _obtain(name: str, directory: Path | None) -> Path:
    path, tried = _find(name, directory)
    if path:
        return path
    url = BASE_URL + name
    obstacle = _obstacle(url) or _download(url, name)
    if not obstacle:
        return cache() / name
    tried.append(f"{url}: {obstacle}")
    places = "\n".join(f"  {number}. {place}" for number, place in enumerate(tried, start=1))
    german, english = _files(name.removesuffix(".gz").rpartition(".")[0])
    raise CorpusError(
        f"Multi30k: {name} cannot be had. Tried, in this order:\n{places}\n"
        f"What to do: go online and run this again. Or fetch {german} and {english} by hand from\n"
        f"{BASE_URL}\ninto one directory, still gzipped, and set COURSE_DATA to that directory.\n"
        'Or go on with the corpus "captions", which works offline.'
    )


def _download(url: str, name: str) -> str:
    """Fetch a file into the cache, whole and verified or not at all; return what went wrong."""
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(
            url,
            known_hash=f"sha256:{SHA256[name]}",
            fname=name,
            path=cache(),
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT_S),
        )
    except (OSError, ValueError) as error:
        return f"the download failed ({error})"
    return ""


def _obstacle(url: str) -> str:
    """Say within TIMEOUT_S why a file cannot be downloaded, "" where it can.

    In a thread, since no time-out of the socket bounds a name server that does not answer.
    """
    if os.environ.get("COURSE_OFFLINE", "0") not in ("", "0"):
        return "not tried, because COURSE_OFFLINE is set"
    answer: SimpleQueue[str] = SimpleQueue()
    Thread(target=lambda: answer.put(_ask(url)), daemon=True).start()
    try:
        return answer.get(timeout=TIMEOUT_S)
    except Empty:
        return f"no answer within {TIMEOUT_S:g} s"


def _ask(url: str) -> str:
    try:
        exists = pooch.HTTPDownloader(timeout=TIMEOUT_S)(url, None, None, check_only=True)
    except OSError as error:
        return f"cannot be reached ({type(error).__name__})"
    return "" if exists else "the server answers, but does not offer this file"
