# Each target sets up .venv by itself, once. Another Python: make test PYTHON=/path/to/python3.12
PYTHON ?= python3
# Such as an extra index that has the CPU build of torch, which is much smaller than the one with CUDA.
PIP_OPTIONS ?=
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# sae-lens pins another transformers, so the tests that run it give it an environment of its own.
SAE_LENS := .venv-sae-lens
SAE_LENS_READY := $(SAE_LENS)/.ready

.PHONY: demo test evidence lint bench sae-lens

demo: $(READY)
	$(RUN) -m lab.demo

test: $(READY)
	$(RUN) -m pytest tests

evidence: $(READY)
	$(RUN) -m lab.evidence

bench: $(READY)
	$(RUN) -m lab.bench

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) tests/support/typecheck.py

sae-lens: $(SAE_LENS_READY)

$(SAE_LENS_READY): $(READY)
	@echo "Setting up $(SAE_LENS) (once; a few minutes)"
	@$(PYTHON) -m venv $(SAE_LENS)
	$(SAE_LENS)/bin/python -m pip install $(PIP_OPTIONS) sae-lens==6.54.12 $$(grep '^torch==' requirements-dev.txt)
	@touch $(SAE_LENS_READY)

$(READY): requirements-dev.txt
	@$(PYTHON) -c '' 2>/dev/null || { echo "error: $(PYTHON) does not run; install Python 3.10 or newer, or give its path: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: Python 3.10 or newer is needed, but $(PYTHON) is $$($(PYTHON) --version 2>&1); give another: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; install it (on Debian and Ubuntu: sudo apt install python3-venv)" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; a few minutes, most of it the download of torch)"
	@$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install $(PIP_OPTIONS) -r requirements-dev.txt
	@touch $(READY)
