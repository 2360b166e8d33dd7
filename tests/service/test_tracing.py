"""The spans that a real server sends to a collector."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.settings import Settings
from service.tracing import Tracer
from tests.service.conftest import Serve
from tests.service.test_decoders import jpeg
from tests.service.test_logs import ask_patiently

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Its address, and what it is sent."""
    sent = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            sent.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_spans_of_requests(serve: Serve, tmp_path: Path, collector: tuple[str, list[Any]]) -> None:
    endpoint, sent = collector
    patient = {"CROSSMODAL_QUEUE_SECONDS": "60", "CROSSMODAL_REQUEST_TIMEOUT": "120"}
    standard = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
    with (
        serve(tmp_path / "log", CROSSMODAL_TRACES="true", CROSSMODAL_CACHE_BYTES="0", **standard, **patient) as url,
        httpx.Client(base_url=url) as client,
    ):

        def ask(number: int) -> None:
            ask_patiently(client, f"star {number}", f"asked-{number}")

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, range(32)))
        child = {"X-Request-ID": "child", "traceparent": CALLER}
        client.post("/v1/search/images?k=1", files={"image": jpeg()}, headers=child)
        client.get("/v1/search/images?text=secret", headers={"X-Request-ID": "unseen", "traceparent": UNSAMPLED})
        client.get("/v1/search/images?text=a", headers={"X-Request-ID": "late", "X-Request-Timeout": "0.000000001"})
    # The server has ended, and sent what it had before.
    resources = [each for request in sent for each in request.resource_spans]
    resource = attributes(resources[0].resource)
    assert resource["service.name"] == "crossmodal"
    assert resource["deployment.environment.name"] == "test"
    spans = [span for each in resources for scope in each.scope_spans for span in scope.spans]
    roots = {
        attributes(span).get("crossmodal.request_id"): span for span in spans if span.kind == span.SPAN_KIND_SERVER
    }
    assert roots.keys() == {*(f"asked-{number}" for number in range(32)), "child", "late"}

    def parts(id: str) -> list[Any]:
        found = [span for span in spans if span.parent_span_id == roots[id].span_id]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    child_span = roots["child"]
    assert (child_span.trace_id.hex(), child_span.parent_span_id.hex()) == tuple(CALLER.split("-")[1:3])
    assert child_span.name == "POST /v1/search/{target}"
    assert attributes(child_span)["http.response.status_code"] == 200
    assert [span.name for span in parts("child")] == ["queue", "decode", "queue", "encode", "queue", "search"]
    for id in ("child", "asked-3"):
        for span in parts(id):
            assert span.trace_id == roots[id].trace_id
            assert roots[id].start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= roots[id].end_time_unix_nano
    assert [span.name for span in parts("asked-3")] == ["queue", "encode", "queue", "search"]
    assert roots["late"].status.code == roots["late"].status.STATUS_CODE_ERROR
    # A batch's span links the other requests in it, and theirs link back.
    linked = {
        (root.span_id, link.span_id) for id, root in roots.items() for span in parts(id or "") for link in span.links
    }
    assert linked
    assert linked == {(b, a) for a, b in linked}
    assert "secret" not in str(spans)


def test_off_the_sdk_is_not_even_imported() -> None:
    code = "import sys, service.app; sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_package_or_the_exporter_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "pigeon")
    with pytest.raises(ValueError, match="'pigeon'"):
        Tracer()
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ValueError, match=r"crossmodal\[otel\]"):
        Tracer()
    assert not Settings(index=Path("none")).traces
