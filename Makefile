# `make demo` and `make test` are all a newcomer needs; both make .venv first. `make help` lists the rest.
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# The first of the supported Pythons that runs here. (A shim of pyenv may exist and not run.)
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$(shell python$(version) -c 'import sys; print(sys.executable)' 2>/dev/null)))
# cpu | cuda: which build of PyTorch. With pip, cpu takes whichever build the configured index prefers.
TORCH ?= cpu
# uv where it is installed, pip otherwise. Bytecode is compiled at the first import: a third less disk.
INSTALLER ?= $(if $(shell command -v uv),uv,pip)
INSTALL_pip = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
INSTALL_uv = uv pip install --quiet --python $(BIN)/python -c constraints.txt
INSTALL = $(INSTALL_$(INSTALLER))
TORCH_pip_cpu = torch==2.13.0
TORCH_pip_cuda = torch===2.13.0
TORCH_uv_cpu = --torch-backend cpu torch==2.13.0
TORCH_uv_cuda = --torch-backend auto torch==2.13.0
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export NO_ALBUMENTATIONS_UPDATE := 1
export ORT_DISABLE_TELEMETRY := 1

.PHONY: demo run ui test test-slow test-all check format docs help clean
.DEFAULT_GOAL := demo

## demo: the whole pipeline on built-in data, then the decision
demo: data/steel-strip
	@dbrnet configure steel-strip
	@$(MAKE) --no-print-directory pipeline

## run DATASET=neu-seg SOURCE=path: the whole pipeline on a dataset of yours
run: $(VENV)/.demo
	@dbrnet configure "$(DATASET)" $(if $(SOURCE),--source "$(SOURCE)")
	@$(MAKE) --no-print-directory pipeline

.PHONY: pipeline
pipeline: $(VENV)/.demo
	@dvc repro --quiet
	@cat artifacts/promote/summary.txt

data/steel-strip: | $(VENV)/.demo
	@dbrnet generate --out $@

## ui: MLflow in the browser, on this machine only
ui: $(VENV)/.ui
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 127.0.0.1 --port 5000 \
		--backend-store-uri sqlite:///mlflow.db --artifacts-destination mlartifacts

## test: the tests, two at a time; two and a half minutes on two fast cores, six on slow ones
test: $(VENV)/.dev
	pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: $(VENV)/.dev
	pytest -m slow --numprocesses 2 --dist loadfile --no-loadscope-reorder

## test-all: those and the longer proofs, which begin first
test-all: $(VENV)/.dev
	pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

## check: lint, format and types
check: $(VENV)/.dev
	ruff check .
	ruff format --check .
	mypy

format: $(VENV)/.dev
	ruff check --fix .
	ruff format .

## docs: the documentation site, in site/
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

# PyTorch on its own line: the constraints file leaves it out, so that a machine's own build of it is taken.
$(VENV)/.demo: constraints.txt pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "Python 3.11, 3.12 or 3.13 is needed, and $(or $(PYTHON),none of them) was found;" \
			"install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@test -n "$(TORCH_$(INSTALLER)_$(TORCH))" || { echo "TORCH is cpu or cuda, INSTALLER pip or uv" >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)
	$(INSTALL) $(TORCH_$(INSTALLER)_$(TORCH))
	$(INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.ui: $(VENV)/.demo
	$(INSTALL) --editable '.[ui]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(INSTALL) --editable '.[docs]'
	@touch $@

## help: these lines
help:
	@sed -n 's/^## //p' Makefile

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
image-check: $(VENV)/.dev
	python -m tests.image.check

## sbom: what is installed, as CycloneDX: sbom.cdx.json
sbom: $(VENV)/.dev
	cyclonedx-py environment --output-reproducible --output-file sbom.cdx.json $(VENV)

## vulnerabilities: whether any of the pinned set is known to be vulnerable
vulnerabilities: $(VENV)/.dev
	python -m tests.image.vulnerabilities

## clean: remove the environment and what the pipeline made; your data and MLflow's database stay
clean:
	rm -rf $(VENV) artifacts data/dataset data/split data/steel-strip site
