"""Load a dual encoder by its reference and encode with it."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dual_encoder.errors import ModelError
from dual_encoder.preprocess import Preprocess
from dual_encoder.record import MODEL_JSON, check_files, read_record
from dual_encoder.reference import ModelReference, parse_reference

if TYPE_CHECKING:
    from dual_encoder.openvino_runtime import OpenVinoRuntime

FORMAT = 2  # of an exported directory
_BATCH = 32  # more is no faster on a CPU
_BATCH_ON_GPU = 128  # two of its largest pieces: one is copied while the other is computed


class Runtime(Protocol):
    """What computes: features need not be normalised."""

    name: str
    precision: str
    streams: int  # threads that may encode at once

    @property
    def takes_bytes(self) -> bool:
        """Whether it is a GPU, which also takes pixels as uint8 (n, H, W, 3) and normalises them itself."""

    def encode_rows(self, rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]: ...
    def encode_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]: ...


class TokenizeTexts(Protocol):
    """Texts -> ids int64 (n, length), padded; zeros at the end may be cut off or added."""

    def __call__(self, texts: list[str]) -> NDArray[np.int64]: ...


class DualEncoder:
    """Texts and pictures -> L2-normalised float32 (n, dim); a score is the inner product, the cosine similarity.

    `logit_scale` is 1/τ, the factor at which scores become logits; a model trained with the sigmoid loss has a
    `logit_bias` to add to them: the probability of a pair is sigmoid(logit_scale · score + logit_bias).
    Encode from as many threads at a time as `streams`; `tokenize` and `preprocess` may run on any.
    """

    def __init__(
        self,
        *,
        reference: str,
        fingerprint: str,
        dim: int,
        logit_scale: float,
        preprocess: Preprocess,
        tokenizer: TokenizeTexts,
        runtime: Runtime,
        logit_bias: float | None = None,
    ) -> None:
        self.reference = reference
        self.fingerprint = fingerprint
        self.dim = dim
        self.logit_scale = logit_scale
        self.logit_bias = logit_bias
        self.preprocess = preprocess
        self.tokenize = tokenizer
        self.runtime = runtime

    @property
    def streams(self) -> int:
        """Calls that may be encoded at once; a call of many pictures or texts is itself spread over them."""
        return self.runtime.streams

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in px of what `preprocess` makes."""
        return self.preprocess.size

    @property
    def batch(self) -> int:
        """Pictures a call; more are no faster."""
        return _BATCH_ON_GPU if self.runtime.takes_bytes else _BATCH

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """RGB picture -> what is best given to `encode_pixels`: float32 (3, H, W); for a GPU uint8 (H, W, 3).

        A quarter of the bytes then go through the host's memory and over the bus.
        """
        return self.preprocess.crop(image) if self.runtime.takes_bytes else self.preprocess(image)

    def encode_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Pictures float32 (n, 3, H, W), preprocessed, or uint8 (n, H, W, 3), resized alone -> float32 (n, dim)."""
        if not len(pixels):
            return np.empty((0, self.dim), dtype=np.float32)
        if pixels.dtype == np.uint8 and not self.runtime.takes_bytes:
            pixels = self.preprocess.normalise(pixels)
        return _unit(self.runtime.encode_pixels(pixels))

    def encode_rows(self, rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Token ids of several texts, each int64 (length,) without padding -> float32 (n, dim), in the order given."""
        if not len(rows):
            return np.empty((0, self.dim), dtype=np.float32)
        return _unit(self.runtime.encode_rows(rows))

    def token_rows(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Token ids of each text, int64 (length,), without padding."""
        if not texts:
            return []
        return rows_of(self.tokenize(list(texts)))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> float32 (n, dim)."""
        return self.encode_rows(self.token_rows(texts))

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """RGB pictures -> float32 (n, dim)."""
        vectors = np.empty((len(images), self.dim), dtype=np.float32)
        for start in range(0, len(images), self.batch):
            batch = images[start : start + self.batch]
            vectors[start : start + len(batch)] = self.encode_pixels(np.stack([self.prepare(i) for i in batch]))
        return vectors


def load_encoder(
    reference: str,
    *,
    device: str = "auto",
    runtime: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    lazy: bool = False,
    verify: bool = True,
) -> DualEncoder:
    """Load the dual encoder that `reference` names.

    `runtime` is auto, openvino or torch: auto takes torch on a GPU, else OpenVINO, for which a model that is not yet
    exported is exported once into the cache. `precision` is auto, bf16, fp32, on a GPU fp16, or int8 where 8-bit towers
    were exported. OpenVINO computes on `threads` cores, all by default; `lazy` leaves each tower until it is first
    used. What an export consists of is compared with the SHA-256s in its model.json; of what was compiled of it before,
    only if it is to `verify`, for that reads it all.
    Raises ModelError, RuntimeMissing.
    """
    for name, value, allowed in [
        ("runtime", runtime, ("auto", "openvino", "torch")),
        ("precision", precision, ("auto", "bf16", "fp16", "fp32", "int8")),
    ]:
        if value not in allowed:
            raise ModelError(f"{name} {value!r} is not one of {', '.join(allowed)}")
    if wrong := wrong_device(device, "an encoder is on one: several are for index build alone"):
        raise ModelError(f"device {wrong}")
    parsed = parse_reference(reference)
    if device == "auto":
        device = "cuda" if runtime != "openvino" and _has_cuda() else "cpu"
    if runtime == "openvino" and device != "cpu":
        raise ModelError(f"runtime openvino runs on the CPU, not on {device}")
    if precision == "int8" and (runtime == "torch" or device != "cpu"):
        raise ModelError("precision int8 is OpenVINO's, on the CPU: leave runtime and device out")
    if precision == "fp16" and device == "cpu":
        raise ModelError("precision fp16 is for a GPU: on the CPU take bf16, fp32 or auto")
    if runtime == "auto":
        runtime = "openvino" if device == "cpu" and (precision == "int8" or _installed("openvino")) else "torch"
    if runtime == "openvino":
        return _load_exported(parsed, precision, threads, lazy, verify)
    return _load_torch(parsed, device, precision)


def wrong_device(device: str, of_several: str) -> str | None:
    """What is wrong with the name of a device, None if nothing; `of_several` is said of a list of them.

    Of torch's other devices some take for ever, and some fail at the first batch.
    """
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        return None
    return f"{device!r} is not one of auto, cpu, cuda, cuda:1" + (f"; {of_several}" if "," in device else "")


def _load_exported(
    reference: ModelReference, precision: str, threads: int | None, lazy: bool, verify: bool
) -> DualEncoder:
    directory = reference.directory
    if directory is None or not (directory / MODEL_JSON).is_file():
        from dual_encoder.export import export_cached

        directory = export_cached(reference)
    try:
        facts = read_record(directory / MODEL_JSON)
        if facts.get("format") != FORMAT:
            raise ModelError(f"{directory} was exported by another version of crossmodal: export the model again")
        check_files(directory, {name: facts["files"][name] for name in ("preprocess.json", "tokenizer.json")})
        preprocess = Preprocess.from_config(json.loads((directory / "preprocess.json").read_text("utf-8")))
        tokenizer = _load_tokenizer(directory, facts)
        engine = _runtime(directory, precision, facts, threads, verify)
        if not lazy:
            engine.compile()
        return DualEncoder(
            reference=reference.name,
            fingerprint=facts["fingerprint"],
            dim=facts["dim"],
            logit_scale=1 / facts["temperature"],
            logit_bias=facts.get("logit_bias"),
            preprocess=preprocess,
            tokenizer=tokenizer,
            runtime=engine,
        )
    except ModelError:
        raise
    except Exception as error:  # a file missing, cut short or of another shape; `tokenizers` raises bare Exception
        raise ModelError(f"model {reference.name!r}: {directory} is not a whole exported model ({error})") from None


def _runtime(
    directory: Path, precision: str, facts: dict[str, Any], threads: int | None, verify: bool
) -> OpenVinoRuntime:
    from dual_encoder.openvino_runtime import TOWERS, OpenVinoRuntime, int8_path, no_int8

    if precision == "int8" and not all(int8_path(directory, tower).name in facts["files"] for tower in TOWERS):
        raise no_int8(directory)  # those that lie there are of another export
    length, end = facts["context_length"], facts["end_of_text"]
    return OpenVinoRuntime(directory, precision, length, end, threads=threads, files=facts["files"], verify=verify)


def _load_tokenizer(directory: Path, facts: dict[str, Any]) -> TokenizeTexts:
    from dual_encoder.hf_tokenizer import HuggingFaceTokenizer
    from dual_encoder.tokenizer import Tokenizer

    path, told = directory / "tokenizer.json", facts.get("tokenizer", {})  # models exported before it was told: CLIP's
    if told.get("kind") == "huggingface":
        return HuggingFaceTokenizer(path, told["clean"], told["strip_id"])
    return Tokenizer(path, facts["context_length"], told.get("clean", "lower"))


def _load_torch(reference: ModelReference, device: str, precision: str) -> DualEncoder:
    from dual_encoder.open_clip_model import load_open_clip
    from dual_encoder.torch_runtime import TorchRuntime

    source = load_open_clip(reference)

    def tokenize(texts: list[str]) -> NDArray[np.int64]:
        return source.tokenizer(texts).numpy()  # type: ignore[no-any-return]

    return DualEncoder(
        reference=reference.name,
        fingerprint=source.fingerprint,
        dim=source.dim,
        logit_scale=source.logit_scale,
        logit_bias=source.logit_bias,
        preprocess=source.preprocess,
        tokenizer=tokenize,
        runtime=TorchRuntime(source, device, precision),
    )


def describe_model(reference: str) -> dict[str, Any]:
    """What model.json says of an exported model: fingerprint, dim, temperature, parity figures. Raises ModelError."""
    parsed = parse_reference(reference)
    if parsed.directory and (parsed.directory / MODEL_JSON).is_file():
        return {"reference": parsed.name, **read_record(parsed.directory / MODEL_JSON)}
    encoder = load_encoder(reference, runtime="torch", device="cpu")
    return {
        "reference": encoder.reference,
        "fingerprint": encoder.fingerprint,
        "dim": encoder.dim,
        "temperature": 1 / encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "exported": False,
    }


def rows_of(tokens: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Token ids (n, length), padded -> those of each text, int64 (length,)."""
    if len(tokens) == 1 and tokens.size and tokens[0, -1]:
        return [tokens[0]]
    return [row[:length] for row, length in zip(tokens, lengths_of(tokens), strict=True)]


def lengths_of(tokens: NDArray[np.int64]) -> NDArray[np.intp]:
    """Positions up to the last that is not 0 of ids (n, length): (n,), at least 1 where there are any positions.

    Id 0 also stands within texts: it may be the unknown word's, or what a separator was replaced by.
    """
    lengths: NDArray[np.intp] = tokens.shape[1] - np.argmax(tokens[:, ::-1] != 0, axis=1)
    return lengths


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.maximum(norms, 1e-12)).astype(np.float32, copy=False)
    return unit


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _has_cuda() -> bool:
    if not Path("/dev/nvidiactl").exists() or not _installed("torch"):  # spares the import of torch, 2 s
        return False
    import torch

    return torch.cuda.is_available()
