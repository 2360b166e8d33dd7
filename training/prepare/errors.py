"""What preparing data can fail with."""

from __future__ import annotations


class PrepareError(Exception):
    """Data that cannot be prepared; the message names the input and says what to change."""
