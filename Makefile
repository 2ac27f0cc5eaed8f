# People, hooks and CI use the same targets. PYTHON chooses the interpreter for a new environment.
PYTHON ?= python3
BIN = .venv/bin

ISAS = isa-avx2 isa-avx512 isa-avx512-bf16 isa-native

.PHONY: all demo strips test test-processes test-rest test-browser test-ray test-all test-faults test-isa $(ISAS) bench bench-gpu lint format types clean

all: lint types test

demo: .venv/installed
	$(BIN)/style-pipeline run examples/manifest.yaml

strips: .venv/installed
	$(BIN)/python examples/strips.py

# In two halves side by side, which take about as long: the commands and the watched folder, many of them as processes
# of their own, and the rest.
PROCESSES = tests/cli tests/watch

test: .venv/installed-dev
	$(MAKE) --jobs=2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) test-processes test-rest

test-processes:
	$(BIN)/python -m pytest -q -o cache_dir=.pytest_cache/processes $(PROCESSES)

test-rest:
	$(BIN)/python -m pytest -q $(addprefix --ignore=,$(PROCESSES))

# The pages in a real browser: the system's Chromium. npm brings axe-core, whose rules for accessible pages they are held
# to. Where one of them is missing, the tests that need it are skipped and say so.
AXE = axe-core@4.14.1

test-browser: .venv/installed-dev
	-@test -e .venv/share/axe.min.js || $(MAKE) --no-print-directory .venv/share/axe.min.js
	$(BIN)/python -m pytest -q -rs -m browser tests/page/browser

.venv/share/axe.min.js:
	@mkdir -p $(@D)
	cd $(@D) && tar xzf "$$(npm pack --silent $(AXE))" --strip-components=1 package/axe.min.js && rm axe-core-*.tgz

# On a Ray cluster of this machine: nodes, actors and the driver are killed.
test-ray: .venv/installed-dev
	$(BIN)/python -m pytest -q -rs -m ray tests/execution

test-all: .venv/installed-dev
	$(BIN)/python -m pytest -m "not gpu"

test-faults: .venv/installed-dev
	$(BIN)/python -m pytest -m "case" --reliability=docs/reliability.md

# What other processors compute, as far as this one's libraries can be held to it. The default suite has the
# native set with bfloat16 refused.
NUMERICAL = $(wildcard $(patsubst %,tests/*/test_%.py,attempts color color_policy convolutions encoder engine executors \
	explicit gradients lbfgs level_inputs level_run losses masks network optimizers session stepper target_cache targets))
HELD = ONEDNN_MAX_CPU_ISA=$(1) MKL_ENABLE_INSTRUCTIONS=$(2) ATEN_CPU_CAPABILITY=$(3)
NUMBERS = $(BIN)/python -m pytest -q -p no:cacheprovider -k "not processes" $(NUMERICAL)

test-isa: .venv/installed-dev
	$(MAKE) --jobs=2 $(ISAS)

isa-avx2:
	$(call HELD,AVX2,AVX2,avx2) $(NUMBERS) --threads=2 --bfloat16=refused

isa-avx512:
	$(call HELD,AVX512_CORE,AVX512,avx512) $(NUMBERS) --threads=1 --bfloat16=taken

# As on AMD: bfloat16 without matrix tiles, and an MKL that keeps to AVX2.
isa-avx512-bf16:
	$(call HELD,AVX512_CORE_BF16,AVX2,avx512) $(NUMBERS) --threads=2 --bfloat16=taken

isa-native:
	$(NUMBERS) --threads=2 --bfloat16=taken

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
