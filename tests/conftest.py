"""What several tests share: the bundled model, drawn scenes, an index of them and a real server over it."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import settings

from dual_encoder import DualEncoder, load_encoder
from indexer import build_index
from training.scenes import write_scenes

# Models and indexes are small here: a second thread spends more of a core waiting for the first than computing.
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")


@pytest.fixture(scope="session")
def at_most() -> Callable[[int], AbstractContextManager[None]]:
    """`with at_most(size)`: no file may grow beyond so many bytes, as on a full disk."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)

    return limited


@pytest.fixture(scope="session")
def encoder() -> DualEncoder:
    return load_encoder("tiny")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of 60 scenes."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), 60, seed=5, split="test")


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory, scenes: Path, encoder: DualEncoder) -> Path:
    out = tmp_path_factory.mktemp("index")
    build_index(scenes, out, encoder)
    return out


@pytest.fixture(scope="session")
def live_server(index: Path) -> Iterator[str]:
    """The base URL of `crossmodal serve` in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A test machine may be busy: what is asked of this server waits rather than being refused.
    patient = {"CROSSMODAL_QUEUE_SECONDS": "60", "CROSSMODAL_REQUEST_TIMEOUT": "120"}
    environment = {**os.environ, "CROSSMODAL_MAX_BODY_BYTES": str(4 * 2**20), **patient}
    command = [sys.executable, "-m", "crossmodal", "serve", str(index), "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{url}/readyz", timeout=1).raise_for_status()
                break
            except httpx.HTTPError:
                if process.poll() is not None:
                    pytest.fail(f"the server did not start: {process.stderr.read() if process.stderr else ''}")
                time.sleep(0.1)
        else:
            pytest.fail("the server was not ready within 30 s")
        yield url
    finally:
        process.terminate()
        process.wait(15)
