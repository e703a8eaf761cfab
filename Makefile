# The project's interface. Everything runs in .venv, made on first use.

PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.complete

.PHONY: install demo test chaos soak bench check contract clean

install: $(STAMP)
	@:

$(STAMP): requirements.txt requirements-dev.txt
	@sh prominence/setup/venv.sh $(PYTHON) .venv
	@echo "installing Python packages into .venv"
	@$(PY) -m pip install -q --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(STAMP)
	@$(PY) -m prominence.demo

# Everything on the embedded pair (SQLite, Valkey) and, beside it, what meets a database or Redis on PostgreSQL and Redis.
test: $(STAMP)
	@sh tests/setup/all.sh $(PY)
	@$(PY) -m tests.halves

# RUNS schedules of faults, from SEED on, each over JOBS jobs; goes on where the last call ended. See docs/reliability.md.
RUNS ?= 1
SEED ?= 1
JOBS ?= 300

chaos: $(STAMP)
	@sh tests/setup/all.sh $(PY)
	@PROMINENCE_TEST_BACKEND=production $(PY) -m tests.chaos --runs $(RUNS) --seed $(SEED) --jobs $(JOBS)

# Jobs and faults at random for so long; memory, descriptors and threads of each process must not grow.
MINUTES ?= 30

soak: $(STAMP)
	@sh tests/setup/all.sh $(PY)
	@PROMINENCE_TEST_BACKEND=production $(PY) -m tests.chaos.soak --minutes $(MINUTES) --seed $(SEED)

# ONLY: names, separated by commas. N: share of the full numbers of jobs, such as 0.1. FULL=1: the long parts too.
# KEEP=1: docs/performance.md shows this run, and later ones are compared with it.
ONLY ?=
N ?= 1
FULL ?=
KEEP ?=

bench: $(STAMP)
	@sh tests/setup/all.sh $(PY)
	@sh tests/setup/bubblewrap.sh || echo "without bubblewrap"
	@$(PY) -m tests.bench --only "$(ONLY)" --scale $(N) $(if $(FULL),--full) $(if $(KEEP),--keep)

check: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy .

# docs/contract.md: which test proves which row of the contract.
contract: $(STAMP)
	@$(PY) -m tests.contract_table

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
