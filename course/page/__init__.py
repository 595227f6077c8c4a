"""The translator in a page: a checkpoint and what runs it, in one HTML file that opens by itself.

The modules beside this file need no build step: served from the course's directory, index.html runs
as it is. `write_page` puts them, the style sheet and the weights into one file, which opens from a
disk, too, where a browser refuses to load modules and data.
"""

import base64
import csv
import json
import re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from course import ASSETS

HERE = Path(__file__).parent
LESSONS = "book/{}.html"
N_PROBES = 20
FILES = ("config.json", "tokenizer.json", "model.safetensors")
SEEN = "seen.safetensors"  # beside a checkpoint: what course/look.py counted
IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)
DEFINED = re.compile(
    r"^(?:async )?(?:const|let|class|function\*?) (?:\[([^\]]*)\]|(\w+))", re.MULTILINE
)


def modules_of(entry: str) -> list[str]:
    """Return the modules that a module needs, each behind what it imports, itself last."""
    found: list[str] = []
    for name in IMPORT.findall((HERE / entry).read_text("utf-8")):
        found += [module for module in modules_of(name) if module not in found]
    return [*found, entry]


def joined(entry: str) -> str:
    """Return a module and all that it needs as one script.

    Raises ValueError if two of them define the same name: in one script they would be one.
    """
    parts, names = [], Counter[str]()
    for module in modules_of(entry):
        source = IMPORT.sub("", (HERE / module).read_text("utf-8"))
        source = re.sub(r"^export ", "", source, flags=re.MULTILINE)
        for several, one in DEFINED.findall(source):
            names.update(re.findall(r"\w+", several or one))
        parts.append(f"// ---- {module}\n{source}")
    if twice := [name for name, n in names.items() if n > 1]:
        raise ValueError(f"{entry}: two of its modules define {', '.join(twice)}")
    return "\n".join(parts).replace("</", "<\\/")


def checkpoint_files(checkpoint: Path | str) -> dict[str, bytes]:
    """Return the files of a checkpoint, its weights as float16; of a shipped one its counts, too.

    Raises CheckpointError if it is none, ValueError if its model is no Transformer.
    """
    shipped = ASSETS / "checkpoints" / str(checkpoint)
    named = Path(checkpoint).name == str(checkpoint) and not Path(checkpoint).exists()
    if named and shipped.is_dir():  # in float16 as it is: where the book is made there is no torch
        return {name: (shipped / name).read_bytes() for name in (*FILES, SEEN)}
    import torch

    from course.runs import load_checkpoint, save_checkpoint
    from course.transformer import Transformer

    model, bpe = load_checkpoint(checkpoint)
    if not isinstance(model, Transformer):
        raise ValueError(
            f"{str(checkpoint)!r} holds a recurrent model ({type(model).__name__}), and the page "
            "runs Transformers alone: choose another one, for example multi30k-de-en"
        )
    with TemporaryDirectory() as place:
        save_checkpoint(Path(place), model, bpe, torch.float16)
        return {name: (Path(place) / name).read_bytes() for name in FILES}


def probes() -> list[str]:
    """Return the first of the course's own German sentences."""
    with (ASSETS / "probe_sentences.tsv").open(encoding="utf-8", newline="") as file:
        return [row["de"] for row in csv.DictReader(file, delimiter="\t")][:N_PROBES]


def as_script(content: str, **attributes: str) -> str:
    """Return an element that holds text which no browser runs."""
    named = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f'<script type="text/plain"{named}>{content}</script>\n'


def write_page(checkpoint: Path | str, out: Path, lessons: str | None = LESSONS,
               language: str = "en") -> int:
    """Write the page of a checkpoint as one self-contained file; return its size in bytes.

    lessons: where a link to a lesson leads, seen from `out`, like "book/{}.html". language: what
    the page speaks until its reader chooses another, "en" or "zh". Raises as `checkpoint_files`.
    """
    files = checkpoint_files(checkpoint)
    config, tokenizer = (json.loads(files[f"{name}.json"]) for name in ("config", "tokenizer"))
    data = {
        "config": config, "tokenizer": tokenizer,
        "seen": base64.b64encode(seen).decode() if (seen := files.get(SEEN)) else None,
        "probes": probes(), "lessons": lessons,
    }
    page = (HERE / "index.html").read_text("utf-8")
    page = page.replace('<html lang="en">', f'<html lang="{language}">')
    style = (HERE / "style.css").read_text("utf-8")
    page = page.replace('<link rel="stylesheet" href="style.css">', f"<style>\n{style}</style>")
    inside = as_script(json.dumps(data, ensure_ascii=False).replace("</", "<\\/"), id="page-data")
    inside += as_script(joined("worker.js"), id="worker-source")
    inside += as_script(base64.b64encode(files["model.safetensors"]).decode(), id="weights")
    script = f'<script type="module">\n{joined("main.js")}\n</script>'
    page = page.replace('<script type="module" src="main.js"></script>', inside + script)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out.stat().st_size
