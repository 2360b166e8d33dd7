"""The bundled model and what is said when a model cannot be loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dual_encoder import DualEncoder, ModelError, load_encoder
from dual_encoder.reference import TINY, parse_reference


def test_vectors_are_unit_float32_and_do_not_depend_on_their_batch(encoder: DualEncoder) -> None:
    texts = [f"a {colour} star" for colour in ("red", "blue", "green")] * 30
    vectors = encoder.encode_texts(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (90, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[1], encoder.encode_texts([texts[1]])[0], atol=1e-2)
    assert encoder.encode_texts([]).shape == (0, encoder.dim)


def test_open_clip_loads_the_bundled_model_itself(encoder: DualEncoder) -> None:
    import open_clip
    import torch

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{TINY}")
    tokens = open_clip.get_tokenizer(f"local-dir:{TINY}")(["a red star", "红色星形"])
    with torch.inference_mode():
        theirs = model.eval().encode_text(tokens, normalize=True).numpy()
    assert (theirs * encoder.encode_texts(["a red star", "红色星形"])).sum(1).min() > 0.999


def test_serving_needs_no_torch() -> None:
    code = (
        "import sys; from dual_encoder import load_encoder; load_encoder('tiny').encode_texts(['x']);"
        "import service.app, indexer; assert not {'torch', 'open_clip'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_bundled_files_are_small_and_whole() -> None:
    assert sum(file.stat().st_size for file in TINY.iterdir()) < 40e6
    facts = json.loads((TINY / "model.json").read_text())
    assert facts["parity"]["fp32"]["text"] > 0.9999
    assert all(cosine > 0.999 for tower in facts["parity"].values() for cosine in tower.values())  # bf16: if there was


@pytest.mark.parametrize(
    "reference", ["", "/nowhere/at/all", "a/b/c", "no-such-arch", "no-such-arch/tag", "ViT-B-32/no-such-tag"]
)
def test_bad_references(reference: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=reference.split("/")[0] or "model"):
        load_encoder(reference)
    assert capsys.readouterr().err == ""  # no warning of random weights that there are not


def test_bad_directories(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither"):
        load_encoder(str(tmp_path))
    broken = tmp_path / "broken"
    shutil.copytree(TINY, broken)
    (broken / "text.onnx").write_bytes((broken / "text.onnx").read_bytes()[:1000])
    with pytest.raises(ModelError, match="broken"):
        load_encoder(str(broken))
    with pytest.raises(ModelError, match="runtime"):
        load_encoder("tiny", runtime="fast")


@pytest.mark.parametrize(
    ("device", "says"),
    [("gpu", "is not one of auto, cpu"), ("meta", "is not one of"), ("cuda:0,cuda:1", "one: several are for index")],
)
def test_what_is_no_device(device: str, says: str) -> None:
    with pytest.raises(ModelError, match=f"device '{device}' .*{says}"):
        load_encoder("tiny", device=device)


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="device 'cuda:77' cannot be used: ") as refused:
        load_encoder("tiny", runtime="torch", device="cuda:77")
    assert "\n" not in str(refused.value)


def test_references() -> None:
    assert parse_reference("tiny").directory == TINY
    assert parse_reference("ViT-B-32/openai").tag == "openai"
    assert parse_reference("hf-hub:org/name").kind == "hub"
    assert parse_reference("ViT-B-32").kind == "random"
