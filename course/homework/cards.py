"""The card of an exercise, as the notebooks show it: what, why, how hard, and three hints."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course.homework.checking import Exercise

# pieces of a line: a Chinese character or a Latin word, with the punctuation at it
HAN = r"\u3400-\u9fff"
WORD = rf"\s*[（“]*(?:[{HAN}]|[^\s{HAN}（“，。、：）”]+)[，。、：）”]*"


def card(exercise: "Exercise") -> str:
    """Return the card as markdown; its first line is the marker by which it is found again."""
    hints = "\n".join(
        f"<details><summary>Hint {number}</summary>\n\n{hint}\n\n</details>\n"
        for number, hint in enumerate(exercise.hints, 1)
    )
    points = "1 point" if exercise.difficulty == 1 else f"{exercise.difficulty} points"
    stars = "★" * exercise.difficulty + "☆" * (5 - exercise.difficulty)
    return f"""<!-- card: {exercise.name} -->
## `{exercise.name}`

{exercise.what}

*Why it matters.* {exercise.why}

{stars} · {exercise.minutes} minutes · {points}

```text
{wrapped(exercise.signature)}
```

{hints}""".rstrip()


def wrapped(signature: str) -> str:
    """Break a signature at its semicolons, and where it grows too long; in Chinese, too.

    A Chinese character is as wide as two others, and a line may end behind it.
    """
    lines = []
    for part in re.split("; |；", signature):
        line = ""
        for word in re.findall(WORD, part):
            if line and _width(line) + _width(word.strip()) >= 80:
                lines.append(line)
                line = "    "
            line += word if line.strip() else word.strip()
        lines.append(line)
    return "\n".join(lines)


def _width(line: str) -> int:
    return len(line) + len(re.findall(f"[{HAN}（，。、：）]", line))
