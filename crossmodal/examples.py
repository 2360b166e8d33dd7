"""Pictures and texts of a corpus, as examples of what a model will see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image

from corpus import Record, open_source
from dual_encoder.image import ImageError, open_image
from dual_encoder.quantise import Examples
from indexer.queries import bundled_queries

_PICTURES = 300
_TEXTS = 600
_SIDE = 512  # px; large JPEGs are decoded at a reduced scale that leaves twice as much


def examples_of(source: str | Path) -> Examples:
    """The first pictures of a folder, a table or shards, with their captions, else the bundled queries.

    Raises SourceError. What cannot be read is left out.
    """
    records = list(islice(open_source(source).records(), _PICTURES))
    texts = [text for record in records for text in record.captions]
    return Examples((texts or bundled_queries())[:_TEXTS], _pictures(records))


def _pictures(records: Sequence[Record]) -> Iterator[Image.Image]:
    for record in records:
        try:
            yield open_image(record.read(), _SIDE).image
        except (OSError, ValueError, ImageError):
            continue
