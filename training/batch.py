"""A batch of pairs as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from training.pairs import Sample

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Batch:
    """n pictures, uint8 (n, H, W, 3), with c captions and m negatives each: tokens int64 (n · (c + m), length).

    `said` int64 (n, c + m), `known` (n, any, padded with the first) and `group` (n,) are digests, as of `Sample`.
    """

    pixels: torch.Tensor
    tokens: torch.Tensor
    said: torch.Tensor
    known: torch.Tensor
    group: torch.Tensor
    captions: list[str]
    teacher_pixels: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.pixels)

    def pin_memory(self) -> Batch:
        tensors = {name: value.pin_memory() for name, value in vars(self).items() if hasattr(value, "pin_memory")}
        return Batch(**{**vars(self), **tensors})


class Collate:
    """Samples -> Batch; tokenises, in the process that reads the pictures."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, samples: list[Sample]) -> Batch:
        import torch

        most = max(len(sample.known) for sample in samples)
        known = [sample.known + sample.known[:1] * (most - len(sample.known)) for sample in samples]
        texts = [text for sample in samples for text in sample.captions + sample.negatives]
        teacher = [s.teacher_pixels for s in samples if s.teacher_pixels is not None]
        return Batch(
            pixels=torch.from_numpy(np.stack([sample.pixels for sample in samples])),
            tokens=self._tokenizer(texts),
            said=torch.tensor([sample.said for sample in samples]),
            known=torch.tensor(known),
            group=torch.tensor([sample.group for sample in samples]),
            captions=[text for sample in samples for text in sample.captions],
            teacher_pixels=torch.from_numpy(np.stack(teacher)) if teacher else None,
        )
