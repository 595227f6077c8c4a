"""Pages: a notebook run from top to bottom, and as one HTML file that needs no network."""

import json
import os
import re
from pathlib import Path

import jupytext
import nbformat
import vl_convert
from latex2mathml.converter import convert as to_mathml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from tqdm import tqdm

VEGA_LITE = "application/vnd.vegalite.v5+json"
# what JupyterLab and jupytext store with a page: one that is opened and saved stays the same file
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3}, "file_extension": ".py",
    "mimetype": "text/x-python", "name": "python", "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3", "version": "3.11.7",
}


class NotebookError(RuntimeError):
    """A notebook stopped; the message shows the cell and what it raised."""


def execute(source: Path, target: Path, progress: bool = False) -> nbformat.NotebookNode:
    """Run a py:percent notebook from top to bottom and write it with its outputs.

    progress: show a bar over its cells. Raises NotebookError that shows the cell that failed;
    `target` is then left as it was.
    """
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
    client = NotebookClient(
        notebook, timeout=3600, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": str(source.parent)}}, coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    )
    bar = tqdm(total=len(notebook.cells), unit="cell", disable=not progress)
    client.on_cell_start = lambda cell, cell_index: bar.update(cell_index - bar.n)
    try:
        with bar:
            client.execute()
    except CellExecutionError as error:
        raise NotebookError(f"{source.name} stopped in a cell:\n{error}") from error
    as_saved(notebook)
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    return notebook


def as_saved(notebook: nbformat.NotebookNode) -> bool:
    """Give a notebook the metadata that JupyterLab saves with it; return whether it had others."""
    wanted = {"jupytext": {"formats": "ipynb,py:percent"}, "kernelspec": KERNEL,
              "language_info": LANGUAGE}
    other = notebook.metadata != wanted
    notebook.metadata = nbformat.from_dict(wanted)
    return other


class Renderer(IPythonRenderer):
    """Markdown to HTML, with formulas as MathML, which browsers draw by themselves."""

    def block_math(self, body: str) -> str:
        return to_mathml(body, display="block")

    def inline_math(self, body: str) -> str:
        return to_mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return to_mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", display="block")


def markdown_to_html(source: str, folder: Path) -> str:
    """Render a markdown cell; pictures that it names are put into the page."""
    renderer = Renderer(escape=False, embed_images=True, path=str(folder))
    return MarkdownWithMath(renderer=renderer).render(source)


def embed_charts(notebook: nbformat.NotebookNode) -> bool:
    """Turn each Vega-Lite output into a live chart; return whether there was one."""
    count = 0
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            spec = output.get("data", {}).get(VEGA_LITE)
            if spec is None:
                continue
            count += 1
            text = json.dumps(spec).replace("</", "<\\/")
            output["data"] = {
                "text/html": f'<div id="chart-{count}"></div><script type="module">'
                f'window.vegaEmbed("#chart-{count}", {text}, {{"actions": false}});</script>'
            }
    return count > 0


def to_html(notebook: nbformat.NotebookNode, target: Path, folder: Path, title: str) -> None:
    """Write a run notebook as a self-contained page.

    folder: where the notebook lies, and with it the others and the pictures that its text names.
    """
    notebook = nbformat.from_dict(notebook)
    live = embed_charts(notebook)
    exporter = HTMLExporter(
        template_name="lab", mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url=""
    )
    exporter.register_filter("markdown2html", lambda source: markdown_to_html(source, folder))
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    # what the template would fetch from the network
    page = re.sub(r'<script[^>]*\bsrc="[^"]*"[^>]*>\s*</script>', "", page)
    page = re.sub(r'<script type="module">\s*import mermaid.*?</script>', "", page, flags=re.S)
    here = os.path.relpath(folder, target.parent).replace(os.sep, "/")
    page = re.sub(r'(?<=href=")(?=[\w/]+\.ipynb)', f"{here}/", page)
    head = "<style>.highlight pre { font-family: var(--jp-code-font-family, monospace) }</style>"
    if live:
        head += f'<script type="module">{vl_convert.javascript_bundle()}</script>'
    page = page.replace("</head>", head + "</head>", 1)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
