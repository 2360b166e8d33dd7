"""clip-retrieval's inference over a folder of pictures. Run by benchmarks.index in an environment of its own.

clip_retrieval_inference.py MODEL PICTURES OUT

Prints SECONDS and how long it took from the first file to the last batch written: without loading the model, and
without starting and stopping its logger. Batches are of 32, which a CPU encodes no slower than the default 256, so that
reading and encoding overlap; it reads in as many processes as there are cores.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class Timed:
    """A reader that tells how long it was iterated over."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __iter__(self) -> Iterator[Any]:
        began = time.perf_counter()
        yield from self._reader
        print(f"SECONDS {time.perf_counter() - began:.3f}", flush=True)


def main(model: Path, pictures: str, out: str) -> None:
    from clip_retrieval.clip_inference import worker

    class Runner(worker.Runner):  # type: ignore[misc, name-defined]
        def __init__(self, reader_builder: Callable[[Any], Any], *rest: Any, **named: Any) -> None:
            super().__init__(lambda sampler: Timed(reader_builder(sampler)), *rest, **named)

    worker.Runner = Runner
    worker.worker(
        tasks=[0],
        input_dataset=pictures,
        output_folder=out,
        output_partition_count=1,
        input_format="files",
        batch_size=32,
        num_prepro_workers=len(os.sched_getaffinity(0)),
        enable_text=False,
        enable_image=True,
        enable_metadata=False,
        clip_model=f"open_clip:ViT-B-32/{model / 'open_clip_model.safetensors'}",
        use_jit=False,  # open_clip has no traced ViT-B-32 without pretrained weights
    )


if __name__ == "__main__":  # its logger is spawned, which imports this file again
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
