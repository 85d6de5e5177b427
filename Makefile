# Two commands do everything on a fresh machine: `make demo` and `make test`.
# What they need is installed into .venv; Debian packages that are missing are named, or installed
# when root asks for them with `make packages`.

# The distribution's Python where it serves: it is built with the optimisations that others often lack.
PYTHON ?= $(shell /usr/bin/python3 -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && echo /usr/bin/python3 || echo python3)
BIN := .venv/bin
# Hundreds of processes are started; each would compile what it imports where this is set.
unexport PYTHONDONTWRITEBYTECODE
WORKERS ?= auto
# Tests of real processes wait more than they work: a third of two cores was idle under three of them.
WAITERS ?= $(shell echo $$(( $$(nproc) * 2 )))

.PHONY: help setup packages demo test unit simulation network interop guest fuzz bench lint format clean

help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/ready: pyproject.toml native/Cargo.toml native/Cargo.lock $(wildcard native/src/*.rs)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Cygnet needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@$(BIN)/python -m cygnet.dataplane.engines
	@touch $@

setup: .venv/ready  ## install Cygnet and its tools into .venv
	@tools/packages --check

packages:  ## install the Debian packages that demo, tests and benchmarks use (root)
	@tools/packages --install all

demo: .venv/ready  ## two gateways in namespaces, a tunnel, real traffic; DEMO="--auth psk" for options
	@tools/packages --install demo
	$(BIN)/cygnet demo $(DEMO)

test: .venv/ready  ## everything: unit, simulation, fuzz, network, interop
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup tests/unit tests/simulation tests/fuzz
	$(BIN)/pytest -n $(WAITERS) --dist loadgroup tests/network tests/interop
	$(BIN)/pytest tests/guest  # one emulated machine, which takes both cores

unit: .venv/ready  ## only what needs neither privileges nor a peer
	$(BIN)/pytest -n $(WORKERS) tests/unit

simulation: .venv/ready  ## negotiations in virtual time
	$(BIN)/pytest -n $(WORKERS) tests/simulation

network: .venv/ready  ## the real daemon in namespaces
	$(BIN)/pytest tests/network

interop: .venv/ready  ## against strongSwan
	$(BIN)/pytest tests/interop

guest: .venv/ready  ## what this machine's kernel may lack, in an emulator
	$(BIN)/pytest tests/guest

fuzz: .venv/ready  ## coverage-guided, FUZZ_SECONDS for each target
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	for target in tests/fuzz/fuzz_*.py; do PYTHONPATH=. $(BIN)/python $$target || exit 1; done

bench: .venv/ready  ## measure against peers; writes build/bench/*.json
	$(BIN)/python -m bench

lint: .venv/ready  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
