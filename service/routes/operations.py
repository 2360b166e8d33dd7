"""For operators: the live index, health, readiness, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.engine import Engine
from service.errors import Problem
from service.results import metadata_columns
from service.routes.shared import EngineOf
from vector_index import StoreUnavailable, VectorIndexError

router = APIRouter(tags=["operations"])


@router.get("/v1/index")
async def index(engine: EngineOf) -> dict[str, Any]:
    """The live snapshot's manifest in short."""
    return _describe(engine)


@router.post("/v1/index/reload")
async def reload(engine: EngineOf) -> dict[str, Any]:
    """Switch to the newest snapshot; one that cannot be served is refused, and the old one keeps serving."""
    try:
        changed = await engine.reload()
    except StoreUnavailable:
        raise
    except VectorIndexError as error:
        raise Problem(409, f"{error}; {engine.snapshot.name} keeps serving") from None
    return {**_describe(engine), "changed": changed}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request, engine: EngineOf) -> dict[str, str]:
    """Queries can be answered: the encoder is not stuck at a batch, and the process has not been told to stop."""
    if request.app.state.draining:
        raise Problem(503, "the service has been told to stop")
    if engine.stalled:
        raise Problem(503, f"{engine.busy_with} has not answered for {engine.busy_for:.0f} s")
    if (seconds := engine.store.down_for) > engine.settings.stall_timeout:
        raise Problem(503, f"the store has not answered for {seconds:.0f} s")
    return {"status": "ready", "snapshot": engine.snapshot.name}


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    if (engine := getattr(request.app.state, "engine", None)) is not None:
        engine.note_queues()
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _describe(engine: Engine) -> dict[str, Any]:
    snapshot = engine.snapshot
    manifest = snapshot.manifest

    def collection(stamp: Any) -> dict[str, Any]:
        return {"count": stamp.rows, "index": stamp.index.model_dump(mode="json", by_alias=True)}

    return {
        "snapshot": snapshot.name,
        "created": manifest.created.isoformat(),
        "format_version": manifest.format_version,
        "model": {
            "reference": manifest.model.reference,
            "fingerprint": manifest.model.fingerprint,
            "dim": manifest.model.dim,
            "runtime": engine.encoder.runtime.name,
            "precision": engine.encoder.runtime.precision,
        },
        "images": collection(manifest.images),
        "texts": collection(manifest.texts),
        "metadata": {name: str(snapshot.images.schema.field(name).type) for name in metadata_columns(snapshot)},
        "rejects": manifest.rejects,
    }
