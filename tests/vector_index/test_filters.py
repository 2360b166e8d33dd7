"""Filters keep the rows that plain Python keeps, and say what is wrong with those that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vector_index import BadFilter, Filter, IndexDirectory
from vector_index.tables import MappedTable, TableWriter

ROWS: list[dict[str, Any]] = [
    {"id": f"i{n}", "year": None if n % 7 == 0 else 1990 + n % 5, "score": None if n % 5 == 0 else n / 4 - 2,
     "licence": [None, "CC0", "CC-BY", "雨"][n % 4], "free": [True, False, None][n % 3],
     "tags": [None, [], ["a"], ["a", "b"], ["b", None]][n % 5],
     "taken_ns": [2**53 + 1, 2**63 - 1, -(2**63), 1_650_000_000_000_000_001, None, 0][n % 6],
     "weight": [0.0, -0.0, 1.5, None][n % 4]}
    for n in range(60)
]  # fmt: skip
SCHEMA = pa.schema(
    [("id", pa.string()), ("year", pa.int32()), ("score", pa.float64()), ("licence", pa.string()), ("free", pa.bool_()),
     ("tags", pa.list_(pa.string())), ("taken_ns", pa.int64()), ("weight", pa.float32())]
)  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "year": [1990, 1992, 1994, 2000, 1991.5, 1991.0, 2**32 + 1990, 10**30, -(10**30)],
    "score": [-2, 0.25, 5, 100],
    "licence": ["CC0", "CC-BY", "雨", "", "zzz"],
    "tags": ["a", "b", "c"],
    "taken_ns": [2**53, 2**53 + 1, 2.0**53, 0.5, -0.5, 1.65e18, 2**63 - 1, 2**63, 2**64, -(2**63), -1e300, 1e300],
    "weight": [0, -0.0, 1.5],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> MappedTable:
    path = tmp_path_factory.mktemp("filters") / "t.arrow"
    writer = TableWriter(path, SCHEMA, batch_rows=16)
    writer.append(pa.RecordBatch.from_pylist(ROWS, SCHEMA))
    writer.close()
    return MappedTable(path)


def holds(value: Any, operator: str, wanted: Any) -> bool:
    """The meaning of a condition, on one value or a list of them."""
    if operator == "$not":
        return not all(holds(value, name, each) for name, each in wanted.items())
    if operator in ("$ne", "$nin"):
        return not holds(value, {"$ne": "$eq", "$nin": "$in"}[operator], wanted)
    if operator == "$exists":
        return (value not in (None, [])) == wanted
    values = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
    test: Callable[[Any], bool] = {
        "$eq": lambda v: v == wanted,
        "$in": lambda v: v in wanted,
        "$gt": lambda v: v > wanted,
        "$gte": lambda v: v >= wanted,
        "$lt": lambda v: v < wanted,
        "$lte": lambda v: v <= wanted,
    }[operator]
    return any(test(v) for v in values)


def keeps(row: dict[str, Any], wanted: dict[str, Any]) -> bool:
    for name, value in wanted.items():
        if name == "$and":
            held = all(keeps(row, each) for each in value)
        elif name == "$or":
            held = any(keeps(row, each) for each in value)
        elif name == "$not":
            held = not keeps(row, value)
        else:
            conditions = value if isinstance(value, dict) else {"$eq": value}
            held = all(holds(row[name], operator, each) for operator, each in conditions.items())
        if not held:
            return False
    return True


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from([*VALUES, "free"]))
    if name == "free":
        return {name: draw(st.one_of(st.booleans(), st.fixed_dictionaries({"$ne": st.booleans()})))}
    value = st.sampled_from(VALUES[name])
    compare = st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"])
    parts = st.one_of(
        st.dictionaries(compare, value, min_size=1, max_size=2),
        st.fixed_dictionaries({"$in": st.lists(value, max_size=3)}),
        st.fixed_dictionaries({"$nin": st.lists(value, max_size=3)}),
        st.fixed_dictionaries({"$exists": st.booleans()}),
    )
    return {name: draw(st.one_of(value, parts, st.fixed_dictionaries({"$not": parts})))}


def combined(condition: st.SearchStrategy[dict[str, Any]], max_leaves: int) -> st.SearchStrategy[dict[str, Any]]:
    """Filters of up to so many conditions, one within the other."""
    return st.recursive(
        condition,
        lambda inner: st.one_of(
            st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries({"$not": inner}),
        ),
        max_leaves=max_leaves,
    )


@given(wanted=combined(conditions(), max_leaves=6))
def test_the_same_rows_as_plain_python(table: MappedTable, wanted: dict[str, Any]) -> None:
    try:
        parsed = Filter.parse(wanted, table.schema)
    except BadFilter as error:
        assert "nested" in str(error)
        return
    mask = parsed.mask(table)
    assert mask.dtype == np.bool_
    assert mask.tolist() == [keeps(row, wanted) for row in ROWS]


def nested(depth: int) -> dict[str, Any]:
    return {"$not": nested(depth - 1)} if depth else {"year": 1}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({}, "an object with a condition"),
        ([], "an object with a condition"),
        ({"yaer": 1990}, "no column 'yaer'; there are id, year, score, licence, free, tags, taken_ns, weight"),
        ({"$nor": []}, r"unknown operator \$nor"),
        ({"year": {"$regex": "x"}}, r"year: unknown operator '\$regex'; use \$eq"),
        ({"year": {}}, "year: no condition"),
        ({"year": "1990"}, "year: the column has int32, so a number is expected, not \"1990\""),
        ({"year": True}, "so a number is expected, not true"),
        ({"year": float("nan")}, "so a number is expected"),
        ({"year": 10**400}, "so a number is expected"),
        ({"score": {"$lt": -(10**400)}}, "so a number is expected"),
        ({"year": [1990]}, "so a number is expected"),
        ({"free": 1}, "true or false is expected"),
        ({"free": {"$gt": False}}, "compares numbers or texts"),
        ({"licence": 3}, "a text is expected"),
        ({"licence": None}, "null is no value"),
        ({"licence": {"$in": "CC0"}}, r"\$in needs a list"),
        ({"licence": {"$exists": 1}}, r"\$exists is true or false"),
        ({"licence": {"$not": "CC0"}}, r"\$not needs conditions"),
        ({"$and": {"year": 1}}, r"\$and needs a list"),
        ({"$or": []}, r"\$or needs a list"),
        (nested(8), "nested more than 8 deep"),
        (nested(500), "nested more than 8 deep"),
        ({"$or": [{"year": 1}] * 101}, "more than 100 conditions"),
        ({"year": {"$in": [1] * 10_001}}, r"more than 10,000 values in its \$in and \$nin"),
        ({"$or": [{"year": {"$nin": [1] * 2_001}}] * 5}, r"more than 10,000 values in its \$in and \$nin"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(wanted: Any, said: str) -> None:
    with pytest.raises(BadFilter, match=said):
        Filter.parse(wanted, SCHEMA)


def test_as_deep_as_allowed() -> None:
    Filter.parse(nested(7), SCHEMA)


@pytest.mark.parametrize("kind", ["Flat", "HNSW16,SQfp16", "IVF32,SQfp16", "IVF32,RaBitQfs,Refine(SQfp16)"])
def test_search_finds_the_nearest_of_what_is_kept(
    directory: IndexDirectory, publish: Callable[..., str], make_corpus: Any, kind: str
) -> None:
    corpus = make_corpus(3_000)
    publish(corpus, texts=False, text_queries=lambda: corpus.text_vectors[:200], index_type=kind)
    queries = corpus.text_vectors[:20]
    true = queries @ corpus.image_vectors.T
    with directory.open() as snapshot:
        images = snapshot.images
        for least in (30, 300, 1_500, 2_700, 2_999):  # `width` counts the rows
            where = Filter.parse({"width": {"$gte": least}}, images.schema)
            scores, rows = images.search(queries, 10, where=where)
            assert rows.shape == (20, min(10, 3_000 - least))
            assert (rows >= least).all()
            best = -np.sort(-true[:, least:], axis=1)[:, : rows.shape[1]]
            assert np.mean(scores >= best[:, -1:] - 2e-3) >= 0.95
            exact, _ = images.search(queries, 10, where=where, exact=True)
            np.testing.assert_allclose(exact, best, atol=2e-3)
        nothing = Filter.parse({"uri": "none"}, images.schema)
        assert images.search(queries, 10, where=nothing)[1].shape == (20, 0)
        everything = Filter.parse({"width": {"$gte": 0}}, images.schema)
        np.testing.assert_array_equal(images.search(queries, 10, where=everything)[1], images.search(queries, 10)[1])


def test_a_walk_that_goes_astray_is_made_good(
    directory: IndexDirectory, publish: Callable[..., str], make_corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept lies far from the query: the graph alone finds too little of it."""
    monkeypatch.setattr("vector_index.segment.GRAPH_STEP", 0)  # always walk
    corpus = make_corpus(3_000)
    query = corpus.image_vectors[:1]
    far = np.argsort(corpus.image_vectors @ query[0])[:40]
    publish(corpus, texts=False, index_type="HNSW4,SQfp16", target_recall=0.1)
    with directory.open() as snapshot:
        ids = [corpus.image_ids[row] for row in far]
        where = Filter.parse({"id": {"$in": ids}}, snapshot.images.schema)
        scores, rows = snapshot.images.search(query, 40, where=where)
    assert set(rows[0].tolist()) == set(far.tolist())
    assert (np.diff(scores[0]) <= 0).all()


