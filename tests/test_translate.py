"""The Chinese edition: blocks, catalogues, pages, and what lint sees."""

import re

import nbformat
import pytest
from babel.messages.catalog import Message

from course import authoring, messages
from course.__main__ import main
from course.authoring import lint, runtime, translate
from course.homework import check, illnesses
from course.homework.cards import card, wrapped
from course.homework.exercises import EXERCISES
from course.homework.reasons import judge, marked, plain, reasons

PAGE = """\
# A toy

> **Guess first:** how large is $x$? Write
> `mine`.

- One item, on
  two lines. See [lesson 98](98_other.ipynb#a).
- Another.

| name | takes |
|---|---|
| `pad` | a list |

$$
x = 1
$$

```python
x = 1  # no message
```

<details><summary>Answer</summary>

Ten.

</details>

## Summary · 小结

It ends.

- 结束了。
"""


@pytest.mark.parametrize("name", translate.originals())
def test_blocks_joined_are_the_page_again(name):
    for cell in translate.cells_of(translate.originals()[name]):
        if cell["cell_type"] == "markdown":
            markdown = "".join(cell["source"])
            assert "".join(block.raw for block in translate.cut(markdown)) == markdown


def test_a_block_is_its_words_in_one_line_and_code_and_formulas_are_none():
    words = [block.words for block in translate.cut(PAGE) if block.words]
    assert words == [
        "A toy", "**Guess first:** how large is $x$? Write `mine`.",
        "One item, on two lines. See [lesson 98](98_other.ipynb#a).", "Another.", "name | takes",
        "`pad` | a list", "Answer", "Ten.", "Summary · 小结", "It ends."]  # fmt: skip


@pytest.mark.parametrize("code", ["    for x in y:\n        f(x)\n", "- One.\n\n      f(x)\n",
                                  "Words.\n\n    f(x)\n\n    g(x)\n"])
def test_indented_code_is_copied(code):
    assert translate.translated(code, lambda words: "译。").endswith(code.rpartition(".\n")[2])


def test_what_is_indented_in_a_list_is_words():
    words = [block.words for block in translate.cut("10. One.\n\n    More.\n")]
    assert list(filter(None, words)) == ["One.", "More."]


@pytest.mark.parametrize("name", EXERCISES)
def test_what_a_card_says_of_shapes_is_one_block_with_its_lines_in_the_fence(name):
    markdown, signature = card(EXERCISES[name]), EXERCISES[name].signature
    (words,) = (b.words for b in translate.cut(markdown) if b.kind == "signature")
    assert words == signature and translate.translated(markdown, lambda words: words) == markdown
    said = {signature: "；".join(f"第 {n} 行" for n, _ in enumerate(signature.split("; ")))}
    lines = "\n".join(said[signature].split("；"))
    assert f"```text\n{lines}\n```" in translate.translated(markdown, said.get)


def test_what_is_said_behind_a_command_and_of_a_picture_is_translated():
    page = '```\nmake test  # {}\npython -m course lab\n```\n\n<img src="a.png" alt="{}">\n'.format
    said = {"every claim": "每条断言", "It runs": "它跑了"}
    assert translate.translated(page(*said), said.get) == page(*said.values())
    assert "# 〔英〕every claim" in translate.translated(page(*said), lambda words: None)


def test_a_long_line_of_chinese_is_broken_like_one_of_english():
    first, second = wrapped("f(x) -> " + "字" * 60).split("\n")
    assert first == "f(x) -> " + "字" * 35 and second == "    " + "字" * 25
    assert wrapped("字" * 39 + "，字；f(x)") == "字" * 38 + "\n    字，字\nf(x)"


@pytest.mark.parametrize("name", EXERCISES)
def test_check_says_the_lines_of_the_chinese_card(name, monkeypatch):
    monkeypatch.setenv("COURSE_LANG", "zh")
    page = authoring.NOTEBOOKS.joinpath("zh/homework", *2 * [EXERCISES[name].assignment])
    text = page.with_suffix(".py").read_text("utf-8").replace(translate.MARK, "")
    lines = "\n# ".join(check(name).given.split("\n"))
    assert f"# ```text\n# {lines}\n# ```" in text


