"""crossmodal index …"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossmodal.place import place
from crossmodal.quantity import BYTES, MILLISECONDS, quantity
from crossmodal.writing import writing

if TYPE_CHECKING:
    from dual_encoder import DualEncoder
    from dual_encoder.device_jpegs import DeviceJpegs
    from indexer.engine import Engine
    from vector_index import RecallPoint
    from vector_index import store as stores
    from vector_index.milvus import MilvusStore

_PATIENCE = 30.0  # seconds until a store must have answered

app = typer.Typer(help="Build and look after index directories.", no_args_is_help=True)
_Index = Annotated[Path, typer.Argument(help="The index directory.")]
_Maybe = Annotated[Path | None, typer.Argument(help="The index directory; none: the store.")]
_Store = Annotated[
    str | None, typer.Option(help="milvus://HOST:PORT/NAME: publish there too.", envvar="CROSSMODAL_STORE")
]
_At = Annotated[str | None, typer.Option(help="milvus://HOST:PORT/NAME; else CROSSMODAL_STORE")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda", envvar="CROSSMODAL_DEVICE")]
_Kind = Annotated[str, typer.Option(help="In the store: auto, FLAT, HNSW, IVF_FLAT")]
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
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda; several GPUs: cuda:0,cuda:1", envvar="CROSSMODAL_DEVICE")
    ] = "auto",
    runtime: Annotated[str, typer.Option(help="auto, openvino, torch")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, bf16, fp32; fp16 on a GPU; int8")] = "auto",
    decode: Annotated[str, typer.Option(help="JPEGs on the cpu, or on the gpu by nvJPEG.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on with an interrupted build.")] = True,
    thumbnails: Annotated[bool, typer.Option(help="Keep small pictures for the page.")] = True,
    engine: Annotated[str, typer.Option(help="local, or ray: on the machines of a Ray cluster.")] = "local",
    ray_address: Annotated[str, typer.Option(help="auto: this machine's cluster; or HOST:PORT.")] = "auto",
    ray_workers: Annotated[int | None, typer.Option(help="By default one a GPU, or one a few cores.", min=1)] = None,
    store: _Store = None,
    store_index: _Kind = "auto",
    json: _Json = False,
) -> None:
    """Encode a corpus and publish it as the live snapshot."""
    from crossmodal.output import print_json
    from crossmodal.progress import progress
    from dual_encoder import load_encoder
    from indexer import build_index
    from indexer.engine import LocalEngine

    latency = None if target_latency is None else quantity(target_latency, MILLISECONDS, "--target-latency")
    held = None if memory is None else int(quantity(memory, BYTES, "--memory"))
    if engine not in ("local", "ray"):
        raise typer.BadParameter(f"{engine!r} is neither local nor ray", param_hint="--engine")
    if engine == "local" and (ray_workers is not None or ray_address != "auto"):
        raise typer.BadParameter("--ray-address and --ray-workers go with --engine ray")
    if decode not in ("cpu", "gpu"):
        raise typer.BadParameter(f"{decode!r} is neither cpu nor gpu", param_hint="--decode")
    devices = device.split(",")
    if engine == "ray" and (len(devices) > 1 or decode == "gpu"):
        raise typer.BadParameter("with --engine ray each worker has one GPU, and decodes on the CPU")
    options: dict[str, Any] = {"runtime": runtime, "precision": precision}
    there = _reached(store, store_index)
    if there is not None and index_type == "auto":
        index_type = "Flat"  # searched in the store, which is to have the vectors as they are
    with ExitStack() as stack:
        chosen: Engine
        if engine == "ray":
            from indexer.ray_engine import RayEngine

            chosen = stack.enter_context(
                RayEngine(model, address=ray_address, workers=ray_workers, device=device, **options)
            )
        else:
            encoders = [load_encoder(model, device=each, **options) for each in devices]
            jpegs = _device_jpegs(encoders[0]) if decode == "gpu" else None
            chosen = LocalEngine(*encoders, jpegs=jpegs)
        stack.enter_context(writing(out))
        report = stack.enter_context(progress("indexing"))
        result = build_index(
            source, out, chosen, captions=captions, index_type=index_type, target_recall=target_recall,
            memory=held,
            target_latency_ms=latency,
            resume=resume, thumbnails=thumbnails, progress=lambda p: report(p.done, p.total),
        )  # fmt: skip
    _publish(out, there, store_index)
    if json:
        print_json(asdict(result))
        return
    print(
        f"{result.snapshot}: {result.images:,} pictures and {result.texts:,} captions in {result.seconds:.1f} s; "
        f"{result.duplicates:,} duplicates, {_rejected(out, result)}"
    )


@app.command()
def add(
    source: Annotated[str, typer.Argument(help="What to add: a folder, a table or .tar shards; a path or an address.")],
    index: Annotated[Path, typer.Option(help="The index directory.")],
    captions: Annotated[str | None, typer.Option(help="A table of `image` and `caption` for a folder.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what SOURCE had before and has no longer.")] = False,
    device: _Device = "auto",
    runtime: Annotated[str, typer.Option(help="auto, openvino, torch")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, bf16, fp32; fp16 on a GPU; int8")] = "auto",
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on with an interrupted change.")] = True,
    thumbnails: Annotated[bool, typer.Option(help="Keep small pictures for the page.")] = True,
    store: _Store = None,
    store_index: _Kind = "auto",
    json: _Json = False,
) -> None:
    """Encode what is new or changed in a corpus, and publish it with what the index has already."""
    from crossmodal.progress import progress
    from dual_encoder import load_encoder
    from indexer import add_to_index
    from vector_index import IndexDirectory

    there = _reached(store, store_index)
    with IndexDirectory(index).open() as snapshot:
        model = snapshot.manifest.model.reference
    encoder = load_encoder(model, device=device, runtime=runtime, precision=precision)
    with writing(index), progress("adding") as report:
        result = add_to_index(
            source, index, encoder, captions=captions, prune=prune, resume=resume, thumbnails=thumbnails,
            progress=lambda p: report(p.done, p.total),
        )  # fmt: skip
    _publish(index, there, store_index)
    _print_change(index, result, json)


@app.command()
def remove(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of pictures.")] = None,
    *,
    index: Annotated[Path, typer.Option(help="The index directory.")],
    where: Annotated[str | None, typer.Option(help="A filter as JSON: all pictures that it keeps.")] = None,
    store: _Store = None,
    store_index: _Kind = "auto",
    json: _Json = False,
) -> None:
    """Remove pictures, and captions of no other picture; publishes what is left."""
    from json import JSONDecodeError, loads

    import numpy as np

    from indexer import remove_from_index
    from vector_index import Filter, Snapshot, UnknownId

    if bool(ids) == bool(where):
        raise typer.BadParameter("give ids or --where, one of them")

    def rows(snapshot: Snapshot) -> list[int]:
        if ids:
            try:
                return [snapshot.images.row_of(id) for id in ids]
            except UnknownId as error:
                if there is None:
                    raise
                more = f"if it is removed here, but not yet there: crossmodal index publish {index} --store …"
                raise UnknownId(f"{error}; {more}") from None
        try:
            wanted = loads(where or "")
        except JSONDecodeError as error:
            raise typer.BadParameter(f"--where is not JSON: {error}") from None
        found: list[int] = np.asarray(snapshot.images.live(Filter.parse(wanted, snapshot.images.schema))).tolist()
        return found

    there = _reached(store, store_index)
    with writing(index):
        result = remove_from_index(index, rows)
    _publish(index, there, store_index)
    _print_change(index, result, json)


@app.command()
def publish(
    index: _Index,
    store: Annotated[str, typer.Option(help="milvus://HOST:PORT/NAME", envvar="CROSSMODAL_STORE")],
    store_index: _Kind = "auto",
    thumbnails: Annotated[bool, typer.Option(help="Small pictures too.")] = True,
    json: _Json = False,
) -> None:
    """Load the live snapshot into a store and make it the live one there."""
    from crossmodal.output import print_json

    name = _publish(index, _reached(store, store_index), store_index, thumbnails)
    print_json({"snapshot": name}) if json else print(name)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Vectors in .npy and Parquet: clip-retrieval's, pairs, or an export.")],
    out: Annotated[Path, typer.Option(help="The index directory.")],
    model: Annotated[str, typer.Option(help="The model that made the vectors: as for build.")],
    source: Annotated[str | None, typer.Option(help="What addresses of pictures are relative to.")] = None,
    encode_captions: Annotated[bool, typer.Option("--encode-captions", help="Those that have no vector.")] = False,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Do not look whether MODEL made them.")] = False,
    index_type: Annotated[str, typer.Option(help="auto, Flat, HNSW32,SQ8, …: as for build.")] = "auto",
    target_recall: Annotated[float, typer.Option(help="recall@10 that the index must reach.", min=0, max=1)] = 0.95,
    json: _Json = False,
) -> None:
    """Publish embeddings that exist as the live snapshot, without encoding them again."""
    from crossmodal.output import print_json
    from crossmodal.progress import progress
    from dual_encoder import load_encoder
    from indexer import import_index

    encoder = load_encoder(model, lazy=True)
    with writing(out), progress("importing") as report:
        result = import_index(
            folder, out, encoder, source=source, encode_captions=encode_captions, checked=not unchecked,
            index_type=index_type, target_recall=target_recall, progress=lambda p: report(p.done, p.total),
        )  # fmt: skip
    if json:
        print_json(asdict(result))
        return
    compared = f"mean cosine {result.cosine:.3f} with the model's own" if result.cosine is not None else "not checked"
    print(
        f"{result.snapshot}: {result.images:,} pictures and {result.texts:,} captions in {result.seconds:.1f} s; "
        f"{_rejected(out, result)}; {result.compared} pictures compared, {compared}"
    )


@app.command()
def export(
    index: _Index,
    out: Annotated[Path, typer.Option(help="A folder that is not there yet, or empty.")],
    format: Annotated[str, typer.Option(help="clip-retrieval (float16), parquet (float32)")] = "clip-retrieval",
    shard_rows: Annotated[int, typer.Option(help="Pictures in each .npy.", min=1)] = 1_000_000,
    json: _Json = False,
) -> None:
    """Write vectors, captions and metadata to files that others read."""
    from crossmodal.output import print_json
    from crossmodal.progress import progress
    from indexer import export_index
    from indexer.exporting import FORMATS

    if format not in FORMATS:
        raise typer.BadParameter(f"--format {format!r} is not one of {', '.join(FORMATS)}")
    with writing(out), progress("exporting") as report:
        result = export_index(
            index, out, format=format, shard_rows=shard_rows, progress=lambda p: report(p.done, p.total)
        )
    if json:
        print_json(asdict(result))
        return
    print(
        f"{result.out}: {result.images:,} pictures, {result.texts:,} captions' vectors, {result.bytes:,} bytes; "
        f"{result.seconds:.1f} s"
    )


@app.command()
def compact(index: _Index, json: _Json = False) -> None:
    """Rewrite what many changes have left behind as one piece; publishes the same content."""
    from crossmodal.output import print_json
    from indexer import compact_index

    with writing(index):
        name = compact_index(index)
    print_json({"snapshot": name}) if json else print(name)


@app.command()
def gc(
    index: _Maybe = None,
    keep: Annotated[int, typer.Option(help="How many of the newest snapshots to keep.", min=1)] = 3,
    store: _At = None,
    json: _Json = False,
) -> None:
    """Delete old snapshots; the live one stays."""
    from crossmodal.output import print_json
    from vector_index import IndexDirectory

    place(index, store)
    if index is not None:
        directory = IndexDirectory(index)
        with directory.change():
            gone = directory.collect(keep)
            left = directory.names()
    else:
        there = _reached(_given(store))
        assert there is not None
        gone = there.collect(keep)
        left = there.names()
    print_json({"deleted": gone, "kept": left}) if json else print(f"{len(gone)} deleted, {len(left)} kept")


@app.command()
def info(
    index: _Maybe = None,
    store: _At = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw recall against latency.")] = None,
    json: _Json = False,
) -> None:
    """The live snapshot: model, counts, index kinds, recall and latency as measured."""
    from crossmodal.output import print_json, print_table

    with _opened(index, store) as snapshot:
        manifest = snapshot.manifest
        if plot is not None:
            from crossmodal.plot import draw_curves

            with writing(plot):
                draw_curves(manifest, plot)
        if json:
            print_json({"snapshot": snapshot.name, **manifest.model_dump(mode="json", by_alias=True)})
            return
        rows = [("snapshot", snapshot.name), ("created", manifest.created), ("source", manifest.source)]
        rows += [("model", f"{manifest.model.reference} ({manifest.model.fingerprint[:12]}, dim {manifest.model.dim})")]
        for name, stamp in (("pictures", manifest.images), ("captions", manifest.texts)):
            parts = f", {len(stamp.segments)} segments" if len(stamp.segments) > 1 else ""
            rows.append((name, f"{stamp.rows:,} in {stamp.index.kind}, recall@10 {stamp.index.recall:.3f}{parts}"))
            for asked, point in stamp.index.queries.items():
                rows.append((f"  asked with {asked}", _shown(point)))
                rows += [("", f"  {_shown(each)}") for each in point.curve]
        rows += [("rejected", manifest.rejects), ("bytes", f"{sum(f.size for f in manifest.files.values()):,}")]
        print_table(["", ""], rows)


def _shown(point: RecallPoint) -> str:
    values = ", ".join(f"{name} {value}" for name, value in point.parameters.items())
    return f"recall@10 {point.recall_at_10:.3f} in {point.ms:.2f} ms with {values}"


@app.command()
def verify(index: _Maybe = None, store: _At = None, json: _Json = False) -> None:
    """Read the whole live snapshot and check it against its manifest; exit code 1 if anything is wrong."""
    from crossmodal.output import print_json

    with _opened(index, store) as snapshot:
        problems = snapshot.verify()
        if json:
            print_json({"snapshot": snapshot.name, "problems": problems})
        else:
            print("\n".join(problems) or f"{snapshot.name}: clean")
    if problems:
        raise typer.Exit(1)


@contextmanager
def _opened(index: Path | None, store: str | None) -> Iterator[stores.Snapshot]:
    """The live snapshot of an index directory or, where none is given, of a store."""
    from vector_index import IndexDirectory

    place(index, store)
    if index is not None:
        with IndexDirectory(index).open() as snapshot:
            yield snapshot
        return
    there = _reached(_given(store))
    assert there is not None
    try:
        yield there.open()
    finally:
        there.close()


def _given(store: str | None) -> str:
    store = store or os.environ.get("CROSSMODAL_STORE")
    if not store:
        raise typer.BadParameter("give an index directory or a store (--store, CROSSMODAL_STORE)")
    return store


def _reached(address: str | None, kind: str = "auto") -> MilvusStore | None:
    """A store that answers, and makes indexes of this kind; asked before anything is built for it."""
    if address is None:
        return None
    from vector_index.milvus import INDEX_TYPES, MilvusStore

    if kind not in INDEX_TYPES:
        raise typer.BadParameter(f"{kind!r} is not one of {', '.join(INDEX_TYPES)}", param_hint="--store-index")

    store = MilvusStore(address, token=os.environ.get("CROSSMODAL_STORE_TOKEN"), timeout=_PATIENCE)
    store.current()
    return store


def _device_jpegs(encoder: DualEncoder) -> DeviceJpegs:
    from dual_encoder.device_jpegs import DeviceJpegs
    from dual_encoder.errors import ModelError
    from indexer.rows import side_of

    device = getattr(encoder.runtime, "device", None)
    if not encoder.runtime.takes_bytes:
        raise ModelError("--decode gpu needs a GPU that encodes too: the model is on the CPU here")
    return DeviceJpegs(encoder.preprocess, side_of(encoder.image_size), str(device))


def _publish(index: Path, store: MilvusStore | None, kind: str, thumbnails: bool = True) -> str | None:
    """Load the live snapshot of an index directory into a store; nothing where there is none."""
    if store is None:
        return None
    from crossmodal.progress import progress
    from vector_index import IndexDirectory

    with IndexDirectory(index).change() as snapshot, progress("publishing") as report:
        name = store.publish(snapshot, index_type=kind, thumbnails=thumbnails, progress=report)
    store.close()
    return name


def _rejected(index: Path, result: Any) -> str:
    """How many inputs were left out, and where to read why."""
    from vector_index import IndexDirectory

    why = IndexDirectory(index).snapshots / result.snapshot / "rejects.jsonl"
    return f"{result.rejected:,} rejected" + (f" ({why})" if result.rejected else "")


def _print_change(index: Path, result: Any, json: bool) -> None:
    from crossmodal.output import print_json

    if json:
        print_json(asdict(result))
        return
    print(
        f"{result.snapshot}: {result.added:,} added, {result.changed:,} changed, {result.removed:,} removed, "
        f"{result.unchanged:,} as before, {_rejected(index, result)}; {result.seconds:.1f} s"
    )
