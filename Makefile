# `make replay` runs the main job, `make test` the tests; each makes what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := build

.PHONY: replay test soak lint format clean

replay: $(VENV)/.installed
	@mkdir -p $(OUT)
	$(BIN)/greencache replay --json $(OUT)/replay.json --html $(OUT)/replay.html --png $(OUT)/replay.png

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto

# What takes minutes: killed two hundred times, the store loses nothing.
soak: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m soak

# Types are checked on an installed copy, because checkers do not follow the layout's mapping.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf $(OUT)/typed $(OUT)/lib
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target $(OUT)/typed .
	MYPYPATH=$(OUT)/typed $(BIN)/mypy -p greencache -p tests

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(OUT) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "GreenCache needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed
