"""The exported ONNX files on OpenVINO: what a CPU serves with; needs neither torch nor open_clip."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dual_encoder.errors import ModelError, RuntimeMissing

_LENGTH_STEP = 8  # text lengths are padded to a multiple: OpenVINO keeps a plan for every shape it has seen


class OpenVinoRuntime:
    """Features from text.onnx and image.onnx. `precision` is bf16, fp32, or auto: bf16 where the CPU has it."""

    name = "openvino"

    def __init__(self, directory: Path, precision: str, context_length: int, cuttable: bool) -> None:
        try:
            import openvino
        except ImportError:
            raise RuntimeMissing("serving on a CPU needs OpenVINO: pip install 'crossmodal[cpu]'") from None
        core = openvino.Core()
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not has_bf16:
            raise ModelError("precision bf16: this CPU has no bf16 arithmetic; use fp32 or auto")
        self.precision = "bf16" if precision in ("auto", "bf16") and has_bf16 else "fp32"
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "CACHE_DIR": str(cache_directory() / "openvino"),
        }
        self._context_length, self._cuttable = context_length, cuttable
        try:
            self._text = core.compile_model(directory / "text.onnx", "CPU", options)
            self._image = core.compile_model(directory / "image.onnx", "CPU", options)
        except RuntimeError as error:
            raise ModelError(
                f"{directory}: OpenVINO cannot load the model: {str(error).splitlines()[-1][:200]}"
            ) from None

    def encode_tokens(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64 (n, length) -> float32 (n, dim)."""
        length = self._context_length
        if self._cuttable:
            length = min(length, -(-tokens.shape[1] // _LENGTH_STEP) * _LENGTH_STEP)
        padded = np.zeros((len(tokens), length), dtype=np.int64)
        padded[:, : tokens.shape[1]] = tokens
        return np.array(self._text(padded)[0], dtype=np.float32)

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (n, 3, H, W) -> float32 (n, dim)."""
        return np.array(self._image(pixels)[0], dtype=np.float32)


def cache_directory() -> Path:
    """Where exported and compiled models are kept: $XDG_CACHE_HOME/crossmodal, else ~/.cache/crossmodal."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "crossmodal"
