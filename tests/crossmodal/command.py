"""The command line as tests use it: in a process of its own, or in this one, which saves starting it."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

from crossmodal.main import main

Words = str | Path


def run(*words: Words) -> CompletedProcess[str]:
    command = [sys.executable, "-m", "crossmodal", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def run_here(*words: Words) -> CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["crossmodal", *map(str, words)]):
        try:
            main()
        except SystemExit as stop:
            return CompletedProcess(words, int(stop.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("a command ends by exiting")


def fails(code: int, *words: Words, says: str, run: Callable[..., CompletedProcess[str]] = run_here) -> None:
    """It ends with this code and says this, in a line of its own if it is no bad usage, and prints nothing."""
    result = run(*words)
    assert result.returncode == code, result.stderr
    assert says in " ".join(result.stderr.replace("│", " ").split())  # Rich draws a frame around bad usage
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    if code == 1:
        assert result.stderr.count("error:") == 1
        assert says in result.stderr.splitlines()[-1]  # progress and warnings come before it
