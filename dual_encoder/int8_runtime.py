"""The 8-bit towers on ONNX Runtime, which multiplies 8-bit numbers faster than OpenVINO does."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder.errors import ModelError, RuntimeMissing
from dual_encoder.quantise import TOWERS, int8_path


class Int8Runtime:
    """Features from text.int8.onnx and image.int8.onnx.

    A tower is loaded when it is first used, or by `compile`. As many threads as there are `streams` may encode at
    once; they share `threads` cores, all by default. Raises RuntimeMissing, ModelError.
    """

    name = "onnxruntime"
    precision = "int8"

    def __init__(
        self, directory: Path, context_length: int, cuttable: bool, *, streams: int = 1, threads: int | None = None
    ) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise RuntimeMissing("precision int8 needs ONNX Runtime: pip install 'crossmodal[int8]'") from None
        for tower in TOWERS:
            if not int8_path(directory, tower).is_file():
                raise ModelError(
                    f"precision int8: {directory} has no 8-bit towers; `crossmodal model export … --int8` writes them"
                )
        self._context_length, self._cuttable = context_length, cuttable
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # A plan for every input shape would be kept for ever.
        options.enable_mem_pattern = False
        if threads is not None:
            # Calls share the session's pool: with one thread each, a stream computes where it is called.
            options.intra_op_num_threads = max(1, threads // streams)
        self._text = _Tower(onnxruntime, int8_path(directory, "text"), options)
        self._image = _Tower(onnxruntime, int8_path(directory, "image"), options)

    def compile(self) -> None:
        """Load both towers now. Raises ModelError for one that cannot be loaded."""
        self._text.load()
        self._image.load()

    def text_shape(self, count: int, length: int) -> tuple[int, int]:
        """What a batch of texts is padded to."""
        return count, length if self._cuttable else self._context_length

    def encode_tokens(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64 (n, length) -> float32 (n, dim)."""
        padded = np.zeros(self.text_shape(*tokens.shape), dtype=np.int64)
        padded[:, : tokens.shape[1]] = tokens
        return self._text(padded)

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (n, 3, H, W) -> float32 (n, dim)."""
        return self._image(np.ascontiguousarray(pixels))


class _Tower:
    """One ONNX file, loaded on first use; may be called from several threads."""

    def __init__(self, package: Any, path: Path, options: Any) -> None:
        self._package, self._path, self._options = package, path, options
        self._lock = threading.Lock()
        self._session: Any = None

    def load(self) -> Any:
        with self._lock:
            if self._session is None:
                try:
                    self._session = self._package.InferenceSession(
                        str(self._path), self._options, providers=["CPUExecutionProvider"]
                    )
                except Exception as error:  # ONNX Runtime has an exception class for every kind of failure
                    raise ModelError(f"{self._path} cannot be loaded: {str(error).splitlines()[0][:300]}") from None
            return self._session

    def __call__(self, array: NDArray[Any]) -> NDArray[np.float32]:
        session = self._session or self.load()
        features: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: array})[0]
        return features
