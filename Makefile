# The ways in. `make` alone lists them; docs/ and the stages' --help tell the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
INSTALLED := $(VENV)/.installed
# DVC's stages call plain `snakemake`, and Snakemake's rules plain `python`: they must be ours.
RUN := PATH="$(BIN):$$PATH"
# The same, and stages that the command starts are there in a moment.
FORKING := $(RUN) python workflow/fork_server.py
EXPERIMENT ?= .
FOLDER = $(or $(firstword $(wildcard $(EXPERIMENT) experiments/$(EXPERIMENT))),\
    $(error EXPERIMENT=$(EXPERIMENT): no such folder, nor experiments/$(EXPERIMENT)))

.DEFAULT_GOAL := help
.PHONY: help env demo test test-all versions experiments plan record verify pull caches pretrained clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

env: $(INSTALLED) ## install everything into .venv (a few GB: torch brings CUDA)

demo: env ## run the embedded experiment: tables and pictures in ten to twenty minutes
	$(FORKING) snakemake
	@$(RUN) python -m workflow.show_results

test: env ## check style, types, workflow and behaviour, in some minutes
	$(RUN) ruff check sacd pipeline stages cli benchmarks tests workflow
	$(RUN) ruff format --check sacd pipeline stages cli benchmarks tests workflow
	$(RUN) mypy
	$(RUN) snakefmt --check Snakefile workflow/rules
	$(RUN) snakemake --lint
	$(FORKING) pytest -m "not campaign"

test-all: test ## the campaigns too: clusters, remotes, kills, whole runs (half an hour)
	$(FORKING) pytest -m campaign

versions: env ## after an edit of code: see which stages give other results, and note it
	$(RUN) python workflow/versions.py

experiments: env ## write params.yaml and dvc.yaml of every experiment from what it says
	$(RUN) python workflow/resolve.py
	$(RUN) python workflow/dvc_stages.py

plan: env ## say what an experiment will take (EXPERIMENT=NAME): jobs, hours, disk
	@cd $(FOLDER) && PYTHONPATH="$(CURDIR)" $(RUN) python -m workflow.plan

record: env ## verify a finished run (EXPERIMENT=NAME) and let DVC record it
	@$(RUN) python workflow/record.py $(FOLDER)

verify: env ## recompute every digest of a finished run (EXPERIMENT=NAME)
	@$(RUN) python workflow/verify.py $(FOLDER)

pull: env ## fetch recorded results (EXPERIMENT=NAME) and mark them as made
	cd $(FOLDER) && $(RUN) dvc pull --allow-missing dvc.yaml
	@$(RUN) python workflow/mark_made.py $(FOLDER)

# Their records are stored, and tell of the run that the results come from: these are kept.
caches: env ## after a pull: make features and latents again, which are not stored
	$(RUN) snakemake caches --directory $(FOLDER)
	cd $(FOLDER) && $(RUN) dvc checkout --force latents/record.json features/*/record.json
	@$(RUN) python workflow/mark_made.py $(FOLDER)
	cd $(FOLDER) && $(RUN) dvc commit --force --quiet cache_latents cache_features

pretrained: env ## train again the backbones and the prior that come in pretrained/ (hours)
	$(RUN) snakemake models --directory experiments/pretrain
	$(RUN) python -m workflow.ship_models

clean: ## remove .venv and the tools' caches; data and results stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find sacd pipeline stages cli tests -name __pycache__ -prune -exec rm -rf {} +

# Made again when the lock or the project's description changes. An environment that is there is
# brought up to date, so that this works from inside it too.
$(INSTALLED): requirements.lock pyproject.toml
	@test ! -L $(VENV) || { \
	    echo "$(VENV) is a link, and what it leads to is not changed from here: remove the link." >&2; \
	    exit 1; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || { \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	        echo "SACD needs Python 3.11 or newer and $(PYTHON) is not: make env PYTHON=/path/to/python3.11" >&2; \
	        exit 1; }; \
	    $(PYTHON) -m venv --clear $(VENV); }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
