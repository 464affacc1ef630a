# Every command a contributor needs. `make demo` and `make test` set up what they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
READY := $(VENV)/ready

.PHONY: setup fix check test test-ci test-slow demo study methods bench docs readme clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY)        ## make a small library of videos, learn from it, search it, show where sounds come from
	$(BIN)/lookhear demo --out demo

test: $(READY)        ## the default suite; under 6 minutes on 2 cores
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-ci: $(READY)     ## several processes, kills, compiling, a browser: what takes half a minute a test
	$(BIN)/python -m pytest -m ci

test-slow: $(READY)   ## the long ones: many kills, full-size models
	$(BIN)/python -m pytest -m slow --timeout 3600

check: $(READY)       ## style, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

fix: $(READY)         ## mend what a machine can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

study: $(READY)       ## the published claims tested on small runs, into docs/study.md; GRID=FOLDER adds talking faces
	$(BIN)/lookhear study cavmae --out study --page docs/study.md $(if $(GRID),--grid $(GRID))

methods: $(READY)     ## all surveyed methods in one table, and the claims about them, into docs/methods.md
	$(BIN)/lookhear study methods --out study/methods --page docs/methods.md

bench: $(READY)       ## how fast this machine decodes, loads and trains
	$(BIN)/lookhear bench

docs: $(READY)        ## run every command shown in the docs
	$(BIN)/python -m pytest tests/test_docs.py

readme: $(READY)      ## write the figures and the picture of the last `make demo` into README.md
	$(BIN)/python docs/fill_readme.py demo

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache
