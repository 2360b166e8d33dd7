"""Pictures that anybody may have made are decoded in processes of their own, which may crash or hang.

The file goes there and the pixels come back through shared memory: docs/reliability.md says what that costs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from prometheus_client import Counter

from dual_encoder import ImageError
from dual_encoder.image import open_image
from dual_encoder.preprocess import Preprocess
from service.refusals import count, too_busy

_START = 30.0  # seconds that a process may take to start

Pixels = NDArray[Any]  # as DualEncoder.prepare makes them

RESTARTS = Counter("crossmodal_decoder_restarts_total", "Decoder processes that were replaced", ["why"])

# What a decoder does to itself on a file it cannot bear; anything else was done to it, by the system or its operator.
_ITS_OWN_DOING = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}


class DecoderProcess:
    """Use from the one thread that made it: the process ends with that thread."""

    def __init__(
        self, preprocess: Preprocess, max_bytes: int, max_pixels: int, timeout: float, as_bytes: bool = False
    ) -> None:
        """Files of at most `max_bytes`, each decoded within `timeout` seconds; `as_bytes`: and not normalised."""
        self._preprocess, self._max_pixels, self._timeout = preprocess, max_pixels, timeout
        self._as_bytes, self._dtype = as_bytes, np.uint8 if as_bytes else np.float32
        self._shape = (*preprocess.size, 3) if as_bytes else (3, *preprocess.size)
        self._most = max_bytes
        self._size = max(max_bytes, 4 * int(np.prod(self._shape)))
        self._file = os.memfd_create("decoder")
        os.ftruncate(self._file, self._size)
        self._memory = mmap.mmap(self._file, self._size)
        try:
            self._start()
        except OSError:
            self._give_memory_back()
            raise

    def _start(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(_START)
        options = {
            "socket": theirs.fileno(),
            "memory": self._file,
            "size": self._size,
            "max_pixels": self._max_pixels,
            "preprocess": self._preprocess.to_config(),
            "as_bytes": self._as_bytes,
        }
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]  # this code, wherever it was started
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "service.decoder_process", json.dumps(options)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                pass_fds=(theirs.fileno(), self._file),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

        # Waited for here: it is not the time that a picture needs, and its word not the answer to one.
        try:
            if not self._channel.recv(1):
                raise ChildProcessError(errno.ECHILD, "it ended at once")
        except OSError as error:
            self._end()
            raise error if error.errno else TimeoutError(errno.ETIMEDOUT, f"not in {_START:g} s") from None
        self._channel.settimeout(self._timeout)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the process and give its memory back."""
        self._end()
        self._give_memory_back()

    def _give_memory_back(self) -> None:
        self._memory.close()
        os.close(self._file)

    def _end(self) -> int:
        self._channel.close()
        self._process.kill()
        return self._process.wait()

    def decode(self, data: bytes) -> Pixels:
        """A file -> float32 (3, H, W), or as bytes uint8 (H, W, 3).

        Raises ImageError, also for a file that hangs or crashes the process, and Problem 503 where that was killed.
        """
        if len(data) > self._most:
            raise ImageError(f"the file has {len(data):,} bytes, more than the {self._most:,} allowed")
        self._memory[: len(data)] = data
        try:
            self._channel.send(struct.pack("Q", len(data)))
            answer = self._channel.recv(4096)
        except TimeoutError:
            raise self._replace("hung", f"decoding it took more than the {self._timeout:g} s allowed") from None
        except OSError:
            answer = b""
        if not answer:
            raise self._replace("died", "")
        if answer[0]:
            raise ImageError(answer[1:].decode())
        return np.frombuffer(self._memory, self._dtype, int(np.prod(self._shape))).reshape(self._shape).copy()

    def _replace(self, why: str, reason: str) -> Exception:
        # One that closed its end is about to end by itself, and only then says of what.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if why == "hung" else 1)
        code = self._end()
        RESTARTS.labels(why).inc()
        with contextlib.suppress(OSError):  # no room for a process: the next picture tries again
            self._start()
        if not reason and -code in _ITS_OWN_DOING:
            reason = f"it crashes its decoder ({signal.Signals(-code).name})"
        if reason:
            count("decoder")
            return ImageError(reason)
        return too_busy("decoder", f"the picture's decoder was ended from outside ({code})")


class Decoders:
    """A decoder for each thread that calls `prepare` first; without processes, the thread itself."""

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        isolated: bool,
        max_bytes: int,
        max_pixels: int,
        timeout: float,
        as_bytes: bool = False,
    ) -> None:
        self._here: Any = threading.local()
        self._preprocess, self._max_bytes, self._max_pixels = preprocess, max_bytes, max_pixels
        self._prepare: Callable[[Image.Image], Pixels] = preprocess.crop if as_bytes else preprocess
        self._new: Callable[[], DecoderProcess] | None = None
        if isolated:
            self._new = lambda: DecoderProcess(preprocess, max_bytes, max_pixels, timeout, as_bytes)
        self._all: list[DecoderProcess] = []

    @property
    def pids(self) -> list[int]:
        return [each.pid for each in self._all]

    def prepare(self) -> None:
        with contextlib.suppress(OSError):  # no room for a process: the first picture tries again
            self._process()

    def close(self) -> None:
        """Call on each thread that called `prepare`."""
        if process := getattr(self._here, "process", None):
            process.close()

    def decode_all(self, files: Sequence[bytes]) -> list[Pixels]:
        """Each file -> what `DecoderProcess.decode` gives. Raises ImageError, Problem 503."""
        return [self._decode(file) for file in files]

    def _decode(self, data: bytes) -> Pixels:
        try:
            process = self._process()
        except OSError as error:
            raise too_busy("decoder", f"the picture's decoder cannot be started: {error.strerror}") from None
        if process:
            return process.decode(data)
        decoded = open_image(data, min(self._preprocess.size), max_bytes=self._max_bytes, max_pixels=self._max_pixels)
        return self._prepare(decoded.image)

    def _process(self) -> DecoderProcess | None:
        """This thread's, started if it has none yet; None without processes. Raises OSError."""
        if self._new and not hasattr(self._here, "process"):
            self._here.process = self._new()
            self._all.append(self._here.process)
        return getattr(self._here, "process", None)
