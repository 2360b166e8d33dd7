"""One record -> a picture with clean captions, or what is wrong with it. Runs on any thread."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import warnings
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from corpus import Record
from corpus.files import read
from dual_encoder.image import FORMATS, MAX_PIXELS, ImageError, open_image
from training.prepare.captions import clean_caption, refuse_caption
from training.prepare.languages import detect_language, stated_languages
from training.prepare.near_duplicates import SIDE, colours, perceptual_hash
from training.prepare.options import Options

# Pillow's names of formats -> the suffix of a member; each is one that the readers of shards know.
SUFFIXES = {
    "JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "DIB": "bmp", "TIFF": "tif",
    "AVIF": "avif", "JPEG2000": "jp2", "PPM": "ppm", "TGA": "tga", "ICO": "ico",
}  # fmt: skip
_DECODE_SIDE = 4 * SIDE  # px; reduced-scale decoding leaves at least twice this
_SIDECARS = (".txt", ".caption")
_SIDECAR_BYTES = 2**20
_CAPTION_FIELDS = ("caption", "captions", "language", "languages")


@dataclass(frozen=True)
class Refusal:
    """A picture (`caption` is None) or one of its captions left out by `step`."""

    step: str
    reason: str
    caption: str | None = None


@dataclass
class Examined:
    """What one record came to. `refusal` set: the picture is out; `refused` are captions that are out."""

    uri: str
    split: str | None = None
    captions: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    refusal: Refusal | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    data: bytes = b""  # as they go into the shard
    suffix: str = ""
    sha256: bytes = b""  # of the bytes as the source has them
    width: int = 0
    height: int = 0
    hash: int = 0
    colours: bytes = b""
    thumbnail: bytes = b""  # of a picture left out, or with captions left out
    given: int = 0  # captions


def examine(record: Record, options: Options, sidecars: str | None = None) -> Examined:
    """Read, decode and check a record.

    `sidecars` is the folder, or its address, where `a.txt` has the captions of `a.jpg`.
    """
    found = Examined(record.uri)
    try:
        found.metadata = plain(record.metadata)
    except RecursionError:
        found.given, found.refusal = len(record.captions), Refusal("unreadable", "its metadata are nested too deeply")
        return found
    _take_captions(record, found, options, sidecars)
    if options.honour_split and (value := record.metadata.get("split")) not in (None, ""):
        found.split = str(value).strip().lower()
    refusal = _take_picture(record, found, options)
    if refusal is None and not found.captions:
        refusal = Refusal("no caption", "no caption is left" if found.refused else "it has no caption")
    found.refusal = refusal
    if refusal is not None:
        found.data = b""
    return found


def _take_captions(record: Record, found: Examined, options: Options, sidecars: str | None) -> None:
    texts: list[Any] = list(record.captions)
    listed = found.metadata.get("captions")  # as UTF-8 can hold them
    if isinstance(listed, list | tuple) and (not texts or texts[0] in listed):
        texts = list(listed)  # a shard of prepared pairs: .txt has only the first
    if not texts and sidecars is not None and record.offset is None:
        texts = list(_sidecar(sidecars, record.uri))
    found.given = len(texts)
    stated = stated_languages(found.metadata, len(texts))
    found.metadata = {name: value for name, value in found.metadata.items() if name not in _CAPTION_FIELDS}
    for text, language in zip(texts, stated, strict=True):
        caption = clean_caption(text) if isinstance(text, str) else text
        refused = refuse_caption(caption, options)
        language = language or (detect_language(caption) if isinstance(caption, str) else "other")
        if refused is None and options.languages and language not in options.languages:
            refused = "language", f"its language is {language}"
        if refused is None and caption in found.captions:
            refused = "caption twice", "the picture has this caption already"
        if refused is None:
            found.captions.append(caption)
            found.languages.append(language)
        else:
            found.refused.append(Refusal(*refused, caption if isinstance(caption, str) else repr(caption)[:200]))


def _sidecar(root: str, uri: str) -> list[str]:
    """Captions in the file beside a picture, one a line."""
    for suffix in _SIDECARS:
        try:
            text = read(root, os.path.splitext(uri)[0] + suffix)[:_SIDECAR_BYTES].decode("utf-8-sig", "replace")
        except (OSError, ValueError):
            continue
        if lines := [line for line in text.splitlines() if line.strip()]:
            return lines
    return []


def _take_picture(record: Record, found: Examined, options: Options) -> Refusal | None:
    try:
        data = record.read()
    except OSError as error:
        return Refusal("unreadable", f"cannot be read: {error.strerror or error}")
    except ValueError as error:
        return Refusal("unreadable", str(error))
    except Exception as error:  # a remote file system's own kinds
        return Refusal("unreadable", f"cannot be read ({type(error).__name__}: {str(error)[:100]})")
    # The header alone, so that a picture of too many pixels is not decoded first.
    width, height = _header_size(data)
    if width * height > (options.max_pixels or MAX_PIXELS):
        return Refusal("too many pixels", f"{width:,} × {height:,} px, more than {options.max_pixels or MAX_PIXELS:,}")
    try:
        decoded = open_image(data, max(_DECODE_SIDE, options.max_side))
    except ImageError as error:
        return Refusal("unreadable", str(error))
    width, height = found.width, found.height = decoded.width, decoded.height
    refusal = None
    if min(width, height) < options.min_side:
        refusal = Refusal("too small", f"{width} × {height} px, the shorter side is under {options.min_side}")
    elif options.max_aspect and max(width, height) > options.max_aspect * min(width, height):
        refusal = Refusal("aspect ratio", f"{width} × {height} px, more than {options.max_aspect:g} to 1")
    elif decoded.format not in SUFFIXES:
        refusal = Refusal("unreadable", f"shards have no suffix for the format {decoded.format}")
    if refusal is not None or found.refused or not found.captions:
        found.thumbnail = small_picture(decoded.image)
    if refusal is not None or not found.captions:
        return refusal
    found.sha256 = hashlib.sha256(data).digest()
    if options.near_duplicates != "off":
        found.hash, found.colours = perceptual_hash(decoded.image), colours(decoded.image)
    found.data, found.suffix = data, SUFFIXES[decoded.format]
    if options.max_side and max(width, height) > options.max_side:
        found.data, found.width, found.height = _resized(decoded.image, options)
        found.suffix = options.resize_format
    return None


def _header_size(data: bytes) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.size
    except Image.DecompressionBombError:
        return MAX_PIXELS, 2
    except Exception:  # decoding will say what is wrong
        return 0, 0


def _resized(image: Image.Image, options: Options) -> tuple[bytes, int, int]:
    small = image.copy()
    small.thumbnail((options.max_side, options.max_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, {"jpg": "JPEG", "webp": "WEBP"}[options.resize_format], quality=options.resize_quality)
    return out.getvalue(), small.width, small.height


def small_picture(image: Image.Image, side: int = 112) -> bytes:
    """A small JPEG of an RGB picture, for the report."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=70)
    return out.getvalue()


def plain(value: Any) -> Any:
    """Metadata as JSON can hold them: no NaN, no bytes, no halves of characters, names are strings."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {plain(str(name)): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value)


def to_line(value: Any) -> bytes:
    """One JSON line, the same bytes for the same value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"
