"""Train a dual encoder, from scratch or from another, alone or in several processes. Reads top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dual_encoder.files import locked
from training.batch import Batch, Collate
from training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from training.config import TrainConfig
from training.distributed import Processes, join, leave
from training.model import Student, TrainingError, merged, new_student, parameter_groups, save_model, set_training
from training.pairs import DataError, PairDataset, Pairs, batches, read_pairs
from training.step import Step

if TYPE_CHECKING:
    import torch

__all__ = ["Progress", "TrainingError", "train"]

# What a run keeps to its end: its card tells of one recipe. Rates, steps and the like may change when it goes on.
_FIXED = (
    "model", "data", "seed", "batch_size", "objectives", "teacher", "captions_per_image", "negatives_per_image",
    "caption_choice", "negative_choice", "crop", "fresh_text",
)  # fmt: skip
_READER_DIED = "a process that reads pictures has died, for want of memory perhaps: lower workers, or set it to 0"


@dataclass(frozen=True)
class Progress:
    """One line of a run: `loss` is the mean since the last line; `temperature` is τ = 1 / logit scale."""

    step: int
    steps: int
    loss: float
    losses: dict[str, float]
    temperature: float
    pairs_per_second: float
    seconds_left: float
    validation: dict[str, float] | None = None


def train(config: TrainConfig, on_progress: Callable[[Progress], None] | None = None) -> Path:
    """Run, or resume, what the config says; returns the directory of the trained model, which open_clip loads.

    A killed run continues from its last checkpoint with the same batches, and on a CPU ends bit for bit where an
    uninterrupted one does. Under torchrun the processes share each batch, and train as one process with the whole of it
    would. Raises TrainingError, DataError, ConfigError.
    """
    import torch

    device_type = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    try:
        found = torch.device(device_type)
        if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
            raise RuntimeError(f"there are {torch.cuda.device_count()} CUDA devices here")
    except RuntimeError as error:
        raise TrainingError(f"device {config.device!r}: {error}") from None
    processes = join(found.type)
    try:
        config.out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise TrainingError(f"{config.out}: `out` is to be a folder, and a file is in its way") from None
    try:
        with locked(config.out) if processes.rank == 0 else nullcontext():
            return _train(config, processes, torch.device(_device(device_type, processes)), on_progress)
    except BlockingIOError:
        raise TrainingError(f"{config.out}: another run writes there") from None
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise TrainingError(_out_of_memory(config, str(error))) from None
    except RuntimeError as error:  # what the CPU allocator raises, and torch wherever a reader dies
        if "DataLoader worker (pid" in str(error):
            raise TrainingError(_READER_DIED) from None
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise TrainingError(_out_of_memory(config, str(error))) from None
    finally:
        leave()


def _train(
    config: TrainConfig, processes: Processes, device: torch.device, on_progress: Callable[[Progress], None] | None
) -> Path:
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    if config.batch_size % processes.size:
        raise TrainingError(f"batch_size {config.batch_size} does not divide among {processes.size} processes")
    pairs = read_pairs(config.data)
    torch.manual_seed(config.seed)
    student = new_student(config)
    model = student.model.to(device, memory_format=torch.channels_last)
    teacher = _teacher(config, device)
    try:
        step = Step(config, model, student.preprocess, student.tokenizer, processes, device, teacher)
    except ValueError as error:
        raise TrainingError(f"objectives: {error}") from None
    groups = parameter_groups(model, config.learning_rate, config.weight_decay, config.layer_decay)
    if step.head is not None:
        groups += parameter_groups(step.head, config.learning_rate, config.weight_decay, layer_decay=1.0)
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=device.type == "cuda")
    average: Any = None
    if config.ema:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)  # type: ignore[no-untyped-call]

    checkpoint = config.out / CHECKPOINT
    parts = {"model": model, "optimiser": optimiser, "head": step.head, "average": average}
    wanted = [{name: group[name] for name in ("weight_decay", "scale")} for group in groups]
    done = _restore(checkpoint, config, student, len(pairs), parts) if checkpoint.exists() else 0
    for group, now in zip(optimiser.param_groups, wanted, strict=True):
        group.update(now)  # not as the checkpoint has them
    leader = processes.rank == 0
    board = _board(config.out, done) if leader else None

    stream = iter(_loader(config, pairs, processes, student, teacher, device, start=done))
    validate = _validation(config, student, device) if leader and config.validation else None
    set_training(model)
    values: list[dict[str, float]] = []
    began, since, clamped = time.monotonic(), done, 0
    while done < config.steps:
        rate = _schedule(done, config.warmup_steps, config.steps)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * group["scale"] * rate
        optimiser.zero_grad(set_to_none=True)
        found = step(_next(stream), done)
        loss = sum(weight * found[name] for name, weight in config.objectives.items())
        norm = torch.nn.utils.clip_grad_norm_(step.parameters(), config.gradient_clip)
        if not (math.isfinite(loss) and torch.isfinite(norm)):
            raise TrainingError(_diverged(config, done, loss, checkpoint))
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(config.max_logit_scale))
        if average is not None:
            average.update_parameters(model)
        scale = float(model.logit_scale.detach().exp())
        clamped = clamped + 1 if scale > 0.99 * config.max_logit_scale else 0
        if config.clamp_patience and clamped > config.clamp_patience:
            raise TrainingError(_at_the_clamp(config, done, checkpoint))
        done += 1
        if leader:
            values.append({"loss": loss, **found})

        last = done == config.steps
        if leader and (done % config.checkpoint_every == 0 or last):
            state = {name: part.state_dict() for name, part in parts.items() if part is not None}
            facts = {"step": done, "architecture": student.architecture, "recipe": _recipe(config), "pairs": len(pairs)}
            save_checkpoint(checkpoint, {**facts, **state})
        judged = None
        if validate and (done % config.validate_every == 0 or last):
            judged = validate(average.module if average is not None else model)
            set_training(model)
        if leader and (done % config.log_every == 0 or last or judged):
            mean = {name: float(np.mean([v[name] for v in values])) for name in values[0]}
            speed = (done - since) / (time.monotonic() - began)
            shown = Progress(
                done, config.steps, mean.pop("loss"), mean, 1 / scale, speed * config.batch_size,
                (config.steps - done) / speed, judged,
            )  # fmt: skip
            _log(board, shown, float(norm), optimiser.param_groups[0]["lr"])
            if on_progress:
                on_progress(shown)
            values.clear()
    if board:
        board.close()
    if not leader:
        return config.out / "model"
    best = average.module if average is not None else model
    out, made = config.out / "model", _made(config, len(pairs), processes, device)
    return save_model(merged(best), student.architecture, student.preprocess, student.tokenizer, out, made)


def _made(config: TrainConfig, pairs: int, processes: Processes, device: torch.device) -> dict[str, Any]:
    """What a model's card tells of its training; folders by their names alone, which is all that others can use."""
    import torch

    return {
        "pairs": pairs,
        "processes": processes.size,
        "device": device.type,
        "torch": torch.__version__,
        "recipe": _recipe(config),
    }


