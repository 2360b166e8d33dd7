"""What there is no time for is refused before it is begun; whatever comes to an idle service is not."""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from service.admission import ALLOWANCE, Admission, Allowance
from service.app import create_app
from service.batcher import ITEMS, Batcher
from service.engine import Engine
from service.errors import Problem
from service.loop_lag import LoopLoad
from service.refusals import REFUSALS
from service.settings import Settings


def count(reason: str) -> float:
    return REFUSALS.labels(reason)._value.get()


def test_a_lane_learns_what_its_cost_is_and_forgets_what_was_cancelled() -> None:
    gate = threading.Event()

    def work(items: list[float]) -> list[float]:
        if items[0] < 0:
            gate.wait(10)
        time.sleep(sum(abs(item) for item in items) / 1000)
        return items

    async def main() -> None:
        batcher = Batcher("test")
        lane = batcher.lane("one", work, 10)  # type: ignore[arg-type]
        other = batcher.lane("other", work, 10)  # type: ignore[arg-type]
        assert lane.seconds(5) == batcher.wait(lane) == 0
        for _ in range(5):
            await asyncio.gather(*(lane(10, 10) for _ in range(4)))
            await other(10, 10)
        unit = lane.seconds(10)
        assert 0.01 <= unit < 0.5  # ten took 10 ms, where others do not hold the machine up
        first = lane(-1, 1)
        waiting = [lane(10, 10) for _ in range(20)]
        beside = [other(10, 10) for _ in range(3)]
        assert lane.pending == 201
        assert 20 * unit <= batcher.wait(lane) < 120 * unit
        # The other lane's item waits for its own three and as many turns of the first, not for all of its twenty.
        assert 0.06 <= batcher.wait(other) < 0.7 * batcher.wait(lane)
        for each in waiting:
            each.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert lane.pending == 1
        gate.set()
        await asyncio.gather(first, *beside)
        await asyncio.sleep(0)
        assert batcher.wait(lane) == 0
        batcher.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("wait", "work", "left", "reason"),
    [
        (0.0, 100.0, 1.0, None),  # idle: whatever it takes
        (1.9, 0.1, 10.0, None),
        (2.1, 0.1, 10.0, "overload"),
        (1.0, 0.1, 0.5, "deadline"),
        (1.0, 1.0, 1.5, "deadline"),
    ],
)
def test_the_bound_and_the_deadline(wait: float, work: float, left: float, reason: str | None) -> None:
    admission = Admission(2.0)
    token = ALLOWANCE.set(Allowance(time.monotonic() + left))
    try:
        if reason is None:
            admission.admit(lambda: (wait, work))
            admission.admit(lambda: (99, 99))  # a request that was admitted is not refused half-way
            return
        before = count(reason)
        with pytest.raises(Problem) as refused:
            admission.admit(lambda: (wait, work))
        assert refused.value.status == 503
        assert int((refused.value.headers or {})["Retry-After"]) >= 1
        assert count(reason) == before + 1
    finally:
        ALLOWANCE.reset(token)
    admission.admit(lambda: (99, 99))  # no request: never refused


def test_the_loops_own_work_counts_while_it_is_late() -> None:
    async def main() -> None:
        load = LoopLoad()
        watch = asyncio.create_task(load.watch())
        for _ in range(40):
            burn(0.01)
            load.begun += 10
            await asyncio.sleep(0.03)
        load.requests = 20
        burn(0.1)
        assert not load.full  # late, but there is 20 ms of work
        load.requests = 2000
        assert load.full  # late, and there are 2 s of it
        for _ in range(200):  # until nothing else holds this process up
            load.requests = 0
            await asyncio.sleep(0.05)
            load.requests = 2000
            if not load.full:  # whatever they are at, it is not the loop's to do
                break
        assert not load.full
        watch.cancel()

    asyncio.run(main())


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


@functools.cache
def body(seed: int) -> bytes:
    query = {"image": {"base64": base64.b64encode(jpeg(seed)).decode()}}
    return json.dumps({"query": query, "k": 1}).encode()


