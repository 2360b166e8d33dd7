from pathlib import Path

import pytest

from tests.vector_index.test_kinds import vectors
from vector_index import BadParameter, kinds, parameters
from vector_index.construction import write_index


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("Flat", {}),
        ("HNSW8,SQ8", {"efSearch": 10_000}),
        ("IVF16,SQ8", {"nprobe": 16}),
        ("IVF16,PQ4x4fs,Refine(SQfp16)", {"nprobe": 16, "k_factor": 1_000}),
        ("PCA8,HNSW8,SQ8,Refine(SQfp16)", {"efSearch": 10_000, "k_factor": 1_000}),
    ],
)
def test_an_index_says_what_it_allows(kind: str, names: dict[str, int], tmp_path: Path) -> None:
    write_index(kind, vectors(500), tmp_path / "i.faiss")
    index = kinds.read_index(tmp_path / "i.faiss")
    assert parameters.allowed(index) == names
    parameters.check(names, parameters.allowed(index))
    for bad in ({"efSearch": 10**9}, {"nprobe": 17}, {"k_factor": 0}, {"depth": 1}):
        with pytest.raises(BadParameter, match=next(iter(bad))) as caught:
            parameters.check(bad, parameters.allowed(index))
        assert all(f"{name} from 1 to {most:,}" in str(caught.value) for name, most in names.items())


def test_deeper_searches_are_wider_unless_asked_otherwise() -> None:
    chosen = {"nprobe": 4, "k_factor": 20}
    assert parameters.at_depth(chosen, {}, 10, 100_000, 1024) == chosen
    assert parameters.at_depth(chosen, {}, 1_000, 100_000, 1024) == {"nprobe": 82, "k_factor": 4}
    assert parameters.at_depth(chosen, {"nprobe": 1, "k_factor": 3}, 1_000, 100_000, 1024) == {
        "nprobe": 1,
        "k_factor": 3,
    }
    assert parameters.at_depth(chosen, {"k_factor": 1_000}, 10_000, 100_000, 1024)["k_factor"] == 20
    assert parameters.at_depth({"nprobe": 4}, {}, 1_000, 100_000, 1024) == {"nprobe": 41}
    assert parameters.at_depth({"efSearch": 64}, {}, 500, 100_000, 0) == {"efSearch": 500}
