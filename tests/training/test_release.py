"""An export is judged before it appears: what loses too much is refused, what passes has a card with the figures."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossmodal.examples import examples_of
from dual_encoder import load_encoder
from dual_encoder.export import export_model
from dual_encoder.files import sha256
from dual_encoder.record import read_record, write_record
from training import release
from training.config import TrainConfig
from training.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, exported with 8-bit towers and judged on some scenes."""
    from training.scenes import write_scenes

    folder = tmp_path_factory.mktemp("release")
    scenes = write_scenes(folder / "scenes", 80, seed=4, split="test")

    def judge(work: Path) -> dict[str, Any]:
        assert not (folder / "out").exists()
        return release.judge(work, name="tiny", license="Apache-2.0", data=scenes)

    return export_model("tiny", folder / "out", "Apache-2.0", judge, int8=examples_of(scenes))


def test_figures_and_card(trained: Path) -> None:
    facts = json.loads((trained / "model.json").read_text())
    found = facts["quality"]["precisions"]
    assert {"fp32", "int8"} <= set(found)
    assert found["fp32"]["text_to_image"]["recall@1"] > 0.9
    assert found["int8"]["text_to_image"]["recall@1"] > found["fp32"]["text_to_image"]["recall@1"] - 0.0101
    assert facts["parity"]["int8"]["text"] > 0.98
    card = (trained / release.CARD).read_text()
    assert card.startswith('---\nlicense: "Apache-2.0"\n')
    assert f"| int8 | text → image | {found['int8']['text_to_image']['recall@1']:.3f} |" in card
    assert "THIS_FOLDER" in card


def test_the_export_serves_in_8_bits(trained: Path) -> None:
    whole, small = (load_encoder(str(trained), precision=precision) for precision in ("fp32", "int8"))
    texts = ["a red star", "四个蓝色圆形排成一行", "a small green ring above a large black cross on a white background"]
    assert (whole.encode_texts(texts) * small.encode_texts(texts)).sum(1).min() > 0.98
    assert small.fingerprint == whole.fingerprint


def test_what_loses_too_much_is_refused(trained: Path, tmp_path: Path) -> None:
    """8-bit towers whose weights went wrong on the way."""
    folder = tmp_path / "model"
    shutil.copytree(trained, folder)
    weights = bytearray((folder / "text.int8.bin").read_bytes())
    told = re.findall(
        r'element_type="i8" shape="[^"]*" offset="(\d+)" size="(\d+)"', (folder / "text.int8.xml").read_text()
    )
    assert told
    for offset, size in told:
        weights[int(offset) : int(offset) + int(size)] = bytes(int(size))
    (folder / "text.int8.bin").write_bytes(weights)
    facts = read_record(folder / "model.json")
    facts["files"]["text.int8.bin"] = sha256(folder / "text.int8.bin")
    write_record(folder / "model.json", facts)
    scenes = trained.parent / "scenes/captions.jsonl"
    with pytest.raises(
        release.QualityError, match=r"int8 loses \d+\.\d points of text to image recall@1 \(\d\.\d+ in fp32"
    ):
        release.judge(folder, name="tiny", data=scenes)
    accepted = release.judge(folder, name="tiny", data=scenes, most_loss=None)
    assert accepted["quality"]["precisions"]["int8"]["text_to_image"]["recall@1"] < 0.2


def test_a_refused_export_leaves_no_trace(tmp_path: Path, config: Callable[..., TrainConfig]) -> None:
    model = train(config("vit", steps=1))

    def judge(work: Path) -> dict[str, Any]:
        assert (work / "model.json").is_file()
        raise release.QualityError("too bad")

    with pytest.raises(release.QualityError, match="too bad"):
        export_model(str(model), tmp_path / "served" / "out", judge=judge)
    assert list((tmp_path / "served").iterdir()) == []


def test_the_card_tells_how_it_was_trained(tmp_path: Path, config: Callable[..., TrainConfig]) -> None:
    model = train(config(steps=1))
    made = release.made_of(str(model))
    assert made is not None
    assert made["pairs"] == 64
    assert made["recipe"]["objectives"] == {"info_nce": 1.0}
    assert str(tmp_path) not in json.dumps(made)
    facts = {
        "dim": 32,
        "fingerprint": "f" * 64,
        "temperature": 0.07,
        "context_length": 77,
        "end_of_text": "largest",
        "parity": {},
    }
    assert "steps: 1\n" in release.card("mine", "MIT", facts, {}, made)
    assert release.made_of("ViT-B-32") is None
