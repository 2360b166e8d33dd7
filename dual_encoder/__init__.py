"""A model reference -> a dual encoder: texts and pictures -> unit vectors in one space.

encoder = load_encoder("tiny")
scores = encoder.encode_texts(["a red star"]) @ encoder.encode_images([picture]).T
"""

from __future__ import annotations

from dual_encoder.encoder import DualEncoder, load_encoder
from dual_encoder.errors import DualEncoderError, ImageError, ModelError, RuntimeMissing

__all__ = ["DualEncoder", "DualEncoderError", "ImageError", "ModelError", "RuntimeMissing", "load_encoder"]
