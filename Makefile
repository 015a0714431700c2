# `make help` says what there is. Everything runs as root on Debian 12 or later; what is missing is installed first.

PYTEST := PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m pytest
VERSION := $(shell sed -n '1s/^[^0-9]*\([0-9][^ ]*\). .*/\1/p' packaging/debian/changelog)
DEB := dist/slotd_$(VERSION)_all.deb
# What the package is made of; a file that goes is noticed by its directory.
INPUTS := $(shell find daemon units dbus packaging docs -not -name __pycache__ -not -name '*.pyc') \
	$(wildcard README.md CHANGELOG.md SECURITY.md) LICENSE pyproject.toml

.PHONY: help deb test test-unit test-parts test-system attack fuzz tuf-conformance stress vm crash real lint demo bench clean bootstrap

help:
	@echo 'make deb          build $(DEB)'
	@echo 'make demo         the whole story, with a real application in a booted container'
	@echo 'make test         everything: rules, parts, and the package in booted containers'
	@echo 'make test-unit    the rules alone, in seconds'
	@echo 'make test-parts   each part with its real counterpart'
	@echo 'make test-system  the package in booted containers'
	@echo 'make attack       every hostile case: what is offered to harm it, and refused'
	@echo 'make fuzz         the parsers of foreign bytes, guided by coverage; TARGET=sums MINUTES=10'
	@echo 'make tuf-conformance  the suite of the TUF project against our client; SUITE=its checkout'
	@echo 'make bench        speed and memory, each beside an opponent; writes docs/performance.md'
	@echo 'make vm           power cuts, hangs and worse on emulated machines; SEED=N again, ARGS=--help for more'
	@echo 'make crash        every step of an update by every fault; CELL=name for one, SAMPLE=40 SEED=7 for some'
	@echo 'make real         applications that people run, from PyPI and npm: updated, and taken back; takes ten minutes and more'
	@echo 'make stress       callers in random order, the daemon killed among them; ROUNDS=1000 SEED=N'
	@echo 'make lint         ruff, mypy, layers, units'
	@echo 'make clean        remove build/ (with its cached container images) and dist/'

bootstrap:
	@packaging/bootstrap

deb: bootstrap
	@$(MAKE) --no-print-directory $(DEB)

$(DEB): $(INPUTS)
	@packaging/build-deb

test: deb
	$(PYTEST) tests/unit tests/parts tests/system tests/vm tests/crash

test-unit: bootstrap
	$(PYTEST) tests/unit

test-parts: bootstrap
	$(PYTEST) tests/parts

test-system: deb
	$(PYTEST) tests/system

attack: deb
	$(PYTEST) tests -m attack

# Corpus and ledger stay in build/fuzz, so that time adds up.
fuzz: bootstrap
	@PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=daemon:. /usr/bin/python3 -m tests.fuzz $(TARGET) --minutes $(or $(MINUTES),1)

tuf-conformance: bootstrap
	@tests/tuf_conformance/run '$(SUITE)'

# Everything else leaves these out: they need the package registries.
real: deb
	$(PYTEST) -s -m registry tests/system/test_real_applications.py

# The whole takes up to an hour and writes docs/reliability.md; LANES machines run side by side.
crash: deb
	@PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=daemon:. SLOTD_CRASH_CELL='$(CELL)' SLOTD_CRASH_SAMPLE=$(SAMPLE) \
	SLOTD_CRASH_SEED=$(SEED) SLOTD_CRASH_LANES=$(LANES) SLOTD_CRASH_MINUTES=$(MINUTES) SLOTD_CRASH_AGAIN=$(AGAIN) /usr/bin/python3 -m tests.crash

stress: deb
	@SLOTD_STRESS_ROUNDS=$(or $(ROUNDS),1000) SLOTD_STRESS_SEED=$(SEED) $(PYTEST) -qs tests/system/test_stress.py

vm: deb
	@PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m tests.vm $(if $(SEED),--seed $(SEED)) --report docs/reliability-vm.md $(ARGS)

lint: bootstrap
	$(PYTEST) tests/unit/test_lint.py tests/unit/test_layers.py

demo: deb
	@/usr/bin/python3 tests/demo/demo.py

# BENCH names some of them, QUICK=1 makes them small.
bench: deb
	@PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=daemon:. SLOTD_BENCH_QUICK=$(QUICK) /usr/bin/python3 -m tests.bench $(BENCH)

clean:
	rm -rf build dist
