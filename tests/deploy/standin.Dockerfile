# Debian's packages under the paths and entry points of the official images, as far as the project's files use them.
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS packages
# hadolint ignore=DL3008
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends nginx-light haproxy prometheus \
    && rm -rf /var/lib/apt/lists/*

FROM packages AS nginx
CMD ["nginx", "-g", "daemon off;"]

FROM packages AS haproxy
RUN ln -s /usr/sbin/haproxy /usr/local/bin/haproxy
USER 65534:65534
CMD ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]

FROM packages AS prometheus
RUN install -d -o nobody -g nogroup /prometheus
USER 65534:65534
ENTRYPOINT ["/usr/bin/prometheus"]
