# medml: `make demo` and `make test` work on a machine that has git, make, python3 and python3-venv.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Two at a time, whole files together: they share what is costly to start. The order is that of tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
APT := chromium postgresql orthanc orthanc-dicomweb dcmtk dicom3tools

.PHONY: demo demo-offline test test-all bench lint docs lock audit setup system clean

demo: setup  ## the whole way on phantoms: ingest, train, evaluate, register, predict
	$(BIN)/python -m pipelines.demo

demo-offline: setup  ## the same where nothing but loopback can be reached: nothing needs or waits for a network
	unshare -rn sh -c 'ip link set lo up && exec $(BIN)/python -m pipelines.demo'

test: setup  ## the tests; what needs a part that `make system` installs is skipped with a reason
	$(PYTEST) -m "not slow and not gpu"

test-all: setup  ## also the slow tests, and the GPU's where there is one
	$(PYTEST)

bench: setup  ## ours beside the peers, as ratios
	$(BIN)/python -m benchmarks

lint: setup  ## ruff and the strict type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup  ## check that every link in the documentation leads somewhere
	$(BIN)/python -m pytest tests/test_docs.py

lock: setup  ## requirements.lock: the sha256 of every file of what constraints.txt pins, torch apart; asks a package index
	$(PYTHON) -m venv .bench/lock
	.bench/lock/bin/python -m pip install --quiet uv==0.13.9
	.bench/lock/bin/uv pip compile constraints.txt --no-deps --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-emit-package torch --python-version 3.11 --quiet -o requirements.lock

audit: setup  ## known vulnerabilities of what is pinned; asks the advisory database, so it needs a network
	$(PYTHON) -m venv .bench/audit
	.bench/audit/bin/python -m pip install --quiet pip-audit
	.bench/audit/bin/pip-audit --no-deps --disable-pip --requirement constraints.txt

setup: $(STAMP)  ## .venv with everything medml needs

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"found Python {v[0]}.{v[1]}, expected 3.11 to 3.13: install one and run make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

system:  ## Debian packages for the tests against real servers and a real browser
	@missing=""; for name in $(APT); do dpkg -s $$name >/dev/null 2>&1 || missing="$$missing $$name"; done; \
	if [ -z "$$missing" ]; then echo "system packages are there: $(APT)"; else \
	sudo=""; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	$$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing; fi

clean:  ## remove what the demo and the tests left; .venv stays
	rm -rf demo_home .pytest_cache .mypy_cache .ruff_cache build *.egg-info
