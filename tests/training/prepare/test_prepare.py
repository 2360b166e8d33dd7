"""From a source to prepared data, end to end."""

from __future__ import annotations

import filecmp
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from corpus import Source, open_source
from dual_encoder import DualEncoder
from training.prepare import Options, PrepareError, prepare_pairs

ONE = Options(splits="train=1")
Table = Callable[[list[tuple[bytes | None, dict[str, Any]]]], Path]
Picture = Callable[..., bytes]
Read = Callable[[Path], dict[str, list[dict[str, Any]]]]
Lines = Callable[[Path], list[dict[str, Any]]]


def jpeg(data: bytes, quality: int = 60) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(out, "JPEG", quality=quality)
    return out.getvalue()


def step(report: dict[str, Any], name: str) -> tuple[int, int]:
    row = next(row for row in report["steps"] if row["step"] == name)
    return row["pictures"], row["captions"]


def test_every_step_leaves_its_line(tmp_path: Path, table: Table, picture: Picture, read: Read, rejects: Lines) -> None:
    good = [picture(i) for i in range(6)]
    source = table(
        [
            *((data, {"caption": [f"scenery number {i}", f"第{i}张图片里的颜色"], "licence": "by"}) for i, data in enumerate(good)),
            (good[0], {"caption": ["another caption", "scenery number 0"]}),  # the same bytes
            (jpeg(good[1]), {"caption": "nearly the same picture"}),
            (None, {"caption": "a picture that is not there"}),
            (good[2][:300], {"caption": "half a picture"}),
            (picture(20, 30, 30), {"caption": "a small picture"}),
            (picture(21, 900, 100), {"caption": "a wide picture"}),
            (picture(22), {"caption": "IMG_1234.jpg"}),
            (picture(23), {"caption": "{'not': 'text'}"}),
            (picture(24), {"caption": None}),
            (picture(25), {"caption": ["untitled", "a good one", "a good one"]}),
        ]
    )  # fmt: skip
    summary = prepare_pairs(source, tmp_path / "data", ONE)
    rows = read(tmp_path / "data")["train"]
    lines = rejects(tmp_path / "data")
    assert {row["image"] for row in rows} == {*good, picture(25)}
    first = next(row for row in rows if row["image"] == good[0])
    assert first["captions"] == ["scenery number 0", "第0张图片里的颜色", "another caption"]
    assert first["languages"] == ["en", "zh", "en"]
    assert [(line["step"], line["uri"]) for line in lines if line["what"] == "picture"] == [
        ("exact duplicate", "006.png"), ("unreadable", "008.png"), ("unreadable", "009.png"), ("too small", "010.png"),
        ("aspect ratio", "011.png"), ("no caption", "012.png"), ("no caption", "013.png"), ("no caption", "014.png"),
        ("near duplicate", "007.png"),
    ]  # fmt: skip
    assert [(line["step"], line["captions"]) for line in lines if line["what"] == "caption"] == [
        ("boilerplate", ["IMG_1234.jpg"]), ("caption not text", ["{'not': 'text'}"]), ("boilerplate", ["untitled"]),
        ("caption twice", ["a good one"]),
    ]  # fmt: skip
    assert lines[-1]["captions"] == ["nearly the same picture"]
    assert "001.png" in lines[-1]["reason"]

    # What was read is what stays plus what was left out, step by step.
    report = json.loads((tmp_path / "data" / "report.json").read_text("utf-8"))
    last = report["steps"][-1]
    assert (last["pictures_left"], last["captions_left"]) == (len(rows), sum(len(row["captions"]) for row in rows))
    assert (report["records"], summary.records, summary.pairs) == (16, 16, 7)
    assert step(report, "exact duplicate") == (1, 1)
    assert step(report, "near duplicate") == (1, 1)


