"""One picture: what is known of it, its thumbnail, its bytes."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from dual_encoder.image import MAX_BYTES
from service.engine import Engine, row_of
from service.problems import Problem
from service.results import image_item
from service.routes.shared import EngineOf
from service.schemas import ImageItem
from vector_index import Snapshot

router = APIRouter(prefix="/v1/images", tags=["pictures"])
_FOREVER = {"Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}


@router.get("/{id}")
async def image(id: str, engine: EngineOf) -> ImageItem:
    """What the index knows of a picture."""
    snapshot = engine.snapshot
    return await engine.in_searcher(lambda: image_item(snapshot, row_of(snapshot.images, id)))


@router.get("/{id}/thumbnail", response_class=Response)
async def thumbnail(id: str, engine: EngineOf) -> Response:
    """A small WebP."""
    snapshot = engine.snapshot
    data = await engine.in_searcher(lambda: snapshot.thumbnail(row_of(snapshot.images, id)))
    if data is None:
        raise Problem(404, f"picture {id!r} has no thumbnail in this index")
    return Response(data, media_type="image/webp", headers=_FOREVER)


@router.get("/{id}/content", response_class=Response)
async def content(id: str, engine: EngineOf) -> Response:
    """The file as it was indexed, or a redirect to where it lies on the web."""
    snapshot = engine.snapshot
    columns = ["uri", "offset", "length"]
    row = await engine.in_searcher(lambda: snapshot.images.take([row_of(snapshot.images, id)], columns).to_pylist()[0])
    if row["uri"].startswith(("http://", "https://")):
        return RedirectResponse(row["uri"])
    data = await engine.in_searcher(lambda: _read(engine, snapshot, row))
    media_type = mimetypes.guess_type(row["uri"])[0] or ""
    if not media_type.startswith("image/") or media_type == "image/svg+xml":  # an SVG could carry a script
        media_type = "application/octet-stream"
    return Response(data, media_type=media_type, headers=_FOREVER)


def _read(engine: Engine, snapshot: Snapshot, row: dict[str, Any]) -> bytes:
    root = engine.settings.corpus_root or Path(snapshot.manifest.source)
    name = row["uri"].rpartition("#")[0] if row["offset"] is not None else row["uri"]
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise Problem(404, f"the file {row['uri']!r} is no longer where it was indexed")
    with path.open("rb") as file:
        file.seek(row["offset"] or 0)
        data: bytes = file.read(row["length"] if row["length"] is not None else MAX_BYTES)
    return data
