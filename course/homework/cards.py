"""The card of an exercise, as the notebooks show it: what, why, how hard, and three hints."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course.homework.checking import Exercise


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
    """Break a signature at its semicolons and arrows, and where it grows too long."""
    lines = []
    for part in signature.split("; "):
        line = ""
        for word in part.split():
            if line and len(line) + len(word) >= 96:
                lines.append(line)
                line = "    "
            line += word if not line.strip() else f" {word}"
        lines.append(line)
    return "\n".join(lines)
