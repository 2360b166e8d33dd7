# The service on a CPU, and the indexer beside it: no torch, no compiler, no package manager's leavings.
#
#   docker build -f docker/serve.Dockerfile -t crossmodal:0.1.0 .
#   docker build -f docker/serve.Dockerfile -t crossmodal-indexer:0.1.0 --target indexer .
#
# BuildKit builds it. A change of the code rebuilds the last layers alone; a change of the lock, the venv's.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS init
# Any release of tini will do: it forwards signals and reaps.
# hadolint ignore=DL3008
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends tini && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 /empty/index

FROM ${BASE_IMAGE} AS requirements
# Where packages come from, if not from pip's default; pip reads these variables itself.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/venv && python -m venv /opt/build
COPY docker/requirements/build.txt docker/requirements/cpu.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/pip install --quiet --require-hashes -r build.txt
# Bytecode is compiled here, since nothing can be written where the image runs. pip leaves the venv: nothing installs there.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --quiet --require-hashes --only-binary=:all: -r cpu.txt \
    && echo /opt/crossmodal > /opt/venv/lib/python3.11/site-packages/crossmodal.pth \
    && /opt/venv/bin/pip uninstall --quiet --yes pip setuptools

FROM requirements AS code
COPY . .
RUN /opt/build/bin/pip install --quiet --no-deps --no-build-isolation --no-index --target /opt/crossmodal . \
    && sed -i '1s|.*|#!/opt/venv/bin/python|' /opt/crossmodal/bin/crossmodal

FROM ${BASE_IMAGE} AS serve
COPY --from=init /usr/bin/tini-static /usr/local/bin/tini
# A fresh volume takes over the owner of the folder it is mounted on.
COPY --from=init --chown=10001:10001 /empty/ /
COPY --from=requirements /opt/venv /opt/venv
COPY docker/healthcheck.py /opt/healthcheck.py
COPY --from=code /opt/crossmodal /opt/crossmodal
# HOME and the cache lie on /tmp, the one place that may be written: mount a tmpfs there.
ENV PATH=/opt/crossmodal/bin:/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 \
    CMD ["/opt/venv/bin/python", "-I", "-S", "/opt/healthcheck.py"]
ENTRYPOINT ["tini", "--", "crossmodal"]
# Refuses to start without CROSSMODAL_KEYS_FILE, or CROSSMODAL_INSECURE=true where a private network keeps others out.
CMD ["serve", "/index", "--host", "0.0.0.0", "--port", "8000"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="crossmodal" \
      org.opencontainers.image.description="Cross-modal retrieval over REST" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM serve AS indexer
HEALTHCHECK NONE
LABEL org.opencontainers.image.title="crossmodal-indexer"
# The corpus is mounted read-only at /corpus, the index directory writable at /index.
CMD ["index", "build", "/corpus", "--out", "/index"]

# What a plain `docker build` makes.
FROM serve
