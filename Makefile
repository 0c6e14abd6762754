# Each target sets up what it needs: `make demo` and `make test` run on a fresh machine with Python 3.11 or newer.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=

bin := $(VENV)/bin
# Timestamps of what is installed: what a user needs, and what development needs beyond that.
runs := $(VENV)/.runs
installed := $(VENV)/.installed
pytest = $(bin)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

.PHONY: help
help: ## List the targets (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Variables:       PYTHON=$(PYTHON) VENV=$(VENV) WORKERS=$(WORKERS) PYTEST_ARGS=$(PYTEST_ARGS) BENCH_ARGS=$(BENCH_ARGS)"

.PHONY: venv
venv: $(installed) ## Create or update the virtual environment

# Timestamp files: install again only if the requirements changed.
$(runs): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) was not found. Install Python 3.11 or newer, or choose one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Lakescore needs Python 3.11 or newer; $(PYTHON) is older. Choose another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "This Python cannot create virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV): Lakescore with DuckDB, PyTorch, Great Expectations and Matplotlib."
	@echo "The first time this takes minutes, because PyTorch is large."
	@test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	@$(bin)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(installed): $(runs)
	@echo "Adding to $(VENV) what development needs: Airflow, MLflow, Spark, Playwright, linters, test tools."
	@$(bin)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.PHONY: demo
demo: $(runs) ## Run a demo: make data and a model, score, run again, query the history; goes on where one is
	$(bin)/lakescore demo

.PHONY: airflow
airflow: $(installed) ## Run Airflow with the DAGs on loopback, until Ctrl-C
	exec $(bin)/lakescore airflow

.PHONY: test
test: $(installed) ## Run the fast tests
	$(pytest) -m "not slow"

.PHONY: test-slow
test-slow: $(installed) ## Run the slow tests: kills, races, large inputs, browsers
	$(pytest) -m slow

.PHONY: torture
torture: $(installed) ## Run kills and faults for an hour: the figures of docs/reliability.md
	$(bin)/python -m tests.torture
	TORTURE=1 $(pytest) tests/torture/test_faults.py tests/torture/test_state_machine.py tests/torture/test_fuzz.py

.PHONY: november
november: $(installed) ## Score a month of real data with Airflow on PostgreSQL and on the command line, and compare
	$(bin)/python -m tests.orchestration.november

.PHONY: bench
bench: $(installed) ## Run the benchmarks of scoring, and write their tables into docs/
	$(bin)/python -m tests.benchmarks $(BENCH_ARGS)

.PHONY: lint
lint: $(installed) ## Check style, types and SQL of all files in git
	PATH="$(abspath $(bin)):$$PATH" $(bin)/pre-commit run --all-files --show-diff-on-failure

.PHONY: format
format: $(installed) ## Format the Python files, and apply ruff's fixes
	$(bin)/ruff check --fix --exit-zero --quiet
	$(bin)/ruff format

.PHONY: clean
clean: ## Remove caches, build output and the demo; the virtual environment stays
	rm -rf build dist lakescore-demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
