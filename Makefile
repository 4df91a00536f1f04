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
UNITS ?= /etc/systemd/system
# Where Debian's shells look for the completion of commands.
BASH_SCRIPT := /usr/share/bash-completion/completions/anubis
ZSH_SCRIPT := /usr/share/zsh/vendor-completions/_anubis
FISH_SCRIPT := /usr/share/fish/vendor_completions.d/anubis.fish
COMPLETION = _ANUBIS_COMPLETE=$(1)_source $(DESTDIR)$(PREFIX)/bin/python -B \
	-c 'from anubis.cli import main; main()'

.PHONY: help demo fuzz pictures test test-fuzz test-kernel test-packages test-systemd check machine machine-system \
	install files packages tests-system lock clean system

help:  ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(STAMP)  ## see a laptop in a hotel reach its house and leave again
	@$(ROOT) $(BIN)/python -m anubis.demo

test: check machine tests-system  ## check, then run every test
	$(ROOT) $(BIN)/pytest
	@$(MAKE) --no-print-directory test-fuzz
	@$(MAKE) --no-print-directory test-kernel
	@$(MAKE) --no-print-directory test-systemd
	@$(MAKE) --no-print-directory test-packages

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
	$(ROOT) tests/on-a-layer tests/systemd/bare tests/systemd/prepare \
		$(BIN)/python -m tests.machine --systemd --seconds 1500 -- \
		$(BIN)/python -m pytest \
		-p no:cacheprovider --timeout=600 --durations=3 -rP tests/systemd/service_tests.py

test-packages: machine packages  ## the Debian package, in that machine, from installation to purge
	$(ROOT) tests/on-a-layer tests/systemd/bare \
		$(BIN)/python -m tests.machine --systemd --seconds 1500 -- \
		$(BIN)/python -m pytest \
		-p no:cacheprovider --timeout=600 --durations=8 -rP tests/systemd/package_tests.py

check: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

pictures: $(STAMP)  ## take the pictures in docs/ anew
	@$(ROOT) $(BIN)/python -m tools.pictures

machine: $(STAMP) $(KERNEL)  ## make ready the virtual machine that some tests run in

# The system's Python: the service is not root, and cannot use one in somebody's home directory.
install: PYTHON := $(or $(wildcard /usr/bin/python3),$(PYTHON))
install: system  ## on this host: /opt/anubis, the commands in /usr/bin, the systemd unit
	@$(PYTHON) -c 'import os, sys; sys.exit(os.geteuid() and "error: run make install as root")'
	@PYTHON=$(PYTHON) tools/environment $(PREFIX)
	@$(MAKE) --no-print-directory files
	@systemd-sysusers anubis.conf
	@systemd-tmpfiles --create anubis.conf
	@setpriv --reuid=anubisd --regid=anubisd --clear-groups anubisd --help > /dev/null || { \
		echo "error: user anubisd cannot run /usr/bin/anubisd" >&2; \
		echo "hint: use a Python that everybody can: make install PYTHON=..." >&2; exit 1; }
	@echo "installed in $(PREFIX); next: anubis init"

# Everything that is installed beside the environment, which is there already.
files:
	@install -d $(DESTDIR)/usr/bin
	@ln -sf $(PREFIX)/bin/anubis $(PREFIX)/bin/anubisd $(DESTDIR)/usr/bin/
	@install -D -m 644 systemd/anubis.service $(DESTDIR)$(UNITS)/anubis.service
	@install -D -m 644 systemd/anubis.sysusers $(DESTDIR)/usr/lib/sysusers.d/anubis.conf
	@install -D -m 644 systemd/anubis.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/anubis.conf
	@$(DESTDIR)$(PREFIX)/bin/python -B -m tools.manual $(DESTDIR)/usr/share/man
	@install -d $(dir $(addprefix $(DESTDIR),$(BASH_SCRIPT) $(ZSH_SCRIPT) $(FISH_SCRIPT)))
	@$(call COMPLETION,bash) > $(DESTDIR)$(BASH_SCRIPT)
	@$(call COMPLETION,zsh) > $(DESTDIR)$(ZSH_SCRIPT)
	@$(call COMPLETION,fish) > $(DESTDIR)$(FISH_SCRIPT)

# The wheel is built from the sdist, and so is the Debian package: that nothing is forgotten there
# shows here.
packages: $(STAMP) | tests-system  ## in dist/: a wheel, an sdist and a Debian package
	@rm -rf dist build
	@mkdir build
	@$(BIN)/python -m build --no-isolation --outdir dist . &> build/log || { cat build/log; exit 1; }
	@tar -xzf dist/*.tar.gz -C build
	@cd build/*/ && dpkg-buildpackage --build=binary --no-sign &> ../log || { cat ../log; exit 1; }
	@mv build/*.deb dist/
	@rm -rf build
	@ls dist/*

# Of pyproject.toml itself pip-compile would take an extra's requirements without their markers.
lock: $(STAMP)  ## choose the newest versions that pyproject.toml allows
	$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*project["dependencies"], *project["optional-dependencies"]["dev"], sep="\n")' > $(VENV)/new.in
	$(BIN)/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
		--no-header --no-annotate --no-emit-options --output-file $(VENV)/new.lock $(VENV)/new.in
	grep -E '^([A-Za-z0-9]|    --hash=)' $(VENV)/new.lock > requirements.lock

clean:  ## remove what make has made
	$(ROOT) rm -rf $(VENV) .artefacts .fuzz .machine build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	$(ROOT) find . -name __pycache__ -type d -prune -exec rm -rf {} +

system:
	@PYTHON=$(PYTHON) tools/system-packages

machine-system:
	@PYTHON=$(PYTHON) tools/system-packages machine

# The Debian package is for the system's Python.
tests-system:
	@PYTHON=/usr/bin/python3 tools/system-packages tests

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
