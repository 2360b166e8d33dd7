"""The runtime beside others in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dual_encoder import DualEncoder, ModelError, load_encoder, openvino_runtime

LET_GO_ELSEWHERE = """
import gc, os, signal, threading
from dual_encoder import load_encoder
encoder = load_encoder("tiny", device="cpu", runtime="openvino")
encoder.encode_texts(["a star"])
holder = [encoder]
del encoder
thread = threading.Thread(target=lambda: (holder.clear(), gc.collect()))
thread.start(); thread.join()
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
os.kill(os.getpid(), signal.SIGUSR1)
assert caught
print("alive")
"""


def test_a_signal_after_an_encoder_was_let_go_on_another_thread() -> None:
    """OpenVINO gives the thread that first uses it a stack for signals, and takes it away on whichever is the last."""
    done = subprocess.run([sys.executable, "-c", LET_GO_ELSEWHERE], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-500:]


def test_a_tower_that_could_not_be_readied_says_so_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it taken for ready, who encodes would wait for ever."""

    class Core:
        def compile_model(self, *_: Any) -> Any:
            return self

        def create_infer_request(self) -> Any:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(openvino_runtime, "core", Core)
    tower = openvino_runtime._Tower(Path("text.onnx"), {}, 1)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"text\.onnx: OpenVINO cannot load the model: out of memory"):
            tower.compile()


def runtime_of(encoder: DualEncoder) -> openvino_runtime.OpenVinoRuntime:
    assert isinstance(encoder.runtime, openvino_runtime.OpenVinoRuntime)
    return encoder.runtime


def test_a_picture_alone_has_every_core_and_others_do_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"device": "cpu", "runtime": "openvino", "streams": 2, "lazy": True}
    monkeypatch.setattr(openvino_runtime, "free_memory", lambda: 10**7)
    assert runtime_of(load_encoder("tiny", **options))._alone is None  # a copy of the tower would take too much
    monkeypatch.setattr(openvino_runtime, "free_memory", lambda: 10**10)
    encoder = load_encoder("tiny", **options)
    runtime = runtime_of(encoder)
    assert runtime._alone is not None
    pixels = np.random.default_rng(0).standard_normal((2, 3, *encoder.image_size), dtype=np.float32)
    both = encoder.encode_pixels(pixels)
    assert runtime._alone._idle is None
    idle = runtime._alone.compile()
    idle.put(request := Counting(idle.get()))
    np.testing.assert_allclose(encoder.encode_pixels(pixels[:1]), both[:1], atol=0.02)
    assert request.calls == 1
    idle.get()  # as if it were at work
    np.testing.assert_allclose(encoder.encode_pixels(pixels[1:]), both[1:], atol=0.02)


class Counting:
    """An infer request that counts its calls."""

    def __init__(self, request: Any) -> None:
        self.request, self.calls = request, 0

    def infer(self, inputs: Any) -> Any:
        self.calls += 1
        return self.request.infer(inputs)
