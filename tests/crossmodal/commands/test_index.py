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


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crossmodal", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_an_approximate_index_shows_and_draws_its_curves(tmp_path: Path, scenes: Path) -> None:
    built = run("index", "build", scenes, "--out", tmp_path / "index", "--index-type", "HNSW8", "--memory", "1GB")
    assert built.returncode == 0, built.stderr
    picture = tmp_path / "curve.png"
    shown = run("index", "info", tmp_path / "index", "--plot", picture)
    assert shown.returncode == 0, shown.stderr
    assert "asked with texts" in shown.stdout
    assert "efSearch 16" in shown.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = run("search", tmp_path / "index", "--text", "a star", "--params", '{"efSearch": 40}', "--json")
    assert len(json.loads(found.stdout)["hits"]) == 10, found.stderr
    for params, said in (('{"efSearch": 1000000000}', "from 1 to 10,000"), ("{", "--params: not JSON")):
        refused = run("search", tmp_path / "index", "--text", "a star", "--params", params)
        assert refused.returncode == 1
        assert said in refused.stderr
        assert "Traceback" not in refused.stderr


def test_bad_index_options(tmp_path: Path, scenes: Path, index: Path) -> None:
    for option, value, code, said in (
        ("--index-type", "IVF0,Nonsense", 1, "IVF0,Nonsense"),
        ("--memory", "lots", 2, "unit"),
        ("--target-latency", "5", 2, "unit"),
    ):
        refused = run("index", "build", scenes, "--out", tmp_path, option, value)
        assert (refused.returncode, said in refused.stderr) == (code, True), refused.stderr
        assert "Traceback" not in refused.stderr
    exact = run("index", "info", index, "--plot", tmp_path / "curve.png")
    assert exact.returncode == 1
    assert "no curve" in exact.stderr
