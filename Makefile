# Every task a person or CI runs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

include settings.env
export $(shell sed -n 's/=.*//p' settings.env)

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := stages serving tests benchmarks
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
COMPILE = $(BIN)/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links \
          --no-annotate --allow-unsafe

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: repro
repro: $(VENV)/.train ## Create the environment if needed and bring the whole pipeline up to date.
	$(BIN)/python -m stages._pipeline

.PHONY: release
release: $(VENV)/.train ## Bring the winner into force: decision record in releases/, registry aliases (ARGS=--help).
	$(BIN)/python -m stages.release $(ARGS)

.PHONY: rollback
rollback: $(VENV)/.train ## Go back to the release before and say what to redeploy (ARGS="--to 1 --reason ...").
	$(BIN)/python -m stages.rollback $(ARGS)

.PHONY: window
window: $(VENV)/.train ## Freeze live records into data/windows/<id> (ARGS="--first 2026-11-15 --last 2026-11-21").
	$(BIN)/python -m stages.window $(ARGS)

.PHONY: watch
watch: $(VENV)/.train ## Note the verdict on a window and say what to do: nothing, wait or retrain.
	$(BIN)/python -m stages.watch $(ARGS)

.PHONY: retrain
retrain: $(VENV)/.train ## Learn what a drifted window has; select decides against what serves (ARGS=--help).
	$(BIN)/python -m stages.retrain $(ARGS)

.PHONY: drift-demo
drift-demo: $(VENV)/.train ## Drift in live traffic, found, learned and released, in a copy below scratch/ (ARGS=--fresh).
	$(BIN)/python -m benchmarks.drift_demo $(ARGS)

.PHONY: test
test: $(VENV)/.dev ## Lint, format check, types and the fast tests.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow"

.PHONY: test-slow
test-slow: $(VENV)/.dev ## The tests that take minutes: fresh processes, servers, kill and resume.
	$(BIN)/python -m pytest -m slow

.PHONY: env
env: $(VENV)/.dev ## Create the environment with the development tools; then: source .venv/bin/activate

.PHONY: profile
profile: $(VENV)/.train ## Lay configs/NAME.yaml over params.yaml and print the difference (NAME=default goes back).
	$(BIN)/python -m stages._profile $(NAME)

.PHONY: format
format: $(VENV)/.dev ## Put the sources into the house's format and mend what the linter can mend.
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

.PHONY: schema
schema: $(VENV)/.train ## Write docs/params.schema.json, the JSON Schema of params.yaml for editors.
	$(BIN)/python -m stages._profile --schema

.PHONY: lock
lock: $(VENV)/.dev ## Resolve pyproject.toml again and write the lock files (UPGRADE=--upgrade for newer versions).
	CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) $(UPGRADE) --extra train --extra dev \
	  --output-file requirements/dev.txt pyproject.toml
	@# torch's CPU build carries a local version that other machines do not have
	sed -i 's/+cpu$$//' requirements/dev.txt
	CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) --constraint requirements/dev.txt --extra train \
	  --output-file requirements/train.txt pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) --constraint requirements/dev.txt \
	  --output-file requirements/base.txt pyproject.toml
	@# the CUDA build of torch comes from the index alone, not from wheels at hand
	PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) \
	  --constraint requirements/dev.txt --extra train --extra gpu \
	  --output-file requirements/gpu.txt pyproject.toml
	sed -i 's/+cpu$$//' requirements/*.txt

.PHONY: clean
clean: ## Delete what the pipeline made (not the DVC cache, so `make repro` restores it).
	rm -rf data/prepared data/labels data/answers data/windows/planted models reports scratch

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v == (3, 11) or sys.exit( \
	  f"Stillhouse needs Python 3.11, found {v[0]}.{v[1]} ($(PYTHON)). Run: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	@# so that plain dvc, mlflow and bentoml in the activated environment read settings.env too
	printf '\nset -a; . "%s/settings.env"; set +a\n' "$(CURDIR)" >> $(BIN)/activate
	@touch $@

$(VENV)/.train: requirements/train.txt | $(VENV)/.created
	@echo "Installing the pipeline's environment into $(VENV) (a few minutes, once) ..."
	$(INSTALL) --requirement requirements/train.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt | $(VENV)/.created
	@echo "Installing the development environment into $(VENV) (a few minutes, once) ..."
	$(INSTALL) --requirement requirements/dev.txt
	@touch $@ $(VENV)/.train
