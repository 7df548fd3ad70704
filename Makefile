# Two commands on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.9
OUT ?= demo
PATIENTS ?=
LECTURES ?=
EXTRAS ?= pacs,seg,ocr,ray
SEED ?= 1

.PHONY: help install demo test test-slow test-all check format clean

help:
	@echo "make demo       the whole way on a synthetic hospital -> $(OUT)/ (about 10 minutes)"
	@echo "make test       the fast tests"
	@echo "make test-slow  the tests marked slow (real data, kill and resume, the whole way)"
	@echo "make check      ruff, mypy, import-linter"
	@echo "make format     let ruff rewrite"
	@echo "make clean      remove $(VENV) and caches"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "medvlp needs Python 3.11 or newer; found $$($(PYTHON) --version). Set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "missing system package: python3-venv (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev,$(EXTRAS)]'
	@$(BIN)/medvlp doctor --require > /dev/null
	@touch $@

demo: $(STAMP)
	$(BIN)/medvlp demo --out $(OUT) --seed $(SEED) \
	  $(if $(PATIENTS),--patients $(PATIENTS)) $(if $(LECTURES),--lectures $(LECTURES))

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not gpu"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m "slow and not gpu"

test-all: test test-slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
