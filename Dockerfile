# One image for the four processes: docker-compose.yml says which one a container runs.
#
# The first stage makes a virtual environment from the locked, hashed requirements; the second one holds only that.
# Debian, not Alpine: not every dependency has wheels for musl.
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
WORKDIR /src
RUN python -m venv /opt/llmdump
COPY requirements.txt requirements-build.txt ./
RUN /opt/llmdump/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r requirements.txt -r requirements-build.txt
COPY . .
RUN /opt/llmdump/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:${PYTHON_VERSION}-slim
RUN useradd --uid 10001 --no-create-home llmdump && install -d -o llmdump -g llmdump -m 0700 /data
COPY --from=build /opt/llmdump /opt/llmdump
ENV PATH=/opt/llmdump/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LLMDUMP_DATA_DIR=/data
USER llmdump
VOLUME /data
CMD ["llmdump", "banner"]
