"""open_clip on torch: the reference on a CPU, and what runs on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder import buckets
from dual_encoder.errors import ModelError, brief
from dual_encoder.open_clip_model import OpenClipModel
from dual_encoder.text_tower import encode_text, is_cuttable

if TYPE_CHECKING:
    import torch

_BATCH = 64  # texts, or pictures, a call on a CPU
_AMPERE = 8  # the first compute capability with bf16 arithmetic


class TorchRuntime:
    """Unnormalised features from open_clip's own towers; bf16 and fp16 convert the weights.

    `precision` auto is bf16 on a GPU, fp16 where that has no bf16, and fp32 on a CPU. On a GPU batches are cut and
    padded to the ladders of `buckets`, and pictures are scaled there; `padded` does so on a CPU, for tests. Raises
    ModelError where there is no such device, no driver for it, too little memory on it, or no such arithmetic.
    """

    name = "torch"
    streams = 1

    def __init__(self, source: OpenClipModel, device: str, precision: str, *, padded: bool = False) -> None:
        import torch

        from dual_encoder.launch import Direct, Padded, Recorded

        try:
            self.device = torch.device(device)
            on_gpu = self.device.type == "cuda"
            self.precision = _precision(precision, self.device)
            kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
            self._dtype = kinds[self.precision]
            self._model = source.model.to(self.device, self._dtype)
            if on_gpu:  # pixels come with their channels last, and convolutions like them so
                self._model = self._model.to(memory_format=torch.channels_last)
            scale, shift = map(torch.from_numpy, source.preprocess.scale_and_shift())
            self._scale, self._shift = (each.view(3, 1, 1).to(self.device) for each in (scale, shift))
            self._launch = (Recorded if on_gpu else Padded if padded else Direct)(self.device)
        except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
            raise ModelError(f"device {device!r} cannot be used: {brief(error)}") from None
        self.takes_bytes = on_gpu or padded
        self._cuttable = is_cuttable(source.model)
        context = int(source.tokenizer.context_length)
        self._pictures: Sequence[int] = range(1, _BATCH + 1)
        self._texts: Sequence[int] = self._pictures
        self._lengths: Sequence[int] = range(1, context + 1)
        if self.takes_bytes:
            self._pictures, self._texts, self._lengths = buckets.PICTURES, buckets.TEXTS, buckets.lengths(context)
        if not self._cuttable:
            self._lengths = (context,)

    def encode_rows(self, rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Token ids of each text, int64 (length,) -> float32 (n, dim)."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # so that short texts are not padded to long ones

        def piece(start: int, stop: int) -> NDArray[np.int64]:
            texts = [rows[i] for i in order[start:stop]]
            tokens = np.zeros((len(texts), buckets.at_least(self._lengths, len(texts[-1]))), dtype=np.int64)
            for row, text in zip(tokens, texts, strict=True):
                row[: len(text)] = text
            return tokens

        found = self._launch(
            self._encode_tokens,
            ((piece(start, stop), size) for start, stop, size in buckets.pieces(len(rows), self._texts)),
        )
        features = np.empty_like(found)
        features[order] = found
        return features

    def encode_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """float32 (n, 3, H, W), or uint8 (n, H, W, 3) not yet normalised -> float32 (n, dim)."""
        cut = buckets.pieces(len(pixels), self._pictures)
        return self._launch(self._encode_images, ((pixels[start:stop], size) for start, stop, size in cut))

    def _encode_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = encode_text(self._model, tokens) if self._cuttable else self._model.encode_text(tokens)
        return found

    def _encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        if not pixels.is_floating_point():
            pixels = pixels.permute(0, 3, 1, 2) * self._scale - self._shift
        found: torch.Tensor = self._model.encode_image(pixels.to(self._dtype))
        return found


def _precision(asked: str, device: torch.device) -> str:
    """What `auto` stands for on a device. Raises ModelError where it has no such arithmetic."""
    if device.type != "cuda":
        return "fp32" if asked == "auto" else asked
    import torch

    has_bf16 = torch.cuda.get_device_capability(device)[0] >= _AMPERE
    if asked == "bf16" and not has_bf16:
        raise ModelError("precision bf16: this GPU has no bf16 arithmetic; use fp16 or auto")
    return ("bf16" if has_bf16 else "fp16") if asked == "auto" else asked
