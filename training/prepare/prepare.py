"""Raw pairs -> prepared data: read and check, merge, compare, split, write."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpus import Record, Source, SourceError, open_source, place_of
from dual_encoder.cores import cores
from training.prepare.agreement import BATCH, Encoder, alike, cosines, embed_pictures
from training.prepare.ahead import map_ahead
from training.prepare.checks import Examined, Refusal, examine
from training.prepare.directory import staged
from training.prepare.errors import PrepareError
from training.prepare.foreign import Foreign
from training.prepare.leakage import check_prepared, find_leaks
from training.prepare.near_duplicates import COLOUR_BYTES, Nearness, drop_near, find_near, same_only
from training.prepare.options import Options
from training.prepare.output import KEY, Chosen, thumbnail_of, write_report, write_splits
from training.prepare.rejects import Rejects
from training.prepare.report import Figures, step_rows
from training.prepare.splits import choose_split, is_split_name, parse_splits
from training.prepare.spool import Spool

Report = Callable[[int, int | None], None]
Stages = Callable[[str], AbstractContextManager[Report]]
_FOREIGN = 10_000  # the number of the split of other data
_MOST_SPLITS = 100


@dataclass(frozen=True)
class Summary:
    """What came of it. `records` and `given_captions` were read, `pairs` pictures with `captions` are in `splits`."""

    out: str
    records: int
    given_captions: int
    pairs: int
    captions: int
    splits: dict[str, dict[str, int]]
    steps: list[dict[str, Any]]
    near_duplicates: dict[str, int]
    leaking: int
    seconds: float
    pictures_per_second: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def _quiet(_: str) -> Iterator[Report]:
    yield lambda done, total: None


def prepare_pairs(
    source: str | Path,
    out: str | Path,
    options: Options | None = None,
    *,
    captions: str | Path | None = None,
    encoder: Encoder | None = None,
    workers: int = 0,
    overwrite: bool = False,
    stages: Stages = _quiet,
) -> Summary:
    """Write prepared data of `source` to the folder `out`; docs/data.md says what is in it.

    `encoder` is that of `options.model`. The same source and options give the same bytes, whatever `workers` (threads
    that decode; 0: one a core). Disk: the pictures that pass the checks, twice for a while. Memory: some 250 bytes a
    picture. Raises PrepareError: nothing is left, splits leak, `out` cannot be written.
    """
    options = options or Options()
    if options.model is not None and encoder is None:
        raise PrepareError(f"model {options.model!r} is named but not loaded")
    if (options.near_duplicates != "off" or options.against) and find_spec("imagehash") is None:
        raise PrepareError(
            "near duplicates are found with imagehash: install crossmodal[train], or near_duplicates off"
        )
    for folder in options.against:
        check_prepared(Path(folder))  # before hours of reading
    began = time.monotonic()
    try:
        opened = open_source(source, captions)
    except SourceError as error:
        raise PrepareError(str(error)) from None
    with ExitStack() as stack:
        stage, work = stack.enter_context(staged(Path(out), overwrite))
        pool = ThreadPoolExecutor(workers or cores(), thread_name_prefix="decoder")
        stack.callback(pool.shutdown, cancel_futures=True)
        run = _Preparation(str(source), opened, options, encoder, stage, work, pool, stages)
        stack.callback(run.close)
        report = run.all()
    seconds = time.monotonic() - began
    return Summary(
        str(out), report["records"], report["captions"], report["kept"]["pictures"], report["kept"]["captions"],
        report["splits"], report["steps"], report["near_duplicates"], report["leakage"]["pictures"],
        round(seconds, 3), round(report["records"] / max(seconds, 1e-9), 1),
    )  # fmt: skip


class _Preparation:
    """One run. `alive` are the items still in; `split` their splits."""

    def __init__(
        self, name: str, source: Source, options: Options, encoder: Encoder | None, stage: Path, work: Path,
        pool: Executor, stages: Stages,
    ) -> None:  # fmt: skip
        self._name, self._source, self._options, self._encoder = name, source, options, encoder
        self._stage, self._work, self._pool, self._stages = stage, work, pool, stages
        self._shares = parse_splits(options.splits)
        self._split_names = [split for split, _ in self._shares]
        self._spool = Spool(work)
        self._rejects = Rejects(stage / "rejects.jsonl")
        self._foreign: Foreign | None = None
        self._figures = Figures()
        self._records = self._captions = self._leaking = 0
        self._alive: NDArray[np.bool_] = np.empty(0, dtype=np.bool_)
        self._split: NDArray[np.int16] = np.empty(0, dtype=np.int16)
        self._nearness = same_only(np.empty(0, dtype=np.int64))

    def close(self) -> None:
        self._spool.close()
        self._rejects.close()
        if self._foreign:
            self._foreign.close()

    def all(self) -> dict[str, Any]:
        self._read()
        self._spool.finish_adding()
        self._alive = np.ones(len(self._spool), dtype=np.bool_)
        if self._options.honour_split and self._options.exact_duplicates:
            self._join_twins()
        self._rejects.captions["exact duplicate"] += self._spool.merge()
        if self._options.max_caption_share:
            self._drop_repeated()
        self._need_some()
        if self._options.against:
            with self._stages("reading the data to compare with"):
                self._foreign = Foreign(self._options.against, self._work, self._pool, _ahead())
        self._find_near()
        if self._options.honour_split:
            self._choose_splits()
        if self._options.near_duplicates == "drop":
            self._drop_near()
        if self._encoder is not None:
            self._compare_captions(self._encoder)
        self._need_some()
        if not self._options.honour_split:
            self._choose_splits()
        self._stop_leaks()
        self._need_some()
        return self._write()

    def _need_some(self) -> None:
        if not self._alive.any():
            gone = self._rejects.pictures.total()
            first = f"; the first: {self._rejects.first}" if self._rejects.first else ""
            raise PrepareError(f"{self._name}: nothing is left of {self._records:,} pictures, {gone:,} rejected{first}")

    # Reading

    def _read(self) -> None:
        sidecars = _sidecar_folder(self._name, self._source)
        check = partial(examine, options=self._options, sidecars=sidecars)
        with self._stages("reading pictures") as report:
            for found in map_ahead(self._pool, check, self._guarded(), _ahead()):
                self._records += 1
                self._captions += found.given
                self._take(found)
                report(self._records, self._source.count)
            report(self._records, self._records)

    def _guarded(self) -> Iterator[Record]:
        try:
            yield from self._source.records()
        except SourceError as error:
            raise PrepareError(str(error)) from None

    def _take(self, found: Examined) -> None:
        shown = (lambda: found.thumbnail) if found.thumbnail else None
        for refusal in found.refused:
            self._rejects.caption(found.uri, refusal, shown)
        split = -1
        if found.refusal is None and found.split is not None:
            if is_split_name(found.split):
                split = self._split_number(found.split)
            else:
                found.refusal = Refusal("split", f"{found.split[:40]!r} is no name of a split")
        if found.refusal is not None:
            self._rejects.picture(found.uri, found.refusal, found.captions, shown)
            return
        if self._options.exact_duplicates and (item := self._spool.find(found.sha256, split)) is not None:
            self._spool.add_again(item, found)
            self._rejects.merged(found.uri, _same(found.sha256.hex()))
            return
        self._spool.add(found, split)

    def _join_twins(self) -> None:
        """A picture without a split is the same as one with these bytes that has one."""
        splits = self._spool.splits
        labels = np.unique(self._spool.digests, return_inverse=True)[1].ravel()
        twin = np.full(len(splits), -1, dtype=np.int64)  # by label, the first with a split
        named = np.flatnonzero(splits >= 0)[::-1]
        twin[labels[named]] = named
        items = np.flatnonzero((splits < 0) & (twin[labels] >= 0))
        self._spool.join(items, twin[labels[items]])
        self._alive[items] = False
        for facts in map(self._spool.facts, items.tolist()):
            self._rejects.merged(facts["uri"], _same(facts["sha256"]))

    def _split_number(self, name: str) -> int:
        if name not in self._split_names:
            if len(self._split_names) == _MOST_SPLITS:
                raise PrepareError(f"{self._name}: the column split has more than {_MOST_SPLITS} different values")
            self._split_names.append(name)
        return self._split_names.index(name)

    def _out(self, item: int, refusal: Refusal, beside: int | None = None) -> None:
        """Leave an item out, with what its line needs."""
        self._alive[item] = False
        facts = self._spool.facts(item)
        other = partial(self._thumbnail, beside) if beside is not None and beside < len(self._spool) else None
        self._rejects.picture(facts["uri"], refusal, facts["captions"], partial(self._thumbnail, item), other)

    def _thumbnail(self, item: int) -> bytes:
        return thumbnail_of(self._spool, item)

    # Captions that say the same of many pictures

    def _drop_repeated(self) -> None:
        hashes = array("Q")  # 8 bytes a caption
        for item in range(len(self._spool)):
            hashes.extend(map(_caption_hash, self._spool.facts(item)["captions"]))
        values, counts = np.unique(np.array(hashes, dtype=np.uint64), return_counts=True)
        many = counts > max(self._options.max_caption_share * len(self._spool), 1)
        frequent = dict(zip(values[many].tolist(), counts[many].tolist(), strict=True))
        if frequent:
            empty: list[int] = []
            self._spool.rewrite(partial(self._without, frequent, empty))

    def _without(self, frequent: dict[int, int], empty: list[int], item: int, facts: dict[str, Any]) -> Any:
        total = len(self._spool)
        refused = {}
        for caption in facts["captions"]:
            if many := frequent.get(_caption_hash(caption)):
                refused[caption] = Refusal("repeated caption", f"{many:,} of {total:,} pictures have it", caption)
        return self._keep_captions(item, facts, refused, "repeated caption")

    def _keep_captions(
        self, item: int, facts: dict[str, Any], refused: dict[str, Refusal], step: str
    ) -> dict[str, Any] | None:
        """Facts without the refused captions; None, and the picture out, if that leaves none."""
        if not refused:
            return facts
        for refusal in refused.values():
            self._rejects.caption(facts["uri"], refusal, partial(self._thumbnail, item))
        stays = [i for i, caption in enumerate(facts["captions"]) if caption not in refused]
        if not stays:
            self._alive[item] = False
            self._rejects.picture(facts["uri"], Refusal(step, "no caption is left"), [], partial(self._thumbnail, item))
            return None
        lists = [name for name in ("captions", "languages", "cosines") if name in facts]
        return {**facts, **{name: [facts[name][i] for i in stays] for name in lists}}

    # Near duplicates

    def _find_near(self) -> None:
        n = len(self._spool)
        digests, hashes = self._spool.digests, self._spool.hashes
        if self._foreign is not None and len(self._foreign):
            digests = np.concatenate([digests, self._foreign.digests])
            hashes = np.concatenate([hashes, self._foreign.hashes])
        if self._options.near_duplicates == "off":
            self._nearness = same_only(digests)
            return
        more = self._alike_pairs() if self._options.near_cosine else None
        with self._stages("finding near duplicates"):
            self._nearness = find_near(
                hashes, partial(self._colours, n), self._options.near_radius, self._options.near_colour, more
            )

    def _colours(self, n: int, items: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self._foreign is None:
            return self._spool.colours(items)
        grids = np.empty((len(items), COLOUR_BYTES), dtype=np.uint8)
        own = items < n
        grids[own] = self._spool.colours(items[own])
        grids[~own] = self._foreign.colours(items[~own] - n)
        return grids

    def _alike_pairs(self) -> NDArray[np.int64]:
        """Embeds every item; the vectors stay for comparing with captions."""
        assert self._encoder is not None
        n = len(self._spool)
        with self._vectors.open("wb") as file, self._stages("encoding pictures") as report:
            for start in range(0, n, BATCH):
                items = list(range(start, min(start + BATCH, n)))
                file.write(embed_pictures(self._encoder, self._spool, items, self._pool).astype(np.float32).tobytes())
                report(items[-1] + 1, n)
        return alike(self._vectors, n, self._encoder.dim, self._options.near_cosine)

    @property
    def _vectors(self) -> Path:
        return self._work / "vectors"

    def _drop_near(self) -> None:
        order = self._spool.by_quality()
        split = self._split if self._options.honour_split else np.zeros(len(order), dtype=np.int16)
        hashes = self._spool.hashes
        for item, kept in drop_near(self._nearness, order[self._alive[order]], split).tolist():
            bits = (int(hashes[item]) ^ int(hashes[kept])).bit_count()
            how = f"{bits} of 64 bits differ" if bits <= self._options.near_radius else "alike to the model"
            uri = self._spool.facts(kept)["uri"]
            self._out(item, Refusal("near duplicate", f"nearly the same as {uri}: {how}"), kept)

    # Pictures and captions

    def _compare_captions(self, encoder: Encoder) -> None:
        items = np.flatnonzero(self._alive)
        listed = self._work / "cosines"
        with listed.open("w") as file, self._stages("comparing pictures and captions") as report:
            for start in range(0, len(items), BATCH):
                batch = items[start : start + BATCH].tolist()
                if self._options.near_cosine:
                    shape = (len(self._spool), encoder.dim)
                    vectors = np.asarray(np.memmap(self._vectors, np.float32, "r", shape=shape)[batch])
                else:
                    vectors = embed_pictures(encoder, self._spool, batch, self._pool)
                captions = [self._spool.facts(item)["captions"] for item in batch]
                for row in cosines(encoder, vectors, captions):
                    file.write(json.dumps(row) + "\n")
                report(start + len(batch), len(items))
        with listed.open() as file:
            self._spool.rewrite(lambda item, facts: self._agreeing(item, facts, file.readline))

    def _agreeing(self, item: int, facts: dict[str, Any], next_line: Callable[[], str]) -> dict[str, Any] | None:
        if not self._alive[item]:
            return None
        values: list[float] = json.loads(next_line())
        refused = {}
        least = self._options.min_cosine
        for caption, value in zip(facts["captions"], values, strict=True):
            self._figures.cosine.add(value)
            if least is not None and value < least:
                refused[caption] = Refusal("low cosine", f"cosine {value:.4f}, below {least:g}", caption)
        return self._keep_captions(item, {**facts, "cosines": values}, refused, "low cosine")

    # Splits

    def _choose_splits(self) -> None:
        self._split = self._spool.splits
        dropped = self._options.near_duplicates == "drop" and not self._options.honour_split
        contents = self._spool.digests if dropped else self._group_digests()  # what is left is near nothing else
        inherited: dict[int, int] = {}
        if self._options.honour_split:  # a picture without a split joins its near duplicates
            for item in np.flatnonzero(self._split >= 0).tolist():
                inherited.setdefault(int(self._nearness.group[item]), int(self._split[item]))
        for item in map(int, np.flatnonzero(self._alive & (self._split < 0))):
            chosen = inherited.get(int(self._nearness.group[item]))
            self._split[item] = (
                choose_split(contents[item].tobytes(), self._shares, self._options.seed) if chosen is None else chosen
            )

    def _group_digests(self) -> NDArray[np.void]:
        """(n,) the smallest digest in each one's group, of what is left."""
        digests = self._spool.digests
        n = len(digests)
        words = self._spool.digest_words
        order = np.lexsort((words[:, 1], words[:, 0]))
        order = order[self._alive[order]]
        rank = np.empty(n, dtype=np.int64)
        rank[order] = np.arange(len(order))
        best = np.full(int(self._nearness.group.max()) + 1, n, dtype=np.int64)
        np.minimum.at(best, self._nearness.group[:n][self._alive], rank[self._alive])
        smallest = digests.copy()
        smallest[self._alive] = digests[order[best[self._nearness.group[:n][self._alive]]]]
        return smallest

    def _stop_leaks(self) -> None:
        n = len(self._spool)
        others = len(self._foreign) if self._foreign is not None else 0
        split = np.concatenate([self._split, np.full(others, _FOREIGN, dtype=np.int16)])
        alive = np.concatenate([self._alive, np.ones(others, dtype=np.bool_)])
        leaks = find_leaks(self._nearness, split, alive, _FOREIGN)
        self._leaking = sum(picture < n for picture in leaks.pictures)
        if not self._leaking:
            return
        if self._options.leakage == "error":
            item, other = leaks.losers[0]
            raise PrepareError(
                f"{self._name}: {self._leaking:,} pictures are in more than one split, such as {self._place(item)} and "
                f"{self._place(other)}; --drop-leakage leaves them out, --allow-leakage keeps them"
            )
        if self._options.leakage == "drop":
            for item, other in leaks.losers:
                self._out(item, Refusal("leakage", f"also in another split: {self._place(other)}"), other)

    def _place(self, item: int) -> str:
        if item < len(self._spool):
            return f"{self._spool.facts(item)['uri']} ({self._split_names[self._split[item]]})"
        assert self._foreign is not None
        return self._foreign.uris[item - len(self._spool)]

    def _write(self) -> dict[str, Any]:
        one_each = self._options.near_duplicates in ("drop", "keep")
        groups = self._spool.digests if one_each else self._group_digests()
        chosen = Chosen(self._alive, self._split, self._split_names, groups, keep_empty=not self._options.honour_split)
        with self._stages("writing shards") as report:
            splits, samples = write_splits(
                self._stage, self._spool, chosen, self._options.shard_size, self._figures, report
            )
        self._rejects.close()
        counts = {
            name: {"pairs": split["pairs"], "captions": split["captions"], "shards": len(split["shards"])}
            for name, split in splits.items()
        }
        found = {
            "source": place_of(self._name), "options": self._options.to_json(),
            "records": self._records, "captions": self._captions,
            "steps": step_rows(self._records, self._captions, self._rejects),
            "kept": {
                "pictures": sum(count["pairs"] for count in counts.values()),
                "captions": sum(count["captions"] for count in counts.values()),
            },
            "splits": counts, "near_duplicates": _group_sizes(self._nearness, len(self._spool)),
            "leakage": {"pictures": self._leaking}, "histograms": self._figures.to_json(),
        }  # fmt: skip
        write_report(self._stage, found, splits, samples, self._rejects.samples())
        return found


def _same(sha256: str) -> Refusal:
    return Refusal("exact duplicate", f"the same bytes as another, {sha256[:KEY]}; its captions stay there")


def _ahead() -> int:
    return 8 * cores()


def _sidecar_folder(name: str, source: Source) -> str | None:
    """The root of a source that is a folder; a table's root is the folder that it lies in."""
    return source.root if source.root.rstrip("/") == place_of(name).rstrip("/") else None


def _caption_hash(caption: str) -> int:
    return int.from_bytes(sha256(caption.casefold().encode()).digest()[:8], "big")


def _group_sizes(nearness: Nearness, n: int) -> dict[str, int]:
    """Groups of near duplicates as they were found, before any was left out."""
    sizes = np.unique(nearness.group[:n], return_counts=True)[1]
    return {"groups": int((sizes > 1).sum()), "largest": int(sizes.max(initial=0)) if (sizes > 1).any() else 0}
