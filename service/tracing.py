"""OpenTelemetry traces of requests (extra `otel`): the standard's OTEL_… variables name exporter, sampler and service.

The spans of a request's parts are made once it has been answered, from what its timeline noted.
"""

from __future__ import annotations

import os
import time
from importlib.metadata import entry_points
from typing import Any

from service.timeline import Timeline

_NAMES = {"text": "encode", "texts": "encode", "image": "encode", "deep search": "search"}  # else the stage's own


class Tracer:
    """Raises ValueError without the SDK, or for an exporter that is not there."""

    def __init__(self, provider: Any = None) -> None:
        """`provider`: an SDK's TracerProvider; one as the variables say when not given."""
        try:
            from opentelemetry import propagate, trace
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise ValueError("CROSSMODAL_TRACES needs OpenTelemetry: pip install 'crossmodal[otel]'") from None
        self._trace, self._propagate = trace, propagate
        if provider is None:
            os.environ.setdefault("OTEL_SERVICE_NAME", "crossmodal")
            provider = TracerProvider(shutdown_on_exit=False)
            for name in os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(","):
                if name.strip() != "none":
                    provider.add_span_processor(BatchSpanProcessor(_exporter(name.strip())))
        self._provider = provider
        self._tracer = provider.get_tracer("crossmodal")

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()

    def begin(self, scope: Any) -> Any:
        """The span of a request, a child of the caller's where its headers name one (W3C traceparent)."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        return self._tracer.start_span(
            scope["method"],
            context=self._propagate.extract(headers),
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "url.path": scope["path"][:1000]},
        )

    def end(self, timeline: Timeline, status: int) -> None:
        """End the request's span, with a child for each wait and each batch; a batch links the other requests in it."""
        trace, span, scope = self._trace, timeline.span, timeline.scope
        if not span.is_recording():
            return
        offset = time.time_ns() - time.monotonic_ns()

        def at(seconds: float) -> int:
            return int(seconds * 1e9) + offset

        context = trace.set_span_in_context(span)
        for batch, marks in timeline.batches.items():
            facts = {"crossmodal.stage": batch.stage, "crossmodal.items": len(marks)}
            first = min(mark.queued for mark in marks)
            self._tracer.start_span("queue", context, attributes=facts, start_time=at(first)).end(at(batch.began))
            others = {id(mark.timeline): mark.timeline.span for mark in batch.marks if mark.timeline is not timeline}
            self._tracer.start_span(
                _NAMES.get(batch.stage, batch.stage),
                context,
                attributes={**facts, "crossmodal.batch": batch.number, "crossmodal.batch.items": len(batch.marks)},
                links=[trace.Link(other.get_span_context()) for other in others.values() if other is not None],
                start_time=at(batch.began),
            ).end(at(batch.ended))
        if route := getattr(scope.get("route"), "path_format", None):
            span.update_name(f"{scope['method']} {route}")
            span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("crossmodal.request_id", timeline.request_id)
        if status >= 500:
            span.set_status(trace.Status(trace.StatusCode.ERROR))
        span.end()


def _exporter(name: str) -> Any:
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", ""))
    if name == "otlp":
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    for entry in entry_points(group="opentelemetry_traces_exporter", name=name):
        return entry.load()()
    raise ValueError(f"OTEL_TRACES_EXPORTER: there is no exporter {name!r} here: install its package")
