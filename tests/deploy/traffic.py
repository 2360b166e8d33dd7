"""The constant load of the deployment tests, a locust file: searches by GET and by POST, every one written down.

A line a request goes to the file named by TRAFFIC_LOG: when it ended (seconds since the epoch), its method, its status
(0: no answer), how long it took and which snapshot answered. What counts as failed is left to the reader.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

from locust import FastHttpUser, constant_throughput, events, task

_LOG = open(os.environ["TRAFFIC_LOG"], "w", buffering=1)  # noqa: SIM115
_WORDS = itertools.cycle(
    f"{size} {colour} {shape}"
    for size in ("small", "large", "tiny", "huge")
    for colour in ("red", "green", "blue", "yellow", "purple", "white", "orange")
    for shape in ("star", "circle", "square", "triangle", "heart", "ring", "cross")
)


@events.request.add_listener
def write_down(request_type: str, response_time: float, response: Any, exception: Any, **_: Any) -> None:
    status = getattr(response, "status_code", 0) or 0
    snapshot = ""
    if status == 200:
        snapshot = response.json()["snapshot"]
        if not response.json()["hits"]:
            status = -1  # an answer without hits is no answer
    _LOG.write(
        f"{time.time():.3f}\t{request_type}\t{status}\t{response_time / 1e3:.3f}\t{snapshot}\t{exception or ''}\n"
    )


class Searcher(FastHttpUser):
    """Five searches a second, each with words of its own, so that few come from the balancer's cache."""

    wait_time = constant_throughput(5)
    network_timeout = 60.0
    connection_timeout = 10.0
    max_retries = int(os.environ.get("TRAFFIC_RETRIES", "0"))

    @task
    def by_get(self) -> None:
        text = f"{next(_WORDS)} {time.monotonic_ns() % 1000}"
        self.client.get(f"/v1/search/images?text={text.replace(' ', '+')}&k=5", name="GET")

    @task
    def by_post(self) -> None:
        self.client.post("/v1/search/texts", json={"query": {"text": next(_WORDS)}, "k": 5}, name="POST")
