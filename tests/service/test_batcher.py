"""Batches never mix answers up, fail alone, and a stuck encoder is seen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batcher import Batcher


@given(st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, 50), min_size=1, max_size=5)), max_size=40))
def test_every_caller_gets_its_own_answers(calls: list[tuple[int, list[int]]]) -> None:
    def square(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise ValueError("13")
        return [item * item for item in items]

    async def main() -> None:
        batcher = Batcher()
        lanes = [batcher.lane(square, 4), batcher.lane(lambda items: [-item for item in items], 3)]

        async def call(lane: int, items: list[int]) -> object:
            await asyncio.sleep(0)
            return await lanes[lane](items)

        answers = await asyncio.gather(*(call(*c) for c in calls), return_exceptions=True)
        for (lane, items), answer in zip(calls, answers, strict=True):
            if lane == 0 and 13 in items:
                assert isinstance(answer, ValueError)
            else:
                assert answer == ([-i for i in items] if lane else [i * i for i in items])
        batcher.close()

    asyncio.run(main())


def test_what_waits_becomes_one_batch_and_what_left_is_dropped() -> None:
    batches: list[list[int]] = []
    gate = threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        if items[0] == 0:
            gate.wait(10)
        return list(items)

    async def main() -> None:
        batcher = Batcher()
        submit = batcher.lane(work, 8)
        first = asyncio.ensure_future(submit([0]))
        while not batches:
            await asyncio.sleep(0.01)
        assert batcher.busy_for > 0
        others = [asyncio.ensure_future(submit([n])) for n in range(1, 6)]
        others[2].cancel()
        await asyncio.sleep(0.01)
        assert batcher.waiting == 5
        gate.set()
        await first
        results = await asyncio.gather(*others, return_exceptions=True)
        assert batches == [[0], [1, 2, 4, 5]]
        assert isinstance(results[2], asyncio.CancelledError)
        assert batcher.busy_for == 0
        batcher.close()

    asyncio.run(main())


def test_readiness_tells_of_a_stuck_encoder(index: object) -> None:
    from fastapi.testclient import TestClient

    from service.app import create_app
    from service.settings import Settings

    app = create_app(Settings(index=index, stall_timeout=0.2, request_timeout=0.5))  # type: ignore[arg-type]
    with TestClient(app) as client:
        engine, gate = app.state.engine, threading.Event()
        encode = engine.encoder.encode_tokens
        engine.encoder.encode_tokens = lambda tokens: (gate.wait(10), encode(tokens))[1]
        assert client.get("/readyz").status_code == 200
        assert client.get("/v1/search/images?text=x").status_code == 503
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        gate.set()
        for _ in range(100):
            if client.get("/readyz").status_code == 200:
                break
        assert client.get("/v1/search/images?text=x").status_code == 200


def test_an_error_reaches_its_caller_alone() -> None:
    async def main() -> None:
        batcher = Batcher()
        submit = batcher.lane(lambda items: [1 // item for item in items], 8)
        good, bad = asyncio.ensure_future(submit([1])), asyncio.ensure_future(submit([0]))
        with pytest.raises(ZeroDivisionError):
            await bad
        assert await good == [1]
        batcher.close()

    asyncio.run(main())
