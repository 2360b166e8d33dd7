"""The dual encoder that is trained: new or from a reference, whole, locked or with LoRA; and how it is saved."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dual_encoder.errors import ModelError, brief
from dual_encoder.files import in_native_code, sha256, staged
from dual_encoder.preprocess import Preprocess
from dual_encoder.record import write_record
from training.config import TrainConfig

if TYPE_CHECKING:
    import torch

MADE = "training.json"
_BLOCK = re.compile(r"\.(?:resblocks|blocks|layers?|stages)\.(\d+)\.|\.layer(\d)\.")
_EMBEDDING = re.compile(r"embedding|pos_embed|cls_token")  # the latter two are timm's
_BOTTOM = re.compile(r"embed|visual\.(conv|bn)\d|ln_pre|patch")


class TrainingError(Exception):
    """A run that cannot start or go on; the message says what to try."""


@dataclass(frozen=True)
class Student:
    """`model` is open_clip's; `architecture` its model_cfg; `pretrained`: not from random weights."""

    model: Any
    architecture: dict[str, Any]
    preprocess: Preprocess
    tokenizer: Any
    pretrained: bool


def new_student(config: TrainConfig) -> Student:
    """Build or load what `config.model` names, and set what moves.

    An architecture (or a JSON file with one) starts from random weights; anything else from its own. Raises
    TrainingError.
    """
    student = _from_scratch(config.model) if _is_architecture(config.model) else _from_reference(config.model)
    if config.fresh_text:
        student = _with_fresh_text(student)
    if "captioning" in config.objectives and not hasattr(student.model, "text_decoder"):
        raise TrainingError(f"objectives: captioning needs a CoCa architecture; {config.model} is none")
    if "sigmoid" in config.objectives:
        student = _with_bias(student)
    if config.lock_image:
        student.model.visual.lock(unlocked_groups=0)  # Zhai et al., 2022, "LiT"
    if config.lock_text:
        if not hasattr(student.model, "lock_text_tower"):
            raise TrainingError(f"lock_text: open_clip cannot lock the text tower of {config.model}")
        student.model.lock_text_tower(unlocked_layers=0, freeze_layer_norm=True)
    if config.grad_checkpointing:
        student.model.set_grad_checkpointing(True)
    if config.lora_rank:
        student = replace(student, model=_with_lora(student.model, config.lora_rank))
    return student


def _is_architecture(name: str) -> bool:
    import open_clip

    return name.endswith(".json") or (name != "tiny" and open_clip.get_model_config(name) is not None)