def test_what_lies_in_a_shard(tmp_path: Path, table: Table, picture: Picture) -> None:
    source = table([(picture(1), {"caption": "a caption", "id": "x", "licence": "by", "uri": "hidden", "n": 5})])
    prepare_pairs(source, tmp_path / "data", ONE)
    with tarfile.open(tmp_path / "data" / "train-00000.tar", "r:") as tar:
        contents = {Path(m.name).suffix: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    assert contents[".png"] == picture(1)
    assert contents[".txt"] == b"a caption"
    facts = json.loads(contents[".json"])
    assert facts["captions"] == ["a caption"]
    assert (facts["uri"], facts["licence"], facts["n"]) == ("000.png", "by", 5)
    assert len(facts["sha256"]) == 64


def test_the_same_bytes_whatever_the_threads(tmp_path: Path, table: Table, picture: Picture) -> None:
    rows = [(picture(i % 30), {"caption": [f"scenery number {i}", "untitled"]}) for i in range(40)]
    source = table([*rows, (b"broken", {"caption": "a broken picture"})])
    options = Options(shard_size=7, splits="train=0.7,test=0.3", near_duplicates="group")
    prepare_pairs(source, tmp_path / "a", options, workers=1)
    prepare_pairs(source, tmp_path / "b", options, workers=5)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False) == (names, [], [])
    assert not any(name.startswith(".") for name in names)


@pytest.mark.parametrize("way", ["drop", "group", "keep", "off"])
def test_near_duplicates(tmp_path: Path, table: Table, picture: Picture, read: Read, way: str) -> None:
    rows = []
    for i in range(12):
        rows += [(picture(i), {"caption": f"scenery number {i}"}), (jpeg(picture(i)), {"caption": f"again number {i}"})]
    options = Options(near_duplicates=way, splits="train=0.5,test=0.5")
    prepare_pairs(table(rows), tmp_path / "data", options)
    found = read(tmp_path / "data")
    numbers = {name: [row["captions"][0].split()[-1] for row in several] for name, several in found.items()}
    groups = [row["group"] for several in found.values() for row in several]
    assert len(groups) == (12 if way == "drop" else 24)
    assert len(set(groups)) == (24 if way in ("keep", "off") else 12)
    if way != "off":  # a picture and its near duplicate lie in one split
        assert not set(numbers["train"]) & set(numbers["test"])


def test_steps_switch_off(tmp_path: Path, table: Table, picture: Picture, read: Read) -> None:
    rows = [
        (picture(1), {"caption": "one thing"}),
        (picture(1), {"caption": "another"}),
        (picture(2, 5, 50), {"caption": "x"}),
    ]
    options = Options(
        splits="train=1", exact_duplicates=False, near_duplicates="off", min_side=0, max_aspect=0, min_caption=0
    )
    prepare_pairs(table(rows), tmp_path / "data", options)
    found = read(tmp_path / "data")["train"]
    assert len(found) == len({row["key"] for row in found}) == 3
    assert len({row["group"] for row in found}) == 2  # the same bytes are never each other's negatives


def test_repeated_captions(tmp_path: Path, table: Table, picture: Picture, read: Read, rejects: Lines) -> None:
    rows = [(picture(i), {"caption": ["our summer sale"] + ([f"scenery number {i}"] if i else [])}) for i in range(10)]
    prepare_pairs(table(rows), tmp_path / "data", Options(splits="train=1", max_caption_share=0.5))
    assert {c for row in read(tmp_path / "data")["train"] for c in row["captions"]} == {
        f"scenery number {i}" for i in range(1, 10)
    }
    lines = rejects(tmp_path / "data")
    assert [line["step"] for line in lines] == ["repeated caption"] * 11
    assert lines[1] == {**lines[1], "what": "picture", "uri": "000.png"}


def test_sidecar_captions(tmp_path: Path, picture: Picture, read: Read) -> None:
    folder = tmp_path / "folder" / "deep"
    folder.mkdir(parents=True)
    for i, suffix in enumerate((".txt", ".caption")):
        (folder / f"{i}.png").write_bytes(picture(i))
        (folder / f"{i}{suffix}").write_text(f"scenery number {i}\n另一个说明{i}\n", "utf-8")
    (folder / "2.png").write_bytes(picture(2))
    prepare_pairs(tmp_path / "folder", tmp_path / "data", ONE)
    captions = sorted(row["captions"] for row in read(tmp_path / "data")["train"])
    assert captions == [[f"scenery number {i}", f"另一个说明{i}"] for i in range(2)]


