"""Pictures of the web come many at a time; batches go to several encoders."""

from __future__ import annotations

import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from dual_encoder import DualEncoder
from indexer import build_index
from indexer.engine import LocalEngine
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
    thread = threading.Thread(target=server.serve_forever)
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
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "caption": [f"picture {number}", "another"]}))
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
