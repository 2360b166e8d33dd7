"""The commands that know a store: what is built is published there, and read from there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pymilvus  # noqa: F401  it closes all log handlers: not while stderr is captured
import pytest
import typer

from crossmodal.main import app
from service import server
from service.settings import Settings
from vector_index import StoreUnavailable, UnknownId


def test_published_searched_changed_and_cleared(
    index: Path,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: str | Path) -> Any:
        app([*map(str, arguments), "--json"], standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    shutil.copytree(index, tmp_path / "index")
    index = tmp_path / "index"
    found = run("search", index, "--text", "a red star")["hits"]
    address = f"milvus+file://{tmp_path}/x.db/scenes"
    first = run("index", "publish", index, "--store", address)["snapshot"]
    monkeypatch.setenv("CROSSMODAL_STORE", address)
    there = run("search", "--text", "a red star")["hits"]
    assert [hit["id"] for hit in there] == [hit["id"] for hit in found]
    second = run("index", "remove", there[0]["id"], "--index", index)["snapshot"]
    with pytest.raises(UnknownId, match=f"crossmodal index publish {index} --store"):
        run("index", "remove", there[0]["id"], "--index", index)
    told = run("index", "info")
    assert (told["snapshot"], told["images"]["rows"], told["images"]["index"]["kind"]) == (second, 59, "FLAT")
    assert run("index", "verify") == {"snapshot": second, "problems": []}
    assert run("index", "gc", "--keep", "1") == {"deleted": [first], "kept": [second]}
    third = run("index", "build", scenes, "--out", index)["snapshot"]
    assert run("index", "info")["snapshot"] == third
    assert run("index", "info", index)["images"]["index"]["kind"] == "Flat"
    assert run("search", index, "--text", "a red star")["snapshot"] == third


def test_the_command_line_beats_the_environment(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Settings] = []
    monkeypatch.setattr(server, "serve", lambda settings, host, port, opened: served.append(settings))
    monkeypatch.setenv("CROSSMODAL_STORE", "milvus://127.0.0.1:1/scenes")
    app(["serve", str(index)], standalone_mode=False)
    app(["serve"], standalone_mode=False)
    monkeypatch.setenv("CROSSMODAL_INDEX", "elsewhere")
    app(["serve", "--store", "milvus://127.0.0.1:1/other"], standalone_mode=False)
    assert [(settings.index, settings.store) for settings in served] == [
        (index, None),
        (None, "milvus://127.0.0.1:1/scenes"),
        (None, "milvus://127.0.0.1:1/other"),
    ]
    both = [str(index), "--store", "milvus://127.0.0.1:1/scenes"]
    for command in (["serve"], ["search", "--text", "a star"], ["index", "info"], ["index", "verify"], ["index", "gc"]):
        with pytest.raises(typer.BadParameter, match="one of them"):
            app([*command, *both], standalone_mode=False)


def test_an_index_type_that_is_none_is_told_before_anything_is_built(scenes: Path, tmp_path: Path) -> None:
    where = ["--store", f"milvus+file://{tmp_path}/x.db/scenes", "--store-index", "DISKANN"]
    for command in (
        ["build", str(scenes), "--out"],
        ["add", str(scenes), "--index"],
        ["remove", "id", "--index"],
        ["publish"],
    ):
        with pytest.raises(typer.BadParameter, match="'DISKANN' is not one of auto, FLAT"):
            app(["index", *command, str(tmp_path / "index"), *where], standalone_mode=False)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_none_is_told_before_anything_is_built(scenes: Path, tmp_path: Path) -> None:
    built = ["index", "build", str(scenes), "--out", str(tmp_path / "index"), "--store", "milvus://127.0.0.1:1/scenes"]
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/scenes: the store does not answer"):
        app(built, standalone_mode=False)
    assert not (tmp_path / "index").exists()
    for command in (["index", "info"], ["serve"]):
        with pytest.raises(Exception, match="give an index directory or"):
            app(command, standalone_mode=False)
