"""One picture: what is known of it, its thumbnail, its bytes."""

from __future__ import annotations

import mimetypes
from functools import partial

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from corpus import files
from service.access import is_guarded
from service.engine import Engine, row_of
from service.errors import Problem
from service.results import image_item
from service.routes.shared import EngineOf
from service.schemas import ImageItem
from vector_index.store import Snapshot

router = APIRouter(prefix="/v1/images", tags=["pictures"])  # an imported id may have slashes in it
# What a browser may show in its place. An SVG or a page could carry a script; anything else is saved, not shown.
_SHOWN = frozenset(f"image/{kind}" for kind in ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "heic"))


@router.get("/{id:path}/thumbnail", response_class=Response)
async def thumbnail(id: str, engine: EngineOf) -> Response:
    """A small WebP."""
    snapshot = engine.snapshot
    data = await engine.in_searcher(lambda: snapshot.thumbnail(row_of(snapshot.images, id)))
    if data is None:
        raise Problem(404, f"picture {id!r} has no thumbnail in this index")
    return Response(data, media_type="image/webp", headers=_kept(engine))


@router.get("/{id:path}/content", response_class=Response)
async def content(id: str, engine: EngineOf) -> Response:
    """The file as it was indexed, or a redirect to where it lies on the web."""
    snapshot = engine.snapshot
    columns = ["uri", "offset", "length"]
    row = await engine.in_searcher(lambda: snapshot.images.take([row_of(snapshot.images, id)], columns).to_pylist()[0])
    if row["uri"].startswith(("http://", "https://")):
        return RedirectResponse(row["uri"])
    root = _root_of(row["uri"], snapshot, engine.settings.corpus_root)
    try:
        data = await engine.read(partial(files.read, root, row["uri"], row["offset"], row["length"]))
    except (OSError, ValueError) as error:
        raise Problem(404, f"the file {row['uri']!r} cannot be read where it was indexed ({_why(error)})") from None
    headers = _kept(engine)
    media_type = mimetypes.guess_type(row["uri"])[0] or ""
    if media_type not in _SHOWN:
        media_type, headers["Content-Disposition"] = "application/octet-stream", "attachment"
    return Response(data, media_type=media_type, headers=headers)


@router.get("/{id:path}")
async def image(id: str, engine: EngineOf) -> ImageItem:
    """What the index knows of a picture."""
    snapshot = engine.snapshot
    return await engine.in_searcher(lambda: image_item(snapshot, row_of(snapshot.images, id)))


def _kept(engine: Engine) -> dict[str, str]:
    """For a day; where a key is needed by nobody but the caller, and only with that key."""
    if is_guarded(engine.settings):
        return {"Cache-Control": "private, max-age=86400", "Vary": "Authorization"}
    return {"Cache-Control": "public, max-age=86400"}


def _why(error: Exception) -> str:
    """Without the place: that is for the operator alone."""
    return (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__


def _root_of(uri: str, snapshot: Snapshot, moved_to: str | None) -> str:
    """The place that a picture must lie beneath: the corpus', or that of what was added from elsewhere."""
    for place in snapshot.manifest.sources:
        if uri.startswith(f"{place.rstrip('/')}/"):
            return place
    return moved_to or snapshot.manifest.source
