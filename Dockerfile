# The images of zeus-operator: targets operator, agent, runtime, example.
#
#   python -m tools.images build                   without a registry (docs/reference/images.md)
#   docker build --target operator -t operator .  with one
#
# SOURCE_DATE_EPOCH and REVISION make a build repeatable and say what it is of.

# Debian with Python 3.11, the version that all tests run on.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
# Debian with a torch of its own, which is small and needs no GPU; for the example alone.
ARG EXAMPLE_BASE_IMAGE=docker.io/library/debian:trixie-slim

# ---- What is built: nothing of these stages ships but what is copied from them ---------------

FROM ${BASE_IMAGE} AS tools
ARG PIP_INDEX_URL=https://pypi.org/simple
ARG SOURCE_DATE_EPOCH=0
# The base's own certificates, so that one place decides who is trusted.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_INDEX_URL=${PIP_INDEX_URL} \
    PIP_NO_CACHE_DIR=1 \
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    UV_DEFAULT_INDEX=${PIP_INDEX_URL} \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
COPY requirements/images.txt /src/requirements/
RUN python3 -m venv /tools && \
    /tools/bin/pip install --quiet --require-hashes --only-binary :all: -r /src/requirements/images.txt
WORKDIR /src

FROM tools AS sources
COPY LICENSE README.md pyproject.toml ./
COPY agent agent
COPY operator operator
COPY zeus_runtime zeus_runtime
COPY images/install.sh images/collect_program.sh images/
RUN /tools/bin/hatchling build -t wheel -d /wheels

