# syntax=docker/dockerfile:1
# gesso on NVIDIA's Triton image, for GPUs. Bundles are mounted at /bundles; none is inside.
# Built from the root of the repository: docker build -f docker/triton.Dockerfile -t gesso-triton:0.1.0 .
#
# NGC names the release of all of NVIDIA's images. docker/export.Dockerfile has the same: a TensorRT plan runs in the
# release that it was built with.
ARG NGC=26.07
ARG PYTHON=3.11.15-slim-bookworm

FROM python:${PYTHON} AS wheels
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt setuptools
COPY model_repository/ model_repository/
COPY client/ client/
COPY python_backend/ python_backend/
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels ./client ./python_backend

# The environment is made with the Python of the final image (3.12). From 26.07 on Triton's Python stub takes numpy 2,
# so the pin of numpy, which is there for Triton 24.10, is replaced; and ONNX Runtime is the one that knows CUDA.
FROM nvcr.io/nvidia/tritonserver:${NGC}-py3 AS server
ARG NUMPY=2.3.5
# Of TensorRT only the Python bindings, without its libraries: those are the image's, of this version.
ARG TENSORRT=11.1.0.106
WORKDIR /src
COPY constraints.txt docker/gpu-requirements.txt ./
COPY --from=wheels /wheels/ /wheels/
RUN python3 -m venv --without-pip /opt/gesso \
 && sed "s/^numpy==.*/numpy==${NUMPY}/" constraints.txt > numpy2.txt \
 && python3 -m pip --python /opt/gesso/bin/python3 install --no-cache-dir --constraint numpy2.txt \
        /wheels/gesso_client-*.whl /wheels/gesso_backend-*.whl \
 && python3 -m pip --python /opt/gesso/bin/python3 uninstall --yes onnxruntime \
 && python3 -m pip --python /opt/gesso/bin/python3 install --no-cache-dir --no-deps --constraint numpy2.txt \
        --requirement gpu-requirements.txt "tensorrt-cu13==$TENSORRT" "tensorrt-cu13-bindings==$TENSORRT" \
 && /opt/gesso/bin/python3 -c "import cuda.bindings.runtime, onnxruntime, tensorrt"

FROM nvcr.io/nvidia/tritonserver:${NGC}-py3
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gesso-triton" \
      org.opencontainers.image.description="Diffusion inpainting on NVIDIA Triton" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/tritonserver:26.07-py3"
COPY --from=server /opt/gesso/ /opt/gesso/
COPY --chmod=644 docker/healthcheck.py /opt/gesso/healthcheck.py
ENV PATH=/opt/gesso/bin:/opt/tritonserver/bin:$PATH \
    HOME=/tmp \
    TMPDIR=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# A large bundle is hashed and loaded before its model is ready.
HEALTHCHECK --interval=10s --timeout=5s --start-period=1800s --retries=3 \
    CMD ["python3", "/opt/gesso/healthcheck.py"]
# gesso-serve writes the model repository, starts the image's own tritonserver on it, watches it and drains it.
ENTRYPOINT ["gesso-serve", "--host", "0.0.0.0"]
CMD ["/bundles/model", "--engine", "tensorrt"]