def test_a_summary_in_chinese_goes_where_one_in_english_stands_before():
    both = "## Summary\n\nIt ends.\n\n## Summary · 小结\n\n- 结束了。\n\n## Next\n\nWords.\n"
    made = translate.translated(both, lambda words: "译。")
    assert made == "## 译。\n\n译。\n\n## 译。\n\n译。\n"


def test_translated_blocks_stand_where_the_english_stood_and_the_chinese_summary_goes():
    made = translate.translated(PAGE, lambda words: None if words == "Ten." else f"译{len(words)}")
    assert "> 译48\n" in made and "- 译8\n" in made and "| 译14 |\n" in made
    assert "<details><summary>译6</summary>" in made and "x = 1  # no message" in made
    assert translate.MARK + "Ten.\n" in made and "结束了" not in made


def test_a_summary_that_is_chinese_only_stays():
    only = "## Summary · 小结\n\n- 结束了。\n\n## Next\n\nWords.\n"
    assert "结束了" in translate.translated(only, lambda words: words)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A course of two pages, the first translated but for one block."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    monkeypatch.setattr(authoring, "ROOT", tmp_path)
    monkeypatch.setattr(authoring, "NOTEBOOKS", notebooks)
    for name, text in (("97_toy", PAGE), ("98_other", "# Other\n")):
        cells = [nbformat.v4.new_markdown_cell(text, id="words"),
                 nbformat.v4.new_code_cell("print(1)", id="code", execution_count=1, outputs=[
                     nbformat.v4.new_output("stream", text="1\n"), nbformat.v4.new_output(
                         "display_data", metadata={"image/png": {
                             "alt": "Four of the columns. y: loss [nats], mean of 10 steps"}})])]
        notebooks.joinpath(f"{name}.py").write_text("")
        nbformat.write(nbformat.v4.new_notebook(cells=cells), notebooks / f"{name}.ipynb")
    assert translate.main([]) == 0
    translate.fill("97_toy", {translate.key("One item, on two lines. See [lesson 98](98_other."
                                            "ipynb#a)."): "一项，见[第 98 课](98_other.ipynb#a)。"})
    translate.main(["zh_CN"])
    return notebooks


def test_a_page_keeps_code_outputs_and_ids_and_its_links_lead_to_the_same_pages(house):
    made = nbformat.read(house / "zh" / "97_toy.ipynb", as_version=4)
    assert [cell.id for cell in made.cells] == ["words", "code"]
    assert made.cells[1].source == "print(1)" and made.cells[1].outputs[0].text == "1\n"
    alt = made.cells[1].outputs[1].metadata["image/png"]["alt"]
    assert alt == "其中四列。纵轴：损失 [奈特]，10 步平均"
    assert "一项，见[第 98 课](98_other.ipynb#a)。" in made.cells[0].source
    assert "〔英〕Another." in made.cells[0].source
    assert (house / "zh" / "97_toy.py").exists()
    assert not (house / "zh" / "98_other.ipynb").exists()  # nothing of it is translated
    translate.catalogue_path("98_other").unlink()
    translate.main(["pages", "97_toy"])
    text = (house / "zh" / "97_toy.py").read_text("utf-8")
    assert "[第 98 课](../98_other.ipynb#a)" in text


def test_changed_english_is_shown_with_its_mark_and_the_check_says_what_to_do(house):
    assert translate.problems() == []
    stored = house / "97_toy.ipynb"
    stored.write_text(stored.read_text("utf-8").replace("two lines", "three lines"), "utf-8")
    (problem,) = translate.problems()
    assert "97_toy" in problem and "python -m course.authoring translate 97_toy" in problem
    translate.main(["97_toy"])
    assert translate.counts("97_toy")[:2] == (0, 1) and translate.problems() == []
    (waiting,) = [message for message in translate.todo("97_toy") if message["fuzzy"]]
    assert "three" in waiting["en"] and "一项" in waiting["zh"]
    assert not translate.generated("97_toy", stored)


