"""A search, whole: a checked request -> the answer as JSON. The REST routes and the command line share it."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import orjson
import pyarrow as pa

from service.engine import Engine
from service.errors import Problem
from service.finder import Target, Wanted
from service.results import dumps
from service.schemas import Query, SearchRequest
from vector_index import BadFilter, BadParameter, Filter
from vector_index.store import Collection, Snapshot


async def answer(engine: Engine, target: Target, wanted: SearchRequest, began: float, picture: bytes = b"") -> bytes:
    """What schemas.SearchAnswer describes. Raises Problem.

    `began` is when the request came, by time.perf_counter(). `picture` is a file that came beside the request and is
    its query.
    """
    limits = engine.settings
    queries = wanted.queries if wanted.queries is not None else [wanted.query] if wanted.query is not None else []
    if len(queries) > limits.max_queries:
        raise Problem(422, f"queries: {len(queries)} of them; at most {limits.max_queries} are allowed")
    if wanted.offset + wanted.k > limits.max_k:
        raise Problem(422, f"offset + k is {wanted.offset + wanted.k:,}; at most {limits.max_k:,} is allowed")
    # 10,000 vectors of 512 numbers are 60 MB of JSON.
    if len(queries) * (wanted.offset + wanted.k) > (1 if "vector" in wanted.include else 10) * limits.max_k:
        what = "hits with vectors" if "vector" in wanted.include else "hits"
        raise Problem(422, f"{len(queries)} queries of {wanted.k:,} {what} are too much for one request: lower k")
    snapshot = engine.snapshot  # one snapshot for the whole request, whatever is published meanwhile
    where = _filter(wanted.filter, snapshot, target)
    params = _params(wanted.params, snapshot, target)
    include = tuple(sorted(set(wanted.include)))
    collection = snapshot.images if target == "images" else snapshot.texts
    for column in ([wanted.group_by] if wanted.group_by is not None else []) + wanted.facets:
        _check_column(column, collection, lists=column != wanted.group_by)
    if wanted.exact and not collection.exhaustive:
        raise Problem(422, "exact: the index of this store cannot be passed by; raise params instead")
    if wanted.facets:
        engine.check_facets(len(set(wanted.facets)))
    vectors = list(await engine.queries.pictures([picture])) if picture else await engine.vectors_of(queries, snapshot)
    encoded = time.perf_counter()
    asked = partial(
        Wanted, snapshot, target, k=wanted.k, offset=wanted.offset, min_score=wanted.min_score, exact=wanted.exact,
        include=include, where=where, group_by=wanted.group_by, params=params,
    )  # fmt: skip
    modalities = ["images"] if picture else map(_modality, queries)
    lists = await engine.find([asked(vector=v, modality=m) for v, m in zip(vectors, modalities, strict=True)])
    facets = {}
    for column in dict.fromkeys(wanted.facets):
        facets[column] = await engine.count(partial(collection.value_counts, column, where))
    done = time.perf_counter()
    found = [orjson.Fragment(hits) for hits in lists]
    one = {"hits": found[0]} if wanted.queries is None else {"results": [{"hits": hits} for hits in found]}
    more = {"facets": {name: [_facet(*each) for each in counts] for name, counts in facets.items()}} if facets else {}
    took = {
        "encode": round((encoded - began) * 1e3, 3),
        "search": round((done - encoded) * 1e3, 3),
        "total": round((done - began) * 1e3, 3),
    }
    return dumps({**one, **more, "snapshot": snapshot.name, "model": engine.encoder.reference, "took_ms": took})


def _facet(value: Any, count: int) -> dict[str, Any]:
    return {"value": value, "count": count}


def _check_column(name: str, collection: Collection, lists: bool) -> None:
    if name not in collection.schema.names:
        there = ", ".join(collection.schema.names)
        raise Problem(422, f"{'facets' if lists else 'group_by'}: there is no column {name!r}; there are {there}")
    kind = collection.schema.field(name).type
    if pa.types.is_nested(kind) and not (lists and pa.types.is_list(kind)):
        raise Problem(422, f"{'facets' if lists else 'group_by'}: a column of {kind} cannot be used")


def _modality(query: Query) -> str | None:
    """Whether a query is of texts or of pictures alone, for an index is tuned for each; None for what may be both."""
    parts = query if isinstance(query, list) else [query]
    if all(part.text is not None for part in parts):
        return "texts"
    return "images" if all(part.image is not None for part in parts) else None


def _params(value: dict[str, int] | None, snapshot: Snapshot, target: Target) -> tuple[tuple[str, int], ...]:
    if not value:
        return ()
    collection = snapshot.images if target == "images" else snapshot.texts
    try:
        collection.check_parameters(value)
    except BadParameter as error:
        raise Problem(422, f"params: {error}") from None
    return tuple(sorted(value.items()))


def _filter(value: dict[str, Any] | None, snapshot: Snapshot, target: Target) -> Filter | None:
    if value is None:
        return None
    collection = snapshot.images if target == "images" else snapshot.texts
    try:
        return collection.parse_filter(value)
    except BadFilter as error:
        raise Problem(422, f"filter: {error}") from None
    except OverflowError:
        raise Problem(422, "filter: a number in it is too large to compare") from None
