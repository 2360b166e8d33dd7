"""open_clip on torch: the reference on a CPU, and what runs on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder.errors import ModelError
from dual_encoder.open_clip_model import OpenClipModel
from dual_encoder.text_tower import encode_text, is_cuttable

_BATCH = 64  # texts a call


class TorchRuntime:
    """Unnormalised features from open_clip's own towers; bf16 converts the weights, else fp32.

    Raises ModelError where there is no such device, no driver for it, or too little memory on it.
    """

    name = "torch"
    streams = 1

    def __init__(self, source: OpenClipModel, device: str, precision: str) -> None:
        import torch

        self.precision = precision
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        try:
            self.device = torch.device(device)
            self._model = source.model.to(self.device, self._dtype)
        except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
            raise ModelError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
        self._cuttable = is_cuttable(source.model)
        self._context_length = int(source.tokenizer.context_length)

    def encode_rows(self, rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Token ids of each text, int64 (length,) -> float32 (n, dim)."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # so that short texts are not padded to long ones
        parts = []
        for start in range(0, len(rows), _BATCH):
            texts = [rows[i] for i in order[start : start + _BATCH]]
            tokens = np.zeros((len(texts), len(texts[-1]) if self._cuttable else self._context_length), dtype=np.int64)
            for row, text in zip(tokens, texts, strict=True):
                row[: len(text)] = text
            parts.append(self._encode_tokens(tokens))
        features = np.empty((len(rows), parts[0].shape[1]), dtype=np.float32)
        features[order] = np.concatenate(parts)
        return features

    def _encode_tokens(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        import torch

        ids = torch.from_numpy(tokens).to(self.device)
        with torch.inference_mode():
            features = encode_text(self._model, ids) if self._cuttable else self._model.encode_text(ids)
        return self._numpy(features)

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (n, 3, H, W) -> float32 (n, dim)."""
        import torch

        with torch.inference_mode():
            features = self._model.encode_image(torch.from_numpy(pixels).to(self.device, self._dtype))
        return self._numpy(features)

    @staticmethod
    def _numpy(features: Any) -> NDArray[np.float32]:
        return features.float().cpu().numpy()  # type: ignore[no-any-return]
