"""How a function of one tensor is run over the pieces of a batch: as it is, in padded buffers, or as CUDA graphs.

A row of its result must depend on that row of its input alone: beside the rows of a piece lies what was left there.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Function = Callable[[torch.Tensor], torch.Tensor]
Key = tuple[Any, ...]

_SAME = 0.999  # cosine of what a graph gives with what its function gives; of bf16 it is 0.99999
_capturing = threading.Lock()  # in one process no two captures may be under way


class Direct:
    """Runs it on the piece as it is, whatever its shape."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, function: Function, batch: Iterable[tuple[NDArray[Any], int]]) -> NDArray[np.float32]:
        """Pieces (n, …) and the sizes they are to have -> what the function gives, float32 (all n, dim)."""
        with torch.inference_mode():
            found = [self._piece(function, torch.from_numpy(rows), size) for rows, size in batch]
            return torch.cat(found).cpu().numpy()

    def _piece(self, function: Function, rows: torch.Tensor, size: int) -> torch.Tensor:
        return function(rows.to(self.device)).float()


class Padded(Direct):
    """Runs it on a buffer of each shape that came, which is kept."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._buffers: dict[Key, torch.Tensor] = {}

    def _piece(self, function: Function, rows: torch.Tensor, size: int) -> torch.Tensor:
        key = (function, size, *rows.shape[1:], rows.dtype)
        if key not in self._buffers:
            self._buffers[key] = torch.zeros((size, *rows.shape[1:]), dtype=rows.dtype, device=self.device)
        buffer = self._buffers[key]
        self._fill(buffer[: len(rows)], rows)
        # A copy: what the function gives may lie where the next piece is computed.
        return self._run(key, buffer, len(rows))[: len(rows)].to(torch.float32, copy=True)

    def _fill(self, part: torch.Tensor, rows: torch.Tensor) -> None:
        part.copy_(rows)

    def _run(self, key: Key, buffer: torch.Tensor, count: int) -> torch.Tensor:
        result: torch.Tensor = key[0](buffer)
        return result


class Recorded(Padded):
    """On a GPU: a shape that comes again is recorded, and from then on replayed, which spares the launches.

    While one piece is computed the next is copied: through pinned memory, on a stream of its own. All graphs share one
    pool of memory, so they are replayed on one stream, one after the other. A recording is compared with what the
    function itself gives; where it differs or fails (an operation that must wait for the GPU cannot be recorded), the
    function is called from then on, and a line says so.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        with torch.cuda.device(device):
            self._compute, self._copies = torch.cuda.Stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()
            self._pinned = cycle([_Pinned(), _Pinned()])
            torch.cuda.synchronize()  # the weights have come, on another stream
        self._graphs: dict[Key, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._seen: set[Key] = set()
        self.recording = True

    def __call__(self, function: Function, batch: Iterable[tuple[NDArray[Any], int]]) -> NDArray[np.float32]:
        with torch.cuda.device(self.device), torch.cuda.stream(self._compute):
            return super().__call__(function, batch)

    def _fill(self, part: torch.Tensor, rows: torch.Tensor) -> None:
        if not self.recording:
            super()._fill(part, rows)
            return
        pinned = next(self._pinned)
        with torch.cuda.stream(self._copies):
            there = pinned.put(rows).to(self.device, non_blocking=True)
            pinned.copied.record()
        self._compute.wait_event(pinned.copied)
        there.record_stream(self._compute)  # its memory is free for others once that stream has read it
        part.copy_(there)

    def _run(self, key: Key, buffer: torch.Tensor, count: int) -> torch.Tensor:
        if key in self._graphs:
            graph, result = self._graphs[key]
            graph.replay()
            return result
        result = super()._run(key, buffer, count)  # the first time also readies what must be there before a recording
        if self.recording and key in self._seen:
            self._record(key, buffer, result[:count])
        self._seen.add(key)
        return result

    def _record(self, key: Key, buffer: torch.Tensor, expected: torch.Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the GPU meanwhile: thread_local says that this is no mistake.
            with _capturing, torch.cuda.graph(
                graph, pool=self._pool, stream=self._compute, capture_error_mode="thread_local"
            ):  # fmt: skip
                result = key[0](buffer)
            graph.replay()
            got = result[: len(expected)]
            cosine = float(torch.cosine_similarity(got.float(), expected.float(), dim=1).min())
            if cosine > _SAME:
                self._graphs[key] = graph, result
                return
            why = f"cosine {cosine:.4f} with what the model gives"
        except RuntimeError as error:
            why = " ".join(str(error.__context__ or error).split())[:200]
            # Nothing of the failure is left on a new one.
            self._compute = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.recording = False
        print(f"warning: this model is run without CUDA graphs from here on, more slowly: {why}", file=sys.stderr)


class _Pinned:
    """Memory that a GPU copies from by itself; `copied` is when it has."""

    def __init__(self) -> None:
        self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._memory = torch.empty(0, dtype=torch.uint8)

    def put(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows, in here, once what was in here before has been copied."""
        self.copied.synchronize()
        if rows.nbytes > self._memory.nbytes:
            self._memory = torch.empty(rows.nbytes, dtype=torch.uint8, pin_memory=True)
        return self._memory[: rows.nbytes].view(rows.dtype).view(rows.shape).copy_(rows)
