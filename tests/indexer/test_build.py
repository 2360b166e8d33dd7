"""Building: duplicates, rejects, metadata, and builds that are killed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from corpus import SourceError, files
from dual_encoder import DualEncoder
from indexer import build_index
from tests.indexer.pictures import jpeg
from vector_index import BadIndexType, IndexDirectory, IndexLocked, Snapshot


def corpus(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number:04d}.jpg").write_bytes(jpeg(number))
    return folder


class Counting:
    """The bundled encoder, counting what it encodes."""

    def __init__(self, encoder: DualEncoder) -> None:
        self._encoder = encoder
        self.encoded = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._encoder, name)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        self.encoded += len(pixels)
        return self._encoder.encode_pixels(pixels)


def assert_same(a: Snapshot, b: Snapshot) -> None:
    for left, right in ((a.images, b.images), (a.texts, b.texts)):
        rows = np.arange(len(left))
        assert left.take(rows).equals(right.take(rows))
        np.testing.assert_array_equal(left.vectors(rows), right.vectors(rows))


def test_a_folder_with_everything_wrong_in_it(tmp_path: Path, encoder: DualEncoder) -> None:
    folder = corpus(tmp_path / "corpus", 5)
    (folder / "deep").mkdir()
    (folder / "deep" / "copy.jpg").write_bytes(jpeg(3))
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("hello")
    (folder / "cut.jpg").write_bytes(jpeg(9, (400, 400))[:3000])
    (folder / "notes.txt").write_text("not a picture at all")
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    report = build_index(folder, tmp_path / "index", encoder)
    assert (report.images, report.duplicates, report.rejected) == (5, 1, 3)
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        assert snapshot.verify() == []
        table = snapshot.images.take(np.arange(5)).to_pydict()
        assert table["uri"] == [f"{n:04d}.jpg" for n in range(5)]
        assert table["duplicate_uris"][3] == ["deep/copy.jpg"]
        assert (table["width"][0], table["height"][0]) == (40, 60)
        rejects = [json.loads(line) for line in (snapshot.path / "rejects.jsonl").read_text().splitlines()]
        assert {r["uri"] for r in rejects} == {"empty.png", "text.jpg", "cut.jpg"}
        assert all(r["reason"] for r in rejects)
        assert Image.open(io.BytesIO(snapshot.thumbnail(0) or b"")).size == (40, 60)
    assert not (tmp_path / "index" / ".build").exists()


def test_vectors_are_the_encoders(tmp_path: Path, encoder: DualEncoder) -> None:
    folder = corpus(tmp_path / "corpus", 7)
    build_index(folder, tmp_path / "index", encoder, batch_size=3, part_size=4)
    images = [Image.open(path).convert("RGB") for path in sorted(folder.iterdir())]
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        assert (snapshot.images.vectors(np.arange(7)) * encoder.encode_images(images)).sum(1).min() > 0.999


def test_a_table_with_metadata_and_captions(tmp_path: Path, encoder: DualEncoder) -> None:
    corpus(tmp_path / "images", 3)
    (tmp_path / "table.csv").write_text(
        "image,caption,id,year,price,new,size,width\n"
        'images/0000.jpg,"[""one"",""eins""]",a,1999,1.5,true,big,3\n'
        "images/0001.jpg,two,b,2001,2,false,7,4\n"
        "images/0002.jpg,one,a,2002,3,true,,5\n"
        f"images/0001.jpg,{'x' * 10_001},,,,,,\n"
        "images/missing.jpg,lost,d,,,,,\n"
    )
    report = build_index(tmp_path / "table.csv", tmp_path / "index", encoder)
    assert (report.images, report.texts, report.rejected, report.duplicates) == (2, 3, 2, 1)
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        rows = snapshot.images.take([0, 1]).to_pylist()
        assert [r["id"] for r in rows] == ["a", "b"]
        assert [r["year"] for r in rows] == [1999, 2001]
        assert [r["price"] for r in rows] == [1.5, 2.0]
        assert [r["new"] for r in rows] == [True, False]
        assert [r["size"] for r in rows] == ["big", "7"]
        assert [r["meta_width"] for r in rows] == [3, 4]
        assert rows[0]["captions"] == ["one", "eins"]
        texts = {t["text"]: t["image_ids"] for t in snapshot.texts.take([0, 1, 2]).to_pylist()}
        assert texts == {"one": ["a"], "eins": ["a"], "two": ["b"]}
        reasons = (snapshot.path / "rejects.jsonl").read_text()
        for words in ("10,001 characters", "missing.jpg", "belongs to another"):
            assert words in reasons


@pytest.mark.parametrize("killed_after", [1, 3])
def test_an_interrupted_build_resumes_to_the_same(tmp_path: Path, encoder: DualEncoder, killed_after: int) -> None:
    folder = corpus(tmp_path / "corpus", 40)
    (folder / "0033.jpg").write_bytes(jpeg(2))
    build_index(folder, tmp_path / "whole", encoder, part_size=8, batch_size=4)

    class Killed(BaseException):
        pass

    first = Counting(encoder)

    def kill(_: object) -> None:
        if len(list((tmp_path / "index" / ".build").glob("part-*.arrow"))) == killed_after:
            raise Killed

    with pytest.raises(Killed):
        build_index(folder, tmp_path / "index", first, part_size=8, batch_size=4, progress=kill)  # type: ignore[arg-type]
    assert IndexDirectory(tmp_path / "index").current() is None
    second = Counting(encoder)
    report = build_index(folder, tmp_path / "index", second, part_size=8, batch_size=4)  # type: ignore[arg-type]
    assert report.resumed_parts == killed_after
    assert first.encoded + second.encoded == 39
    with IndexDirectory(tmp_path / "whole").open() as a, IndexDirectory(tmp_path / "index").open() as b:
        assert_same(a, b)


def test_parts_of_another_precision_are_not_taken_over(tmp_path: Path, encoder: DualEncoder) -> None:
    folder = corpus(tmp_path / "corpus", 6)

    class Coarse(Counting):
        runtime = SimpleNamespace(name=encoder.runtime.name, precision="int8")

        def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
            if self.encoded >= 2:
                raise KeyboardInterrupt
            return super().encode_pixels(pixels)

    with pytest.raises(KeyboardInterrupt):
        build_index(folder, tmp_path / "index", Coarse(encoder), part_size=2, batch_size=2)  # type: ignore[arg-type]
    assert len(list((tmp_path / "index" / ".build").glob("part-*.arrow"))) == 1
    assert build_index(folder, tmp_path / "index", encoder, part_size=2, batch_size=2).resumed_parts == 0


def test_sigkill(tmp_path: Path, encoder: DualEncoder, scenes: Path) -> None:
    whole, index = tmp_path / "whole", tmp_path / "index"
    build_index(scenes, whole, encoder, part_size=8)
    code = (
        "import pathlib, sys, time; from dual_encoder import load_encoder; from indexer import build_index\n"
        "there = lambda: len(list(pathlib.Path(sys.argv[2], '.build').glob('part-*.arrow')))\n"
        "wait = lambda progress: time.sleep(60 if there() >= 3 else 0)\n"
        "build_index(sys.argv[1], sys.argv[2], load_encoder('tiny'), part_size=8, progress=wait)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(scenes), str(index)])
    deadline = time.monotonic() + 60
    while len(list((index / ".build").glob("part-*.arrow"))) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    with pytest.raises(IndexLocked, match=str(process.pid)):
        build_index(scenes, index, encoder, part_size=8)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert build_index(scenes, index, encoder, part_size=8).resumed_parts >= 3
    with IndexDirectory(whole).open() as a, IndexDirectory(index).open() as b:
        assert b.verify() == []
        assert_same(a, b)


def test_a_changed_file_is_encoded_again(tmp_path: Path, encoder: DualEncoder) -> None:
    folder = corpus(tmp_path / "corpus", 20)

    class Stop(Exception):
        pass

    def stop(_: object) -> None:
        if len(list((tmp_path / "index" / ".build").glob("part-*.arrow"))) == 2:
            raise Stop

    with pytest.raises(Stop):
        build_index(folder, tmp_path / "index", encoder, part_size=8, progress=stop)
    (folder / "0010.jpg").write_bytes(jpeg(77, (30, 30)))
    report = build_index(folder, tmp_path / "index", encoder, part_size=8)
    assert report.resumed_parts == 1
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        assert snapshot.images.take([10]).to_pylist()[0]["width"] == 30


def test_nothing_usable_leaves_the_old_snapshot(tmp_path: Path, encoder: DualEncoder) -> None:
    index = tmp_path / "index"
    first = build_index(corpus(tmp_path / "good", 2), index, encoder).snapshot
    bad = tmp_path / "bad"
    bad.mkdir()
    with pytest.raises(SourceError, match="no pictures"):
        build_index(bad, index, encoder)
    (bad / "a.jpg").write_text("no picture")
    with pytest.raises(SourceError, match=r"1 rejected.*a\.jpg.*not an image"):
        build_index(bad, index, encoder)
    assert IndexDirectory(index).current() == first


@pytest.fixture
def elsewhere() -> Iterator[Any]:
    """fsspec's filesystem in memory, empty."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


