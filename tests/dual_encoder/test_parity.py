"""What is served equals open_clip's own encode_text and encode_image, whatever the architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

import dual_encoder
from dual_encoder import load_encoder
from dual_encoder.open_clip_model import OpenClipModel, load_open_clip
from dual_encoder.reference import parse_reference
from dual_encoder.text_tower import encode_text, is_cuttable

TEXTS = ["", "a cat", "红色星形在蓝色圆形的左边", "a photo of two red cats " * 3, "word " * 100]
SMALL_VIT = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "non-causal": {"embed_dim": 32, "vision_cfg": SMALL_VIT, "text_cfg": {**TEXT, "no_causal_mask": True},
                   "custom_text": True},
    "last-pool": {"embed_dim": 32, "vision_cfg": SMALL_VIT, "text_cfg": {**TEXT, "pool_type": "last"},
                  "custom_text": True},
    "causal": {"embed_dim": 32, "vision_cfg": SMALL_VIT, "text_cfg": TEXT},
}  # fmt: skip
# Of the kinds that open_clip names, without their depth: exporting RN50, coca_ViT-B-32 and ViT-B-32 takes two minutes.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "shallow-ViT-B-32": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 2, "width": 768, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 2},
    },
    "small-RN": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
    "small-coca": {
        "embed_dim": 32,
        "vision_cfg": {**SMALL_VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1,
                           "attn_pooler_heads": 2},
        "custom_text": True,
    },
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def known_architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("architectures")
    for name, config in ARCHITECTURES.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def cosine(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((64, 64), (90, 50), (40, 200))
    ]


def reference_vectors(source: OpenClipModel) -> tuple[Any, Any]:
    config = PreprocessCfg(**open_clip.get_model_preprocess_cfg(source.model))
    transform = image_transform_v2(config, is_train=False)
    with torch.inference_mode():
        texts = source.model.encode_text(source.tokenizer(TEXTS))
        images = source.model.encode_image(torch.stack([transform(picture) for picture in pictures()]))
    return texts, images


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore")
def test_cut_text_is_exact(name: str) -> None:
    source = load_open_clip(parse_reference(name))
    tokens = source.tokenizer(TEXTS[:4])
    longest = int((tokens != 0).sum(1).max())
    assert is_cuttable(source.model) == (name != "small-coca")
    if is_cuttable(source.model):
        with torch.inference_mode():
            torch.testing.assert_close(
                encode_text(source.model, tokens[:, :longest]), source.model.encode_text(tokens), atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("reference", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore")
def test_exported_architectures(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts, images = reference_vectors(load_open_clip(parse_reference(reference)))
    for precision, least in [("fp32", 0.9999), ("auto", 0.999)]:
        encoder = load_encoder(reference, runtime="openvino", precision=precision)
        assert cosine(encoder.encode_texts(TEXTS), texts) >= least
        assert cosine(encoder.encode_images(pictures()), images) >= least


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore")
def test_directories_on_both_runtimes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = save_random(CONFIGS[name], tmp_path / "model")
    source = load_open_clip(parse_reference(str(directory)))
    assert is_cuttable(source.model) == (name == "causal")
    texts, images = reference_vectors(source)
    for runtime in ("torch", "openvino"):
        encoder = load_encoder(str(directory), runtime=runtime, precision="fp32")
        assert encoder.fingerprint == source.fingerprint
        assert cosine(encoder.encode_texts(TEXTS), texts) >= 0.99999
        assert cosine(encoder.encode_images(pictures()), images) >= 0.99999
    exported = list((tmp_path / "cache").rglob("*.onnx"))
    assert len(exported) == 2
    for path in [*exported, *Path(dual_encoder.__file__).parent.rglob("*.onnx")]:
        assert b"site-packages" not in path.read_bytes(), path  # no traces of the machine that exported


def save_random(config: dict[str, Any], out: Path) -> Path:
    from safetensors.torch import save_file

    out.mkdir()
    preprocess = {"size": config["vision_cfg"]["image_size"], "mean": [0.5] * 3, "std": [0.25] * 3}
    (out / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    options = {key: value for key, value in config.items() if key != "custom_text"}
    model = (open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP)(**options)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / "open_clip_model.safetensors")
    return out
