"""Attention Is All You Need, built in notebooks that run."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
