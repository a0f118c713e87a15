# Set-up, the main job, tests. A target installs what it needs into .venv first.

PYTHON ?= python3.11
VENV := .venv
IMAGE ?= position-trainer
ACCELERATOR ?= cpu
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' container/ml/__init__.py)
# Where there is a stand-in for the official base image with this machine's registry settings, it is used.
LOCAL_BASE := python-local:3.11-slim-bookworm
BASE = $(shell docker image inspect $(LOCAL_BASE) >/dev/null 2>&1 && echo --network host --build-arg BASE_IMAGE=$(LOCAL_BASE))
# What SageMaker's instances are, also where this machine is not. (A comment behind it would leave its blanks in the value.)
export DOCKER_DEFAULT_PLATFORM = linux/amd64
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
PIP_COMPILE = CUSTOM_COMPILE_COMMAND="make requirements" $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe \
	--no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links
# A worker takes about 1 GB of memory, and what it starts as much again.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 4

N ?= 100000
SECONDS ?= 300
UNDER_TEST = PYTHONPATH=container:sagemaker:tests/support:tests/tools $(BIN)/python

.PHONY: help setup train tune test test-fast lint coverage bench research chaos fuzz load image licences docs \
	requirements clean

help:  ## what there is to make
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(VENV)/job  ## the virtual environment .venv

$(VENV)/job: requirements.txt sagemaker/requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed; name another with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt -r sagemaker/requirements.txt
	@touch $@

$(VENV)/tests: $(VENV)/job tests/requirements.txt
	$(PIP) -r tests/requirements.txt
	@touch $@

train: setup  ## a training job on this machine [PRICES=FILE] [ARGS="--set name=value ..."]
	$(BIN)/python sagemaker/launch.py train --on local $(if $(PRICES),--prices "$(PRICES)") $(ARGS)

tune: setup  ## a tuning job on this machine [PRICES=FILE] [ARGS="--pack 8 --set name=value ..."]
	$(BIN)/python sagemaker/launch.py tune --on local $(if $(PRICES),--prices "$(PRICES)") $(ARGS)

test: lint  ## lint, then every test [ARGS="-k name"]
	$(PYTEST) $(ARGS)

test-fast: $(VENV)/tests  ## the tests without servers, containers and processes [ARGS="-k name"]
	$(PYTEST) -m "not slow" $(ARGS)

lint: $(VENV)/tests  ## ruff, its format, types, import rules, the examples in docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	@PYTHONPATH=container $(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python -m pytest --quiet -p examples --doctest-modules container/ml

coverage: $(VENV)/tests  ## lines and branches that the tests run, in their processes too [ARGS="-k name"]
	rm -f .coverage*
	$(BIN)/coverage run -m pytest -n auto --maxprocesses 4 $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

image:  ## the Docker image [IMAGE=name] [ACCELERATOR=gpu]
	docker build --quiet $(BASE) --build-arg ACCELERATOR=$(ACCELERATOR) --tag $(IMAGE) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD) .
	@docker image inspect $(IMAGE) --format '$(IMAGE): {{.Size}} bytes'
ifeq ($(ACCELERATOR),gpu)
	@docker run --rm --interactive --network none $(IMAGE) python - < tests/tools/cuda_libraries.py
endif

research: $(VENV)/tests  ## what the model is worth on real prices, and what was tried [ARGS="folds NAME"]
	PYTHONPATH=container $(BIN)/python tests/tools/research.py $(ARGS)

licences: $(VENV)/tests  ## what is in the image: name, version, licence; sbom.cdx.json has it for programs [IMAGE=name]
	@$(BIN)/python tests/tools/sbom.py $(IMAGE) sbom.cdx.json

bench: $(VENV)/tests  ## every benchmark, in one run [ARGS="case ..."]
	$(BIN)/python tests/tools/bench.py $(ARGS)

chaos: $(VENV)/tests  ## kills jobs at random moments [N=200] [ARGS="--image name"]
	$(UNDER_TEST) tests/tools/chaos.py -n $(if $(filter file,$(origin N)),200,$(N)) $(ARGS)

fuzz: $(VENV)/tests  ## broken inputs of every kind [N=100000] [ARGS="surface ..."]
	$(UNDER_TEST) tests/tools/fuzz.py -n $(N) $(ARGS)

load: $(VENV)/tests  ## 16 jobs that publish to one KYDB key and read it, then 2 writers of one series [SECONDS=300]
	$(UNDER_TEST) tests/tools/load.py --seconds $(SECONDS)
	$(UNDER_TEST) tests/tools/series_load.py --seconds $(SECONDS)

docs:  ## the table of docs/settings.md, from the declarations
	sed -i '/^<!-- settings:/q' docs/settings.md
	cd container && $(PYTHON) -m ml.settings >> ../docs/settings.md

requirements: $(VENV)/tests  ## pin again what the .in files name
	$(PIP_COMPILE) -o requirements.txt requirements.in
	sed 's/^tensorflow-cpu/tensorflow[and-cuda]/' requirements.in | \
		$(PIP_COMPILE) -c requirements.txt -o requirements-gpu.txt -
	$(PIP_COMPILE) -o sagemaker/requirements.txt sagemaker/requirements.in
	$(PIP_COMPILE) -o tests/requirements.txt tests/requirements.in

clean:  ## delete .venv; runs/ is yours
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .coverage*
