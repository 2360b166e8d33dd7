"""A vendor's drawings -> pictures alike in frame and background: PNG files named by code points."""

from __future__ import annotations

import base64
import io
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from benchmarks.emoji.concepts import key
from benchmarks.emoji.packages import PackageError

_SIDE = 144  # px, of a drawing without a size of its own
_SHEET = 100  # drawings drawn at once


def make_pictures(drawings: Path, wanted: set[str], out: Path) -> None:
    """Frame every wanted drawing of a folder of .png or .svg files into `out`, whole or not at all; kept if there.

    `wanted` has keys of emoji. Raises PackageError if the folder has none of them.
    """
    if out.is_dir():
        return
    found = {key(path.stem): path for path in sorted(drawings.glob("*")) if path.suffix in (".png", ".svg")}
    found = {name: path for name, path in found.items() if name in wanted}
    if not found:
        raise PackageError(f"{drawings}: there is no drawing of any emoji in it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        work = Path(name) / "pictures"
        work.mkdir()
        for emoji, drawing in _drawn(found):
            framed(drawing).save(work / f"{emoji}.png")
        work.rename(out)


def framed(drawing: Image.Image) -> Image.Image:
    """On white, in a square, with a sixteenth of space around what is drawn: vendors leave different margins."""
    drawing = drawing.convert("RGBA")
    drawing = drawing.crop(drawing.getchannel("A").getbbox())  # of an empty one nothing is cut
    side = round(max(drawing.size) * 9 / 8)
    square = Image.new("RGB", (side, side), "white")
    square.paste(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2), drawing)
    return square


def _drawn(files: dict[str, Path]) -> Iterator[tuple[str, Image.Image]]:
    vectors = []
    for name, path in files.items():
        if path.suffix == ".svg":
            vectors.append((name, path))
            continue
        with Image.open(path) as image:
            yield name, image
    if vectors:
        yield from _rasterised(vectors)


def _rasterised(files: list[tuple[str, Path]]) -> Iterator[tuple[str, Image.Image]]:
    """Have Chromium draw SVG files, many on a sheet."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise PackageError("drawing SVG files needs playwright: pip install 'crossmodal[dev]'") from None
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
            page = browser.new_page(viewport={"width": 10 * _SIDE, "height": 10 * _SIDE})
            for start in range(0, len(files), _SHEET):
                batch = files[start : start + _SHEET]
                page.set_content(_sheet(path for _, path in batch))
                page.wait_for_function("[...document.images].every(image => image.complete)")
                with Image.open(io.BytesIO(page.screenshot(omit_background=True))) as sheet:
                    for number, (name, _) in enumerate(batch):
                        left, top = number % 10 * _SIDE, number // 10 * _SIDE
                        yield name, sheet.crop((left, top, left + _SIDE, top + _SIDE))
            browser.close()
    except Error as error:
        raise PackageError(f"Chromium did not draw the SVG files: {str(error).splitlines()[0]}") from None


def _sheet(files: Iterable[Path]) -> str:
    style = f"body{{margin:0;line-height:0;width:{10 * _SIDE}px}}img{{width:{_SIDE}px;height:{_SIDE}px}}"
    images = [f"data:image/svg+xml;base64,{base64.b64encode(file.read_bytes()).decode()}" for file in files]
    return f"<style>{style}</style>" + "".join(f'<img src="{image}">' for image in images)
