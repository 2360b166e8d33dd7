"""Every kind of SOURCE."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from corpus.records import SourceError
from corpus.source import open_source


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG")
    return out.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_folder_with_captions(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "B.PNG").write_bytes(png())
    (tmp_path / ".hidden.png").write_bytes(png())
    table = tmp_path / "captions.tsv"
    table.write_text("image\tcaption\na/B.PNG\tone\na/B.PNG\ttwo\n")
    records = list(open_source(tmp_path, table).records())
    assert [(r.uri, r.captions) for r in records] == [("a/B.PNG", ("one", "two"))]
    assert records[0].read() == png()


def test_links_out_of_the_folder_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "in.png").write_bytes(png())
    (tmp_path / "corpus" / "out.png").symlink_to(tmp_path / "secret.png")
    assert [r.uri for r in open_source(tmp_path / "corpus").records()] == ["in.png"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"table.{kind}"
    rows = [{"image": "a.png", "caption": "红色", "year": "1"}, {"image": "b.png", "caption": "", "year": "2"}]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        mark = "\t" if kind == "tsv" else ","
        path.write_text("\n".join(mark.join(line) for line in [rows[0].keys(), *(r.values() for r in rows)]), "utf-8")
    records = list(open_source(path).records())
    assert [(r.uri, r.captions, r.metadata) for r in records] == [
        ("a.png", ("红色",), {"year": "1"}), ("b.png", (), {"year": "2"}),
    ]  # fmt: skip
    with pytest.raises(OSError, match="No such file"):
        records[0].read()


def test_shards(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {"1.png": png(), "1.txt": b"a caption", "1.json": b'{"licence": "cc0", "width": 9}', "2.txt": b"no picture",
               "3.json": b"{", "3.png": png()}  # fmt: skip
    shard(tmp_path / "00001.tar", members)
    (tmp_path / "._00001.tar").write_bytes(b"of macOS")
    (tmp_path / "not.tar").mkdir()
    shard(tmp_path / "00000.tar", {"9.png": png(), "9.json": b'{"caption": "from json"}'})
    records = list(open_source(tmp_path).records())
    assert [r.uri for r in records] == ["00000.tar#9.png", "00001.tar#1.png", "00001.tar#3.png"]
    assert [r.captions for r in records] == [("from json",), ("a caption",), ()]
    assert "00001.tar: 1 .json are no JSON objects, such as 3.json" in caplog.text
    assert records[1].metadata == {"licence": "cc0"}
    assert records[1].read() == png()
    assert (tmp_path / "00001.tar").read_bytes()[records[1].offset :][: records[1].length] == png()


def test_shards_do_not_hide_what_lies_beside_them(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", {"1.png": png()})
    (tmp_path / "c.csv").write_text("image,caption\n1.png,one\n")
    with pytest.raises(SourceError, match="--captions goes with a folder of pictures"):
        open_source(tmp_path, tmp_path / "c.csv")
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "a.png").write_bytes(png())
    with pytest.raises(SourceError, match="1 pictures lie beside"):
        open_source(tmp_path)


def test_captions_of_pictures_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, table = tmp_path / "folder", tmp_path / "c.csv"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    table.write_text("image,caption\nfolder/a.png,one\n")
    with pytest.raises(SourceError, match=r"'folder/a.png', and of no other; `image` is relative to the folder"):
        open_source(folder, table)
    table.write_text("image,caption\n./a.png,one\nb.png,two\n")
    (record,) = open_source(folder, table).records()
    assert record.captions == ("one",)
    assert "1 pictures that are not there, such as 'b.png'" in caplog.text


def test_what_cannot_be_a_source(tmp_path: Path) -> None:
    (tmp_path / "pictures.csv").write_text("path,caption\na.png,x\n")
    with pytest.raises(SourceError, match="no column `image`; its columns are path, caption"):
        open_source(tmp_path / "pictures.csv")
    (tmp_path / "empty.csv").write_text("image\n")
    with pytest.raises(SourceError, match="no rows"):
        open_source(tmp_path / "empty.csv")
    (tmp_path / "broken.jsonl").write_text('{"image": "a"}\n{')
    with pytest.raises(SourceError, match="line 2"):
        list(open_source(tmp_path / "broken.jsonl").records())
    with pytest.raises(SourceError, match="no such file"):
        open_source(tmp_path / "nothing")
    (tmp_path / "x.doc").write_text("x")
    with pytest.raises(SourceError, match=r"\.parquet"):
        open_source(tmp_path / "x.doc")
    (tmp_path / "cut.tar").write_bytes(shard(tmp_path / "ok.tar", {"1.png": png() * 20}).read_bytes()[:700])
    with pytest.raises(ValueError, match="cut short"):
        list(open_source(tmp_path / "cut.tar").records())[-1].read()
