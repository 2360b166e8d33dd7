"""The constant load of the deployment tests, a locust file: searches by GET and by POST, every one written down.

A line a request goes to the file named by TRAFFIC_LOG: when it ended (seconds since the epoch), its method, its status
(0: no answer), how long it took and which snapshot answered. What counts as failed is left to the reader.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

from geventhttpclient.response import HTTPConnectionClosed
from locust import FastHttpUser, constant_throughput, events, task

_RETRIES = int(os.environ.get("TRAFFIC_RETRIES", "0"))  # of a POST whose connection is closed without a word
_CLOSED = (HTTPConnectionClosed, ConnectionError)
_LOG = open(os.environ["TRAFFIC_LOG"], "w", buffering=1)  # noqa: SIM115
_NUMBERS = itertools.count()
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
    """Five searches a second. No GET is sent twice: the balancer's cache would answer it, from the snapshot before."""

    wait_time = constant_throughput(5)
    network_timeout = 60.0
    connection_timeout = 10.0

    @task
    def by_get(self) -> None:
        text = f"{next(_WORDS)} {next(_NUMBERS)}"
        self.client.get(f"/v1/search/images?text={text.replace(' ', '+')}&k=5", name="GET")

    @task
    def by_post(self) -> None:
        body = {"query": {"text": next(_WORDS)}, "k": 5}
        for left in range(_RETRIES, -1, -1):
            answer = self.client.post("/v1/search/texts", json=body, name="POST", catch_response=True)
            if not (left and isinstance(answer.request_meta["exception"], _CLOSED)):
                with answer:  # counts it
                    return