def _recipe(config: TrainConfig) -> dict[str, Any]:
    """What of a config shapes the model; folders by their names."""
    recipe = config.model_dump(mode="json", exclude={"out", "workers", "checkpoint_every", "log_every"})
    for name in ("model", "data", "validation", "teacher"):
        if recipe[name] and recipe[name] != "tiny" and Path(recipe[name]).exists():
            recipe[name] = "/".join(Path(recipe[name]).resolve().parts[-2:])
    return recipe


def _device(device_type: str, processes: Processes) -> str:
    return f"cuda:{processes.local_rank}" if device_type == "cuda" and processes.size > 1 else device_type


def _teacher(config: TrainConfig, device: torch.device) -> Any:
    if "distillation" not in config.objectives or not config.teacher:
        return None
    from dual_encoder import load_encoder
    from dual_encoder.errors import ModelError

    try:
        return load_encoder(config.teacher, device=str(device))
    except ModelError as error:
        raise TrainingError(f"teacher: {error}") from None


def _loader(
    config: TrainConfig, pairs: Pairs, processes: Processes, student: Student, teacher: Any, device: torch.device,
    start: int,
) -> Any:  # fmt: skip
    from torch.utils.data import DataLoader

    share = processes.share(config.batch_size)
    dataset = PairDataset(
        pairs, student.preprocess, captions=config.captions_per_image, negatives=config.negatives_per_image,
        by_length=config.caption_choice == "length", reordered=config.negative_choice == "reordered", crop=config.crop,
        teacher=teacher.preprocess if teacher else None,
    )  # fmt: skip
    order: Any = (batch[share] for batch in batches(len(pairs), config.batch_size, config.seed, start))
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=order,
        collate_fn=Collate(student.tokenizer),
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        pin_memory=device.type == "cuda",
        # Not forked: torch's threads do not survive it.
        multiprocessing_context="spawn" if config.workers else None,
    )


