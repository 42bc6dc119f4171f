# Two commands for a newcomer: `make run` and `make test`. Both need only Python >= 3.10, pip and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.evolve-installed
TESTED := $(VENV)/.evolve-tests-installed
DOCUMENTED := $(VENV)/.evolve-docs-installed

.PHONY: run test test-slow test-faults lint wheel-smoke docs bench-against clean

$(STAMP): setup.cfg setup.py pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 14) else f"evolve needs Python 3.10 to 3.13, {sys.executable} is {sys.version.split()[0]}; name another: make run PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e .
	touch $@

$(TESTED): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[test]'
	touch $@

$(DOCUMENTED): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[docs]'
	touch $@

run: $(STAMP)
	$(BIN)/evolve run glyphs-seq25 --profile quick

test: $(TESTED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-slow: $(TESTED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

test-faults: $(TESTED)
	PYTHONPATH=tests $(BIN)/python tests/faults/run.py

lint: $(TESTED)
	$(BIN)/ruff check evolve tests benchmarks docs/site .ci/docker-steps
	$(BIN)/ruff format --check evolve tests benchmarks docs/site .ci/docker-steps setup.py
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel-smoke: $(TESTED)
	.ci/wheel-smoke $(BIN)/python

# Fails where this checkout trains more than 10 % slower than REF, a wheel or a git reference (default: the last tag).
bench-against: $(TESTED)
	$(BIN)/python -m evolve.benchmarks.speed.against $(REF)

# The site, to be read from build/site without a network or a server. Links to code lead to copies.
docs: $(DOCUMENTED)
	rm -rf build/docs
	mkdir -p build/docs
	cp -r *.md LICENSE CITATION.cff docs benchmarks evolve examples scenarios build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -f docs/site/mkdocs.yml
	@echo "open build/site/index.html"

clean:
	rm -rf $(VENV) build *.egg-info
