"""Pictures: what stands for them where they are not seen."""

import altair as alt
import matplotlib.pyplot as plt

from course import viz


def test_a_figure_says_its_titles_and_axes_once():
    figure, axes = plt.subplots(1, 2)
    for part in axes:
        part.set_title("it grows", loc="left")
        part.set_xlabel("length")
    data, metadata = viz.finish(figure, "Twice\nas long")._repr_mimebundle_()
    assert data == {}
    assert metadata == {"image/png": {"alt": "Twice as long. it grows. x: length"}}
    assert viz.finish(figure, alt="short")._repr_mimebundle_()[1]["image/png"]["alt"] == "short"


def test_a_chart_says_its_titles(monkeypatch):
    shown = []
    monkeypatch.setattr(viz, "display", lambda *_, **options: shown.append(options["metadata"]))
    chart = alt.Chart(alt.Data(values=[{"a": 1}]), title=alt.Title(["A", "find"], subtitle="no"))
    chart = chart.mark_bar().encode(x=alt.X("a:Q", title="length"))
    viz.show(chart)
    viz.show(chart, alt="short")
    assert [m["image/png"]["alt"] for m in shown] == ["A find. length", "short"]
