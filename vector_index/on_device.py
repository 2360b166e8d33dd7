"""Exact search on a GPU, through torch: what FAISS finds by comparing with every vector, but for rounding and ties."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from vector_index import kinds
from vector_index.kinds import CHUNK_ROWS, Floats, Ints

_BLOCK: Final = 4 * CHUNK_ROWS  # vectors compared at a time
_SHARE: Final = 0.5  # of the free memory that may be taken


class OnDevice:
    """The vectors of a FAISS storage, held as they are stored there: in fp16 where it has them so, else in fp32.

    Products are of fp32 either way. Safe to use from several threads.
    """

    def __init__(self, storage: Any, device: str) -> None:
        """`storage` is what `kinds.storage_of` finds. Raises RuntimeError: there is no memory, or no such device."""
        import torch

        dtype = torch.float16 if _is_half(storage) else torch.float32
        self._device = device
        self._vectors = torch.empty((storage.ntotal, storage.d), dtype=dtype, device=device)
        for start in range(0, storage.ntotal, CHUNK_ROWS):
            rows = np.arange(start, min(start + CHUNK_ROWS, storage.ntotal))
            self._vectors[start : start + len(rows)] = torch.from_numpy(storage.reconstruct_batch(rows))

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """The nearest to each of float32 (q, dim): scores, float32, descending, and rows, int64, (q, k); k ≤ rows."""
        import torch

        with torch.inference_mode():
            asked = torch.from_numpy(queries).to(self._device)
            best = torch.empty((len(asked), 0), device=self._device)
            found = torch.empty((len(asked), 0), dtype=torch.int64, device=self._device)
            for start in range(0, len(self._vectors), _BLOCK):
                block = self._vectors[start : start + _BLOCK]
                scores, places = (asked @ block.float().T).topk(min(k, len(block)), dim=1)
                best, found = torch.hstack([best, scores]), torch.hstack([found, places + start])
                best, order = best.topk(min(k, best.shape[1]), dim=1)
                found = found.gather(1, order)
            return best.cpu().numpy(), found.cpu().numpy()


def fits(storage: Any, device: str) -> bool:
    """Whether a GPU has room for the vectors of a storage, and as much again."""
    import torch

    if torch.device(device).type != "cuda":
        return True
    wanted = storage.ntotal * storage.d * (2 if _is_half(storage) else 4)
    return bool(wanted <= _SHARE * torch.cuda.mem_get_info(device)[0])


def _is_half(storage: Any) -> bool:
    faiss = kinds.load_faiss()
    return isinstance(storage, faiss.IndexScalarQuantizer) and storage.sq.qtype == faiss.ScalarQuantizer.QT_fp16
