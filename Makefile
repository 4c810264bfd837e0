# Two commands set everything up on a fresh machine (Linux, Python 3.11 or 3.12, git, make):
#   make quickstart   the whole chain on real parts, without a GPU
#   make test         lint, types, unit and integration tests
# `make setup EXTRA=cpu` or `EXTRA=gpu` forces one set of dependencies; without it a machine whose driver shows a GPU gets the GPU set.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= $(shell if nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then echo gpu; else echo cpu; fi)
READY := $(VENV)/ready-$(EXTRA)
RUFF := $(BIN)/ruff
PYTEST := $(BIN)/python -m pytest
RAY_PYTEST := $(BIN)/python -m tests

.PHONY: help setup quickstart test test-full test-gpu lint types unit integration wheel clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(READY) ## make the environment in .venv, once

$(READY): pyproject.toml constraints/$(EXTRA).txt constraints/overrides.txt
	@echo "setup: making $(VENV) with the $(EXTRA) dependencies (about 7 GB, a few minutes); later runs reuse it"
	@python=""; for candidate in $(PYTHON) python3.12 python3.11 python3 python; do \
	  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "setup: Python 3.11 or 3.12 is needed; name one with make PYTHON=/path/to/python" >&2; exit 2; fi; \
	if [ ! -x $(BIN)/python ]; then "$$python" -m venv $(VENV) || { echo "setup: the venv module is missing (Debian: python3-venv)" >&2; exit 2; }; fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[$(EXTRA),dev]' \
	  --constraint constraints/$(EXTRA).txt --override constraints/overrides.txt
	@# The chain starts many processes, and each would compile what it imports where the environment keeps Python from caching it.
	@# Some packages ship files for other Pythons, which do not compile: never a reason to stop.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@rm -f $(VENV)/ready-*; touch $@
	@echo "setup: ready"

quickstart: $(READY) ## the whole chain on this machine, on shipped data
	$(BIN)/raystill quickstart

test: lint types unit integration ## everything that CI runs

lint: $(READY)
	$(RUFF) check .
	$(RUFF) format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY) ## tests without Ray, one file beside the other
	@# One thread each: tensors of tests gain nothing from several, which wait for each other where the cores are taken.
	OMP_NUM_THREADS=1 $(PYTEST) -m "not integration and not gpu and not full" --dist loadfile \
	  --numprocesses $$($(BIN)/python -c "from pipelines.runtime.cpus import usable_cpus; print(min(8, usable_cpus()))")

integration: $(READY) ## tests on real vLLM, DeepSpeed and Serve
	$(RAY_PYTEST) -m "integration and not gpu and not full" --timeout 400

test-full: $(READY) ## what is longer than CI allows
	$(RAY_PYTEST) -m "full and not gpu" --timeout 1800

test-gpu: $(READY) ## what needs a GPU
	$(RAY_PYTEST) -m gpu --timeout 900

wheel: $(READY) ## dist/raystill-*.whl
	$(BIN)/uv build --quiet --wheel --out-dir dist

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
