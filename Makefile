# Each command makes .venv, or adds to it what it needs, when that is missing or out of date.
#
#   PYTHON=python3.12      another interpreter, 3.11 or newer
#   TORCH_INDEX=URL        package index to take torch from (a CPU-only build, say); empty: where pip looks
#   LAB_ARGS=--no-browser  more arguments for JupyterLab
#   TEST_ARGS="-k floors"  more arguments for pytest
#
# `make test-sglang` tests against SGLang's real server, for which `make sglang-cpu` makes .venv-sglang (3 GB).

PYTHON ?= python3
TORCH_INDEX ?=
LAB_ARGS ?=
TEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO_INSTALLED := $(VENV)/.installed-demo
LAB_INSTALLED := $(VENV)/.installed-lab
INSTALLED := $(VENV)/.installed

OLDEST_VENV := .venv-oldest
OLDEST_INSTALLED := $(OLDEST_VENV)/.installed
OLDEST_PIP = $(OLDEST_VENV)/bin/python -m pip --disable-pip-version-check install --constraint constraints-oldest.txt
# The clients' tests come before those that load ipykernel, whose old releases change asyncio.run in their process.
OLDEST_TESTS := tests/embedded/text tests/endpoint tests/generation tests/notebook tests/profiling tests/protocol \
	tests/runtime/test_launch.py tests/runtime/test_lifecycle.py

SGLANG_VENV := .venv-sglang
SGLANG_INSTALLED := $(SGLANG_VENV)/.installed
SGLANG_CPU := tests/sglang_cpu
SGLANG_PIP = $(SGLANG_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps \
	--constraint $(SGLANG_CPU)/constraints.txt

.PHONY: help env demo lab unit test test-oldest sglang-cpu test-sglang lint bench notebooks clean

help:
	@echo "make demo    a real model answers in the terminal: the whole of it in one run"
	@echo "make lab     JupyterLab on the first notebook"
	@echo "make unit    the tests that need no server, kernel, browser or model: a minute"
	@echo "make test    all tests"
	@echo "make test-oldest   the tests of notebook and clients with the oldest versions: IPython 7, ipywidgets 7; Python 3.11"
	@echo "make lint    ruff and mypy"
	@echo "make bench   the benchmarks, as ratios"
	@echo "make notebooks   run the notebooks anew and keep their outputs"
	@echo "make clean   remove .venv, .venv-oldest, .venv-sglang and the caches of the tools"
	@echo
	@echo "make sglang-cpu    install SGLang's server for the CPU, into .venv-sglang"
	@echo "make test-sglang   the tests that need it, and its router"

env: $(INSTALLED)

# A stamp is written last, so that an installation that was cut off is taken up again. Each adds to the one before.
$(DEMO_INSTALLED): EXTRAS := embedded
$(LAB_INSTALLED): EXTRAS := embedded,frontend,lab
$(INSTALLED): EXTRAS := embedded,frontend,lab,dev
$(DEMO_INSTALLED): STAMPS := $(DEMO_INSTALLED)
$(LAB_INSTALLED): STAMPS := $(DEMO_INSTALLED) $(LAB_INSTALLED)
$(INSTALLED): STAMPS := $(DEMO_INSTALLED) $(LAB_INSTALLED) $(INSTALLED)

$(DEMO_INSTALLED) $(LAB_INSTALLED) $(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "nbruntime needs Python 3.11 or newer. Name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
ifneq ($(strip $(TORCH_INDEX)),)
	$(PIP) install --constraint constraints.txt --no-deps --index-url "$(TORCH_INDEX)" torch
endif
	$(PIP) install --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $(STAMPS)

demo: $(DEMO_INSTALLED)
	$(BIN)/python examples/demo.py

lab: $(LAB_INSTALLED)
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/01_quickstart.ipynb $(LAB_ARGS)

unit: $(INSTALLED)
	$(BIN)/python -m pytest -m "not (server or model or kernel or browser or notebook or sglang)" $(TEST_ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest $(TEST_ARGS)

$(OLDEST_INSTALLED): pyproject.toml constraints-oldest.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "The oldest versions need Python 3.11. Name it: make test-oldest PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(OLDEST_VENV)
ifneq ($(strip $(TORCH_INDEX)),)
	$(OLDEST_PIP) --no-deps --index-url "$(TORCH_INDEX)" torch
endif
	$(OLDEST_PIP) --editable ".[embedded,frontend,test]"
	touch $@

test-oldest: $(OLDEST_INSTALLED)
	$(OLDEST_VENV)/bin/python -m pytest $(OLDEST_TESTS) $(TEST_ARGS)

sglang-cpu: $(SGLANG_INSTALLED)

# Nothing is resolved: the wheel of SGLang asks for CUDA. See the requirements.
$(SGLANG_INSTALLED): $(SGLANG_CPU)/requirements.txt $(SGLANG_CPU)/constraints.txt
	$(PYTHON) -m venv $(SGLANG_VENV)
ifneq ($(strip $(TORCH_INDEX)),)
	$(SGLANG_PIP) --index-url "$(TORCH_INDEX)" torch
endif
	$(SGLANG_PIP) --requirement $(SGLANG_CPU)/requirements.txt
	@$(SGLANG_VENV)/bin/python -c "import torch" \
		|| { echo "This torch is not for the CPU. Name an index that has one: make sglang-cpu TORCH_INDEX=..." >&2; exit 1; }
	touch $@

test-sglang: $(INSTALLED) $(SGLANG_INSTALLED)
	NBRUNTIME_TEST_SGLANG=$(SGLANG_VENV)/bin/python $(BIN)/python -m pytest -m sglang $(TEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; PYTHONPATH=tests $(BIN)/python "$$script" || exit 1; done

# Without the state of widgets, since every output is there as text and HTML, and without the name of a home folder.
notebooks: $(INSTALLED)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.store_widget_state=False --ExecutePreprocessor.record_timing=False notebooks/*.ipynb
	$(BIN)/jupyter nbconvert --to notebook --inplace --coalesce-streams notebooks/*.ipynb
	sed -i "s#$$HOME/#~/#g" notebooks/*.ipynb

clean:
	rm -rf $(VENV) $(OLDEST_VENV) $(SGLANG_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
