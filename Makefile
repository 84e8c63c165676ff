# Two commands on a fresh machine that has python3 >= 3.11 with venv, and make:
#
#   make demo                                    embedded broker, simulated traffic, live view
#   make demo ARGS="--requests 5000 --json"      flags are passed on
#   make test                                    everything; ARGS are passed to pytest
#
# Each makes .venv and installs what it needs, once, in the versions of locks/. stdout belongs to the product: what the
# bootstrap has to say goes to stderr.

PYTHON ?= python3
ARGS ?=

VENV := .venv/bin
# A Python that the user named is insisted on; without one, whatever .venv was made with is fine.
CHOSEN := $(if $(filter file undefined,$(origin PYTHON)),,--chosen)
bootstrap = @$(PYTHON) scripts/bootstrap.py $(1) $(CHOSEN) --for $@

QUICK := -n auto --dist worksteal -m "not kafka and not slow"
LOCK := $(VENV)/uv pip compile -q --universal --generate-hashes --python-version 3.11 --no-annotate \
  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
# An environment of its own, resolved now: $(1) names it, $(2) says how to resolve.
fresh = @$(VENV)/uv venv -q --clear --python $(VENV)/python .venv-$(1) && \
  $(VENV)/uv pip install -q --python .venv-$(1) --no-build-package numba --no-build-package llvmlite \
    $(2) --editable '.[test]' && \
  $(VENV)/uv pip freeze --python .venv-$(1) > .venv-$(1)/versions.txt

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help venv demo test quick lint format schemas lock test-lowest test-latest bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

venv: ## make .venv with everything that development needs
	$(call bootstrap,test)

demo: ## run the demo; ARGS="--requests 5000 --json" passes flags on
	$(call bootstrap,all)
	@$(VENV)/banditroute demo $(ARGS)

test: ## run every test; a real Apache Kafka is started where Java 17 and Maven are there
	$(call bootstrap,test)
	@$(VENV)/python scripts/kafka.py run --optional -- $(VENV)/python -m pytest $(ARGS)

quick: ## the tests that need no real Kafka and take no seconds, on every core
	$(call bootstrap,test)
	@$(VENV)/python -m pytest -q $(QUICK) $(ARGS)

lint: ## ruff, ruff format, mypy, import contracts
	$(call bootstrap,test)
	@$(VENV)/python -m ruff check .
	@$(VENV)/python -m ruff format --check .
	@$(VENV)/python -m mypy
	@$(VENV)/python -c "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())"

format: ## rewrite the sources the way lint wants them
	$(call bootstrap,test)
	@$(VENV)/python -m ruff check --fix --exit-zero --quiet .
	@$(VENV)/python -m ruff format .

schemas: ## write schemas/*.json from the event structs
	$(call bootstrap,test)
	@$(VENV)/python scripts/schemas.py

# The whole set first; the smaller ones are parts of it in the same versions.
lock: ## resolve pyproject.toml into locks/*.txt, for every Python from 3.11 on; ARGS=--upgrade takes what is new
	$(call bootstrap,test)
	@$(LOCK) --extra bench pyproject.toml -o locks/bench.txt $(ARGS)
	@for extra in all test; do \
	  echo hatchling | $(LOCK) --constraint locks/bench.txt --extra $$extra pyproject.toml - -o locks/$$extra.txt $(ARGS); \
	done

test-lowest: ## the quick round with the oldest versions that pyproject.toml allows
	$(call bootstrap,test)
	$(call fresh,lowest,--resolution lowest-direct)
	@.venv-lowest/bin/python -m pytest -q $(QUICK) $(ARGS)

test-latest: ## the quick round with the newest versions that there are
	$(call bootstrap,test)
	$(call fresh,latest,--upgrade)
	@.venv-latest/bin/python -m pytest -q $(QUICK) $(ARGS)

bench: ## run every benchmark of bench/ and write bench/results/NAME.json
	$(call bootstrap,bench)
	@mkdir -p bench/results
	@set -e; for file in $(filter-out bench/harness.py,$(wildcard bench/[a-z]*.py)); do \
	  name=$$(basename $$file .py); \
	  echo "bench: $$name" >&2; \
	  $(VENV)/python -m bench.$$name --json $(ARGS) > bench/results/$$name.json.partial; \
	  mv bench/results/$$name.json.partial bench/results/$$name.json; \
	done

clean: ## remove caches and build results; .venv stays
	rm -rf .venv-lowest .venv-latest
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov
	find . -name .venv -prune -o -name __pycache__ -type d -print | xargs rm -rf
