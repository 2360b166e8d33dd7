"""Training: the objective's gradient, learning at all, and resuming exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.config import ConfigError, read_config
from training.objectives import info_nce
from training.pairs import DataError, batches, read_pairs
from training.scenes import write_scenes
from training.train import TrainingError, train

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data"), 64, 0).parent


def recipe(folder: Path, data: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_text(json.dumps(SMALL))
    values = {"model": "model.json", "data": str(data), "out": "run", "steps": 6, "batch_size": 16, "workers": 0,
              "precision": "fp32", "warmup_steps": 2, "checkpoint_every": 3, "log_every": 1, **changes}  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values))
    return path


def test_info_nce_has_its_closed_form_gradient() -> None:
    torch.manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1) for _ in range(2))
    texts.requires_grad_()
    scale = torch.tensor(7.0, dtype=torch.float64)
    info_nce(images, texts, scale).backward()
    logits = scale * images @ texts.detach().T
    both = logits.softmax(1) + logits.softmax(0) - 2 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(texts.grad, scale * both.T @ images / 12, atol=1e-12, rtol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_a_killed_run_resumes_bit_for_bit_and_learns(tmp_path: Path, data: Path) -> None:
    losses: list[float] = []
    whole = train(read_config(recipe(tmp_path / "a", data, steps=6)), lambda p: losses.append(p.loss))
    assert losses[-1] < losses[0]

    class Killed(Exception):
        pass

    def kill(progress: object) -> None:
        if progress.step == 4:  # type: ignore[attr-defined]
            raise Killed

    config = read_config(recipe(tmp_path / "b", data, steps=6))
    with pytest.raises(Killed):
        train(config, kill)
    resumed = train(config)
    a, b = (load_file(folder / "open_clip_model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.filterwarnings("ignore")
def test_another_architecture_is_refused(tmp_path: Path, data: Path) -> None:
    path = recipe(tmp_path, data, steps=1)
    train(read_config(path))
    (tmp_path / "model.json").write_text(json.dumps({**SMALL, "embed_dim": 16}))
    with pytest.raises(TrainingError, match="another architecture"):
        train(read_config(path))


def test_batches_can_start_anywhere() -> None:
    stream = batches(50, 16, seed=3)
    first = [next(stream) for _ in range(8)]
    later = batches(50, 16, seed=3, start=5)
    assert [next(later) for _ in range(3)] == first[5:]
    assert sorted(pair for batch in first[:3] for pair, _ in batch) == sorted({p for b in first[:3] for p, _ in b})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stepz": 3}, "stepz"),
        ({"batch_size": 0}, "batch_size"),
        ({"precision": "int3"}, "precision"),
        ({"steps": "x"}, "steps"),
    ],
)
def test_bad_configs(tmp_path: Path, data: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_config(recipe(tmp_path, data, **change))


def test_bad_pairs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table"):
        read_pairs(tmp_path)
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "caption": "x"}\n{"image": "b.jpg", "caption": 3}\n')
    with pytest.raises(DataError, match="row 2"):
        read_pairs(tmp_path)
    with pytest.raises(DataError, match="do not fill"):
        next(batches(3, 16, 0))
