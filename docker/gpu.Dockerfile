# Indexes and serves on an NVIDIA GPU: torch, open_clip and faiss-gpu. Their wheels bring CUDA's libraries, so the base is
# a plain Python (a CUDA base would hold them twice); the driver comes from the host's NVIDIA container toolkit.
#
#   docker build -f docker/gpu.Dockerfile -t crossmodal-gpu:0.1.0 .
#   docker run --gpus all … crossmodal-gpu:0.1.0 index build /corpus --out /index --model ViT-B-32/laion2b_s34b_b79k
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS init
# hadolint ignore=DL3008
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends tini && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 /empty/index

FROM ${BASE_IMAGE} AS requirements
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/venv && python -m venv /opt/build
COPY docker/requirements/build.txt docker/requirements/gpu.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/pip install --quiet --require-hashes -r build.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --quiet --require-hashes --only-binary=:all: -r gpu.txt \
    && echo /opt/crossmodal > /opt/venv/lib/python3.11/site-packages/crossmodal.pth \
    && /opt/venv/bin/pip uninstall --quiet --yes pip

FROM requirements AS code
COPY . .
RUN /opt/build/bin/pip install --quiet --no-deps --no-build-isolation --no-index --target /opt/crossmodal . \
    && sed -i '1s|.*|#!/opt/venv/bin/python|' /opt/crossmodal/bin/crossmodal

FROM ${BASE_IMAGE}
COPY --from=init /usr/bin/tini-static /usr/local/bin/tini
COPY --from=init --chown=10001:10001 /empty/ /
COPY --from=requirements /opt/venv /opt/venv
COPY docker/healthcheck.py /opt/healthcheck.py
COPY --from=code /opt/crossmodal /opt/crossmodal
# Weights from a hub are kept under HF_HOME: mount a volume there, or point --model to a directory.
ENV PATH=/opt/crossmodal/bin:/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/cache/huggingface \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CROSSMODAL_DEVICE=cuda
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=120s --retries=3 \
    CMD ["/opt/venv/bin/python", "-I", "-S", "/opt/healthcheck.py"]
ENTRYPOINT ["tini", "--", "crossmodal"]
# Refuses to start without CROSSMODAL_KEYS_FILE, or CROSSMODAL_INSECURE=true where a private network keeps others out.
CMD ["serve", "/index", "--host", "0.0.0.0", "--port", "8000"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="crossmodal-gpu" \
      org.opencontainers.image.description="Cross-modal retrieval over REST, on a GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
