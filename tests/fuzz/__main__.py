"""Fuzz with coverage (atheris, libFuzzer): python -m tests.fuzz image|filter|manifest [--seconds 60].

It starts from corpus/TARGET and what earlier runs found, which is kept in build/fuzz/TARGET. A finding is a file
build/fuzz/TARGET-crash-…; once mended, it goes into corpus/TARGET, which `make test` replays.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD = Path("build/fuzz")
_WORDS = ("$eq", "$ne", "$gt", "$lte", "$in", "$nin", "$exists", "$not", "$and", "$or", "id", "year", "score", "licence",
          "free", "tags", "small", "sizes", "taken", "", "segments", "deleted", "queries", "../x", "images-1")  # fmt: skip
_VALUES = (None, True, False, 0, -1, 1, 0.5, 255, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, -(2**63) - 1,
           10**400, "", "a", "CC0", "\ud800", "\0", "雨", "../../x", "images", [], {}, [[]], {"": None}, {"$exists": True},
           {"$gt": 2**63}, {"$in": [1, "a"]}, [2**64, -1])  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("target", choices=["image", "filter", "manifest"])
    options.add_argument("--seconds", type=int, default=60)
    given = options.parse_args()
    import atheris

    with atheris.instrument_imports(
        include=["PIL", "dual_encoder", "service", "vector_index"], enable_loader_override=False
    ):
        from PIL import Image

        from tests.fuzz import targets

        Image.init()  # reads every format's module now, and not uninstrumented at the first picture

    found = BUILD / given.target
    found.mkdir(parents=True, exist_ok=True)
    if given.target == "manifest":  # the one that fits the files it is opened with
        shutil.copy(targets.snapshot() / "manifest.json", found / "fitting.json")
    words = [
        sys.argv[0], f"-max_total_time={given.seconds}", "-timeout=20", "-rss_limit_mb=3000", "-max_len=65536",
        f"-artifact_prefix={BUILD}/{given.target}-", "-print_final_stats=1", "-verbosity=1",
        *([f"-dict={words}"] if (words := HERE / f"{given.target}.dict").is_file() else []),
        str(found), str(HERE / "corpus" / given.target),
    ]  # fmt: skip
    atheris.Setup(words, targets.TARGETS[given.target], custom_mutator=mutate if given.target != "image" else None)
    atheris.Fuzz()


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """What is JSON stays so, more often than not: a value in it is put in another's place, or becomes one of a few."""
    import atheris

    chance = random.Random(seed)
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        whole = None
    places = list(_places(whole))
    if not places or chance.random() < 0.3:
        return atheris.Mutate(data, most)  # type: ignore[no-any-return]
    for _ in range(chance.randint(1, 4)):
        holder, key = chance.choice(places)
        if chance.random() < 0.2 and isinstance(holder, dict):
            holder[chance.choice(_WORDS)] = holder.get(key)
        other, name = chance.choice(places)
        with contextlib.suppress(LookupError):
            holder[key] = copy.deepcopy(other[name]) if chance.random() < 0.3 else copy.deepcopy(chance.choice(_VALUES))
    return json.dumps(whole).encode()[:most]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _places(each)


if __name__ == "__main__":
    main()
