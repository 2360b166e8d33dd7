import pytest

from crossmodal.output import print_table
from crossmodal.progress import progress


def test_nothing_of_a_table_is_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich fits a table to 80 columns where there is no terminal, with an ellipsis for the rest of an address."""
    address = "/".join(["a-folder-of-pictures"] * 20)
    print_table(["rank", "image"], [(1, address), (2, "b.jpg")])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["rank", "image"],
        ["1", address],
        ["2", "b.jpg"],
    ]


def test_the_end_of_a_step_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("indexing") as report:
        for done in (1, 2, 3, 3, 3):
            report(done, 3)
    assert capsys.readouterr().err.count("3 of 3") == 1
