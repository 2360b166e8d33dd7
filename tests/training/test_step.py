"""One step gives the gradient of the whole batch, however the batch is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.batch import Collate
from training.config import TrainConfig
from training.distributed import Processes
from training.model import new_student
from training.pairs import PairDataset, read_pairs
from training.step import Step


@pytest.mark.parametrize(("architecture", "objective"), [("vit", "masked_language"), ("coca", "captioning")])
def test_uneven_micro_batches(
    config: Callable[..., TrainConfig], data: Path, architecture: str, objective: str
) -> None:
    """Of three pictures two and one, whose captions have different numbers of tokens."""
    settings = config(architecture, objectives={objective: 1, "info_nce": 0.5}, captions_per_image=2)
    torch.manual_seed(0)
    student = new_student(settings)
    samples = PairDataset(read_pairs(data), student.preprocess, captions=2)
    batch = Collate(student.tokenizer)([samples[number, number] for number in range(3)])
    step = Step(settings, student.model, student.preprocess, student.tokenizer, Processes(), torch.device("cpu"))
    found = []
    for micro_batch in (0, 2):
        step.config = settings.model_copy(update={"micro_batch": micro_batch})
        values = step(batch, 0)
        found.append((values, torch.cat([p.grad.flatten() for p in step.parameters() if p.grad is not None])))
        for parameter in step.parameters():
            parameter.grad = None
    (whole, gradient), (parts, others) = found
    assert parts == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(others, gradient, rtol=1e-4, atol=1e-6)
