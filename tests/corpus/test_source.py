"""Every kind of SOURCE."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from corpus.records import SourceError
from corpus.source import open_source
from tests.corpus.test_webdataset import write_shard


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG")
    return out.getvalue()


def test_folder_with_captions(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "B.PNG").write_bytes(png())
    (tmp_path / ".hidden.png").write_bytes(png())
    table = tmp_path / "captions.tsv"
    table.write_text("image\tcaption\na/B.PNG\tone\na/B.PNG\ttwo\n")
    records = list(open_source(tmp_path, table).records())
    assert [(r.uri, r.captions) for r in records] == [("a/B.PNG", ("one", "two"))]
    assert records[0].read() == png()


def test_shards(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {"1.png": png(), "1.txt": b"a caption", "1.json": b'{"licence": "cc0", "width": 9}', "2.txt": b"no picture",
               "3.json": b"{", "3.png": png()}  # fmt: skip
    write_shard(tmp_path / "00001.tar", members)
    (tmp_path / "._00001.tar").write_bytes(b"of macOS")
    (tmp_path / "not.tar").mkdir()
    write_shard(tmp_path / "00000.tar", {"9.png": png(), "9.json": b'{"caption": "from json"}'})
    records = list(open_source(tmp_path).records())
    assert [r.uri for r in records] == ["00000.tar#9.png", "00001.tar#1.png", "00001.tar#3.png"]
    assert [r.captions for r in records] == [("from json",), ("a caption",), ()]
    assert "00001.tar: 1 .json are no JSON objects, such as 3.json" in caplog.text
    assert records[1].metadata == {"licence": "cc0"}
    assert records[1].read() == png()
    assert (tmp_path / "00001.tar").read_bytes()[records[1].offset :][: records[1].length] == png()


def test_shards_do_not_hide_what_lies_beside_them(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", {"1.png": png()})
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


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        open_source(tmp_path / "nothing")
