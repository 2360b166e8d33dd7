"""crossmodal evaluate"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossmodal.writing import writing

if TYPE_CHECKING:
    from dual_encoder import DualEncoder
    from training.evaluation.retrieval import Retrieved
    from training.pairs import Pair

_WAYS = {"text_to_image": "text → picture", "image_to_text": "picture → text"}


def evaluate(
    model: Annotated[str, typer.Option(help="Model reference.")],
    data: Annotated[
        Path | None, typer.Option(help="A table of pairs, a folder with captions.jsonl, or a prepared folder.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which split of a prepared folder.")] = "test",
    language: Annotated[str | None, typer.Option(help="Only captions in this language, such as en or zh.")] = None,
    by: Annotated[list[str] | None, typer.Option(help="Also by this metadata column; may be given again.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    compare: Annotated[str | None, typer.Option(metavar="MODEL", help="Compare with this model on --data.")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Classify, with no training: class names, one a line, or JSON {class: [names]}.")
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column that has the class.")] = None,
    templates: Annotated[
        str | None, typer.Option(help="openai, simple, short, zh, none, or a file of sentences with {}.")
    ] = None,
    linear_probe: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Classify --label by a linear probe fitted on these pairs.")
    ] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Pictures a class to fit the linear probe on.")] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Probe with hard negatives of drawn scenes.")] = False,
    count: Annotated[int, typer.Option(min=1, help="Scenes to probe with.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of these scenes.")] = 11,
    probe_data: Annotated[
        Path | None, typer.Option(help="Probe with JSON lines of image, caption and negative.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a report to this file.")] = None,
    runtime: Annotated[str, typer.Option(help="auto, openvino, torch")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, bf16, fp32; fp16 on a GPU; int8")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Retrieval both ways, zero-shot classification, hard negatives, and one model against another."""
    if data is None and not probe and probe_data is None:
        raise typer.BadParameter("give --data, --probe or --probe-data")
    if data is None and (
        needy := [
            n for n, v in [("compare", compare), ("classes", classes), ("by", by), ("linear-probe", linear_probe)] if v
        ]
    ):
        raise typer.BadParameter(f"--{needy[0]} needs --data")
    if (label is None) != (classes is None and linear_probe is None) or (templates and classes is None):
        raise typer.BadParameter("--label goes with --classes or --linear-probe, and --templates with --classes")
    if shots is not None and linear_probe is None:
        raise typer.BadParameter("--shots needs --linear-probe")

    from crossmodal.output import print_json
    from crossmodal.progress import progress
    from dual_encoder import load_encoder
    from training.evaluation import probe_data as tables
    from training.evaluation import probes as scenes

    if html is not None and (html.is_dir() or not html.absolute().parent.is_dir()):
        raise ValueError(f"{html}: {'a folder' if html.is_dir() else 'no such folder'}")
    encoder = load_encoder(model, runtime=runtime, precision=precision)
    other = load_encoder(compare, runtime=runtime, precision=precision) if compare else None
    figures: dict[str, Any] = {"model": encoder.reference}
    found = None
    fitted = _to_fit(linear_probe, label, shots) if linear_probe is not None and label is not None else None
    if data is not None:
        figures["data"] = str(data)
        part, found = _on_data(encoder, other, data, split, language, by or [], limit, classes, label, templates)
        figures |= part
        if fitted is not None and label is not None:
            figures["linear_probe"] = _linear_probe(encoder, *fitted, found, label)
    if probe:
        with progress("drawing and encoding scenes") as report:
            split_of_scenes = split if data is None else "test"
            figures["probes"] = scenes.probe_scenes(encoder, count, seed, split_of_scenes, language, report)
    if probe_data is not None:
        with progress("encoding pictures") as report:
            figures["probe_data"] = tables.probe_table(encoder, probe_data, language, limit, report)
    if json:
        print_json(figures)
    else:
        _print(figures)
    if html is not None:  # last: its disk may be full
        from training.evaluation.report import html_report

        with writing(html):
            html.write_text(html_report(figures, found), "utf-8")


