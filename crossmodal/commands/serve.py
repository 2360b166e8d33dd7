"""crossmodal serve"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crossmodal.place import place


def serve(
    index: Annotated[Path | None, typer.Argument(help="The index directory.")] = None,
    store: Annotated[str | None, typer.Option(help="Where the index lies instead: milvus://HOST:PORT/NAME")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    workers: Annotated[int | None, typer.Option(help="Processes, which share the cores.", min=1)] = None,
    model: Annotated[str | None, typer.Option(help="Model reference; the snapshot's own when not given.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda")] = None,
    runtime: Annotated[str | None, typer.Option(help="auto, openvino, torch")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, bf16, fp32; fp16 on a GPU; int8")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Listen beyond this machine though nobody needs a key.")
    ] = None,
) -> None:
    """Serve an index over REST, with a web page at /. Everything else is set by CROSSMODAL_… variables."""
    from service.server import serve as run
    from service.settings import Settings

    given: dict[str, Any] = {"model": model, "device": device, "runtime": runtime, "precision": precision}
    given |= {"workers": workers, "insecure": insecure}
    given = {name: value for name, value in given.items() if value is not None}
    settings = Settings(**place(index, store), **given)
    if (settings.index is None) == (settings.store is None):
        raise typer.BadParameter("give an index directory or a store (CROSSMODAL_STORE), one of them")
    what = f"serving {settings.store or settings.index} on http://{host}:{port}"
    run(settings, host, port, opened=lambda: typer.echo(what, err=True))
