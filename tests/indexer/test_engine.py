"""Pictures of the web come many at a time; batches go to several encoders."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corpus import Record
from dual_encoder import DualEncoder
from dual_encoder.device_jpegs import DeviceJpegs
from indexer import EngineError, add_to_index, build_index
from indexer.engine import Job, LocalEngine
from indexer.ledger import Ledger
from indexer.rows import side_of
from tests.indexer.pictures import jpeg
from vector_index import IndexDirectory


def test_a_table_of_addresses_is_fetched_many_at_a_time(tmp_path: Path, encoder: DualEncoder) -> None:
    lock = threading.Lock()
    now, most = 0, 0

    class Host(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.05)
            out = io.BytesIO()
            pixels = np.random.default_rng(int(self.path[1:])).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(out, "JPEG")
            self.send_response(200)
            self.send_header("Content-Length", str(len(out.getvalue())))
            self.end_headers()
            self.wfile.write(out.getvalue())
            with lock:
                now -= 1

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        rows = [json.dumps({"image": f"{address}/{number}"}) for number in range(60)]
        (tmp_path / "table.jsonl").write_text("\n".join(rows))
        report = build_index(tmp_path / "table.jsonl", tmp_path / "index", encoder)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (report.images, report.rejected) == (60, 0)
    assert 4 < most <= 16


def test_several_encoders_share_the_batches_and_make_the_same_index(tmp_path: Path, encoder: DualEncoder) -> None:
    """As of several GPUs; here they are two of the CPU's, the second slower."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(30):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(tmp_path / f"{number}.jpg")
        lines.append(json.dumps({"image": f"{number}.jpg", "caption": [f"picture {number}", "another"]}))
    (tmp_path / "table.jsonl").write_text("\n".join(lines))

    class Slow:
        batches = 0

        def __getattr__(self, name: str) -> object:
            return getattr(encoder, name)

        def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
            self.batches += 1
            time.sleep(0.02)
            return encoder.encode_pixels(pixels)

    slow = Slow()
    sizes = {"part_size": 12, "batch_size": 4}
    told: list[int] = []
    build_index(tmp_path / "table.jsonl", tmp_path / "one", encoder, **sizes)
    build_index(
        tmp_path / "table.jsonl", tmp_path / "two", LocalEngine(encoder, slow),  # type: ignore[arg-type]
        progress=lambda p: told.append(p.done), **sizes,
    )  # fmt: skip
    assert 0 < slow.batches < 8
    assert told == sorted(told)
    assert told[-1] == 30
    with IndexDirectory(tmp_path / "one").open() as one, IndexDirectory(tmp_path / "two").open() as two:
        for left, right in ((one.images, two.images), (one.texts, two.texts)):
            rows = np.arange(len(left))
            assert left.take(rows).equals(right.take(rows))
            np.testing.assert_array_equal(left.vectors(rows), right.vectors(rows))


def test_jpegs_decoded_on_a_device_make_the_same_rows(tmp_path: Path, encoder: DualEncoder) -> None:
    """As `--decode gpu`; the device here is the CPU. What it cannot take (a PNG, a cut file) goes the other way."""
    (tmp_path / "corpus").mkdir()
    for number, size in enumerate([(640, 480), (500, 700), (1000, 900), (90, 60)]):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        image.save(tmp_path / "corpus" / f"{number}.jpg", quality=90)
    image.save(tmp_path / "corpus" / "other.png")
    (tmp_path / "corpus" / "cut.jpg").write_bytes((tmp_path / "corpus" / "0.jpg").read_bytes()[:5000])
    jpegs = DeviceJpegs(encoder.preprocess, side_of(encoder.image_size), "cpu")
    taken: list[bool] = []

    class TakesBytes:
        """As a GPU's."""

        def __getattr__(self, name: str) -> object:
            return getattr(encoder, name)

        def prepare(self, image: Image.Image) -> np.ndarray:
            return encoder.preprocess.crop(image)

    def decode(data: bytes) -> object:
        taken.append((found := jpegs(data)) is not None)
        return found

    build_index(tmp_path / "corpus", tmp_path / "here", encoder)
    there = LocalEngine(TakesBytes(), jpegs=decode)  # type: ignore[arg-type]
    assert build_index(tmp_path / "corpus", tmp_path / "there", there).rejected == 1
    assert sorted(taken) == [False, False, True, True, True, True]
    with IndexDirectory(tmp_path / "here").open() as here, IndexDirectory(tmp_path / "there").open() as other:
        rows = np.arange(len(here.images))
        assert here.images.take(rows).equals(other.images.take(rows))
        assert list(here.rejects()) == list(other.rejects())
        assert (here.images.vectors(rows) * other.images.vectors(rows)).sum(1).min() > 0.999
        assert all(other.thumbnail(int(row)) for row in rows)


