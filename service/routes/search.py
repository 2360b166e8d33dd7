"""Nearest pictures and nearest captions to words, pictures, vectors and mixtures of them."""

from __future__ import annotations

import hashlib
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.formparsers import MultiPartException, MultiPartParser

from service.admission import will_search
from service.answer import answer
from service.errors import Problem
from service.finder import Target
from service.routes.shared import EngineOf, body_of, expect_picture, in_time, json_of, json_response
from service.schemas import ByUrl, SearchAnswer, SearchRequest

router = APIRouter(prefix="/v1/search", tags=["search"])
_PICTURE = {"image": {"base64": ""}}  # stands for the file that came beside the options

_BODY = body_of(SearchRequest)
_BODY["requestBody"]["content"]["multipart/form-data"] = {
    "schema": {
        "type": "object",
        "required": ["image"],
        "properties": {"image": {"type": "string", "format": "binary"}},
    }
}


@router.post("/{target}", response_model=SearchAnswer, openapi_extra=_BODY)
async def search(target: Target, request: Request, engine: EngineOf) -> Response:
    """Search with a JSON body, or with a picture as multipart field `image` and the options in the URL."""
    began = time.perf_counter()
    will_search()
    picture = b""
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        expect_picture(request, engine)
        picture, options = await _multipart(request)
        wanted = SearchRequest.model_validate({"query": _PICTURE, **options})
    else:
        wanted = await json_of(request, SearchRequest, engine)
    return json_response(await in_time(answer(engine, target, wanted, began, picture), request))


@router.get("/{target}", response_model=SearchAnswer)
async def search_by_url(
    target: Target, request: Request, engine: EngineOf, asked: Annotated[ByUrl, Query()]
) -> Response:
    """The same for one text or one indexed picture; caches may keep the answer and ask whether it is still good."""
    began = time.perf_counter()
    will_search()
    if (asked.text is None) == (asked.image_id is None):
        raise Problem(422, "give exactly one of text and image_id")
    query = {"text": asked.text} if asked.text is not None else {"image": {"id": asked.image_id}}
    options = asked.model_dump(exclude={"text", "image_id"}, exclude_unset=True)
    wanted = SearchRequest.model_validate({"query": query, **options})
    identity = f"{engine.snapshot.name} {engine.encoder.fingerprint} {request.url.path}?{request.url.query}"
    headers = {"ETag": f'"{hashlib.sha256(identity.encode()).hexdigest()[:32]}"', "Cache-Control": "no-cache"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):  # of several, or W/"…", as a cache makes of it
        return Response(status_code=304, headers=headers)
    response = json_response(await in_time(answer(engine, target, wanted, began), request))
    response.headers.update(headers)
    return response


class _InMemory(MultiPartParser):
    """Writes no large file to the disk and back (8 ms for one of 3 MB): what a request may hold is bounded already."""

    spool_max_size = 0  # no bound
    # Texts are UTF-8 (RFC 7578), whatever a client names: `undefined` always fails, `punycode` takes 1.5 s for 200 kB.
    _charset = property(lambda self: "utf-8", lambda self, named: None)


async def _multipart(request: Request) -> tuple[bytes, dict[str, Any]]:
    """The file in field `image`, and the options of the URL and the other fields."""
    try:
        parser = _InMemory(request.headers, request.stream(), max_files=1, max_fields=16)
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, error.message) from None
    upload = form.get("image")
    if upload is None or isinstance(upload, str):
        raise Problem(422, "the form has no file in its field `image`")
    data = await upload.read()
    if not data:
        raise Problem(422, "image: the file is empty (0 bytes)")
    fields = [(name, value) for name, value in form.multi_items() if name != "image"]
    return data, ByUrl.of([*request.query_params.multi_items(), *fields]).model_dump(exclude_unset=True)
