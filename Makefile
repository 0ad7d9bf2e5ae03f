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
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: repro
repro: $(VENV)/.train ## Create the environment if needed and bring the whole pipeline up to date.
	$(BIN)/python -m stages._pipeline $(ARGS)

.PHONY: serve
serve: $(VENV)/.train ## Serve winner and baseline over HTTP, a page at / (ARGS="--port 3001").
	@# a folder of its own for each: BentoML empties its folder of figures when a service starts
	@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && \
	  BENTOML_HOME=$${BENTOML_HOME:-$$home} $(BIN)/bentoml serve serving.service:Stillhouse $(ARGS)

.PHONY: doctor
doctor: $(VENV)/.train ## Say what this machine can do with params.yaml as it is, and what to change (ARGS=--hub).
	$(BIN)/python -m stages.doctor $(ARGS)

.PHONY: status
status: $(VENV)/.train ## Say what serves, what challenges it, what drift said last, and what is out of date.
	$(BIN)/python -m stages.status $(ARGS)

.PHONY: challenge
challenge: $(VENV)/.train ## Let the winner stand against what serves, for a canary (ARGS="--image cpu=NAME@sha256:...").
	$(BIN)/python -m stages.challenge $(ARGS)

.PHONY: release
release: $(VENV)/.train ## Bring the winner into force on a canary's verdict: record in releases/, aliases (ARGS=--help).
	$(BIN)/python -m stages.release $(ARGS)

.PHONY: canary
canary: $(VENV)/.train ## Compare champion and challenger on live traffic: promote, hold or roll back (ARGS=--help).
	$(BIN)/python -m stages.canary $(ARGS)

.PHONY: rollback
rollback: $(VENV)/.train ## Go back to the release before and say what to redeploy (ARGS="--to 1 --reason ...").
	$(BIN)/python -m stages.rollback $(ARGS)

.PHONY: container
container: $(VENV)/.train ## Build the Bento's image (ARGS="--bento cpu --backend docker --name NAME:TAG"; ARGS=--help).
	$(BIN)/python -m stages.container $(ARGS)

.PHONY: container-check
container-check: $(VENV)/.train ## Build it, start it read-only, ask it: size, user, keys, parity, SIGTERM.
	$(BIN)/python -m stages.container --check $(ARGS)

.PHONY: backup
backup: $(VENV)/.train ## Keep models, records and tracking elsewhere (REMOTE=folder or s3://bucket/folder).
	$(BIN)/python -m stages.backup "$(REMOTE)" $(ARGS)

.PHONY: restore
restore: $(VENV)/.train ## Take them back, into an empty clone too, which then serves the champion (REMOTE=...).
	$(BIN)/python -m stages.restore "$(REMOTE)" $(ARGS)

.PHONY: export
export: $(VENV)/.train ## Student and baseline as ONNX for Triton, TorchServe and others, compared first (ARGS=--help).
	$(BIN)/python -m stages.export $(ARGS)

.PHONY: window
window: $(VENV)/.train ## Freeze live records into data/windows/<id> (ARGS="--first 2026-11-15 --last 2026-11-21").
	$(BIN)/python -m stages.window $(ARGS)

.PHONY: watch
watch: $(VENV)/.train ## Note the verdict on a window and say what to do: nothing, wait or retrain.
	$(BIN)/python -m stages.watch $(ARGS)

.PHONY: retrain
retrain: $(VENV)/.train ## Learn what a drifted window has; select decides against what serves (ARGS=--help).
	$(BIN)/python -m stages.retrain $(ARGS)

.PHONY: drift-issue
drift-issue: ## Write scratch/drift/issue.md: what the issue on drift says after `make watch`.
	$(PYTHON) -m stages._drift_issue

.PHONY: drift-demo
drift-demo: $(VENV)/.train ## Drift in live traffic, found, learned and released, in a copy below scratch/ (ARGS=--fresh).
	$(BIN)/python -m benchmarks.drift_demo $(ARGS)

.PHONY: facts
facts: $(VENV)/.train ## Write scratch/pull_request/facts.json: metrics, params, budgets, times (ARGS="--since TIME").
	$(BIN)/python -m stages._run_facts $(ARGS)

.PHONY: pr-report
pr-report: ## Write scratch/pull_request/comment.md: two runs' facts compared (ARGS="--head FILE --base FILE").
	$(PYTHON) -m stages._pull_request $(ARGS)

.PHONY: sbom
sbom: ## Write scratch/container/cpu.models.cdx.json: the models in the Bento and their files by digest.
	$(PYTHON) -m stages._model_sbom $(ARGS)

.PHONY: test
test: lint types test-fast ## Lint, format check, types and the fast tests.

.PHONY: lint
lint: $(VENV)/.dev ## Lint and format check.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

.PHONY: types
types: $(VENV)/.dev ## Check types.
	$(BIN)/mypy

.PHONY: test-fast
test-fast: $(VENV)/.dev ## The tests that take seconds (ARGS=tests/test_io.py for some).
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

.PHONY: test-slow
test-slow: $(VENV)/.dev ## The tests that take minutes: fresh processes, servers, kill and resume.
	$(BIN)/python -m pytest -m slow $(ARGS)

.PHONY: env
env: $(VENV)/.dev ## Create the environment with the development tools; then: source .venv/bin/activate

.PHONY: profile
profile: $(VENV)/.train ## Lay configs/NAME.yaml over params.yaml and print the difference (NAME=default goes back).
	$(BIN)/python -m stages._profile $(or $(NAME),$(error expected NAME=a file of configs/, or NAME=default, found none))

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
	@# with hashes, which a Bento takes along; a local build of torch has others than the index
	CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) --constraint requirements/dev.txt --generate-hashes \
	  --output-file requirements/base.txt pyproject.toml
	@# the CUDA build of torch comes from the index alone, not from wheels at hand
	PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) \
	  --constraint requirements/dev.txt --extra train --extra gpu --generate-hashes \
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