FROM sources AS operator-build
COPY requirements/operator.txt requirements/
RUN PROGRAMS="zeus-operator" PACKAGES="zeus_operator zeus_runtime" \
    images/install.sh requirements/operator.txt /wheels/*.whl

FROM sources AS agent-build
COPY requirements/agent.txt requirements/
# The simulator's library is for any container of a node that asks for a GPU: it is built for an
# old C library, and where no loader looks by itself, since a real GPU's is to be found first.
RUN PROGRAMS="zeus-agent gpu-sim" PACKAGES="zeus_agent gpu_simulator zeus_runtime" \
    images/install.sh requirements/agent.txt /wheels/*.whl && \
    export CC="/tools/bin/python -m ziglang cc -target $(uname -m)-linux-gnu.2.17 -s" && \
    export GPU_SIM_BUILD_DIR=/opt/gpu-simulator ZIG_GLOBAL_CACHE_DIR=/tmp/zig && \
    library=$(/opt/venv/bin/python -B -c 'import gpu_simulator; print(gpu_simulator.build_library())') && \
    ln -s "$(basename "$(dirname "$(dirname "$library")")")/lib" /opt/gpu-simulator/lib && \
    rm -f /opt/gpu-simulator/*.lock

FROM sources AS runtime-build
COPY requirements/runtime.txt requirements/
# Of nvidia-ml-py only its module: this folder comes first on the path of somebody's program, and
# the package also has a module of the name "example".
RUN /tools/bin/uv pip install --quiet --python /tools/bin/python --target /tmp/packages \
        --link-mode copy --require-hashes --only-binary :all: \
        -r requirements/runtime.txt && \
    mkdir -p /root-of-image/opt/zeus /root-of-image/licenses && \
    cp /tmp/packages/pynvml.py /root-of-image/opt/zeus/ && \
    cp /tmp/packages/nvidia_ml_py-*.dist-info/METADATA /root-of-image/licenses/nvidia-ml-py && \
    cp LICENSE /root-of-image/licenses/zeus-operator && \
    cp -R zeus_runtime /root-of-image/opt/zeus/zeus_runtime && \
    mv /root-of-image/opt/zeus/zeus_runtime/launch.sh /root-of-image/opt/zeus/launch && \
    find /root-of-image -name __pycache__ -prune -exec rm -rf {} + && \
    chmod -R u=rwX,go=rX /root-of-image && \
    chmod 755 /root-of-image/opt/zeus/launch && \
    images/collect_program.sh /root-of-image cp

FROM tools AS example-build
COPY requirements/example.txt requirements/
COPY examples/digits/train.py /root-of-image/opt/example/
RUN /tools/bin/uv pip install --quiet --python /tools/bin/python --target /tmp/packages \
        --link-mode copy --no-deps --require-hashes --only-binary :all: \
        -r requirements/example.txt && \
    cp /tmp/packages/sklearn/datasets/data/digits.csv.gz /root-of-image/opt/example/ && \
    chmod 644 /root-of-image/opt/example/*

# ---- The images --------------------------------------------------------------------------------

FROM ${BASE_IMAGE} AS operator
COPY --from=operator-build /opt/venv /opt/venv
COPY LICENSE /licenses/zeus-operator
# HOME and USER: whatever number a cluster gives it, libraries ask whose it is.
ENV HOME=/ \
    PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    USER=zeus-operator
WORKDIR /
USER 65532:65532
ENTRYPOINT ["zeus-operator"]
CMD []
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="zeus-operator" \
      org.opencontainers.image.description="Learns the batch size and the GPU power limit of recurring training jobs on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM ${BASE_IMAGE} AS agent
COPY --from=agent-build /opt/venv /opt/venv
COPY --from=agent-build /opt/gpu-simulator /opt/gpu-simulator
COPY LICENSE /licenses/zeus-operator
# NVIDIA_...: what NVIDIA's container runtime hands in, where it is the node's (all GPUs, NVML alone).
ENV GPU_SIM_BUILD_DIR=/opt/gpu-simulator \
    NVIDIA_DRIVER_CAPABILITIES=utility \
    NVIDIA_VISIBLE_DEVICES=all \
    PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /
# The driver takes power limits from root alone.
USER 0:0
ENTRYPOINT ["zeus-agent"]
CMD []
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="zeus-agent" \
      org.opencontainers.image.description="Sets GPU power limits on behalf of the pods of its node, and puts them back" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# `cp`, and what it copies into the pod of a run: no shell, no Python, no packages.
FROM scratch AS runtime
COPY --from=runtime-build /root-of-image /
ENV PATH=/usr/bin:/bin
USER 65532:65532
CMD ["cp", "-R", "/opt/zeus/.", "/zeus"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="zeus-runtime" \
      org.opencontainers.image.description="The library that an init container puts into the pod of a training run" \
      org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND GPL-3.0-or-later AND LGPL-2.1-or-later" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM ${EXAMPLE_BASE_IMAGE} AS example
ARG SOURCE_DATE_EPOCH=0
# With SOURCE_DATE_EPOCH Python's packages are compiled by content: times are of no meaning here.
# torch's own tests, and what only MPI on AMD's GPUs would load, are a third of it and go.
RUN export DEBIAN_FRONTEND=noninteractive SOURCE_DATE_EPOCH && \
    apt-get update -qq && \
    apt-get install -qq -y --no-install-recommends python-is-python3 python3-torch && \
    apt-get clean && \
    dpkg -L libtorch-test libllvm17t64 libamd-comgr2 libamdhip64-5 2>/dev/null | \
        grep -E '/libtorch-test/|[.]so[.0-9]*$' | xargs -r rm -f && \
    rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/* /tmp/*
COPY --from=runtime-build /root-of-image/opt/zeus /opt/zeus
COPY --from=example-build /root-of-image/opt/example /opt/example
COPY LICENSE /licenses/zeus-operator
ENV HOME=/ \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/opt/zeus \
    PYTHONUNBUFFERED=1 \
    USER=trainer
WORKDIR /opt/example
USER 65532:65532
CMD ["python", "train.py"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="zeus-example-digits" \
      org.opencontainers.image.description="A small network that learns to read digits on the CPU, to try a ZeusJob with" \
      org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
