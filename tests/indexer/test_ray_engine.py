"""Builds on a real Ray cluster of two nodes, broken in the middle, against the same build here: every file is equal."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import psutil
import pytest
from PIL import Image

from corpus import Record
from dual_encoder import DualEncoder
from indexer import BuildReport, EngineError, Progress, build_index
from indexer.engine import Job
from indexer.ledger import Ledger
from indexer.ray_engine import RayEngine
from vector_index import IndexDirectory

ray_cluster = pytest.importorskip("ray.cluster_utils", exc_type=ImportError)

PARTS = 30
PART = 16


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Duplicates over the borders of parts, shared captions, own ids taken twice, metadata, rejects."""
    folder = tmp_path_factory.mktemp("corpus")
    rows: list[dict[str, Any]] = []
    for n in range(PARTS * PART - 2):
        picture = n * 7 % 400
        pixels = np.random.default_rng(picture).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG")
        (folder / f"{n:03}.jpg").write_bytes(out.getvalue() if n % 50 != 33 else out.getvalue()[:900])
        row: dict[str, Any] = {"image": f"{n:03}.jpg", "caption": [f"number {picture % 90}", f"row {n % 130}"]}
        if n % 4 == 1:
            row["id"] = f"own-{n % 200}"
        if n % 3 == 0:
            row |= {"year": 1990 + n, "note": "7" if n % 2 else "seven"}
        if n % 110 == 5:
            row["caption"].append("x" * 10_001)
        rows.append(row)
    rows.insert(9, {"image": "missing.jpg", "caption": "lost"})
    rows.insert(30, {"image": "", "caption": "nowhere"})
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "table.jsonl"


class Files(dict[str, str]):
    """A snapshot's files and their SHA-256."""

    @classmethod
    def of(cls, index: Path) -> Files:
        with IndexDirectory(index).open() as snapshot:
            assert snapshot.verify() == []
            return cls({name: file.sha256 for name, file in snapshot.manifest.files.items()})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, table: Path, encoder: DualEncoder) -> Files:
    out = tmp_path_factory.mktemp("local")
    report = build_index(table, out, encoder, part_size=PART)
    assert report.rejected > 10
    assert report.duplicates > 50
    return Files.of(out)


