# syntax=docker/dockerfile:1
# The slim image: this service and nothing else. Secrets backends and timetables that need Airflow's providers: Dockerfile.airflow.
#
# All that is in it is pinned: the base by the digest of its index, of every architecture, what is installed by hash. Dependabot
# renews the digest (.github/dependabot.yml); by hand: docker buildx imagetools inspect python:3.13-slim-bookworm
FROM python:3.13-slim-bookworm@sha256:67a1e1f215ccda113cfc024e8639049257e88f273898f595b61476d128d387e8 AS base

FROM base AS build
WORKDIR /build
COPY requirements/serve.txt requirements/build.txt ./requirements/
RUN python -m venv /opt/execution-api \
 && /opt/execution-api/bin/pip install --no-cache-dir --require-hashes -r requirements/serve.txt \
 && pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY app ./app
COPY execution_api ./execution_api
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel . \
 && /opt/execution-api/bin/pip install --no-cache-dir --no-deps /wheel/*.whl

FROM base
COPY --from=build /opt/execution-api /opt/execution-api
RUN useradd --system --no-create-home --uid 50000 execution-api
USER 50000
ENV PATH=/opt/execution-api/bin:$PATH AIRFLOW_HOME=/opt/airflow PYTHONUNBUFFERED=1 \
    AIRFLOW__EXECUTION_API_SERVICE__PORT=9091
EXPOSE 9091
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --start-interval=2s CMD ["execution-api", "healthcheck"]
ENTRYPOINT ["execution-api"]
CMD ["serve"]