@pytest.mark.parametrize("kind", ["HNSW16,SQ8", "IVF64,SQ8", "IVF64,RaBitQfs,Refine(SQfp16)", "PQ4x4fs,Refine(SQfp16)"])
def test_recall_whatever_share_a_filter_keeps(directory: IndexDirectory, writer: Callable[..., Any], kind: str) -> None:
    """50 % to 0.01 % of the rows, each kept at random."""
    count = 20_000
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((count, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    place = rng.permutation(count) / count
    ids = [f"{row:05}" for row in range(count)]
    with writer(index_type=kind) as started:
        started.add_images(pa.record_batch({"id": ids, "uri": ids, "place": place}), vectors)
        started.publish()
    queries = rng.standard_normal((50, 16)).astype(np.float32) + 1
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    with directory.open() as snapshot:
        images = snapshot.images
        for share in (0.5, 0.1, 0.01, 0.001, 0.0001):
            where = Filter.parse({"place": {"$lt": share}}, images.schema)
            rows = images.search(queries, 10, where=where)[1]
            kept = np.flatnonzero(place < share)
            k = min(10, len(kept))
            best = -np.sort(-(queries @ vectors[kept].T), axis=1)[:, k - 1 : k]
            assert rows.shape == (50, k)
            assert np.isin(rows, kept).all()
            found = np.einsum("qd,qkd->qk", queries, vectors[rows]) >= best - 2e-3
            assert found.mean() >= 0.95, share


def test_lists_are_searched_farther_for_what_lies_far(
    directory: IndexDirectory, writer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a filter keeps need not lie where the query is."""
    monkeypatch.setattr("vector_index.segment.Segment._sooner_compared", lambda *_: False)
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((10_000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    place = vectors[:, 0].argsort().argsort() / len(vectors)
    ids = [f"{row:05}" for row in range(len(vectors))]
    with writer(index_type="IVF64,SQfp16", target_recall=0.9) as started:
        started.add_images(pa.record_batch({"id": ids, "uri": ids, "place": place}), vectors)
        started.publish()
    queries = vectors[place > 0.9][:50]
    with directory.open() as snapshot:
        images = snapshot.images
        for share in (0.5, 0.1):
            where = Filter.parse({"place": {"$lt": share}}, images.schema)
            rows = images.search(queries, 10, where=where)[1]
            best = -np.sort(-(queries @ vectors[place < share].T), axis=1)[:, 9:10]
            found = np.einsum("qd,qkd->qk", queries, vectors[rows]) >= best - 2e-3
            assert found.mean() >= 0.95, share
