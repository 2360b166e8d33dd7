"""A process that turns one file at a time into pixels: whatever a picture does to it, only that picture is lost.

Started by service.decoders with a socket, a block of shared memory and the model's preprocessing.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dual_encoder.image import ImageError, open_image
from dual_encoder.preprocess import Preprocess

_BESIDES = 2**30  # bytes of address space besides the pixels
_A_PIXEL = 16  # RGBA, over white, and the sum of the two, as RGB


def main() -> None:
    """First it says that it is ready. Then a file lies in the memory and its length comes over the socket; back come
    the pixels, in the memory, or the reason why there are none.

    It ends when the socket is closed, and with the thread that started it.
    """
    options = json.loads(sys.argv[1])
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    channel = socket.socket(fileno=options["socket"])
    memory = mmap.mmap(options["memory"], options["size"])
    preprocess = Preprocess.from_config(options["preprocess"])
    prepare: Callable[[Image.Image], NDArray[Any]] = preprocess.crop if options["as_bytes"] else preprocess
    Image.init()  # every format now, not at the first file that is none of the common ones
    _confine(options["max_pixels"])
    channel.send(b"\0")  # ready
    while message := channel.recv(8):
        try:
            data = memory[: struct.unpack("Q", message)[0]]
            decoded = open_image(data, min(preprocess.size), max_pixels=options["max_pixels"])
            pixels = prepare(decoded.image)
        except ImageError as error:
            channel.send(b"\1" + str(error).encode("utf-8", "replace"))
        except MemoryError:
            channel.send(b"\1the picture does not fit into memory")
        else:
            np.frombuffer(memory, pixels.dtype, pixels.size)[:] = pixels.ravel()
            channel.send(b"\0")


def _confine(max_pixels: int) -> None:
    limits = {
        resource.RLIMIT_AS: _BESIDES + _A_PIXEL * max_pixels,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    main()
