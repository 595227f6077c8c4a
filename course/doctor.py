"""Says in a few seconds whether this machine can run the course, and what to mend where not."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path

from course.messages import say

REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"
INSTALL = "Run: python -m pip install -r requirements.txt"


@dataclass(frozen=True)
class Finding:
    """One line of the report: mark is OK, NOTE (the course runs without it) or FAIL."""

    mark: str
    subject: str
    detail: str


def doctor() -> bool:
    """Check what the course needs, and print one line for each thing, with the mend.

    Returns False if anything needed fails; a NOTE is not a failure. Takes a few seconds, offline
    too.
    """
    healthy = True
    for finding in _findings():
        healthy &= finding.mark != "FAIL"
        print(f"{finding.mark:4}  {say(finding.subject)}: {say(finding.detail)}", flush=True)
    print(say("Ready." if healthy else
              "Not ready: mend what says FAIL, from the top, and run again."))
    return healthy


def _findings() -> Iterator[Finding]:
    yield _check("Python", _python, "Install Python 3.11, 3.12 or 3.13.")
    yield from _packages()
    yield _check("device", _device, INSTALL)
    yield _check("spaCy", _tokenise, INSTALL)
    yield _check("captions", _captions, "Fetch the course again: its own corpus is broken.")
    yield _multi30k()


def _check(subject: str, run: Callable[[], str], mend: str) -> Finding:
    try:
        return Finding("OK", subject, run())
    except Exception as error:  # whatever ails the machine becomes a line of the report
        return Finding("FAIL", subject, f"{type(error).__name__}: {error}. {mend}")


def _python() -> str:
    version = sys.version.split()[0]
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise RuntimeError(f"{version} is not among the versions that the course is tested with")
    return version


def _packages() -> Iterator[Finding]:
    if not REQUIREMENTS.exists():
        yield Finding("NOTE", "packages", "requirements.txt is not here: versions not compared.")
        return
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        requirement = line.partition("#")[0].strip()
        if requirement and not requirement.startswith("-"):
            yield _package(requirement)


def _package(requirement: str) -> Finding:
    try:
        from packaging.requirements import Requirement

        pin = Requirement(requirement)
    except ImportError as error:
        return Finding("FAIL", requirement, f"{error}. {INSTALL}")
    modules = {"vl-convert-python": "vl_convert", "pytest-xdist": "xdist",
               "markdown-it-py": "markdown_it"}
    module = modules.get(pin.name, pin.name.replace("-", "_"))
    try:
        import_module(module)
        version = metadata.version(pin.name)
    except Exception as error:  # a broken package may raise anything when imported
        return Finding("FAIL", pin.name, f"{type(error).__name__}: {error}. {INSTALL}")
    if not pin.specifier.contains(version, prereleases=True):
        tested = f"{version}, but the course is tested with {pin.specifier}. {INSTALL}"
        return Finding("NOTE", pin.name, tested)
    return Finding("OK", pin.name, version)


def _device() -> str:
    import torch

    from course.device import device_name, pick

    device = pick()
    torch.ones(1, device=device).sum().item()
    return f"{device.type}, {device_name(device)}"


def _tokenise() -> str:
    import spacy

    sentences = {"de": "Ein Hund bellt.", "en": "A dog barks."}
    for language, sentence in sentences.items():
        tokens = [token.text for token in spacy.blank(language)(sentence)]
        if len(tokens) != 4:
            raise RuntimeError(f"{sentence!r} became {tokens}, not four tokens")
    return "tokenises German and English"


def _captions() -> str:
    from course.corpora import pairs

    return f"{len(pairs('captions', 'test')):,} test sentences generated"


def _multi30k() -> Finding:
    try:
        from course.corpora import CorpusError, multi30k
    except ImportError as error:
        return Finding("FAIL", "multi30k", f"{error}. {INSTALL}")
    try:
        if multi30k.found():
            return Finding("OK", "multi30k", "found and verified")
        if multi30k.available():
            return Finding("OK", "multi30k", "not here yet, can be downloaded when it is needed")
    except CorpusError as error:
        return Finding("NOTE", "multi30k", f"{error} The lessons go on with captions.")
    return Finding(
        "NOTE",
        "multi30k",
        "not here, and cannot be downloaded now: the lessons go on with captions. To have it, go "
        f"online, or fetch train, val and test_2016_flickr (.de.gz and .en.gz each) from "
        f"{multi30k.BASE_URL} into a directory and set COURSE_DATA to it.",
    )
