# Two commands for a fresh machine: `make fit` and `make test`. They need Python 3.10 or later.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: help install fit test lint docs

help:
	@echo "make fit      install, then train on the scenes in data_shards/ and print how good it got"
	@echo "make test     install, then check style, types and behavior"
	@echo "make install  install into .venv"
	@echo "make docs     install, then build the documentation in runs/site"

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

fit: install
	PATH="$(CURDIR)/$(BIN):$$PATH" lightning fit --config conf/base.yaml

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/mkdocs build --strict

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope
