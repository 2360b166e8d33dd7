"""crossmodal demo"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    corpus: Annotated[str | None, typer.Option(help="A folder or table of your own; else scenes are drawn.")] = None,
    model: Annotated[str, typer.Option(help="Model reference.")] = "tiny",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    folder: Annotated[Path, typer.Option(help="Where scenes and index are kept.")] = Path(".demo"),
    count: Annotated[int, typer.Option(help="How many scenes to draw, the first time.", min=1)] = 2000,
) -> None:
    """Draw 2,000 scenes, or take your corpus; index them, and serve the page.

    A second run with the same model serves the scenes that are there; a corpus is indexed anew.
    """
    from crossmodal.commands.data import scenes
    from crossmodal.commands.index import build
    from crossmodal.commands.serve import serve

    index = folder / ("corpus-index" if corpus else "index")
    drawn = folder / "scenes" / "captions.jsonl"
    if corpus is None and not drawn.is_file():
        scenes(out=drawn.parent, count=count, seed=7, split="test")
    if corpus or not (index / "CURRENT").is_file() or not _is_of(index, model):
        build(corpus or str(drawn), out=index, model=model)
    examples = "" if corpus else " and type: a red star, four blue circles, 红色心形"  # of the scenes
    typer.echo(f"open http://127.0.0.1:{port}/{examples}", err=True)
    serve(index, port=port)


def _is_of(index: Path, model: str) -> bool:
    """Whether this model made an index; `tiny` may be another since."""
    from dual_encoder.encoder import describe_model
    from dual_encoder.reference import parse_reference
    from vector_index import IndexDirectory

    parsed = parse_reference(model)
    with IndexDirectory(index).open() as snapshot:
        stamp = snapshot.manifest.model
    if stamp.reference != parsed.name or parsed.directory is None:  # without a directory torch would have to load it
        return stamp.reference == parsed.name
    return bool(describe_model(model)["fingerprint"] == stamp.fingerprint)
