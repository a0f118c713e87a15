# Set-up, the main job, tests. A target installs what it needs into .venv first.

PYTHON ?= python3.11
VENV := .venv
IMAGE ?= position-trainer
ACCELERATOR ?= cpu
# Where there is a stand-in for the official base image with this machine's registry settings, it is used.
LOCAL_BASE := python-local:3.11-slim-bookworm
BASE = $(shell docker image inspect $(LOCAL_BASE) >/dev/null 2>&1 && echo --network host --build-arg BASE_IMAGE=$(LOCAL_BASE))
export DOCKER_DEFAULT_PLATFORM = linux/amd64  # what SageMaker's instances are, also where this machine is not
BIN := $(VENV)/bin
PIP_COMPILE = CUSTOM_COMPILE_COMMAND="make requirements" $(BIN)/pip-compile --quiet --strip-extras --allow-unsafe \
	--no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links

N ?= 100000
SECONDS ?= 300
UNDER_TEST = PYTHONPATH=container:sagemaker:tests/support:tests/tools $(BIN)/python

.PHONY: help setup train tune test lint bench research chaos fuzz load image licences requirements clean

help:  ## what there is to make
	@sed -nE 's/^([a-z]+):.*  ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(VENV)/job  ## the virtual environment .venv

$(VENV)/job: requirements.txt sagemaker/requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed; name another with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r sagemaker/requirements.txt
	@touch $@

$(VENV)/tests: $(VENV)/job tests/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

train: setup  ## a training job on this machine [PRICES=FILE] [ARGS="--set name=value ..."]
	$(BIN)/python sagemaker/launch.py train --on local $(if $(PRICES),--prices "$(PRICES)") $(ARGS)

tune: setup  ## a tuning job on this machine [PRICES=FILE] [ARGS="--set name=value ..."]
	$(BIN)/python sagemaker/launch.py tune --on local $(if $(PRICES),--prices "$(PRICES)") $(ARGS)

test: $(VENV)/tests lint  ## all tests [ARGS="-k name"]
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/tests
	$(BIN)/ruff check .

image:  ## the Docker image [IMAGE=name] [ACCELERATOR=gpu]
	docker build --quiet $(BASE) --build-arg ACCELERATOR=$(ACCELERATOR) --tag $(IMAGE) \
		--build-arg VERSION=$(shell git describe --tags --always --dirty) --build-arg REVISION=$(shell git rev-parse HEAD) .
	@docker image inspect $(IMAGE) --format '$(IMAGE): {{.Size}} bytes'

research: $(VENV)/tests  ## what the model is worth on real prices, and what was tried [ARGS="folds NAME"]
	PYTHONPATH=container $(BIN)/python tests/tools/research.py $(ARGS)

licences: $(VENV)/tests  ## what is in the image: name, version, licence [IMAGE=name]
	@docker run --rm --network none --volume $(CURDIR)/$(VENV)/lib/python3.11/site-packages:/tools:ro $(IMAGE) \
		python -c 'import sys; sys.path.append("/tools"); import piplicenses; piplicenses.main()' \
		--python /opt/venv/bin/python3 --with-system --format markdown
	@echo; echo "| Debian package | Version | Licence |"; echo "|---|---|---|"; docker run --rm --network none $(IMAGE) \
		dpkg-query --show --showformat '| $${Package} | $${Version} | /usr/share/doc/$${Package}/copyright |\n'

bench: $(VENV)/tests  ## every benchmark, in one run [ARGS="case ..."]
	$(BIN)/python tests/tools/bench.py $(ARGS)

chaos: $(VENV)/tests  ## kills jobs at random moments [N=200] [ARGS="--image name"]
	$(UNDER_TEST) tests/tools/chaos.py -n $(if $(filter file,$(origin N)),200,$(N)) $(ARGS)

fuzz: $(VENV)/tests  ## broken inputs of every kind [N=100000] [ARGS="surface ..."]
	$(UNDER_TEST) tests/tools/fuzz.py -n $(N) $(ARGS)

load: $(VENV)/tests  ## 16 jobs that publish to one KYDB key and read it [SECONDS=300]
	$(UNDER_TEST) tests/tools/load.py --seconds $(SECONDS)

requirements: $(VENV)/tests  ## pin again what the .in files name
	$(PIP_COMPILE) -o requirements.txt requirements.in
	sed 's/^tensorflow-cpu/tensorflow[and-cuda]/' requirements.in | \
		$(PIP_COMPILE) -c requirements.txt -o requirements-gpu.txt -
	$(PIP_COMPILE) -o sagemaker/requirements.txt sagemaker/requirements.in
	$(PIP_COMPILE) -o tests/requirements.txt tests/requirements.in

clean:  ## delete .venv; runs/ is yours
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
