"""How many cores this process may compute on."""

from __future__ import annotations

import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def cores(groups: Path = _GROUPS) -> int:
    """Those it may run on, or fewer where its container has a quota (`docker --cpus`, Kubernetes' limits); at least 1.

    More threads than the quota has cores would all be stopped for the rest of each period once it is used up.
    """
    return max(1, min(len(os.sched_getaffinity(0)), _quota(groups)))


def _quota(groups: Path) -> int:
    many = os.cpu_count() or 1
    try:
        quota, period = (groups / "cpu.max").read_text().split()
    except (OSError, ValueError):  # no container, or control groups of version 1
        try:
            files = (groups / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
            quota, period = (file.read_text().strip() for file in files)
        except OSError:
            return many
    return many if quota in ("max", "-1") else int(quota) // int(period)
