"""On a GPU: what is replayed is what the model gives, whatever came before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from dual_encoder import DualEncoder, buckets, load_encoder
from dual_encoder.open_clip_model import load_open_clip
from dual_encoder.reference import parse_reference
from dual_encoder.torch_runtime import TorchRuntime

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
PRECISIONS = ("fp32", "fp16", "bf16")
LEAST = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.99}  # cosine with float32 on the CPU


@pytest.fixture(scope="module")
def reference() -> DualEncoder:
    return load_encoder("tiny", runtime="torch", device="cpu", precision="fp32")


@pytest.fixture(scope="module", params=PRECISIONS)
def runtime(request: pytest.FixtureRequest) -> TorchRuntime:
    if request.param == "bf16" and torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("this GPU has no bf16")
    return TorchRuntime(load_open_clip(parse_reference("tiny")), "cuda", request.param)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def test_every_shape_recorded_and_replayed(runtime: TorchRuntime, reference: DualEncoder) -> None:
    """Each count three times: run, recorded, replayed; other pixels every time, so that nothing old is given back."""
    side = reference.image_size[0]
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 5, 17, 64, 150):
        for _ in range(3):
            pixels = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
            expected = reference.encode_pixels(pixels)
            assert cosine(runtime.encode_pixels(pixels), expected) > LEAST[runtime.precision], f"{count} pictures"
    words = ["a", "red", "blue", "green", "star", "circle", "square", "left", "right", "of", "above", "below"]
    for count in (1, 3, 20, 300):
        for _ in range(3):
            texts = [" ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(count)]
            rows = reference.token_rows(texts)
            found = runtime.encode_rows(rows)
            assert cosine(found, reference.encode_rows(rows)) > LEAST[runtime.precision], f"{count} texts"
    assert runtime._launch.recording, "a recording failed or differed"  # type: ignore[attr-defined]
    assert runtime._launch._graphs  # type: ignore[attr-defined]


def test_memory_has_an_end(runtime: TorchRuntime, reference: DualEncoder) -> None:
    side = reference.image_size[0]

    def all_shapes() -> int:
        for count in buckets.PICTURES:
            runtime.encode_pixels(np.zeros((count, side, side, 3), np.uint8))
        torch.cuda.synchronize()
        return torch.cuda.memory_reserved()

    before = [all_shapes() for _ in range(3)][-1]
    assert [all_shapes() for _ in range(3)][-1] <= before


def test_from_several_threads_in_turn(runtime: TorchRuntime, reference: DualEncoder) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, *reference.image_size, 3), dtype=np.uint8)
    expected = reference.encode_pixels(pixels)
    for _ in range(4):
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(runtime.encode_pixels, pixels).result()
        assert cosine(found, expected) > LEAST[runtime.precision]


def test_what_cannot_be_recorded_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A model that reads a number back from the GPU."""
    runtime = TorchRuntime(load_open_clip(parse_reference("tiny")), "cuda", "fp32")
    encode_image = runtime._model.encode_image

    def reads_back(pixels: torch.Tensor) -> torch.Tensor:
        return encode_image(pixels) * (2.0 if float(pixels.abs().max()) >= 0 else 1.0)

    runtime._model.encode_image = reads_back
    pixels = np.random.default_rng(2).integers(0, 256, (5, *load_encoder("tiny").image_size, 3), dtype=np.uint8)
    first = runtime.encode_pixels(pixels)
    for _ in range(4):
        np.testing.assert_allclose(runtime.encode_pixels(pixels), first, rtol=1e-3, atol=1e-3)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "without CUDA graphs" in said[0]


def test_auto_is_what_the_device_has() -> None:
    encoder = load_encoder("tiny", device="cuda")
    has_bf16 = torch.cuda.get_device_capability()[0] >= 8
    assert (encoder.runtime.name, encoder.runtime.precision) == ("torch", "bf16" if has_bf16 else "fp16")
    assert encoder.prepare(Image.new("RGB", (50, 40))).dtype == np.uint8
