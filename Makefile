# Every target does its own set-up: a fresh machine needs Python 3.11 or later and make, nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.m3etl-installed

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup demo test check bench bench-quick docs clean-demo

help:
	@echo "make demo         the whole chain on the embedded Earth Engine, with pictures, into ./m3etl-demo"
	@echo "make test         every test that needs neither an account nor a GPU"
	@echo "make check        lint, format, types, generated docs"
	@echo "make bench        measurements against named rivals (bench-quick: under five minutes)"
	@echo "make docs         write the generated pages of docs/"
	@echo "make setup        the virtual environment alone"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("m3etl needs Python 3.11 or later, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $(STAMP)

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/m3etl demo

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

docs: $(STAMP)
	$(BIN)/python docs/generate.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks

bench-quick: $(STAMP)
	$(BIN)/python -m benchmarks --quick

clean-demo:
	rm -rf m3etl-demo
