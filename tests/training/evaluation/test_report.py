"""The HTML report: complete, self-contained, escaped."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from dual_encoder import DualEncoder
from training.evaluation.comparison import compare
from training.evaluation.gallery import read_gallery
from training.evaluation.probes import probe_scenes
from training.evaluation.report import html_report
from training.evaluation.retrieval import figures, parts_of, retrieve
from training.evaluation.zero_shot import read_task

VOID = {"meta", "img", "br", "line", "circle", "polyline", "polygon"}


class Page(HTMLParser):
    """Tags that are open, links to elsewhere, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_everything_is_on_the_page(scenes: Path, encoder: DualEncoder, tmp_path: Path) -> None:
    gallery = read_gallery(scenes)
    (tmp_path / "c.txt").write_text("\n".join(sorted(set(gallery.column("shape")))))
    task = read_task(tmp_path / "c.txt", "none", gallery.column("shape"), "shape")
    found = retrieve(encoder, gallery)
    result = {
        "model": "tiny",
        "data": str(scenes),
        **figures(found, parts_of(gallery, ["place"])),
        "classification": task.run(encoder, found.vectors.images),
        "linear_probe": task.run(encoder, found.vectors.images),
        "comparison": compare(found.asked, found.asked, ("tiny", "other")),
        "probes": probe_scenes(encoder, 20),
    }
    page = Page(html_report(result, found))
    assert page.open == []
    headings = ("Retrieval", "Recall@k", "Scores of pairs", "other (B) against tiny (A)", "By language", "By place", "Zero-shot classification", "A linear probe",
                "Hard negatives: drawn scenes", "Queries, text → picture", "Queries, picture → text")  # fmt: skip
    for heading in headings:
        assert heading in page.text
    assert f"{result['text_to_image']['recall@1']:.3f}" in page.text
    assert page.tags.count("svg") == 3
    assert page.links
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert "script" not in page.tags


def test_what_others_wrote_is_escaped(tmp_path: Path, encoder: DualEncoder) -> None:
    evil = "<script>alert(1)</script>\"'&"
    rows = []
    for number in range(3):
        Image.new("RGB", (64, 64), (number * 80, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": f"{evil} {number}", "language": evil, "shape": evil})
    table = tmp_path / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    gallery = read_gallery(table)
    found = retrieve(encoder, gallery)
    html = html_report({"model": evil, "data": evil, **figures(found, parts_of(gallery, ["shape"]))}, found)
    page = Page(html)
    assert "<script" not in html
    assert evil in page.text
    assert page.open == []


@pytest.mark.parametrize("key", ["probes", "probe_data"])
def test_probes_alone(key: str) -> None:
    row = {"probe": "", "language": "", "wording": "all", "count": 3, "accuracy": 0.5, "interval": [0.1, 0.9]}
    page = Page(html_report({"model": "m", key: {"choices": 3, "probes": [row], "all": row}}))
    assert "pairs" in page.text
    assert "chance" not in page.text
    assert "Retrieval" not in page.text
