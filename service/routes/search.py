"""Nearest pictures and nearest captions to words, pictures, vectors and mixtures of them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from service.engine import Engine
from service.problems import Problem
from service.results import image_hits, text_hits
from service.routes.shared import EngineOf, in_time, json_body, json_response
from service.schemas import Hit, Hits, SearchAnswer, SearchRequest, Took

router = APIRouter(prefix="/v1/search", tags=["search"])
Target = Literal["images", "texts"]

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": SearchRequest.model_json_schema(ref_template="#/components/schemas/{model}")
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
_BODY["requestBody"]["content"]["application/json"]["schema"].pop("$defs", None)  # type: ignore[index]


@router.post("/{target}", response_model=SearchAnswer, openapi_extra=_BODY)
async def search(target: Target, request: Request, engine: EngineOf) -> Response:
    """Search with a JSON body, or with a picture as multipart field `image` and the options in the URL."""
    began = time.perf_counter()
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        body = await _multipart(request)
    else:
        body = await json_body(request)
    wanted = SearchRequest.model_validate(body)
    return json_response(await in_time(answer(engine, target, wanted, began), engine))


@router.get("/{target}", response_model=SearchAnswer)
async def search_by_url(
    target: Target,
    request: Request,
    engine: EngineOf,
    text: Annotated[str | None, Query(examples=["a red star"])] = None,
    image_id: str | None = None,
    k: int = 10,
    offset: int = 0,
    min_score: float | None = None,
    exact: bool = False,
    include: Annotated[str, Query(description="metadata, captions, vector; with commas")] = "",
) -> Response:
    """The same for one text or one indexed picture; caches may keep the answer and ask whether it is still good."""
    began = time.perf_counter()
    if (text is None) == (image_id is None):
        raise Problem(422, "give exactly one of text and image_id")
    query: dict[str, Any] = {"text": text} if text is not None else {"image": {"id": image_id}}
    options = {"k": k, "offset": offset, "min_score": min_score, "exact": exact, "include": _split(include)}
    wanted = SearchRequest.model_validate({"query": query, **options})
    identity = f"{engine.snapshot.name} {engine.encoder.fingerprint} {request.url.path}?{request.url.query}"
    headers = {"ETag": f'"{hashlib.sha256(identity.encode()).hexdigest()[:32]}"', "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    response = json_response(await in_time(answer(engine, target, wanted, began), engine))
    response.headers.update(headers)
    return response


async def _multipart(request: Request) -> dict[str, Any]:
    async with request.form(max_files=1, max_fields=16) as form:
        upload = form.get("image")
        if upload is None or isinstance(upload, str):
            raise Problem(422, "the form has no file in its field `image`")
        data = await upload.read()
        fields = {name: value for name, value in form.items() if name != "image"}
    if not data:
        raise Problem(422, "image: the file is empty (0 bytes)")
    options: dict[str, Any] = {**request.query_params, **fields}
    if "include" in options:
        options["include"] = _split(options["include"])
    return {"query": {"image": {"base64": base64.b64encode(data).decode()}}, **options}


def _split(include: str) -> list[str]:
    return [part.strip() for part in include.split(",") if part.strip()]


async def answer(engine: Engine, target: Target, wanted: SearchRequest, began: float) -> SearchAnswer:
    """Search a target; `began` is when the request came, by time.perf_counter(). Raises Problem."""
    limits = engine.settings
    queries = wanted.queries if wanted.queries is not None else [wanted.query]
    if len(queries) > limits.max_queries:
        raise Problem(422, f"queries: {len(queries)} of them; at most {limits.max_queries} are allowed")
    if wanted.offset + wanted.k > limits.max_k:
        raise Problem(422, f"offset + k is {wanted.offset + wanted.k:,}; at most {limits.max_k:,} is allowed")
    if len(queries) * (wanted.offset + wanted.k) > 10 * limits.max_k:
        raise Problem(422, f"{len(queries)} queries of {wanted.k:,} hits are too much for one request: lower k")
    snapshot = engine.snapshot  # one snapshot for the whole request, whatever is published meanwhile
    vectors = await engine.vectors_of(queries, snapshot)  # type: ignore[arg-type]
    encoded = time.perf_counter()
    collection = snapshot.images if target == "images" else snapshot.texts
    hits_of = image_hits if target == "images" else text_hits
    scores, rows = await engine.search(collection, vectors, wanted.offset + wanted.k, wanted.exact)

    def collect() -> list[list[Hit]]:
        lists = []
        for query_scores, query_rows in zip(scores, rows, strict=True):
            keep = query_rows >= 0
            if wanted.min_score is not None:
                keep &= query_scores >= wanted.min_score
            page = np.flatnonzero(keep)[wanted.offset :]
            lists.append(hits_of(snapshot, query_scores[page], query_rows[page], wanted.include, wanted.offset + 1))
        return lists

    lists = await asyncio.to_thread(collect)
    done = time.perf_counter()
    took = Took(
        encode=round((encoded - began) * 1e3, 3),
        search=round((done - encoded) * 1e3, 3),
        total=round((done - began) * 1e3, 3),
    )
    one = wanted.query is not None
    return SearchAnswer.model_construct(
        hits=lists[0] if one else None,
        results=None if one else [Hits.model_construct(hits=hits) for hits in lists],
        snapshot=snapshot.name,
        model=engine.encoder.reference,
        took_ms=took,
    )
