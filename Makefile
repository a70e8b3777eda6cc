# Needs make and Python 3.11 or newer (with venv), nothing else. `make` alone lists the targets.

# The interpreter that makes the environment; the first that is new enough, unless you name one.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)

VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip -qq --disable-pip-version-check
# SGLang and verl pin other versions of transformers than vLLM: an environment of its own for each.
SGLANG := .venv-sglang
VERL := .venv-verl
# The engine of `make diagnose`, and the model; empty is what the program takes by itself.
ENGINE ?= vllm
MODEL ?=
RUN ?= runs/diagnose
PYTEST_ARGS ?=
# Test files run side by side; what measures time runs alone, after them.
TEST_JOBS ?= 2
# Threads of each on two cores; with two they wait for each other at every parallel loop.
TEST_THREADS ?= 1

# Waiting OpenMP threads give up their core: the tests start many processes on few cores.
export OMP_WAIT_POLICY ?= PASSIVE

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help env sglang verl diagnose test test-long scorecard-ci lint format benchmark lock chromium clean clean-env

help:
	@echo "make diagnose    the embedded model through vLLM and FSDP2 on this CPU, with a report"
	@echo "                 (ENGINE=sglang: through SGLang, on a small Llama; MODEL=FOLDER: yours)"
	@echo "make test        linters, then every test that needs no GPU"
	@echo "make test-long   the tests of more models, faults and servers, which take minutes each"
	@echo "make scorecard-ci  a few planted faults through real engines; fails where an aim is missed"
	@echo "make lint        ruff, the layers and mypy;  make format: let ruff mend what it can"
	@echo "make benchmark   the performance claims, in full size"
	@echo "make env         the environment alone, in $(VENV)"
	@echo "make sglang      SGLang's environment for this CPU, in $(SGLANG)"
	@echo "make verl        verl's, for --trainer verl, in $(VERL)"
	@echo "make lock        resolve requirements/cpu.lock anew (LOCK_ARGS=--upgrade for new versions)"
	@echo "make clean       remove what runs and tests left;  make clean-env: the environment too"

# The embedded model is a GPT-OSS, which SGLang cannot run on a CPU.
SMALL_LLAMA := runs/models/random-llama
ifeq ($(ENGINE),sglang)
MODEL := $(or $(MODEL),$(SMALL_LLAMA))
endif

diagnose: env $(if $(filter sglang,$(ENGINE)),sglang $(filter $(SMALL_LLAMA),$(MODEL)))
	@$(BIN)/mismatch-lab diagnose $(MODEL) --engine $(ENGINE) --out $(RUN) --overwrite

$(SMALL_LLAMA): | env
	@mkdir -p $(@D)
	@$(BIN)/python -c 'from pathlib import Path; \
	  from mismatch_lab.scorecard.architectures import make; make("llama", Path("$@"))'

test: lint chromium
	@echo "tests: some minutes on 2 cores (PYTEST_ARGS='-m \"not slow\"' for the quick ones)"
	@OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile \
	  --ignore tests/benchmarks $(PYTEST_ARGS)
	@$(if $(PYTEST_ARGS),true,$(BIN)/python -m pytest tests/benchmarks)

# More models, faults and servers than `make test` has time for.
test-long: env
	@echo "tests: the long ones alone"
	@MISMATCH_LAB_LONG=1 $(BIN)/python -m pytest -m long -n $(TEST_JOBS) --dist loadfile tests/e2e

# The card goes to a folder that is then removed; what it prints says what was missed.
scorecard-ci: env
	@echo "scorecard: the subset ci (some minutes on 2 cores)"
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	  $(BIN)/mismatch-lab scorecard --subset ci --check --out "$$out/card" \
	    --checkpoints "$$out/models"

lint: env
	@echo "lint: ruff, ruff format, layers, mypy (under a minute the first time)"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/mypy

format: env
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

benchmark: env
	@$(BIN)/python -m pytest tests/benchmarks -m benchmark --benchmark-size full -s $(PYTEST_ARGS)

lock:
	@echo "lock: resolving requirements/cpu.lock, sglang.lock and verl.lock (about a minute)"
	@$(call with_python,requirements/lock.py $(LOCK_ARGS))

clean:
	rm -rf runs build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*/*' -prune -exec rm -rf {} +

clean-env: clean
	rm -rf $(VENV) $(SGLANG) $(VERL)

# ---- The environment -------------------------------------------------------------------------
# Each stamp is written last, so that what was interrupted is done again. Locked packages always go
# into a fresh folder: pip would take a half-written package of the right version for a whole one.

env: $(VENV)/.installed

$(VENV)/.locked: requirements/cpu.lock requirements/torch.txt
	@echo "env: $(VENV) from requirements/cpu.lock (about 3 minutes and 4 GB, once)"
	@$(call with_locked,env,$(VENV),cpu.lock)

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(call with_itself,env,$(VENV))

# `make sglang` and `make verl`: $* is the program's name.
sglang: $(SGLANG)/.installed
verl: $(VERL)/.installed

$(SGLANG)/.locked $(VERL)/.locked: .venv-%/.locked: requirements/%.lock requirements/torch.txt
	@echo "$*: .venv-$* from requirements/$*.lock (about 2 minutes and 2 to 3 GB, once)"
	@$(call with_locked,$*,.venv-$*,$*.lock)

$(SGLANG)/.installed $(VERL)/.installed: .venv-%/.installed: .venv-%/.locked pyproject.toml
	@$(call with_itself,$*,.venv-$*)

# $(call with_locked,TARGET,FOLDER,LOCK): an environment with the locked packages and torch.
define with_locked
( $(call with_python,-m venv --clear $(2)) ) && \
echo "$(1): 1 of 2, the locked packages" && \
$(2)/bin/python $(PIP) install --no-deps --require-hashes --only-binary :all: -r requirements/$(3) && \
echo "$(1): 2 of 2, torch (an index that cannot be reached is passed over)" && \
$(2)/bin/python $(PIP) install --no-deps --retries 2 -r requirements/torch.txt && \
touch $(2)/.locked
endef

# $(call with_itself,TARGET,FOLDER): this package in it, editable; an earlier one may be half-written.
define with_itself
echo "$(1): mismatch-lab itself, editable" && \
rm -rf $(2)/lib/python*/site-packages/mismatch_lab-*.dist-info && \
$(2)/bin/python $(PIP) install --no-deps --no-build-isolation --no-index --ignore-installed \
  --editable . && \
touch $(2)/.installed
endef

# $(call with_python,ARGS): run the first interpreter that is new enough and has venv and pip.
define with_python
for python in $(PYTHONS); do \
  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
  then exec "$$python" $(1); fi; \
done; \
echo "No Python 3.11 or newer with venv among: $(PYTHONS)." >&2; \
echo "Install one (on Debian: apt-get install python3.11-venv), or name it: make PYTHON=/path/to/python3.11" >&2; \
exit 1
endef

# ---- The browser of tests/browser --------------------------------------------------------------

chromium:
	@command -v chromium >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "chromium: installing Debian's for the browser tests (about a minute)"; \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null; \
	  else \
	    echo "chromium: not found; the browser tests are skipped, and fail where CI=true."; \
	    echo "          Install your system's package named chromium to run them."; \
	  fi; }
