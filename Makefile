# `make demo` and `make test` are all a newcomer needs; both make .venv first.
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PYTHON ?= python3.11
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export NO_ALBUMENTATIONS_UPDATE := 1
export ORT_DISABLE_TELEMETRY := 1

.PHONY: demo run ui test test-slow test-all check format clean
.DEFAULT_GOAL := demo

## demo: the whole pipeline on built-in data, then the decision
demo: data/steel-strip
	@dbrnet configure steel-strip
	@$(MAKE) --no-print-directory pipeline

## run DATASET=neu-seg SOURCE=path: the whole pipeline on a dataset of yours
run: $(VENV)/.installed
	@dbrnet configure "$(DATASET)" $(if $(SOURCE),--source "$(SOURCE)")
	@$(MAKE) --no-print-directory pipeline

.PHONY: pipeline
pipeline: $(VENV)/.installed
	@dvc repro --quiet
	@cat artifacts/promote/summary.txt

data/steel-strip: | $(VENV)/.installed
	@dbrnet generate --out $@

## ui: MLflow in the browser, on this machine only
ui: $(VENV)/.installed
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 127.0.0.1 --port 5000 \
		--backend-store-uri sqlite:///mlflow.db --artifacts-destination mlartifacts

## test: the tests, two at a time; two and a half minutes on two fast cores, six on slow ones
test: $(VENV)/.installed
	pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: $(VENV)/.installed
	pytest -m slow --numprocesses 2 --dist loadfile --no-loadscope-reorder

## test-all: those and the longer proofs
test-all: test test-slow

## check: lint, format and types
check: $(VENV)/.installed
	ruff check .
	ruff format --check .
	mypy

format: $(VENV)/.installed
	ruff check --fix .
	ruff format .

# torch on its own line: the constraints file leaves it out, so that a machine's own build of it is taken.
$(VENV)/.installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	@touch $@

# The image. ENGINE is what there is of docker, podman and buildah; PIP_CONF a pip.conf for the build alone.
TARGET ?= cpu
ENGINE ?= $(firstword $(foreach engine,docker podman buildah,$(shell command -v $(engine))))
REVISION = $(shell git describe --always --dirty --abbrev=40 --exclude='*')

.PHONY: image image-check sbom vulnerabilities
## image TARGET=cpu|cuda: the container image dbrnet:TARGET (docs/image.md)
image:
	@test -n "$(ENGINE)" || { echo "make image needs docker, podman or buildah; none is installed" >&2; exit 2; }
	$(ENGINE) build --target $(TARGET) --tag dbrnet:$(TARGET) --build-arg REVISION=$(REVISION) \
		$(if $(BASE),--build-arg BASE=$(BASE)) $(if $(PIP_CONF),--secret id=pip$(comma)src=$(PIP_CONF)) $(IMAGE_FLAGS) .

comma := ,

## image-check: build it with buildah, and run the whole demo in it with the network off
image-check: $(VENV)/.installed
	python -m tests.image.check

## sbom: what is installed, as CycloneDX: sbom.cdx.json
sbom: $(VENV)/.installed
	cyclonedx-py environment --output-reproducible --output-file sbom.cdx.json $(VENV)

## vulnerabilities: whether any of the pinned set is known to be vulnerable
vulnerabilities: $(VENV)/.installed
	python -m tests.image.vulnerabilities

clean:
	rm -rf $(VENV) artifacts data/*/
