"""The figures that matter, each with its goal, and where in the results it is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = Sequence[Mapping[str, Any]]
Results = Mapping[str, Rows]

USUAL, CLIP_RETRIEVAL, INFINITY = "FastAPI + open_clip + FAISS", "clip-retrieval", "infinity-emb + FAISS"
_THROUGHPUT, _P50 = "crossmodal_throughput_over", "crossmodal_p50_over"


@dataclass(frozen=True)
class Goal:
    """`at_least` says whether more is better; `find` gives the measured figure or None; `script` measured it."""

    figure: str
    goal: float
    at_least: bool
    script: str
    find: Callable[[Results], float | None]
    unit: str = "×"

    def measured(self, results: Results) -> float | None:
        """None where it has not been measured."""
        return self.find(results)

    def reached(self, results: Results) -> bool | None:
        """None where it has not been measured."""
        value = self.measured(results)
        return None if value is None else value >= self.goal if self.at_least else value <= self.goal


def pick(results: Results, script: str, column: str, **wanted: Any) -> float | None:
    """The number in `column` of the row of `script` that has every value of `wanted`; None without one."""
    for row in results.get(script, ()):
        if all(row.get(name) == value for name, value in wanted.items()) and isinstance(row.get(column), int | float):
            return float(row[column])
    return None


def _picked(script: str, column: str, **wanted: Any) -> Callable[[Results], float | None]:
    return lambda results: pick(results, script, column, **wanted)


def _encode(what: str) -> Callable[[Results], float | None]:
    return _picked("encode", "median", what=what)


def _deep(results: Results) -> float | None:
    deep = pick(results, "serve", "p50_ms", query="text, k = 10,000 with metadata", clients=1)
    plain = pick(results, "serve", "p50_ms", query="text", clients=1, loop="closed")
    return deep / plain if deep and plain else None


def _ann(column: str, kind: str) -> Callable[[Results], float | None]:
    """Of the kind that begins so, on the largest corpus that it was measured on."""

    def find(results: Results) -> float | None:
        rows = [row for row in results.get("ann", ()) if str(row.get("kind", "")).startswith(kind) and column in row]
        return float(max(rows, key=lambda row: row.get("rows", 0))[column]) if rows else None

    return find


def _memory(results: Results) -> float | None:
    rows = results.get("memory", ())
    return float(rows[-1]["over_first"]) if rows and rows[-1].get("over_first") else None


def _peer(figure: str, goal: float, column: str, query: str, clients: int, service: str) -> Goal:
    found = _picked("peers", column, query=query, clients=clients, service=service)
    return Goal(f"{figure} {service}", goal, column == _THROUGHPUT, "peers", found)


_TEXTS = "text → image, requests/s at 32 clients, over"
_PICTURES = "image → text (JPEG 0.3 MP), requests/s at 32 clients, over"

GOALS = (
    _peer(_TEXTS, 15, _THROUGHPUT, "text", 32, USUAL),
    _peer(_TEXTS, 15, _THROUGHPUT, "text", 32, CLIP_RETRIEVAL),
    _peer(_TEXTS, 2.5, _THROUGHPUT, "text", 32, INFINITY),
    Goal("… over the bare text encoder's best batches", 0.85, True, "encode",
         _encode("texts/s: served over bare encoder")),
    Goal("text → image, p50 of one client, over the same in-process", 1.25, False, "encode",
         _encode("one text: served over in-process")),
    _peer(_PICTURES, 2, _THROUGHPUT, "JPEG 0.3 MP", 32, USUAL),
    Goal("… over the bare image encoder's best batches", 0.85, True, "encode",
         _encode("images/s: served over bare encoder")),
    _peer("JPEG 12 MP as query, p50 of one client, over", 0.25, _P50, "JPEG 12 MP", 1, USUAL),
    Goal("indexing JPEGs of 12 MP, images/s, over clip-retrieval's inference", 3, True, "index",
         _picked("index", "pipeline_over", pictures="JPEG 12 MP", what="clip-retrieval inference")),
    Goal("indexing JPEGs of 12 MP, over bare decode and bare encode sharing the cores", 0.9, True, "index",
         _picked("index", "pipeline_over", pictures="JPEG 12 MP", what="bare decode and encode, sharing the cores")),
    Goal("event-loop lag, p99 under 128 clients", 20, False, "serve",
         _picked("serve", "loop_lag_p99_ms", query="text", clients=128, loop="closed"), " ms"),
    Goal("k = 10,000 with metadata over k = 10, p50 of one client", 5, False, "serve", _deep),
    Goal("`crossmodal search` from the shell, warm", 1.0, False, "startup",
         _picked("startup", "seconds", what="crossmodal search, whole process, warm"), " s"),
    Goal("recall@10 of `auto`, texts as queries", 0.95, True, "ann", _ann("recall texts", "auto:"), ""),
    Goal("`auto`, queries/s of two threads in batches of 32, over exact search", 20, True, "ann",
         _ann("batch × exact", "auto:")),
    Goal("`auto`, queries/s of one that asks one at a time, over exact search", 40, True, "ann",
         _ann("single × exact", "auto:")),
    Goal("`auto`, single queries/s over usearch i8 at equal recall", 1, True, "ann",
         _ann("auto × its single", "usearch i8")),
    Goal("`auto`, single queries/s over usearch f16 at equal recall", 1, True, "ann",
         _ann("auto × its single", "usearch f16")),
    Goal("`auto`, single queries/s over hnswlib at equal recall", 1, True, "ann", _ann("auto × its single", "hnswlib")),
    Goal("publishing 1 % more, over the whole build", 0.05, False, "ann", _ann("1 % more / build", "auto:")),
    Goal("memory after the last query over after 1,000, queries of random lengths", 1.05, False, "memory", _memory),
)  # fmt: skip
