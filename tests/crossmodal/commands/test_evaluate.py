"""`crossmodal evaluate`: what it prints, and one line for what it cannot do."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from crossmodal.commands.evaluate import _print as show
from tests.crossmodal.command import Words, fails, run_here
from training.scenes import SHAPES

evaluate = partial(run_here, "evaluate")
refused = partial(fails, run=evaluate)


def figures_of(*words: Words) -> dict[str, Any]:
    done = evaluate("--model", "tiny", "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_the_json_that_others_read(scenes: Path) -> None:
    figures = figures_of("--data", scenes, "--limit", 30, "--by", "place")
    assert (figures["model"], figures["images"], figures["texts"], figures["language"]) == ("tiny", 30, 180, "all")
    names = ["recall@1", "recall@5", "recall@10", "median_rank", "map", "ndcg@10"]
    for way in ("text_to_image", "image_to_text"):
        assert list(figures[way]) == list(figures["intervals"][way]) == names
        assert figures[way]["recall@1"] > 0.9
    assert set(figures["by"]) == {"language", "place"}
    shown = evaluate("--model", "tiny", "--data", scenes, "--language", "zh")
    assert "60 pictures, 180 captions" in shown.stdout


def test_classes_comparison_probes_and_report(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(SHAPES))
    probes = tmp_path / "probes.jsonl"
    row = json.loads(scenes.read_text("utf-8").splitlines()[0])
    probes.write_text(
        json.dumps({"image": str(scenes.parent / row["image"]), "caption": row["caption"][0], "negative": "a house"})
    )
    more = ("--classes", tmp_path / "classes.txt", "--label", "shape", "--templates", "none", "--compare", "tiny",
            "--linear-probe", scenes, "--shots", 1,
            "--probe", "--count", 10, "--probe-data", probes, "--html", tmp_path / "r.html")  # fmt: skip
    figures = figures_of("--data", scenes, *more)
    assert figures["classification"]["classes"] == 13
    assert figures["classification"]["templates"] == 1
    assert figures["linear_probe"]["fitted"] == figures["linear_probe"]["classes"]
    assert figures["comparison"]["text_to_image"]["p"] == 1
    assert figures["probes"]["scenes"] == 10
    assert figures["probe_data"]["all"] == {"count": 1, "accuracy": 1.0, "interval": [1.0, 1.0]}
    assert (tmp_path / "r.html").read_text("utf-8").startswith("<!doctype html>")
    show(figures)
    shown = capsys.readouterr().out
    for words in (
        "recall@1",
        "language",
        "mean class recall",
        "linear probe: ",
        "swapped relation",
        "no significant difference",
    ):
        assert words in shown


def test_probes_need_no_data() -> None:
    figures = figures_of("--probe", "--count", 10, "--split", "unseen", "--language", "en")
    assert figures["probes"]["split"] == "unseen"
    assert "text_to_image" not in figures


def test_bad_usage(scenes: Path, tmp_path: Path) -> None:
    tiny = ("--model", "tiny")
    refused(2, *tiny, says="give --data, --probe or --probe-data")
    refused(2, *tiny, "--probe", "--compare", "tiny", says="--compare needs --data")
    refused(2, *tiny, "--data", scenes, "--classes", tmp_path, says="--label goes with --classes or --linear-probe")
    refused(2, *tiny, "--data", scenes, "--shots", 3, says="--shots needs --linear-probe")
    refused(2, *tiny, "--data", scenes, "--limit", 0, says="limit")


def test_one_line_for_what_cannot_be_done(scenes: Path, tmp_path: Path) -> None:
    tiny = ("--model", "tiny", "--data", scenes)
    empty, broken = tmp_path / "empty.txt", tmp_path / "broken.jsonl"
    empty.write_text("")
    broken.write_text('{"image": "x.jpg", "caption": "a"}\n')
    refused(1, "--model", "tiny", "--data", tmp_path / "none", says="none: no such table")
    refused(1, *tiny, "--language", "fr", says="no captions in language 'fr'; there are 'en', 'zh'")
    refused(1, *tiny, "--by", "size", says="no column 'size'; there are background, colour")
    refused(1, *tiny, "--classes", empty, "--label", "shape", says="empty.txt: 0 classes in it")
    refused(1, *tiny, "--classes", scenes, "--label", "kind", says="no column 'kind'")
    few = evaluate(*tiny, "--label", "shape", "--linear-probe", scenes, "--shots", 99)
    assert "fewer than 99 shots" in few.stderr
    assert "encoding" not in few.stderr  # it is said before the long step
    refused(1, *tiny, "--compare", tmp_path / "model", says="no such directory")
    refused(1, *tiny, "--html", tmp_path / "no" / "r.html", says="r.html: no such folder")
    refused(1, *tiny, "--html", tmp_path, says=f"{tmp_path}: a folder")
    refused(1, "--model", "tiny", "--probe-data", broken, says="broken.jsonl, row 1: no column 'negative'")
    refused(1, "--model", "tiny", "--probe", "--language", "fr", says="no captions in language 'fr'")
