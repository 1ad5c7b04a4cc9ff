# `make leaderboard` and `make test` install what they need first; everything goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
STUDY ?= digits
RESULTS ?= results/$(STUDY)

.PHONY: setup leaderboard test test-all lint format benchmark clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 …")'
	@echo 'installing into .venv: torch, MLflow and others, up to 7 GB; this takes some minutes'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,ray]'
	@touch $@

leaderboard: setup
	$(BIN)/econ run $(STUDY) --engine processes
	$(BIN)/econ report $(STUDY) --output $(RESULTS)/report.html
	$(BIN)/econ leaderboard $(STUDY) --format markdown --output $(RESULTS)/leaderboard.md
	$(BIN)/econ table $(STUDY) --standalone --output $(RESULTS)/table.tex
	$(BIN)/econ plot $(STUDY) --output $(RESULTS)
	$(BIN)/econ leaderboard $(STUDY)

test: setup
	$(BIN)/python -m pytest

test-all: setup
	$(BIN)/python -m pytest -m ''

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: setup
	$(BIN)/python -m tests.benchmarks.loading
	$(BIN)/python -m tests.benchmarks.speed
	$(BIN)/python -m tests.benchmarks.engines

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
