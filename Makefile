# Paths are relative throughout, so the checkout may lie in a folder with spaces in its name.
.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory
SHELL := /bin/sh

PYTHON := .venv/bin/python
READY := .venv/ready

WORKERS ?= 2
ifndef SEED
SEED := $(shell awk 'BEGIN { srand(); print int(rand() * 1000000) }')
endif
TESTS ?= tests
export TEXT ONLY

##@ Use

dev: $(READY) ## run the whole suite on this machine; ARGS="--port 0"
	@$(PYTHON) -m mneme dev $(ARGS)

chat: $(READY) ## talk to the running suite; TEXT="What must I not eat?"
	@$(PYTHON) -m mneme chat $${TEXT:+"$$TEXT"}

demo: $(READY) ## watch an agent remember across a restart
	@GRPC_VERBOSITY=NONE $(PYTHON) examples/demo.py

##@ Check

test: $(READY) ## all tests; TESTS=tests/unit, WORKERS=2, SEED=1 for the same random choices
	@echo "seed $(SEED) (repeat with make test SEED=$(SEED))"
	@PYTHONHASHSEED=$(SEED) $(PYTHON) -m pytest "$(TESTS)" -n $(WORKERS) --dist loadgroup -m "not soak" --hypothesis-seed=$(SEED) -q $(ARGS)

soak: $(READY) ## the long tests with their full counts; N=200, SEED=1
	@SOAK_N=$(or $(N),20) SOAK_SEED=$(SEED) $(PYTHON) -m pytest tests -m soak -q -s -o timeout=7200 $(ARGS)

check: $(READY) ## format, lint, types, import rules, generated code, contracts
	@sh tools/check.sh

bench: $(READY) ## measure against baselines; ONLY=turn runs a part
	@$(PYTHON) -m benchmarks $${ONLY:+--only "$$ONLY"}

##@ Change

gen: $(READY) ## regenerate everything that is derived
	@$(PYTHON) tools/gen.py

format: $(READY) ## format the code, and mend what the linter can
	@$(PYTHON) -m ruff check --quiet --fix-only . && $(PYTHON) -m ruff format .

lock: ## resolve the dependencies of pyproject.toml anew
	@sh tools/lock.sh

##@ Environment

env: $(READY) ## make .venv with the locked dependencies (the other targets do so by themselves)

$(READY): requirements/dev.txt pyproject.toml tools/env.sh
	@sh tools/env.sh

clean: ## remove what was built and cached; .venv stays
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .grimp_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

help: ## show this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

.PHONY: dev chat demo test soak check bench gen format lock env clean help
