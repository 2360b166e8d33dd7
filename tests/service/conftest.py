"""Servers with settings of their own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

Serve = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def serve(index: Path) -> Serve:
    """`with serve(log, "--option", CROSSMODAL_X="…") as url`: a process of its own, whose stderr goes to the file `log`.

    It serves the index of scenes, or the one that `other` names.
    """

    @contextlib.contextmanager
    def start(log: Path, *arguments: str, other: Path = index, **settings: str) -> Iterator[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "crossmodal", "serve", str(other), "--port", str(port), *arguments]
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, env={**os.environ, **settings}, stderr=stderr)
        url = f"http://127.0.0.1:{port}"
        try:
            until = time.monotonic() + 60
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, "the server was not ready within 60 s"
                with contextlib.suppress(httpx.HTTPError):
                    httpx.get(f"{url}/readyz", timeout=1).raise_for_status()
                    break
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(30)

    return start
