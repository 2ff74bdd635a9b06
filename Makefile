# Each target sets up .venv by itself, once. Another Python: make test PYTHON=/path/to/python3.12
PYTHON ?= python3
# Such as an extra index that has the CPU build of torch, which is much smaller than the one with CUDA.
PIP_OPTIONS ?=
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# Other libraries, for the tests that exchange SAEs with them and for the benchmark of training, each in an environment
# of its own: they pin other packages. Of dictionary_learning and overcomplete what reads language models and pictures
# is not used, and is left out.
SAE_LENS := sae-lens==6.54.12 pillow
DICTIONARY_LEARNING := dictionary-learning==0.1.0
OVERCOMPLETE := overcomplete==0.3.0
SPARSIFY := eai-sparsify==1.3.3
TORCH = $$(grep '^torch==' requirements-dev.txt)

.PHONY: demo test evidence lint bench fuzz trainers sae-lens dictionary-learning overcomplete sparsify

demo: $(READY)
	$(RUN) -m lab.demo

test: $(READY)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(RUN) -m pytest tests -n 3 --dist loadgroup --no-loadscope-reorder

evidence: $(READY)
	$(RUN) -m lab.evidence

bench: $(READY)
	$(RUN) -m lab.bench

fuzz: $(READY)
	$(RUN) tests/support/fuzz.py

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) tests/support/typecheck.py

trainers: sae-lens dictionary-learning overcomplete sparsify

sae-lens dictionary-learning overcomplete sparsify: %: .venv-%/.ready

.venv-sae-lens/.ready: $(READY)
	@echo "Setting up $(@D) (once; a few minutes)"
	@$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install $(PIP_OPTIONS) $(SAE_LENS) $(TORCH)
	@touch $@

.venv-dictionary-learning/.ready: $(READY)
	@echo "Setting up $(@D) (once)"
	@$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install $(PIP_OPTIONS) $(TORCH) einops numpy safetensors tqdm
	$(@D)/bin/python -m pip install --no-deps $(DICTIONARY_LEARNING)
	@touch $@

.venv-overcomplete/.ready: $(READY)
	@echo "Setting up $(@D) (once)"
	@$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install $(PIP_OPTIONS) $(OVERCOMPLETE) $(TORCH) safetensors
	@touch $@

.venv-sparsify/.ready: $(READY)
	@echo "Setting up $(@D) (once)"
	@$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install $(PIP_OPTIONS) $(SPARSIFY) $(TORCH)
	@touch $@

$(READY): requirements-dev.txt
	@$(PYTHON) -c '' 2>/dev/null || { echo "error: $(PYTHON) does not run; install Python 3.10 or newer, or give its path: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: Python 3.10 or newer is needed, but $(PYTHON) is $$($(PYTHON) --version 2>&1); give another: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; install it (on Debian and Ubuntu: sudo apt install python3-venv)" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; a few minutes, most of it the download of torch)"
	@$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install $(PIP_OPTIONS) -r requirements-dev.txt
	@touch $(READY)
