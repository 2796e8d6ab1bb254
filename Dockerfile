# syntax=docker/dockerfile:1
# Whoever builds for production pins the base by digest (python:3.13-slim-bookworm@sha256:...), which a registry tells and no file
# here can know. All that is installed on it is pinned by hash.
FROM python:3.13-slim-bookworm AS build
WORKDIR /build
COPY requirements/serve.txt requirements/build.txt ./requirements/
RUN python -m venv /opt/execution-api \
 && /opt/execution-api/bin/pip install --no-cache-dir --require-hashes -r requirements/serve.txt \
 && pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY app ./app
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
 && /opt/execution-api/bin/pip install --no-cache-dir --no-deps /wheel/*.whl

FROM python:3.13-slim-bookworm
COPY --from=build /opt/execution-api /opt/execution-api
RUN useradd --system --no-create-home --uid 50000 execution-api
USER execution-api
ENV PATH=/opt/execution-api/bin:$PATH AIRFLOW_HOME=/opt/airflow PYTHONUNBUFFERED=1
EXPOSE 9091
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9091/execution/health/ping', timeout=2)"]
ENTRYPOINT ["execution-api"]
CMD ["serve", "--port", "9091"]
