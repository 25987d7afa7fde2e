PYTHON ?= python3
NB ?= $(sort $(wildcard book/*.ipynb))
PORT ?= 8000

BIN := .venv/bin
READY := .venv/.installed
OLDEST_READY := .venv-oldest/.installed
NBGRADER_READY := .venv-nbgrader/.installed
OTTER_READY := .venv-otter/.installed
BENCH_READY := .venv/.installed-benchmark

# Models this small run fastest on one thread, and repeat bit for bit on it.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help book serve test test-oldest test-nbgrader test-otter colab lint format notebooks bench wheel student instructor \
	nbgrader otter decks decks-pdf repository release clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(READY)  ## build the web book, strictly
	@# An incremental build repeats no warning of the pages that it keeps.
	@rm -rf _build
	@$(BIN)/python tools/book.py mathjax
	$(BIN)/jupyter-book build . -W -n --keep-going
	@$(BIN)/python tools/book.py check

serve: book  ## build the web book and serve it on localhost
	@echo "http://localhost:$(PORT)/ (Ctrl-C to stop)"
	@$(BIN)/python -m http.server $(PORT) --bind localhost --directory _build/html

# One run over all, a file a worker, so that what a file builds is built once. What takes minutes goes
# first, so that both workers end together. -rs says what was skipped: the browser tests need a Chromium.
test: $(READY)  ## lint, build the book, re-execute every chapter, test package and pages
	$(MAKE) -j 2 lint book
	BOOK_REQUIRED=1 $(BIN)/pytest book tests/site tests/course tests/experiments tests/book tests/package \
		--nbval --nbval-current-env --nbval-sanitize-with book/nbval_sanitize.cfg \
		-n 2 --dist loadscope --no-loadscope-reorder -rs

colab: wheel  ## run every chapter as Colab does: stock packages, the wheel, an empty folder
	$(BIN)/pytest tests/book/test_colab.py -m colab -n 2

# Left out are what needs the book's tools: the panel's JupyterLab, the wheel's check.
test-oldest: $(OLDEST_READY)  ## test the package with the oldest versions that it allows, on Python 3.11
	.venv-oldest/bin/python -m pytest tests/package -n 2 -rs \
		--ignore tests/package/test_panel.py --ignore tests/package/test_packaging.py

test-nbgrader: $(NBGRADER_READY)  ## let nbgrader grade a right, a wrong and an empty submission
	.venv-nbgrader/bin/python -m pytest tests/course/test_marks.py -m nbgrader

test-otter: $(OTTER_READY)  ## let Otter grade a right, a wrong and an empty submission
	.venv-otter/bin/python -m pytest tests/course/test_marks.py -m otter

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff sort imports and format
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

notebooks: $(READY)  ## re-execute chapters and store their outputs (NB=book/x.ipynb for one)
	@$(BIN)/python tools/book.py execute $(NB)

bench: $(BENCH_READY)  ## time the package beside pythae, zuko and normflows
	$(BIN)/pytest tests/benchmarks

wheel: $(READY)  ## build the package's wheel into dist/
	@rm -rf build dist/*.whl
	$(BIN)/pip wheel -q . --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist

student: wheel  ## pack chapters without solutions (CHAPTERS="1 2" for some, KEEP_OUTPUTS=1 with results)
	@$(BIN)/python tools/classroom.py student $(if $(KEEP_OUTPUTS),--keep-outputs) --chapters $(CHAPTERS)

instructor: $(READY)  ## pack the chapters and the course into dist/instructor.zip (SEED=7 for more questions)
	@$(BIN)/python tools/classroom.py instructor $(if $(SEED),--seed $(SEED))

nbgrader: $(READY)  ## write assignments into dist/nbgrader/ (CHAPTERS="1 2" for some, SEED=7 for hidden tests)
	@$(BIN)/python tools/marks.py nbgrader $(if $(SEED),--seed $(SEED)) --chapters $(CHAPTERS)

otter: $(READY)  ## write assignments into dist/otter/ (CHAPTERS="1 2" for some, SEED=7 for hidden tests)
	@$(BIN)/python tools/marks.py otter $(if $(SEED),--seed $(SEED)) --chapters $(CHAPTERS)

decks: $(READY)  ## make a deck of slides of every session in dist/decks/
	@$(BIN)/python tools/slides.py

decks-pdf: $(READY)  ## print the decks as PDF, with Chromium
	@$(BIN)/python tools/slides.py --pdf

# The address reaches the script as it was typed: neither make nor the shell runs what is in it.
unexport URL
repository: export REPOSITORY = $(value URL)
repository:  ## write the repository's address everywhere (URL=https://github.com/you/your-repository)
	@$(PYTHON) tools/repository.py "$$REPOSITORY"

release: wheel  ## check that version, changelog, citation, chapters, wheel and tag agree
	@$(BIN)/python -m twine --no-color check --strict dist/*.whl
	@$(BIN)/python tools/release.py $(if $(TAG),"$(TAG)")

clean:  ## remove what was built; .venv stays, and so does dist/, what was packed for a course
	rm -rf _build build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# -qq: pip's warnings are long and ask for nothing; errors still show.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or \
		sys.exit("Python 3.11 or later is needed and this is %d.%d: name one with make PYTHON=python3.13" % v)'
	@if [ -d .venv ]; then echo "requirements.txt or pyproject.toml has changed: checking .venv."; else \
		echo "Installing into .venv, once: minutes, and on Linux about 3 GB (README: What pip downloads)."; fi
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Oldest Python, oldest versions: what an installation of today with pyproject.toml's ranges never meets.
$(OLDEST_READY): requirements-oldest.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v == (3, 11) or \
		sys.exit("The oldest versions need Python 3.11 and this is %d.%d: name one with make PYTHON=python3.11" % v)'
	@echo "Installing into .venv-oldest: a few minutes, once."
	@$(PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python -m pip install -qq --disable-pip-version-check -r requirements-oldest.txt
	@.venv-oldest/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(NBGRADER_READY) $(OTTER_READY): .venv-%/.installed: requirements-%.txt pyproject.toml
	@echo "Installing into .venv-$*, once: minutes, and with a torch of its own as much as .venv takes."
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python -m pip install -qq --disable-pip-version-check -r requirements-$*.txt
	@.venv-$*/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(BENCH_READY): $(READY)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-build-isolation -e ".[benchmark]"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps pythae==0.1.2
	@touch $@
