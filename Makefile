# The ways in. `make` alone lists them; docs/ and the stages' --help tell the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
INSTALLED := $(VENV)/.installed
# DVC's stages call plain `snakemake`, and Snakemake's rules plain `python`: they must be ours.
RUN := PATH="$(BIN):$$PATH"
EXPERIMENT ?= .

.DEFAULT_GOAL := help
.PHONY: help env demo test pull pretrained clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

env: $(INSTALLED) ## install everything into .venv (a few GB: torch brings CUDA)

demo: env ## run the embedded experiment: tables and pictures in about twelve minutes
	$(RUN) snakemake
	@$(RUN) python -m stages.show_results

test: env ## check style, types, workflow and behaviour
	$(RUN) ruff check sacd stages tests
	$(RUN) ruff format --check sacd stages tests
	$(RUN) mypy
	$(RUN) snakefmt --check Snakefile workflow/rules
	$(RUN) snakemake --lint
	$(RUN) pytest

# Snakemake goes by the times of files, which a clone and a pull make anew. Touching puts them in
# order, but would pass off stale files as made: only what DVC finds as recorded is touched.
pull: env ## fetch recorded results (EXPERIMENT=experiments/NAME) and mark them as made
	cd $(EXPERIMENT) && $(RUN) dvc pull dvc.yaml
	@$(RUN) snakemake --list-rules --directory $(EXPERIMENT) > /dev/null # makes folders that stay empty
	@cd $(EXPERIMENT) && $(RUN) dvc status dvc.yaml --quiet || { \
	    $(RUN) dvc status dvc.yaml; \
	    echo "$(EXPERIMENT): not what dvc.lock records (see above), so nothing was marked as made." \
	        "Undo the edits and pull again, or run snakemake." >&2; \
	    exit 1; }
	$(RUN) snakemake --touch --forceall --directory $(EXPERIMENT) --quiet

pretrained: env ## train again the backbones and the prior that come in pretrained/ (hours)
	$(RUN) snakemake models --directory experiments/pretrain
	$(RUN) python -m stages.ship_models

clean: ## remove .venv and the tools' caches; data and results stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find sacd stages tests -name __pycache__ -prune -exec rm -rf {} +

# Made again when the lock or the project's description changes. An environment that is there is
# brought up to date, so that this works from inside it too.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "SACD needs Python 3.11 or newer and $(PYTHON) is not: make env PYTHON=/path/to/python3.11" >&2; \
	    exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
