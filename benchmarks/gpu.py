"""What a GPU gives: the same vectors, and how fast. It takes some minutes; without a GPU it ends at once, with 1.

- parity: cosine with float32 on the CPU, of every shape that batches are padded to, in every precision
- ceiling: the fastest bf16 matrix product found, and the share of it that encoding pictures reaches
- encode: pictures and texts a second by batch, from host memory to host memory, with CUDA graphs and without
- jpeg: nvJPEG against decoding on all cores, and what its pixels do to the vectors
- search: exact search there and on the CPU

A part that fails is a row that says why, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import report
from benchmarks.common import parser
from benchmarks.fixtures import captions, clustered, jpegs
from dual_encoder import buckets
from dual_encoder.image import open_image
from dual_encoder.open_clip_model import OpenClipModel, load_open_clip
from dual_encoder.reference import parse_reference
from dual_encoder.torch_runtime import TorchRuntime
from vector_index import kinds
from vector_index.on_device import OnDevice

Row = dict[str, Any]
Floats = NDArray[np.float32]

GOAL = 0.5  # of the ceiling
_LEAST = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.99}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", default="ViT-L-14", help="whose speed is measured; a ViT of open_clip")
    options.add_argument("--parity-model", default="ViT-B-32", help="which is compared with the CPU")
    options.add_argument("--vectors", type=int, default=500_000, help="that are searched")
    options.add_argument("--device", default="cuda")
    options.set_defaults(seconds=1)
    given = options.parse_args()
    import torch

    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("there is no GPU here, or no driver for it: nothing is measured")
    seen = {**report.conditions(), **_device(given.device)}
    rows: list[Row] = []
    for part in (parity, encode, search):
        began = time.monotonic()
        try:
            for row in part(given):
                rows.append({"part": part.__name__, **row})
                print(rows[-1], flush=True)
        except Exception as error:  # the other parts are worth having
            rows.append(
                {"part": part.__name__, "what": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
            )
        print(f"{part.__name__}: {time.monotonic() - began:.0f} s", flush=True)
        gc.collect()  # a runtime's graphs hold the runtime
    report.save("gpu", seen, rows, given.out)
    if failed := [row["what"] for row in rows if not row.get("ok", "value" in row)]:
        sys.exit(f"failed: {'; '.join(failed)}")


def parity(given: argparse.Namespace) -> Iterator[Row]:
    """The lowest cosine over all shapes; each comes three times, to be run, recorded and replayed."""
    source = load_open_clip(parse_reference(given.parity_model))
    reference = TorchRuntime(source, "cpu", "fp32")
    rng = np.random.default_rng(given.seed)
    pixels = rng.integers(0, 256, (3 * buckets.PICTURES[-1], *source.preprocess.size, 3), dtype=np.uint8)
    expected = reference.encode_pixels(source.preprocess.normalise(pixels))
    texts = {length: _texts(rng, source, buckets.TEXTS[-1], length) for length in _lengths(source)}
    said = {length: reference.encode_rows(rows) for length, rows in texts.items()}
    del source, reference  # the runtimes below convert the weights where they lie
    for precision, least in _LEAST.items():
        source = load_open_clip(parse_reference(given.parity_model))
        try:
            runtime = TorchRuntime(source, given.device, precision, padded=True)
        except Exception as error:
            yield {"what": f"{precision}: {error}"}
            continue
        found = [
            _cosine(runtime.encode_pixels(part), expected[start : start + size])
            for size in buckets.PICTURES
            for start in range(0, 3 * size, size)
            for part in [pixels[start : start + size]]
        ]
        yield _checked(f"pictures, {precision}, lowest cosine", min(found), least)
        found = [
            _cosine(runtime.encode_rows([rows[i] for i in some]), said[length][some])
            for size in buckets.TEXTS
            for length, rows in texts.items()
            for some in [rng.permutation(len(rows))[:size] for _ in range(3)]
        ]
        yield _checked(f"texts, {precision}, lowest cosine", min(found), least)
        if given.device.startswith("cuda"):
            shapes = len(buckets.PICTURES) + len(buckets.TEXTS) * len(texts)
            recorded = len(runtime._launch._graphs)  # type: ignore[attr-defined]
            yield _checked(f"share of shapes recorded as graphs, {precision}", recorded / shapes, 1)


def encode(given: argparse.Namespace) -> Iterator[Row]:
    """Pictures and texts a second, the share of the ceiling, and JPEGs."""
    from dual_encoder.launch import Padded

    source = load_open_clip(parse_reference(given.model))
    vision, rng = source.config["vision_cfg"], np.random.default_rng(given.seed)
    runtime = TorchRuntime(source, given.device, "auto", padded=True)
    recorded, plain = runtime._launch, Padded(runtime.device)
    ceiling = _ceiling(given)
    yield {"what": "ceiling: bf16 matrix product, TFLOP/s", "value": ceiling / 1e12}
    most = 4 * buckets.PICTURES[-1]
    pixels = rng.integers(0, 256, (most, *source.preprocess.size, 3), dtype=np.uint8)
    best = 0.0
    for batch in (*buckets.PICTURES, 2 * buckets.PICTURES[-1], most):
        for how, launch in (("graphs", recorded), ("no graphs", plain)):
            runtime._launch = launch
            rate = batch / _seconds(given, runtime.encode_pixels, pixels[:batch])
            best = max(best, rate)
            yield {"what": f"pictures/s, {how}", "batch": batch, "value": rate}
    runtime._launch, size = recorded, buckets.PICTURES[-1]
    bare = size / _bare(runtime, pixels[:size], given)
    work = _operations(vision)
    yield {"what": "pictures/s, on the device alone", "batch": size, "value": bare}
    yield {"what": "share of the time that copies and the host take", "batch": most, "value": 1 - best / bare}
    yield {"what": "share of the ceiling, device alone", "batch": size, "value": bare * work / ceiling, "goal": GOAL}
    yield {"what": "share of the ceiling, all", "batch": most, "value": best * work / ceiling, "goal": GOAL}
    rows = [row[row != 0] for row in source.tokenizer(captions(1024, given.seed)).numpy()]
    for batch in (*buckets.TEXTS, 1024):
        for how, launch in (("graphs", recorded), ("no graphs", plain)):
            runtime._launch = launch
            rate = batch / _seconds(given, runtime.encode_rows, rows[:batch])
            yield {"what": f"texts/s, {how}", "batch": batch, "value": rate}
    runtime._launch = recorded
    for megapixels, count in ((0.3, 64), (12, 8)):
        yield from _jpeg(given, source, runtime, jpegs(count, megapixels, given.seed), f"JPEG of {megapixels} MP")


def search(given: argparse.Namespace) -> Iterator[Row]:
    """Exact search by the FAISS of a service and of a build, and on the device."""
    faiss = kinds.load_faiss()
    vectors = clustered(given.vectors, seed=given.seed)
    queries = vectors[:64] + np.random.default_rng(given.seed).normal(0, 0.02, (64, vectors.shape[1]))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    index = kinds.new_index("SQfp16", vectors.shape[1])
    index.train(vectors[:1000])
    index.add(vectors)
    held = OnDevice(index, given.device)
    cores = faiss.omp_get_max_threads()
    for batch in (1, 64):
        some = queries[:batch]
        rate = batch / _seconds(given, held.search, some, 10)
        yield {"what": "searches/s, GPU", "batch": batch, "value": rate}
        for threads in (1, cores):
            faiss.omp_set_num_threads(threads)
            rate = batch / _seconds(given, kinds.search_all, index, some, 10)
            yield {"what": f"searches/s, CPU, {threads} threads", "batch": batch, "value": rate}
    scores, rows = held.search(queries, 10)
    expected, same = kinds.search_all(index, queries, 10)
    yield {"what": "largest difference of a score", "value": float(np.abs(scores - expected).max())}
    yield _checked("share of the same rows", float((rows == same).mean()), 0.99)


def _jpeg(
    given: argparse.Namespace, source: OpenClipModel, runtime: TorchRuntime, files: list[bytes], what: str
) -> Iterator[Row]:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    prepare = source.preprocess.crop

    def on_cpu(file: bytes) -> NDArray[np.uint8]:
        return prepare(open_image(file, min(source.preprocess.size)).image)

    with ThreadPoolExecutor(cores := len(os.sched_getaffinity(0))) as pool:
        rate = len(files) / _seconds(given, lambda: list(pool.map(on_cpu, files)))
    yield {"what": f"{what}/s, decoded at a reduced scale and resized on {cores} cores", "value": rate}
    raw = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]

    def on_device() -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is to go some day
            decoded: list[Any] = decode_jpeg(raw, mode=ImageReadMode.RGB, device=given.device)
        return decoded

    try:
        yield {"what": f"{what}/s, decoded by nvJPEG", "value": len(files) / _seconds(given, on_device)}
    except RuntimeError as error:
        yield {"what": f"{what}: nvJPEG: {' '.join(str(error).split())[:200]}"}
        return
    whole = [each.permute(1, 2, 0).cpu().numpy() for each in on_device()]
    plain = [np.asarray(open_image(file).image) for file in files]
    far = max(float(np.abs(a.astype(int) - b).mean()) for a, b in zip(whole, plain, strict=True))
    yield {"what": f"{what}: mean difference of its pixels from the CPU's, of 255", "value": far}
    theirs = runtime.encode_pixels(np.stack([prepare(Image.fromarray(each)) for each in whole]))
    ours = runtime.encode_pixels(np.stack([on_cpu(file) for file in files]))
    yield {"what": f"{what}: lowest cosine of the vectors", "value": _cosine(theirs, ours)}


def _device(device: str) -> Row:
    import torch

    found: Row = {"torch": torch.__version__}
    if device.startswith("cuda"):
        has = torch.cuda.get_device_properties(device)
        found |= {"gpu": has.name, "gpu_memory_gb": round(has.total_memory / 2**30), "gpus": torch.cuda.device_count(),
                  "capability": f"{has.major}.{has.minor}", "cuda": torch.version.cuda}  # fmt: skip
    return found


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def _seconds(given: argparse.Namespace, work: Callable[..., object], *arguments: Any) -> float:
    """Of one call, at the median, after some that warm up and are recorded."""
    for _ in range(3):
        work(*arguments)
    times: list[float] = []
    until = time.perf_counter() + given.seconds
    while not times or time.perf_counter() < until:
        _wait(given.device)
        began = time.perf_counter()
        work(*arguments)
        _wait(given.device)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _ceiling(given: argparse.Namespace) -> float:
    """Operations a second of the fastest square product in bf16."""
    import torch

    def several(a: Any, b: Any) -> None:
        for _ in range(10):
            torch.mm(a, b)

    best = 0.0
    for side in (4096, 8192) if given.device.startswith("cuda") else (256,):
        a, b = (torch.randn(side, side, device=given.device, dtype=torch.bfloat16) for _ in range(2))

        best = max(best, 10 * 2 * side**3 / _seconds(given, several, a, b))
    return best


def _bare(runtime: TorchRuntime, pixels: NDArray[np.uint8], given: argparse.Namespace) -> float:
    """Seconds of the tower alone: its input is there, its output stays."""
    import torch

    graphs = getattr(runtime._launch, "_graphs", {})
    wanted = (len(pixels), *pixels.shape[1:], torch.uint8)
    graph = next((graph for key, (graph, _) in graphs.items() if key[1:] == wanted), None)
    if graph is not None:
        return _seconds(given, graph.replay)
    there = torch.from_numpy(pixels).to(given.device)
    with torch.inference_mode():
        return _seconds(given, runtime._encode_images, there)


def _operations(vision: dict[str, Any]) -> float:
    """Of a ViT for one picture: its products of matrices, a multiplication and an addition counted as two."""
    width, layers, patch = vision["width"], vision["layers"], vision["patch_size"]
    patches = (vision["image_size"] // patch) ** 2
    tokens = patches + 1
    attention, mlp = 4 * width**2, 2 * vision.get("mlp_ratio", 4.0) * width**2
    layer = 2 * tokens * (attention + mlp) + 4 * tokens**2 * width
    return float(layers * layer + 2 * patches * 3 * patch**2 * width)


def _lengths(source: OpenClipModel) -> tuple[int, ...]:
    return buckets.lengths(int(source.tokenizer.context_length))


def _texts(rng: np.random.Generator, source: OpenClipModel, count: int, length: int) -> list[NDArray[np.int64]]:
    """Token ids of texts of one length, each ending as the model's do."""
    last = int(source.tokenizer(["a"]).numpy().max())
    return [np.append(rng.integers(1, last - 1, length - 1), last) for _ in range(count)]


def _cosine(a: Floats, b: Floats) -> float:
    """The lowest of rows."""
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def _checked(what: str, value: float, least: float) -> Row:
    return {"what": what, "value": value, "goal": least, "ok": value >= least}


if __name__ == "__main__":
    main()
