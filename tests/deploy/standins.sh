#!/usr/bin/env bash
# Images with the names that the project's files use, made from Debian's packages where the real ones cannot be pulled:
# standins.sh DOCKER_CLIENT. What is there already is kept. They prove the logic of the files, not the official images.
set -euo pipefail
docker=${1:?usage: standins.sh DOCKER_CLIENT}
here=$(cd "$(dirname "$0")" && pwd)
export DEBIAN_FRONTEND=noninteractive DOCKER_BUILDKIT=1

have() { "$docker" image inspect "$1" >/dev/null 2>&1; }
say() { echo "stand-ins: $*" >&2; }

base=python:3.11-slim-bookworm
if ! have $base; then
    say "making $base with mmdebstrap"
    command -v mmdebstrap >/dev/null || {
        apt-get update -qq >&2
        apt-get install -y -qq --no-install-recommends mmdebstrap >&2
    }
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # Whatever mirror this host uses: its own sources, not a name written here.
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Codename: bookworm' | sort -u | head -1)
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='ln -s python3 "$1/usr/bin/python"' \
        --customize-hook='rm -f "$1"/usr/lib/python3.11/EXTERNALLY-MANAGED' \
        --customize-hook='cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"' \
        bookworm "$work/base.tar" "deb $mirror bookworm main"
    "$docker" import \
        --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' \
        --change 'CMD ["python3"]' "$work/base.tar" $base >/dev/null
fi

for pair in nginx=nginx:1.28-bookworm haproxy=haproxy:3.0-bookworm prometheus=prom/prometheus:v2.55.1; do
    name=${pair#*=}
    have "$name" && continue
    say "making $name"
    "$docker" build --quiet --network host --build-arg BASE_IMAGE=$base --target "${pair%%=*}" --tag "$name" \
        --file "$here/standin.Dockerfile" "$here" >/dev/null
done
