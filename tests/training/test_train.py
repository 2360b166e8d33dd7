"""Whole runs: they learn, resume exactly, share work among processes, and stop with a word of advice."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dual_encoder.files import locked
from dual_encoder.record import read_record
from training.config import TrainConfig, read_config
from training.model import _half, save_model
from training.pairs import DataError, read_pairs
from training.train import Progress, TrainingError, _next, train

Config = Callable[..., TrainConfig]
Recipe = Callable[..., Path]
Limit = Callable[[int], AbstractContextManager[None]]
pytestmark = pytest.mark.filterwarnings("ignore")


class Killed(Exception):
    pass


def losses_of(config: TrainConfig) -> list[float]:
    losses: list[float] = []
    train(config, lambda p: losses.append(p.loss))
    return losses


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("resnet", {"ema": 0.9}),
        ("vit", {"objectives": {"masked_language": 0.5, "info_nce": 1}, "micro_batch": 8, "negatives_per_image": 1}),
    ],
)
def test_a_killed_run_resumes_bit_for_bit(
    tmp_path: Path, recipe: Recipe, architecture: str, options: dict[str, Any]
) -> None:
    whole = train(read_config(recipe(tmp_path / "a", architecture, **options)))

    def kill(progress: Progress) -> None:
        if progress.step == 4:
            raise Killed

    config = read_config(recipe(tmp_path / "b", architecture, **options))
    with pytest.raises(Killed):
        train(config, kill)
    resumed = train(config)
    a, b = (load_file(folder / "open_clip_model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("resnet", {}),
        ("resnet", {"captions_per_image": 2, "caption_choice": "length", "crop": 0.8, "precision": "bf16"}),
        ("vit", {"objectives": {"sigmoid": 1}}),
        ("vit", {"objectives": {"masked_language": 1, "info_nce": 0.5}}),
        ("vit", {"objectives": {"distillation": 1}, "teacher": "tiny", "micro_batch": 8}),
        ("vit", {"objectives": {"intra_modal": 1, "info_nce": 0.1}, "captions_per_image": 2, "negatives_per_image": 2}),
        ("vit", {"layer_decay": 0.7, "grad_checkpointing": True, "hardness": 0.5, "negatives_per_image": 2}),
        ("coca", {"objectives": {"captioning": 1, "info_nce": 1}, "batch_size": 4}),
    ],
)
def test_learns(config: Config, architecture: str, options: dict[str, Any]) -> None:
    losses = losses_of(config(architecture, steps=12, learning_rate=0.003, **options))
    assert min(losses[-3:]) < losses[0]


@pytest.mark.parametrize("options", [{"lora_rank": 4}, {"lock_image": True}, {"lock_text": True}])
def test_what_is_locked_stays(tmp_path: Path, recipe: Recipe, options: dict[str, Any]) -> None:
    first = train(read_config(recipe(tmp_path / "a", "vit", steps=2)))
    path = recipe(tmp_path / "b", "vit", steps=4, **options, model=str(first))
    before, after = (
        load_file(first / "open_clip_model.safetensors"),
        load_file(train(read_config(path)) / "open_clip_model.safetensors"),
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    if "lock_image" in options:
        assert not any(name.startswith("visual.") for name in changed)
    elif "lock_text" in options:
        assert all(name.startswith("visual.") or name == "logit_scale" for name in changed)
    else:  # LoRA: attention and linear layers alone
        assert all("attn" in name or "mlp" in name or name == "logit_scale" for name in changed)
        assert {name.split(".")[0] for name in changed} >= {"visual", "transformer"}


def test_two_processes_train_as_one(tmp_path: Path, recipe: Recipe) -> None:
    options = {"negatives_per_image": 1, "captions_per_image": 2, "steps": 4,
               "objectives": {"info_nce": 1, "sigmoid": 0.1, "intra_modal": 0.5, "masked_language": 0.5}}  # fmt: skip
    alone = losses_of(read_config(recipe(tmp_path / "a", "vit", **options)))
    path = recipe(tmp_path / "b", "vit", **options)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, "-m", "crossmodal", "train", str(path)],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    together = [float(value) for value in re.findall(r"loss (\d+\.\d+)", done.stderr)]
    assert together == pytest.approx(alone, abs=1e-4)
    assert (tmp_path / "b" / "run" / "model" / "open_clip_model.safetensors").is_file()


def test_trains_from_prepared_data_with_its_loader_processes(tmp_path: Path, data: Path, recipe: Recipe) -> None:
    from training.prepare import Options, prepare_pairs

    prepare_pairs(data / "captions.jsonl", tmp_path / "prepared", Options(splits="train=1"))
    pairs = read_pairs(tmp_path / "prepared")
    assert len(pairs) >= 60
    assert pairs[0].negatives
    assert pairs[0].metadata["shape"]
    assert len(sent := pickle.dumps(pairs)) < 1_000  # to each process of the loader
    assert pickle.loads(sent)[59] == pairs[59]
    options = {"data": str(tmp_path / "prepared"), "workers": 1, "negatives_per_image": 1, "steps": 2}
    assert losses_of(read_config(recipe(tmp_path / "a", **options)))
    shard = next((tmp_path / "prepared").glob("train-*.tar"))
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(DataError, match=rf"{shard.name} has .* bytes instead of"):
        train(read_config(recipe(tmp_path / "b", **options)))
    with pytest.raises(DataError, match="no split 'dev'; it has train"):
        read_pairs(tmp_path / "prepared", "dev")


def test_validation_and_tensorboard(config: Config, data: Path) -> None:
    settings = config(steps=4, validation=str(data), validate_every=2)
    judged: list[dict[str, float]] = []
    train(settings, lambda p: judged.append(p.validation) if p.validation else None)
    assert len(judged) == 2
    assert set(judged[0]) == {"text_to_image recall@1", "image_to_text recall@1"}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(settings.out / "tensorboard"))
    events.Reload()
    assert {"loss", "temperature", "pairs a second", "gradient norm"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


def test_what_is_decayed_and_how_much(config: Config) -> None:
    """Neither gains nor biases, of the head either; and as the recipe says when a run goes on."""
    settings = config("vit", steps=1, batch_size=2, objectives={"masked_language": 1, "info_nce": 1})
    train(settings)
    train(settings.model_copy(update={"steps": 2, "weight_decay": 0.3}))
    optimiser = torch.load(settings.out / "checkpoint.pt", weights_only=True)["optimiser"]
    assert {group["weight_decay"] for group in optimiser["param_groups"]} == {0.3, 0.0}
    decayed = [number for group in optimiser["param_groups"] if group["weight_decay"] for number in group["params"]]
    assert len(decayed) > 10
    assert all(optimiser["state"][number]["exp_avg"].ndim > 1 for number in decayed)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_another_architecture_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    path = recipe(tmp_path, steps=1)
    train(read_config(path))
    with pytest.raises(TrainingError, match="other locks, LoRA or EMA"):
        train(read_config(recipe(tmp_path, steps=2, ema=0.9)))
    with pytest.raises(TrainingError, match="layer_decay"):
        train(read_config(recipe(tmp_path, steps=2, layer_decay=0.5)))
    with pytest.raises(TrainingError, match="other seed, crop: choose"):
        train(read_config(recipe(tmp_path, steps=2, learning_rate=1e-4, seed=7, crop=0.5)))
    with pytest.raises(TrainingError, match="another architecture"):
        train(read_config(recipe(tmp_path, "vit", steps=2)))
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(TrainingError, match="cannot be read as a checkpoint"):
        train(read_config(path))


def test_data_that_have_grown_are_refused(tmp_path: Path, config: Config, data: Path) -> None:
    """The same seed would give other batches."""
    rows = (data / "captions.jsonl").read_text("utf-8").replace('"images/', f'"{data}/images/').splitlines()
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(rows[:16]), "utf-8")
    settings = config(steps=1, data=str(table))
    train(settings)
    table.write_text("\n".join(rows[:17]), "utf-8")
    with pytest.raises(TrainingError, match=r"checkpoint\.pt was written with 16 pairs, not 17"):
        train(settings.model_copy(update={"steps": 2}))


def test_fewer_steps_than_are_done_are_refused(config: Config) -> None:
    """The card would tell of a shorter run than the model had."""
    settings = config(steps=2)
    train(settings)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt has 2 steps behind it, more than steps: 1"):
        train(settings.model_copy(update={"steps": 1}))


def test_what_is_wrong_with_the_validation_is_said_at_first(tmp_path: Path, config: Config) -> None:
    prepared = {"format": "crossmodal-pairs", "version": 1, "splits": {"train": {}}}
    (tmp_path / "manifest.json").write_text(json.dumps(prepared))
    settings = config(steps=1, validation=str(tmp_path))
    with pytest.raises(DataError, match="no split 'val'; it has train"):
        train(settings)
    (tmp_path / "empty.jsonl").write_text('{"image": "a.jpg", "caption": " "}')
    with pytest.raises(TrainingError, match=r"validation: .*empty\.jsonl: every caption is empty"):
        train(config(steps=1, validation=str(tmp_path / "empty.jsonl")))
    assert not (settings.out / "checkpoint.pt").exists()


def test_a_picture_that_vanished_is_named(tmp_path: Path, config: Config, data: Path) -> None:
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text("utf-8").splitlines()]
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(json.dumps({**row, "image": str(data / row["image"])}) for row in rows[:16]))
    table.write_text(table.read_text().replace("0000003.jpg", "gone.jpg"))
    with pytest.raises(DataError, match=r"gone\.jpg: No such file"):
        train(config(data=str(table), steps=1))


def test_what_goes_wrong_in_a_reader_is_told_in_a_line(config: Config) -> None:
    def batch(error: Exception) -> Iterator[Any]:
        try:
            raise error
        except Exception:
            torch._utils.ExceptionWrapper(where="in DataLoader worker process 0").reraise()  # as torch brings it here
        yield

    with pytest.raises(DataError) as told:
        _next(batch(DataError("gone.jpg: No such file")))
    assert str(told.value) == "gone.jpg: No such file"

    def die(_: Progress) -> None:
        raise RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. ")  # torch says so anywhere

    with pytest.raises(TrainingError, match="a process that reads pictures has died"):
        train(config(steps=1), die)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"learning_rate": 1e30, "warmup_steps": 0, "gradient_clip": 1e30}, "lower learning_rate"),
        ({"max_logit_scale": 14.0, "clamp_patience": 2}, "temperature has been at its clamp"),
        ({"objectives": {"captioning": 1}}, "needs a CoCa"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"objectives": {"distillation": 1}, "teacher": "no-such-model"}, "teacher: .*no-such-model"),
        ({"batch_size": 65}, "65 pairs|64 pairs do not fill"),
        ({"device": "cuda:99"}, r"device 'cuda:99': there are \d+ CUDA devices here"),
    ],
)
def test_advice(config: Config, options: dict[str, Any], advice: str) -> None:
    with pytest.raises((TrainingError, DataError), match=advice):
        train(config(**options))


def test_out_of_memory_says_what_to_lower(tmp_path: Path, recipe: Recipe) -> None:
    """In a process of its own: not every library in this one survives a refused allocation."""
    code = (
        "import sys, torch, training.train\n"
        "training.train.set_training = lambda _: torch.empty(2**46, dtype=torch.uint8)  # the allocator refuses\n"
        "from crossmodal.main import main; sys.argv[1:] = ['train', sys.argv[1]]; main()"
    )
    path = str(recipe(tmp_path))
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "set micro_batch below 16" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path, recipe: Recipe, at_most: Limit) -> None:
    """The second checkpoint does not fit: files may not grow beyond half the first one's size."""
    train(read_config(recipe(tmp_path, steps=3)))
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    before = checkpoint.read_bytes()
    with at_most(len(before) // 2), pytest.raises(TrainingError, match="the last good checkpoint is kept"):
        train(read_config(recipe(tmp_path, steps=6)))
    assert checkpoint.read_bytes() == before
    assert not checkpoint.with_suffix(".tmp").exists()


def test_one_run_at_a_time(tmp_path: Path, recipe: Recipe) -> None:
    """Two would write one checkpoint over the other's."""
    config = read_config(recipe(tmp_path))
    config.out.mkdir()
    with locked(config.out), pytest.raises(TrainingError, match=r"run: another run writes there"):
        train(config)


def test_a_file_in_the_way_of_a_run(config: Config) -> None:
    settings = config()
    settings.out.write_text("")
    with pytest.raises(TrainingError, match="a file is in its way"):
        train(settings)


def test_what_is_too_large_for_half_precision_stays_whole() -> None:
    assert _half(torch.tensor([1.5, 1e6])).tolist() == [1.5, 1e6]
    assert _half(torch.tensor([1.5])).dtype == torch.float16
    assert _half(torch.tensor(2**40)).item() == 2**40


def test_a_saved_model_is_what_open_clip_loads(tmp_path: Path, config: Config) -> None:
    import open_clip

    from training.model import new_student

    student = new_student(config("vit"))
    save_model(
        student.model, student.architecture, student.preprocess, student.tokenizer, tmp_path / "saved", {"pairs": 1}
    )
    assert read_record(tmp_path / "saved/training.json")["pairs"] == 1
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'saved'}").eval()
    tokens = student.tokenizer(["a red star"])
    with torch.no_grad():
        cosine = torch.cosine_similarity(loaded.encode_text(tokens), student.model.eval().encode_text(tokens))
    assert cosine.item() > 0.9999


def test_a_model_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, at_most: Limit
) -> None:
    from training.model import new_student

    student, out = new_student(config("vit")), tmp_path / "saved"

    def save(pairs: int) -> dict[str, bytes]:
        save_model(student.model, student.architecture, student.preprocess, student.tokenizer, out, {"pairs": pairs})
        return {file.name: file.read_bytes() for file in out.iterdir()}

    before = save(1)
    real = Path.write_text

    def write_text(path: Path, *arguments: Any) -> int:  # half of it, and then the disk is full
        real(path, arguments[0][:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", write_text)
        with pytest.raises(TrainingError, match="No space left"):
            save(2)
    weights = len(before["open_clip_model.safetensors"])
    with at_most(weights // 2), pytest.raises(TrainingError, match=r"^could not write .*saved: .*File too large"):
        save(2)  # safetensors writes them, in native code
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert list(tmp_path.glob("saved*")) == [out]
    assert save(2) != before


def test_a_first_model_appears_at_once(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.model import new_student

    student, out = new_student(config("vit")), tmp_path / "runs" / "saved"

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(Killed):
        save_model(student.model, student.architecture, student.preprocess, student.tokenizer, out, {})
    assert not out.exists()
