"""A model reference -> open_clip's model, in float32 and evaluation mode, with its config and preprocessing."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dual_encoder.errors import ModelError, RuntimeMissing, brief
from dual_encoder.preprocess import Preprocess
from dual_encoder.record import check_weights
from dual_encoder.reference import ModelReference


@dataclass(frozen=True)
class OpenClipModel:
    """`config` is open_clip's model_cfg; `fingerprint` is a SHA-256 over weights, config and preprocessing."""

    model: Any
    config: dict[str, Any]
    preprocess: Preprocess
    tokenizer: Any
    fingerprint: str

    @property
    def dim(self) -> int:
        return int(self.config["embed_dim"])

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.exp().item())

    @property
    def logit_bias(self) -> float | None:
        """What is added to every logit of a model trained with the sigmoid loss (SigLIP); others have none."""
        bias = getattr(self.model, "logit_bias", None)
        return None if bias is None else float(bias.item())


def load_open_clip(reference: ModelReference, *, trust_pickle: bool = False) -> OpenClipModel:
    """Raises RuntimeMissing without torch and open_clip, ModelError for whatever open_clip cannot load.

    Weights are read from safetensors. A pickle (.bin, .pt, .pth) can hold a program: only `trust_pickle` reads it.
    """
    try:
        import open_clip
        import torch
    except ImportError as error:
        raise RuntimeMissing(
            f"model {reference.name!r} needs torch and open_clip ({error}): pip install 'crossmodal[train]' or [gpu]"
        ) from None

    if reference.directory is not None:
        check_weights(reference.directory)
    source = {
        "directory": f"local-dir:{reference.directory}",
        "hub": f"hf-hub:{reference.repository}",
    }.get(reference.kind, reference.architecture)
    if reference.kind in ("random", "tag") and open_clip.get_model_config(reference.architecture) is None:
        raise ModelError(f"model {reference.name!r}: open_clip knows no architecture {reference.architecture!r}")
    if reference.kind == "random":
        print(f"warning: {reference.name} has random weights: for tests and benchmarks only", file=sys.stderr)
    try:
        if reference.revision is not None:
            source = f"local-dir:{_snapshot(reference)}"
        with torch.random.fork_rng(devices=[]), nullcontext() if trust_pickle else no_pickles(reference):
            torch.manual_seed(0)  # random weights are the same in every process: an index finds its model again
            wanted = reference.kind != "random"
            model = open_clip.create_model(source, pretrained=reference.tag, require_pretrained=wanted)
            if reference.kind == "random":
                draw_projection(model)
        tokenizer = open_clip.get_tokenizer(source)
        config = open_clip.get_model_config(source)
    except ImportError as error:  # transformers, timm: only some models need them
        raise RuntimeMissing(
            f"model {reference.name!r} needs the package {error.name or error}: pip install {error.name or ''}".rstrip()
        ) from None
    except ModelError:
        raise
    except Exception as error:  # open_clip raises whatever its parts raise
        raise ModelError(f"model {reference.name!r} cannot be loaded: {brief(error)}") from None
    if config is None:
        raise ModelError(f"model {reference.name!r}: open_clip gives no config for it")
    preprocess = Preprocess.from_config(open_clip.get_model_preprocess_cfg(model))
    model = model.float().eval().requires_grad_(False)
    return OpenClipModel(model, config, preprocess, tokenizer, fingerprint(model, config, preprocess))


@contextmanager
def no_pickles(reference: ModelReference) -> Iterator[None]:
    """Within, whatever asks torch for a pickle gets ModelError: open_clip, timm and transformers each have their ways.

    For the whole process: load one model at a time.
    """
    import torch

    def refuse(file: Any, *_: Any, **__: Any) -> NoReturn:
        name = Path(file).name if isinstance(file, str | Path) else "its weights"
        raise ModelError(
            f"model {reference.name!r}: {name} is a pickle, which can run whatever program is in it. If you trust who "
            f"made it, write it once as safetensors: crossmodal model export {reference.name} --out DIR --trust-pickle"
        )

    kept = torch.load, torch.jit.load
    torch.load = torch.jit.load = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load, torch.jit.load = kept


def _snapshot(reference: ModelReference) -> str:
    """The directory of a hub's repository as it was at a revision: open_clip itself asks for the newest alone."""
    from huggingface_hub import snapshot_download

    wanted = ["open_clip_*.json", "open_clip_*.safetensors", "open_clip_*.bin", "tokenizer*", "vocab*", "merges*",
              "special_tokens_map.json", "*.model"]  # fmt: skip
    return snapshot_download(reference.repository, revision=reference.revision, allow_patterns=wanted)


def draw_projection(model: Any) -> None:
    """open_clip leaves the projection of CoCa's decoder to what memory holds, at times 1e36: draw it as CLIP's are."""
    from torch import nn

    if (decoder := getattr(model, "text_decoder", None)) is not None:
        nn.init.normal_(decoder.text_projection, std=len(decoder.text_projection) ** -0.5)


def fingerprint(model: Any, config: dict[str, Any], preprocess: Preprocess) -> str:
    """SHA-256 (hex) over every weight as float32, the config and the preprocessing."""
    digest = hashlib.sha256(json.dumps([config, preprocess.to_config()], sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().cpu().numpy()
        if np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float32)
        digest.update(f"{name}{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
