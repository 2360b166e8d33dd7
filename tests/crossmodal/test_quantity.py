import pytest
import typer

from crossmodal.quantity import BYTES, MILLISECONDS, quantity


def test_what_people_write() -> None:
    assert quantity("4GB", BYTES, "--memory") == 4e9
    assert quantity(" 1.5 gib ", BYTES, "--memory") == 1.5 * 2**30
    assert quantity("5ms", MILLISECONDS, "--target-latency") == 5
    assert quantity("0.5s", MILLISECONDS, "--target-latency") == 500


@pytest.mark.parametrize("text", ["", "4", "GB", "0MB", "-1GB", "1e3GB", "4 parsecs", "nanMB"])
def test_anything_else_is_told_the_units(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="GIB"):
        quantity(text, BYTES, "--memory")
