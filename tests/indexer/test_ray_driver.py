"""How a cluster is divided among workers."""

from __future__ import annotations

from typing import Any

import pytest

from indexer.ray_driver import sizes


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "expected"),
    [
        ([{"CPU": 2.0}, {"CPU": 2.0}], "auto", None, (2, {"num_cpus": 2, "num_gpus": 0})),
        ([{"CPU": 64.0}, {"CPU": 10.0}, {}], "auto", None, (18, {"num_cpus": 4, "num_gpus": 0})),
        ([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 48.0}], "auto", None, (2, {"num_cpus": 8, "num_gpus": 1})),
        ([{"CPU": 16.0, "GPU": 2.0}], "cpu", None, (4, {"num_cpus": 4, "num_gpus": 0})),
        ([{"CPU": 16.0, "GPU": 2.0}], "auto", 1, (1, {"num_cpus": 8, "num_gpus": 1})),
        ([{"CPU": 2.0}], "cuda", 3, (3, {"num_cpus": 1, "num_gpus": 1})),  # machines with GPUs are still to come
        ([{}], "auto", None, (1, {"num_cpus": 4, "num_gpus": 0})),
    ],
)
def test_sizes(nodes: list[dict[str, float]], device: str, workers: int | None, expected: Any) -> None:
    assert sizes(nodes, device, workers) == expected
