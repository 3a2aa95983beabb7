# The base of both stages: the virtual environment links to the interpreter of the image it was made in.
# For builds that can be repeated to the byte, add the digest: --build-arg BASE_DIGEST=@sha256:...
ARG BASE_IMAGE=docker.io/library/python:3.13-slim-trixie
ARG BASE_DIGEST=

FROM ${BASE_IMAGE}${BASE_DIGEST} AS build

# Two environments: /build holds pip and the build backend and stays behind, /app/.venv has neither.
WORKDIR /src
COPY requirements-build.txt requirements.txt ./
RUN python -m venv /build \
    && /build/bin/pip install --no-cache-dir --require-hashes -r requirements-build.txt
RUN python -m venv --without-pip /app/.venv \
    && /build/bin/pip --python /app/.venv/bin/python install --no-cache-dir --require-hashes -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY sidecar ./sidecar
RUN /build/bin/python -m hatchling build -t wheel -d /dist \
    && /build/bin/pip --python /app/.venv/bin/python install --no-cache-dir --no-deps /dist/*.whl


# No RUN from here on, so that a base without a shell fits as well.
FROM ${BASE_IMAGE}${BASE_DIGEST}

ARG VERSION=0.0.0
ARG REVISION=
LABEL org.opencontainers.image.title="openclaw-sidecar" \
      org.opencontainers.image.description="Guards an LLM backend: concurrency limit, honest queue, circuit breaker" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /app/.venv /app/.venv

# Nothing is written at run time, so the root file system may be read-only. In a container, loopback
# would be reachable by nobody. Compiled modules came with the installation.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SIDECAR_LISTEN=0.0.0.0:8080 \
    SIDECAR_ADMIN=0.0.0.0:9091

# Numeric: Kubernetes can then prove runAsNonRoot, and no entry in /etc/passwd is needed.
USER 65532:65532
WORKDIR /
EXPOSE 8080 9091
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s --retries=3 \
    CMD ["/app/.venv/bin/openclaw-sidecar", "healthcheck"]
ENTRYPOINT ["/app/.venv/bin/openclaw-sidecar"]
CMD ["run"]
