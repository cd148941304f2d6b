# make demo        train a small model with three peers on this machine (installs everything first)
# make test        the tests (same installation)
# make test-all    also the long scenarios
# make fuzz        random files and models, other ones each time, for five minutes
# make check       ruff and mypy
# make stories     play the stories of the README and record them anew in docs/stories/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test test-all fuzz check stories install

demo: install
	@$(BIN)/p2ptrain demo

test: install check
	@echo "== running the unit tests"
	@$(BIN)/python -m pytest -n 2 -m "not long" tests/unit
	@echo "== running the tests with real peers"
	@$(BIN)/python -m pytest -m "not long" --ignore tests/unit

test-all: install check
	@echo "== running all unit tests"
	@$(BIN)/python -m pytest -n 2 tests/unit
	@echo "== running all tests with real peers, the long ones too"
	@$(BIN)/python -m pytest --ignore tests/unit

fuzz: install
	@FUZZ_FIRST=`$(BIN)/python -c 'import secrets; print(secrets.randbits(40))'` \
	  $(BIN)/python -m pytest -n 2 -m long tests/unit/fuzz

check: install
	@echo "== checking style and types"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

stories: install
	@$(BIN)/python -m tests.stories.record

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "p2ptrain needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version`. Try: make PYTHON=python3.12"; exit 1; }
	@echo "== making $(VENV) with `$(PYTHON) --version`"
	@$(PYTHON) -m venv $(VENV)
	@echo "== installing p2ptrain and what it needs (torch is large: one to several minutes)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --progress-bar off -c constraints.txt "torch"
	@echo "== torch is there; now the rest"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --progress-bar off -c constraints.txt -e ".[dev]"
	@touch $@
	@echo "== installed"
