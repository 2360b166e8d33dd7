"""crossmodal keys …"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossmodal.writing import writing

app = typer.Typer(help="Make, list and revoke the keys of a service.", no_args_is_help=True)
_File = Annotated[
    Path, typer.Option("--file", envvar="CROSSMODAL_KEYS_FILE", help="The file of keys, which the service reads too.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    scope: Annotated[str, typer.Option(help="search: search, embed, rank, look at pictures; admin: everything")],
    file: _File,
    name: Annotated[str, typer.Option(help="Whose key it is; logs tell it.")] = "",
    rate_limit: Annotated[str | None, typer.Option(help="Its own limit: 10/second;10000/day")] = None,
    json: _Json = False,
) -> None:
    """Make a key and print it, once: the file holds its hash alone."""
    from crossmodal.output import print_json
    from service import keys
    from service.rate_limit import parse_limits

    if scope not in ("search", "admin"):
        raise typer.BadParameter(f"{scope!r} is not search or admin", param_hint="--scope")
    if rate_limit is not None:
        parse_limits(rate_limit)
    with writing(file):
        text, key = keys.create(file, scope, name, rate_limit)  # type: ignore[arg-type]
    _record("keys.create", key)
    if json:
        print_json({"key": text, **key.model_dump(mode="json", exclude={"sha256"})})
    else:
        print(text)


@app.command("list")
def list_keys(file: _File, json: _Json = False) -> None:
    """The keys by their prefixes."""
    from crossmodal.output import print_json, print_table
    from service import keys

    found = keys.read(file)
    if json:
        print_json([key.model_dump(mode="json", exclude={"sha256"}) for key in found])
        return
    rows = [(f"cmk_{key.prefix}", key.scope, key.name, key.rate_limit or "", key.created.date()) for key in found]
    print_table(["prefix", "scope", "name", "limit", "created"], rows)


@app.command()
def revoke(
    prefix: Annotated[str, typer.Argument(help="The key's beginning, as `keys list` shows it.")], file: _File
) -> None:
    """Take a key away; a running service knows within a second."""
    from service import keys

    key = keys.revoke(file, prefix)
    _record("keys.revoke", key)
    print(f"revoked {key}")


def _record(action: str, key: object) -> None:
    import getpass
    import logging.config

    from service import audit, logs

    logging.config.dictConfig(logs.settings())
    audit.record(action, who=f"user {getpass.getuser()}", result="done", key=str(key))
