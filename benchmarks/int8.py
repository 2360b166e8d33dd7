"""8-bit towers beside those in bf16 (fp32 where the processor has no bf16): texts and pictures a second, in turns.

ViT-B-32 with random weights, scaled by 40 pictures and 200 captions, on all cores: speed alone. What 8 bits cost in
recall, `crossmodal model export --int8 … --data …` measures on a trained model.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.common import model_and_index, parser
from benchmarks.encode import decode, in_turn, rate
from benchmarks.fixtures import captions, jpegs
from dual_encoder import DualEncoder, load_encoder
from dual_encoder.export import export_model
from dual_encoder.image import open_image
from dual_encoder.quantise import Examples
from service.threads import share


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    model, _ = model_and_index(given.folder, seed=given.seed)
    threads = share()
    small = _int8(model, given.folder / "vit-b-32-int8", given.seed)
    sides: dict[str, DualEncoder] = {
        precision: load_encoder(str(small), precision=precision, threads=threads.encoder)
        for precision in ("auto", "int8")
    }
    whole = sides["auto"]
    rows = whole.token_rows(captions(4096, given.seed + 3))
    pixels = np.stack([decode(whole, file) for file in jpegs(16, 0.3, given.seed)])
    seen = report.conditions()
    got: dict[tuple[str, str], list[float]] = {}
    for turn in range(given.rounds + 1):  # the first warms up
        for encoder in sides.values():
            streams, seconds = encoder.streams, given.seconds / 2
            texts = rate(lambda i, e=encoder: e.encode_rows(in_turn(rows, i, 32)), 32, streams, seconds)
            images = rate(lambda i, e=encoder: e.encode_pixels(pixels[:4]), 4, streams, seconds)
            if turn:
                got.setdefault(("texts/s", encoder.runtime.precision), []).append(texts)
                got.setdefault(("images/s", encoder.runtime.precision), []).append(images)
    out: list[dict[str, Any]] = [
        {"what": f"{kind}, {precision}", "median": statistics.median(values)}
        for (kind, precision), values in got.items()
    ]
    for kind in ("texts/s", "images/s"):
        pairs = zip(got[kind, "int8"], got[kind, whole.runtime.precision], strict=True)
        out.append({"what": f"{kind}: int8 over the other", "median": statistics.median(a / b for a, b in pairs)})
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("int8", seen, out, given.out)


def _int8(model: Path, out: Path, seed: int) -> Path:
    """The model with 8-bit towers; made when it is not there."""
    if not (out / "model.json").is_file():
        pictures = (open_image(file, 224).image for file in jpegs(40, 0.3, seed + 3))
        export_model(str(model), out, int8=Examples(captions(200, seed + 5), pictures))
    return out


if __name__ == "__main__":
    main()
