# Every command of the project. `make` alone lists them.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
COMPILED := $(shell find ext -name '*.pyx' -o -name '*.pxd')

# Set, every process that a test starts would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv build check lint types layers test fmt demo bench bench-micro crash fuzz docs freeze clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/built ## make .venv with everything in it, extensions too

# What is missing on the machine is said before minutes of installing.
define NEEDS
import os, shutil, sys, sysconfig
compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
if sys.version_info < (3, 11):
    sys.exit("Python 3.11 or later is needed; if it has another name: make PYTHON=python3.12")
if not shutil.which(compiler):
    sys.exit("A C compiler is needed, and there is no %s: install gcc or clang, or set CC" % compiler)
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("The headers of Python are needed: install python3-dev or python3-devel")
endef
export NEEDS

.venv/installed: pyproject.toml constraints.txt sdk/python/pyproject.toml
	@$(PYTHON) -c "$$NEEDS"
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade 'pip>=25.1'
	$(PIP) --group dev
	$(PIP) --no-build-isolation --editable '.[embedded]' --editable sdk/python
	touch $@

.venv/built: .venv/installed setup.py $(COMPILED)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

build: venv ## compile what changed in ext/

check: lint types layers test ## all that must hold before a change is merged

lint: venv ## style and known mistakes
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: venv ## mypy, strict
	$(BIN)/mypy

layers: venv ## who may import whom
	$(BIN)/lint-imports

test: venv ## every test but the long ones
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

fmt: venv ## format, and mend what can be mended
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

demo: venv ## a running server with a worker and real jobs, no Docker
	$(BIN)/taskforge demo $(ARGS)

bench: venv ## measure throughput and latency
	$(BIN)/python -m bench

bench-micro: venv ## measure single parts: heap, channel, slot table, codecs, SDK
	$(BIN)/python -m pytest bench/micro --benchmark-enable --benchmark-only --benchmark-group-by=func \
		-o python_files='bench_*.py' --timeout=0

crash: venv ## kill, freeze and cut off real processes for minutes
	$(BIN)/python -m pytest tests/crash --long

fuzz: venv ## requests made from the OpenAPI document, for minutes
	$(BIN)/python -m pytest tests/integration/api/test_schema.py --long -k fuzz

docs: venv ## write the pages that are made of the code, and the figures in the README
	$(BIN)/python -m tests.support.reference

freeze: venv ## pin what .venv holds in constraints.txt
	$(BIN)/pip freeze --all --exclude-editable > constraints.txt

clean: ## remove what the build and the tests made; .venv stays
	rm -rf build dist .venv/built .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info sdk/python/src/*.egg-info
	find ext -name '*.so' -delete
	find engine ext api bench tests sdk -name __pycache__ -prune -exec rm -rf {} +
