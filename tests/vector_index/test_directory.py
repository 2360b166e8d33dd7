import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vector_index import IndexDirectory, IndexLocked, IndexNotFound, SnapshotCorrupt

HOLD = """
import sys
from vector_index import IndexDirectory
with IndexDirectory(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_nothing_published(directory: IndexDirectory) -> None:
    assert directory.current() is None
    with pytest.raises(IndexNotFound, match="index"):
        directory.open()
    assert not directory.path.exists()


@pytest.mark.parametrize("name", ["", "..", "../elsewhere", "gone"])
def test_current_names_no_snapshot(directory: IndexDirectory, name: str) -> None:
    directory.path.mkdir()
    (directory.path / "CURRENT").write_text(name)
    with pytest.raises(SnapshotCorrupt):
        directory.open()


def test_what_is_deleted_while_it_is_opened(
    directory: IndexDirectory, publish: Callable[..., str], corpus: Any
) -> None:
    class Overtaken(IndexDirectory):
        def current(self) -> str | None:
            name = super().current()
            if name == first:
                publish(corpus)
                directory.collect(1)
            return name

    first = publish(corpus)
    with Overtaken(directory.path).open() as snapshot:
        assert snapshot.name == directory.current() != first


def test_lock_held_by_another_process_says_whose_it_is(directory: IndexDirectory) -> None:
    command = [sys.executable, "-c", HOLD, str(directory.path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(IndexLocked, match=f"process {holder.pid} on "), directory.lock():
            pass
        holder.kill()
    with directory.lock():  # the kernel let go of it
        pass


def test_lock_is_let_go(directory: IndexDirectory) -> None:
    with directory.lock(), pytest.raises(IndexLocked, match=f"process {os.getpid()}"), directory.lock():
        pass
    with directory.lock():
        pass
