"""A check that one of several processes makes for all."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service import shared_folder


def test_several_at_once_check_once() -> None:
    made: list[int] = []

    def slow() -> None:
        time.sleep(0.1)
        made.append(1)

    with shared_folder.made(), ThreadPoolExecutor(4) as threads:  # the lock is of an opened file, so threads will do
        list(threads.map(lambda _: shared_folder.check_once("a snapshot", slow), range(4)))
    assert made == [1]


def test_a_failure_is_nobody_elses_and_a_check_does_not_hold_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def bad() -> None:
        raise ValueError("damaged")

    made: list[int] = []
    with shared_folder.made():
        for _ in range(2):
            with pytest.raises(ValueError, match="damaged"):
                shared_folder.check_once("../a", bad)
        for _ in range(2):
            shared_folder.check_once("../a", lambda: made.append(1))
        assert made == [1]
        shared_folder.check_once("b", lambda: made.append(2))
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 61)
        shared_folder.check_once("b", lambda: made.append(3))
    assert made == [1, 2, 3]


def test_one_process_always_checks() -> None:
    made: list[int] = []
    for number in range(2):
        shared_folder.check_once("a", lambda number=number: made.append(number))  # type: ignore[misc]
        shared_folder.has_checked("a")
    assert made == [0, 1]
    assert shared_folder.folder() is None
    assert not shared_folder.checked("a")
