.PHONY: env demo test test-all test-slurm lint

BIN := .venv/bin
# snakefmt looks for shfmt there.
export PATH := $(CURDIR)/$(BIN):$(PATH)

env: .venv/.done

.venv/.done: envs/requirements.txt envs/slurm.txt pyproject.toml
	python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed, python3 is " + sys.version)'
	python3 -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement envs/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement envs/slurm.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# The sample clip, all methods, on the CPU.
demo: env
	$(BIN)/snakemake --cores all --config clips=resources/demo device=cpu
	@echo 'The demo has made:'
	@ls results/infant/*/anonymized.mp4 results/table.tsv results/report/index.html

test: lint
	$(BIN)/pytest

test-all: lint
	$(BIN)/pytest -m ""

# A SLURM of this machine alone, from Debian's packages munge, slurmctld, slurmd and slurm-client.
test-slurm: env
	command -v slurmctld >/dev/null || { echo 'No SLURM here: apt-get install munge slurmctld slurmd slurm-client'; exit 1; }
	$(BIN)/pytest -m "" tests/test_slurm.py

lint: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint
