"""A container's quota counts, by both versions of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dual_encoder.cores import cores


@pytest.mark.parametrize(
    ("quota", "expected"), [("200000", 2), ("150000", 1), ("50000", 1), ("900000", 4), ("max", 4), ("-1", 4)]
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_quota_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int, version: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    if version == 2:
        (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    else:
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path) == expected


def test_no_quota(tmp_path: Path) -> None:
    assert cores(tmp_path) == len(os.sched_getaffinity(0))
