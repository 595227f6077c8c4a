"""python tests/page/measure.py: how long the page takes, beside Python on the same sentences.

Needs Chromium and Playwright (`make .venv-book/installed`, then run it with that environment on the
path). Opens the file from the disk, as a reader does, and takes its time until the first
translation; then types sentence after sentence. In the same run Python translates the same ones,
greedily and one at a time, with its cache. Medians over rounds. Seconds on the clock grow with the
machine's load, which is told; the seconds of processor, all of Chromium's processes together, do
so much less (on Linux; elsewhere they are left out).
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from course import ASSETS

RESULT = ASSETS / "results" / "page_speed.json"
FIRST = "Die alte Frau gibt dem kleinen Mädchen einen roten Luftballon."  # ten words
TYPE = """(text) => new Promise((go) => {
  const root = document.documentElement, before = root.dataset.translated;
  const box = document.getElementById("text");
  const began = performance.now();
  new MutationObserver((_, watcher) => {
    if (root.dataset.translated === before) return;
    watcher.disconnect();
    requestAnimationFrame(() => go(performance.now() - began));
  }).observe(root, {attributes: true});
  box.value = text;
  box.dispatchEvent(new Event("input"));
})"""
SINCE_OPENING = """() => new Promise((go) => {
  const root = document.documentElement, look = () => root.dataset.translated
    ? requestAnimationFrame(() => go(performance.now())) : setTimeout(look, 5);
  look();
})"""


def processor_seconds() -> float:
    """Return the processor time of Chromium's processes that this one has started; 0 if unknown."""
    stats = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = file.read_text().rsplit(")", 1)
        except OSError:
            continue
        fields = rest.split()
        stats[int(file.parent.name)] = (int(fields[1]), name, int(fields[11]) + int(fields[12]))
    ours, total = {os.getpid()}, 0
    for _ in range(6):  # generations
        ours |= {pid for pid, (parent, _, _) in stats.items() if parent in ours}
    for pid in ours & stats.keys():
        total += stats[pid][2] if "chrom" in stats[pid][1] else 0
    return total / os.sysconf("SC_CLK_TCK") if stats else 0.0


def in_browser(page: Path, sentences: list[str], rounds: int) -> dict:
    """Return seconds until the first translation, and from typing to each further one."""
    from playwright.sync_api import sync_playwright

    first, further, cpu_first, cpu_further = [], [], [], []
    with sync_playwright() as playwright:
        for _ in range(rounds):
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            tab = browser.new_page()
            before = processor_seconds()
            tab.goto(page.as_uri() + "#b=1")
            first.append(tab.evaluate(SINCE_OPENING) / 1000)
            cpu_first.append(processor_seconds() - before)
            tab.wait_for_selector("html[data-done]")
            before = processor_seconds()
            further += [tab.evaluate(TYPE, sentence) / 1000 for sentence in sentences]
            cpu_further.append((processor_seconds() - before) / len(sentences))
            version = browser.version
            browser.close()
    return {"chromium": version, "first": first, "further": further,
            "processor, first": cpu_first, "processor, further": cpu_further}


def in_python(sentences: list[str], rounds: int) -> tuple[list[float], float]:
    """Return seconds for each sentence, greedily, one at a time; and those of processor, mean."""
    from course.cache import translate
    from course.runs import load_checkpoint

    model, bpe = load_checkpoint("multi30k-de-en")
    translate(model, bpe, sentences[:1])
    taken, cpu = [], time.process_time()
    for sentence in sentences * rounds:
        began = time.perf_counter()
        translate(model, bpe, [sentence])
        taken.append(time.perf_counter() - began)
    return taken, (time.process_time() - cpu) / len(taken)


def main() -> None:
    options = argparse.ArgumentParser(prog="tests/page/measure.py")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--sentences", type=int, default=8)
    options = options.parse_args()
    rounds = options.rounds
    from course.page import probes, write_page

    sentences = [probe for probe in probes() if 8 <= len(probe.split()) <= 12]
    sentences = sentences[: options.sentences]
    with TemporaryDirectory() as place:
        page = Path(place) / "translator.html"
        size = write_page("multi30k-de-en", page)
        load = os.getloadavg()[0]
        browser = in_browser(page, [FIRST, *sentences], rounds)
    python, python_cpu = in_python([FIRST, *sentences], rounds)
    import torch

    middle = {
        "first translation after opening, 10 words": statistics.median(browser["first"]),
        "each further one, from typing to shown": statistics.median(browser["further"]),
        "Python, greedy with cache, one at a time": statistics.median(python),
    }
    processor_time = {
        "first translation after opening, 10 words": statistics.median(browser["processor, first"]),
        "each further one, and all it draws": statistics.median(browser["processor, further"]),
        "Python, greedy with cache, one at a time": python_cpu,
    }
    RESULT.write_text(json.dumps({
        "command": " ".join(["python tests/page/measure.py", *sys.argv[1:]]),
        "seconds, median": {name: round(value, 3) for name, value in middle.items()},
        "seconds of processor": {name: round(value, 3) for name, value in processor_time.items()},
        "bytes of the page": size, "sentences": len(sentences) + 1, "rounds": rounds,
        "all": {"first": browser["first"], "further": browser["further"], "python": python},
        "typing waits 0.06 s for the next letter": True,
        "versions": {"chromium": browser["chromium"], "python": platform.python_version(),
                     "torch": torch.__version__, "threads of torch": torch.get_num_threads(),
                     "machine": processor(), "cores": os.cpu_count()},
        "load of the machine before": load, "load after": os.getloadavg()[0],
    }, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, value in middle.items():
        print(f"{value:7.3f} s  {name}")
    for name, value in processor_time.items():
        print(f"{value:7.3f} s of processor  {name}")
    print(f"{size / 1e6:.1f} MB; load {load:.1f}; {RESULT}")


def processor() -> str:
    """Return the name of this machine's processor."""
    try:
        found = subprocess.run(["lscpu"], capture_output=True, text=True).stdout.splitlines()
        return next(line.split(":")[1].strip() for line in found if "Model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
