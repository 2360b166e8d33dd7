"""Requests made up from the OpenAPI document, by and against its rules: no 5xx, and no answer that it does not describe.

docs/reliability.md has the command for many more.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_every_answer_is_as_the_document_says(live_server: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(Path(__file__).with_name("schemathesis.toml")),
    ]
    command += ["run", f"{live_server}/openapi.json", "--checks", "all", "--seed", "1", "--max-examples", "10"]
    found = subprocess.run([*command, "--no-color"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout[-5000:] + found.stderr[-2000:]
    cases = re.search(r"(\d+) generated, (\d+) passed", found.stdout)
    assert cases, found.stdout[-500:]
    assert int(cases[1]) >= 300
