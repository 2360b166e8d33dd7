#!/usr/bin/env bash
# Pins every requirement of the images with hashes and no registry's address: docker/lock.sh [cpu|gpu|build …]
# Run it after a change of pyproject.toml; needs uv.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
    uv pip compile "$1" "${@:3}" --output-file "docker/requirements/$2.txt" --quiet --upgrade --generate-hashes \
        --python-version 3.11 --python-platform linux --no-emit-index-url --no-emit-find-links --no-annotate \
        --custom-compile-command docker/lock.sh
}
for set in "${@:-cpu gpu build}"; do
    for name in $set; do
        case $name in
        cpu) compile pyproject.toml cpu --extra cpu --extra jwt --extra redis --extra otel ;;
        gpu) compile pyproject.toml gpu --extra gpu --extra jwt --extra redis --extra otel ;;
        build) compile docker/requirements/build.in build ;;
        *) echo "lock.sh: $name: cpu, gpu and build can be locked" >&2; exit 2 ;;
        esac
    done
done
