# Run `make` for the list of targets. No activation needed: everything goes through .venv.

PIP := .venv/bin/python -m pip --disable-pip-version-check -q

export HF_HUB_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run smollm2 test lint docs pages site benchmark methods leaderboard reproduce \
	reproduce-smollm2 torture clean

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z0-9.]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv ## edit the embedded model with ROME (tensorboard --logdir runs shows it)
	.venv/bin/python train.py fit --config rome.yaml

smollm2: .venv ## fetch a real language model, SmolLM2-135M (88 MB), into models/smollm2-135m
	.venv/bin/python -m command_line.smollm2

test: export HF_HUB_OFFLINE := 1
test: export OMP_NUM_THREADS := 1
test: lint ## what CI runs: format, lint, types, fast tests on all cores
	.venv/bin/python -m pytest -m "not slow and not gpu" -n auto --dist worksteal

lint: .venv ## format, lint and types only
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

docs: pages site ## generate the pages made from the code, then build the site

pages: .venv ## generate docs/journal.md, architecture.svg and families.md from the code
	.venv/bin/python -m docs.journal
	.venv/bin/python -m docs.architecture
	.venv/bin/python -m docs.families

site: export NO_MKDOCS_2_WARNING := 1
site: .venv/.docs-installed ## build the site into site/; warnings and dead links are errors
	.venv/bin/mkdocs build
	@echo "open site/index.html, or with search: .venv/bin/python -m http.server -d site"

benchmark: .venv ## measure speed (docs/performance.md); a quarter of an hour
	.venv/bin/python -m tests.benchmarks

methods: export HF_HUB_OFFLINE := 1
methods: .venv ## measure every method (docs/methods.md); 20 minutes on 2 cores
	.venv/bin/python -m docs.methods

leaderboard: export HF_HUB_OFFLINE := 1
leaderboard: .venv ## run the leaderboard's rows, as long as you like (docs/leaderboard.md): HOURS=2
	.venv/bin/python -m docs.leaderboard $(if $(HOURS),--hours $(HOURS))

reproduce: export HF_HUB_OFFLINE := 1
reproduce: .venv ## run both papers' experiments on the embedded model (docs/reproduce.md); half an hour
	.venv/bin/python -m docs.reproduce

reproduce-smollm2: export HF_HUB_OFFLINE := 1
reproduce-smollm2: smollm2 ## run them on a real model, SmolLM2-135M (docs/smollm2.md); five hours
	.venv/bin/python -m docs.reproduce --book smollm2

torture: export HF_HUB_OFFLINE := 1
torture: .venv ## kill runs at random instants and resume them (docs/reliability.md); ten minutes
	.venv/bin/python -m tests.torture --minutes 10

clean: ## remove caches; .venv and runs stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv: .venv/.installed ## create or update the environment

.venv/.installed: requirements.txt requirements-dev.txt | .venv/bin/python
	@echo "installing requirements-dev.txt into .venv (PyTorch is large: some minutes)"
	$(PIP) install -r requirements-dev.txt
	@touch $@

.venv/.docs-installed: requirements-docs.txt .venv/.installed
	$(PIP) install -r requirements-docs.txt
	@touch $@

# Asks each candidate for its version: a pyenv shim may exist for a Python that is not there.
.venv/bin/python:
	@for python in $(PYTHON) python3.11 python3; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then break; fi; \
	  python=; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11 or newer is needed; neither python3.11 nor python3 is one" \
	    "($$(python3 --version 2>&1)). Install it, or name one: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	$$python -m venv .venv || { rm -rf .venv; \
	  echo "$$python cannot create .venv, probably for want of ensurepip. On Debian or Ubuntu:" \
	    "apt install python3-venv (or python3.11-venv). Without root:" \
	    "pip install --user virtualenv && $$python -m virtualenv .venv. Then make again." >&2; \
	  exit 1; }
