"""The exported ONNX files on OpenVINO: what a CPU serves with; needs neither torch nor open_clip."""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from queue import LifoQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder.compiled import Compiled
from dual_encoder.cores import cores
from dual_encoder.errors import ModelError, RuntimeMissing
from dual_encoder.packing import EndOfText, Inputs, TextTower, in_sizes
from dual_encoder.rounding import round_weights

TOWERS = ("text", "image")
_PICTURES = (16, 8, 4, 2, 1)  # a larger batch is cut into these: pictures gain nothing beyond them


@cache
def core() -> Any:
    """One for the whole process, never let go.

    Its plugin gives the thread that makes it a stack for signals, and frees that on whichever thread lets go of it
    last: the next signal would then kill the process.
    """
    try:
        import openvino
    except ImportError:
        raise RuntimeMissing("serving on a CPU needs OpenVINO: pip install 'crossmodal[cpu]'") from None
    made = openvino.Core()
    # Two threads that are the first to look at a tensor would wait for each other: one holds the guard of a C++ static
    # and wants the GIL back, the other has the GIL and waits at the guard.
    openvino.Tensor(openvino.Type.f32, openvino.Shape([1])).data  # noqa: B018
    return made


class OpenVinoRuntime:
    """Features from text.onnx and image.onnx. `precision` is bf16, fp32, or auto: bf16 where the CPU has it.

    Or int8, from text.int8.xml and image.int8.xml; what is not 8-bit in them is as with auto.

    `files` are the SHA-256s of the directory's files: with them, and only then, what is compiled is checked and
    kept for the next start, which reads it through if it is to `verify`.

    A tower is compiled when it is first used, or by `compile`. As many threads as there are `streams` may encode at
    once; they share `threads` cores, all by default. What one thread brings is spread over the streams too.

    A stream has few cores, at best one: the threads of one call wait for the slowest of them at every layer, so that
    whatever else takes a core for a moment idles the others.
    """

    name = "openvino"
    takes_bytes = False

    def __init__(
        self,
        directory: Path,
        precision: str,
        context_length: int,
        end_of_text: EndOfText,
        *,
        threads: int | None = None,
        files: Mapping[str, str] | None = None,
        verify: bool = True,
    ) -> None:
        has_bf16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not has_bf16:
            raise ModelError("precision bf16: this CPU has no bf16 arithmetic; use fp32 or auto")
        whole = "bf16" if precision != "fp32" and has_bf16 else "fp32"
        self.precision = "int8" if precision == "int8" else whole
        paths = [directory / f"{tower}.onnx" for tower in TOWERS]
        if precision == "int8":
            paths = [int8_path(directory, tower) for tower in TOWERS]
            if not all(path.is_file() for path in paths):
                raise no_int8(directory)
        threads = threads or cores()
        self.streams = min(threads, max(2, threads // 4))
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if whole == "bf16" else "f32",
            "NUM_STREAMS": str(self.streams),
            "INFERENCE_NUM_THREADS": str(threads),
            # Each model, and each process, would pin its first stream to the first core: a text and a picture at once
            # shared it, and the other core stood idle.
            "ENABLE_CPU_PINNING": "NO",
        }
        at_work = _AtWork()
        self._text, self._image = (
            _Tower(path, options, self.streams, at_work, _kept(path, files, options), verify) for path in paths
        )
        self._texts = TextTower(self._text, context_length, end_of_text)

    def compile(self) -> None:
        """Compile both towers now. Raises ModelError for one that cannot be loaded."""
        for tower in (self._text, self._image):
            tower.compile()

    def encode_rows(self, rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Token ids of each text, int64 (length,) -> float32 (n, dim)."""
        return self._texts(rows)

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (n, 3, H, W) -> float32 (n, dim)."""
        return in_sizes(self._image, pixels, _PICTURES)


def int8_path(directory: Path, tower: str) -> Path:
    """Where the 8-bit copy of a tower lies; its weights are beside it, in a .bin."""
    return directory / f"{tower}.int8.xml"


def _kept(path: Path, files: Mapping[str, str] | None, options: Mapping[str, str]) -> Compiled | None:
    if files is None:
        return None
    own = {name: digest for name, digest in files.items() if name in (path.name, *_weights(path))}
    properties = [str(core().get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    known_by = {**options, "processor": " ".join(properties)}  # machines may share a home
    return Compiled(cache_directory() / "openvino", path, own, known_by, version("openvino"))


def _weights(path: Path) -> tuple[str, str]:
    """Files beside a tower that its weights may be in."""
    return f"{path.name}.data", path.with_suffix(".bin").name


def no_int8(directory: Path) -> ModelError:
    """What is raised where 8-bit towers are asked for and there are none."""
    how = "`crossmodal model export … --int8 PICTURES` writes them"
    return ModelError(f"precision int8: {directory} has no 8-bit towers; {how}")


class _AtWork:
    """Which calls of both towers come one at a time, as those of a single client do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._shared = True  # whether the last that found nobody at work was joined by others before it ended

    @contextmanager
    def call(self) -> Iterator[bool]:
        """Whether nobody else is at work as this one begins, nor came while the last such was: never two at a time."""
        with self._lock:
            alone = not (self._calls or self._shared)
            self._shared = self._calls > 0
            self._calls += 1
        try:
            yield alone
        finally:
            with self._lock:
                self._calls -= 1


class _Tower:
    """One ONNX file, compiled on first use; called from as many threads as there are streams."""

    def __init__(
        self,
        path: Path,
        options: dict[str, str],
        streams: int,
        at_work: _AtWork,
        kept: Compiled | None = None,
        verify: bool = True,
    ) -> None:
        self._path, self._options, self._streams, self._kept, self._verify = path, options, streams, kept, verify
        self._at_work = at_work
        self._wide: Any = None  # a request of the copy with one stream
        self._may_widen = streams > 1
        self._lock = threading.Lock()
        self._blob: mmap.mmap | None = None  # where weights are read from
        self._idle: LifoQueue[Any] | None = None
        self._callers = ThreadPoolExecutor(streams, thread_name_prefix="encoder")  # starts none before it is used

    def compile(self) -> LifoQueue[Any]:
        with self._lock:
            if self._idle is None:
                try:
                    model = self._read() or self._compile()
                    idle: LifoQueue[Any] = LifoQueue()
                    for _ in range(self._streams):
                        idle.put(model.create_infer_request())
                except RuntimeError as error:
                    why = str(error).splitlines()[-1][:200]
                    raise ModelError(f"{self._path}: OpenVINO cannot load the model: {why}") from None
                self._idle = idle
            return self._idle

    def _on_every_core(self) -> Any:
        """A request of a copy with one stream, made when it is first wanted; None without a blob to make it of.

        Its threads are pinned where they are as many as the machine's cores: a text then took 4.6 ms, not 4.9.
        """
        if self._may_widen and self._blob is not None:
            self._may_widen = False
            every = self._options["INFERENCE_NUM_THREADS"] == str(os.cpu_count())
            options = {**self._options, "NUM_STREAMS": "1", "ENABLE_CPU_PINNING": "YES" if every else "NO"}
            with suppress(RuntimeError):  # for want of memory, say: then it is one stream's, as the others
                self._wide = core().import_model(_tensor(self._blob), "CPU", options).create_infer_request()
        return self._wide

    def _read(self) -> Any:
        """What was compiled before; None without it."""
        blob = self._kept.load(self._verify) if self._kept else None
        try:
            return blob and self._take(blob)
        except RuntimeError:  # damaged, and not verified
            return None

    def _take(self, blob: mmap.mmap) -> Any:
        model = core().import_model(_tensor(blob), "CPU", self._options)
        self._blob = blob
        return model

    def _compile(self) -> Any:
        if self._kept:
            self._kept.check()
        model = core().read_model(self._path)
        if self._options.get("INFERENCE_PRECISION_HINT") == "bf16":
            round_weights(model)
        compiled = core().compile_model(model, "CPU", self._options)
        if not self._kept:
            return compiled
        written = io.BytesIO()
        compiled.export_model(written)
        if not (blob := self._kept.keep(written.getbuffer())):
            return compiled
        del model, compiled, written
        taken = self._take(blob)  # whose weights the system may drop and read again
        _give_back()
        return taken

    def __call__(self, calls: Iterable[Inputs]) -> Iterator[NDArray[np.float32]]:
        """What each of the calls gives, as it comes."""
        calls = list(calls)
        return map(self._infer, calls) if len(calls) == 1 else self._callers.map(self._infer, calls)

    def _infer(self, inputs: Inputs) -> NDArray[np.float32]:
        idle = self._idle or self.compile()
        with self._at_work.call() as alone:
            if alone and len(inputs[0]) == 1 and (wide := self._on_every_core()):
                return _features(wide, inputs)
            request = idle.get()
            try:
                return _features(request, inputs)
            finally:
                idle.put(request)


def _features(request: Any, inputs: Inputs) -> NDArray[np.float32]:
    return np.array(request.infer(inputs)[0], dtype=np.float32)


def _tensor(blob: mmap.mmap) -> Any:
    import openvino

    return openvino.Tensor(np.frombuffer(blob, np.uint8), shared_memory=True)


def _give_back() -> None:
    """Have the C library return what was freed to the system; where it is not glibc, it keeps less anyway."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def cache_directory() -> Path:
    """Where exported and compiled models are kept: $XDG_CACHE_HOME/crossmodal, else ~/.cache/crossmodal.

    Raises ModelError.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "crossmodal"
    except RuntimeError:  # a user of whom the system knows nothing but the number
        raise ModelError("no home directory to keep compiled models in: set XDG_CACHE_HOME") from None
