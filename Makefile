# `make leaderboard` and `make test` install what they need first; everything goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
STUDY ?= digits
RESULTS ?= results/$(STUDY)
WORKERS ?= 2
# Tests and commands start many processes, which start faster from compiled files.
unexport PYTHONDONTWRITEBYTECODE
BESIDE := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: setup leaderboard test test-more test-all lint format docs benchmark benchmark-gpu check-gpu benchmark-loading benchmark-engines benchmark-peers clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 …")'
	@echo 'installing into .venv: torch, MLflow and others, up to 7 GB; this takes some minutes'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,ray]'
	@for what in methods models datasets studies; do $(BIN)/econ list $$what > /dev/null || exit; done  # compiles and caches
	@touch $@

leaderboard: setup
	$(BIN)/econ run $(STUDY) --engine processes
	$(BIN)/econ report $(STUDY) --output $(RESULTS)/report.html
	$(BIN)/econ leaderboard $(STUDY) --format markdown --output $(RESULTS)/leaderboard.md
	$(BIN)/econ table $(STUDY) --standalone --output $(RESULTS)/table.tex
	$(BIN)/econ plot $(STUDY) --output $(RESULTS)
	$(BIN)/econ leaderboard $(STUDY)

# Files of tests run in WORKERS processes beside each other.
test: setup
	$(BIN)/python -m pytest -m 'not slow and not long and not alone' $(BESIDE)

# What is long by nature: chaos, kills, compilers, ranks, Ray clusters, rehearsals, whole grids of methods; then `alone`.
# Long tests often wait, so that there is room for one more process. The longest file comes first.
test-more: setup
	$(BIN)/python -m pytest -m 'long and not slow and not alone' $(BESIDE) --numprocesses $$(($(WORKERS) + 1)) tests/stand_in tests
	$(BIN)/python -m pytest -m 'alone and not slow'

test-all: setup
	$(BIN)/python -m pytest -m 'not alone' $(BESIDE)
	$(BIN)/python -m pytest -m alone

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A site that opens from disk: site/index.html. A broken link ends the build.
docs: setup
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

# Each prints a table and fails where a bound does not hold; the machine should do nothing else meanwhile.
benchmark: setup
	$(BIN)/python -m tests.benchmarks.speed

benchmark-gpu: setup
	$(BIN)/python -m tests.benchmarks.gpu

# Tests that need a GPU, all methods in real runs on it, and measurements: each stage has a limit and a file of its own.
check-gpu: setup
	$(BIN)/python -m tests.benchmarks.gpu_checks

benchmark-loading: setup
	$(BIN)/python -m tests.benchmarks.loading

benchmark-engines: setup
	$(BIN)/python -m tests.benchmarks.engines

# torch-uncertainty needs other versions of some packages: what it needs goes into an environment on top of .venv.
benchmark-peers: .venv/peers/installed
	.venv/peers/bin/python -m tests.benchmarks.peers

.venv/peers/installed: .venv/installed
	$(BIN)/python -m venv .venv/peers
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$(.venv/peers/bin/python -c 'import site; print(site.getsitepackages()[0])')/base.pth"
	.venv/peers/bin/python -m pip install --quiet 'torch-uncertainty[cpu]==0.13.0'
	@touch $@

clean:
	rm -rf .venv site .mypy_cache .ruff_cache .pytest_cache .hypothesis
