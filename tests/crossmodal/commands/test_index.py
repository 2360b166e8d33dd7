"""`crossmodal index build` of a table on a web server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from corpus import files


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def host(scenes: Path) -> Iterator[str]:
    """The folder of the scenes, served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(scenes.parent)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_table_on_the_web(tmp_path: Path, scenes: Path, host: str) -> None:
    command = [sys.executable, "-m", "crossmodal", "index", "build", f"{host}/{scenes.name}", "--out", str(tmp_path)]
    built = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    report = json.loads(built.stdout)
    assert (report["images"], report["rejected"]) == (60, 0)
    manifest = json.loads((tmp_path / "snapshots" / report["snapshot"] / "manifest.json").read_text())
    assert manifest["source"] == host
    uri = json.loads(scenes.read_text("utf-8").splitlines()[0])["image"]
    assert files.read(manifest["source"], uri) == (scenes.parent / uri).read_bytes()
