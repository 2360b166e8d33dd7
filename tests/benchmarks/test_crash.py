"""A few of the faults of `python -m benchmarks.crash`, which tries them all."""

from __future__ import annotations

import subprocess
import sys

HASTY = """
from vector_index import IndexDirectory, SnapshotWriter
publish = SnapshotWriter.publish
def hasty(self, **options):
    self._directory.make_current("20991231T000000.000000Z-000000000000")
    return publish(self, **options)
SnapshotWriter.publish = hasty
"""


def crash(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    code = f"{before}\nimport sys; from benchmarks.crash import main; sys.argv[1:] = {arguments!r}; main()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_nothing_is_lost() -> None:
    done = crash("--points", "14")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 faults tried" in done.stdout
    assert "0 left something lost or wrong" in done.stdout


def test_a_loss_would_be_seen() -> None:
    """Were CURRENT written before its snapshot is in place, a kill in between would leave nothing to serve."""
    done = crash("--points", "10", before=HASTY)
    assert done.returncode == 1
    assert "No such file" in done.stdout or "not readable as a manifest" in done.stdout
