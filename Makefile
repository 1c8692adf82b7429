# make run: install, then train, teach, talk and bill.  make test: install, then lint, types, tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: venv run test clean

venv: $(VENV)/bin/python

run: $(VENV)/.run
	@echo "Running 'benthic run laptop': about two minutes on two cores. Ctrl-C is safe, 'make run' goes on."
	@$(BIN)/benthic run laptop $(ARGS)

test: $(VENV)/.test
	@echo "Linters, types and tests: about five minutes on two cores."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest $(ARGS)

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@echo "Making a virtual environment in $(VENV) (about a minute, once; PyTorch is the largest part)."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Benthic needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing PyTorch and the rest (a minute or more, once)."
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "Installing what the tests need (about a minute, once)."
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
