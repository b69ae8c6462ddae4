# Two commands do all the set-up: `make bench` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests wait for child processes a sixth of the time: one worker more than there are cores, five at most.
WORKERS := $(shell $(PYTHON) -c "import os; print(min(5, 1 + (os.cpu_count() or 1)))")

.PHONY: bench test long check faults gpu lint clean help

bench: $(INSTALLED)  ## install, then train, time and compare two models on the embedded digits (or CIFAR-10 on a GPU)
	$(BIN)/python run_bench.py --models seresnet,vit_tiny

test: $(INSTALLED)  ## install, then run the tests that need neither a GPU nor a network, but for the long ones
	$(BIN)/python -m pytest -m "not gpu and not long" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

long: $(INSTALLED)  ## the tests that take more than some ten seconds each: browsers, clusters, compilers, kills
	$(BIN)/python -m pytest -m "long and not gpu" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: lint test long  ## ruff, mypy and all the tests: what CI runs

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

faults: $(INSTALLED)  ## the tests of tests/faults with fifty kills and more fuzzing
	SEVIT_KILLS=50 $(BIN)/python -m pytest tests/faults --timeout 7200 --hypothesis-profile thorough

gpu: $(INSTALLED)  ## the tests that need a CUDA device, side by side but for those that time something
	status=0; \
	$(BIN)/python -m pytest -m "gpu and not alone" -n $(WORKERS) || status=1; \
	$(BIN)/python -m pytest -m "gpu and alone" || status=1; \
	exit $$status

# The stamp is written last, so that an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make bench PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED)

clean:  ## remove the environment and caches; stores stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

help:
	@sed -n 's/^\([a-z]*\):.*##/\1:/p' Makefile
