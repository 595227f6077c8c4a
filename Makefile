# Each target makes its own environment; Python 3.11 to 3.13 is all it needs.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONUTF8 := 1
ifeq ($(LANG),zh)  # make lab LANG=zh
export COURSE_LANG := zh
endif

.PHONY: lab walkthrough test test-all check test-book book release test-torchtext bench page gpu

lab: .venv/installed  ## open JupyterLab on the first notebook
	$(BIN)/python -m course lab

walkthrough: .venv/installed  ## run the whole paper into build/walkthrough.html
	$(BIN)/python -m course walkthrough

test: .venv/installed  ## lint, module and pair checks, unit tests, every notebook
	$(BIN)/ruff check .
	$(BIN)/python -m course.authoring check
	$(BIN)/python -m pytest

test-all: .venv/installed .venv-book/installed  ## those too that take long, and what of the code they reach
	$(BIN)/python -m pytest -m "" --cov --cov-fail-under=90

check: .venv/installed  ## the author's habit: lint, modules, pairs, and what the change touches
	$(BIN)/ruff check .
	$(BIN)/python -m course.authoring check
	touched=$$($(BIN)/python -m course.authoring.touched) || exit 1; \
	  if [ -n "$$touched" ]; then $(BIN)/python -m pytest $$touched; fi

book: .venv-book/installed  ## every notebook as a page of a book, into build/book
	.venv-book/bin/python -m course.authoring.book

test-book: .venv/installed .venv-book/installed  ## make the book and read it in Chromium, if there is one
	$(BIN)/python -m pytest tests/browser -o addopts= -ra

page: .venv/installed  ## the translator that runs in a browser, into build/translator.html
	$(BIN)/python -m course page

release: .venv/installed  ## the learners' copies of the homework, by nbgrader
	$(BIN)/python -m course.authoring release

test-torchtext: .venv-torchtext/installed  ## the course beside torchtext's last release: 5 GB
	COURSE_OFFLINE=$${COURSE_OFFLINE:-0} .venv-torchtext/bin/python -m pytest -o addopts= -q -s -rs tests/test_torchtext.py

bench: .venv/installed  ## how fast training, decoding and attention are here, against others
	$(BIN)/python -m course bench

gpu: .venv/installed  ## all that a machine with a GPU should be asked: eight minutes
	$(BIN)/python -m course bench gpu

.venv/installed: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -c "import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), 'Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ...'"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv-book/installed: requirements-book.txt
	$(PYTHON) -m venv .venv-book
	.venv-book/bin/python -m pip install --quiet -r requirements-book.txt
	touch $@

.venv-torchtext/installed: requirements-torchtext.txt
	$(PYTHON) -c "import sys; assert sys.version_info[:2] in ((3, 11), (3, 12)), 'torch 2.3 needs Python 3.11 or 3.12: make test-torchtext PYTHON=python3.12'"
	$(PYTHON) -m venv .venv-torchtext
	.venv-torchtext/bin/python -m pip install --quiet -r requirements-torchtext.txt
	touch $@