def test_a_complete_page_whose_english_changes_shows_it_marked_and_the_check_says_so(house):
    waiting = translate.todo("97_toy")
    translate.fill("97_toy", {message["key"]: "译" + message["en"] for message in waiting})
    path, stored = translate.catalogue_path("97_toy"), house / "97_toy.ipynb"
    head = path.read_text("utf-8").replace("#\n", translate.COMPLETE + "\n", 1)
    path.write_text(head, "utf-8")
    translate.main(["97_toy"])
    assert translate.counts("97_toy")[1:] == (0, 0)
    assert not any("complete" in problem for problem in translate.problems())
    stored.write_text(stored.read_text("utf-8").replace("two lines", "three lines"), "utf-8")
    translate.main(["97_toy"])
    assert f"{translate.MARK}One item, on\n#   three lines" in \
        (house / "zh" / "97_toy.py").read_text("utf-8")
    said = translate.problems()[-1]
    assert said.startswith("97_toy is complete in Chinese no more: 1 blocks changed in English")
    assert "python -m course.authoring translate todo 97_toy" in said
    assert path.read_text("utf-8").startswith(translate.COMPLETE)  # the declaration stays


def test_what_is_translated_elsewhere_is_not_asked_again(house):
    translate.save(house / "98_other.ipynb", (house / "97_toy.ipynb").read_bytes())
    translate.main([])
    assert translate.counts("98_other")[0] == 1


@pytest.mark.parametrize(("en", "zh", "fault"), [
    ("Use `pad` here.", "这里用 `pads`。", "code `pad`"),
    ("The size $d_k$ counts.", "大小 $d_v$ 重要。", "formula $d_k$"),
    ("See [one](a.ipynb).", "见[一](b.ipynb)。", "link"),
    ("<b>Read</b> it.", "读它。", "tag"),
    ("a | b", "甲", "row"),
    ("**Guess first:** why?", "**先猜：**为什么？", "bold"),
    ("Look *there*.", "看*那里。", "star"),
    ("It has 512 rows.", "它有 521 行。", "number 512"),
    ("Attention sees it.", "它看得见。", "term attention"),
    ("Multi-head attention.", "多个注意力。", "term multi-head attention"),
    ("It works, mostly.", "大体上,它有效。", "punctuation"),
    ("It works (mostly).", "它有效(大体上)。", "punctuation"),
    ("Then comes PyTorch.", "然后轮到大家都熟悉的 PyTorch.", "punctuation"),
    ("You see it.", "您看见了。", "您"),
    ("The GPU waits.", "GPU等着。", "spaces"),
    ("It waits, long.", "它等着， 很久。", "spaces"),
])  # fmt: skip
def test_lint_sees(en, zh, fault):
    assert any(f.startswith(fault) for f in lint.faults(Message(en, zh)))
    assert lint.faults(Message(en, zh, user_comments=[f"ok: {fault}"])) in ([], [
        f for f in lint.faults(Message(en, zh)) if not f.startswith(fault)])


@pytest.mark.parametrize(("zh", "faults"), [
    ("f(x, mask): x (B, T) -> (B, 1)，后归一化（post，论文）；mask (T,) 可省", []),
    ("f(x): x (B, 1)，后归一化（post）；掩码可省", ["shape f(x, mask)", "shape (B, T)"]),
    ("f(x, mask): x (B, T) -> (B, 1)，后归一化（post，论文），mask 可省", ["lines"]),
])  # fmt: skip
def test_lint_keeps_the_code_shapes_and_lines_of_a_signature(zh, faults):
    en = "f(x, mask): x (B, T) -> (B, 1), norm behind (post, the paper); mask may be left out"
    found = lint.faults(Message(en, zh, auto_comments=["signature"]))
    assert [fault for fault in found for rule in faults if fault.startswith(rule)] == found
    assert len(found) == len(faults)


@pytest.mark.parametrize(("en", "zh"), [
    ("**Guess first**, without `pad`: is $x$ 1,000?", "**先猜**，不用 `pad`：$x$ 是 1,000 吗？"),
    ("The base model has 65 million parameters.", "base 模型有 6500 万个参数。"),
    ("Two heads see it.", "2 个头看得见。"),
    ("Vaswani et al., *Attention Is All You Need*", "Vaswani et al., *Attention Is All You Need*"),
    ("The `<pad>`s stay.", "`<pad>` 不变。"),
    ("Masks: what a position may see.", "掩码：一个位置能看到什么。"),
])  # fmt: skip
def test_lint_is_quiet(en, zh):
    assert lint.faults(Message(en, zh)) == []


