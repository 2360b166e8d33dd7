"""The same load, model and vectors on this service and on what a user would run instead, in turns.

A peer's own environment is made on first use, in the cache; one that cannot be made is reported with the error.
"""

from __future__ import annotations

import base64
import contextlib
import json
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.common import PYTHON, model_and_index, ours, parser
from benchmarks.fixtures import captions, jpegs
from benchmarks.load import Bodies, Load, pictures_as_forms, texts_as_json
from benchmarks.peers.environment import PEERS, clip_retrieval, infinity
from benchmarks.process import Service
from vector_index import IndexDirectory

_TEXT, _SMALL, _LARGE = "text", "JPEG 0.3 MP", "JPEG 12 MP"


@dataclass(frozen=True)
class Side:
    """A running service, and for each kind of query its path and the bodies."""

    name: str
    service: Service
    queries: dict[str, tuple[str, Bodies]]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clients", type=int, nargs="+", default=[1, 32])
    options.add_argument("--rounds", type=int, default=3, help="turns that each takes; the median counts")
    options.add_argument("--peers", nargs="+", choices=_MAKE, default=list(_MAKE), help="beside crossmodal")
    given = options.parse_args()
    # A graph, which every peer can search with the one number that goes with it.
    model, index = model_and_index(given.folder, seed=given.seed, index_type="HNSW32,SQfp16")
    words = captions(20_000, given.seed + 1)
    files = {_SMALL: jpegs(48, 0.3, given.seed), _LARGE: jpegs(6, 12, given.seed)}
    seen = report.conditions()
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        sides: list[Side] = []
        for name, make in {"crossmodal": _crossmodal, **{peer: _MAKE[peer] for peer in given.peers}}.items():
            try:
                side = make(model, index, words, files)
                stack.enter_context(side.service)
                sides.append(side)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                if name == "crossmodal":
                    raise
                rows.append({"service": name, "error": str(error)[-300:]})
        for what in (_TEXT, _SMALL, _LARGE):
            for clients in given.clients if what != _LARGE else given.clients[:1]:
                rows += _compare(sides, what, clients, given.rounds, given.seconds)
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("peers", seen, rows, given.out)


def _compare(sides: list[Side], what: str, clients: int, rounds: int, seconds: float) -> Iterator[dict[str, Any]]:
    if what != _TEXT and clients > 1:  # one long turn: a peer that takes 32 pictures at once has none done for a while
        seconds, rounds = seconds * rounds, 1
    runs: dict[str, list[Load]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            path, bodies = side.queries[what]
            bodies.drive(side.service.base + path, clients, 2)
            side.service.settle()  # what the warm-up left behind
            runs[side.name].append(bodies.drive(side.service.base + path, clients, seconds))
            side.service.settle()  # or it would take the next one's turn
    first = sides[0].name
    for name, loads in runs.items():
        pairs = [(ours, it) for ours, it in zip(runs[first], loads, strict=True) if it.requests > it.errors]
        yield {
            "query": what,
            "clients": clients,
            "service": name,
            "per_second": statistics.median(load.per_second for load in loads),
            "p50_ms": _median([load.p50_ms for load in loads if load.requests]),
            "p99_ms": _median([load.p99_ms for load in loads if load.requests]),
            "errors": sum(load.errors for load in loads),
            f"{first}_throughput_over": _median([ours.per_second / it.per_second for ours, it in pairs]),
            f"{first}_p50_over": _median([ours.p50_ms / it.p50_ms for ours, it in pairs]),
        }


def _median(values: list[float]) -> float | None:
    """None of nothing: a peer that gave no answer in time has no latency and no ratio."""
    return statistics.median(values) if values else None


def _crossmodal(model: Path, index: Path, words: list[str], files: dict[str, list[bytes]]) -> Side:
    path = "/v1/search/images"
    forms = {what: (path, pictures_as_forms(each)) for what, each in files.items()}
    return Side("crossmodal", ours(index), {_TEXT: (path, texts_as_json(words)), **forms})


def _usual_way(model: Path, index: Path, words: list[str], files: dict[str, list[bytes]]) -> Side:
    command = [PYTHON, "-m", "uvicorn", "open_clip_server:app", "--port", "{port}", "--log-level", "warning"]
    environment = {"MODEL": str(model), "SNAPSHOT": str(_snapshot(index)), "PYTHONPATH": str(PEERS)}
    forms = {what: ("/search/image", pictures_as_forms(each)) for what, each in files.items()}
    texts = texts_as_json(words, '{"text": TEXT, "k": 10}')
    return Side(
        "FastAPI + open_clip + FAISS", Service(command, "/ready", environment), {_TEXT: ("/search", texts), **forms}
    )


def _infinity(model: Path, index: Path, words: list[str], files: dict[str, list[bytes]]) -> Side:
    command: list[str | Path] = [
        infinity(),
        "-m",
        "uvicorn",
        "infinity_server:app",
        "--port",
        "{port}",
        "--log-level",
        "warning",
    ]
    environment = {
        "MODEL": str(model), "SNAPSHOT": str(_snapshot(index)), "FOLDER": str(index.parent / "vit-b-32-transformers"),
        "PYTHONPATH": str(PEERS), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1",
    }  # fmt: skip
    forms = {what: ("/search/image", pictures_as_forms(each)) for what, each in files.items()}
    texts = texts_as_json(words, '{"text": TEXT, "k": 10}')
    return Side("infinity-emb + FAISS", Service(command, "/ready", environment), {_TEXT: ("/search", texts), **forms})


def _clip_retrieval(model: Path, index: Path, words: list[str], files: dict[str, list[bytes]]) -> Side:
    python = clip_retrieval()
    snapshot = _snapshot(index)
    folder = index.parent / f"clip-retrieval-{snapshot.name}"
    command: list[str | Path] = [python, PEERS / "clip_retrieval_server.py", model, snapshot, folder, "{port}"]
    rest = {"modality": "image", "num_images": 10, "num_result_ids": 10, "indice_name": "index"}

    def pictures(each: list[bytes]) -> Bodies:
        encoded = [json.dumps({"image": base64.b64encode(file).decode(), **rest}).encode() for file in each]
        return Bodies(encoded, "application/json")

    texts = texts_as_json(words, json.dumps({"text": "TEXT", **rest}).replace('"TEXT"', "TEXT"))
    queries = {_TEXT: texts, **{what: pictures(each) for what, each in files.items()}}
    return Side(
        "clip-retrieval", Service(command, "/indices-list"), {k: ("/knn-service", v) for k, v in queries.items()}
    )


def _snapshot(index: Path) -> Path:
    with IndexDirectory(index).open() as snapshot:
        return snapshot.path


_MAKE = {"usual": _usual_way, "clip-retrieval": _clip_retrieval, "infinity-emb": _infinity}

if __name__ == "__main__":
    main()
