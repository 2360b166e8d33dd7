"""The house keeps its floors, and importing it does nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_import_contract() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, crossmodal.main; "
        "print({'torch', 'open_clip', 'faiss', 'openvino', 'fastapi', 'pyarrow', 'numpy'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
