"""Load by wrk. Closed loop: each client sends its next request once it has the answer to the last. Open loop: requests
come when they come, as from many people who know nothing of one another, whether or not there are answers yet."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# One thread of wrk builds every request beforehand, so that sending costs the machine under test next to nothing.
_SCRIPT = """
local requests, place, threads = {}, START, {}
function setup(thread) threads[#threads + 1] = thread end
function init(args)
  for i = 1, COUNT do
    local file = io.open(string.format("FOLDER/%06d", i), "rb")
    requests[i] = wrk.format("POST", nil, {["Content-Type"] = "TYPE"}, file:read("*a"))
    file:close()
  end
end
function request()
  place = place % COUNT + 1
  return requests[place]
end
function done(summary, latency, requests)
  local e, late = summary.errors, (threads[1]:get("late") or 0) / math.max(1, threads[1]:get("slots") or 1)
  io.write(string.format('RESULT{"requests":%d,"seconds":%f,"errors":%d,"p50_ms":%f,"p95_ms":%f,"p99_ms":%f,"late":%f}\\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, late))
end
"""

# Each connection that is free takes the next of the times at which a request is due. One that takes it more than 5 ms
# late was not free in time: the load is then no longer open, and the share of such requests says so.
_OPEN = """
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long us; } timeval; int gettimeofday(timeval *at, void *zone);")
local at, due = ffi.new("timeval"), nil
late, slots = 0, 0
math.randomseed(SEED)
function delay()
  ffi.C.gettimeofday(at, nil)
  local now = tonumber(at.s) * 1e3 + tonumber(at.us) / 1e3
  due = (due or now + 50) - math.log(1 - math.random()) / RATE * 1e3
  slots = slots + 1
  if due < now - 5 then late = late + 1 end
  return math.max(0, math.floor(due - now + 0.5))
end
"""


@dataclass(frozen=True)
class Load:
    """What one run of one service gave. Open loop: `offered` requests a second, the share `late` of them sent late."""

    clients: int
    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    late: float = 0.0
    offered: float | None = None

    @property
    def per_second(self) -> float:
        """Answers that were right, a second."""
        return max(0, self.requests - self.errors) / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Every field; what only an open loop has is left out of a closed one."""
        fields = asdict(self)
        if self.offered is None:
            del fields["late"], fields["offered"]
        return {**fields, "per_second": self.per_second}


def parse(output: str, clients: int, offered: float | None = None) -> Load:
    """What wrk printed -> its figures. Raises RuntimeError where it printed none."""
    marked = [line for line in output.splitlines() if line.startswith("RESULT")]
    if not marked:
        raise RuntimeError(f"wrk failed: {output[-300:]}")
    return Load(clients=clients, offered=offered, **json.loads(marked[0].removeprefix("RESULT")))


class Bodies:
    """The requests that clients send, in files; each run goes on where the last ended: none is repeated early."""

    def __init__(self, bodies: Sequence[bytes], content_type: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bodies-")
        for number, body in enumerate(bodies, 1):
            Path(self._folder.name, f"{number:06d}").write_bytes(body)
        self._count, self._type, self._start = len(bodies), content_type, 0

    def drive(self, url: str, clients: int, seconds: float, warm_up: float = 0) -> Load:
        """Closed loop for some seconds, after others that are not counted. Raises RuntimeError without wrk."""
        if warm_up:
            self._run(url, clients, warm_up)
        return self._run(url, clients, seconds)

    def offer(self, url: str, rate: float, seconds: float, clients: int = 512, seed: int = 0) -> Load:
        """Open loop: `rate` requests a second at random (Poisson) times over `clients` connections."""
        return self._run(url, clients, seconds, rate, seed)

    def _run(self, url: str, clients: int, seconds: float, rate: float | None = None, seed: int = 0) -> Load:
        if shutil.which("wrk") is None:
            raise RuntimeError("the load generator wrk is not installed: apt-get install wrk")
        script = _SCRIPT.replace("FOLDER", self._folder.name).replace("COUNT", str(self._count))
        script = script.replace("TYPE", self._type).replace("START", str(self._start))
        if rate:
            script += _OPEN.replace("RATE", str(rate)).replace("SEED", str(seed))
        path = Path(self._folder.name, "load.lua")
        path.write_text(script, "utf-8")
        command: list[str | Path] = [
            "wrk",
            "-t1",
            f"-c{clients}",
            f"-d{max(1, round(seconds))}s",
            "--timeout",
            "60s",
            "-s",
            path,
            url,
        ]
        output = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
        load = parse(output.stdout + output.stderr, clients, rate)
        self._start = (self._start + load.requests + clients) % self._count
        return load


def texts_as_json(texts: Sequence[str], template: str = '{"query": {"text": TEXT}, "k": 10}') -> Bodies:
    """A JSON body for each text; TEXT in the template stands for it."""
    return Bodies([template.replace("TEXT", json.dumps(text)).encode() for text in texts], "application/json")


def pictures_as_forms(files: Sequence[bytes], field: str = "image") -> Bodies:
    """A form for each picture."""
    boundary = "8f1c2b7e6d5a4930"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="a.jpg"\r\n'
    head += "Content-Type: image/jpeg\r\n\r\n"
    tail = f"\r\n--{boundary}--\r\n"
    return Bodies([head.encode() + file + tail.encode() for file in files], f"multipart/form-data; boundary={boundary}")