class Flood:
    """A service whose encoder takes as long for pictures as the test wants, and clients in its own process."""

    def __init__(self, app: FastAPI, seconds: float) -> None:
        self.app, self.seconds = app, seconds
        self.begun = self.encoded = 0

    async def __aenter__(self) -> Flood:
        self._life = self.app.router.lifespan_context(self.app)
        await self._life.__aenter__()
        encoder = self.app.state.engine.encoder
        encode = encoder.encode_pixels

        def slow(pixels: Any) -> Any:
            self.begun += len(pixels)
            time.sleep(self.seconds * len(pixels))
            self.encoded += len(pixels)
            return encode(pixels)

        encoder.encode_pixels = slow
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://x", timeout=60)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.http.aclose()
        await self._life.__aexit__(*error)

    async def picture(self, seed: int, **headers: str) -> httpx.Response:
        headers = {"Content-Type": "application/json", **headers}
        return await self.http.post("/v1/search/images", content=body(seed), headers=headers)

    async def text(self, text: str, **headers: str) -> httpx.Response:
        return await self.http.post("/v1/search/images", json={"query": {"text": text}, "k": 1}, headers=headers)


def test_a_flood_of_pictures_is_bounded_and_texts_and_health_live_through_it(index: Path) -> None:
    app = create_app(Settings(index=index, cache_bytes=0, queue_seconds=1.0))

    async def main() -> None:
        async with Flood(app, 0.03) as flood:
            for seed in range(8):
                await flood.picture(seed)  # it learns that one takes 0.03 s
            for seed in range(100, 300):
                body(seed)  # drawn before: it is the service's loop that the flood shares
            before = count("overload") + count("loop")
            waves: list[asyncio.Task[httpx.Response]] = []
            for seed in range(100, 300):
                waves.append(asyncio.create_task(flood.picture(seed)))
                await asyncio.sleep(0.002)
            turned_away = 0

            async def text(number: int) -> httpx.Response:
                nonlocal turned_away
                while (answer := await flood.text(f"star {number}")).status_code == 503:  # a busy machine
                    turned_away += 1
                    await asyncio.sleep(0.02)
                return answer

            texts = await asyncio.gather(*map(text, range(5)))
            assert not all(each.done() for each in waves)  # two batches' time, not the queue's
            ready = await flood.http.get("/readyz")
            metrics = (await flood.http.get("/metrics")).text
            found = [await each for each in waves]
            assert [each.status_code for each in texts] == [200] * 5
            good = [each for each in found if each.status_code == 200]
            refused = [each for each in found if each.status_code == 503]
            assert len(good) + len(refused) == 200
            assert len(good) >= 10
            assert len(refused) >= 20
            assert count("overload") + count("loop") == before + len(refused) + turned_away
            assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
            assert refused[0].json()["detail"].startswith("the service is too busy")
            assert ready.status_code == 200
            queued = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines()
                      if line.startswith("crossmodal_queued_seconds")}  # fmt: skip
            assert queued['crossmodal_queued_seconds{stage="image"}'] > 0
            assert (await flood.picture(999)).status_code == 200  # and it is over
            assert app.state.engine.queries.batcher.waiting == 0

    asyncio.run(main())


def test_deadlines(index: Path) -> None:
    app = create_app(Settings(index=index, cache_bytes=0, queue_seconds=60, request_timeout=60))

    async def main() -> None:
        async with Flood(app, 0.2) as flood:
            for header in ("0", "-1", "soon", "1e9", "", "nan", "0.0"):
                answer = await flood.text("x", **{"X-Request-Timeout": header})
                assert answer.status_code == 422, header
                assert "X-Request-Timeout" in answer.json()["detail"]
            assert (await flood.text("x", **{"X-Request-Timeout": "9999"})).status_code == 200
            for seed in range(6):
                await flood.picture(seed)
            encoded, late = flood.encoded, count("deadline")
            waiting = [asyncio.create_task(flood.picture(seed)) for seed in range(20, 32)]  # 0.2 s each, two at a time
            await asyncio.sleep(0.15)
            began = time.perf_counter()
            hopeless = await flood.picture(50, **{"X-Request-Timeout": "0.1"})
            assert hopeless.status_code == 503
            assert "more time than the request has" in hopeless.json()["detail"]
            assert time.perf_counter() - began < 1  # at once: what waits takes longer
            assert [(await each).status_code for each in waiting] == [200] * 12
            assert flood.encoded - encoded == 12
            assert count("deadline") == late + 1

    asyncio.run(main())


