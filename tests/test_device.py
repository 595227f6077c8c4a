"""The device and the sizes that fit it; charts that are shown live and as a picture."""

import subprocess
import sys

import altair as alt
import pytest
import torch

from course import device
from course.device import SCALES, by_scale, pick, scale
from course.viz import show


@pytest.mark.parametrize(
    "cuda, mps, kind", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_fastest_device_is_picked(cuda, mps, kind, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick() == torch.device(kind)
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert pick() == torch.device("cpu")


@pytest.mark.parametrize(
    "name, kind, answer",
    [("smoke", "cuda", "smoke"), ("gpu", "cpu", "gpu"), ("auto", "cpu", "cpu"),
     ("auto", "mps", "gpu"), (None, "cuda", "gpu"), (None, "cpu", "cpu")],
)
def test_the_scale_is_named_or_follows_the_device(name, kind, answer, monkeypatch):
    monkeypatch.setattr(device, "pick", lambda: torch.device(kind))
    monkeypatch.delenv("COURSE_SCALE", raising=False)
    if name:
        monkeypatch.setenv("COURSE_SCALE", name)
    assert scale() == answer


def test_an_unknown_scale_lists_the_known_ones(monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "huge")
    with pytest.raises(ValueError, match="'huge' is unknown: choose smoke, cpu, gpu or auto"):
        scale()


def test_a_size_follows_the_scale(monkeypatch):
    for column, name in enumerate(SCALES):
        monkeypatch.setenv("COURSE_SCALE", name)
        assert by_scale(smoke=0, cpu=1, gpu=2) == column


def test_a_chart_is_shown_live_and_as_a_picture(monkeypatch):
    shown = []
    monkeypatch.setattr("course.viz.display", lambda *a, **k: shown.append((a, k)))
    show(alt.Chart(alt.Data(values=[{"x": 1, "y": 2}])).mark_point().encode(x="x:Q", y="y:Q"),
         alt="one point")
    [((bundle,), how)] = shown
    assert how == {"raw": True, "metadata": {"image/png": {"alt": "one point"}}}
    assert bundle["application/vnd.vegalite.v5+json"]["mark"]["type"] == "point"
    assert bundle["image/png"].startswith(b"\x89PNG") and "picture" in bundle["text/plain"]


def test_the_instruction_sets_are_the_processors(monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f\nmodel name\t: Some CPU\n")
    monkeypatch.setattr(device, "CPUINFO", info)
    assert device.instruction_sets() == ["avx2", "avx512f"]
    assert device.device_name("cpu") == "Some CPU"
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "nothing")
    assert device.instruction_sets() == []


def test_who_asks_for_versions_alone_does_not_wait_for_torch():
    code = ("import sys; from course.device import device_name, versions; versions(); "
            "device_name('cpu'); assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
