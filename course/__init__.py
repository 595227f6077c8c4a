"""Attention Is All You Need, built in notebooks that run."""

import warnings
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"

# tqdm misses ipywidgets where it is imported by others; the course's bars are plain text
warnings.filterwarnings("ignore", message="IProgress not found")
