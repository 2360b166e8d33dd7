"""The 8-bit towers on ONNX Runtime, which multiplies 8-bit numbers faster than OpenVINO does."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder.errors import ModelError, RuntimeMissing
from dual_encoder.packing import EndOfText, TextTower
from dual_encoder.quantise import TOWERS, int8_path


class Int8Runtime:
    """Features from text.int8.onnx and image.int8.onnx.

    A tower is loaded when it is first used, or by `compile`. As many threads as there are `streams` may encode at
    once; they share `threads` cores, all by default. Raises RuntimeMissing, ModelError.
    """

    name = "onnxruntime"
    precision = "int8"

    def __init__(
        self,
        directory: Path,
        context_length: int,
        end_of_text: EndOfText,
        *,
        streams: int = 1,
        threads: int | None = None,
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
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # A plan for every input shape would be kept for ever.
        options.enable_mem_pattern = False
        if threads is not None:
            # Calls share the session's pool: with one thread each, a stream computes where it is called.
            options.intra_op_num_threads = max(1, threads // streams)
        self._text = _Tower(onnxruntime, int8_path(directory, "text"), options)
        self._texts = TextTower(self._text, context_length, end_of_text)
        self._image = _Tower(onnxruntime, int8_path(directory, "image"), options)

    def compile(self) -> None:
        """Load both towers now. Raises ModelError for one that cannot be loaded."""
        self._text.load()
        self._image.load()

    def encode_rows(self, rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Token ids of each text, int64 (length,) -> float32 (n, dim)."""
        return self._texts(rows)

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

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        session = self._session or self.load()
        names = (each.name for each in session.get_inputs())
        features: NDArray[np.float32] = session.run(None, dict(zip(names, inputs, strict=True)))[0]
        return features
