"""Every step's threshold. A step is off at the value its comment names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dual_encoder.image import MAX_PIXELS
from training.prepare.errors import PrepareError
from training.prepare.splits import parse_splits

NEAR_DUPLICATES = ("drop", "group", "keep", "off")
LEAKAGE = ("error", "drop", "allow")
RESIZE_FORMATS = ("jpg", "webp")


@dataclass(frozen=True)
class Options:
    """What is kept and how it is written. Raises PrepareError naming the option that makes no sense."""

    min_side: int = 64  # px, the shorter side; 0: off
    max_aspect: float = 5.0  # longer side over shorter; 0: off
    max_pixels: int = 100_000_000  # 0: only the decoder's own limit, 200 million
    min_caption: int = 3  # characters, a full-width one counts as two; 0: off
    max_caption: int = 1000  # the same; 0: off
    boilerplate: bool = True
    max_caption_share: float = 0.0  # of the pictures; a caption of more of them is boilerplate; 0: off
    languages: tuple[str, ...] = ()  # empty: any
    exact_duplicates: bool = True
    near_duplicates: str = "drop"
    near_radius: int = 4  # bits of 64
    near_colour: int = 32  # of 255, in any cell of a 16 × 16 grid; 255: off
    near_cosine: float = 0.0  # of the model's image embeddings; 0: off
    min_cosine: float | None = None  # of picture and caption; None: off
    model: str | None = None
    splits: str = "train=0.95,val=0.02,test=0.03"
    honour_split: bool = False
    against: tuple[str, ...] = ()
    leakage: str = "error"
    shard_size: int = 10_000  # pictures
    max_side: int = 0  # px; 0: the original bytes
    resize_format: str = "jpg"
    resize_quality: int = 90
    seed: int = 0  # of the splits

    def __post_init__(self) -> None:
        def need(good: bool, name: str, says: str) -> None:
            if not good:
                raise PrepareError(f"{name} {getattr(self, name)!r}: {says}")

        for name in ("min_side", "max_pixels", "min_caption", "max_caption", "max_side"):
            need(getattr(self, name) >= 0, name, "must be 0 (off) or more")
        need(self.max_pixels <= MAX_PIXELS, "max_pixels", f"the decoder takes at most {MAX_PIXELS:,}")
        need(self.max_aspect == 0 or self.max_aspect >= 1, "max_aspect", "must be 0 (off) or at least 1")
        need(0 <= self.max_caption_share < 1, "max_caption_share", "must be 0 (off) or a share below 1")
        need(self.near_duplicates in NEAR_DUPLICATES, "near_duplicates", f"is none of {', '.join(NEAR_DUPLICATES)}")
        need(0 <= self.near_radius <= 16, "near_radius", "must be 0 to 16 bits")
        need(0 <= self.near_colour <= 255, "near_colour", "must be 0 to 255")
        need(0 <= self.near_cosine <= 1, "near_cosine", "must be 0 (off) to 1")
        need(self.min_cosine is None or -1 <= self.min_cosine <= 1, "min_cosine", "must be -1 to 1")
        need(self.leakage in LEAKAGE, "leakage", f"is none of {', '.join(LEAKAGE)}")
        need(self.shard_size >= 1, "shard_size", "must be at least 1")
        need(self.resize_format in RESIZE_FORMATS, "resize_format", f"is none of {', '.join(RESIZE_FORMATS)}")
        need(1 <= self.resize_quality <= 100, "resize_quality", "must be 1 to 100")
        if self.model is None and (self.min_cosine is not None or self.near_cosine):
            which = "min_cosine" if self.min_cosine is not None else "near_cosine"
            raise PrepareError(f"{which} needs a model to compare with: give --model")
        if self.near_cosine and self.near_duplicates == "off":
            raise PrepareError("near_cosine with near_duplicates off: choose drop, group or keep")
        parse_splits(self.splits)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
