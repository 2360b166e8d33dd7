"""The runtime beside others in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dual_encoder import ModelError, load_encoder, openvino_runtime

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
        def read_model(self, *_: Any) -> Any:
            return self

        def compile_model(self, *_: Any) -> Any:
            return self

        def create_infer_request(self) -> Any:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(openvino_runtime, "core", Core)
    tower = openvino_runtime._Tower(Path("text.onnx"), {}, 1, openvino_runtime._AtWork())
    for _ in range(2):
        with pytest.raises(ModelError, match=r"text\.onnx: OpenVINO cannot load the model: out of memory"):
            tower.compile()


def test_what_comes_alone_time_and_again_has_every_core() -> None:
    encoder = load_encoder("tiny", runtime="openvino", threads=2)
    runtime: Any = encoder.runtime
    wide: list[str] = []

    def noting(name: str, request: Any) -> Any:
        def infer(inputs: Any) -> Any:
            wide.append(name)
            return request.infer(inputs)

        return SimpleNamespace(infer=infer)

    pixels = np.random.default_rng(0).standard_normal((1, 3, *encoder.image_size), dtype=np.float32)
    for _ in range(2):
        encoder.encode_texts(["a"])
        encoder.encode_pixels(pixels)
    runtime._text._wide = noting("text", runtime._text._wide)
    runtime._image._wide = noting("image", runtime._image._wide)
    with runtime._text._at_work.call():
        encoder.encode_texts(["a"])
    for _ in range(2):
        usual, expected = encoder.encode_texts(["a red star"]), encoder.encode_pixels(np.repeat(pixels, 4, axis=0))[:1]
        assert wide == []
        np.testing.assert_allclose(encoder.encode_texts(["a red star"]), usual, atol=1e-3)
        np.testing.assert_allclose(encoder.encode_pixels(pixels), expected, atol=1e-3)
        assert wide == ["text", "image"]
        with runtime._text._at_work.call():
            encoder.encode_texts(["a red star"])
        assert wide == ["text", "image"]
        wide.clear()


def test_without_memory_for_every_core_what_comes_alone_is_encoded_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder("tiny", runtime="openvino", threads=2)
    expected, tried = encoder.encode_texts(["a red star"]), []

    def full(*_: object) -> None:
        tried.append(1)
        raise RuntimeError("bad allocation")

    monkeypatch.setattr("dual_encoder.openvino_runtime.core", lambda: SimpleNamespace(import_model=full))
    for _ in range(3):
        np.testing.assert_array_equal(encoder.encode_texts(["a red star"]), expected)
    assert tried == [1]
