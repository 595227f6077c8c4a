"""python -m course.authoring.book: every stored notebook as a page, in English and in Chinese."""

import argparse
import os
import sys
from pathlib import Path

from course.authoring import ROOT
from course.authoring.book.making import EDITIONS, build


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course.authoring.book", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "book")
    jobs = max(1, (os.cpu_count() or 1) // len(EDITIONS))
    parser.add_argument("--jobs", type=int, default=jobs, help="how many processes an edition")
    options = parser.parse_args(arguments)
    status = build(options.out, options.jobs)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out / 'index.html'} ({size / 1e6:.1f} MB): open it in any browser")
    print(f"{options.out / 'zh' / 'index.html'}: the same in Chinese")
    return status


if __name__ == "__main__":
    sys.exit(main())
