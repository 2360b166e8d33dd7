"""`crossmodal`: every command. Heavy packages are imported in the command that needs them, so that --help is quick."""

from __future__ import annotations

import sys

import typer

from crossmodal.commands import data, demo, evaluate, index, keys, model, search, serve, train

app = typer.Typer(
    name="crossmodal",
    help="Find pictures by words, words by pictures, and pictures by pictures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(index.app, name="index")
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")
app.add_typer(keys.app, name="keys")
for command in (search.search, serve.serve, train.train, evaluate.evaluate, demo.demo):
    app.command()(command)


def main() -> None:
    """Exit code 0, 1 for a failure (one clear line, no traceback) or 2 for bad usage."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not _is_expected(error):
            raise
        print(f"error: {_told(error)}", file=sys.stderr)
        sys.exit(1)


def _told(error: Exception) -> str:
    """What is wrong, in one line: YAML's and other libraries' errors have several, the system's have numbers."""
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename is not None:
        return f"{error.filename}: a file is in the way of a folder"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__


def _is_expected(error: Exception) -> bool:
    """Our own errors, bad values and the operating system's are told in a line; anything else is a bug."""
    ours = ("corpus", "crossmodal", "dual_encoder", "indexer", "service", "training", "vector_index")
    return isinstance(error, (OSError, ValueError)) or type(error).__module__.split(".")[0] in ours
