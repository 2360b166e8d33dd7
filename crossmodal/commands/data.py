"""crossmodal data …"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

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
    from training.scenes import write_scenes

    with progress("drawing scenes") as report:
        table = write_scenes(
            out, count, seed, split, [part.strip() for part in language.split(",")],
            workers or os.cpu_count() or 1, lambda done: report(done, count),
        )  # fmt: skip
    print(table)
