"""8-bit copies of exported towers: weights and activations, scaled by what real texts and pictures make of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dual_encoder.errors import ModelError, RuntimeMissing
from dual_encoder.files import in_native_code
from dual_encoder.openvino_runtime import TOWERS, core, int8_path
from dual_encoder.packing import EndOfText, calls_of

_WHOLE = ["Convolution"]  # of a ResNet cost 10 points of recall; a vision transformer has one, 3 % of its arithmetic


@dataclass(frozen=True)
class Examples:
    """Texts, and RGB pictures, like those that the model will see: some hundred of each are enough. Used once."""

    texts: Sequence[str]
    images: Iterable[Image.Image]


def write_int8(
    directory: Path,
    rows: Sequence[NDArray[np.int64]],
    pixels: Iterable[NDArray[np.float32]],
    context_length: int,
    end_of_text: EndOfText,
) -> None:
    """Write `text.int8.xml` and `image.int8.xml` beside the towers of an exported directory.

    Matrix products get 8-bit weights and activations; convolutions and embeddings stay.
    `rows` are token ids, each int64 (length,); `pixels` preprocessed pictures, each float32 (3, H, W). Activations are
    smoothed first (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438), for single channels of a transformer's are far
    larger than the rest. Raises RuntimeMissing, ModelError where there are no examples, and OSError.
    """
    os.environ.setdefault("NNCF_CI", "1")  # or it reports its use to its makers
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise RuntimeMissing(f"8-bit towers need {error.name}: pip install 'crossmodal[train]'") from None
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function sets handlers that are not its own, too
    examples: dict[str, list[tuple[NDArray[Any], ...]]] = {
        "text": list(calls_of(rows, context_length, end_of_text)),
        "image": [(each[np.newaxis],) for each in pixels],
    }
    for tower in TOWERS:
        if not examples[tower]:
            raise ModelError(f"8-bit towers are scaled by examples, and there is no {tower} among them")
        small = nncf.quantize(
            core().read_model(directory / f"{tower}.onnx"),
            nncf.Dataset(examples[tower], tuple),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(types=_WHOLE, validate=False),
            subset_size=len(examples[tower]),
        )
        path = int8_path(directory, tower)
        with in_native_code(path):
            openvino.save_model(small, path)