@pytest.mark.parametrize(("given", "tidy"), [
    ("用GPU算3次", "用 GPU 算 3 次"), ("见 `a b`和$x$ ，再看", "见 `a b` 和 $x$，再看"),
    ("[第03课](a.ipynb)说", "[第 03 课](a.ipynb)说"), ("“ 看 ” 吗 ？", "“看”吗？"),
])  # fmt: skip
def test_tidy_puts_spaces_where_chinese_meets_latin(given, tidy):
    assert lint.tidy(given) == tidy == lint.tidy(tidy)


# Sentences of run time


@pytest.fixture
def chinese(tmp_path, monkeypatch):
    """A catalogue of three sentences, and a reader of Chinese."""
    catalogue = translate.empty()
    for english, said in {
        "one sentence": "一个句子", "you transpose too much": "你转多了",
        "Right for {1}. Not for {2}: {3}. Probably {4}": "{1}：对。{2}：不对，{3}。多半是{4}",
        "You change argument {1} in place": "你就地改了第 {1} 个参数", "The end.": "完。",
        "You give every {n} columns": "你把每 {n} 列给了一处", "{1} below": "小了 {1}",
        "It is (nearly so.)": "（差不多。）", "It sees both; one is masked.": "它看得见两者。",
        "3 · What it costs · more": "3 · 代价 · 选读", "See “{1}”": "见“{1}”",
    }.items():
        catalogue.add(english, said)
    translate.save(tmp_path / "po/zh_CN/course/check.po", translate.written(catalogue))
    monkeypatch.setattr(messages, "ROOT", tmp_path)
    monkeypatch.setenv("COURSE_LANG", "zh")
    messages.catalogue.cache_clear()
    yield
    messages.catalogue.cache_clear()


@pytest.mark.parametrize(("english", "said"), [
    ("one sentence", "一个句子"), ("one sentence.", "一个句子。"), ("unknown", "unknown"), ("", ""),
    ("You change argument 2 in place", "你就地改了第 2 个参数"),
    ("Right for one sentence. Not for all: You change argument 1 in place. Probably "
     "you transpose too much", "一个句子：对。all：不对，你就地改了第 1 个参数。多半是你转多了"),
    ("You change argument 2 in place. The end. And more.", "你就地改了第 2 个参数。完。And more."),
    ("You change argument 2 in place.", "你就地改了第 2 个参数。"), ("The end", "完"),
    ("You give every 3 columns.", "你把每 3 列给了一处。"), ("The end. 3 below", "完。小了 3"),
    ("It is (nearly so.) It sees both; one is masked.", "（差不多。）它看得见两者。"),
    ("One sentence; unknown", "一个句子；unknown"), ("See “What it costs”.", "见“代价”。"),
])  # fmt: skip
def test_a_sentence_is_said_in_chinese_whole_by_its_template_or_in_pieces(chinese, english, said):
    assert messages.say(english) == said


@pytest.mark.parametrize("name", ["reasons", "illnesses"])
def test_no_verdict_has_english_left(name, monkeypatch):
    monkeypatch.setenv("COURSE_LANG", "zh")
    told = {judge(each, letter, "page")[1] for each, reason in reasons().items()
            for letter in reason.shuffled("page")}
    if name == "illnesses":
        told = {illnesses.judge(patient, named, "page")[1] for patient in illnesses.patients()
                for named in illnesses.illnesses()}
    said = [re.sub(r"`[^`]*`|A man is (not )?riding a horse|A guy isn't on horseback", "",
                   messages.say(text)) for text in told]
    assert [text for text in said if re.search(r"[A-Za-z]{2,}(?:[ ,]+[A-Za-z']+){3}", text)] == []


@pytest.mark.parametrize(
    "command", ["", "train", "translate", "look", "evaluate", "homework check"])
