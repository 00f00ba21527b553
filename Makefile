# The four commands: make demo, make test, make check, make bench. Each sets up .venv when needed.
#
#   PYTHON=python3.12                     another Python (3.11 or newer)
#   TORCH=cpu | default | torch==2.12.1   another torch than the one setup would take
#   VENV_FLAGS=--system-site-packages     reuse what this machine's Python has, its torch above all
#   PYTEST_FLAGS="-k quorum -x"           handed to pytest

PYTHON ?= python3
TORCH ?= auto
VENV_FLAGS ?=
PYTEST_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.atoll-ready
EXTRAS := dev,hf,parquet,plots,tensorboard,wandb
EXTRAS_STAMP := $(VENV)/.atoll-extras
SEEDS ?= 1000

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-extras demo test test-all check format bench fuzz clean distclean FORCE

help:
	@echo 'make demo      see a small run survive a killed learner'
	@echo 'make test      every test that needs nothing but a plain installation'
	@echo 'make test-all  those and the heavy ones, with the extras that they need'
	@echo 'make check     format, lint, types, structure'
	@echo 'make format    put the format right, and the lint that can be'
	@echo 'make bench     the benchmarks, one after the other, but for those that take hours'
	@echo 'make fuzz      simulate SEEDS=$(SEEDS) random fault schedules'
	@echo 'make setup     only .venv; the others do it by themselves'
	@echo 'make clean     remove caches and builds; make distclean .venv as well'

$(STAMP): pyproject.toml constraints.txt scripts/setup_venv.py
	@$(PYTHON) scripts/setup_venv.py --venv $(VENV) --torch '$(TORCH)' \
		--venv-flags='$(VENV_FLAGS)' --stamp $@

# A choice made on the command line that differs from the one in place is carried out.
ifneq ($(filter-out file undefined,$(origin TORCH) $(origin VENV_FLAGS)),)
ifneq ($(strip $(shell cat $(STAMP) 2>/dev/null)),$(strip $(TORCH) $(VENV_FLAGS)))
$(STAMP): FORCE
endif
endif
FORCE:

# What the heavy tests need besides: transformers, datasets, Parquet, charts, TensorBoard, W&B.
$(EXTRAS_STAMP): $(STAMP)
	@$(PYTHON) scripts/setup_venv.py --venv $(VENV) --torch '$(TORCH)' \
		--venv-flags='$(VENV_FLAGS)' --extras $(EXTRAS) --stamp $@

setup: $(STAMP)

setup-extras: $(EXTRAS_STAMP)

demo: $(STAMP)
	@$(BIN)/atoll demo

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-all: $(EXTRAS_STAMP)
	$(BIN)/python -m pytest -m 'heavy or not heavy' $(PYTEST_FLAGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_structure.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@$(BIN)/python scripts/run_benchmarks.py

fuzz: $(STAMP)
	$(BIN)/python tests/swarm.py --seeds $(SEEDS)

clean:
	rm -rf build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
