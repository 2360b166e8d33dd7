"""The seeds of `make fuzz`, and what it has found, once more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_every_file_of_the_corpus(target: str) -> None:
    files = sorted((CORPUS / target).iterdir())
    assert len(files) >= 10
    for file in files:
        try:
            TARGETS[target](file.read_bytes())
        except Exception as error:
            raise AssertionError(f"{file.name}: {error!r}") from error
