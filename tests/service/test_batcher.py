"""Batches never mix answers up, keep to their budget, fail alone, and drop what nobody waits for."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batcher import Batcher


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()  # let no thread of a failed test hang


@pytest.fixture
def unhurried() -> Iterator[None]:
    """No other thread runs until this one waits: what is submitted in one go is there as a whole."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(interval)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 50), st.integers(1, 9)), max_size=60),
    st.integers(1, 3),
)
def test_every_caller_gets_its_own_answer(calls: list[tuple[int, int, int]], workers: int) -> None:
    def square(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise ValueError("13")
        return [item * item for item in items]

    async def main() -> None:
        batcher = Batcher("test", workers)
        lanes = [batcher.lane("square", square, 8), batcher.lane("minus", lambda items: [-i for i in items], 5)]
        answers = await asyncio.gather(*(lanes[lane](item, cost) for lane, item, cost in calls), return_exceptions=True)
        batcher.close()
        for (lane, item, _), answer in zip(calls, answers, strict=True):
            if lane == 0 and item == 13:
                assert isinstance(answer, ValueError)
            else:
                assert answer == (-item if lane else item * item)

    asyncio.run(main())


@pytest.mark.parametrize("workers", [1, 2])
def test_thousands_of_interleaved_calls_cancellations_and_failures(workers: int) -> None:
    chance = random.Random(workers)
    began: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        began.extend(items)
        if chance.random() < 0.1:
            time.sleep(0.001)
        if any(item % 97 == 0 for item in items):
            raise ValueError("one of these")
        return [item * 7 + 1 for item in items]

    async def main() -> None:
        batcher = Batcher("test", workers)
        lanes = [batcher.lane(name, work, budget) for name, budget in (("a", 40), ("b", 7))]
        outcomes = {"right": 0, "failed": 0, "cancelled": 0}

        async def call(number: int) -> None:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            future = lanes[number % 2](number, chance.randrange(1, 9))
            if chance.random() < 0.2:
                await asyncio.sleep(0.002 * chance.random())
                future.cancel()
            try:
                assert await future == number * 7 + 1
                outcomes["right"] += 1
            except ValueError:
                assert number % 97 == 0
                outcomes["failed"] += 1
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1

        for start in range(0, 6000, 200):
            await asyncio.gather(*map(call, range(start, start + 200)))
        assert sum(outcomes.values()) == 6000
        assert min(outcomes.values()) > 20
        for _ in range(5000):  # what was cancelled last is dropped when the worker comes to it
            if not batcher.waiting:
                break
            await asyncio.sleep(0.001)
        assert batcher.waiting == 0
        batcher.close()

    asyncio.run(main())


def test_what_waits_becomes_the_next_batch_within_the_budget_and_what_left_is_dropped(gate: threading.Event) -> None:
    batches: list[list[int]] = []

    def work(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        if items[0] == 0:
            gate.wait(10)
        return list(items)

    async def main() -> None:
        batcher = Batcher("test")
        submit = batcher.lane("one", work, 10)
        first = submit(0, 1)
        while not batches:
            await asyncio.sleep(0.001)
        assert batcher.busy_for > 0
        others = [submit(item, cost) for item, cost in ((1, 4), (2, 4), (3, 1), (4, 20), (5, 9), (6, 2))]
        others[2].cancel()
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.gather(first, *others, return_exceptions=True)
        assert batches == [[0], [1, 2], [4], [5], [6]]  # 4 alone is over the budget, and still has its turn
        assert batcher.busy_for == 0
        batcher.close()

    asyncio.run(main())


@pytest.mark.parametrize(("waiting", "beside", "first"), [(6, 0, 6), (5, 0, 3), (6, 1, 3), (6, 4, 6)])
def test_crowds_come_in_larger_batches(unhurried: None, waiting: int, beside: int, first: int) -> None:
    batches: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        batches.append(len(items))
        return list(items)

    async def main() -> None:
        batcher = Batcher("test")
        submit = batcher.lane("one", work, 3, 6)
        other = batcher.lane("other", list, 2, 4)
        await asyncio.gather(*map(submit, range(waiting)), *map(other, range(beside)))
        batcher.close()

    asyncio.run(main())
    assert batches[0] == first


def test_idle_workers_share_a_burst(unhurried: None) -> None:
    batches: list[int] = []
    both = threading.Barrier(2, timeout=10)

    def work(items: Sequence[int]) -> list[int]:
        batches.append(len(items))
        both.wait()
        return list(items)

    async def main() -> None:
        batcher = Batcher("test", 2)
        submit = batcher.lane("one", work, 100)
        assert await asyncio.gather(*(submit(item, 3) for item in range(10))) == list(range(10))
        batcher.close()

    asyncio.run(main())
    assert batches == [5, 5]


def test_a_waiting_lane_is_not_starved_by_a_busy_one(unhurried: None) -> None:
    order: list[str] = []

    async def main() -> None:
        batcher = Batcher("test")
        lanes = {
            name: batcher.lane(name, lambda items, name=name: (order.append(name), list(items))[1], 1)  # type: ignore[misc]
            for name in "ab"
        }
        await asyncio.gather(*(lanes["a"](i, 1) for i in range(6)), lanes["b"](0, 1))
        batcher.close()

    asyncio.run(main())
    assert order.index("b") <= 1


def test_too_few_results_fail_and_a_closed_batcher_ends_its_threads() -> None:
    async def main() -> None:
        batcher = Batcher("short")
        with pytest.raises(RuntimeError, match="0 results for 1 items"):
            await batcher.lane("one", lambda items: [], 4)(1, 1)
        batcher.close()

    asyncio.run(main())
    for _ in range(100):
        if not any(thread.name.startswith("short") for thread in threading.enumerate()):
            return
        time.sleep(0.01)
    pytest.fail("the thread is still there")
