# make demo | test | test-all | bench | docs: each makes .venv in this folder and installs what it needs, once.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# faiss-cpu and faiss-gpu-cuvs are one module: take the one this machine can use
EXTRA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
INSTALLED := $(VENV)/.installed-$(EXTRA)

.PHONY: demo install test test-all bench docs lint clean

demo: $(INSTALLED)
	$(BIN)/densebench run --model pico --protocol all --dataset scenes
	$(BIN)/densebench run --model paka_pico --protocol overclustering --dataset scenes
	$(BIN)/densebench leaderboard

install: $(INSTALLED)

test: lint
	$(BIN)/pytest -n 2 -m "not slow and not network and not gpu"

test-all: lint
	$(BIN)/pytest -n 2 -m "not network"

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "densebench needs Python 3.11 or newer; found none. Try: make PYTHON=/path/to/python3"; exit 1; }
	@# communities is infomap, GPL-3.0-or-later: beside densebench, never part of it
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[$(EXTRA),communities,nyu,page,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
