"""The book's own words, and those that its theme leaves in English; po/ has those of the pages."""

import os

CHINESE = {
    # parts and pages
    "Begin": "开始",
    "Before the paper": "论文之前",
    "The model": "模型",
    "From text to BLEU": "从文本到 BLEU",
    "Deeper": "深入",
    "Machine room": "工程篇",
    "Homework": "作业",
    "To look up": "查阅",
    "Attention Is All You Need, built in notebooks that run":
        "Attention Is All You Need：能运行的笔记本，一步步造出来",
    "The translator, alive": "翻译器，就在网页里",
    "type German, and watch every part at work": "输入德语，看每个部件怎样工作",
    "Glossary": "术语表",
    "the words that stop a first reader, in three languages": "初读时会卡住你的词，三种语言对照",
    "# Glossary · 术语表 · Glossar": "# 术语表 · Glossary · Glossar",
    "The words that stop a first reader, in English, Chinese and German: as textbooks use them.":
        "初读论文时会卡住你的词：中文、英文和德文对照，用的都是教科书里的说法。",
    # on a page
    "Search the book": "在书中搜索",
    "Show the code": "显示代码",
    "Hide the code": "隐藏代码",
    "Read this section": "展开阅读这一节",
    "#| export · into course/{module}.py": "#| export · 收进 course/{module}.py",
    "NBVAL_CHECK_OUTPUT · compared by the tests": "NBVAL_CHECK_OUTPUT · 测试会比对输出",
    "The paper's section {number}, in the walkthrough": "论文 {number} 节，见导读",
    "Section {number} of this page": "本页第 {number} 节",
    ": ": "：",
    "Picture to the text of the section {section}": "“{section}”一节的插图",
    "To solve these exercises you need the course on your machine: what `check` says, it says "
    "there. `make lab` opens it; the page is `notebooks/homework/release/{name}/{name}.ipynb`. "
    "Here you can read what is asked.":
        "做这些练习，需要在你的机器上装好这门课：`check` 的点评只在那里给出。用 `make lab LANG=zh` "
        "打开它，这一页是 `notebooks/zh/homework/{name}/{name}.ipynb`。在这里你可以先看看题目。",
    "中文": "English",  # the switch to the other language
    # of the theme, which has the others
    "Breadcrumb": "当前位置",
    "Color mode": "配色",
    "Collapse Sidebar": "收起侧栏",
    "Expand Sidebar": "展开侧栏",
    "On this page": "本页目录",
    "Print to PDF": "打印成 PDF",
    "System Settings": "跟随系统",
    "Toggle primary sidebar": "显示或隐藏全书目录",
    "Toggle secondary sidebar": "显示或隐藏本页目录",
    "Home": "首页",
    "next": "下一页",
    "previous": "上一页",
}  # fmt: skip


def is_chinese() -> bool:
    """Whether the edition that is being made is the Chinese one."""
    return os.environ.get("COURSE_LANG", "").startswith("zh")


def say(words: str) -> str:
    """Return words of the book in the language of the edition that is being made."""
    return CHINESE[words] if is_chinese() else words
