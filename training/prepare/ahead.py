"""Work done ahead on other threads, taken in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def map_ahead(pool: Executor, work: Callable[[_In], _Out], items: Iterable[_In], ahead: int) -> Iterator[_Out]:
    """`map` over a stream, with at most `ahead` items under way; the results come in the order of `items`."""
    stream = iter(items)
    queue: deque[Future[_Out]] = deque(pool.submit(work, item) for item in islice(stream, ahead))
    try:
        while queue:
            result = queue.popleft().result()
            for item in islice(stream, 1):
                queue.append(pool.submit(work, item))
            yield result
    finally:
        for future in queue:
            future.cancel()
