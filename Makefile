# Each target makes its own .venv from the pinned constraints when it is missing.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-all quick torture check docs format clean

help:
	@echo "make demo    the whole loop on the embedded Shapes world, ending in runs/shapes/report.html"
	@echo "make test    the tests, but for the long ones"
	@echo "make test-all every test: also those of whole runs, kills and several processes"
	@echo "make quick   the tests that take under a second each"
	@echo "make torture attacks on the run folder, about an hour on two idle cores"
	@echo "make check   lint, format, types, import rules, names and the documentation site"
	@echo "make docs    the documentation site, site/index.html"
	@echo "make format  put the code into the project's format"

demo: $(INSTALLED)
	$(BIN)/agfsync run shapes

# A process for each core, each with one thread.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto -m "not long"

test-all: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto

quick: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto -m "not slow and not long"

torture: $(INSTALLED)
	$(BIN)/python -m tests.torture $(ATTACKS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.words --check
	$(MAKE) --no-print-directory docs

# A warning, such as a broken link, is an error.
docs: $(INSTALLED)
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs site

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv site docs/reference

# torch first and alone: it is the one package whose build the machine decides.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt torch
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	touch $@
