# make forget   the embedded example, from nothing to a report
# make test     everything that is tested
VENV   ?= .venv
PYTHON ?= python3
# Another build of torch: make test TORCH="torch==2.13.0"
TORCH  ?= torch>=2.4
EXTRAS  = vision,distributed,prune,parquet,diffusion,language,optim,onnx,docs,test

.PHONY: forget test docs lint clean

forget: $(VENV)/.core
	$(VENV)/bin/unweave forget

test: $(VENV)/.all
	$(VENV)/bin/python -m pytest -n auto --dist worksteal -q --durations=15

docs: $(VENV)/.all
	$(VENV)/bin/mkdocs build --strict

lint: $(VENV)/.all
	$(VENV)/bin/pip install -q -e ".[dev]"
	$(VENV)/bin/ruff check src tests claims benchmarks examples
	$(VENV)/bin/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "unweave needs Python >= 3.11; this is %d.%d. Run: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --upgrade pip

$(VENV)/.core: $(VENV)/bin/python pyproject.toml
	$(VENV)/bin/pip install -q "$(TORCH)"
	$(VENV)/bin/pip install -q -e .
	@touch $@

$(VENV)/.all: $(VENV)/.core
	$(VENV)/bin/pip install -q -e ".[$(EXTRAS)]"
	@touch $@

clean:
	rm -rf $(VENV) build dist site src/*.egg-info
