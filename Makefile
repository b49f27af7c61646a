# make forget      the embedded example, from nothing to a report
# make test        everything that is tested
# make test-fast   the same without the slow tests
# make newest      everything with the newest release of every library, which constraints.txt then names
VENV   ?= .venv
PYTHON ?= python3
# The releases that were tested last; PINS=/dev/null takes the newest ones instead.
PINS   ?= constraints.txt
# Another build of torch: make test TORCH="torch==2.13.0"
TORCH  ?= $(shell grep '^torch==' constraints.txt)
EXTRAS  = vision,distributed,prune,parquet,diffusion,language,optim,video,onnx,ledger,track,docs,test
SOURCES = src tests claims benchmarks examples $(wildcard docs/*.py)
PIP     = $(VENV)/bin/python -m pip install -q -c $(VENV)/pins.txt
PYTEST  = $(VENV)/bin/python -m pytest -n auto --dist worksteal -q

.PHONY: forget test test-fast newest docs lint clean

forget: $(VENV)/.core
	$(VENV)/bin/unweave forget

test: $(VENV)/.all
	$(PYTEST) --durations=15

test-fast: $(VENV)/.all
	$(PYTEST) -m "not slow"

newest:
	rm -rf $(VENV)-newest
	$(MAKE) lint docs test VENV=$(VENV)-newest PINS=/dev/null TORCH="$(if $(filter file,$(origin TORCH)),torch,$(TORCH))"
	$(VENV)-newest/bin/python -m pip freeze --exclude-editable > $(VENV)-newest/tested.txt
	sed 's/+[^=]*$$//' $(VENV)-newest/tested.txt > constraints.txt

docs: $(VENV)/.all
	$(VENV)/bin/mkdocs build --strict

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "unweave needs Python >= 3.11; this is %d.%d. Run: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --upgrade pip

# torch is pinned by TORCH alone, so that another build of it can be asked for
$(VENV)/pins.txt: $(VENV)/bin/python $(PINS)
	sed '/^torch==/d' $(PINS) > $@

$(VENV)/.core: $(VENV)/pins.txt pyproject.toml
	$(PIP) "$(TORCH)"
	$(PIP) -e .
	@touch $@

$(VENV)/.all: $(VENV)/.core
	$(PIP) -e ".[$(EXTRAS)]"
	@touch $@

$(VENV)/.dev: $(VENV)/.all
	$(PIP) -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-newest build dist site src/*.egg-info