def test_prepared_data_are_a_source_again(tmp_path: Path, table: Table, picture: Picture, read: Read) -> None:
    rows = [
        (picture(i), {"caption": [f"scenery number {i}", f"图片 {i} 号"], "language": ["xx", "zh"]}) for i in range(5)
    ]
    prepare_pairs(table(rows), tmp_path / "a", ONE)
    prepare_pairs(tmp_path / "a", tmp_path / "b", ONE)
    before, after = (read(tmp_path / name)["train"] for name in "ab")
    for column in ("key", "captions", "languages", "group", "image"):
        assert [row[column] for row in before] == [row[column] for row in after]
    assert {record.captions[0] for record in open_source(tmp_path / "b").records()} == {
        f"scenery number {i}" for i in range(5)
    }


def split_rows(picture: Picture) -> list[tuple[bytes | None, dict[str, Any]]]:
    rows: list[tuple[bytes | None, dict[str, Any]]] = [
        (picture(i), {"caption": f"scenery number {i}", "split": "test" if i < 2 else "train"}) for i in range(8)
    ]
    return rows


def test_splits_of_the_source(tmp_path: Path, table: Table, picture: Picture, read: Read, rejects: Lines) -> None:
    rows = [
        *split_rows(picture), (picture(50), {"caption": "in no split"}), (picture(51), {"caption": "strange", "split": "../x"}),
        (jpeg(picture(0)), {"caption": "near a test picture"}),
    ]  # fmt: skip
    options = Options(honour_split=True, splits="train=1", near_duplicates="group")
    prepare_pairs(table(rows), tmp_path / "data", options)
    found = read(tmp_path / "data")
    assert sorted(row["captions"][0] for row in found["test"]) == [
        "near a test picture",
        "scenery number 0",
        "scenery number 1",
    ]
    assert len(found["train"]) == 7
    assert [line["step"] for line in rejects(tmp_path / "data")] == ["split"]


@pytest.mark.parametrize("way", ["drop", "keep", "off"])
def test_the_same_bytes_with_a_split_and_without(
    tmp_path: Path, table: Table, picture: Picture, read: Read, rejects: Lines, way: str
) -> None:
    captions = ["first without", "second without", "one of the test", "last without"]
    rows = [(picture(0), {"caption": text, **({"split": "test"} if "test" in text else {})}) for text in captions]
    prepare_pairs(table(rows), tmp_path / "data", Options(honour_split=True, splits="train=1", near_duplicates=way))
    (pair,) = read(tmp_path / "data")["test"]
    assert sorted(pair["captions"]) == sorted(captions)
    assert [line["step"] for line in rejects(tmp_path / "data")] == ["exact duplicate"] * 3


@pytest.mark.parametrize("copy", [lambda data: data, jpeg], ids=["same", "near"])
@pytest.mark.parametrize("way", ["drop", "group", "keep"])
def test_leakage(
    tmp_path: Path, table: Table, picture: Picture, read: Read, rejects: Lines, copy: Callable[[bytes], bytes], way: str
) -> None:
    rows = [*split_rows(picture), (copy(picture(0)), {"caption": "a leak", "split": "train"})]
    source = table(rows)
    options: dict[str, Any] = {"honour_split": True, "near_duplicates": way}
    with pytest.raises(PrepareError, match=r"2 pictures are in more than one split, such as 008\.png \(train\)"):
        prepare_pairs(source, tmp_path / "data", Options(**options))
    assert not (tmp_path / "data").exists()

    prepare_pairs(source, tmp_path / "dropped", Options(**options, leakage="drop"))
    found = read(tmp_path / "dropped")
    assert (len(found["train"]), len(found["test"])) == (6, 2)
    assert [(line["step"], line["uri"]) for line in rejects(tmp_path / "dropped")] == [("leakage", "008.png")]

    allowed = prepare_pairs(source, tmp_path / "allowed", Options(**options, leakage="allow"))
    found = read(tmp_path / "allowed")
    assert (len(found["train"]), len(found["test"]), allowed.leaking) == (7, 2, 2)


