# Each target sets up what it needs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
AUDIT := $(VENV)-audit/bin

.PHONY: help serve test test-all test-fast fuzz bench loadtest serialized lint format lock docs sbom audit clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(READY) ## serve on an embedded PostgreSQL (ARGS="--port 9092 --data folder")
	$(BIN)/execution-api dev $(ARGS)

test: $(READY) lint ## pass every test, with real Airflows (installed on first use); each on two releases, the longest on one
	$(BIN)/python -m pytest -m "slow or not slow" --two-releases $(ARGS)

test-all: $(READY) lint ## pass every test on every release
	$(BIN)/python -m pytest -m "slow or not slow" $(ARGS)

test-fast: $(READY) ## pass the tests that need no Airflow: for every save
	$(BIN)/python -m pytest $(ARGS)

fuzz: $(READY) ## compare generated sequences with Airflow's own servers (ARGS="--steps 20000 --seed 7")
	$(BIN)/python -m tests.contract.fuzz $(ARGS)

bench: $(READY) ## measure ours beside Airflow's own servers, about ten minutes (ARGS="--curve"; --help tells more)
	$(BIN)/python -m bench $(ARGS)

loadtest: $(READY) ## load a server with locust (ARGS="--target ours --target 3.2.1 --scenario bulk"; --help tells more)
	$(BIN)/python -m loadtest $(ARGS)

serialized: $(READY) ## ask every supported Airflow how it serializes the corpus' Dags, and keep what it says
	$(BIN)/python -m tests.contract.serialized

lint: $(READY) ## check style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python scripts/rooms --check

format: $(READY) ## format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: $(READY) ## pin every dependency anew
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/lock

docs: $(READY) ## build the documentation site (site/)
	$(BIN)/python scripts/site

sbom: ## write what an image holds, with licences, as CycloneDX (sbom.json)
	$(AUDIT)/cyclonedx-py requirements requirements/serve.txt --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json

audit: ## ask for known vulnerabilities of what an image holds; needs a network
	$(AUDIT)/pip-audit --require-hashes --disable-pip -r requirements/serve.txt

sbom audit: $(VENV)-audit/.ready

$(VENV)-audit/.ready: requirements/audit.txt
	$(PYTHON) -m venv $(VENV)-audit
	$(AUDIT)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.txt
	@touch $@

clean: ## remove the virtual environment
	rm -rf $(VENV) $(VENV)-audit

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Installing into $(VENV) what requirements/dev.txt pins: some minutes, once. Commands are in $(BIN)."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
