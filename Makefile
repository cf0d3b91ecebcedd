# make study [PROFILE=quick]   the whole study; leaves reports/$(PROFILE)/index.html
# make test                    the tests
# make lab                     JupyterLab on the notebooks
# Each creates .venv from requirements.lock on first use; Python 3.11 or 3.12 is all it needs.

PROFILE ?= quick
CORES ?= all
PYTHON ?= $(shell command -v python3.12 >/dev/null && python3.12 -c "" 2>/dev/null && echo python3.12 || echo python3)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1

.PHONY: study test lint lab clean

study: .venv/installed
	snakemake --cores $(CORES) --config profile=$(PROFILE) --rerun-incomplete --quiet rules host
	@echo "open reports/$(PROFILE)/index.html"

test: .venv/installed
	python -m pytest tests

lint: .venv/installed
	ruff check .
	ruff format --check .

lab: .venv/installed
	jupyter lab --notebook-dir=. notebooks/explore.ipynb

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	  || { echo "error: Python 3.11 or 3.12 is needed, $(PYTHON) is another; make PYTHON=python3.11"; exit 1; }
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) .venv \
	  && uv pip install --python $(BIN)/python -r requirements.lock \
	  && uv pip install --python $(BIN)/python --no-deps -e .; \
	else \
	  $(PYTHON) -m venv .venv \
	  && $(BIN)/python -m pip install --progress-bar off -r requirements.lock \
	  && $(BIN)/python -m pip install --no-deps -e .; \
	fi
	@touch $@

clean:
	rm -rf data/ci data/quick reports/ci reports/quick