def test_what_has_passed_its_deadline_is_never_encoded(index: Path) -> None:
    app = create_app(Settings(index=index, cache_bytes=0, queue_seconds=60))

    async def main() -> None:
        async with Flood(app, 0.0) as flood:
            await flood.picture(0)
            flood.seconds = 0.5  # which the service does not know yet
            busy = [asyncio.create_task(flood.picture(seed)) for seed in range(1, 3)]
            while flood.begun < 3:
                await asyncio.sleep(0.005)
            late = [asyncio.create_task(flood.picture(seed, **{"X-Request-Timeout": "0.2"})) for seed in range(10, 14)]
            answers = [await each for each in late]
            assert [each.status_code for each in answers] == [503] * 4
            assert answers[0].headers["retry-after"]
            await asyncio.gather(*busy)
            await asyncio.sleep(0.1)
            assert flood.encoded == 3
            assert app.state.engine.queries.batcher.waiting == 0

    asyncio.run(main())


def test_one_text_does_not_wait_for_a_batch_job(index: Path) -> None:
    app = create_app(Settings(index=index, cache_bytes=0, queue_seconds=60))

    async def main() -> None:
        async with Flood(app, 0.0) as flood:
            encoder = app.state.engine.encoder
            encode = encoder.encode_rows
            encoder.encode_rows = lambda rows: (time.sleep(0.002 * sum(map(len, rows))), encode(rows))[1]
            job = asyncio.create_task(
                flood.http.post("/v1/embeddings", json={"input": [f"a red star number {n}" for n in range(250)]})
            )
            await asyncio.sleep(0.1)
            began = time.perf_counter()
            assert (await flood.text("a blue ring")).status_code == 200
            alone = time.perf_counter() - began
            assert not job.done()
            assert (await job).status_code == 200
            assert alone < 0.5 * (time.perf_counter() - began)

    asyncio.run(main())


