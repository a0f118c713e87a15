# The training image: the packages of requirements.txt and the program in container/, nothing else.
#
#   make image                                        CPU, from the official base image
#   docker build --build-arg ACCELERATOR=gpu -t position-trainer:gpu .
#   docker run --rm -v DIR:/opt/ml position-trainer   DIR laid out as SageMaker lays out /opt/ml

ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS packages
# The toolkit is published as source only, with a few lines of C.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null
ARG ACCELERATOR=cpu
COPY requirements.txt requirements-gpu.txt /tmp/
# Installed into a folder of its own, which is all that leaves this stage. What is deleted nothing reads at run
# time: C++ headers and static libraries (a third of a gigabyte, most of it TensorFlow's), packages' own tests,
# and libclang, which TensorFlow requires and never loads.
RUN set -eu; \
    case "$ACCELERATOR" in \
      cpu) file=requirements.txt ;; \
      gpu) file=requirements-gpu.txt ;; \
      *) echo "ACCELERATOR must be cpu or gpu, received $ACCELERATOR" >&2; exit 1 ;; \
    esac; \
    python -m venv /opt/venv; \
    /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --quiet -r /tmp/$file; \
    cd /opt/venv/lib/python3.11/site-packages; \
    rm -rf tensorflow/include pyarrow/include numpy/_core/include clang/native; \
    find . -name '*.a' -delete; \
    find . -type d \( -name tests -o -name test \) -path './[hmnps]*' -prune -exec rm -rf {} +

FROM ${BASE_IMAGE}
# No program may lend its owner's rights, and of the two pips only the environment's is needed: the toolkit installs a
# requirements.txt that comes with a user's own script. Debian's apt stays for images that are built from this one.
RUN find / -xdev -type f -perm /6000 -exec chmod a-s {} + && \
    rm -rf /usr/local/bin/pip* /usr/local/lib/python3.11/site-packages/*
COPY --from=packages /opt/venv /opt/venv
# CUDA's libraries by name, for a user's own script; the program opens them by path (ml/platform/cuda.py).
RUN (ls -d /opt/venv/lib/python3.11/site-packages/nvidia/*/lib 2>/dev/null || true) >/etc/ld.so.conf.d/cuda.conf && ldconfig
# Not under /opt/ml, which SageMaker mounts over. A HOME that any user can write, for --user and --read-only.
ENV PATH=/opt/program/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/program \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    TF_CPP_MIN_LOG_LEVEL=2
COPY container /opt/program
RUN python -m compileall -q /opt/program
# Root, as SageMaker needs: it mounts /opt/ml as root's. Elsewhere any --user will do.
# Exec form: the program is process 1 and gets the SIGTERM that SageMaker and `docker stop` send.
CMD ["train"]

ARG VERSION=dev
ARG REVISION=unknown
ARG ACCELERATOR=cpu
LABEL org.opencontainers.image.title="position-trainer" \
      org.opencontainers.image.description="SageMaker training container for trading models on minutely prices" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      position-trainer.accelerator="${ACCELERATOR}"
