"""crossmodal index …"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossmodal.quantity import BYTES, MILLISECONDS, quantity

if TYPE_CHECKING:
    from vector_index import RecallPoint

app = typer.Typer(help="Build and look after index directories.", no_args_is_help=True)
_Index = Annotated[Path, typer.Argument(help="The index directory.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def build(
    source: Annotated[
        str,
        typer.Argument(help="A folder, a table (CSV, TSV, JSONL, Parquet) or .tar shards; a path, s3://…, https://…"),
    ],
    out: Annotated[Path, typer.Option(help="The index directory.")],
    model: Annotated[str, typer.Option(help="tiny, a directory, ARCHITECTURE/TAG, hf-hub:org/name")] = "tiny",
    captions: Annotated[str | None, typer.Option(help="A table of `image` and `caption` for a folder.")] = None,
    index_type: Annotated[
        str, typer.Option(help="auto, or what FAISS' index_factory takes: Flat, HNSW32,SQ8, …")
    ] = "auto",
    target_recall: Annotated[float, typer.Option(help="recall@10 that the index must reach.", min=0, max=1)] = 0.95,
    memory: Annotated[str | None, typer.Option(help="Most that auto lets an index hold in memory: 4GB, 500MB")] = None,
    target_latency: Annotated[str | None, typer.Option(help="Most that a search may take: 5ms")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    runtime: Annotated[str, typer.Option(help="auto, openvino, torch")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, bf16, fp32, int8")] = "auto",
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on with an interrupted build.")] = True,
    thumbnails: Annotated[bool, typer.Option(help="Keep small pictures for the page.")] = True,
    json: _Json = False,
) -> None:
    """Encode a corpus and publish it as the live snapshot."""
    from crossmodal.output import print_json
    from crossmodal.progress import progress
    from dual_encoder import load_encoder
    from indexer import build_index

    latency = None if target_latency is None else quantity(target_latency, MILLISECONDS, "--target-latency")
    held = None if memory is None else int(quantity(memory, BYTES, "--memory"))
    encoder = load_encoder(model, device=device, runtime=runtime, precision=precision)
    with progress("indexing") as report:
        result = build_index(
            source, out, encoder, captions=captions, index_type=index_type, target_recall=target_recall,
            memory=held,
            target_latency_ms=latency,
            resume=resume, thumbnails=thumbnails, progress=lambda p: report(p.done, p.total),
        )  # fmt: skip
    if json:
        print_json(asdict(result))
        return
    print(
        f"{result.snapshot}: {result.images:,} pictures and {result.texts:,} captions in {result.seconds:.1f} s; "
        f"{result.duplicates:,} duplicates, {result.rejected:,} rejected"
    )


@app.command()
def info(
    index: _Index,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw recall against latency.")] = None,
    json: _Json = False,
) -> None:
    """The live snapshot: model, counts, index kinds, recall and latency as measured."""
    from crossmodal.output import print_json, print_table
    from vector_index import IndexDirectory

    with IndexDirectory(index).open() as snapshot:
        manifest = snapshot.manifest
        if plot is not None:
            from crossmodal.plot import draw_curves

            draw_curves(manifest, plot)
        if json:
            print_json({"snapshot": snapshot.name, **manifest.model_dump(mode="json", by_alias=True)})
            return
        rows = [("snapshot", snapshot.name), ("created", manifest.created), ("source", manifest.source)]
        rows += [("model", f"{manifest.model.reference} ({manifest.model.fingerprint[:12]}, dim {manifest.model.dim})")]
        for name, stamp in (("pictures", manifest.images), ("captions", manifest.texts)):
            rows.append((name, f"{stamp.rows:,} in {stamp.index.kind}, recall@10 {stamp.index.recall:.3f}"))
            for asked, point in stamp.index.queries.items():
                rows.append((f"  asked with {asked}", _shown(point)))
                rows += [("", f"  {_shown(each)}") for each in point.curve]
        rows += [("rejected", manifest.rejects), ("bytes", f"{sum(f.size for f in manifest.files.values()):,}")]
        print_table(["", ""], rows)


def _shown(point: RecallPoint) -> str:
    values = ", ".join(f"{name} {value}" for name, value in point.parameters.items())
    return f"recall@10 {point.recall_at_10:.3f} in {point.ms:.2f} ms with {values}"


@app.command()
def verify(index: _Index, json: _Json = False) -> None:
    """Read the whole live snapshot and check it against its manifest; exit code 1 if anything is wrong."""
    from crossmodal.output import print_json
    from vector_index import IndexDirectory

    with IndexDirectory(index).open() as snapshot:
        problems = snapshot.verify()
        if json:
            print_json({"snapshot": snapshot.name, "problems": problems})
        else:
            print("\n".join(problems) or f"{snapshot.name}: clean")
    if problems:
        raise typer.Exit(1)
