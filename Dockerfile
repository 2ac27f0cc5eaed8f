# The watched folder as a container: /data holds inbox, outbox, archive, quarantine, state and cache.
#   docker build -t style-pipeline .
#   docker run --init -v "$PWD/studio:/data" style-pipeline
FROM python:3.13-slim

COPY pyproject.toml README.md LICENSE /src/
COPY pipeline /src/pipeline
RUN pip install --no-cache-dir /src

RUN useradd --uid 1000 studio && install -d -o studio /data
USER studio
WORKDIR /data
VOLUME /data
ENV XDG_STATE_HOME=/data/state XDG_CACHE_HOME=/data/cache

# A running job keeps a checkpoint within 10 s of this; give `docker stop` more: --stop-timeout 20.
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["style-pipeline", "health"]
ENTRYPOINT ["style-pipeline"]
CMD ["watch"]
