# The watched folder as a container: /data holds inbox, outbox, archive, quarantine, state and cache.
#   docker build -t style-pipeline .
#   mkdir -p studio
#   docker run --user "$(id -u)" --stop-timeout 20 -v "$PWD/studio:/data" style-pipeline
FROM python:3.13-slim

COPY pyproject.toml README.md LICENSE /src/
COPY pipeline /src/pipeline
# More words for pip, such as an index with builds of torch for the CPU alone: --build-arg PIP_ARGS="...".
ARG PIP_ARGS=""
RUN pip install --no-cache-dir $PIP_ARGS /src

RUN useradd --uid 1000 studio && install -d -o studio /data
USER studio
WORKDIR /data
VOLUME /data
ENV HOME=/data XDG_STATE_HOME=/data/state XDG_CACHE_HOME=/data/cache

# A running job keeps a checkpoint within 10 s of this; give `docker stop` more: --stop-timeout 20.
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["style-pipeline", "health"]
ENTRYPOINT ["style-pipeline"]
CMD ["watch"]
