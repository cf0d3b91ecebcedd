# make study [PROFILE=quick]   the whole study; leaves reports/$(PROFILE)/index.html
# make report PROFILE=paper    its pages from the runs that are there; trains nothing
# make test                    the tests
# make lab                     JupyterLab on the notebooks
# Each creates .venv from requirements.lock on first use; Python 3.11 or 3.12 is all it needs.

PROFILE ?= quick
CORES ?= all
GPU_GB ?= 72  # of GPU memory for trainings side by side; an 80 GB card
PYTHON ?= $(shell command -v python3.12 >/dev/null && python3.12 -c "" 2>/dev/null && echo python3.12 || echo python3)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
export LOGNAME := $(or $(LOGNAME),$(USER),$(shell id -u))# Snakemake asks for it; in a container, a user may have no name
ifneq ($(shell test -d "$$HOME" -a -w "$$HOME" && echo yes),yes)
export HOME := $(CURDIR)/.snakemake/home# for the caches of Snakemake, matplotlib and JupyterLab
endif
unexport PROFILE  # to export it, make would expand it

.PHONY: study report test lint lab clean writable

NAME = $(subst ','\'',$(value PROFILE))# as typed: nothing in it is expanded or run
SNAKEMAKE = snakemake --cores $(CORES) --resources gpu_gb=$(strip $(GPU_GB)) --quiet rules host

study: writable .venv/installed
	$(SNAKEMAKE) --config 'profile=$(NAME)'
	@echo 'open reports/$(NAME)/index.html'

report: writable .venv/installed
	$(SNAKEMAKE) --config 'profile=$(NAME)' runs=finished --forcerun architectures segmentations
	@echo 'open reports/$(NAME)/index.html'

writable:
	@test -w . || { echo 'error: the folder of the study cannot be written' >&2; \
	  echo 'fix: allow it, or copy the study to a disk that can be written' >&2; exit 1; }

test: .venv/installed
	python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed
	ruff check .
	ruff format --check .
	mypy

lab: .venv/installed
	@jupyter labextension disable --level=sys_prefix @jupyterlab/apputils-extension:announcements  # asks the network
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
