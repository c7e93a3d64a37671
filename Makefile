# The list of commands. `make` alone prints it; CI runs these targets and nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# The first of these that is a Python gesso supports.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
RUN := $(VENV)/bin/python
PREFLIGHT := python_backend/src/gesso_backend/host/preflight.py
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check
DEV := pytest pytest-xdist hypothesis ruff mypy pyyaml
# The runtime's real classes, which need no GPU to be imported; the builder is not on PyPI.
TENSORRT := tensorrt-lean-cu13 cuda-python polygraphy
BUNDLE ?= bundles/little-world
PARITY := $(VENV)/parity.json


help:  ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r target text; do \
		printf '  make %-18s %s\n' "$$target" "$$text"; done

setup: $(VENV)/ready  ## virtual environment, pinned packages and Triton (every other target does this first)

$(VENV)/ready: constraints.txt $(PREFLIGHT) $(wildcard */pyproject.toml)
	@test -n "$(PYTHON)" || { echo "gesso: no Python 3.11 or 3.12 found: install one, or make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) $(PREFLIGHT) $(VENV)
	@echo "setting up $(VENV) with $$($(PYTHON) --version) (once)"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(PIP) -c constraints.txt setuptools
	@$(PIP) -c constraints.txt --no-build-isolation -e client -e python_backend -e export $(DEV)
	@$(VENV)/bin/gesso-serve --install-triton
	@touch $@

demo: setup  ## add, replace and remove a thing in a picture, through a real Triton server
	@$(RUN) examples/demo.py --bundle $(BUNDLE)

test: setup  ## all tests but the slow ones, real Triton included
	@GESSO_PARITY=$(PARITY) $(RUN) -m pytest -m "not slow and not gpu" -n 2 --dist loadscope
	@$(RUN) -m benchmarks models --check $(PARITY)

test-quick: setup  ## the tests that need no torch, no exported bundle and no Triton, in about a minute
	@$(RUN) -m pytest --quick -n 2 --dist worksteal -rfE

models: setup  ## the tables of docs/models.md and the README, from the parity tests
	@GESSO_PARITY=$(PARITY) $(RUN) -m pytest tests/e2e/test_parity.py tests/e2e/test_families.py
	@$(RUN) -m benchmarks models --write $(PARITY)

test-quiet: setup strace  ## no process opens a connection that nobody asked for: export, server, demo, tests, traced
	@$(RUN) -m pytest tests/quiet

strace:
	@command -v strace > /dev/null || { apt-get update -qq && apt-get install -qq strace; }

test-slow: setup strace  ## what takes minutes each, property tests at length, TensorRT's real classes
	@$(PIP) -c constraints.txt $(TENSORRT) matplotlib
	@$(RUN) -m pytest -m "(slow or hypothesis) and not gpu" --hypothesis-profile=many

tables: setup  ## the tables of docs, READMEs and config.pbtxt whose home is the code
	@$(RUN) -m docs.tables

lint: setup  ## ruff, mypy, and the tables of docs and configs against the code
	@$(RUN) -m docs.tables --check
	@$(RUN) -m benchmarks models --check benchmarks/results/parity.json
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy python_backend/src/gesso_backend client/src export/src

format: setup  ## let ruff rewrite the code
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

test-gpu: setup  ## on a machine with a GPU: engines built, verified, served, compared, measured; one report
	@$(RUN) -m pytest -m gpu
	@$(RUN) -m benchmarks gpu

bench-gpu: setup  ## the GPU's numbers alone
	@$(RUN) -m benchmarks gpu

bench-load: setup  ## the scheduler under load (about half an hour)
	@$(RUN) -m benchmarks load

bench-peers: setup  ## gesso beside its peers on a CPU, in their own environments (half an hour)
	@$(RUN) -m benchmarks peers prepare
	@$(RUN) -m benchmarks peers measure
	@$(RUN) -m benchmarks peers write

bench-triton: setup  ## perf_analyzer against gesso and a diffusers pipeline in Triton (about 10 minutes)
	@$(PIP) -c constraints.txt matplotlib
	@$(RUN) -m benchmarks perf_analyzer --write

bench-overhead: setup  ## where a server's time outside the engines goes (10 GB of memory)
	@$(PIP) -c constraints.txt py-spy
	@$(RUN) -m benchmarks overhead --write

bench-crop: setup  ## what cropping saves, and what it costs in quality (a quarter of an hour)
	@$(RUN) -m benchmarks crop

bench: setup  ## the numbers of docs/benchmarks.md, measured here (about half an hour)
	@$(RUN) -m benchmarks request

readme-images: setup  ## the pictures that the README opens with
	@$(RUN) examples/demo.py --out docs/images

train-demo-model: setup  ## train the shipped model from nothing (hours on 2 cores; stop and go on at will)
	@$(RUN) -m training.train

eval-demo-model: setup  ## the shipped model against its targets, into docs/demo-model.md
	@$(PIP) -c constraints.txt opencv-python-headless
	@$(RUN) -m training.evaluation.evaluate --write

clean:  ## remove what the targets made, but not the Triton in the user's cache
	rm -rf $(VENV) bundles checkpoints demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf {client,python_backend,export}/src/*.egg-info

.PHONY: help setup demo test test-quick test-quiet strace models tables test-slow lint format bench bench-load bench-crop readme-images train-demo-model eval-demo-model test-gpu bench-gpu bench-peers bench-triton bench-overhead clean
