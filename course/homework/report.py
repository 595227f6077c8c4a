"""What a learner hands in: one page (HTML) and one picture (PNG) of all that is done."""

import html
import json
from datetime import datetime
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.font_manager import get_font_names

from course import output_folder, progress
from course.device import device_name, versions
from course.homework.exercises import LISTED
from course.homework.illnesses import patients
from course.homework.questions import QUESTIONS
from course.homework.reasons import questions
from course.messages import FONTS as CHINESE
from course.messages import language, say

# the first draws Latin letters, the others names and words in Chinese, where one is installed
FONTS = ("DejaVu Sans", *CHINESE)
GREEN, GREY = "#009E73", "#BBBBBB"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; width: 100% } td, th { padding: .3em .8em; text-align: left }
tr { border-bottom: 1px solid #ddd } .bar { background: #ddd; height: .8em; width: 12em }
.bar div { background: #009E73; height: 100% } .no { color: #595959 }
blockquote { border-left: 4px solid #009E73; margin-left: 0; padding-left: 1em;
white-space: pre-wrap }
"""


def summary() -> list[tuple[str, int, int, int, int]]:
    """Return (assignment, passed, exercises, points, of) for each assignment."""
    kept = progress.load()["exercises"]
    rows = []
    for name in dict.fromkeys(exercise.assignment for exercise in LISTED.values()):
        part = [exercise for exercise in LISTED.values() if exercise.assignment == name]
        passed = [exercise for exercise in part if kept.get(exercise.name, {}).get("passed")]
        points = (sum(exercise.difficulty for exercise in some) for some in (passed, part))
        rows.append((name, len(passed), len(part), *points))
    return rows


def runs() -> dict[str, dict]:
    """Return the figures of the walkthrough and of all evaluations that were kept."""
    kept = progress.load()["runs"]
    note = output_folder() / "walkthrough.json"
    if "walkthrough" not in kept and note.exists():  # run in JupyterLab, not by the command
        at = datetime.fromtimestamp(note.stat().st_mtime).isoformat(timespec="seconds")
        kept = {"walkthrough": {**json.loads(note.read_text("utf-8")), "at": at}, **kept}
    return kept


def write_report(folder: Path, name: str = "") -> tuple[Path, Path]:
    """Write report.html and report.png into a folder; return their paths.

    name: whose report it is. The page needs nothing else: no network, no other file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, picture = folder / "report.html", folder / "report.png"
    page.write_text(as_html(name), encoding="utf-8")
    installed = set(get_font_names())
    with plt.rc_context({"font.family": [font for font in FONTS if font in installed]}):
        as_figure(name).savefig(picture, dpi=120)
    return page, picture


def about() -> str:
    """Return processor, versions and date in a line; which device a run had stands in its line."""
    found = versions()
    return (f"{device_name('cpu')}, Python {found['python']}, torch {found['torch']}, "
            f"{datetime.now():%Y-%m-%d %H:%M}")


def heads(*names: str) -> str:
    """Return the first row of a table."""
    return "<tr>" + "".join(f"<th>{say(name)}</th>" for name in names) + "</tr>"


def drawn(words: str) -> str:
    """Return words in a picture in the reader's language, if a font has its characters."""
    return say(words) if set(FONTS[1:]) & set(get_font_names()) else words


def as_html(name: str) -> str:
    """Return the whole page."""
    kept = progress.load()
    rows = summary()
    assignments = "".join(
        f"<tr><td>{title}</td><td>{passed} / {n}</td><td>{points} / {of}</td>"
        f'<td><div class="bar"><div style="width:{100 * passed / n:.0f}%"></div></div></td></tr>'
        for title, passed, n, points, of in rows
    )
    exercises = "".join(_exercise_row(e, kept["exercises"].get(e.name, {}))
                        for e in LISTED.values())
    answers = "".join(
        f"<h3>{number}. {html.escape(say(question))}</h3>"
        + (f"<blockquote>{html.escape(kept['answers'][str(number)]['text'].strip())}</blockquote>"
           if str(number) in kept["answers"] else f'<p class="no">{say("not answered yet")}</p>')
        for number, question in QUESTIONS.items()
    )
    reasons = "".join(
        f"<tr><td>{html.escape(say(topic))}</td><td>{passed} / {n}</td><td>{tries or ''}</td></tr>"
        for topic, passed, n, tries in reason_lines()
    )
    guesses = "".join(
        f"<tr><td>{html.escape(say(title))}</td><td>{mine}</td><td>{truth}</td></tr>"
        for title, mine, truth in guess_lines()
    )
    if guesses:
        guesses = f"<table>{heads('what was asked', 'guessed', 'measured')}{guesses}</table>"
    own, none = kept["learner"], f'<p class="no">{say("none yet")}</p>'
    sentence = (f"<p><span lang=\"de\">{html.escape(own['sentence'])}</span><br>"
                f"{html.escape(own['translation'])}</p>"
                if "sentence" in own else none)
    figures = "".join(f"<tr><td>{html.escape(title)}</td><td>{html.escape(line)}</td></tr>"
                      for title, line in run_lines())
    title = say(f"Attention Is All You Need: report, by {name}" if name else
                "Attention Is All You Need: report")

    return f"""<!doctype html>
<html lang="{"zh" if language() else "en"}"><head><meta charset="utf-8">
<title>{html.escape(title)}</title><style>{STYLE}</style></head>
<body><h1>{html.escape(title)}</h1><p>{html.escape(about())}</p>
<h2>{say("Assignments")}</h2>
<table>{heads("assignment", "exercises", "points", "")}{assignments}</table>
<h2>{say("Exercises")}</h2>
<table>{heads("exercise", "passed", "hash of the code", "checks")}{exercises}</table>
<h2>{say("Reasons")}</h2>
<table>{heads("topic", "answered rightly", "answers given")}{reasons}</table>
<h2>{say("Patients")}</h2>
<p>{say(patient_line())}</p>
<h2>{say("Own sentence")}</h2>
{sentence}
<h2>{say("Guesses")}</h2>
{guesses or none}
<h2>{say("Walkthrough and experiments")}</h2>
{f"<table>{figures}</table>" if figures else none}
<h2>{say("The six questions")}</h2>{answers}
</body></html>
"""


def _exercise_row(exercise, kept: dict) -> str:
    passed = kept.get("passed")
    when = passed[:10] if passed else f'<span class="no">{say("not yet")}</span>'
    code = f"<code>{html.escape(kept.get('code', ''))}</code>"
    cells = (f"<code>{exercise.name}</code>", when, code, str(kept.get("checks", 0)))
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def reason_lines() -> list[tuple[str, int, int, int]]:
    """Return (topic, answered rightly, questions, answers given) for each topic of the reasons."""
    kept, topics = progress.load()["exercises"], questions()
    lines = []
    for topic in dict.fromkeys(topics.values()):
        part = [kept.get(name, {}) for name, its_topic in topics.items() if its_topic == topic]
        passed = sum("passed" in entry for entry in part)
        lines.append((topic, passed, len(part), sum(entry.get("checks", 0) for entry in part)))
    return lines


def patient_line() -> str:
    """Return which of the clinic's patients have their diagnosis, in a line."""
    kept = progress.load()["exercises"]
    healed = [name for name in patients() if "passed" in kept.get(name, {})]
    tries = sum(kept.get(name, {}).get("checks", 0) for name in patients())
    names = f": {', '.join(name.removeprefix('patient_') for name in healed)}" if healed else ""
    return f"{len(healed)} of {len(patients())} diagnosed{names} ({tries} diagnoses given)"


def numeric_guesses() -> list[tuple[float, float]]:
    """Return (guess, truth) of each guess in which both are numbers above 0."""
    pairs = [(entry["guess"], entry["truth"]) for entry in progress.load()["guesses"].values()]
    return [(mine, truth) for mine, truth in pairs
            if isinstance(mine, float | int) and isinstance(truth, float | int)
            and mine > 0 and truth > 0]


def guess_lines() -> list[tuple[str, str, str]]:
    """Return (what, guess, truth) for each guess that was kept, in the order of guessing."""
    kept = sorted(progress.load()["guesses"].items(), key=lambda item: item[1]["at"])

    def shown(value: object) -> str:
        return html.escape(f"{value:.3g}" if isinstance(value, float) else str(value))

    return [(name, shown(entry["guess"]), shown(entry["truth"])) for name, entry in kept]


def run_lines() -> list[tuple[str, str]]:
    """Return (name, figures in a line) for each run."""
    lines = []
    for title, run in runs().items():
        bleu = f"BLEU {run['bleu']:.2f} on {run['corpus']} {run['split']}"
        parts = [bleu, f"{run['sentences']:,} sentences", against(run), run.get("device", ""),
                 run["at"][:10]]
        lines.append((title, ", ".join(filter(None, parts))))
    return lines


def against(run: dict) -> str:
    """Return how a run compares with another checkpoint, if it was compared."""
    if "against" not in run:
        return ""
    found = run["against"]["BLEU"]
    return (f"{found['difference']:+.2f} against {run['against']['checkpoint']} "
            f"(p = {found['p_value']:.3f}, {found['verdict']})")


def as_figure(name: str = "") -> plt.Figure:
    """Draw the report as one picture: a bar for each part, the guesses, the figures below."""
    rows, lines, kept = summary(), run_lines(), progress.load()
    bars = [(title, passed, n, drawn(f"{passed}/{n} exercises, {points}/{of} points"))
            for title, passed, n, points, of in rows]
    for title, names in (("reasons", questions()), ("patients", patients())):
        passed = sum("passed" in kept["exercises"].get(each, {}) for each in names)
        bars.append((drawn(title), passed, len(names), f"{passed}/{len(names)}"))
    figure, (axis, guesses) = plt.subplots(1, 2, figsize=(10.5, 5 + 0.25 * len(lines)),
                                           width_ratios=(2, 1))
    places = range(len(bars))
    axis.barh(places, [1] * len(bars), color=GREY, height=0.6)
    axis.barh(places, [passed / n for _, passed, n, _ in bars], color=GREEN, height=0.6)
    for place, (*_, label) in enumerate(bars):
        axis.text(1.02, place, label, va="center")
    axis.set(yticks=list(places), yticklabels=[bar[0] for bar in bars], xlim=(0, 1.75), xticks=[])
    axis.invert_yaxis()
    axis.spines[:].set_visible(False)
    done, total = sum(row[3] for row in rows), sum(row[4] for row in rows)
    score = drawn(f"{done} of {total} points, {len(kept['answers'])} of 6 questions")
    axis.set_title(f"{name + ': ' if name else ''}{score}", loc="left")
    _draw_guesses(guesses, len(kept["guesses"]))
    own = kept["learner"]
    text = [f"{title}: {line}" for title, line in lines] + [about()]
    if "sentence" in own:
        text.insert(0, drawn(f"own sentence: {own['sentence']} → {own['translation']}"))
    figure.text(0.02, 0.02, "\n".join(line[:150] for line in text), fontsize=8, va="bottom")
    figure.subplots_adjust(left=0.11, right=0.98, top=0.92, bottom=0.12 + 0.04 * len(text))
    plt.close(figure)
    return figure


def _draw_guesses(axis: plt.Axes, n: int) -> None:
    """Draw the guesses over what was measured; on the line they are right."""
    pairs = numeric_guesses()
    near = sum(1 / 2 <= mine / truth <= 2 for mine, truth in pairs)
    title = [drawn(f"{n} guesses")]
    if pairs:
        title.append(drawn(f"{near} of {len(pairs)} numbers within a factor of 2"))
    axis.set_title("\n".join(title), loc="left", fontsize=10)
    if not pairs:
        axis.axis("off")
        return
    ends = min(map(min, pairs)) / 2, max(map(max, pairs)) * 2
    axis.loglog(ends, ends, color=GREY, lw=1)
    axis.loglog([truth for _, truth in pairs], [mine for mine, _ in pairs], "o", ls="", color=GREEN)
    axis.set(xlabel=drawn("measured"), ylabel=drawn("guessed"), xlim=ends, ylim=ends)
    axis.spines[["top", "right"]].set_visible(False)
