"""Vectors in OpenAI's shape, and zero-shot ranking."""

from __future__ import annotations

import base64

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from service.engine import Engine
from service.errors import Problem
from service.results import dumps
from service.routes.shared import EngineOf, body_of, in_time, json_of, json_response
from service.schemas import EmbeddingsAnswer, EmbeddingsRequest, ImageInput, RankAnswer, RankRequest
from service.tasks import together

Vector = NDArray[np.float32]

router = APIRouter(prefix="/v1", tags=["encode"])


@router.post("/embeddings", response_model=EmbeddingsAnswer, openapi_extra=body_of(EmbeddingsRequest))
async def embeddings(request: Request, engine: EngineOf) -> Response:
    """Unit vectors of texts, or of images given as URLs or data: URIs."""
    wanted = await json_of(request, EmbeddingsRequest, engine)
    if wanted.model not in (None, engine.encoder.reference):
        raise Problem(404, f"there is no model {str(wanted.model)[:100]!r} here, only {engine.encoder.reference!r}")
    inputs = [wanted.input] if isinstance(wanted.input, str) else wanted.input
    _check_count(engine, len(inputs), "inputs")
    if wanted.modality == "text" and any(len(text) > 10_000 for text in inputs):
        raise Problem(422, "input: a text has more than the 10,000 characters allowed")
    encode = _texts if wanted.modality == "text" else _pictures
    vectors, used = await in_time(encode(engine, inputs), request)
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
            if wanted.encoding_format == "base64"
            else vector,
        }
        for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": used, "total_tokens": used}
    return json_response(dumps({"object": "list", "data": data, "model": engine.encoder.reference, "usage": usage}))


async def _texts(engine: Engine, texts: list[str]) -> tuple[Vector, int]:
    rows = await engine.queries.tokenize(texts)
    return await engine.queries.rows(rows), sum(map(len, rows))


async def _pictures(engine: Engine, urls: list[str]) -> tuple[Vector, int]:
    return await engine.images_vectors([ImageInput(url=url) for url in urls], engine.snapshot), 0


@router.post("/rank", response_model=RankAnswer, openapi_extra=body_of(RankRequest))
async def rank(request: Request, engine: EngineOf) -> Response:
    """How well each candidate fits, as scores and as probabilities at the model's own temperature."""
    wanted = await json_of(request, RankRequest, engine)
    snapshot = engine.snapshot
    images = wanted.images if wanted.image is None else [wanted.image]
    texts = wanted.texts if wanted.text is None else [wanted.text]
    assert images is not None
    assert texts is not None
    _check_count(engine, max(len(images), len(texts)), "candidates")

    both = together([engine.images_vectors(images, snapshot), engine.queries.texts(texts)])
    image_vectors, text_vectors = await in_time(both, request)
    scores = (image_vectors @ text_vectors.T).ravel()
    logits = engine.encoder.logit_scale * (scores - scores.max())
    probabilities = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-scores, kind="stable")
    results = [{"index": int(i), "score": float(scores[i]), "probability": float(probabilities[i])} for i in order]
    temperature = 1 / engine.encoder.logit_scale
    return json_response(dumps({"results": results, "model": engine.encoder.reference, "temperature": temperature}))


def _check_count(engine: Engine, count: int, what: str) -> None:
    if count > 4 * engine.settings.max_queries:
        raise Problem(422, f"{count} {what}; at most {4 * engine.settings.max_queries} are allowed in one request")
