"""crossmodal train, crossmodal evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(config: Annotated[Path, typer.Argument(help="A YAML file; docs/training.md lists its keys.")]) -> None:
    """Train a dual encoder; started again, it goes on where it was."""
    from training.config import read_config
    from training.train import Progress
    from training.train import train as run

    def show(p: Progress) -> None:
        typer.echo(
            f"step {p.step}/{p.steps}  loss {p.loss:.4f}  temperature {p.temperature:.4f}  "
            f"{p.pairs_per_second:,.0f} pairs/s  {p.seconds_left / 60:.1f} min left",
            err=True,
        )

    print(run(read_config(config), show))


def evaluate(
    model: Annotated[str, typer.Option(help="Model reference.")],
    data: Annotated[Path, typer.Option(help="A table of pairs, or a folder with captions.jsonl.")],
    language: Annotated[str | None, typer.Option(help="Only captions in this language, such as en or zh.")] = None,
    runtime: Annotated[str, typer.Option(help="auto, openvino, torch")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, bf16, fp32")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recall@1, @5, @10 and median rank, pictures by captions and captions by pictures."""
    from crossmodal.output import print_json, print_table
    from crossmodal.progress import progress
    from dual_encoder import load_encoder
    from training.evaluate import evaluate as run

    encoder = load_encoder(model, runtime=runtime, precision=precision)
    with progress("encoding pictures") as report:
        figures = run(encoder, data, language, report)
    if json:
        print_json(figures)
        return
    names = list(figures["text_to_image"])
    rows = [(way.replace("_", " "), *(figures[way][n] for n in names)) for way in ("text_to_image", "image_to_text")]
    print_table([f"{figures['images']} images, {figures['texts']} texts", *names], rows)
