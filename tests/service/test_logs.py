"""What a real server writes: lines of JSON, request ids through batches, and nothing that a client wrote."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from service import keys, logs
from tests.service.conftest import Serve
from tests.service.test_decoders import jpeg

SENTINEL = "zxqv sentinel"


def ask_patiently(client: httpx.Client, text: str, id: str) -> httpx.Response:
    """A test machine may be busy, and its service say so."""
    body, headers = {"query": {"text": text}, "k": 1}, {"X-Request-ID": id}
    while (answer := client.post("/v1/search/images", json=body, headers=headers, timeout=60)).status_code == 503:
        time.sleep(0.2)
    return answer


def lines_of(log: Path) -> list[dict[str, Any]]:
    """The first line is the command line's own."""
    return [json.loads(line) for line in log.read_text().splitlines()[1:]]


def test_every_line_is_json_and_requests_are_followed_through_batches(serve: Serve, tmp_path: Path) -> None:
    file, log = tmp_path / "keys.json", tmp_path / "log"
    key, _ = keys.create(file, "search", "shop")
    settings = {"KEYS_FILE": str(file), "ACCESS_LOG": "true", "LOG_LEVEL": "debug", "CACHE_BYTES": "0",
                "QUEUE_SECONDS": "60", "REQUEST_TIMEOUT": "120"}  # fmt: skip
    with (
        serve(log, **{f"CROSSMODAL_{name}": value for name, value in settings.items()}) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client,
    ):

        def ask(number: int) -> httpx.Response:
            return ask_patiently(client, f"{SENTINEL} {number}", f"asked-{number}")

        with ThreadPoolExecutor(16) as pool:
            assert {answer.status_code for answer in pool.map(ask, range(32))} == {200}
        client.get("/v1/search/images", params={"text": SENTINEL}, headers={"X-Request-ID": "by-url"})
        client.post("/v1/search/images?k=1", files={"image": jpeg()}, headers={"X-Request-ID": "pictured"})
        client.get("/v1/nowhere", headers={"X-Request-ID": "lost"})
        client.get("/v1/index", headers={"Authorization": "Bearer cmk_wrong", "X-Request-ID": "unknown"})
        client.get("/healthz", headers={"X-Request-ID": "probe"})
    text = log.read_text()
    assert "sentinel" not in text
    assert key.split("_", 2)[2] not in text
    lines = lines_of(log)
    told = {line["request_id"]: line for line in lines if line["logger"] == "crossmodal.access"}
    batches = {line["batch"]: line for line in lines if line["logger"] == "crossmodal.batch"}
    assert len(told) == 36
    assert {told[f"asked-{number}"]["status"] for number in range(32)} == {200}
    for id, line in told.items():
        assert line["ms"] > 0
        for stage in line.get("stages", ()):
            batch = batches[stage["batch"]]
            assert id in batch["request_ids"]
            assert len(batch["request_ids"]) == stage["requests"]
            assert stage["queued_ms"] + stage["ms"] <= line["ms"]
    assert [stage["stage"] for stage in told["asked-7"]["stages"]] == ["text", "search"]
    assert [stage["stage"] for stage in told["pictured"]["stages"]] == ["decode", "image", "search"]
    assert max(stage["requests"] for line in told.values() for stage in line.get("stages", ())) > 1
    assert told["asked-7"]["who"] == f"{key[:12]} (shop)"
    assert told["lost"]["status"] == 404
    assert told["unknown"]["status"] == 401
    assert "probe" not in told


def test_bodies_are_logged_where_they_are_asked_for_and_keys_never(serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serve(log, CROSSMODAL_ACCESS_LOG="true", CROSSMODAL_LOG_QUERIES="true") as url:
        secret = {"Authorization": "Bearer cmk_secret"}
        httpx.post(f"{url}/v1/search/images", json={"query": {"text": SENTINEL}}, headers=secret)
        httpx.get(f"{url}/v1/search/images", params={"text": "a star"}, headers=secret)
        httpx.post(f"{url}/v1/search/images?k=1", files={"image": jpeg()})
    posted, got, pictured = [line for line in lines_of(log) if line["logger"] == "crossmodal.access"]
    assert json.loads(posted["body"]) == {"query": {"text": SENTINEL}}
    assert got["query"] == "text=a+star"
    assert "body" not in pictured
    assert "cmk_secret" not in log.read_text()


def test_by_default_requests_leave_no_line(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "log") as url:
        assert httpx.get(f"{url}/v1/index", headers={"Connection": "Upgrade", "Upgrade": "h2c"}).status_code == 200
        kind = {"Content-Type": "Multipart/Form-Data; boundary=x"}
        nonsense = httpx.post(f"{url}/v1/search/images", content=b"--xy", headers=kind)
        assert "Invalid multipart data" in nonsense.json()["detail"]
    assert lines_of(tmp_path / "log") == []


_SPEAK = """
import logging.config
from service import logs
logging.config.dictConfig(logs.settings())
logs.REQUEST_ID.set("r-1")
logging.getLogger("uvicorn.error").error("uvicorn says %s", "this")
try:
    secret = "hidden"
    raise ValueError("bad")
except ValueError:
    logs.logger("crossmodal.x").error("failed", n=3, exc_info=True)
"""


def test_a_terminal_gets_a_form_for_people() -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", _SPEAK], stderr=theirs, check=True)
    shown = os.read(ours, 10_000).decode()
    os.close(ours), os.close(theirs)
    piped = subprocess.run([sys.executable, "-c", _SPEAK], stderr=subprocess.PIPE, check=True, text=True).stderr
    first, second = map(json.loads, piped.splitlines())
    assert first["event"] == "uvicorn says this"
    assert first["request_id"] == second["request_id"] == "r-1"
    assert (second["logger"], second["level"], second["n"]) == ("crossmodal.x", "error", 3)
    assert second["exception"].endswith("ValueError: bad")
    for text in (shown, piped):
        assert "hidden" not in text
        assert "ValueError: bad" in text
    assert not shown.startswith("{")


def test_what_lines_end_with_makes_no_second_line() -> None:
    record = logging.LogRecord("crossmodal", logging.INFO, "", 0, 'a\n{"event": "forged"}', (), None)
    line = logs.formatter("json").format(record)
    assert "\n" not in line
    assert json.loads(line)["event"].startswith("a\n")
