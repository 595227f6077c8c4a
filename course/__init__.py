"""Attention Is All You Need, built in notebooks that run."""

import os
import tempfile
import warnings
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"

# tqdm misses ipywidgets where it is imported by others; the course's bars are plain text
warnings.filterwarnings("ignore", message="IProgress not found")


def output_folder(named: Path | str | None = None) -> Path:
    """Return the folder that pages, reports and long runs are written into; it is there then.

    It is the one named, else COURSE_BUILD, else build/ of the course; where that is read-only, the
    user's data folder, or one among the temporary files. Raises OSError if none can be written.
    """
    from platformdirs import user_data_path  # here: `course doctor` speaks without any package

    wanted = named or os.environ.get("COURSE_BUILD")
    own = (user_data_path("attention-course") / "build",  # relative where there is no home
           Path(tempfile.gettempdir()) / "attention-course")
    others = (ASSETS.parent / "build", *(folder for folder in own if folder.is_absolute()))
    for folder in (Path(wanted),) if wanted else others:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            refused = error
    raise OSError(
        f"cannot write into {folder} ({refused}): name another folder, by --out or by COURSE_BUILD"
    )
