"""The translator's page in Chromium, opened from a disk: what it computes, shows and survives."""

import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

sys.path.append(str(Path(__file__).parents[1]))
from test_page import check_beam, check_greedy, flickr, full, probes

from course.page import write_page
from course.runs import load_checkpoint

FIRST = "Die alte Frau gibt dem kleinen Mädchen einen roten Luftballon."
# a worker of its own, started as the page starts its own, and asked as the page asks
ASK = """async (jobs) => {
  if (!window.asked) {
    const text = document.getElementById("worker-source").textContent;
    window.asked = new Worker(URL.createObjectURL(new Blob([text], {type: "text/javascript"})));
    const raw = atob(document.getElementById("weights").textContent);
    const weights = Uint8Array.from(raw, (c) => c.charCodeAt(0)).buffer;
    const data = JSON.parse(document.getElementById("page-data").textContent);
    await new Promise((go, fail) => {
      window.asked.onmessage = ({data}) => data.kind === "ready" ? go() : fail(data.message);
      window.asked.postMessage({id: 1, load: {...data, seen: null, weights}}, [weights]);
    });
  }
  const all = [];
  for (const [i, job] of jobs.entries()) {
    const plain = (name, value) => name === "attention" && !job.attention ? undefined
      : value instanceof Float32Array ? [...value] : value;
    all.push(await new Promise((go) => {
      const answers = [];
      window.asked.onmessage = ({data}) => {
        answers.push(JSON.parse(JSON.stringify(data, plain)));
        if (data.kind === "done" || data.kind === "error") go(answers);
      };
      window.asked.postMessage({id: i + 2, job: {...job, aside: true}});
    }));
  }
  return all;
}"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def shipped():
    return load_checkpoint("multi30k-de-en")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page") / "a place" / "translator.html"
    assert write_page("multi30k-de-en", out) < 22e6
    return out


@pytest.fixture
def open_page(browser, file):
    """Open the page at a place; afterwards it has complained of nothing and asked for nothing."""
    said, contexts = [], []

    def opened(place: str = "", where: Path = file, **settings):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | settings)
        context.set_default_timeout(120_000)  # a busy machine
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda m: m.type in ("error", "warning") and said.append(m.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: urlsplit(request.url).scheme in ("http", "https")
               and said.append(request.url))
        tab.goto(where.as_uri() + place)
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert said == []


def translated(tab, text: str | None = None) -> str:
    """Wait for a translation (of what is typed now) and return it."""
    before = tab.evaluate("Number(document.documentElement.dataset.done ?? 0)")
    if text is not None:
        tab.fill("#text", text)
    elif before:
        return tab.inner_text("#output")
    tab.wait_for_function(f"Number(document.documentElement.dataset.done ?? 0) > {before}")
    tab.wait_for_timeout(100)
    return tab.inner_text("#output")


def settled(tab, act) -> str:
    """Do something that translates again; return what comes."""
    before = tab.evaluate("Number(document.documentElement.dataset.done)")
    act()
    tab.wait_for_function(f"Number(document.documentElement.dataset.done) > {before}")
    tab.wait_for_timeout(100)
    return tab.inner_text("#output .now")


def test_it_computes_in_chromium_what_python_computes(open_page, shipped):
    tab = open_page()
    ask = lambda jobs: tab.evaluate(ASK, jobs)  # noqa: E731
    assert check_greedy(shipped, probes()[:8], 3, ask) == 0
    check_beam(shipped, probes()[:3], ask)


@full
def test_full_in_chromium_on_a_thousand_sentences(open_page, shipped):
    tab = open_page()

    def ask(jobs):
        for i in range(0, len(jobs), 20):
            yield from tab.evaluate(ASK, jobs[i : i + 20])

    check_greedy(shipped, flickr(), 50, ask)
    check_beam(shipped, flickr()[:200], ask)


def test_a_first_look(open_page, shipped):
    model, bpe = shipped
    tab = open_page()
    assert translated(tab) == "The old woman is giving a little girl a red balloon."
    assert tab.locator("#pieces-read .chip").count() == len(bpe.encode(FIRST))
    assert tab.locator(".thumb").count() == 3 * (4 + 1)
    assert tab.locator("#beam tbody tr").count() == 4
    tab.locator("#figure").scroll_into_view_if_needed()
    tab.wait_for_selector(".panel .map")
    assert tab.locator(".panel .maps canvas").count() == 4
    assert tab.locator("#message").is_hidden()
    assert tab.locator("#examples option").count() == 21


def test_another_piece_goes_on_from_there_and_back(open_page):
    tab = open_page()
    own = translated(tab)
    tab.click("#write button:has-text('First piece')")
    other = settled(tab, lambda: tab.click("#write .bars li:nth-child(2) button"))
    assert other.startswith("This") and own.startswith("The ")
    assert "p=" in tab.evaluate("location.hash")
    assert settled(tab, lambda: tab.click("#write .marked button")) == own


def test_attention_answers_to_pointing_and_to_keys(open_page):
    tab = open_page()
    translated(tab)
    tab.hover("#attention .keys .chip:has-text('roten')")
    assert tab.inner_text("#attention .told").startswith("roten ←")
    assert tab.locator(".lines path").count() > 0
    tab.focus("#attention .asks .chip >> nth=0")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#attention .told").startswith("old → alte")
    tab.click(".thumb[data-thumb='0/1']")
    tab.wait_for_function("location.hash.includes('l=1&h=2')")
    tab.click("#attention button:has-text('Encoder looks at itself')")
    tab.wait_for_function("document.querySelectorAll('#attention .asks .chip').length === 13")
    assert tab.locator("#attention .asks .chip").first.inner_text() == "Die"


def test_alpha_counts_again_and_beam_searches_again(open_page):
    tab = open_page("#s=" + quote(FIRST) + "&b=8")
    translated(tab)
    assert tab.locator("#beam tbody tr").count() == 8
    scores = lambda: tab.locator("#beam tbody td:last-child").all_inner_texts()  # noqa: E731
    before = scores()[0]
    tab.locator("#beam input").nth(1).fill("2")
    tab.wait_for_function(
        f"document.querySelector('#beam tbody td:last-child').textContent !== '{before}'")
    assert "a=2" in tab.evaluate("location.hash") and scores()[0] != before
    settled(tab, lambda: tab.locator("#beam input").nth(0).fill("2"))
    assert tab.locator("#beam tbody tr").count() == 2


def test_figure_one_shows_a_box_and_moves(open_page):
    tab = open_page()
    translated(tab)
    tab.focus("[data-box='encoder-0-self']")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".panel h3:has-text('Encoder, layer 3: Self-attention')")
    assert "(13, 256)" in tab.inner_text(".panel")
    assert tab.get_attribute(".panel a", "href") == "book/03_attention.html"
    tab.click("#figure button:has-text('Forward')")
    tab.wait_for_selector(".panel h3:has-text('Add')")
    tab.click("#figure button:has-text('Play')")
    tab.wait_for_selector(".panel h3:has-text('Feed-forward')")
    tab.click("#figure button:has-text('Stop')")
    for box in tab.locator("[data-box]").all():
        box.dispatch_event("click")
        tab.wait_for_timeout(50)
        assert tab.locator(".panel .map, .panel .bars").count() >= 1


def test_it_speaks_chinese_and_leads_to_the_chinese_lessons(open_page):
    tab = open_page("?lang=zh", viewport={"width": 390, "height": 800})
    assert translated(tab) == "The old woman is giving a little girl a red balloon."
    assert tab.evaluate("document.documentElement.lang") == "zh" and tab.evaluate(WIDER) == 0
    tab.locator("#figure").scroll_into_view_if_needed()
    tab.wait_for_selector(".panel h3:has-text('解码器，第 3 层：交叉注意力')")
    assert tab.get_attribute(".panel a", "href") == "book/zh/03_attention.html"
    assert "523 万个权重" in tab.inner_text("#intro")
    tab.select_option("#language", "en")
    tab.wait_for_url("**?lang=en#s=Die+alte*")


def test_switches_break_it_at_once_and_a_link_keeps_them(open_page):
    tab = open_page()
    whole = translated(tab)
    tab.click("#break summary")
    switch = tab.locator("#switches input[type=checkbox]")
    assert switch.count() == 6
    for i in range(6):
        settled(tab, switch.nth(i).click)
        settled(tab, tab.locator("#switches input[type=checkbox]").nth(i).click)
    broken = settled(tab, switch.nth(0).click)
    assert broken != whole and tab.inner_text("#output .before").endswith(whole)
    again = open_page(tab.evaluate("location.hash"))
    assert broken in translated(again)
    assert again.locator("#switches input").first.is_checked()
    assert settled(tab, lambda: tab.click("#mend")) == whole


def test_a_link_that_is_not_whole_is_said(open_page):
    tab = open_page("#s=" + quote(FIRST) + "&l=77&h=x&b=99&x=nonsense")
    translated(tab)
    assert "link was not whole" in tab.inner_text("#message")


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "Nothing to translate yet"), ("   ", "Nothing to translate yet"),
     ("Hund " * 400, "2000 characters"), ("Qx" * 300, "pieces")],
    ids=["empty", "blanks", "2,000 characters", "many pieces"],
)
def test_what_cannot_be_translated_is_a_sentence_and_the_page_goes_on(open_page, text, said):
    tab = open_page()
    translated(tab)
    tab.fill("#text", text)
    tab.wait_for_function("!document.getElementById('message').hidden")
    assert said in tab.inner_text("#message")
    assert translated(tab, "Ein Hund rennt.") == "A dog runs."
    assert tab.locator("#message").is_hidden()


def test_emoji_and_words_that_training_never_saw_are_named(open_page):
    tab = open_page()
    translated(tab)
    assert translated(tab, "Ein 🐕 zieht einen Kürbissuppenwagen.")
    said = tab.inner_text("#unseen")
    assert "🐕" in said and "Kürbissuppenwagen" in said


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_weights_that_do_not_arrive_are_a_sentence(open_page, file, damage):
    page = file.read_text("utf-8")
    start = page.index('id="weights">') + len('id="weights">')
    end = page.index("</script>", start)
    kept = "" if damage == "gone" else page[start : start + 400_000]
    broken = file.with_name(f"{damage}.html")
    broken.write_text(page[:start] + kept + page[end:], "utf-8")
    tab = open_page(where=broken)
    tab.wait_for_function("!document.getElementById('message').hidden")
    assert "Load the page again" in tab.inner_text("#message")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_and_nobody_is_shut_out(open_page, axe, width, scheme):
    place = "#s=" + quote(probes()[30]) + "&x=positions&o=c3.1"
    tab = open_page(place, viewport={"width": width, "height": 844}, color_scheme=scheme)
    translated(tab)
    tab.locator("#figure").scroll_into_view_if_needed()
    tab.wait_for_selector(".panel .map")
    tab.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    tab.wait_for_timeout(300)
    assert tab.evaluate(WIDER) <= 0
    tab.evaluate(axe)
    found = tab.evaluate("axe.run().then((r) => r.violations)")
    serious = [(v["id"], v["nodes"][0]["html"][:200], v["nodes"][0].get("failureSummary"))
               for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []


def test_the_theme_button_turns_and_is_kept(open_page):
    tab = open_page(color_scheme="light")
    translated(tab)
    ground = lambda: tab.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    before = ground()
    tab.click("#theme")
    dark = ground()
    assert dark != before
    tab.reload()
    assert ground() == dark
