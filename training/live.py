"""A model in training, looked at as the encoder that evaluation expects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

_BATCH = 256


class LiveEncoder:
    """Texts and pictures -> L2-normalised float32 (n, dim), by an open_clip model as it is now."""

    def __init__(self, model: Any, preprocess: Preprocess, tokenizer: Any, dim: int, device: torch.device) -> None:
        self.preprocess, self.dim = preprocess, dim
        self._model, self._tokenizer, self._device = model, tokenizer, device

    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        encode = self._model.encode_text
        return self._encode([self._tokenizer(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)], encode)

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        return self._encode([torch.from_numpy(pixels)], self._model.encode_image)

    def _encode(self, batches: list[Any], encode: Any) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            parts = [torch.nn.functional.normalize(encode(b.to(self._device)).float(), dim=-1) for b in batches]
            return torch.cat(parts).cpu().numpy()
