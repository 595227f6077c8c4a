"""Sphinx's settings for the book, from what `build` has made in the folder COURSE_BOOK."""

import json
import os
from pathlib import Path

from course.authoring.book.words import is_chinese, say

made = Path(os.environ["COURSE_BOOK"])  # sources and settings of an edition: made by `build`
settings = json.loads((made / "settings.json").read_text("utf-8"))

project = "Attention Is All You Need"
html_title = say("Attention Is All You Need, built in notebooks that run")
author, copyright = "the course's authors", "MIT licence"
language = settings["language"]
extensions = ["myst_nb", "course.authoring.book.extension"]
course_terms = settings["terms"]
templates_path = [str(Path(__file__).parent / "templates")]

nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"
nb_render_markdown_format = "myst"
nb_code_prompt_show = say("Show the code")
nb_code_prompt_hide = say("Hide the code")
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
# what only MyST would read into a notebook's Markdown
myst_disable_syntax = ["myst_line_comment", "myst_block_break", "myst_target", "myst_role"]
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

html_theme = "sphinx_book_theme"
html_theme_options = {
    "logo": {"text": "Attention Is All You Need"},
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "navbar_persistent": [],
    "use_download_button": True,
    "use_fullscreen_button": False,
    "search_bar_text": say("Search the book"),
    "article_header_end": ["language.html", "article-header-buttons.html"],
    "navigation_with_keys": False,
    "back_to_top_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "footer_content_items": [],
}
html_static_path = [str(Path(__file__).parent / "static")]
if not is_chinese():  # whose pages use these files, too
    html_static_path += [str(made.parent / "static")]
html_favicon = str(Path(__file__).parent / "static" / "favicon.svg")
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_use_index = html_domain_indices = html_show_sphinx = html_show_copyright = False
html_copy_source = True  # the downloads: `build` puts the stored notebooks there
html_sourcelink_suffix = ""
html_math_renderer = "mathml"
html_context = {
    "default_mode": "auto",  # as the reader's system is, until the reader chooses
    "other_edition": settings["other"], "there": settings["there"], "other_name": say("中文"),
    "other_tag": "en" if is_chinese() else "zh",
}
