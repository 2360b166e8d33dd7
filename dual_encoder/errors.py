"""What can go wrong with a dual encoder.

DualEncoderError
├── ModelError            the model reference cannot be loaded; the message says why and what to do
│   └── RuntimeMissing    a package that the chosen runtime needs is not installed
└── ImageError            one picture cannot be used; `reason` says why
"""

from __future__ import annotations


class DualEncoderError(Exception):
    """Base of this package's errors; the message is one clear line."""


def brief(error: BaseException) -> str:
    """The first line of what an exception says; its type where it says nothing, as a bare assertion does."""
    said = next(filter(str.strip, str(error).splitlines()), type(error).__name__)
    return said if len(said) <= 300 else f"{said[:299]}…"


class ModelError(DualEncoderError):
    """A model reference that cannot be loaded."""


class RuntimeMissing(ModelError):
    """The runtime's packages are not installed."""


class ImageError(DualEncoderError):
    """A picture that cannot be used."""

    @property
    def reason(self) -> str:
        return str(self)