def test_leakage_into_other_data(tmp_path: Path, table: Table, picture: Picture, read: Read) -> None:
    prepare_pairs(table([(picture(i), {"caption": f"scenery number {i}"}) for i in range(3)]), tmp_path / "test", ONE)
    rows = [(picture(i) if i != 1 else jpeg(picture(i)), {"caption": f"new {i} thing"}) for i in range(1, 6)]
    source = table(rows)
    options = {"splits": "train=1", "against": (str(tmp_path / "test"),)}
    with pytest.raises(PrepareError, match=r"2 pictures .* test/train: "):
        prepare_pairs(source, tmp_path / "data", Options(**options))
    prepare_pairs(source, tmp_path / "data", Options(**options, leakage="drop"))
    assert sorted(row["captions"][0] for row in read(tmp_path / "data")["train"]) == [
        f"new {i} thing" for i in (3, 4, 5)
    ]


def test_cosines(tmp_path: Path, scenes: Path, encoder: DualEncoder, read: Read, rejects: Lines) -> None:
    rows = [json.loads(line) for line in scenes.read_text("utf-8").splitlines()[:20]]
    lines = [{"image": r["image"], "caption": [r["caption"][0], rows[i - 7]["caption"][0]]} for i, r in enumerate(rows)]
    source = scenes.parent / "mixed.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    options = Options(splits="train=1", model="tiny", min_cosine=0.5, near_cosine=0.9999)
    prepare_pairs(source, tmp_path / "data", options, encoder=encoder)
    found = read(tmp_path / "data")["train"]
    right = sum(
        row["captions"] == [line["caption"][0]] for row in found for line in lines if line["image"] == row["uri"]
    )
    assert right >= 15
    low = [line for line in rejects(tmp_path / "data") if line["what"] == "caption"]
    assert len(low) >= 15
    assert all(float(line["reason"].split()[1].rstrip(",")) < 0.5 for line in low)
    report = json.loads((tmp_path / "data" / "report.json").read_text("utf-8"))
    assert sum(report["histograms"]["cosine"]["counts"]) == 40

    # Without the search by embedding, the same cosines come out.
    prepare_pairs(source, tmp_path / "again", Options(splits="train=1", model="tiny", min_cosine=0.5), encoder=encoder)
    assert [r["captions"] for r in read(tmp_path / "again")["train"]] == [r["captions"] for r in found]


def test_near_by_embedding(tmp_path: Path, scenes: Path, encoder: DualEncoder, rejects: Lines) -> None:
    row = json.loads(scenes.read_text("utf-8").splitlines()[0])
    with Image.open(scenes.parent / row["image"]) as image:
        cropped = image.crop((6, 6, image.width - 6, image.height - 6))
    folder = tmp_path / "crops"
    folder.mkdir()
    (folder / "a.jpg").write_bytes((scenes.parent / row["image"]).read_bytes())
    cropped.save(folder / "b.jpg")
    for name in "ab":
        (folder / f"{name}.txt").write_text(f"a scene called {name}")
    plain = prepare_pairs(folder, tmp_path / "plain", Options(splits="train=1", near_radius=0))
    assert plain.pairs == 2
    options = Options(splits="train=1", near_radius=0, model="tiny", near_cosine=0.8)
    assert prepare_pairs(folder, tmp_path / "data", options, encoder=encoder).pairs == 1
    assert rejects(tmp_path / "data")[0]["step"] == "near duplicate"


def test_resized_pictures(tmp_path: Path, table: Table, picture: Picture, read: Read) -> None:
    rows = [(picture(1, 400, 300), {"caption": "a large picture"}), (picture(2), {"caption": "a small picture"})]
    prepare_pairs(table(rows), tmp_path / "data", Options(splits="train=1", max_side=128))
    images = {row["captions"][0]: row["image"] for row in read(tmp_path / "data")["train"]}
    assert images["a small picture"] == picture(2)
    with Image.open(io.BytesIO(images["a large picture"])) as image:
        assert (image.size, image.format) == ((128, 96), "JPEG")


