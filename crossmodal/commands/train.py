"""crossmodal train"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from crossmodal.writing import writing


def train(
    config: Annotated[Path, typer.Argument(help="A YAML file; docs/training.md lists its keys.")],
    set: Annotated[list[str] | None, typer.Option(help="Change a key: --set steps=100", metavar="KEY=VALUE")] = None,
) -> None:
    """Train a dual encoder; started again, it goes on where it was. Under torchrun, several processes share the work."""  # noqa: E501
    from training.config import read_config
    from training.train import Progress
    from training.train import train as run

    def show(p: Progress) -> None:
        several = "".join(f"  {name} {value:.4f}" for name, value in p.losses.items()) if len(p.losses) > 1 else ""
        judged = "".join(f"  {name} {value:.3f}" for name, value in (p.validation or {}).items())
        typer.echo(
            f"step {p.step}/{p.steps}  loss {p.loss:.4f}{several}  temperature {p.temperature:.4f}  "
            f"{p.pairs_per_second:,.0f} pairs/s  {p.seconds_left / 60:.1f} min left{judged}",
            err=True,
        )

    wanted = read_config(config, set or ())
    with writing(wanted.out):
        model = run(wanted, show)
    if os.environ.get("RANK", "0") == "0":  # torchrun's: the others have nothing to say
        print(model)
