"""Where an index lies: a directory, or a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer


def place(index: Path | None, store: str | None) -> dict[str, Any]:
    """Return what the command line says as settings, both of them, so that the environment says nothing against it;
    none where it is silent. Raises typer.BadParameter where it names two places."""
    if index is not None and store is not None:
        raise typer.BadParameter("give an index directory or --store, one of them")
    return {} if index is None and store is None else {"index": index, "store": store}