def test_a_command_explains_itself_in_chinese(command, capsys, monkeypatch):
    monkeypatch.setenv("COURSE_LANG", "zh")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    said = re.sub(r"python -m .*|torchrun .*|echo .*|usage.*|用法.*", "", capsys.readouterr().out)
    assert "选项\n" in said or "选项:\n" in said
    assert [line for line in said.splitlines()
            if re.search(r"[A-Za-z]{2,}(?: [a-z']{2,}){3}", line)] == []


@pytest.mark.parametrize(("words", "said"), [
    ("train", "缺少参数：--preset, --out"),
    ("translate --beam 0 --checkpoint x", "'0' 不是 1 或更大的整数"),
    ("nonsense", "没有 'nonsense' 这个选择"), ("look Hund --bla", "不认识的参数：--bla"),
])
def test_a_wrong_command_is_told_in_chinese(words, said, capsys, monkeypatch):
    monkeypatch.setenv("COURSE_LANG", "zh")
    with pytest.raises(SystemExit):
        main(words.split())
    assert said in capsys.readouterr().err


def test_stars_are_bold_or_emphasis_but_not_in_code():
    text = "**整句**都*看* `a`"
    assert marked(text) == "<strong>整句</strong>都<em>看</em> <code>a</code>"
    assert plain(text) == "整句都*看* `a`"
    for code in ("1 - h ** 2, 1 - g ** 2", "x**2 + y**2", "f(*a, *b)", "g(**a, **b)", "2*x*y"):
        assert marked(code) == plain(code) == code


def test_without_a_language_all_stays_as_it_is(chinese, monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_LANG")
    assert messages.say("one sentence") == "one sentence" and messages.say(None) is None
    (tmp_path / "notebooks" / "zh").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "zh")
    assert messages.say("one sentence") == "一个句子"


def test_sentences_are_read_from_the_code_with_their_values_as_numbers(tmp_path):
    path = tmp_path / "code.py"
    path.write_text('"""Not this docstring here."""\nsaid = f"You add {x + 1} to " f"{y!r}"\n'
                    'signature = re.compile("not this one")\nsay("Ready")\nkey = "no_sentence"\n')
    assert list(runtime.sentences(path)) == ["Ready", "You add {1} to {2}"]
    path.write_text('end = "The last </w> is bold"\npage = "<b>Not</b> this one"\n')
    assert list(runtime.sentences(path)) == ["The last </w> is bold"]
    path = tmp_path / "reasons.toml"
    path.write_text('[a]\nwhere = ["x", "not this"]\nquestion = "Why is it so?"\n'
                    'planted = "x = f(y, z)"\n[b]\nplanted = "each asked for step 0"\n')
    assert list(runtime.sentences(path)) == ["Why is it so?", "each asked for step 0"]


def test_names_of_guesses_are_read_from_the_pages(tmp_path):
    path = tmp_path / "98_page.py"
    path.write_text('compare(mine, x, "98: one")\nprint(guesses.compare(mine, f(x), "98: two"))\n'
                    'compare(mine, x)\ncompare(mine, x, name)\n')
    assert list(runtime.guesses(path)) == ["98: one", "98: two"]


def test_labels_of_pictures_are_read_from_modules_and_notebooks(monkeypatch, tmp_path):
    monkeypatch.setattr(authoring, "NOTEBOOKS", tmp_path)
    text = '''"""No docstring."""
axis.annotate(f"gap {x:.2f}", xy, textcoords="offset points", color="red", label="step")
axis.set(xlabel="time [ms]", ls=":").legend(loc="upper left")
names = {"read": 1, "set by hand": "a sentence of words"}
draw.maps(panels, title)
title = "It grows"
print(f"not this {one}")
'''
    (tmp_path / "viz").mkdir()
    for name in ("98_page.py", "viz/module.py"):
        (tmp_path / name).write_text(text)
    page = {"gap {1}", "step", "time [ms]", "set by hand", "It grows"}
    assert set(runtime.labels(tmp_path / "98_page.py")) == page
    assert set(runtime.labels(tmp_path / "viz/module.py")) == page | {
        "a sentence of words", "not this {1}"}
