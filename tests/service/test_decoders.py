"""A picture that hangs or crashes its decoder costs one request; the decoder is replaced, and others do not notice."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from dual_encoder import ImageError
from dual_encoder.image import open_image
from dual_encoder.preprocess import Preprocess
from service.app import create_app
from service.decoders import RESTARTS, DecoderProcess, Decoders
from service.errors import Problem
from service.settings import Settings

PREPROCESS = Preprocess((32, 48), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def jpeg(side: int = 300, seed: int = 0) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def slow() -> bytes:
    """A PNG that takes long enough to decode that something can be done to the decoder meanwhile."""
    out = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(out, "PNG", compress_level=1)
    return out.getvalue()


@pytest.fixture
def decoder() -> Iterator[DecoderProcess]:
    decoder = DecoderProcess(PREPROCESS, max_bytes=2**20, max_pixels=10**8, timeout=30)
    yield decoder
    decoder.close()


def restarts(why: str) -> float:
    return RESTARTS.labels(why)._value.get()


def test_pixels_equal_those_decoded_here(decoder: DecoderProcess) -> None:
    for seed in range(3):
        data = jpeg(seed=seed)
        expected = PREPROCESS(open_image(data, 32).image)
        np.testing.assert_array_equal(decoder.decode(data), expected)
    with pytest.raises(ImageError, match="truncated"):
        decoder.decode(jpeg()[:1000])
    with pytest.raises(ImageError, match="bytes"):
        decoder.decode(b"x" * (2**20 + 1))
    assert decoder.decode(jpeg()).shape == (3, 32, 48)


@pytest.mark.parametrize("isolated", [True, False])
def test_a_gpu_is_given_bytes(isolated: bool) -> None:
    decoders = Decoders(PREPROCESS, isolated=isolated, max_bytes=2**20, max_pixels=10**8, timeout=30, as_bytes=True)
    (found,) = decoders.decode_all([jpeg()])
    decoders.close()
    assert (found.dtype, found.shape) == (np.uint8, (32, 48, 3))
    np.testing.assert_array_equal(PREPROCESS.normalise(found), PREPROCESS(open_image(jpeg(), 32).image))


def do_while_decoding(decoder: DecoderProcess, number: int) -> None:
    def act() -> None:
        while _state(decoder.pid) != "R":  # it has begun
            time.sleep(0.002)
        os.kill(decoder.pid, number)

    threading.Thread(target=act, daemon=True).start()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [(signal.SIGSEGV, ImageError, "crashes its decoder .SIGSEGV"), (signal.SIGKILL, Problem, "from outside")],
)
def test_a_decoder_that_dies_is_replaced(
    decoder: DecoderProcess, number: int, error: type[Exception], words: str
) -> None:
    decoder.decode(jpeg())
    before, first = restarts("died"), decoder.pid
    do_while_decoding(decoder, number)
    with pytest.raises(error, match=words):
        decoder.decode(slow())
    assert restarts("died") == before + 1
    assert decoder.pid != first
    assert not Path(f"/proc/{first}").exists()
    assert decoder.decode(jpeg()).shape == (3, 32, 48)


def test_a_decoder_that_hangs_is_killed_in_time() -> None:
    decoder = DecoderProcess(PREPROCESS, max_bytes=2**20, max_pixels=10**8, timeout=30)
    decoder.decode(jpeg())  # it has started
    decoder._channel.settimeout(0.5)
    first = decoder.pid
    os.kill(first, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(ImageError, match="more than the 30 s"):
        decoder.decode(jpeg())
    assert 0.4 < time.monotonic() - began < 5
    assert not Path(f"/proc/{first}").exists()
    assert decoder.decode(jpeg()).shape == (3, 32, 48)
    decoder.close()


def test_memory_is_bounded_and_nothing_can_be_written(decoder: DecoderProcess) -> None:
    decoder.decode(jpeg())
    limits = Path(f"/proc/{decoder.pid}/limits").read_text()
    assert "Max file size             0" in limits
    assert f"Max address space         {2**30 + 16 * 10**8}" in limits


def test_one_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = Decoders(PREPROCESS, isolated=True, max_bytes=2**20, max_pixels=10**8, timeout=30)
    with monkeypatch.context() as full:
        full.setattr("service.decoders.sys.executable", "/dev/null")
        decoders.prepare()
        with pytest.raises(Problem, match="cannot be started: Permission denied") as refused:
            decoders.decode_all([jpeg()])
    assert refused.value.status == 503
    try:
        assert decoders.decode_all([jpeg()])[0].shape == (3, 32, 48)
    finally:
        decoders.close()


def test_one_that_starts_too_slowly_gives_no_other_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first word, that it is ready, was taken for the answer to a picture."""
    decoders = Decoders(PREPROCESS, isolated=True, max_bytes=2**20, max_pixels=10**8, timeout=30)
    monkeypatch.setattr("service.decoders._START", 0.001)
    decoders.prepare()
    with pytest.raises(Problem, match="cannot be started: not in"):
        decoders.decode_all([jpeg()])
    assert decoders.pids == []


def test_the_process_ends_with_its_thread() -> None:
    pids: list[int] = []

    def work() -> None:
        decoder = DecoderProcess(PREPROCESS, 2**20, 10**6, 30)
        decoder.decode(jpeg())
        pids.append(decoder.pid)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for _ in range(500):
        if _state(pids[0]) == "Z":
            os.waitpid(pids[0], 0)
            return
        time.sleep(0.01)
    pytest.fail("the decoder lives on")


@pytest.fixture
def app(index: Path) -> FastAPI:
    return create_app(Settings(index=index, cache_bytes=0, decode_timeout=3, decoder_processes=2, queue_seconds=60))


def test_crashes_and_hangs_cost_their_own_request_alone(app: FastAPI) -> None:
    async def main() -> tuple[list[int], list[str]]:
        import httpx

        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as http,
        ):

            async def ask(data: bytes) -> Any:
                return await http.post("/v1/search/images?k=1", files={"image": data}, timeout=60)

            files, heavy = await asyncio.to_thread(lambda: ([jpeg(seed=n) for n in range(25)], slow()))
            assert [(await ask(file)).status_code for file in files[:4]] == [200] * 4
            bad = asyncio.create_task(ask(heavy))
            victim = 0
            while not victim:
                assert not bad.done()
                await asyncio.sleep(0.002)
                pids = app.state.engine.queries.decoders.pids  # by now, perhaps, of those that started late too
                victim = next((pid for pid in pids if _state(pid) == "R"), 0)
            os.kill(victim, signal.SIGSTOP)
            others = [asyncio.create_task(ask(file)) for file in files[4:24]]
            texts = [asyncio.create_task(http.get(f"/v1/search/images?text=star+{n}&k=1")) for n in range(20)]
            statuses = [(await each).status_code for each in [*others, *texts]]
            stopped = await bad
            after = (await ask(files[24])).status_code
            return [*statuses, after], [str(stopped.status_code), stopped.json()["detail"]]

    statuses, (status, detail) = asyncio.run(main())
    assert statuses == [200] * 41
    assert status == "422"
    assert "decoding it took more than the 3 s allowed" in detail


def test_without_processes_pictures_are_decoded_in_threads(index: Path) -> None:
    app = create_app(Settings(index=index, decoder_processes=0))
    with TestClient(app) as client:
        assert app.state.engine.queries.decoders.pids == []
        assert client.post("/v1/search/images?k=1", files={"image": jpeg()}).status_code == 200
        assert client.post("/v1/search/images?k=1", files={"image": jpeg()[:900]}).status_code == 422
