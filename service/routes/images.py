"""One picture: what is known of it, its thumbnail, its bytes."""

from __future__ import annotations

import mimetypes

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from corpus import files
from service.engine import row_of
from service.errors import Problem
from service.results import image_item
from service.routes.shared import EngineOf
from service.schemas import ImageItem

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
    root = engine.settings.corpus_root or snapshot.manifest.source
    try:
        data = await engine.queries.off_loop(lambda: files.read(root, row["uri"], row["offset"], row["length"]))
    except (OSError, ValueError) as error:
        raise Problem(404, f"the file {row['uri']!r} cannot be read where it was indexed ({_why(error)})") from None
    media_type = mimetypes.guess_type(row["uri"])[0] or ""
    if not media_type.startswith("image/") or media_type == "image/svg+xml":  # an SVG could carry a script
        media_type = "application/octet-stream"
    return Response(data, media_type=media_type, headers=_FOREVER)


def _why(error: Exception) -> str:
    """Without the place: that is for the operator alone."""
    return (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
