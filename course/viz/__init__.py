"""Charts that take numbers and return figures; the style that all of them share."""

import altair as alt
import matplotlib.pyplot as plt
import vl_convert
from IPython.display import display
from matplotlib.figure import Figure

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


def finish(figure: Figure, title: str = "") -> Figure:
    """Set the finding above the whole figure, lay it out, and let a notebook show it once.

    What pyplot still holds would be drawn a second time, after the value of the cell.
    """
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    plt.close(figure)
    return figure


def show(chart: alt.TopLevelMixin) -> None:
    """Display an Altair chart, and a picture of it for viewers that run no script."""
    spec = chart.to_dict()
    picture = vl_convert.vegalite_to_png(spec, vl_version="5.20", scale=1.5)
    bundle = {"application/vnd.vegalite.v5+json": spec, "image/png": picture}
    bundle["text/plain"] = "An interactive chart; its first view is the picture beside it."
    display(bundle, raw=True)