def _on_data(
    encoder: DualEncoder,
    other: DualEncoder | None,
    data: Path,
    split: str,
    language: str | None,
    by: Sequence[str],
    limit: int | None,
    classes: Path | None,
    label: str | None,
    templates: str | None,
) -> tuple[dict[str, Any], Retrieved]:
    """What can be wrong with the input is found before the pictures are encoded."""
    from crossmodal.progress import progress
    from training.evaluation import comparison, retrieval, zero_shot
    from training.evaluation.gallery import read_gallery

    gallery = read_gallery(data, language, split, limit)
    parts = retrieval.parts_of(gallery, by)
    labels = gallery.column(label) if label is not None else []
    task = None
    if classes is not None and label is not None:
        task = zero_shot.read_task(classes, templates, labels, label)
    with progress("encoding pictures") as report:
        found = retrieval.retrieve(encoder, gallery, report)
    figures = retrieval.figures(found, parts)
    if task is not None:
        figures["classification"] = task.run(encoder, found.vectors.images)
    if other is not None:
        with progress(f"encoding pictures with {other.reference}") as report:
            asked = retrieval.retrieve(other, gallery, report).asked
        names = (encoder.reference, other.reference)
        figures["comparison"] = comparison.compare(found.asked, asked, names)
    return figures, found


def _to_fit(data: Path, label: str, shots: int | None) -> tuple[list[Pair], list[Any]]:
    """The pictures that a linear probe is fitted on, and their labels."""
    from training.evaluation.gallery import read_gallery
    from training.evaluation.linear_probe import few

    known = read_gallery(data, split="train")
    labels = known.column(label)
    chosen = few(labels, shots)
    return [known.pairs[i] for i in chosen], [labels[i] for i in chosen]


def _linear_probe(
    encoder: DualEncoder, pairs: list[Pair], labels: list[Any], found: Retrieved, label: str
) -> dict[str, Any]:
    from crossmodal.progress import progress
    from training.evaluation.gallery import encode_pictures
    from training.evaluation.linear_probe import probe

    with progress("encoding pictures to fit on") as report:
        vectors = encode_pictures(encoder, pairs, report)
    return probe(vectors, labels, found.vectors.images, found.gallery.column(label))


def _print(figures: dict[str, Any]) -> None:
    from crossmodal.output import print_table

    for number, (columns, rows) in enumerate(_tables(figures)):
        if number:
            print()
        print_table(columns, rows)
    for way in _WAYS if "comparison" in figures else ():
        print(figures["comparison"][way]["verdict"])


def _tables(figures: dict[str, Any]) -> Iterator[tuple[list[str], list[tuple[object, ...]]]]:
    if "text_to_image" in figures:
        names = figures["text_to_image"]
        head = f"{figures['images']:,} pictures, {figures['texts']:,} captions"
        bounds = figures["intervals"]
        yield (
            [head, *_WAYS.values()],
            [(name, *(_with_bounds(figures[way][name], bounds[way][name]) for way in _WAYS)) for name in names],
        )
    for column, slices in figures.get("by", {}).items():
        rows = []
        for part in slices:
            recall = (_with_bounds(part[way]["recall@1"], part["intervals"][way]["recall@1"]) for way in _WAYS)
            rows.append((part["value"], part["images"], part["texts"], *recall))
        if rows:
            yield [column, "pictures", "captions", *(f"recall@1 {way}" for way in _WAYS.values())], rows
    for key, how in (("classification", "zero-shot"), ("linear_probe", "linear probe")):
        if (classification := figures.get(key)) is None:
            continue
        bounds = classification["intervals"]
        head = f"{how}: {classification['images']:,} pictures, {classification['classes']} classes"
        figure_names = ("top1", "top5", "mean_class_recall")
        yield [head, ""], [(n.replace("_", " "), _with_bounds(classification[n], bounds.get(n))) for n in figure_names]
        if confusions := classification["confusions"]:
            yield ["class", "taken for", "pictures"], [(c["class"], c["taken_for"], c["count"]) for c in confusions]
    for key in ("probes", "probe_data"):
        if key in figures:
            shown = [row for row in figures[key]["probes"] if row["wording"] == "all"]
            rows = [(r["probe"], r["language"], r["count"], _with_bounds(r["accuracy"], r["interval"])) for r in shown]
            whole = figures[key]["all"]
            rows.append(("all", "", whole["count"], _with_bounds(whole["accuracy"], whole["interval"])))
            yield ["hard negatives", "language", "probes", "passed"], rows


def _with_bounds(value: float, bounds: Sequence[float] | None) -> str:
    digits = 1 if value > 1 or (bounds and bounds[1] > 1) else 3
    return f"{value:.{digits}f}" + (f"  ({bounds[0]:.{digits}f} – {bounds[1]:.{digits}f})" if bounds else "")
