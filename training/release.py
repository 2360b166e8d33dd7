"""Whether an exported model is good enough to serve, and the card that tells what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dual_encoder import load_encoder
from dual_encoder.record import MODEL_JSON, read_record
from training.evaluation.retrieval import WAYS, evaluate
from training.model import MADE

CARD = "README.md"
_ARROWS = {"text_to_image": "text → image", "image_to_text": "image → text"}


class QualityError(Exception):
    """A model that loses too much at a precision it would be served with; the message has the figures."""


def judge(
    folder: Path,
    *,
    name: str,
    license: str = "unknown",
    data: Path | None = None,
    split: str = "test",
    limit: int | None = None,
    most_loss: float | None = 0.01,
    made: dict[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate an exported directory at every precision this machine serves, and write its card into it.

    Args:
        folder: what `dual_encoder.export` wrote, whole.
        name: what the card calls it.
        data, split, limit: pairs as `crossmodal evaluate` reads them; without them nothing is measured or refused.
        most_loss: how far recall@1 of either way may fall below that of fp32, of 1; None accepts any loss.
        made: how the model was trained, as `training.train` says in training.json.

    Returns what joins model.json: `quality`, the figures of each precision on the data.
    Raises QualityError, DataError.
    """
    facts = read_record(folder / MODEL_JSON)
    quality: dict[str, Any] = {}
    if data is not None:
        quality = {"data": data.name, "split": split, "precisions": {}}
        for precision in facts["parity"]:  # those that this CPU and this export have
            encoder = load_encoder(str(folder), device="cpu", precision=precision)
            found = evaluate(encoder, data, on_progress=on_progress, split=split, limit=limit)
            quality |= {"images": found["images"], "texts": found["texts"]}
            quality["precisions"][precision] = {way: found[way] for way in WAYS}
        if most_loss is not None:
            _check(quality["precisions"], most_loss)
    (folder / CARD).write_text(card(name, license, facts, quality, made), "utf-8")
    return {"quality": quality} if quality else {}


def made_of(reference: str) -> dict[str, Any] | None:
    """How a model directory was trained, None where it does not say. Raises ModelError."""
    path = Path(reference) / MADE
    if not path.is_file():
        return None
    return read_record(path)


def _check(precisions: dict[str, Any], most_loss: float) -> None:
    best = precisions["fp32"]
    for precision, found in precisions.items():
        for way in WAYS:
            lost = best[way]["recall@1"] - found[way]["recall@1"]
            if lost > most_loss + 1e-9:
                raise QualityError(
                    f"{precision} loses {100 * lost:.1f} points of {way.replace('_', ' ')} recall@1 "
                    f"({best[way]['recall@1']:.3f} in fp32, {found[way]['recall@1']:.3f} in {precision}); "
                    f"at most {100 * most_loss:g} may be lost: raise --most-loss, or give --accept-loss"
                )


def card(name: str, license: str, facts: dict[str, Any], quality: dict[str, Any], made: dict[str, Any] | None) -> str:
    """The card as Markdown, with the front matter that model hubs read."""
    cut = "" if facts["end_of_text"] is None else ", cut at the end of text"
    lines = [
        "---",
        f"license: {json.dumps(license)}",
        "library_name: open_clip",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [clip, dual-encoder, image-text-retrieval]",
        "---",
        f"# {name}",
        "",
        "A dual encoder of pictures and texts: both become unit vectors of "
        f"{facts['dim']} numbers, and the inner product says how well they fit.",
        "",
        "| | |",
        "| --- | --- |",
        f"| fingerprint | `{facts['fingerprint'][:16]}…` |",
        f"| temperature | {facts['temperature']:.4f} |",
        f"| text positions | {facts['context_length']}{cut} |",
        "",
        "## Use",
        "",
        "```sh",
        "crossmodal index build PICTURES --out INDEX --model THIS_FOLDER",
        "crossmodal serve INDEX",
        "```",
        "",
        "open_clip loads it too: `open_clip.create_model('local-dir:THIS_FOLDER')`.",
        "",
    ]
    if made:
        lines += [
            "## Training",
            "",
            f"{made['pairs']:,} pairs; torch {made['torch']}, {made['device']}.",
            "",
            "```yaml",
        ]
        lines += [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in made["recipe"].items()]
        lines += ["```", ""]
    lines += ["## Figures", ""]
    if quality:
        lines += [
            f"{quality['images']:,} pictures with {quality['texts']:,} captions ({quality['data']}, "
            f"{quality['split']}), as `crossmodal evaluate` measures them:",
            "",
            "| precision | way | recall@1 | recall@5 | recall@10 | median rank |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for precision, found in quality["precisions"].items():
            for way in WAYS:
                f = found[way]
                recalls = " | ".join(f"{f[f'recall@{k}']:.3f}" for k in (1, 5, 10))
                lines.append(f"| {precision} | {_ARROWS[way]} | {recalls} | {f['median_rank']:g} |")
    else:
        lines.append("Not measured: it was exported without data to judge it by.")
    lines += [
        "",
        "## Parity",
        "",
        "Least cosine of a vector to open_clip's own in float32:",
        "",
        "| precision | text | image |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {p} | {f['text']:.6f} | {f['image']:.6f} |" for p, f in facts["parity"].items()]
    return "\n".join(lines) + "\n"
