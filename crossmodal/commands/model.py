"""crossmodal model …"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at dual encoders and export them for serving.", no_args_is_help=True)


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="tiny, a directory, ARCHITECTURE/TAG, ARCHITECTURE or hf-hub:org/name")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fingerprint, size, temperature and parity figures of a model."""
    from crossmodal.output import print_json, print_table
    from dual_encoder.encoder import describe_model

    facts = describe_model(model)
    if json:
        print_json(facts)
    else:
        print_table(["", ""], [(name, value) for name, value in facts.items() if name != "files"])


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="The model to export.")],
    out: Annotated[Path, typer.Option(help="Directory to write; new or empty, or the model's own.")],
    license: Annotated[str, typer.Option(help="License of the weights, recorded in model.json.")] = "unknown",
) -> None:
    """Write a model as a directory that serves without torch."""
    from dual_encoder.export import export_model

    print(export_model(model, out, license))
