"""Remembered vectors are the ones computed, bounded in bytes, and what runs is shared and let go."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.memo import LOOKUPS, Memo, Vector


def vector(number: int) -> Vector:
    return np.full(8, number, np.float32)


def count(kind: str, result: str) -> float:
    return LOOKUPS.labels(kind, result)._value.get()  # type: ignore[no-any-return]


@given(st.lists(st.integers(0, 9), max_size=80), st.integers(0, 3000))
def test_the_bytes_are_bounded_and_the_vectors_right(asked: list[int], most: int) -> None:
    async def main() -> None:
        memo = Memo("test", most)
        for number in asked:

            def start(number: int = number) -> asyncio.Future[Vector]:
                future: asyncio.Future[Vector] = asyncio.get_running_loop().create_future()
                future.set_result(vector(number))
                return future

            assert (await memo.get(b"%d" % number, start))[0] == number
            await asyncio.sleep(0)
            assert 0 <= memo.bytes <= most

    asyncio.run(main())


def test_the_least_recently_used_go_first() -> None:
    async def main() -> None:
        started: list[int] = []
        memo = Memo("order", 2 * (400 + 32 + 1))

        async def get(number: int) -> None:
            async def compute() -> Vector:
                started.append(number)
                return vector(number)

            await memo.get(b"%d" % number, lambda: asyncio.ensure_future(compute()))
            await asyncio.sleep(0)

        for number in (1, 2, 1, 3, 1, 2):
            await get(number)
        assert started == [1, 2, 3, 2]
        assert (count("order", "hit"), count("order", "miss")) == (2, 4)

    asyncio.run(main())


def test_equal_queries_in_flight_are_computed_once_and_outlive_all_but_the_last() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        memo = Memo("flight", 0)
        started: list[asyncio.Future[Vector]] = []

        def start() -> asyncio.Future[Vector]:
            started.append(loop.create_future())
            return started[-1]

        waiting = [asyncio.ensure_future(memo.get(b"k", start)) for _ in range(5)]
        await asyncio.sleep(0)
        assert len(started) == 1
        for task in waiting[:4]:
            task.cancel()
        await asyncio.gather(*waiting[:4], return_exceptions=True)
        assert not started[0].done()
        started[0].set_result(vector(4))
        assert (await waiting[4])[0] == 4
        assert count("flight", "shared") == 4

        gone = asyncio.ensure_future(memo.get(b"k", start))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert started[1].cancelled()
        again = asyncio.ensure_future(memo.get(b"k", start))
        await asyncio.sleep(0)
        assert len(started) == 3
        started[2].set_exception(ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await again
        assert memo.bytes == 0

    asyncio.run(main())
