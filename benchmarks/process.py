"""A service in a process of its own: started, waited for, measured, stopped."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """`command` is started on entry and ready once `url` answers; {port} in either stands for a free port."""

    def __init__(
        self,
        command: Sequence[str | Path],
        url: str,
        environment: Mapping[str, str] | None = None,
        patience: float = 300,
    ) -> None:
        self.port = free_port()
        self._command = [str(word).replace("{port}", str(self.port)) for word in command]
        self.base = f"http://127.0.0.1:{self.port}"
        self._url, self._environment, self._patience = self.base + url, environment or {}, patience
        self.ready_after = 0.0  # seconds from the start of the process

    def __enter__(self) -> Self:
        began = time.perf_counter()
        self._log = (Path(os.environ.get("TMPDIR", "/tmp")) / f"service-{self.port}.log").open("w+b")
        self.process = subprocess.Popen(
            self._command, env={**os.environ, **self._environment}, stdout=self._log, stderr=self._log
        )
        while True:
            try:
                with urllib.request.urlopen(self._url, timeout=5):
                    break
            except (urllib.error.URLError, OSError) as error:
                if self.process.poll() is not None or time.perf_counter() - began > self._patience:
                    self.__exit__(None, None, None)
                    raise RuntimeError(f"{self._command[0]} did not start: {self.log[-2000:]}") from error
                time.sleep(0.02)
        self.ready_after = time.perf_counter() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.seek(0)
        self.log = self._log.read().decode("utf-8", "replace")
        self._log.close()
        Path(self._log.name).unlink()

    @property
    def resident(self) -> int:
        """Bytes of memory resident in the process and its children."""
        import psutil

        whole = psutil.Process(self.process.pid)
        return sum(each.memory_info().rss for each in (whole, *whole.children(recursive=True)))

    @property
    def processor(self) -> float:
        """Seconds that the process and its children have computed."""
        import psutil

        whole = psutil.Process(self.process.pid)
        times = [each.cpu_times() for each in (whole, *whole.children(recursive=True))]
        return float(sum(each.user + each.system for each in times))

    def settle(self, patience: float = 60) -> None:
        """Wait until it has finished what clients no longer wait for: less than a third of a core for half a second."""
        until = time.perf_counter() + patience
        while time.perf_counter() < until:
            before = self.processor
            time.sleep(0.5)
            if self.processor - before < 0.17:
                return

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.base + path, timeout=30) as answer:
            return answer.read()  # type: ignore[no-any-return]
