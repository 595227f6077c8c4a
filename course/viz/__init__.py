"""Charts that take numbers and return figures; the style that all of them share."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import altair as alt
import matplotlib.pyplot as plt
import vl_convert
from IPython.display import clear_output, display
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from tqdm import tqdm

from course.messages import FONTS, language, say_in_picture

# Okabe and Ito 2008: told apart by colour-blind readers
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
# colour, line and marker of the series of one picture, in this order
STYLES = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, "-.", "^"), (RED, ":", "D"),
          (GREY, (0, (3, 1, 1, 1)), "v"))

plt.rcParams.update(
    {
        "axes.prop_cycle": plt.cycler(
            color=[colour for colour, _, _ in STYLES], linestyle=[line for _, line, _ in STYLES]
        ),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "figure.dpi": 100,
        "figure.facecolor": "white",
        "figure.figsize": (6, 3.5),
        "legend.frameon": False,
        "savefig.bbox": "tight",
    }
)


SEPARATOR = "\x1f"  # ASCII's "unit separator": no sign that a word is written with


def visible(text: str) -> str:
    """Return a text without control characters, of which one is the separator."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def plain(text: str) -> str:
    """Return a word as matplotlib shows it letter by letter: a `$` in it begins no TeX."""
    return visible(text).replace("$", r"\$")


def bar(things: Iterable, unit: str) -> Iterator:
    """Yield things beside a bar of how many are done; with it goes what the cell has shown so far.

    (tqdm's own `leave=False` leaves a stripe of red in a notebook.)
    """
    try:
        yield from tqdm(things, unit=unit, leave=False)
    finally:
        clear_output()


def finish(figure: Figure, title: str = "", alt: str = "") -> Figure:
    """Set the finding above the whole figure, lay it out, and let a notebook show it once.

    alt: what stands for the picture where it is not seen; its titles and axes, if not given. What
    pyplot still holds would be drawn a second time, after the value of the cell.
    """
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    alt = translate(figure, alt or in_words(figure))
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    plt.close(figure)
    seen = {"image/png": {"alt": alt}}
    figure._repr_mimebundle_ = lambda **_: ({}, seen)  # IPython adds the picture
    return figure


@cache
def chinese_font() -> str | None:
    """Return the first installed font with Chinese characters, None where there is none."""
    for path in map(Path, font_manager.findSystemFonts()):  # matplotlib's list may be older
        if any(name.replace(" ", "").lower() in path.stem.lower()
               for name in ("Noto Sans CJK", "WenQuanYi", *FONTS)):
            font_manager.fontManager.addfont(path)
    known = font_manager.get_font_names()
    return next((name for name in FONTS if name in known), None)


def translate(figure: Figure, alt: str) -> str:
    """Say what a figure says in the reader's language, if a font can draw it; return its alt so."""
    font = chinese_font() if language() else None
    if font is None:
        return alt
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        if (said := [*map(say_in_picture, labels)]) != labels:
            family = [font, *plt.rcParams["font.family"]]
            axis.set_ticks(axis.get_ticklocs(), said, fontfamily=family)
    for text in figure.findobj(Text):
        if (said := say_in_picture(text.get_text())) != text.get_text():
            text.set(text=said, fontfamily=[font, *text.get_fontfamily()])
    return say_in_picture(alt)


def in_words(figure: Figure) -> str:
    """Return what a figure says in text: its titles, which state findings, and its axes."""
    titles = [figure.get_suptitle(), *(axes.get_title(loc) for axes in figure.axes
                                       for loc in ("left", "center", "right"))]
    axes = [f"{name}: {label}" for axes in figure.axes
            for name, label in (("x", axes.get_xlabel()), ("y", axes.get_ylabel())) if label]
    return " ".join(". ".join(dict.fromkeys(filter(None, [*titles, *axes]))).split())


def titles_of(spec: object) -> list[str]:
    """Return the titles of a Vega-Lite chart and of its parts, the outermost first."""
    if isinstance(spec, list):
        return [title for part in spec for title in titles_of(part)]
    if not isinstance(spec, dict):
        return []
    title = spec.get("title")
    title = title.get("text") if isinstance(title, dict) else title
    title = " ".join(title) if isinstance(title, list) else title
    own = [title] if isinstance(title, str) else []
    return own + [found for key, part in spec.items() if key not in ("title", "datasets", "data")
                  for found in titles_of(part)]


def spoken(spec: object, key: str = "") -> object:
    """Return a Vega-Lite chart that says its titles, and the names of its menus, as a reader does.

    A word alone may be a field of the data, so it is said in a title only.
    """
    if isinstance(spec, dict):
        return {name: spoken(part, name) for name, part in spec.items()}
    if isinstance(spec, list):
        return [spoken(part, key) for part in spec]
    words = isinstance(spec, str) and (" " in spec or key == "title")
    return say_in_picture(spec) if words else spec


def show(chart: alt.TopLevelMixin, alt: str = "") -> None:
    """Display an Altair chart, and a picture of it for viewers that run no script.

    alt: what stands for the picture where it is not seen; the chart's titles, if not given.
    """
    spec = chart.to_dict()
    words = alt or ". ".join(dict.fromkeys(titles_of(spec)))
    if language() and (font := chinese_font()):
        spec, words = spoken(spec), say_in_picture(words)
        spec["config"] = {**spec.get("config", {}), "font": font}
    picture = vl_convert.vegalite_to_png(spec, vl_version="5.20", scale=1.5)
    bundle = {"application/vnd.vegalite.v5+json": spec, "image/png": picture}
    bundle["text/plain"] = "An interactive chart; its first view is the picture beside it."
    display(bundle, raw=True, metadata={"image/png": {"alt": words}})
