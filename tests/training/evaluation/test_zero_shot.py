"""Zero-shot classification, equal to open_clip's, and its figures by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from dual_encoder import DualEncoder, load_encoder
from training.evaluation.templates import templates
from training.evaluation.zero_shot import Task, classifier, classify, label_numbers, read_classes, read_task

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.mark.filterwarnings("ignore")
def test_equal_to_open_clips_classifier(tmp_path: Path) -> None:
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": preprocess}))
    torch.manual_seed(1)
    save_file(open_clip.CLIP(**SMALL).state_dict(), tmp_path / "open_clip_model.safetensors")
    names = ["dog", "a {} of cats", "traffic light", "猫"]
    model = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    sets = open_clip.zero_shot_metadata.OPENAI_IMAGENET_TEMPLATES
    expected = open_clip.build_zero_shot_classifier(model, tokenizer, names, sets).T.numpy()
    encoder = load_encoder(str(tmp_path), runtime="torch", precision="fp32", device="cpu")
    found = classifier(encoder, [[name] for name in names], templates("openai", names))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_figures_by_hand() -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    weights = np.eye(6, dtype=np.float32)
    images = np.asarray(
        [[1, 0, 0, 0, 0, 0], [0.9, 1, 0, 0, 0, 0], [1, 0.5, 0, 0, 0, 0], [0.5] * 6, [6, 5, 4, 3, 2, 1]],
        dtype=np.float32,
    )
    figures = classify(images, np.asarray([0, 1, 1, 2, 5]), weights, names)
    # right, right, second, a tie of all (last), last
    assert figures["top1"] == 0.4
    assert figures["top5"] == 0.6
    assert figures["mean_class_recall"] == round((1 + 0.5 + 0 + 0) / 4, 4)
    assert [(c["class"], c["images"], c["recall"]) for c in figures["by_class"]] == [
        ("a", 1, 1.0),
        ("b", 2, 0.5),
        ("c", 1, 0.0),
        ("f", 1, 0.0),
    ]
    assert [(c["class"], c["taken_for"], c["count"], c["share"]) for c in figures["confusions"]] == [
        ("b", "a", 1, 0.5),
        ("c", "a", 1, 1.0),
        ("f", "a", 1, 1.0),
    ]


def test_what_differs_by_rounding_alone_is_a_tie() -> None:
    """A product of matrices rounds its last columns otherwise: one vector for all classes is to name none."""
    weights = np.full((6, 4), 0.5, dtype=np.float32)
    weights[1:] = np.nextafter(weights[1:], np.float32(0))
    figures = classify(weights[:1], np.asarray([0]), weights, list("abcdef"))
    assert (figures["top1"], figures["top5"]) == (0, 0)


def test_the_bundled_model_names_colours_of_single_shapes(tmp_path: Path, encoder: DualEncoder) -> None:
    from training.scenes import draw, scenes

    drawn = [(s, p) for s, p in scenes(300, 3, "test") if len(s.things) == 1 and s.count == 1]
    classes = tmp_path / "colours.json"
    classes.write_text(
        json.dumps(
            {c: [f"{c} star", f"{c} circle", f"{c} square"] for c in ("red", "green", "blue", "black", "yellow")}
        )
    )
    chosen = [(s, p) for s, p in drawn if s.things[0].colour in read_classes(classes)]
    task = read_task(classes, "none", [s.things[0].colour for s, _ in chosen], "colour")
    figures = task.run(encoder, encoder.encode_images([draw(s, p) for s, p in chosen]))
    assert figures["top1"] > 0.6  # chance is 0.2


def test_classes_and_labels_that_cannot_be_used(tmp_path: Path) -> None:
    text, table = tmp_path / "c.txt", tmp_path / "c.json"
    for content, says in (("", "0 classes"), ("dog\n", "1 classes"), ("dog\ncat\ndog\n", "'dog' stands there twice")):
        text.write_text(content)
        with pytest.raises(ValueError, match=says):
            read_classes(text)
    for content, says in (
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ('{"a": [], "b": "x"}', "class 'a' needs a name"),
        ('{"a": [3]}', "class 'a'"),
    ):
        table.write_text(content)
        with pytest.raises(ValueError, match=says):
            read_classes(table)
    with pytest.raises(ValueError, match="No such file"):
        read_classes(tmp_path / "gone.txt")
    classes = {"crane": ["crane", "digger"], "bird": ["crane", "stork"], "7": ["seven"]}
    assert label_numbers(["crane", "stork", 7, "digger"], classes, "l").tolist() == [0, 1, 2, 0]
    with pytest.raises(ValueError, match="row 2 has no 'l'"):
        label_numbers(["crane", None], classes, "l")
    with pytest.raises(ValueError, match="row 1: l 'dog' is not one of the 3 classes"):
        label_numbers(["dog"], classes, "l")


def test_a_class_is_the_mean_of_all_its_names(encoder: DualEncoder) -> None:
    sentences = ["a {}", "one {} only"]
    found = classifier(encoder, [["star", "red star"], ["circle"]], sentences)
    mean = encoder.encode_texts(["a star", "one star only", "a red star", "one red star only"]).mean(axis=0)
    np.testing.assert_allclose(found[0], mean / np.linalg.norm(mean), atol=1e-2)  # batches differ in bf16
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert Task({"s": ["star"], "c": ["circle"]}, sentences, np.asarray([0])).run(encoder, found[:1])["top5"] == 1
