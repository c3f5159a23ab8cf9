# Everything a newcomer needs: `make demo`, `make test`. `make help` lists the rest.
# PYTHON chooses the interpreter that the environment is made with (3.11 or newer); without it the fastest
# that is found does, because builds of Python differ by a third.

PYTHON ?= $(shell python3 requirements/interpreter.py)
VENV := .venv
BIN := $(VENV)/bin

# Containers often run as root with nothing else in them; pip's advice is for people's own machines.
export PIP_ROOT_USER_ACTION := ignore
export PIP_DISABLE_PIP_VERSION_CHECK := 1

TEST_FOLDERS := $(wildcard tests/unit tests/integration tests/migration tests/house)
BENCHES := $(basename $(notdir $(wildcard bench/rollout.py bench/ledger.py bench/http.py \
	bench/reads.py bench/auth.py bench/noisy.py bench/idle.py bench/telemetry.py bench/fx.py bench/settlement.py \
	bench/schema.py bench/shadow.py)))
# Test files run side by side, one process a core; each file's tests stay in their order.
JOBS ?= auto
UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	pyproject.toml requirements/build.in --extra local --extra otlp --extra fx --extra schema --extra aws

.DEFAULT_GOAL := help
.PHONY: help demo test check lint e2e bench bench-short docs lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/run.stamp ## Move a bank to a new release under live traffic, stay up until Ctrl-C
	@$(BIN)/finflow demo

test: $(VENV)/dev.stamp ## Run the unit, integration, migration and house tests
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(TEST_FOLDERS)

check: lint test ## Lint, then test: what a change must pass

lint: $(VENV)/dev.stamp ## Check style, format, types and the floors of the house
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

e2e: $(VENV)/dev.stamp ## Run the end-to-end tests: the command, started, killed and started again
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile tests/e2e

bench: $(VENV)/run.stamp ## Measure what the README promises and keep the results
	@set -e; for name in $(BENCHES) storm; do $(BIN)/python -m bench.$$name --json --keep; done

bench-short: $(VENV)/run.stamp ## Run every benchmark once, small, two at a time: shows that they work
	@printf '%s\n' $(BENCHES) | xargs -P 2 -I NAME $(BIN)/python -m bench.NAME --json --short

docs: $(VENV)/docs.stamp ## Write the reference from the code, build the documentation site into site/
	@$(BIN)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lock: $(VENV)/python.stamp ## Lock the dependencies anew into requirements/*.txt
	@$(BIN)/python -m pip install --quiet uv
	@$(UV_COMPILE) --output-file requirements/run.txt
	@$(UV_COMPILE) --group dev --output-file requirements/dev.txt --constraint requirements/run.txt
	@$(UV_COMPILE) --group docs --output-file requirements/docs.txt --constraint requirements/run.txt

clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is younger than what it was made from, so a second `make` installs nothing.
$(VENV)/python.stamp:
	@python="$(PYTHON)"; "$${python:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "FinFlow needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }; \
		"$${python:-python3}" -m venv $(VENV)
	@touch $@

define install
	@echo "Installing requirements/$(1).txt ..."
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/$(1).txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(VENV)/$(1).stamp
endef

$(VENV)/run.stamp: requirements/run.txt pyproject.toml | $(VENV)/python.stamp
	$(call install,run)

$(VENV)/dev.stamp: requirements/dev.txt pyproject.toml | $(VENV)/python.stamp
	$(call install,dev)
	@touch $(VENV)/run.stamp

$(VENV)/docs.stamp: requirements/docs.txt pyproject.toml | $(VENV)/python.stamp
	$(call install,docs)
