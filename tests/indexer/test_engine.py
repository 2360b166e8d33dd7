"""Pictures of the web come many at a time."""

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
