import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus.records import SourceError
from corpus.table import open_table, read_captions

ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "caption": ["one", " two "], "id": "A", "year": 1999},
    {"image": "b.png", "caption": "three", "id": "B", "year": 2001},
]


def write(path: Path) -> Path:
    """ROWS in the format that the suffix names; in a CSV a list is JSON."""
    if path.suffix == ".parquet":
        # An Arrow column has one type: here every caption is a list.
        as_lists = [row["caption"] if isinstance(row["caption"], list) else [row["caption"]] for row in ROWS]
        rows = [{**row, "caption": captions} for row, captions in zip(ROWS, as_lists, strict=True)]
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(ROWS[0])
            writer.writerows([v if isinstance(v, str | int) else json.dumps(v) for v in row.values()] for row in ROWS)
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a.png").write_bytes(b"A")
    source = open_table(write(tmp_path / f"table.{suffix}"))
    first, second = source.records()
    assert (first.uri, first.id, first.captions, first.read()) == ("a.png", "A", ("one", "two"), b"A")
    assert (second.uri, second.id, second.captions) == ("b.png", "B", ("three",))
    assert [str(record.metadata["year"]) for record in (first, second)] == ["1999", "2001"]
    assert first.metadata.keys() == {"year"}
    assert source.root == str(tmp_path)
    with pytest.raises(FileNotFoundError):
        second.read()


def test_a_missing_image_column_names_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("picture,caption\na.png,x\n")
    with pytest.raises(SourceError, match=r"no column `image`; its columns are picture, caption"):
        open_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", b"", "a table ends in"),
        ("t.csv", b"", "no rows"),
        ("t.csv", b"image\n", "no rows"),
        ("t.jsonl", b"{", "line 1: not JSON"),
        ("t.jsonl", b"[1]", "line 1: not a JSON object"),
        ("t.jsonl", b'{"image": ' + b"[" * 100_000, "line 1: not JSON"),
        ("t.csv", b"image\n\xff\xfe\n", "not in UTF-8"),
        ("t.csv", b"image,caption\na.png,one,\na.png,a star, on blue\n", "line 3: more fields than columns"),
        ("t.csv", b'image,caption\na.png,one\nb.png,"two\nc.png,three\n', "line 3: unexpected end of data; a text"),
        ("t.csv", b'image,caption\na.png,"one\nb.png,"two"\nc.png,three\n', "line 2: .* expected after"),
        ("t.csv", b'image,caption\na.png,"' + b"one\n" * 50_000, "line 2: field larger than"),
        ("t.csv", b"image,caption,caption \na.png,one,two\n", "two columns 'caption'"),
        ("t.parquet", b"PAR0", "not a Parquet table"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list(open_table(tmp_path / name).records())


def test_what_spreadsheets_and_pandas_write(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfimage, caption ,\r\na.png, one,\r\n")
    (record,) = open_table(tmp_path / "t.csv").records()
    assert (record.uri, record.captions, record.metadata) == ("a.png", ("one",), {})
    rows = '{"image": "a.png", "id": 7.0, "caption": NaN}\r\n{"image": "b.png", "id": NaN}\r\n'
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    records = list(open_table(tmp_path / "t.jsonl").records())
    assert [(r.uri, r.id, r.captions) for r in records] == [("a.png", "7", ()), ("b.png", None, ())]


def test_pictures_within_the_table_are_refused_in_few_words(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"image": {"bytes": b"x" * 9999, "path": "a.png"}}]), tmp_path / "t.parquet")
    (record,) = open_table(tmp_path / "t.parquet").records()
    with pytest.raises(ValueError, match="`image` is no path but a dict"):
        record.read()


def test_a_caption_that_begins_like_a_list_is_a_caption(tmp_path: Path) -> None:
    text = "[" * 50_000 + "]"
    (tmp_path / "t.csv").write_text(f"image,caption\na.png,{text}\n")
    (record,) = open_table(tmp_path / "t.csv").records()
    assert record.captions == (text,)


def test_bytes_are_no_metadata(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"image": "a.png", "jpg": b"\xff" * 99, "more": [{"bytes": b"x", "n": 1}], "year": 1999}]
    table = pa.Table.from_pylist(rows).append_column("kind", pa.array([b"x"]).dictionary_encode())
    pq.write_table(table, tmp_path / "t.parquet")
    source = open_table(tmp_path / "t.parquet")
    for _ in range(2):
        (record,) = source.records()
        assert record.metadata == {"year": 1999}
    assert caplog.messages == [f"{tmp_path}/t.parquet: columns of bytes are left out: jpg, more, kind"]


@pytest.mark.parametrize("image", ["", "\0", "x" * 5000, "."])
def test_an_image_that_cannot_be_a_file_fails_when_read_only(tmp_path: Path, image: str) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": image}))
    (record,) = open_table(tmp_path / "t.jsonl").records()
    with pytest.raises((OSError, ValueError)):
        record.read()


def test_a_caption_that_is_no_text_is_told_of_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"image": "a.png", "caption": {"en": "a cat"}}')
    (record,) = open_table(tmp_path / "t.jsonl").records()
    assert (record.uri, record.captions) == ("a.png", ())
    with pytest.raises(ValueError, match="its caption is no text but a dict"):
        record.read()
    with pytest.raises(SourceError, match=r"t\.jsonl: a\.png: its caption is no text but a dict"):
        read_captions(tmp_path / "t.jsonl")


def test_captions_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('image,caption\na.png,one\na.png,"[""two"", """"]"\n')
    assert read_captions(tmp_path / "c.csv") == {"a.png": ("one", "two")}
    (tmp_path / "d.csv").write_text("image,text\na.png,one\n")
    with pytest.raises(SourceError, match="`caption` are needed; found image, text"):
        read_captions(tmp_path / "d.csv")
