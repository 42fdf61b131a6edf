# What a developer types. Needs make, Python 3.11 or newer with venv, and a C++ compiler; the rest comes from PyPI, locked.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-build-isolation --disable-pip-version-check
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--no-annotate --no-emit-index-url --no-emit-find-links

.DEFAULT_GOAL := help
.PHONY: help setup dev clients demo test check coverage lock clean

help: ## Say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' Makefile | column -t -s '|' 2>/dev/null || grep '##' Makefile

setup: $(VENV)/.setup ## Build .venv with the llama.cpp runtime (compiles it: some minutes)

dev: $(VENV)/.dev ## The same, with what checks and tests need

clients: tests/clients/node_modules/.installed $(VENV)/sdk1/.installed ## Install the MCP clients that the tests talk to the server with

demo: setup ## Call all four tools through a real MCP client and show what they answer
	$(BIN)/gemma-mcp demo

test: dev ## Run the tests
	$(BIN)/python -m pytest

check: dev ## Lint, format, types, imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

coverage: dev ## Run the same tests and hold branch coverage at 90 %, of the core and of the backend
	$(BIN)/coverage erase
	$(BIN)/python -m pytest --cov --cov-report=
	$(BIN)/coverage report --include='gemma_mcp/*' --fail-under=90
	$(BIN)/coverage report --include='backends/gemma_mcp_llamacpp/*' --fail-under=90

lock: dev ## Write the lock files anew, with the newest versions that fit
	$(COMPILE) --custom-compile-command 'make lock' --group build -o requirements/build.txt
	$(COMPILE) --custom-compile-command 'make lock' --extra llamacpp -c requirements/build.txt \
		-o requirements/llamacpp.txt pyproject.toml
	$(COMPILE) --custom-compile-command 'make lock' --extra llamacpp --group dev -c requirements/llamacpp.txt \
		-o requirements/dev.txt pyproject.toml
	$(COMPILE) --custom-compile-command 'make lock' --group sdk1 -o requirements/sdk1.txt
	PATH=$(abspath $(BIN)):$$PATH npm --prefix tests/clients install --package-lock-only --ignore-scripts \
		--omit-lockfile-registry-resolved --no-audit --no-fund

clean: ## Remove what was built, .venv too
	rm -rf $(VENV) dist tests/clients/node_modules .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'gemma-mcp needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "Python's venv module is missing: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.setup: $(VENV)/.python requirements/build.txt requirements/llamacpp.txt pyproject.toml
	@command -v "$${CXX:-c++}" >/dev/null || \
		{ echo 'A C++ compiler is missing: on Debian and Ubuntu, apt install g++' >&2; exit 1; }
	$(PIP) --require-hashes -r requirements/build.txt
	$(PIP) --require-hashes -r requirements/llamacpp.txt
	$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.setup requirements/dev.txt
	$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

# Install scripts stay off but for the one that puts Claude Code's binary in its place.
tests/clients/node_modules/.installed: $(VENV)/.dev tests/clients/package.json tests/clients/package-lock.json
	PATH=$(abspath $(BIN)):$$PATH npm --prefix tests/clients ci --ignore-scripts --no-audit --no-fund
	$(BIN)/node tests/clients/node_modules/@anthropic-ai/claude-code/install.cjs
	@touch $@

# The older SDK cannot stand beside the one that the server uses.
$(VENV)/sdk1/.installed: $(VENV)/.dev requirements/sdk1.txt
	$(BIN)/python -m venv --clear --without-pip $(VENV)/sdk1
	$(BIN)/python -m pip --python $(VENV)/sdk1/bin/python install --quiet --disable-pip-version-check \
		--require-hashes -r requirements/sdk1.txt
	@touch $@
