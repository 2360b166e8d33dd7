"""Adding, pruning, removing: the same in the end as building anew, and only what is new is encoded."""

from __future__ import annotations

import io
import json
import tarfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from corpus import Record
from dual_encoder import DualEncoder
from indexer import add_to_index, build_index, compact_index, remove_from_index
from indexer.change import _Change
from tests.indexer.pictures import jpeg
from vector_index import Filter, IndexDirectory, IndexNotFound, UnknownId


class Counting:
    """The bundled encoder, counting what it encodes."""

    def __init__(self, encoder: DualEncoder) -> None:
        self._encoder = encoder
        self.pictures = self.captions = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._encoder, name)

    def encode_pixels(self, pixels: Any) -> Any:
        self.pictures += len(pixels)
        return self._encoder.encode_pixels(pixels)

    def encode_texts(self, texts: list[str]) -> Any:
        self.captions += len(texts)
        return self._encoder.encode_texts(texts)


def write_table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A table whose rows have the seed of their picture as `content`."""
    folder.mkdir(exist_ok=True)
    lines = []
    for row in rows:
        (folder / row["image"]).write_bytes(jpeg(row["content"]))
        lines.append(json.dumps({name: value for name, value in row.items() if name != "content"}))
    path = folder / "table.jsonl"
    path.write_text("\n".join(lines))
    return path


def content_of(index: Path) -> dict[str, Any]:
    """All that an index says, whatever order it is in."""
    with IndexDirectory(index).open() as snapshot:
        assert snapshot.verify() == []
        found: dict[str, Any] = {}
        for row in snapshot.images.live().tolist():
            item = snapshot.images.take([row]).to_pylist()[0]
            places = [item.pop("uri"), *item.pop("duplicate_uris")]
            vector = snapshot.images.vectors([row])[0].round(3).tolist()
            found[item["sha256"]] = {
                "places": sorted(set(places)), "captions": sorted(item.pop("captions")), "vector": vector,
                "thumbnail": snapshot.thumbnail(row), "id": item.pop("id"),
                "more": {
                    name: json.dumps(value) if isinstance(value, list) else value
                    for name, value in item.items() if value is not None
                },
            }  # fmt: skip
        texts = {}
        for row in snapshot.texts.live().tolist():
            text = snapshot.texts.take([row]).to_pylist()[0]
            vector = snapshot.texts.vectors([row])[0].round(3).tolist()
            texts[text["text"]] = (sorted(text["image_ids"]), vector)
        return {"pictures": found, "texts": texts}


PHASES = [Phase.explicit, Phase.generate]  # shrinking would take minutes
NAMES = [f"{letter}.jpg" for letter in "abcdef"]
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "image": st.sampled_from(NAMES),
            "content": st.integers(0, 7),
            "caption": st.lists(st.sampled_from(["one", "two", "three", "四"]), max_size=3),
            "year": st.sampled_from([1999, 2001, None]),
            "tags": st.sampled_from([["b", "a"], ["a"], [], None, "a"]),
        }
    ),
    min_size=1,
    max_size=6,
    unique_by=(lambda row: row["image"], lambda row: row["content"]),
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(first=ROWS, second=ROWS)
def test_adding_with_prune_is_building_anew(
    tmp_path_factory: pytest.TempPathFactory, encoder: DualEncoder, first: Any, second: Any
) -> None:
    folder = tmp_path_factory.mktemp("change")
    build_index(write_table(folder / "corpus", first), folder / "index", encoder)
    table = write_table(folder / "corpus", second)
    build_index(table, folder / "anew", encoder)
    counting = Counting(encoder)
    report = add_to_index(table, folder / "index", counting, prune=True)  # type: ignore[arg-type]
    changed, anew = content_of(folder / "index"), content_of(folder / "anew")
    for sha256, picture in anew["pictures"].items():  # a value that a table no longer has stays
        picture["more"] = {**changed["pictures"][sha256]["more"], **picture["more"]}
    assert changed == anew
    before = {row["content"] for row in first}
    assert counting.pictures == report.added == len({row["content"] for row in second} - before)
    said = {text for row in first for text in row["caption"]}
    assert counting.captions == len({text for row in second for text in row["caption"]} - said)
    again = add_to_index(table, folder / "index", counting, prune=True)  # type: ignore[arg-type]
    assert (again.snapshot, again.added, again.changed, again.removed) == (report.snapshot, 0, 0, 0)


def test_whoever_stops_does_not_wait_for_what_was_to_be_read(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.change.cores", lambda: 2)
    read: list[int] = []

    def slowly(number: int) -> bytes:
        time.sleep(0.05)
        read.append(number)
        return b""

    with IndexDirectory(index).open() as base:
        stream = _Change(base).fresh(Record(str(number), partial(slowly, number)) for number in range(99))
        next(stream)
        stream.close()
    assert len(read) < 32


def test_an_id_that_changed_is_told_of(tmp_path: Path, encoder: DualEncoder, caplog: pytest.LogCaptureFixture) -> None:
    row = {"image": "a.jpg", "content": 1, "id": "old"}
    build_index(write_table(tmp_path / "corpus", [row]), tmp_path / "index", encoder)
    for id in ("old", "new"):
        assert "keep the id" not in caplog.text
        add_to_index(write_table(tmp_path / "corpus", [{**row, "id": id}]), tmp_path / "index", encoder)
    assert "1 pictures keep the id that they have in the index, such as 'old', which is 'new' now" in caplog.text


def test_whole_addresses_are_pruned_where_there_is_one_corpus(tmp_path: Path, encoder: DualEncoder) -> None:
    rows = [{"image": f"{n}.jpg", "content": n} for n in range(2)]
    write_table(tmp_path / "elsewhere", rows)
    for number, name in enumerate(("one", "other")):
        (tmp_path / name).mkdir()
        for kept in (2, 1):
            lines = [json.dumps({"image": str(tmp_path / "elsewhere" / f"{n}.jpg")}) for n in range(kept)]
            (tmp_path / name / f"{kept}.jsonl").write_text("\n".join(lines))
        build_index(tmp_path / name / "2.jsonl", tmp_path / f"index{number}", encoder)
    add_to_index(write_table(tmp_path / "more", [{"image": "m.jpg", "content": 9}]), tmp_path / "index1", encoder)
    for number, (name, removed) in enumerate((("one", 1), ("other", 0))):
        report = add_to_index(tmp_path / name / "1.jsonl", tmp_path / f"index{number}", encoder, prune=True)
        assert report.removed == removed


def test_without_prune_what_is_gone_stays(tmp_path: Path, encoder: DualEncoder) -> None:
    first = write_table(tmp_path / "corpus", [{"image": "a.jpg", "content": 1, "caption": "one", "id": "A"}])
    build_index(first, tmp_path / "index", encoder)
    second = write_table(
        tmp_path / "corpus",
        [{"image": "b.jpg", "content": 2, "caption": ["two", "one"], "id": "B", "price": 1.5}],
    )
    report = add_to_index(second, tmp_path / "index", encoder)
    assert (report.added, report.changed, report.removed, report.unchanged) == (1, 0, 0, 1)
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        images, texts = snapshot.images, snapshot.texts
        assert images.take([images.row_of("A"), images.row_of("B")])["price"].to_pylist() == [None, 1.5]
        said = {t["text"]: t["image_ids"] for t in texts.take(texts.live()).to_pylist()}
        assert said == {"one": ["A", "B"], "two": ["B"]}


def test_an_id_with_other_bytes_takes_the_place_of_what_it_was(tmp_path: Path, encoder: DualEncoder) -> None:
    table = write_table(tmp_path / "corpus", [{"image": "a.jpg", "content": 1, "id": "A", "caption": "old"},
                                              {"image": "b.jpg", "content": 2, "id": "B", "caption": "kept"}])  # fmt: skip
    build_index(table, tmp_path / "index", encoder)
    table = write_table(tmp_path / "corpus", [{"image": "c.jpg", "content": 3, "id": "A", "caption": "new"}])
    report = add_to_index(table, tmp_path / "index", encoder)
    assert (report.added, report.removed) == (1, 1)
    content = content_of(tmp_path / "index")
    assert {p["id"]: p["places"] for p in content["pictures"].values()} == {"A": ["c.jpg"], "B": ["b.jpg"]}
    assert set(content["texts"]) == {"new", "kept"}


def test_a_corpus_from_elsewhere_keeps_its_place(tmp_path: Path, encoder: DualEncoder) -> None:
    build_index(write_table(tmp_path / "one", [{"image": "a.jpg", "content": 1}]), tmp_path / "index", encoder)
    add_to_index(write_table(tmp_path / "two", [{"image": "a.jpg", "content": 2}]), tmp_path / "index", encoder)
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        uris = snapshot.images.take(snapshot.images.live(), ["uri"])["uri"].to_pylist()
        assert sorted(uris) == sorted(["a.jpg", str(tmp_path / "two" / "a.jpg")])
        assert snapshot.manifest.sources == [str(tmp_path / "two")]


def test_rejects_are_told_and_forgotten(tmp_path: Path, encoder: DualEncoder) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "good.jpg").write_bytes(jpeg(1))
    (folder / "bad.jpg").write_text("no picture")
    build_index(folder, tmp_path / "index", encoder)
    (folder / "bad.jpg").write_bytes(jpeg(2))
    (folder / "worse.jpg").write_text("no picture either")
    report = add_to_index(folder, tmp_path / "index", encoder)
    assert (report.added, report.rejected) == (1, 1)
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        [line] = (snapshot.path / "rejects.jsonl").read_text().splitlines()
        assert json.loads(line)["uri"] == "worse.jpg"
    again = add_to_index(folder, tmp_path / "index", encoder)
    assert (again.snapshot, again.rejected) == (report.snapshot, 1)  # it is known to be bad: nothing has changed
    (folder / "worse.jpg").write_bytes(jpeg(1))
    (folder / "worst.jpg").write_text("nor this")
    add_to_index(folder, tmp_path / "index", encoder)
    (folder / "worst.jpg").unlink()
    add_to_index(folder, tmp_path / "index", encoder, prune=True)
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        assert list(snapshot.rejects()) == []


def test_what_cannot_be_looked_at_is_not_pruned(tmp_path: Path, encoder: DualEncoder) -> None:
    for seed, name in enumerate(("a", "b", "gone")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            info = tarfile.TarInfo(f"{name}.jpg")
            info.size = len(jpeg(seed))
            tar.addfile(info, io.BytesIO(jpeg(seed)))
    build_index(tmp_path, tmp_path / "index", encoder)
    (tmp_path / "b.tar").write_bytes(b"")
    (tmp_path / "gone.tar").unlink()
    report = add_to_index(tmp_path, tmp_path / "index", encoder, prune=True)
    assert (report.removed, report.unchanged, report.rejected) == (1, 2, 1)


def test_removing_by_id_and_by_filter_and_compacting(tmp_path: Path, encoder: DualEncoder) -> None:
    rows = [{"image": f"{n}.jpg", "content": n, "id": f"p{n}", "caption": ["all", f"only {n}"], "year": 1990 + n}
            for n in range(12)]  # fmt: skip
    index = tmp_path / "index"
    build_index(write_table(tmp_path / "corpus", rows), index, encoder, memory=10**6, target_latency_ms=5.0)
    report = remove_from_index(index, lambda snapshot: [snapshot.images.row_of("p3")])
    assert (report.removed, report.unchanged) == (1, 11)
    where = {"year": {"$gte": 2000}}
    remove_from_index(index, lambda s: s.images.live(Filter.parse(where, s.images.schema)).tolist())
    compact_index(index)
    with IndexDirectory(index).open() as snapshot:
        assert (snapshot.manifest.memory, snapshot.manifest.target_latency_ms) == (10**6, 5.0)  # are not forgotten
        assert snapshot.verify() == []
        left = [f"p{n}" for n in range(10) if n != 3]
        assert snapshot.images.take(range(9), ["id"])["id"].to_pylist() == left
        texts = {t["text"]: t["image_ids"] for t in snapshot.texts.take(snapshot.texts.live()).to_pylist()}
        assert texts == {"all": left, **{f"only {id[1:]}": [id] for id in left}}
        with pytest.raises(UnknownId):
            snapshot.images.row_of("p11")
    with pytest.raises(UnknownId, match="'p3'"):
        remove_from_index(index, lambda snapshot: [snapshot.images.row_of("p3")])
    with pytest.raises(ValueError, match="no pictures"):
        remove_from_index(index, lambda snapshot: snapshot.images.live().tolist())
    assert len(IndexDirectory(index).names()) == 4


def test_an_interrupted_addition_goes_on(tmp_path: Path, encoder: DualEncoder) -> None:
    rows = [{"image": f"{n}.jpg", "content": n, "caption": f"picture {n}"} for n in range(9)]
    build_index(write_table(tmp_path / "corpus", rows[:2]), tmp_path / "index", encoder)
    table = write_table(tmp_path / "corpus", rows)

    class Breaks(Counting):
        def encode_pixels(self, pixels: Any) -> Any:
            if self.pictures >= 4:
                raise KeyboardInterrupt
            return super().encode_pixels(pixels)

    with pytest.raises(KeyboardInterrupt):
        add_to_index(table, tmp_path / "index", Breaks(encoder), part_size=2, batch_size=2)  # type: ignore[arg-type]
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        assert len(snapshot.images) == 2
    assert "arithmetic" in json.loads((tmp_path / "index" / ".build" / "plan.json").read_text())
    counting = Counting(encoder)
    report = add_to_index(table, tmp_path / "index", counting, part_size=2, batch_size=2)  # type: ignore[arg-type]
    assert (report.added, counting.pictures) == (7, 3)
    build_index(table, tmp_path / "anew", encoder)
    assert content_of(tmp_path / "index") == content_of(tmp_path / "anew")


def test_what_cannot_be_changed(tmp_path: Path, encoder: DualEncoder) -> None:
    table = write_table(tmp_path / "corpus", [{"image": "a.jpg", "content": 1}])
    with pytest.raises(IndexNotFound):
        add_to_index(table, tmp_path / "nowhere", encoder)
    assert not (tmp_path / "nowhere").exists()
    build_index(table, tmp_path / "index", encoder)
    other = Counting(encoder)
    other.fingerprint = "f00d"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="another model"):
        add_to_index(table, tmp_path / "index", other)  # type: ignore[arg-type]


def test_what_several_rows_say_of_a_picture_stays(tmp_path: Path, encoder: DualEncoder) -> None:
    rows = [{"image": "a.jpg", "content": 1, "caption": ["one", "two"], "year": 1999},
            {"image": "b.jpg", "content": 1, "caption": "one"},
            {"image": "a.jpg", "content": 1, "caption": "one", "year": 2001}]  # fmt: skip
    table = write_table(tmp_path / "corpus", rows)
    built = build_index(table, tmp_path / "index", encoder)
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        assert snapshot.images.take([0])["duplicate_uris"].to_pylist() == [["b.jpg"]]
    report = add_to_index(table, tmp_path / "index", encoder, prune=True)
    assert (report.changed, report.snapshot) == (0, built.snapshot)
    table = write_table(tmp_path / "corpus", [*rows, {"image": "a.jpg", "content": 1, "caption": "three"}])
    assert add_to_index(table, tmp_path / "index", encoder, prune=True).changed == 1
    build_index(table, tmp_path / "anew", encoder)
    assert content_of(tmp_path / "index") == content_of(tmp_path / "anew")