def test_pictures_are_decoded_in_the_order_in_which_they_are_encoded(
    tmp_path: Path, encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More or less: no reader waits for a core until the others are done, and the encoder with it."""
    prepared: list[int] = []

    class Noting:
        def __getattr__(self, name: str) -> object:
            return getattr(encoder, name)

        def prepare(self, image: Image.Image) -> np.ndarray:
            prepared.append(image.width - 30)
            time.sleep(0.002)
            return encoder.prepare(image)

    monkeypatch.setattr("indexer.engine.cores", lambda: 1)
    records = (Record(f"{number}.jpg", partial(jpeg, number, (20, number + 30))) for number in range(100))
    with closing(Ledger(tmp_path)) as ledger, closing(
        LocalEngine(Noting()).parts(records, ledger, Job(100, 25, False), lambda _: None)  # type: ignore[arg-type]
    ) as parts:  # fmt: skip
        assert len(next(parts)) == 100
    assert max(prepared.index(number) for number in range(25)) < 60


class Broken:
    """An encoder that cannot encode."""

    def __init__(self, encoder: DualEncoder) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str) -> object:
        return getattr(self._encoder, name)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        raise MemoryError("no memory on the device")


@contextmanager
def no_thread_left() -> Iterator[None]:
    before = threading.enumerate()
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert [name for name in left if name.startswith(("reader", "decoder", "hasher"))] == []


@pytest.mark.parametrize("fails", [True, False], ids=["encoding fails", "nobody wants more"])
def test_what_ends_early_reads_no_more_files(tmp_path: Path, encoder: DualEncoder, fails: bool) -> None:
    """Not even while the error is being told: what is asked of the web would delay the end of the process."""

    def records() -> Iterator[Record]:
        for number in range(200):
            yield Record(f"{number}.jpg", partial(jpeg, number))

    engine = LocalEngine(Broken(encoder) if fails else encoder)  # type: ignore[arg-type]
    with closing(Ledger(tmp_path)) as ledger, no_thread_left():
        parts = engine.parts(records(), ledger, Job(8, 8, False), lambda _: None)
        if fails:
            with pytest.raises(MemoryError) as caught:
                next(parts)
            assert caught.traceback  # which holds the frames
        else:
            assert len(next(parts)) == 8
            parts.close()
    assert engine._free.qsize() == engine._count


def test_a_change_that_fails_reads_no_more_files(tmp_path: Path, encoder: DualEncoder) -> None:
    for folder, count in (("before", 1), ("after", 90)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"{number}.jpg").write_bytes(jpeg(number))
    build_index(tmp_path / "before", tmp_path / "index", encoder)
    with no_thread_left():
        with pytest.raises(MemoryError) as caught:
            add_to_index(
                tmp_path / "after", tmp_path / "index", Broken(encoder), part_size=4, batch_size=1,  # type: ignore[arg-type]
            )  # fmt: skip
        assert caught.traceback


def test_devices_that_compute_differently_are_refused(encoder: DualEncoder) -> None:
    class Other:
        class runtime:
            name, precision = "torch", "fp16"

        def __getattr__(self, name: str) -> object:
            return getattr(encoder, name)

    with pytest.raises(EngineError, match=r"compute in openvino \w+ and in torch fp16: give a --precision"):
        LocalEngine(encoder, Other())  # type: ignore[arg-type]
