# Each target sets up .venv by itself, once. Another Python: make test PYTHON=/path/to/python3.12
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
CPU_TORCH := https://download.pytorch.org/whl/cpu

.PHONY: demo test evidence lint bench

demo: $(READY)
	$(RUN) -m sae.demo

test: $(READY)
	$(RUN) -m pytest tests

evidence: $(READY)
	$(RUN) -m sae.demo.evidence

bench: $(READY)
	$(RUN) -m benchmarks

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) tests/support/typecheck.py

# On Linux the CPU build of torch is tried first: it is a tenth of the size of the one with CUDA.
$(READY): requirements-dev.txt
	@$(PYTHON) -c '' 2>/dev/null || { echo "error: $(PYTHON) does not run; install Python 3.10 or newer, or give its path: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: Python 3.10 or newer is needed, but $(PYTHON) is $$($(PYTHON) --version 2>&1); give another: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; install it (on Debian and Ubuntu: sudo apt install python3-venv)" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; a few minutes, most of it the download of torch)"
	@$(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" = Linux ]; then \
		$(RUN) -m pip install --no-deps --retries 1 --extra-index-url $(CPU_TORCH) "$$(grep '^torch==' requirements-dev.txt)"; \
	fi
	$(RUN) -m pip install -r requirements-dev.txt
	@touch $(READY)
