# Each target sets up what it needs: a fresh machine with Python 3.11 or newer is enough for `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=

bin := $(VENV)/bin
installed := $(VENV)/.installed
pytest = $(bin)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

.PHONY: help
help: ## Say what there is (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Variables:       PYTHON=$(PYTHON) VENV=$(VENV) WORKERS=$(WORKERS) PYTEST_ARGS=$(PYTEST_ARGS) BENCH_ARGS=$(BENCH_ARGS)"

.PHONY: venv
venv: $(installed) ## Make the virtual environment, or bring it up to date

# A timestamp: installs again only when what is asked for changed.
$(installed): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || \
	  { echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Lakescore needs Python 3.11 or newer; $(PYTHON) is not. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "This Python makes no virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV); the first time this takes minutes, PyTorch is large"
	@test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	@$(bin)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.PHONY: demo
demo: $(installed) ## See it work: make data and a model, score, run again, ask the history
	$(bin)/lakescore demo

.PHONY: airflow
airflow: $(installed) ## Run Airflow with the DAGs on loopback, until Ctrl-C
	exec $(bin)/lakescore airflow

.PHONY: test
test: $(installed) ## Run the fast tests
	$(pytest) -m "not slow"

.PHONY: test-slow
test-slow: $(installed) ## Run the others: kills, races, large inputs
	$(pytest) -m slow

.PHONY: torture
torture: $(installed) ## Kill and break for an hour: the figures of docs/reliability.md
	$(bin)/python -m tests.torture
	TORTURE=1 $(pytest) tests/torture/test_faults.py tests/torture/test_state_machine.py tests/torture/test_fuzz.py

.PHONY: november
november: $(installed) ## A month of real data through Airflow on PostgreSQL, and by the command line: the same predictions
	$(bin)/python -m tests.orchestration.november

.PHONY: bench
bench: $(installed) ## Measure, and write the tables in docs/performance.md
	$(bin)/python -m tests.benchmarks $(BENCH_ARGS)

.PHONY: lint
lint: $(installed) ## Check style, types and SQL of all files that git knows
	PATH="$(abspath $(bin)):$$PATH" $(bin)/pre-commit run --all-files --show-diff-on-failure

.PHONY: format
format: $(installed) ## Format the Python files, and mend what ruff can mend
	$(bin)/ruff check --fix --exit-zero --quiet
	$(bin)/ruff format

.PHONY: clean
clean: ## Remove caches, build output and the demo; the virtual environment stays
	rm -rf build dist lakescore-demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
