"""What /metrics says: of one process its own, of several workers what all of them have counted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service import shared_folder

_PROC = Path("/proc")


def exposition() -> bytes:
    """Prometheus' text format. With several workers, counts are those of the ended ones too."""
    folder = shared_folder.folder()
    if folder is None:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    registry.register(_Service(os.getppid()))
    return generate_latest(registry)


class _Service(Collector):
    """The usual `process_…` of the first process and its workers together.

    Memory is what each has of its own, and once what they share: the most that one has mapped of files.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def collect(self) -> Iterator[Metric]:
        tick = os.sysconf("SC_CLK_TCK")
        started, spent, own, mapped = 0.0, 0, 0, 0
        for pid in (self._parent, *_children(self._parent)):
            try:
                # from the state on, the third field of proc(5)
                stat = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
                status = dict(line.split(":", 1) for line in (_PROC / str(pid) / "status").read_text().splitlines())
                memory = {kind: int(status[f"Rss{kind}"].split()[0]) * 1024 for kind in ("Anon", "Shmem", "File")}
            except (OSError, KeyError):  # it has ended
                continue
            spent += sum(map(int, stat[11:13]))
            own += memory["Anon"] + memory["Shmem"]
            mapped = max(mapped, memory["File"])
            if pid == self._parent:
                spent += sum(map(int, stat[13:15]))  # of workers that have ended
                started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(stat[19]) / tick
        # What is rounded differs from scrape to scrape, and a change means a restart.
        yield GaugeMetricFamily("process_start_time_seconds", "Start of the service", value=round(started))
        yield CounterMetricFamily("process_cpu_seconds_total", "Of all workers, ended ones too", value=spent / tick)
        yield GaugeMetricFamily("process_resident_memory_bytes", "Of all workers, files once", value=own + mapped)


def _children(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()
    except OSError:  # a kernel without it
        return [str(os.getpid())]
