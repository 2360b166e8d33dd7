"""Several real processes that serve together: who gets which connection, and what they know of one another."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from indexer import remove_from_index
from tests.service.test_lifecycle import Server, _children
from vector_index import IndexDirectory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, index: Path) -> Iterator[Server]:
    """Two workers that look for a new snapshot only when told to, on an index of their own."""
    folder = tmp_path_factory.mktemp("workers")
    shutil.copytree(index, folder / "index")
    server = Server(folder, folder / "index", workers="2", watch_seconds="0")
    server.until(lambda: _all_serve(server), "both serve")
    yield server
    server.stop()


def _all_serve(server: Server, count: int = 2) -> bool:
    with connected(server, 8) as clients:
        return len(clients) == count and all(clients.values())


@contextlib.contextmanager
def connected(server: Server, count: int = 40) -> Iterator[dict[int, list[httpx.Client]]]:
    """Clients that keep their connections, by the worker that has them."""
    with contextlib.ExitStack() as stack:
        base = f"http://127.0.0.1:{server.port}"
        clients = [stack.enter_context(httpx.Client(base_url=base, timeout=20)) for _ in range(count)]
        ports = {}
        for client in clients:
            with client.stream("GET", "/healthz") as answer:
                answer.read()
                ports[answer.extensions["network_stream"].get_extra_info("client_addr")[1]] = client
        yield {
            pid: [ports[each.raddr.port] for each in psutil.Process(pid).net_connections("tcp") if each.raddr]
            for pid in _children(server.process.pid)
        }


def test_each_has_its_part_of_the_connections_and_metrics_are_those_of_all(server: Server) -> None:
    with connected(server) as clients:
        assert sorted(map(len, clients.values()))[0] >= 5  # of 40: less by chance once in a million
        said = [mine[0].get("/metrics").text for mine in clients.values()]
        counts = [int(float(re.findall(r'route="/healthz",status="200"} (\S+)', text)[0])) for text in said]
        assert counts[0] == counts[1] >= 40
        started = {re.findall(r"(?m)^process_start_time_seconds (\S+)", text)[0] for text in said}
        assert float(started.pop()) == pytest.approx(psutil.Process(server.process.pid).create_time(), abs=3)
        assert not started
        workers = [psutil.Process(pid).memory_info() for pid in clients]
        resident = float(re.findall(r"(?m)^process_resident_memory_bytes (\S+)", said[0])[0])
        assert max(each.rss for each in workers) < resident < 1.5 * sum(each.rss for each in workers)
        spent = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in clients]
        assert float(re.findall(r"(?m)^process_cpu_seconds_total (\S+)", said[0])[0]) > 0.9 * sum(spent)


def test_a_reload_reaches_all_and_one_reads_the_snapshot_for_them(server: Server) -> None:
    path = server.folder / "index"
    with connected(server) as clients:
        new = remove_from_index(path, lambda snapshot: snapshot.images.live()[:1].tolist()).snapshot
        (first, *_), (second, *_) = clients.values()
        assert second.get("/v1/index").json()["snapshot"] != new
        assert first.post("/v1/index/reload").json()["snapshot"] == new
        server.until(lambda: second.get("/v1/index").json()["snapshot"] == new, "the other has switched too")
        switched = 'crossmodal_snapshot_switches_total{result="switched"} 1.0'  # found by the other one, not told to
        assert switched in first.get("/metrics").text


def test_a_killed_worker_is_replaced_and_nobody_else_notices(server: Server) -> None:
    with connected(server, 20) as clients:
        (killed, _), (_, others) = sorted(clients.items(), key=lambda item: len(item[1]))
        os.kill(killed, signal.SIGKILL)
        server.until(lambda: killed not in _children(server.process.pid), "it has ended")
        # Connections that the system deals to the one that is away are taken by the other.
        seen, began = [0.0], time.monotonic()
        while time.monotonic() - began < 1 or len(seen) < 10:
            asked = time.monotonic()
            assert server.status("/healthz") == 200
            seen.append(time.monotonic() - asked)
        assert max(seen) < 2
        for client in others:
            assert client.get("/healthz").status_code == 200
    server.until(lambda: _all_serve(server), "it is replaced")


def test_none_that_can_start_ends_it_with_a_clear_line(tmp_path: Path, index: Path) -> None:
    script = tmp_path / "dying.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nfrom service.server import serve\nfrom service.settings import Settings\n"
        "if __name__ == '__main__':\n    serve(Settings(index=Path(sys.argv[1]), workers=2), '127.0.0.1', 0)\n"
        "else:\n    os._exit(9)  # as the system ends what has no memory\n"
    )
    done = subprocess.run([sys.executable, script, index], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no worker can start" in done.stderr.splitlines()[-1]
    assert '"exit_code":9' in done.stderr
    assert "Traceback" not in done.stderr


def test_told_twice_to_stop_or_amid_restarts_it_stops(tmp_path: Path, index: Path) -> None:
    server = Server(tmp_path, index, workers="2", drain_delay="30")
    server.process.send_signal(signal.SIGHUP)
    server.until(lambda: len(_children(server.process.pid)) > 2, "another is started")
    server.process.terminate()
    server.until(lambda: server.status("/readyz") in (0, 503), "told to stop")
    server.process.terminate()
    assert server.process.wait(20) == 0
    assert IndexDirectory(index).current()


def test_workers_end_with_the_process_above_them(tmp_path: Path, index: Path) -> None:
    server = Server(tmp_path, index, workers="2", TMPDIR=str(tmp_path))
    server.until(lambda: _all_serve(server), "both serve")
    workers = [psutil.Process(pid) for pid in _children(server.process.pid)]
    server.process.kill()
    _, alive = psutil.wait_procs(workers, 20)
    assert not alive