def _from_scratch(name: str) -> Student:
    import open_clip
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    if name.endswith(".json"):
        try:
            architecture = json.loads(Path(name).read_text("utf-8"))
            architecture = architecture.get("model_cfg", architecture)
            size = architecture["vision_cfg"].get("image_size", 224)
            _ = architecture["embed_dim"], architecture["text_cfg"]
        except OSError as error:
            raise TrainingError(f"model: {name}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(f"model: {name} is not an open_clip architecture: {error!r}") from None
    else:
        architecture = open_clip.get_model_config(name)
        size = architecture["vision_cfg"].get("image_size", 224)
    preprocess = Preprocess.from_config({"size": size, "mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD})
    try:
        model = _build(architecture)
    except Exception as error:  # open_clip raises whatever its parts raise
        raise TrainingError(f"model: open_clip cannot build {name}: {brief(error)}") from None
    return Student(model, architecture, preprocess, _tokenizer(architecture), pretrained=False)


def _build(architecture: dict[str, Any]) -> Any:
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    from dual_encoder.open_clip_model import draw_projection

    options = dict(architecture)
    custom = options.pop("custom_text", False) or "hf_model_name" in options["text_cfg"]
    if "multimodal_cfg" in options:
        model = CoCa(**options)
        draw_projection(model)
        return model
    return (CustomTextCLIP if custom else CLIP)(**options)


def _tokenizer(architecture: dict[str, Any]) -> Any:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = architecture["text_cfg"]
    length = text.get("context_length", 77)
    if name := text.get("hf_tokenizer_name"):
        return HFTokenizer(name, context_length=length, **text.get("tokenizer_kwargs", {}))
    return SimpleTokenizer(context_length=length)


def _from_reference(name: str) -> Student:
    from dual_encoder.open_clip_model import load_open_clip
    from dual_encoder.reference import parse_reference

    try:
        loaded = load_open_clip(parse_reference(name))
    except ModelError as error:
        raise TrainingError(f"model: {error}") from None
    loaded.model.requires_grad_(True)
    return Student(loaded.model, loaded.config, loaded.preprocess, loaded.tokenizer, pretrained=True)


def _with_fresh_text(student: Student) -> Student:
    """Random weights for all but the image tower ("Uu" of Zhai et al., 2022, "LiT")."""
    model = _build(student.architecture)
    model.visual.load_state_dict(student.model.visual.state_dict())
    return replace(student, model=model)


def _with_bias(student: Student) -> Student:
    """The sigmoid loss adds a learned bias to the logits; open_clip's config has a name for its start."""
    import torch

    if getattr(student.model, "logit_bias", None) is not None:
        return student
    model, start = student.model, -10.0
    model.logit_bias = torch.nn.Parameter(torch.tensor(start))
    if not student.pretrained:
        with torch.no_grad():
            model.logit_scale.fill_(math.log(10))
    return replace(student, architecture={**student.architecture, "init_logit_bias": start})


def _with_lora(model: Any, rank: int) -> Any:
    """Low-rank additions to every attention and every linear layer (Hu et al., 2022, "LoRA"); all else is frozen."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise TrainingError("lora_rank needs peft: pip install 'crossmodal[train]'") from None
    names = list(_adaptable(model))
    if not names:
        raise TrainingError("lora_rank: the model has no attention and no linear layer to adapt")
    adapted: Any = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names))
    for name in ("logit_scale", "logit_bias"):
        if getattr(model, name, None) is not None:
            getattr(model, name).requires_grad_(True)
    return adapted


def _adaptable(model: Any) -> Iterator[str]:
    from open_clip.modified_resnet import AttentionPool2d
    from torch import nn

    # These use the weights of their linear layers without calling them, so an addition to those would do nothing.
    whole = [name for name, part in model.named_modules() if isinstance(part, nn.MultiheadAttention | AttentionPool2d)]
    for name, part in model.named_modules():
        inside = any(name.startswith(f"{parent}.") for parent in whole)
        if isinstance(part, nn.MultiheadAttention) or (isinstance(part, nn.Linear) and not inside):
            yield name


def set_training(model: Any) -> None:
    """Training mode, but for the running statistics of what is frozen."""
    from torch.nn.modules.batchnorm import _BatchNorm

    model.train()
    for part in model.modules():
        if isinstance(part, _BatchNorm) and not any(p.requires_grad for p in part.parameters()):
            part.eval()


def merged(model: Any) -> Any:
    """The model without adapters: LoRA's additions become part of the weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def parameter_groups(model: Any, learning_rate: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW, each with its share of the rate as `scale`.

    Gains, biases and the temperature are not decayed, as CLIP does, nor are embeddings. With `layer_decay` below 1 each
    block moves that much slower than the one above it (Bao et al., 2022, "BEiT").
    """
    depth = dict.fromkeys((False, True), 0)
    for name, _ in model.named_parameters():
        if (block := _block(name)) is not None:
            depth[_is_visual(name)] = max(depth[_is_visual(name)], block)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = weight_decay if parameter.ndim >= 2 and not _EMBEDDING.search(name) else 0.0
        top = depth[_is_visual(name)] + 1
        block = _block(name)
        level = block if block is not None else 0 if _BOTTOM.search(name) else top
        scale = 1.0 if name.endswith(("logit_scale", "logit_bias")) else layer_decay ** (top - level)
        group = groups.setdefault(
            (decay, scale), {"params": [], "weight_decay": decay, "scale": scale, "lr": learning_rate * scale}
        )
        group["params"].append(parameter)
    if not groups:
        raise TrainingError("nothing is left to train")
    return list(groups.values())


def _is_visual(name: str) -> bool:
    return "visual." in name


def _block(name: str) -> int | None:
    """The number of a parameter's block from the bottom, from 1; None outside the blocks."""
    match = _BLOCK.search(f".{name}")
    if not match:
        return None
    return int(match[1]) + 1 if match[1] is not None else int(match[2])


def save_model(
    model: Any, architecture: dict[str, Any], preprocess: Preprocess, tokenizer: Any, out: Path, made: dict[str, Any]
) -> Path:
    """Write `open_clip_config.json` and `open_clip_model.safetensors` (fp16, but for what is too large for it), what
    open_clip loads by `local-dir:`.

    Beside them `training.json` says how the model was `made`, for the card of an export, and the files' SHA-256s. What
    lay at `out`, a model and its export, makes way for all of that at once. Raises TrainingError.
    """
    from safetensors.torch import save_file

    weights = {name: _half(value.detach().cpu()).contiguous() for name, value in model.state_dict().items()}
    config = {"model_cfg": architecture, "preprocess_cfg": {**preprocess.to_config(), "mode": "RGB"}}
    weights_file = "open_clip_model.safetensors"
    try:
        with staged(out) as folder:
            text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
            (folder / "open_clip_config.json").write_text(text, "utf-8")
            if hasattr(tokenizer, "tokenizer"):  # a Hugging Face one: open_clip looks for it beside the weights
                with in_native_code(folder):
                    tokenizer.tokenizer.save_pretrained(folder)
            with in_native_code(folder / weights_file):
                save_file(weights, folder / weights_file, metadata={"format": "pt"})
            (folder / weights_file).chmod(0o644)  # safetensors lets nobody else read it
            files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
            write_record(folder / MADE, {**made, "files": files})
    except OSError as error:
        raise TrainingError(f"could not write {out}: {error.strerror or error}") from None
    return out


def _half(weights: torch.Tensor) -> torch.Tensor:
    """float16, unless a running variance, say, would become infinite; whole numbers stay."""
    half = weights.half() if weights.is_floating_point() else weights
    return half if half.isfinite().all() else weights
