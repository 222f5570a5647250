# `make demo` and `make lab` are all the set-up there is: each makes .venv when it is not there or out of date.
#
#   PYTHON=python3.12      another interpreter, 3.11 or newer
#   TORCH_INDEX=URL        package index to take torch from (a CPU-only build, say); empty: where pip looks
#   LAB_ARGS=--no-browser  more arguments for JupyterLab
#   TEST_ARGS="-k floors"  more arguments for pytest

PYTHON ?= python3
TORCH_INDEX ?=
LAB_ARGS ?=
TEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed

.PHONY: help env demo lab test lint bench clean

help:
	@echo "make demo    a real model answers in the terminal: the whole of it in one run"
	@echo "make lab     JupyterLab on the first notebook"
	@echo "make test    the tests"
	@echo "make lint    ruff and mypy"
	@echo "make bench   the benchmarks, as ratios"
	@echo "make clean   remove .venv and the caches of the tools"

env: $(INSTALLED)

# The stamp is written last, so that an installation that was cut off is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "nbruntime needs Python 3.11 or newer. Name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
ifneq ($(strip $(TORCH_INDEX)),)
	$(PIP) install --constraint constraints.txt --no-deps --index-url "$(TORCH_INDEX)" torch
endif
	$(PIP) install --constraint constraints.txt --editable ".[embedded,frontend,dev]"
	touch $@

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

lab: $(INSTALLED)
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/01_quickstart.ipynb $(LAB_ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest $(TEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
