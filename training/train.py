"""Train a dual encoder from scratch: symmetric InfoNCE with a learned temperature. Reads top to bottom."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dual_encoder.preprocess import Preprocess
from dual_encoder.text_tower import encode_text, is_cuttable
from training.config import TrainConfig
from training.objectives import info_nce
from training.pairs import PairDataset, batches, read_pairs

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint.pt"


class TrainingError(Exception):
    """A run that cannot start or go on; the message says what to try."""


@dataclass(frozen=True)
class Progress:
    """One line of a run: `loss` is the mean since the last line; `temperature` is τ = 1 / logit scale."""

    step: int
    steps: int
    loss: float
    temperature: float
    pairs_per_second: float
    seconds_left: float


def train(config: TrainConfig, on_progress: Callable[[Progress], None] | None = None) -> Path:
    """Run, or resume, what the config says; returns the directory of the trained model, which open_clip loads.

    A killed run continues from its last checkpoint with the same batches, and on a CPU ends bit for bit where an
    uninterrupted one does. Raises TrainingError, DataError, ConfigError.
    """
    import torch
    from torch.utils.data import DataLoader

    device = _device(config.device)
    torch.manual_seed(config.seed)
    architecture, preprocess = _architecture(config.model)
    model = _new_model(architecture).to(device, memory_format=torch.channels_last)
    tokenizer = _tokenizer(architecture)
    optimiser = torch.optim.AdamW(
        _parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98)
    )

    config.out.mkdir(parents=True, exist_ok=True)
    checkpoint = config.out / CHECKPOINT
    step = _restore(checkpoint, model, optimiser, architecture) if checkpoint.exists() else 0

    pairs = read_pairs(config.data)
    loader: DataLoader[Any] = DataLoader(
        PairDataset(pairs, preprocess),  # type: ignore[arg-type]
        batch_sampler=batches(len(pairs), config.batch_size, config.seed, start=step),
        collate_fn=_collate,
        num_workers=config.workers,
        prefetch_factor=2 if config.workers else None,
        pin_memory=device.type == "cuda",
    )
    mean = torch.tensor(preprocess.mean, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(preprocess.std, device=device).view(1, 3, 1, 1) * 255

    model.train()
    losses: list[float] = []
    began, since = time.monotonic(), step
    stream = iter(loader)
    while step < config.steps:
        pixels, captions = next(stream)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config.warmup_steps, config.steps)
        pixels = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            images = model.encode_image((pixels - mean) / std)
            texts = _encode_captions(model, tokenizer(captions).to(device))
        unit = torch.nn.functional.normalize
        loss = info_nce(unit(images.float(), dim=-1), unit(texts.float(), dim=-1), model.logit_scale.exp())
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} at step {step}: lower learning_rate ({config.learning_rate:g}), "
                f"raise warmup_steps ({config.warmup_steps}) or use precision fp32; {checkpoint} is the last good state"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(config.max_logit_scale))
        step += 1
        losses.append(loss.item())
        if on_progress and (step % config.log_every == 0 or step == config.steps):
            rate = (step - since) / (time.monotonic() - began)
            temperature = 1 / model.logit_scale.exp().item()
            left = (config.steps - step) / rate
            on_progress(
                Progress(step, config.steps, float(np.mean(losses)), temperature, rate * config.batch_size, left)
            )
            losses.clear()
        if step % config.checkpoint_every == 0 or step == config.steps:
            _save(checkpoint, {"step": step, "architecture": architecture, "model": model.state_dict(),
                               "optimiser": optimiser.state_dict()})  # fmt: skip
    return save_model(model, architecture, preprocess, config.out / "model")


def save_model(model: Any, architecture: dict[str, Any], preprocess: Preprocess, out: Path) -> Path:
    """Write `open_clip_config.json` and `open_clip_model.safetensors` (fp16), what open_clip loads by `local-dir:`."""
    import torch
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(weights, out / "open_clip_model.safetensors", metadata={"format": "pt"})
    config = {"model_cfg": architecture, "preprocess_cfg": {**preprocess.to_config(), "mode": "RGB"}}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return out


def _device(name: str) -> torch.device:
    import torch

    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _architecture(name: str) -> tuple[dict[str, Any], Preprocess]:
    """The open_clip config of a name or of a JSON file, and the preprocessing that goes with it."""
    import open_clip
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    if name.endswith(".json"):
        if not Path(name).is_file():
            raise TrainingError(f"model: no such file {name}")
        architecture = json.loads(Path(name).read_text("utf-8"))
    else:
        architecture = open_clip.get_model_config(name)
        if architecture is None:
            raise TrainingError(f"model: open_clip knows no architecture {name!r}")
    size = architecture["vision_cfg"].get("image_size", 224)
    defaults = {"size": size, "mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD}
    return architecture, Preprocess.from_config(defaults)


def _new_model(architecture: dict[str, Any]) -> Any:
    from open_clip.model import CLIP, CustomTextCLIP

    options = dict(architecture)
    custom = options.pop("custom_text", False) or "hf_model_name" in options["text_cfg"]
    return (CustomTextCLIP if custom else CLIP)(**options)


def _tokenizer(architecture: dict[str, Any]) -> Any:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = architecture["text_cfg"]
    length = text.get("context_length", 77)
    if name := text.get("hf_tokenizer_name"):
        return HFTokenizer(name, context_length=length, **text.get("tokenizer_kwargs", {}))
    return SimpleTokenizer(context_length=length)


def _encode_captions(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Features of a batch of texts; long and short ones are encoded apart, so that short ones cost what they should."""
    if not is_cuttable(model):
        return model.encode_text(tokens)  # type: ignore[no-any-return]
    import torch

    lengths = (tokens != 0).sum(1)
    order = lengths.argsort()
    parts = [encode_text(model, tokens[rows, : int(lengths[rows[-1]])]) for rows in order.chunk(4)]
    return torch.cat(parts)[order.argsort()]


def _collate(items: list[tuple[Any, str]]) -> tuple[torch.Tensor, list[str]]:
    import torch

    return torch.from_numpy(np.stack([pixels for pixels, _ in items])), [caption for _, caption in items]


def _parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    # Gains, biases, the temperature and embeddings are not decayed, as CLIP does.
    decayed = [p for n, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embedding" in n]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _schedule(step: int, warmup: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to zero; a factor of the learning rate."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a crash or a full disk leaves the last good one."""
    import torch

    unfinished = path.with_suffix(".tmp")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise TrainingError(f"could not write {path}: {error.strerror}; the last good checkpoint is kept") from None
    unfinished.replace(path)


def _restore(path: Path, model: Any, optimiser: Any, architecture: dict[str, Any]) -> int:
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["architecture"] != architecture:
        raise TrainingError(f"{path} is a checkpoint of another architecture: choose another `out` or remove it")
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