@pytest.mark.parametrize("kind", ["folder", "table", "shards"])
def test_a_corpus_elsewhere_can_be_read_again(tmp_path: Path, encoder: DualEncoder, elsewhere: Any, kind: str) -> None:
    names = [f"{number}.jpg" for number in range(3)]
    if kind == "shards":
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for number, name in enumerate(names):
                info = tarfile.TarInfo(name)
                info.size = len(jpeg(number))
                tar.addfile(info, io.BytesIO(jpeg(number)))
        elsewhere.pipe("/bucket/c/0.tar", out.getvalue())
    else:
        elsewhere.pipe({f"/bucket/c/{name}": jpeg(number) for number, name in enumerate(names)})
    if kind == "table":
        elsewhere.pipe("/bucket/c/t.csv", "\n".join(["image", *names]).encode())
    source = "memory://bucket/c" + ("/t.csv" if kind == "table" else "")
    assert build_index(source, tmp_path / "index", encoder).images == 3
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        assert snapshot.manifest.source == "memory://bucket/c"
        for number, row in enumerate(snapshot.images.take([0, 1, 2]).to_pylist()):
            data = files.read(snapshot.manifest.source, row["uri"], row["offset"], row["length"])
            assert data == jpeg(number)


def test_a_changed_file_elsewhere_is_encoded_again(tmp_path: Path, encoder: DualEncoder, elsewhere: Any) -> None:
    elsewhere.pipe({f"/c/{number:02}.jpg": jpeg(number) for number in range(20)})

    class Stop(Exception):
        pass

    def stop(_: object) -> None:
        if len(list((tmp_path / "index" / ".build").glob("part-*.arrow"))) == 2:
            raise Stop

    with pytest.raises(Stop):
        build_index("memory://c", tmp_path / "index", encoder, part_size=8, progress=stop)
    elsewhere.pipe("/c/10.jpg", jpeg(77, (30, 30)))
    assert build_index("memory://c", tmp_path / "index", encoder, part_size=8).resumed_parts == 1
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        assert snapshot.images.take([10]).to_pylist()[0]["width"] == 30


def test_an_index_type_that_cannot_be_is_refused_before_anything_is_encoded(
    tmp_path: Path, scenes: Path, encoder: DualEncoder
) -> None:
    with pytest.raises(BadIndexType, match=r"'Nonsense': FAISS cannot make it at dim 256 \(could not parse"):
        build_index(scenes, tmp_path / "index", encoder, index_type="Nonsense")
    assert not (tmp_path / "index").exists()


def test_a_corpus_without_captions_is_measured_with_bundled_queries(
    tmp_path: Path, scenes: Path, encoder: DualEncoder
) -> None:
    build_index(scenes.parent / "images", tmp_path, encoder, index_type="HNSW8", thumbnails=False)
    with IndexDirectory(tmp_path).open() as snapshot:
        assert len(snapshot.texts) == 0
        stamp = snapshot.manifest.images.index
    assert set(stamp.queries) == {"images", "texts"}
    assert stamp.queries["texts"].curve
