"""Reading pairs for an evaluation, and encoding them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dual_encoder import DualEncoder
from dual_encoder.image import open_image
from training.evaluation import evaluate
from training.evaluation.gallery import encode_gallery, read_gallery
from training.pairs import DataError
from training.prepare import Options, prepare_pairs


def table(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_languages_groups_and_empty_captions(tmp_path: Path) -> None:
    data = table(
        tmp_path,
        {"image": "a.jpg", "caption": ["one", " ", "一"], "language": ["en", "en", "zh"], "group": "g"},
        {"image": "b.jpg", "caption": "two", "language": "en"},
        {"image": "c.jpg", "caption": "three", "language": "en", "group": "g", "colour": "red"},
    )
    gallery = read_gallery(data)
    assert gallery.texts == ["one", "一", "two", "three"]
    assert gallery.owner.tolist() == [0, 0, 1, 2]
    assert gallery.empty == 1
    assert gallery.relevance.pictures(0).tolist() == [0, 2]
    assert gallery.column("colour") == [None, None, "red"]
    assert read_gallery(data, "zh").texts == ["一"]
    assert len(read_gallery(data, limit=2).pairs) == 2
    part, kept = gallery.only("en")
    assert (part.texts, kept.tolist()) == (["one", "two", "three"], [0, 2, 3])


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    data = table(tmp_path, {"image": "a.jpg", "caption": "one", "language": "en", "colour": "red"})
    with pytest.raises(ValueError, match=r"no captions in language 'fr'; there are 'en'"):
        read_gallery(data, "fr")
    with pytest.raises(ValueError, match=r"no column 'size'; there are colour"):
        read_gallery(data).column("size")
    with pytest.raises(ValueError, match="limit must be at least 1"):
        read_gallery(data, limit=0)
    with pytest.raises(ValueError, match="every caption is empty"):
        read_gallery(table(tmp_path, {"image": "a.jpg", "caption": ["", "  "]}))
    with pytest.raises(DataError, match="nowhere"):
        read_gallery(tmp_path / "nowhere")


def test_vectors_are_the_encoders_own(scenes: Path, encoder: DualEncoder) -> None:
    gallery = read_gallery(scenes, limit=40)  # more than a batch
    seen: list[tuple[int, int]] = []
    vectors = encode_gallery(encoder, gallery, lambda done, total: seen.append((done, total)))
    pictures = [open_image(pair.read(), encoder.image_size[0]).image for pair in gallery.pairs]
    np.testing.assert_allclose(vectors.images, encoder.encode_images(pictures), atol=2e-2)
    assert vectors.texts.shape == (len(gallery.texts), encoder.dim)
    again = encoder.encode_texts([gallery.texts[7]])[0]
    assert vectors.texts[7] @ again > 0.999
    assert seen == [(32, 40), (40, 40)]


def test_a_missing_picture_is_named(tmp_path: Path, encoder: DualEncoder) -> None:
    gallery = read_gallery(table(tmp_path, {"image": "gone.jpg", "caption": "one"}))
    with pytest.raises(DataError, match=r"gone\.jpg"):
        encode_gallery(encoder, gallery)


def test_one_split_of_a_prepared_folder(tmp_path: Path, scenes: Path, encoder: DualEncoder) -> None:
    prepare_pairs(scenes, tmp_path / "data", Options(splits="train=0.5,test=0.5,dev=0"))
    parts = {split: read_gallery(tmp_path / "data", split=split) for split in ("train", "test")}
    assert len(parts["train"].pairs) + len(parts["test"].pairs) == 60
    assert read_gallery(tmp_path / "data").texts == parts["test"].texts
    assert set(parts["train"].texts).isdisjoint(parts["test"].texts)
    figures = evaluate(encoder, tmp_path / "data")
    assert figures["text_to_image"]["recall@1"] > 0.9
    with pytest.raises(DataError, match="no split 'val'; it has"):
        read_gallery(tmp_path / "data", split="val")
    with pytest.raises(ValueError, match="no pairs in its split 'dev'"):
        read_gallery(tmp_path / "data", split="dev")
