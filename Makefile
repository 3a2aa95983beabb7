# The door: needs Python 3.11 or newer, make and PyPI, and installs the rest into .venv.

VENV := .venv
BIN := $(VENV)/bin
UV := UV_PYTHON_DOWNLOADS=never $(BIN)/uv

# For `make run`: UPSTREAM=http://host:port LISTEN=host:port ADMIN=host:port CONFIG=file ARGS="..."
RUN_FLAGS = $(if $(UPSTREAM),--upstream $(UPSTREAM)) $(if $(LISTEN),--listen $(LISTEN)) \
	$(if $(ADMIN),--admin $(ADMIN)) $(if $(CONFIG),--config $(CONFIG)) $(ARGS)

# `run` needs a backend, from UPSTREAM or from the file; without either the demo brings its own.
RUN_COMMAND = $(if $(UPSTREAM)$(CONFIG),run,demo)

DOCKER ?= docker
IMAGE ?= openclaw-sidecar
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' sidecar/__init__.py)

COMPILE = $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup run test check format lock llama bench fuzz test-system image clean

help: ## Show this list
	@echo "usage: make TARGET [VARIABLE=value ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.dev ## Make .venv with everything that development needs
	@echo "$(VENV) is ready"

run: $(VENV)/.run ## Run the sidecar (UPSTREAM=http://host:port, else a demo backend)
	@exec $(BIN)/openclaw-sidecar $(RUN_COMMAND) $(RUN_FLAGS)

# The exit code is pytest's, or the report's when coverage is too low. With ARGS perhaps only some
# tests run, so coverage is then shown and not judged.
test: $(VENV)/.dev ## Run all tests that need no more than PyPI (ARGS="-k breaker -x")
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest $(ARGS); tested=$$?; \
	$(BIN)/coverage combine -q && $(BIN)/coverage report; reported=$$?; \
	[ $$tested -eq 0 ] && exit $(if $(ARGS),0,$$reported) || exit $$tested

check: $(VENV)/.dev ## Lint, check types, layers and dependencies
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

format: $(VENV)/.dev ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# All pins agree with the development lock, so that what is tested is what is shipped.
lock: $(VENV)/.dev ## Write the lock files anew (ARGS=--upgrade for newer versions)
	$(COMPILE) --group dev pyproject.toml -o requirements-dev.txt
	$(COMPILE) -c requirements-dev.txt pyproject.toml -o requirements.txt
	$(COMPILE) -c requirements-dev.txt --group build -o requirements-build.txt
	$(COMPILE) -c requirements-dev.txt --group system -o requirements-system.txt
	$(COMPILE) -c requirements-dev.txt --group fuzz -o requirements-fuzz.txt

llama: $(VENV)/.dev ## Serve a tiny real model with llama.cpp, to try the sidecar against
	@exec $(BIN)/python -m tests.support.llama $(ARGS)

bench: $(VENV)/.dev ## Measure the sidecar beside other proxies (ARGS=--help)
	@exec $(BIN)/python -m tests.bench $(ARGS)

fuzz: $(VENV)/.fuzz ## Fuzz the data path for a minute (ARGS="--seconds 600 requests"; ARGS=--help)
	@$(BIN)/python -m tests.fuzz $(ARGS)

test-system: $(VENV)/.system ## Build and try the image for real (as root on Debian)
	@bash tests/system/prepare.sh
	@$(BIN)/python -m pytest -m system tests/system $(ARGS)

image: ## Build the image openclaw-sidecar:VERSION (DOCKER=, IMAGE=, ARGS=)
	$(DOCKER) build --tag $(IMAGE):$(VERSION) \
		--build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null) $(ARGS) .

clean: ## Remove .venv and everything else that was made here
	rm -rf $(VENV) build dist .coverage .coverage.* htmlcov .hypothesis .fuzz \
		.mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find sidecar tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python that can be started is not yet one that is new enough, so each candidate is asked.
$(VENV)/bin/python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Setting up $(VENV) with $$($$python --version)"; \
			$$python -m venv $(VENV) && exit 0; \
			rm -rf $(VENV); \
			echo "$$python cannot make a virtual environment; on Debian: apt install python3-venv" >&2; \
			exit 1; \
		fi; \
	done; \
	echo "Python 3.11 or newer was not found; name one with: make PYTHON=/path/to/python3" >&2; \
	exit 1

# uv installs fast; where there is no uv, pip does the same slowly. Its pin and hashes stand in the
# development lock and are cut out of it here, because pip would read the whole file.
$(VENV)/.installer: requirements-dev.txt | $(VENV)/bin/python
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements-dev.txt > $(VENV)/uv.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --only-binary :all: \
		--require-hashes -r $(VENV)/uv.txt || echo "No uv here; going on with pip"
	@touch $@

# $(INSTALL) does what the first of these two says, or the second where there is no uv. pip compiles
# the modules it installs; uv must be told to. Uncompiled ones make the first start three times as long,
# and every start where PYTHONDONTWRITEBYTECODE is set.
INSTALL = if [ -x $(BIN)/uv ]; then installer="$(UV) pip install -q --python $(BIN)/python"; \
	else installer="$(BIN)/python -m pip install -qq --disable-pip-version-check"; fi; \
	env $$installer

$(VENV)/.run: requirements.txt requirements-build.txt pyproject.toml | $(VENV)/.installer
	@echo "Installing what the sidecar needs"
	@export UV_COMPILE_BYTECODE=1; \
	$(INSTALL) --require-hashes -r requirements.txt -r requirements-build.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	@echo "Installing what development needs"
	@$(INSTALL) --require-hashes -r requirements-dev.txt
	@touch $@

$(VENV)/.system: requirements-system.txt $(VENV)/.dev
	@echo "Installing what the system tests need"
	@$(INSTALL) --require-hashes -r requirements-system.txt
	@touch $@

$(VENV)/.fuzz: requirements-fuzz.txt $(VENV)/.dev
	@echo "Installing what the fuzzer needs"
	@$(INSTALL) --require-hashes -r requirements-fuzz.txt
	@touch $@
