"""Charts that take numbers and return figures; the style that all of them share."""

import altair as alt
import matplotlib.pyplot as plt
import vl_convert
from IPython.display import display

# Okabe and Ito 2008: told apart by colour-blind readers
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"

plt.rcParams.update(
    {
        "axes.prop_cycle": plt.cycler(
            color=[BLUE, ORANGE, GREEN, RED, GREY],
            linestyle=["-", "--", "-.", ":", (0, (3, 1, 1, 1))],
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


def show(chart: alt.TopLevelMixin) -> None:
    """Display an Altair chart, and a picture of it for viewers that run no script."""
    spec = chart.to_dict()
    picture = vl_convert.vegalite_to_png(spec, vl_version="5.20", scale=1.5)
    bundle = {"application/vnd.vegalite.v5+json": spec, "image/png": picture}
    bundle["text/plain"] = "An interactive chart; its first view is the picture beside it."
    display(bundle, raw=True)
