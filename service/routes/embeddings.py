"""Vectors in OpenAI's shape, and zero-shot ranking."""

from __future__ import annotations

import base64

import numpy as np
from fastapi import APIRouter, Request, Response

from service.engine import Engine
from service.intake import from_url
from service.problems import Problem
from service.routes.shared import EngineOf, in_time, json_response
from service.schemas import (
    Embedding,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    RankAnswer,
    Ranked,
    RankRequest,
    Usage,
)

router = APIRouter(prefix="/v1", tags=["encode"])


@router.post("/embeddings", response_model=EmbeddingsAnswer)
async def embeddings(wanted: EmbeddingsRequest, request: Request, engine: EngineOf) -> Response:
    """Unit vectors of texts, or of images given as URLs or data: URIs."""
    if wanted.model not in (None, engine.encoder.reference):
        raise Problem(404, f"there is no model {wanted.model!r} here, only {engine.encoder.reference!r}")
    inputs = [wanted.input] if isinstance(wanted.input, str) else wanted.input
    _check_count(engine, len(inputs), "inputs")
    used = 0
    if wanted.modality == "text":
        if any(len(text) > 10_000 for text in inputs):
            raise Problem(422, "input: a text has more than the 10,000 characters allowed")
        used = int((engine.encoder.tokenize(inputs) != 0).sum())
        vectors = await in_time(engine.encode_texts(inputs), engine)
    else:
        files = [await from_url(url, engine.settings) for url in inputs]
        vectors = await in_time(engine.encode_images(files), engine)
    data = [
        Embedding(
            index=i,
            embedding=base64.b64encode(vector.astype("<f4").tobytes()).decode()
            if wanted.encoding_format == "base64"
            else vector.tolist(),
        )
        for i, vector in enumerate(vectors)
    ]
    usage = Usage(prompt_tokens=used, total_tokens=used)
    return json_response(EmbeddingsAnswer(data=data, model=engine.encoder.reference, usage=usage))


@router.post("/rank", response_model=RankAnswer)
async def rank(wanted: RankRequest, engine: EngineOf) -> Response:
    """How well each candidate fits, as scores and as probabilities at the model's own temperature."""
    snapshot = engine.snapshot
    images = wanted.images if wanted.image is None else [wanted.image]
    texts = wanted.texts if wanted.text is None else [wanted.text]
    assert images is not None
    assert texts is not None
    _check_count(engine, max(len(images), len(texts)), "candidates")

    image_vectors = await in_time(engine.images_vectors(images, snapshot), engine)
    text_vectors = await in_time(engine.encode_texts(texts), engine)
    scores = (image_vectors @ text_vectors.T).ravel()
    logits = engine.encoder.logit_scale * (scores - scores.max())
    probabilities = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-scores, kind="stable")
    results = [Ranked(index=int(i), score=float(scores[i]), probability=float(probabilities[i])) for i in order]
    temperature = 1 / engine.encoder.logit_scale
    return json_response(RankAnswer(results=results, model=engine.encoder.reference, temperature=temperature))


def _check_count(engine: Engine, count: int, what: str) -> None:
    if count > 4 * engine.settings.max_queries:
        raise Problem(422, f"{count} {what}; at most {4 * engine.settings.max_queries} are allowed in one request")