def test_a_picture_that_vanishes(
    tmp_path: Path, picture: Picture, read: Read, rejects: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(picture(i))
        (folder / f"{i}.txt").write_text(f"scenery number {i}")

    def list_then_lose(path: Path, captions: None) -> Source:
        source = open_source(path, captions)
        listed = list(source.records())
        (folder / "1.png").unlink()
        return Source(source.root, lambda: iter(listed), source.count)

    monkeypatch.setattr("training.prepare.prepare.open_source", list_then_lose)
    prepare_pairs(folder, tmp_path / "data", ONE)
    assert len(read(tmp_path / "data")["train"]) == 2
    assert [(line["step"], line["uri"]) for line in rejects(tmp_path / "data")] == [("unreadable", "1.png")]


def test_a_folder_elsewhere(tmp_path: Path, picture: Picture, read: Read) -> None:
    store = fsspec.filesystem("memory")
    for i in range(2):
        store.pipe(f"/prepare/deep/{i}.png", picture(i))
        store.pipe(f"/prepare/deep/{i}.txt", f"scenery number {i}".encode())
    try:
        prepare_pairs("memory://prepare", tmp_path / "data", ONE)
    finally:
        store.rm("/prepare", recursive=True)
    rows = read(tmp_path / "data")["train"]
    assert sorted((row["uri"], row["captions"]) for row in rows) == [
        (f"deep/{i}.png", [f"scenery number {i}"]) for i in range(2)
    ]


def test_a_shard_cut_in_half(tmp_path: Path, table: Table, picture: Picture, read: Read, rejects: Lines) -> None:
    prepare_pairs(table([(picture(i), {"caption": f"scenery number {i}"}) for i in range(8)]), tmp_path / "a", ONE)
    shard = tmp_path / "a" / "train-00000.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    prepare_pairs(tmp_path / "a", tmp_path / "b", ONE)
    assert 1 <= len(read(tmp_path / "b")["train"]) < 8
    assert "cut short" in " ".join(line["reason"] for line in rejects(tmp_path / "b") if line["step"] == "unreadable")


def test_nothing_left(tmp_path: Path, table: Table, picture: Picture) -> None:
    source = table([(picture(1), {"caption": "untitled"}), (None, {"caption": "not there"})])
    with pytest.raises(
        PrepareError, match=r"nothing is left of 2 pictures, 2 rejected; the first: 000\.png: a file name"
    ):
        prepare_pairs(source, tmp_path / "data", ONE)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("when", ["reading pictures", "writing shards"])
def test_interrupted(tmp_path: Path, table: Table, picture: Picture, when: str) -> None:
    @contextmanager
    def stages(name: str) -> Iterator[Callable[[int, int | None], None]]:
        def report(done: int, total: int | None) -> None:
            if name == when and done == 3:
                raise KeyboardInterrupt

        yield report

    source = table([(picture(i), {"caption": f"scenery number {i}"}) for i in range(6)])
    with pytest.raises(KeyboardInterrupt):
        prepare_pairs(source, tmp_path / "data", ONE, stages=stages)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min_cosine": 0.2}, "min_cosine needs a model"), ({"near_cosine": 0.9}, "near_cosine needs a model"),
        ({"near_duplicates": "maybe"}, "near_duplicates 'maybe'"), ({"splits": "half"}, None), ({"splits": "a=1,b=1"}, "add up"),
        ({"max_aspect": 0.5}, "max_aspect"), ({"leakage": "x"}, "leakage"), ({"shard_size": 0}, "shard_size"),
        ({"min_side": -1}, "min_side"), ({"resize_format": "bmp"}, "resize_format"), ({"near_radius": 17}, "near_radius"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(options: dict[str, Any], says: str | None) -> None:
    if says is None:
        Options(**options)
        return
    with pytest.raises(PrepareError, match=says):
        Options(**options)


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match="no such file"):
        prepare_pairs(tmp_path / "no", tmp_path / "data", ONE)
    (tmp_path / "bad.jsonl").write_text('{"image": "a.png", "caption": "a dog"}\n{broken\n')
    with pytest.raises(PrepareError, match="line 2: not JSON"):
        prepare_pairs(tmp_path / "bad.jsonl", tmp_path / "data", ONE)
    assert not (tmp_path / "data").exists()


def test_without_imagehash(tmp_path: Path, table: Table, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.prepare.prepare.find_spec", lambda name: None)
    source = table([(picture(1), {"caption": "a caption"})])
    with pytest.raises(PrepareError, match="imagehash"):
        prepare_pairs(source, tmp_path / "data", ONE)
    assert prepare_pairs(source, tmp_path / "data", Options(splits="train=1", near_duplicates="off")).pairs == 1
