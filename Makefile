# Every target makes what it needs: a machine with Python and make is enough.
PYTHON ?= python3
TORCH_INDEX ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# From an index of its own, torch comes with whatever helpers that index has; the next install sets those to our pins.
TORCH_REQUIREMENT := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),-c constraints.txt) $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench docs clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo    attack a few examples end to end and write a report (needs Python 3.11 or newer, nothing else)'
	@echo 'make test    run every test, in WORKERS=$(WORKERS) processes'
	@echo 'make lint    check format, style and types'
	@echo 'make bench   the package's attacks beside the published loops, in one run'
	@echo 'make docs    build the documentation into site/'
	@echo 'make clean   remove the virtual environment and everything built'
	@echo ''
	@echo 'Each makes its own virtual environment in $(VENV)/ on first use. Variables:'
	@echo '  PYTHON=$(PYTHON)    the interpreter that makes the environment'
	@echo '  TORCH_INDEX=$(TORCH_INDEX)       index URL for torch alone. Empty means the default index, whose build for Linux'
	@echo '                    carries CUDA (several GB); for a CPU-only, ROCm or other CUDA build give the URL'
	@echo "                    that PyTorch's install page shows: make demo TORCH_INDEX=URL"
	@echo '  WORKERS=$(WORKERS)         test processes'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("gradleak needs Python 3.11 or newer, and $(PYTHON) is %d.%d; choose another: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)

# First and alone: nothing else may decide which build of torch comes.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) install --quiet $(TORCH_REQUIREMENT)
	@touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.run

$(VENV)/.docs: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet -c constraints.txt -e '.[docs]'
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run
	$(BIN)/gradleak demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.run
	$(BIN)/gradleak bench --attacks auto,dlg,released-dlg,released-ig

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis gradleak-demo
	find src tests benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
