"""crossmodal model …"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crossmodal.writing import writing

app = typer.Typer(help="Look at dual encoders and export them for serving.", no_args_is_help=True)


@app.command()
def info(
    model: Annotated[
        str, typer.Argument(help="tiny, a directory, ARCHITECTURE/TAG, ARCHITECTURE, hf-hub:org/name[@REVISION]")
    ],
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
    license: Annotated[str, typer.Option(help="License of the weights, for model.json and the card.")] = "unknown",
    data: Annotated[
        Path | None, typer.Option(help="Judge every precision on these pairs: as of `crossmodal evaluate`.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which split of a prepared folder.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows of --data.")] = None,
    most_loss: Annotated[
        float, typer.Option(min=0, max=1, help="Refuse if recall@1 falls further below fp32's.")
    ] = 0.01,
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="Export whatever is lost.")] = False,
    int8: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Also write 8-bit towers, scaled by these pictures and captions: --precision int8."
        ),
    ] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Read weights that can hold a program (.bin, .pt); you trust them.")
    ] = False,
) -> None:
    """Write a model as a directory that serves without torch, with a card; judge it first where --data is given."""
    from crossmodal.examples import examples_of
    from crossmodal.progress import progress
    from dual_encoder.export import export_model
    from training import release

    with writing(out), progress("judging") as report:

        def judge(folder: Path) -> dict[str, Any]:
            return release.judge(
                folder, name=out.name, license=license, data=data, split=split, limit=limit,
                most_loss=None if accept_loss else most_loss, made=release.made_of(model), on_progress=report,
            )  # fmt: skip

        examples = examples_of(int8) if int8 is not None else None
        print(export_model(model, out, license, judge, int8=examples, trust_pickle=trust_pickle))
