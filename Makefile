# `make demo` and `make test` need nothing but this checkout: they install what is missing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/complete
KERNEL := .machine/release
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-build-isolation
# Network namespaces are root's business.
ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

PREFIX ?= /opt/anubis

.PHONY: help demo fuzz test test-fuzz test-kernel test-systemd check machine machine-system install lock clean system

help:  ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(STAMP)  ## see a laptop in a hotel reach its house and leave again
	@$(ROOT) $(BIN)/python -m anubis.demo

test: check machine  ## check, then run every test
	$(ROOT) $(BIN)/pytest
	@$(MAKE) --no-print-directory test-fuzz
	@$(MAKE) --no-print-directory test-kernel
	@$(MAKE) --no-print-directory test-systemd

test-fuzz: $(STAMP)  ## search a little for inputs that break a promise
	$(BIN)/python -m tests.fuzz --if-possible

fuzz: $(STAMP)  ## search on for such inputs, SECONDS=60 for each target
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60)

# The tests are compiled and their names looked up here, where that takes no time.
test-kernel: SELECTED := -k 'kernel or lab' tests/contract @tests/lab/main_path.txt
test-kernel: machine  ## backends and main path, with the WireGuard of a real kernel
	@$(BIN)/python -m compileall -q anubis
	@$(BIN)/pytest --collect-only -qq $(SELECTED) > /dev/null
	$(ROOT) $(BIN)/python -m tests.machine --seconds 1800 -- \
		$(BIN)/python -m pytest -p no:cacheprovider --durations=5 --kernel $(SELECTED)

test-systemd: machine  ## the installed service, under a systemd that runs a whole machine
	$(ROOT) tests/on-a-layer tests/systemd/prepare \
		$(BIN)/python -m tests.machine --systemd --seconds 1500 -- \
		$(BIN)/python -m pytest \
		-p no:cacheprovider --timeout=600 --durations=3 -rP tests/systemd/service_tests.py

check: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

machine: $(STAMP) $(KERNEL)  ## make ready the virtual machine that some tests run in

# The versions of the lock, without the tools of development.
# The system's Python: the service is not root, and cannot use one in somebody's home directory.
install: PYTHON := $(or $(wildcard /usr/bin/python3),$(PYTHON))
install: system  ## on this host: /opt/anubis, the commands in /usr/bin, the systemd unit
	@$(PYTHON) -c 'import os, sys; sys.exit(os.geteuid() and "error: run make install as root")'
	@$(PYTHON) -m venv --clear $(PREFIX)
	@sed -n 's/^\([A-Za-z0-9_.-]*==[^ ;]*\).*/\1/p' requirements.lock > $(PREFIX)/constraints.txt
	@$(PREFIX)/bin/pip install --quiet --disable-pip-version-check \
		--constraint $(PREFIX)/constraints.txt .
	@rm -rf build
	@ln -sf $(PREFIX)/bin/anubis $(PREFIX)/bin/anubisd /usr/bin/
	@install -m 644 systemd/anubis.service /etc/systemd/system/anubis.service
	@install -m 644 systemd/anubis.sysusers /usr/lib/sysusers.d/anubis.conf
	@install -m 644 systemd/anubis.tmpfiles /usr/lib/tmpfiles.d/anubis.conf
	@systemd-sysusers anubis.conf
	@systemd-tmpfiles --create anubis.conf
	@setpriv --reuid=anubisd --regid=anubisd --clear-groups anubisd --help > /dev/null || { \
		echo "error: user anubisd cannot run /usr/bin/anubisd" >&2; \
		echo "hint: use a Python that everybody can: make install PYTHON=..." >&2; exit 1; }
	@echo "installed in $(PREFIX); next: anubis init"

# Of pyproject.toml itself pip-compile would take an extra's requirements without their markers.
lock: $(STAMP)  ## choose the newest versions that pyproject.toml allows
	$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*project["dependencies"], *project["optional-dependencies"]["dev"], sep="\n")' > $(VENV)/new.in
	$(BIN)/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
		--no-header --no-annotate --no-emit-options --output-file $(VENV)/new.lock $(VENV)/new.in
	grep -E '^([A-Za-z0-9]|    --hash=)' $(VENV)/new.lock > requirements.lock

clean:  ## remove what make has made
	$(ROOT) rm -rf $(VENV) .fuzz .machine build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	$(ROOT) find . -name __pycache__ -type d -prune -exec rm -rf {} +

system:
	@PYTHON=$(PYTHON) tools/system-packages

machine-system:
	@PYTHON=$(PYTHON) tools/system-packages machine

$(KERNEL): tools/machine-kernel | machine-system
	@tools/machine-kernel $(@D)

# The build tools come first: some packages are built from source, with these and no others.
$(STAMP): pyproject.toml requirements.lock | system
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@awk '/==/ { wanted = /^(pip|setuptools)==/ } wanted' requirements.lock > $(VENV)/build.lock
	@$(PIP_INSTALL) --require-hashes -r $(VENV)/build.lock
	@$(PIP_INSTALL) --require-hashes -r requirements.lock
	@$(PIP_INSTALL) --no-deps --config-settings editable_mode=compat --editable .
	@touch $@