def _next(stream: Iterator[Batch]) -> Batch:
    try:
        return next(stream)
    except DataError as error:  # from another process it comes with that one's traceback
        raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None
    except (ConnectionError, EOFError):  # of the pipe between the two
        raise TrainingError(_READER_DIED) from None


def _schedule(step: int, warmup: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to zero; a factor of the learning rate."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _restore(path: Path, config: TrainConfig, student: Student, pairs: int, parts: dict[str, Any]) -> int:
    state = load_checkpoint(path, student.architecture)
    now, before = _recipe(config), state.get("recipe", {})
    if other := [name for name in _FIXED if name in before and before[name] != now[name]]:
        raise TrainingError(f"{path} was written with other {', '.join(other)}: choose another `out` or remove it")
    if (had := state.get("pairs", pairs)) != pairs:
        raise TrainingError(f"{path} was written with {had:,} pairs, not {pairs:,}: choose another `out` or remove it")
    try:
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(state[name])
    except (KeyError, ValueError, RuntimeError):
        raise TrainingError(
            f"{path} was written with other locks, LoRA or EMA, or another layer_decay (or weight_decay 0): "
            "choose another `out` or remove it"
        ) from None
    if (done := int(state["step"])) > config.steps:
        raise TrainingError(f"{path} has {done} steps behind it, more than steps: {config.steps}")
    return done


def _validation(config: TrainConfig, student: Student, device: torch.device) -> Callable[[Any], dict[str, float]]:
    from training.evaluation.gallery import read_gallery
    from training.evaluation.retrieval import WAYS, retrieve
    from training.live import LiveEncoder

    try:  # before the first step
        gallery = read_gallery(config.validation, split="val")  # type: ignore[arg-type]
    except ValueError as error:
        raise TrainingError(f"validation: {error}") from None

    def validate(model: Any) -> dict[str, float]:
        model.eval()
        encoder = LiveEncoder(model, student.preprocess, student.tokenizer, student.architecture["embed_dim"], device)
        asked = retrieve(encoder, gallery).asked  # type: ignore[arg-type]
        return {f"{way} recall@1": float(np.mean(asked[way].ranks.first <= 1)) for way in WAYS}

    return validate


def _board(out: Path, step: int) -> Any:
    """TensorBoard, where it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step)


def _log(board: Any, shown: Progress, norm: float, rate: float) -> None:
    if board is None:
        return
    scalars = {
        "loss": shown.loss, **{f"objective/{name}": value for name, value in shown.losses.items()},
        "temperature": shown.temperature, "gradient norm": norm, "learning rate": rate,
        "pairs a second": shown.pairs_per_second,
        **{f"validation/{name}": value for name, value in (shown.validation or {}).items()},
    }  # fmt: skip
    for name, value in scalars.items():
        board.add_scalar(name, value, shown.step)
    board.flush()


def _diverged(config: TrainConfig, step: int, loss: float, checkpoint: Path) -> str:
    return (
        f"the loss became {loss} at step {step}: lower learning_rate ({config.learning_rate:g}), raise warmup_steps "
        f"({config.warmup_steps}) or use precision fp32{_kept(checkpoint)}"
    )


def _at_the_clamp(config: TrainConfig, step: int, checkpoint: Path) -> str:
    return (
        f"the temperature has been at its clamp (1/{config.max_logit_scale:g}) for {config.clamp_patience} steps at "
        f"step {step}: lower learning_rate ({config.learning_rate:g}), look for pairs that are many times in the data, "
        f"raise max_logit_scale, or set clamp_patience: 0 to let it{_kept(checkpoint)}"
    )


def _kept(checkpoint: Path) -> str:
    return f"; {checkpoint} is the last good state" if checkpoint.exists() else ""


def _out_of_memory(config: TrainConfig, detail: str) -> str:
    now = config.micro_batch or config.batch_size
    return (
        f"out of memory: set micro_batch below {now} (the loss stays that of the whole batch), or "
        f"grad_checkpointing: true; ({detail.splitlines()[0][:160] if detail else 'no detail'})"
    )