class Cluster:
    """Two nodes of two cores each, so that the workers hold every core and nothing is free for a restart."""

    def __init__(self) -> None:
        self.cluster = ray_cluster.Cluster(initialize_head=True, head_node_args=self.node(), shutdown_at_exit=False)
        self.second = self.cluster.add_node(**self.node())
        self.address: str = self.cluster.address

    @staticmethod
    def node() -> dict[str, Any]:
        return {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}

    def workers(self) -> list[psutil.Process]:
        found = (child for node in self.nodes() for child in raylet(node).children())
        return [child for child in found if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::Worker")]

    def nodes(self) -> list[Any]:
        return [self.cluster.head_node, *self.cluster.worker_nodes]


def raylet(node: Any) -> psutil.Process:
    [info] = node.all_processes["raylet"]
    return psutil.Process(info.process.pid)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        environment.setenv("RAY_worker_niceness", "0")  # Ray's own is 15: on a busy machine they would starve
        environment.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")  # instead of 60
        environment.setenv("RAY_health_check_period_ms", "1000")  # instead of 3,000
        made = Cluster()
        yield made
        made.cluster.shutdown()


def build(
    table: Path | str,
    out: Path,
    cluster: Cluster,
    then: Callable[[Progress], None] | None = None,
    call_timeout: float = 60,
) -> BuildReport:
    with RayEngine("tiny", address=cluster.address, patience=60, call_timeout=call_timeout) as engine:
        assert engine.workers == 2
        return build_index(table, out, engine, part_size=PART, progress=then)


class Once:
    """Does something when two parts are finished, and most are not."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self.at = 0

    def __call__(self, progress: Progress) -> None:
        if not self.at and progress.done >= 2 * PART:
            self.at = progress.done
            self._act()


def test_the_same_as_here(tmp_path: Path, table: Path, expected: Files, cluster: Cluster) -> None:
    nodes = {raylet(node).pid for node in cluster.nodes()}
    hosts: set[int] = set()

    def wait_for_both() -> None:
        until = time.monotonic() + 60
        while hosts != nodes and time.monotonic() < until:  # the second may be slower to start
            hosts.update(worker.ppid() for worker in cluster.workers())
            time.sleep(0.1)

    build(table, tmp_path, cluster, Once(wait_for_both))
    assert hosts == nodes
    assert Files.of(tmp_path) == expected


def test_a_killed_worker(tmp_path: Path, table: Path, expected: Files, cluster: Cluster) -> None:
    kill = Once(lambda: cluster.workers()[0].send_signal(signal.SIGKILL))
    report = build(table, tmp_path, cluster, kill)
    assert 0 < kill.at < PARTS * PART / 2
    assert report.resumed_parts == 0
    assert Files.of(tmp_path) == expected


def test_a_worker_that_hangs(tmp_path: Path, table: Path, expected: Files, cluster: Cluster) -> None:
    stopped: list[psutil.Process] = []

    def stop() -> None:
        stopped.append(cluster.workers()[0])
        stopped[0].suspend()

    try:
        build(table, tmp_path, cluster, Once(stop), call_timeout=8)
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    assert Files.of(tmp_path) == expected


def test_a_picture_that_kills_its_workers(tmp_path: Path, cluster: Cluster) -> None:
    records = [Record("good.jpg", partial(bytes, 1)), Record("poison.jpg", partial(os._exit, 1))]
    with (
        RayEngine("tiny", address=cluster.address, patience=60) as engine,
        closing(Ledger(tmp_path)) as ledger,
        pytest.raises(EngineError, match="part 0 was lost by 4 workers"),
    ):
        list(engine.parts(iter(records), ledger, Job(16, 8, True), lambda _: None))


def test_a_lost_part_goes_before_those_that_wait_for_it(tmp_path: Path, cluster: Cluster) -> None:
    """The one worker dies once, with the first part; when it is back, the next two are first in the queue for it."""
    kill_once = (
        f"import os, pathlib; p = pathlib.Path({str(tmp_path / 'died')!r}); p.exists() or p.touch() or os._exit(1)"
    )
    records = [Record("0", partial(exec, kill_once)), *(Record(str(n), partial(bytes, 1)) for n in range(1, 7))]
    with (
        RayEngine("tiny", address=cluster.address, workers=1, patience=60) as engine,
        closing(Ledger(tmp_path)) as ledger,
    ):
        for_ever = threading.Timer(100, engine._driver.kill)
        for_ever.start()
        parts = list(engine.parts(iter(records), ledger, Job(1, 8, True), lambda _: None))
        for_ever.cancel()
    assert (tmp_path / "died").exists()
    assert [[row["uri"] for row in rows] for rows in parts] == [[str(n)] for n in range(7)]


def test_a_corpus_that_only_this_machine_sees(tmp_path: Path, cluster: Cluster) -> None:
    elsewhere = fsspec.filesystem("memory")  # of this process
    elsewhere.pipe({f"/corpus/{number}.jpg": b"whatever" for number in range(3)})
    with pytest.raises(EngineError, match=r"0\.jpg can be read here, but not on .*: all machines must see"):
        build("memory://corpus", tmp_path, cluster)
    elsewhere.store.clear()
    assert IndexDirectory(tmp_path).current() is None


def test_a_killed_node(tmp_path: Path, table: Path, expected: Files, cluster: Cluster) -> None:
    """The workers left hold every core, so that the lost one cannot be restarted: nobody waits for it."""
    kill = Once(lambda: raylet(cluster.second).send_signal(signal.SIGKILL))
    began = time.monotonic()
    build(table, tmp_path, cluster, kill)
    assert time.monotonic() - began < 150
    assert 0 < kill.at < PARTS * PART / 2
    assert Files.of(tmp_path) == expected


def test_a_cluster_that_vanishes(
    tmp_path: Path, table: Path, expected: Files, cluster: Cluster, encoder: DualEncoder
) -> None:
    """The last of them: nothing is left of the cluster."""

    def vanish() -> None:
        raylet(cluster.cluster.head_node).send_signal(signal.SIGKILL)
        [gcs] = cluster.cluster.head_node.all_processes["gcs_server"]
        gcs.process.send_signal(signal.SIGKILL)

    with (
        RayEngine("tiny", address=cluster.address, workers=1, patience=60) as engine,
        pytest.raises(EngineError, match=r"Ray.*finished parts are kept"),
    ):
        build_index(table, tmp_path, engine, part_size=PART, progress=Once(vanish))
    assert IndexDirectory(tmp_path).current() is None
    report = build_index(table, tmp_path, encoder, part_size=PART)
    assert 2 <= report.resumed_parts < PARTS
    assert Files.of(tmp_path) == expected


def test_nobody_at_the_address(tmp_path: Path, scenes: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        command = [sys.executable, "-m", "crossmodal", "index", "build", str(scenes), "--out", str(tmp_path)]
        done = subprocess.run(
            [*command, "--engine", "ray", "--ray-address", address], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == f"error: no Ray cluster answers at {address}: Connection refused\n"


def test_somebody_else_at_the_address() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EngineError, match=rf"no Ray cluster answers at {address} \(2 s waited\)"):
            RayEngine("tiny", address=address, connect_timeout=2)


def test_no_address_at_all() -> None:
    with pytest.raises(EngineError, match="'somewhere' is neither auto nor HOST:PORT"):
        RayEngine("tiny", address="somewhere")


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"pip install 'crossmodal\[ray\]'"):
        RayEngine("tiny")
