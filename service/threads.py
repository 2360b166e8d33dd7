"""Who computes on how many threads: the one place where that is decided.

The towers' matrix products are nearly all of a request's cost, so the encoder has every core and nothing else starts
a pool that would push its threads off them:

- FAISS computes on the one thread that calls it. Each calling thread would otherwise get an OpenMP pool of its own
  (facebookresearch/faiss#2731, #1108), whose threads spin at barriers that the encoder's threads hold up: 16 graph
  searches took 1.2 ms on one thread and 12 on two beside a busy encoder. A search is 1 % of a request.
- The tokeniser computes on the thread that calls it: a batch of queries is too small to split.
- Pictures are decoded on as many threads as cores: that is as much work as encoding them, and overlaps with it.
- The encoder works on several batches at once, each on a part of the cores (docs/performance.md says
  why): two streams of one core answered 1.2 times the queries of one stream of two, side by side on a busy machine.
  Queries that come one at a time have every core, by a second copy of each tower.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dual_encoder.cores import cores


@dataclass(frozen=True)
class Threads:
    """`encoder` cores, shared by its streams; `decoders` and `search` threads."""

    encoder: int
    decoders: int
    search: int = 1

    def limit_search(self) -> None:
        """Call on the thread that searches: OpenMP's setting counts for the thread that makes it."""
        from vector_index.kinds import load_faiss

        load_faiss().omp_set_num_threads(self.search)


def share(workers: int = 1) -> Threads:
    """The share of one of `workers` processes in this machine's cores."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    own = max(1, cores() // workers)
    return Threads(encoder=own, decoders=own)
