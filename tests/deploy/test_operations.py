"""docs/operations.md: its commands are run, one block after the other, in an empty copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = "crossmodal"  # example.env's


def test_every_command_of_the_page(docker: str, tmp_path: Path) -> None:
    copy = tmp_path / "project"
    copy.mkdir()
    names = [
        line[1:].split("/")[0] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    for name in sorted({*names, "docker", "deploy", ".dockerignore"}):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".env"))
        else:
            shutil.copy(ROOT / name, copy / name)
    subprocess.check_call(["chmod", "-R", "a+rX", copy])
    # `docker compose`, whichever is here; builds share the host's network, since the registries may need it.
    shims = tmp_path / "bin"
    shims.mkdir()
    plugin = subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0
    compose = f'exec {docker} "$@"' if plugin else 'shift; exec docker-compose "$@"'
    (shims / "docker").write_text(
        '#!/bin/sh\ncase "$1" in\n'
        f"compose) {compose} ;;\n"
        f'build) shift; exec {docker} build --network host "$@" ;;\n'
        f'*) exec {docker} "$@" ;;\nesac\n'
    )
    (shims / "docker").chmod(0o755)
    # Grafana cannot be had here: an image that starts and ends in its place.
    environment = {**os.environ, "PATH": f"{shims}:{os.environ['PATH']}", "GRAFANA_IMAGE": "python:3.11-slim-bookworm"}
    for name in [name for name in environment if name.startswith(("CROSSMODAL_", "COMPOSE_"))]:
        del environment[name]
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 10
    script = "set -euxo pipefail\n" + "\n".join(blocks)
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=copy, env=environment, capture_output=True, text=True, timeout=540
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    finally:
        down = [
            "docker",
            "compose",
            "--profile",
            "green",
            "--profile",
            "haproxy",
            "--profile",
            "index",
            "down",
            "--volumes",
        ]
        subprocess.run(down, cwd=copy / "deploy/compose", env=environment, capture_output=True)
    assert "clean" in done.stdout  # the restored index
    assert "traffic goes to green" in done.stdout
    assert "no request failed" in done.stdout
