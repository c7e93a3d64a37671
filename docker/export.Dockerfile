# syntax=docker/dockerfile:1
# gesso-export on NVIDIA's TensorRT image: checkpoints to bundles, bundles to engines. For a job, not for a server.
# Built from the root of the repository: docker build -f docker/export.Dockerfile -t gesso-export:0.1.0 .
#
# The same NGC release as docker/triton.Dockerfile: a TensorRT plan runs in the release that it was built with.
ARG NGC=26.07
ARG PYTHON=3.11.15-slim-bookworm

FROM python:${PYTHON} AS wheels
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt setuptools
COPY export/ export/
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels ./export

# --system-site-packages shows the environment the image's tensorrt and polygraphy, which belong to its libraries. Engines
# are verified against ONNX Runtime on CUDA. The last line fails the build where the image is not what is taken for granted.
FROM nvcr.io/nvidia/tensorrt:${NGC}-py3 AS exporter
ARG TORCH_INDEX=""
ARG TENSORRT=11.1.0.106
WORKDIR /src
COPY constraints.txt docker/gpu-requirements.txt ./
COPY --from=wheels /wheels/ /wheels/
RUN python3 -m venv --without-pip --system-site-packages /opt/gesso \
 && python3 -m pip --python /opt/gesso/bin/python3 install --no-cache-dir --constraint constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} /wheels/gesso_export-*.whl \
 && python3 -m pip --python /opt/gesso/bin/python3 uninstall --yes onnxruntime \
 && python3 -m pip --python /opt/gesso/bin/python3 install --no-cache-dir --no-deps --constraint constraints.txt \
        --requirement gpu-requirements.txt \
 && /opt/gesso/bin/python3 -c "import cuda.bindings.runtime, onnxruntime, polygraphy.backend.trt, tensorrt; \
        assert tensorrt.__version__ == '$TENSORRT', tensorrt.__version__"

FROM nvcr.io/nvidia/tensorrt:${NGC}-py3
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gesso-export" \
      org.opencontainers.image.description="Compile diffusers checkpoints into gesso bundles and TensorRT engines" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/tensorrt:26.07-py3"
COPY --from=exporter /opt/gesso/ /opt/gesso/
ENV PATH=/opt/gesso/bin:$PATH \
    HOME=/tmp \
    TMPDIR=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /bundles
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK NONE
ENTRYPOINT ["gesso-export"]
CMD ["--help"]
