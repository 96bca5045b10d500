# Everything goes through .venv, made by whichever target needs it first and left alone afterwards.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help book test test-faults lint lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
		while IFS="$$(printf '\t')" read -r target text; do printf 'make %-11s %s\n' "$$target" "$$text"; done

book: .venv/.installed ## build the HTML book from the records, then run the MNIST demo and build again (minutes the first time)
	@echo "book: building the pages of the recorded runs"
	@$(BIN)/guidebook build
	@echo "book: open book/_build/html/index.html; running the MNIST demo meanwhile (about six minutes on two CPU cores)"
	@$(BIN)/guidebook run mnist --profile demo
	@$(BIN)/guidebook build

test: .venv/.installed ## run the tests, but for those marked slow
	@echo "test: running the tests not marked slow (minutes on two cores)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# SLURM, where it is installed, is started for the tests and ended after them.
test-faults: .venv/.installed ## try every fault, on a real SLURM too, and keep the counts for the book (about 40 minutes)
	@echo "test-faults: kills, signals, full disks, corrupt files, wrong parameters, SLURM"
	@GUIDEBOOK_FAULTS=book/results/faults.json OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults tests/slurm \
		tests/test_processes.py -n auto --maxprocesses 4 --dist worksteal

lint: .venv/.installed ## check style, that notebooks carry no outputs, and that the pins agree
	@echo "lint: style"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@echo "lint: notebooks without outputs"
	@find notebooks -name '*.ipynb' -not -path '*/.*' -exec $(BIN)/nbstripout --verify {} +
	@echo "lint: pins"
	@$(BIN)/python -m pytest tests/test_pins.py

# Keeps every pin that still fits pyproject.toml; to move them all: make lock UPGRADE=--upgrade
lock: $(BIN)/pip ## pin anew what pyproject.toml asks for, into requirements.lock (seconds)
	@echo "lock: writing requirements.lock"
	@$(BIN)/uv --version >/dev/null 2>&1 || $(PIP) install -qq uv
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --no-header --no-emit-index-url --no-annotate \
		--quiet $(UPGRADE) --output-file requirements.lock

clean: ## remove the built pages and the caches; runs/ and .venv/ stay
	@echo "clean: removing book/_build and caches"
	@rm -rf book/_build .pytest_cache .ruff_cache .hypothesis
	@find lib tests notebooks book -name __pycache__ -type d -prune -exec rm -rf {} +
	@find notebooks book -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || { \
		found=$$($(PYTHON) --version 2>&1 | head -n 1); \
		echo "guidebook needs Python 3.11 or newer, but $(PYTHON) is: $${found:-not a working Python}." \
			"Name another, for example: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12" >&2; exit 1; }
	@echo "setup: making .venv"
	@$(PYTHON) -m venv --clear .venv

# The lock is complete, so pip need not resolve anything (--no-deps). The stamp goes first and comes back last:
# whatever interrupts this, the next call goes on. Pip writes RECORD as the last file of a package, so a package without
# one is half there, though pip would call it satisfied.
.venv/.installed: requirements.lock pyproject.toml | $(BIN)/pip
	@echo "setup: installing requirements.lock into .venv (the first time about 2 minutes on a fast connection, 7 GB)"
	@rm -f $@
	@find .venv/lib -path '*/site-packages/*.dist-info' -prune '!' -exec test -e '{}/RECORD' ';' -exec rm -rf '{}' +
	@$(PIP) install $$([ -t 1 ] || echo -qq) --no-deps -r requirements.lock
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "setup: done"
