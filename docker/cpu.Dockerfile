# syntax=docker/dockerfile:1
# The whole stack in one image for CPUs: gesso's wheels, Triton from PyPI, and the model that gesso ships.
# Built from the root of the repository: docker build -f docker/cpu.Dockerfile -t gesso-cpu:0.1.0 .
ARG PYTHON=3.11.15-slim-bookworm

FROM python:${PYTHON} AS wheels
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt setuptools
COPY model_repository/ model_repository/
COPY client/ client/
COPY python_backend/ python_backend/
COPY export/ export/
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels ./client ./python_backend ./export

# torch stays in this stage. TORCH_INDEX may name PyTorch's own index of CPU wheels, which saves a download of CUDA.
FROM python:${PYTHON} AS bundle
ARG TORCH_INDEX=""
WORKDIR /src
COPY constraints.txt ./
COPY --from=wheels /wheels/ /wheels/
RUN pip install --no-cache-dir --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        /wheels/gesso_export-*.whl
COPY examples/little-world/ examples/little-world/
RUN gesso-export examples/little-world --out /bundles/little-world

FROM python:${PYTHON} AS server
WORKDIR /src
ENV PATH=/opt/gesso/bin:$PATH GESSO_TRITON=/opt/triton
COPY constraints.txt ./
COPY --from=wheels /wheels/ /wheels/
RUN python -m venv /opt/gesso \
 && pip install --no-cache-dir --constraint constraints.txt /wheels/gesso_client-*.whl /wheels/gesso_backend-*.whl \
 && gesso-serve --install-triton \
 && pip uninstall --yes setuptools pip \
 && find /opt/gesso -type d -name tests -prune -exec rm -r {} +

FROM python:${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gesso-cpu" \
      org.opencontainers.image.description="Diffusion inpainting on Triton, for CPUs, with the model that gesso ships" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11.15-slim-bookworm"
COPY --from=server /opt/triton/ /opt/triton/
COPY --from=server /opt/gesso/ /opt/gesso/
COPY --from=bundle /bundles/ /bundles/
COPY --chmod=644 docker/healthcheck.py /opt/gesso/healthcheck.py
# HOME and TMPDIR are the one folder that is written to: mount a tmpfs there and the root may be read-only.
ENV PATH=/opt/gesso/bin:$PATH \
    GESSO_TRITON=/opt/triton \
    HOME=/tmp \
    TMPDIR=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python3", "/opt/gesso/healthcheck.py"]
# A container is reached from outside it, so the server listens on all its addresses; who reaches it is the host's choice.
ENTRYPOINT ["gesso-serve", "--host", "0.0.0.0"]
CMD ["/bundles/little-world"]
