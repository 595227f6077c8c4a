"""What an exercise is made of: its definition, and those that it uses, and no other line.

A page that is handed in holds code that nobody has read. For a mark only definitions count; so
only they are run, and only those that the exercise needs: imports, functions, classes and named
values. A line that changes a module (course.homework.check = ...) is none of them.
"""

import ast
from collections.abc import Iterable


def root(node: ast.expr) -> str:
    """Return the name that x, x.y or x[0].y begins with; "" if it begins with none."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def bound(statement: ast.stmt) -> set[str]:
    """Return the names that a statement defines, or whose attributes it sets."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign):
        found = {name for target in statement.targets for part in ast.walk(target)
                 if isinstance(part, ast.expr) and (name := root(part))}
        return found
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return {root(statement.target)}
    return set()


def used(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def definitions(cells: Iterable[str], name: str) -> list[ast.stmt]:
    """Return the statements that define `name` and what it uses, in the page's order.

    cells: code without magics. One that is no Python is left out. An imported module's attributes
    are not set: `x.y = ...` counts only where x is defined here. A name that is defined twice has
    its last definition, as after "Run All".
    """
    statements: list[ast.stmt] = []
    for number, cell in enumerate(cells, 1):
        try:
            body = ast.parse(cell).body
        except (SyntaxError, ValueError):
            continue
        for statement in body:
            statement.cell = number  # for messages
        statements += body
    imported = {name for s in statements if isinstance(s, ast.Import | ast.ImportFrom)
                for name in bound(s)}
    own = [s for s in statements if not (_sets_attribute(s) and bound(s) & imported)]
    wanted, chosen = {name}, set()
    while True:
        more = {number for number, s in enumerate(own) if bound(s) & wanted} - chosen
        if not more:
            break
        chosen |= more
        wanted |= {word for number in more for word in used(own[number])}
    return [own[number] for number in sorted(chosen)]


def said_of(cells: Iterable[str], name: str) -> list[object]:
    """Return the different texts that a page gives a name, in order, without running anything.

    What is no text in quotes comes as ..., None and the empty text not at all.
    """
    found: list[object] = []
    for cell in cells:
        try:
            body = ast.parse(cell).body
        except (SyntaxError, ValueError):
            continue
        for statement in body:
            if name in bound(statement):
                value = getattr(statement, "value", None)
                text = value.value if isinstance(value, ast.Constant) else ...
                text = text.strip() if isinstance(text, str) else text
                found = [other for other in found if other != text]
                found += [text] if text not in (None, "") else []
    return found


def _sets_attribute(statement: ast.stmt) -> bool:
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return any(isinstance(target, ast.Attribute | ast.Subscript) for target in targets)
