"""crossmodal data …"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossmodal.writing import writing

app = typer.Typer(help="Make and prepare data.", no_args_is_help=True)


@app.callback()
def _group() -> None: ...


@app.command()
def scenes(
    out: Annotated[Path, typer.Option(help="Folder to write images/ and captions.jsonl to.")],
    count: Annotated[int, typer.Option(help="How many scenes.", min=1)],
    seed: Annotated[int, typer.Option(help="The same seed draws the same scenes.")] = 0,
    split: Annotated[str, typer.Option(help="train, test (scenes not in train) or unseen (pairings not in train).")] = (
        "train"
    ),
    language: Annotated[str, typer.Option(help="Languages of the captions, with commas.")] = "en,zh",
    workers: Annotated[int, typer.Option(help="Processes; 0: one a core.", min=0)] = 0,
) -> None:
    """Draw pictures of simple scenes with English and Chinese captions."""
    from crossmodal.progress import progress
    from dual_encoder.cores import cores
    from training.scenes import write_scenes

    with writing(out), progress("drawing scenes") as report:
        table = write_scenes(
            out, count, seed, split, [part.strip() for part in language.split(",")],
            workers or cores(), lambda done: report(done, count),
        )  # fmt: skip
    print(table)


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="A folder (captions in a.txt beside a.jpg), a table, or .tar shards.")],
    out: Annotated[Path, typer.Option(help="Folder for the prepared data.")],
    captions: Annotated[str | None, typer.Option(help="A table of `image` and `caption` for a folder.")] = None,
    split: Annotated[str, typer.Option(help="Splits and their shares.")] = "train=0.95,val=0.02,test=0.03",
    honour_split: Annotated[bool, typer.Option("--honour-split", help="Take the column split where it says.")] = False,
    seed: Annotated[int, typer.Option(help="Another seed deals the pictures to other splits.")] = 0,
    min_side: Annotated[int, typer.Option(help="Shorter side, px; 0: any.")] = 64,
    max_aspect: Annotated[float, typer.Option(help="Longer side over shorter; 0: any.")] = 5.0,
    max_pixels: Annotated[int, typer.Option(help="Width times height; 0: what the decoder takes.")] = 100_000_000,
    min_caption: Annotated[int, typer.Option(help="Characters, full-width ones count twice; 0: any.")] = 3,
    max_caption: Annotated[int, typer.Option(help="Characters, full-width ones count twice; 0: any.")] = 1000,
    boilerplate: Annotated[bool, typer.Option(help="Leave out file names, placeholders, stock numbers …")] = True,
    max_caption_share: Annotated[
        float, typer.Option(help="Leave out captions that more than this share of the pictures have; 0: off.")
    ] = 0.0,
    languages: Annotated[str, typer.Option(help="Only captions in these, with commas: en, zh, other.")] = "",
    exact_duplicates: Annotated[bool, typer.Option(help="Merge pictures of the same bytes.")] = True,
    near_duplicates: Annotated[
        str,
        typer.Option(help="drop: one stays; group: all stay, never negatives; keep: all stay; off: not looked for."),
    ] = "drop",
    near_radius: Annotated[int, typer.Option(help="Bits of the 64-bit hash that may differ.", min=0, max=16)] = 4,
    near_colour: Annotated[int, typer.Option(help="How much a cell's colour may differ; 255: any.")] = 32,
    near_cosine: Annotated[float, typer.Option(help="Also near at this cosine under --model; 0: off.")] = 0.0,
    model: Annotated[str | None, typer.Option(help="Model reference for the two cosines.")] = None,
    min_cosine: Annotated[float | None, typer.Option(help="Of picture and caption under --model.")] = None,
    against: Annotated[list[Path] | None, typer.Option(help="Prepared data that must not be in this.")] = None,
    allow_leakage: Annotated[bool, typer.Option("--allow-leakage", help="Keep pictures in several splits.")] = False,
    drop_leakage: Annotated[bool, typer.Option("--drop-leakage", help="Drop them from the larger split.")] = False,
    shard_size: Annotated[int, typer.Option(help="Pictures a shard.", min=1)] = 10_000,
    max_side: Annotated[int, typer.Option(help="Resize larger pictures, px; 0: original bytes.")] = 0,
    resize_format: Annotated[str, typer.Option(help="jpg or webp, for resized pictures.")] = "jpg",
    resize_quality: Annotated[int, typer.Option(help="Of resized pictures.", min=1, max=100)] = 90,
    workers: Annotated[int, typer.Option(help="Threads that decode; 0: one a core.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace prepared data at OUT.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Clean image-caption pairs into WebDataset shards with a manifest and a report."""
    if allow_leakage and drop_leakage:
        raise typer.BadParameter("--allow-leakage and --drop-leakage exclude one another")
    from crossmodal.output import print_json, print_table
    from crossmodal.progress import progress
    from training.prepare import Options, prepare_pairs

    options = Options(
        min_side=min_side, max_aspect=max_aspect, max_pixels=max_pixels, min_caption=min_caption,
        max_caption=max_caption, boilerplate=boilerplate, max_caption_share=max_caption_share,
        languages=tuple(part.strip().lower() for part in languages.split(",") if part.strip()),
        exact_duplicates=exact_duplicates, near_duplicates=near_duplicates, near_radius=near_radius,
        near_colour=near_colour, near_cosine=near_cosine, min_cosine=min_cosine, model=model, splits=split,
        honour_split=honour_split, against=tuple(map(str, against or ())),
        leakage="drop" if drop_leakage else "allow" if allow_leakage else "error", shard_size=shard_size,
        max_side=max_side, resize_format=resize_format, resize_quality=resize_quality, seed=seed,
    )  # fmt: skip
    encoder = None
    if model is not None:
        from dual_encoder import load_encoder

        encoder = load_encoder(model)
    with writing(out):
        summary = prepare_pairs(
            source, out, options, captions=captions, encoder=encoder, workers=workers, overwrite=overwrite,
            stages=progress,
        )  # fmt: skip
    if json:
        print_json(summary.to_json())
        return
    rows = [("read", "", summary.records, "", summary.given_captions)]
    for row in summary.steps:
        if row["pictures"] or row["captions"]:
            rows.append((row["step"], row["pictures"], row["pictures_left"], row["captions"], row["captions_left"]))
    print_table(["step", "pictures out", "left", "captions out", "left"], rows)
    print_table(
        ["split", "pictures", "captions", "shards"],
        [(name, s["pairs"], s["captions"], s["shards"]) for name, s in summary.splits.items()],
    )
    print(f"{summary.out}: {summary.seconds:.1f} s, {summary.pictures_per_second:,.0f} pictures/s")


@app.command()
def dedup(
    index: Annotated[Path, typer.Argument(help="The index directory.")],
    threshold: Annotated[float, typer.Option(help="Cosine from which two pictures are near-duplicates.")] = 0.97,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List groups of near-duplicate pictures in an index, by their vectors."""
    from dataclasses import asdict

    from crossmodal.output import print_json, print_table
    from crossmodal.progress import progress
    from indexer import find_duplicates

    with progress("comparing") as report:
        groups = find_duplicates(index, threshold=threshold, progress=lambda p: report(p.done, p.total))
    if json:
        print_json({"threshold": threshold, "groups": [asdict(group) for group in groups]})
        return
    print_table(
        ["group", "lowest", "id", "uri"],
        [
            (number if not place else "", f"{group.score:.3f}" if not place else "", id, uri)
            for number, group in enumerate(groups, 1)
            for place, (id, uri) in enumerate(zip(group.ids, group.uris, strict=True))
        ],
    )
    print(f"{len(groups):,} groups, {sum(len(group.ids) - 1 for group in groups):,} pictures more than needed")
