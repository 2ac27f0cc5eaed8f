# People, hooks and CI use the same targets. PYTHON chooses the interpreter for a new environment.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: all demo strips test test-all test-faults bench bench-gpu lint format types clean

all: lint types test

demo: .venv/installed
	$(BIN)/style-pipeline run examples/manifest.yaml
	@echo "Look at the pictures in outbox/demo"

strips: .venv/installed
	$(BIN)/python examples/strips.py

test: .venv/installed-dev
	$(BIN)/python -m pytest

test-all: .venv/installed-dev
	$(BIN)/python -m pytest -m "not gpu and not network"

test-faults: .venv/installed-dev
	$(BIN)/python -m pytest -m "case" --reliability=docs/reliability.md

bench: .venv/installed-bench
	$(BIN)/python -m benchmarks

bench-gpu: .venv/installed-bench
	$(BIN)/python -m benchmarks --device cuda

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/installed-dev
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@ .venv/installed

.venv/installed-bench: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	@touch $@ .venv/installed

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