@pytest.mark.parametrize("what", ["facets", "content", "thumbnail", "id", "long texts"])
def test_a_flood_of_other_work_is_bounded_and_texts_live_through_it(
    index: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    app = create_app(Settings(index=index, cache_bytes=0, queue_seconds=0.4))

    def slow(result: Any) -> Any:
        time.sleep(0.2 if what == "content" else 0.05)
        return result

    async def main() -> None:
        async with Flood(app, 0.0) as flood:
            images = app.state.engine.snapshot.images
            id = images.take([0], ["id"]).to_pylist()[0]["id"]
            row_of = images.row_of
            if what == "facets":
                monkeypatch.setattr(images, "value_counts", lambda *_: slow([]))
            elif what == "long texts":
                encoder = app.state.engine.encoder
                rows = encoder.token_rows
                encoder.token_rows = lambda texts: slow(rows(texts)) if len(texts[0]) > 200 else rows(texts)
            elif what == "content":
                monkeypatch.setattr("corpus.files.read", lambda *_: slow(b"x"))
            else:
                monkeypatch.setattr(images, "row_of", lambda id: slow(row_of(id)))

            async def ask() -> httpx.Response:
                if what == "facets":
                    body = {"query": {"vector": [1.0] * images.dim}, "facets": ["shape"], "k": 1}
                    return await flood.http.post("/v1/search/images", json=body)
                if what == "long texts":
                    return await flood.http.post("/v1/embeddings", json={"input": "star " * 100})
                if what == "id":
                    return await flood.http.get("/v1/search/images", params={"image_id": id, "k": 1})
                return await flood.http.get(f"/v1/images/{id}/{what}")

            assert [(await ask()).status_code for _ in range(2)] == [200] * 2
            before = count("overload") + count("loop")
            asked = []
            for _ in range(60):
                asked.append(asyncio.create_task(ask()))
                await asyncio.sleep(0.002)
            text = await flood.text("a star in a flood")
            assert not all(each.done() for each in asked)
            statuses = [(await each).status_code for each in asked]
            assert text.status_code == 200
            assert set(statuses) == {200, 503}
            assert statuses.count(200) >= 5
            assert count("overload") + count("loop") == before + statuses.count(503)
            assert (await ask()).status_code == 200  # and it is over

    asyncio.run(main())


def test_what_is_empty_makes_nothing_else_seem_dear(index: Path) -> None:
    engine = Engine(Settings(index=index, decoder_processes=0))

    async def main() -> None:
        await engine.queries.off_loop(bytes, 10_000)
        await engine.queries.tokenize(["a red star", "a heart"])
        for _ in range(300):
            await engine.queries.off_loop(bytes, 0)
            await engine.queries.tokenize(["", ""])

    asyncio.run(main())
    engine.close()
    lanes = {lane.name: lane for lane in engine.queries.reader.lanes}
    assert lanes["read"].seconds(10**6) < 0.5
    assert lanes["tokenize"].seconds(10**4) < 0.5


def test_only_what_searches_waits_for_searches(index: Path) -> None:
    app = create_app(Settings(index=index, cache_bytes=0))

    async def main() -> None:
        async with Flood(app, 0.0) as flood:
            id = app.state.engine.snapshot.images.take([0], ["id"]).to_pylist()[0]["id"]
            app.state.engine._admission.search = lambda: 99.0
            statuses = [
                (await flood.text("a star")).status_code,
                (await flood.picture(1)).status_code,
                (await flood.http.get("/v1/search/images", params={"image_id": id})).status_code,
                (await flood.http.get(f"/v1/images/{id}/content")).status_code,
                (await flood.http.get(f"/v1/images/{id}/thumbnail")).status_code,
                (await flood.http.post("/v1/embeddings", json={"input": "a star"})).status_code,
            ]
            assert statuses == [503] * 3 + [200] * 3

    asyncio.run(main())


def test_groups_wait_with_the_deep_searches(index: Path) -> None:
    app = create_app(Settings(index=index))

    async def main() -> None:
        async with Flood(app, 0.0) as flood:
            before = ITEMS.labels("deep search")._sum.get()
            body = {"query": {"text": "a star"}, "k": 3, "group_by": "shape"}
            assert (await flood.http.post("/v1/search/images", json=body)).status_code == 200
            assert ITEMS.labels("deep search")._sum.get() == before + 1

    asyncio.run(main())


def test_large_answers_that_wait_to_be_taken_are_bounded(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corpus.files.read", lambda *_: b"x" * 1_000_000)
    app = create_app(Settings(index=index, bytes_in_flight=2_500_000))

    async def main() -> None:
        async with app.router.lifespan_context(app):
            id = app.state.engine.snapshot.images.take([0], ["id"]).to_pylist()[0]["id"]
            gate = asyncio.Event()
            most = 0

            async def ask() -> tuple[int, int]:
                """Its status, and its bytes, of which it takes only the first few at once."""
                status = size = 0

                async def send(message: Any) -> None:
                    nonlocal status, size, most
                    status = message.get("status", status)
                    most = max(most, len(message.get("body", b"")))
                    size += len(message.get("body", b""))
                    if size:
                        await gate.wait()

                scope = {"type": "http", "method": "GET", "path": f"/v1/images/{id}/content", "query_string": b"",
                         "headers": [], "http_version": "1.1", "server": ("x", 80), "scheme": "http", "raw_path": b"",
                         "root_path": "", "client": None}  # fmt: skip
                await app(scope, asyncio.Event().wait, send)  # type: ignore[arg-type]
                return status, size

            before = count("memory")
            held = [asyncio.create_task(ask()) for _ in range(3)]
            until = time.monotonic() + 10
            while count("memory") == before and time.monotonic() < until:
                await asyncio.sleep(0.01)
            assert count("memory") == before + 1
            gate.set()
            assert sorted([await each for each in held])[:2] == [(200, 1_000_000)] * 2
            assert await ask() == (200, 1_000_000)  # what was held has been let go
            assert most <= 300_000

    asyncio.run(main())


def test_bodies_in_flight_are_bounded_in_bytes(index: Path) -> None:
    app = create_app(Settings(index=index, bytes_in_flight=200_000))

    async def main() -> None:
        async with app.router.lifespan_context(app):
            gate = asyncio.Event()

            async def ask(size: int) -> int:
                seen: list[int] = []
                sent = False

                async def receive() -> dict[str, Any]:
                    nonlocal sent
                    if sent:
                        await gate.wait()
                        return {"type": "http.request", "body": b"}", "more_body": False}
                    sent = True
                    return {"type": "http.request", "body": b"{" + b" " * size, "more_body": True}

                async def send(message: Any) -> None:
                    seen.append(message.get("status", 0))

                scope = {"type": "http", "method": "POST", "path": "/v1/search/images", "query_string": b"", "scheme": "http",
                         "headers": [(b"transfer-encoding", b"chunked")], "http_version": "1.1", "server": ("x", 80),
                         "raw_path": b"", "root_path": "", "client": None}  # fmt: skip
                await app(scope, receive, send)
                return seen[0]

            held = [asyncio.create_task(ask(90_000)) for _ in range(2)]
            await asyncio.sleep(0.05)
            assert await ask(90_000) == 503
            gate.set()
            assert [await each for each in held] == [422, 422]
            assert await ask(150_000) == 422  # what was held has been let go

    asyncio.run(main())
