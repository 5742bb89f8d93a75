# `make help` lists what there is to make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first interpreter of a version that the pinned dependencies support.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	if $$python -c '$(SUPPORTED)' 2>/dev/null; then echo $$python; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
CORPORA ?= ../shared/corpora
# Where make train puts its bundle; serving/bundle is the released one.
OUTPUT ?= out/bundle
REPORT ?= out/evaluation
# More options for pip, such as an index of your own.
PIP_FLAGS ?=
# More options for pytest, such as -m 'not slow'; -n 0 runs all tests in one process.
PYTEST_FLAGS ?=

# Nothing is ever downloaded at run time: the encoder comes from an installed package.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

PACKAGES := data model serving training
BENCHMARKS := $(sort $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: demo
demo: $(VENV)/.demo-ready ## Score a bundled sample log with the bundled detector
	@$(BIN)/stillwatch demo

.PHONY: test
test: lint services litellm psi ## Lint, check types and run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

.PHONY: services
services: ## Install Redis, PostgreSQL and Chromium for the tests, where that is possible
	@tests/install-services.sh

.PHONY: litellm
litellm: $(VENV)/.dev-ready ## Install LiteLLM's proxy for its test: 750 MB, once
	@PYTHON=$(BIN)/python PIP_FLAGS="$(PIP_FLAGS)" tests/install-litellm.sh

.PHONY: psi
psi: $(VENV)/.dev-ready ## Install openmined-psi for its test: a few MB, once
	@PYTHON=$(BIN)/python PIP_FLAGS="$(PIP_FLAGS)" tests/install-psi.sh

.PHONY: lint
lint: $(VENV)/.dev-ready types ## Lint and check types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy .types/stillwatch tests $(BENCHMARKS)

.PHONY: format
format: $(VENV)/.dev-ready ## Sort imports and format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: train
train: $(VENV)/.demo-ready ## Train the released detector anew; CORPORA=folder OUTPUT=folder
	$(BIN)/stillwatch train --config training/configs/release.yaml --corpora $(CORPORA) \
		--output $(OUTPUT)

.PHONY: evaluate
evaluate: $(VENV)/.demo-ready ## Test on material left out, with what `make train` fitted; CORPORA=folder REPORT=folder
	$(BIN)/stillwatch evaluate --corpora $(CORPORA) --report $(REPORT) --run runs/train

.PHONY: bench
bench: $(VENV)/.demo-ready ## Run every benchmark
	@test -n "$(BENCHMARKS)" || { echo "There is no benchmark in benchmarks/." >&2; exit 1; }
	@for script in $(BENCHMARKS); do echo "$$script"; $(BIN)/python $$script; done

.PHONY: clean
clean: ## Remove build output and caches, .venv excepted
	rm -rf build dist *.egg-info .types .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# mypy has to see each file under the name it is imported by.
.PHONY: types
types:
	@mkdir -p .types/stillwatch
	@for package in $(PACKAGES); do ln -sfn ../../$$package .types/stillwatch/$$package; done

# Two stamps: the demo does without the linters and test tools.
$(VENV)/.demo-ready: pyproject.toml | $(BIN)/python
	@echo "Installing Stillwatch into $(VENV): a minute or more and at least 2 GB the first time." >&2
	@$(BIN)/python -m pip install -qq $(PIP_FLAGS) --editable '.[train]'
	@touch $@

$(VENV)/.dev-ready: pyproject.toml | $(BIN)/python
	@echo "Installing Stillwatch and its test tools into $(VENV): a minute or more and at least" \
		"2 GB the first time." >&2
	@$(BIN)/python -m pip install -qq $(PIP_FLAGS) --editable '.[train,dev]'
	@touch $(VENV)/.demo-ready $@

$(BIN)/python:
	@python="$(or $(PYTHON),python3)"; if ! "$$python" -c '$(SUPPORTED)' 2>/dev/null; then \
		found=$$("$$python" --version 2>/dev/null || echo missing); \
		echo "Stillwatch must have Python 3.11 or 3.12, however: $$python is $$found;" \
			"install one, or name it with PYTHON=/path/to/python3.11." >&2; exit 1; fi; \
	"$$python" -m venv $(VENV)
