"""The book as a reader has it: every page opened in Chromium, from a disk and from a server."""

import functools
import http.server
import json
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from course.authoring.book.pages import contents

ROOT = Path(__file__).resolve().parents[2]
EVERY = [page.name for pages in contents(ROOT / "notebooks").values() for page in pages]
PAGES = ["index", EVERY[0], "translator", *EVERY[1:], "glossary"]
BOTH = [*PAGES, *(f"zh/{name}" for name in PAGES)]
READY = """async () => {
  const charts = [...document.querySelectorAll(".chart")];
  for (let i = 0; i < 100 && charts.some((chart) => !chart.matches(".drawn")); i++)
    await new Promise((go) => setTimeout(go, 50));
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => 0)));
}"""
# what a page is wider than: the elements that stick out and are in nothing that scrolls
STICKING_OUT = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = (at) => at && at !== document.body && (
    ["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(at).overflowX)
    || getComputedStyle(at).position === "fixed" || scrolls(at.parentElement));
  return [...document.querySelectorAll("article *")].filter((part) => part.checkVisibility()
    && part.getBoundingClientRect().right > width + 1 && !scrolls(part.parentElement))
    .map((part) => part.outerHTML.slice(0, 120));
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def served(book: Path, tmp_path_factory) -> Iterator[str]:
    """The book under a sub-path of a static server."""
    root = tmp_path_factory.mktemp("www")
    (root / "some").mkdir()
    (root / "some" / "where").symlink_to(book, target_is_directory=True)
    handler = functools.partial(Quiet, directory=root)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/some/where/"
        server.shutdown()


@pytest.fixture(scope="session")
def on_disk(book: Path) -> str:
    return book.as_uri() + "/"


@pytest.fixture
def tab(browser) -> Iterator:
    """A tab that keeps what a page complains of and asks for."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, accept_downloads=True)
    context.set_default_timeout(120_000)  # a busy machine
    page = context.new_page()
    page.complaints, page.requests = [], []
    page.on("console", lambda said: said.type in ("error", "warning")
            and page.complaints.append(f"{page.url}: {said.text}"))
    page.on("pageerror", lambda error: page.complaints.append(f"{page.url}: {error}"))
    page.on("request", lambda request: page.requests.append(request.url))
    yield page
    context.close()


def foreign(urls: list[str]) -> list[str]:
    """The addresses that are neither on this disk nor on this machine's own server."""
    return [url for url in urls if urlsplit(url).scheme not in ("file", "data", "blob")
            and urlsplit(url).hostname != "127.0.0.1"]


# Without a browser: what is in the folder


class Parts(HTMLParser):
    """The ids and links of a page, and the headings of its article."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.headings, self.images = set(), [], [], []
        self.article, self.next, self.language, self.other = False, None, None, None
        self.summaries = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        given = dict(attributes)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links += [given[key] for key in ("href", "src") if given.get(key)]
        self.article = self.article or tag == "article"
        if self.article and re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.images += [given] if tag == "img" else []
        classes = (given.get("class") or "").split()
        if "right-next" in classes:
            self.next = given["href"]
        if "other-language" in classes:
            self.other = given["href"]
        if tag == "html":
            self.language = given["lang"]

    def handle_data(self, text: str) -> None:
        self.summaries += "· 小结" in text

    def handle_endtag(self, tag: str) -> None:
        self.article = self.article and tag != "article"


@pytest.fixture(scope="session")
def parts(book: Path) -> dict[str, Parts]:
    return {path.relative_to(book).as_posix(): Parts(path.read_text("utf-8"))
            for path in book.rglob("*.html") if not {"_static", "translator"} & {*path.parts}}


def test_every_stored_notebook_has_a_page(book):
    assert len(EVERY) >= 25
    assert [name for name in BOTH if not (book / f"{name}.html").exists()] == []


def test_the_book_fits_an_email_of_25_megabytes_and_both_editions_two(book):
    sizes = {path: path.stat().st_size for path in book.rglob("*")
             if path.is_file() and path.parent.name != "translator"}  # which holds the model
    assert sum(sizes.values()) <= 50e6, sorted(sizes, key=sizes.get)[-5:]
    english = [size for path, size in sizes.items() if not path.is_relative_to(book / "zh")]
    assert sum(english) <= 25e6
    assert not {"vega.js", "STIXTwoMath.woff2"} & {p.name for p in (book / "zh").rglob("*")}


def test_every_page_leads_to_itself_in_the_other_language(parts):
    for name in PAGES:
        english, chinese = parts[f"{name}.html"], parts[f"zh/{name}.html"]
        assert (english.language, chinese.language) == ("en", "zh-CN")
        assert urljoin(f"{name}.html", english.other) == f"zh/{name}.html"
        assert urljoin(f"zh/{name}.html", chinese.other) == f"{name}.html"
        # a reader's place is kept by the headings; a summary in Chinese is left out of the Chinese
        left_out = len(english.headings) - len(chinese.headings)
        assert left_out <= english.summaries, name
        assert left_out or english.headings == chinese.headings, name


def test_every_internal_link_resolves(book, parts):
    dead = []
    for name, page in parts.items():
        for link in page.links:
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            path, _, place = unquote(urljoin(name, link)).partition("#")
            path = path.split("?")[0] or name
            path = f"{path}index.html" if path.endswith("/") else path
            if not (book / path).is_file():
                dead.append(f"{name} -> {link}")
            elif place and path in parts and place not in parts[path].ids:
                dead.append(f"{name} -> {link}: no such place")
    assert dead == []


@pytest.mark.parametrize("edition", ["", "zh/"])
def test_the_pages_lead_from_one_to_the_next(parts, edition):
    seen, at = [], f"{edition}index.html"
    while at and at not in seen:
        seen.append(at)
        at = parts[at].next and urljoin(at, parts[at].next)
    assert seen == [f"{edition}{name}.html" for name in PAGES]


def test_nothing_is_to_be_fetched_from_elsewhere(book):
    for path in [*map(book.joinpath, (f"{name}.html" for name in BOTH)), *book.rglob("*.css")]:
        text = path.read_text("utf-8")
        assert not re.search(r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?(?:https?:)?//", text), path
        assert not re.search(r"<link\b[^>]*\bhref=[\"'](?:https?:)?//", text), path
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", text), path


@pytest.mark.parametrize("name", BOTH)
def test_headings_go_down_a_step_at_a_time(parts, name):
    levels = parts[f"{name}.html"].headings
    assert levels.count(1) == 1
    assert [(a, b) for a, b in zip(levels, levels[1:]) if b > a + 1] == []


@pytest.mark.parametrize("name", BOTH)
def test_every_picture_has_an_alternative_text(parts, name):
    images = parts[f"{name}.html"].images
    assert [image for image in images if not image.get("alt", "").strip()] == []


@pytest.mark.parametrize("name", EVERY)
def test_what_warns_or_speaks_to_our_tools_does_not_show(book, name):
    page = (book / f"{name}.html").read_text("utf-8")
    article = page.split("<article")[1].split("</article")[0]
    article = re.sub(r"<code.*?</code>|<[^>]+>", "", article, flags=re.S)
    code = re.findall(r'<div class="highlight-ipython.*?</pre>', page, flags=re.S)
    assert not [cell for cell in code if "NBVAL_CHECK_OUTPUT" in cell or "#| export" in cell]
    assert "Warning:" not in article and "Traceback (most" not in article


@pytest.mark.parametrize("edition", ["", "zh/"])
def test_the_downloads_are_the_notebooks(book, edition):
    for page in sum(contents(ROOT / "notebooks", edition).values(), []):
        offered = book / edition / "_sources" / f"{page.name}.ipynb"
        offered = json.loads(offered.read_text("utf-8"))
        stored = json.loads(page.stored.read_text("utf-8"))
        assert [c["source"] for c in offered["cells"]] == [c["source"] for c in stored["cells"]]


# In the browser


# many of a kind on a page: the first ones stand for all, or axe takes minutes
OF_A_KIND = [".made tr:nth-child(n+4)", "dl.terms > :nth-child(n+9)", ".chart svg"]


def violations(tab, theme: str, without: list[str]) -> list[str]:
    """What axe finds serious: in the light by all rules, in the dark by that of contrast."""
    tab.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
    options = {"preload": False, "resultTypes": ["violations"]}  # it may not load files from a disk
    if theme == "dark":
        options["runOnly"] = ["color-contrast"]
    found = tab.evaluate("([context, options]) => axe.run(context, options)",
                         [{"exclude": [[each] for each in without]}, options])["violations"]
    return [f"{each['id']} ({each['impact']}): {node['html'][:200]}" for each in found
            if each["impact"] in ("serious", "critical") for node in each["nodes"][:4]]


# one page of a kind each time, the others in make test-all: axe takes minutes on a long page
KINDS = ["index", "04_masking", "glossary", "homework/masking", "search", "zh/08b_cache"]
ONE_OF_A_KIND = [pytest.param(name, marks=[] if name in KINDS else pytest.mark.long)
                 for name in [*BOTH, "search", "zh/search"]]


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_a_page_is_quiet_and_whole_shuts_nobody_out_and_fits_a_phone(tab, on_disk, axe, name):
    tab.goto(f"{on_disk}{name}.html")
    tab.evaluate(READY)
    assert tab.complaints == [] and foreign(tab.requests) == []
    assert tab.locator(".chart:not(.drawn)").count() == 0
    assert tab.evaluate("[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)"
                        ) == []
    assert tab.locator(".formula:not(:has(> math))").count() == 0
    tab.evaluate("document.querySelectorAll('main details').forEach((fold) => fold.open = true)")
    tab.evaluate(axe)
    tab.add_style_tag(content="* { transition: none !important }")  # no colour on its way
    without = OF_A_KIND + [".highlight"] * (name != "03_attention")  # code looks alike everywhere
    assert violations(tab, "light", without) == []
    assert violations(tab, "dark", without) == []
    tab.set_viewport_size({"width": 390, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.evaluate(STICKING_OUT) == []


def test_formulas_are_set_with_the_books_own_font(tab, on_disk):
    tab.goto(f"{on_disk}03_attention.html")
    tab.evaluate("document.fonts.ready")
    assert tab.evaluate("[...document.fonts].some((font) => font.family.includes('Book Math') "
                        "&& font.status === 'loaded')")


@pytest.mark.parametrize("place", ["on_disk", "served"])
@pytest.mark.parametrize(("words", "page"), [
    ("label smoothing", "07_training"), ("label smoothing", "glossary"), ("残差", "glossary"),
    ("残差连接", "glossary"), ("cache", "08b_cache"), ("残差", "zh/05_transformer"),
    ("注意力 瓶颈", "zh/02_seq2seq"),
])
def test_search_finds(tab, request, place, words, page):
    tab.goto(request.getfixturevalue(place) + "zh/" * page.startswith("zh/") + "index.html")
    page = page.removeprefix("zh/")
    tab.keyboard.press("Control+k")
    tab.keyboard.type(words)
    tab.keyboard.press("Enter")
    tab.wait_for_selector(f'#search-results a[href*="{page}.html"]')
    assert tab.complaints == [] and foreign(tab.requests) == []


def test_the_other_language_is_a_click_away_and_keeps_the_place(tab, on_disk):
    tab.goto(f"{on_disk}05_transformer.html")
    tab.evaluate("document.querySelectorAll('article h2')[3].scrollIntoView()")
    box = tab.locator("a.other-language").bounding_box()  # locator.click() would scroll away
    tab.mouse.click(box["x"] + 5, box["y"] + 5)
    tab.wait_for_url("**/zh/05_transformer.html#place-*")
    top = "document.querySelectorAll('article h2')[3].getBoundingClientRect().top"
    tab.wait_for_function(f"{top} > -1 && {top} < 200")
    term = tab.locator('a.term[href="glossary.html#term-residual-connection"]')
    term.focus()
    told = tab.locator("#term-told").text_content()
    assert told.startswith("残差连接residual connectiondie Residualverbindung")
    tab.locator("a.other-language").click()
    tab.wait_for_url(f"{on_disk}05_transformer.html*")
    assert tab.complaints == [] and foreign(tab.requests) == []


def test_the_served_book_is_quiet_and_leads_to_the_next_page(tab, served):
    tab.goto(served)
    tab.locator("a.right-next").click()
    tab.wait_for_url(f"{served}{PAGES[1]}.html")
    tab.evaluate(READY)
    assert tab.locator(".chart:not(.drawn)").count() == 0
    assert tab.complaints == [] and foreign(tab.requests) == []


def test_the_explorer_answers(tab, on_disk):
    tab.goto(f"{on_disk}09b_inside.html")
    tab.evaluate(READY)
    chart = tab.locator(".chart.drawn").first
    before = chart.locator("svg").inner_html()
    select = chart.locator(".vega-bindings select").first
    other = select.locator("option:not(:checked)").first.get_attribute("value")
    select.select_option(other)
    tab.wait_for_function("([chart, before]) => chart.querySelector('svg').innerHTML !== before",
                          arg=[chart.element_handle(), before])
    assert tab.complaints == []


def test_the_glossary_chart_searches_while_one_types(tab, on_disk):
    tab.goto(f"{on_disk}00_start_here.html")
    tab.evaluate(READY)
    chart = tab.locator(".chart.drawn:has(.vega-bindings input)").first
    chart.locator(".vega-bindings input").first.fill("perplex")
    tab.wait_for_function("(chart) => /perplexity/i.test(chart.querySelector('svg').textContent)",
                          arg=chart.element_handle())


def test_a_term_is_explained_to_pointer_and_keyboard_and_leads_to_the_glossary(tab, on_disk):
    tab.goto(f"{on_disk}05_transformer.html")
    term = tab.locator('a.term[href="glossary.html#term-residual-connection"]')
    assert term.count() == 1
    term.focus()
    told = tab.locator("#term-told")
    assert "残差连接" in told.inner_text() and "Residualverbindung" in told.inner_text()
    assert term.get_attribute("aria-describedby") == "term-told"
    tab.keyboard.press("Escape")
    assert told.is_hidden()
    term.hover()
    assert told.is_visible()
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/glossary.html#term-residual-connection")
    assert "残差连接" in tab.locator("#term-residual-connection").inner_text()


def test_figure_one_and_the_papers_sections_lead_into_the_book(tab, on_disk):
    tab.goto(f"{on_disk}00_start_here.html")
    boxes = tab.locator(".made svg a")
    links = boxes.evaluate_all("(all) => all.map((a) => a.getAttribute('href'))")
    assert len(links) >= 20 and {*links} <= {f"{name}.html" for name in EVERY}
    section = tab.locator('a.section-number[href^="walkthrough.html#"]')
    assert section.count() >= 10
    section.first.click()
    tab.wait_for_url("**/walkthrough.html#*")


def test_folds_open_by_keyboard(tab, on_disk):
    tab.goto(f"{on_disk}03_attention.html")
    for kind in ("details.hide", "details.more"):
        fold = tab.locator(kind).first
        assert not fold.evaluate("(fold) => fold.open")
        fold.locator("summary").first.focus()
        tab.keyboard.press("Enter")
        assert fold.evaluate("(fold) => fold.open")


def test_a_link_into_a_folded_section_opens_it(tab, on_disk):
    tab.goto(f"{on_disk}03_attention.html")
    place = tab.locator("section.more").first.get_attribute("id")
    tab.goto(f"{on_disk}03_attention.html#{place}")
    tab.reload()
    assert tab.locator(f"#{place} > details.more").evaluate("(fold) => fold.open")


def test_dark_stays_dark_on_the_next_page(tab, on_disk):
    tab.goto(f"{on_disk}index.html")
    theme = "() => document.documentElement.dataset.theme"
    tab.locator("button.theme-switch-button:visible").first.click()
    tab.locator("button.theme-change-button[data-mode=dark]:visible").first.click()
    assert tab.evaluate(theme) == "dark"
    tab.goto(f"{on_disk}03_attention.html")
    assert tab.evaluate(theme) == "dark"
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", dark)[:3])) < 60


def test_paper_gets_what_is_folded(tab, on_disk):
    tab.goto(f"{on_disk}03_attention.html")
    assert tab.locator("main details:not([open])").count() > 0
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("main details:not([open])").count() == 0
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert tab.locator("main details:not([open])").count() > 0


def test_without_script_a_chart_is_a_picture(browser, on_disk):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{on_disk}09b_inside.html")
    assert page.locator(".chart img.still").first.is_visible()
    context.close()
