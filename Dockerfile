# The image that every step runs in: `--target cpu` (the default) or `--target cuda`. docs/image.md has the commands.
# linux/amd64. A digest pins the base: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

# What builds is left behind: pip, setuptools and the SBOM's maker live in a venv of their own.
# The secret `pip` is a pip.conf of yours, with a mirror or the index of PyTorch's CPU builds; no layer keeps it.
FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY pyproject.toml constraints.txt image/install.sh ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/tools \
    && /opt/tools/bin/pip install -c constraints.txt cyclonedx-bom \
    && python3 -m venv --without-pip /opt/venv

# +cpu: without an index that has it the build stops, where plain 2.13.0 would bring gigabytes of CUDA.
FROM build AS libraries-cpu
RUN --mount=type=secret,id=pip,target=/etc/pip.conf sh install.sh torch==2.13.0+cpu

# === is this very version, PyPI's build for CUDA, whatever other builds an index of yours has.
FROM build AS libraries-cuda
RUN --mount=type=secret,id=pip,target=/etc/pip.conf sh install.sh torch===2.13.0

# The code is a layer of its own, so that a change of it moves a megabyte and not the libraries.
FROM build AS code
COPY README.md LICENSE NOTICE ./
COPY dbrnet dbrnet
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/tools/bin/pip --python /opt/venv/bin/python install --no-deps --target /opt/dbrnet .

# No ENTRYPOINT: Kubeflow gives the whole command. All that a step writes is /tmp and the working directory.
FROM ${BASE} AS runtime
RUN useradd --uid 10001 --user-group --no-log-init --home-dir /tmp --shell /usr/sbin/nologin dbrnet \
    && install --directory --owner=dbrnet --group=dbrnet /workspace
ENV PATH=/opt/dbrnet/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/dbrnet \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    DVC_NO_ANALYTICS=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    NNCF_CI=1 \
    NO_ALBUMENTATIONS_UPDATE=1 \
    ORT_DISABLE_TELEMETRY=1
WORKDIR /workspace
USER 10001:10001
CMD ["dbrnet", "--help"]
LABEL org.opencontainers.image.title="dbrnet" \
      org.opencontainers.image.description="The steps of the DBRNet pipeline"

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=libraries-cuda /opt/venv /opt/venv
COPY --from=code /opt/dbrnet /opt/dbrnet
ARG REVISION=unknown
ENV DBRNET_REVISION=${REVISION}
LABEL org.opencontainers.image.revision="${REVISION}"

FROM runtime AS cpu
COPY --from=libraries-cpu /opt/venv /opt/venv
COPY --from=code /opt/dbrnet /opt/dbrnet
ARG REVISION=unknown
ENV DBRNET_REVISION=${REVISION}
LABEL org.opencontainers.image.revision="${REVISION}"
