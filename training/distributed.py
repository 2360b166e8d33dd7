"""Several processes that train as one, started by torchrun; alone, everything here does nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_BUCKET = 25_000_000  # elements of a gradient all-reduce: large enough to fill a link, small beside the model


@dataclass(frozen=True)
class Processes:
    """This process is number `rank` of `size`; `local_rank` is its number on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def share(self, batch_size: int) -> slice:
        """The rows of a batch that this process answers for."""
        each = batch_size // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        """The parts of all processes, in their order, along the first dimension; without gradient."""
        if self.size == 1:
            return part
        import torch
        from torch.distributed import all_gather

        parts = [torch.empty_like(part) for _ in range(self.size)]
        all_gather(parts, part.contiguous())
        return torch.cat(parts)

    def add_up(self, tensors: Iterable[torch.Tensor | None]) -> None:
        """Replace each tensor by its sum over all processes, many at a time."""
        if self.size == 1:
            return
        bucket: list[torch.Tensor] = []
        for tensor in tensors:
            if tensor is None:
                continue
            bucket.append(tensor)
            if sum(t.numel() for t in bucket) > _BUCKET:
                self._add_up(bucket)
                bucket = []
        if bucket:
            self._add_up(bucket)

    @staticmethod
    def _add_up(bucket: list[torch.Tensor]) -> None:
        import torch
        from torch.distributed import all_reduce

        flat = torch.cat([tensor.reshape(-1).float() for tensor in bucket])
        all_reduce(flat)
        start = 0
        for tensor in bucket:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()


def join(device_type: str) -> Processes:
    """Join the others if torchrun started this process."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Processes()
    import torch.distributed

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device_type == "cuda" else "gloo")
    return Processes(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))


def leave() -> None:
    """Say goodbye, so that no process waits for one that has ended."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
