import json
from pathlib import Path

import pytest

from vector_index import IndexStamp, RecallPoint, SnapshotCorrupt, UnsupportedFormat
from vector_index.manifest import read_manifest


def test_recall_points_have_the_names_of_the_format() -> None:
    point = RecallPoint(parameters={"nprobe": 16}, recall_at_10=0.5, ms=0.25)
    assert json.loads(point.model_dump_json(by_alias=True)) == {
        "parameters": {"nprobe": 16},
        "recall@10": 0.5,
        "ms": 0.25,
    }


def test_an_index_of_the_first_snapshots_reads() -> None:
    """As release 0.1.0 wrote it."""
    stamp = IndexStamp.model_validate_json(
        '{"kind": "HNSW32,SQfp16", "parameters": {"efSearch": 64, "M": 32, "efConstruction": 40}, "recall": 0.96,'
        ' "recall_curve": [{"efSearch": 16, "recall@10": 0.8}, {"efSearch": 64, "recall@10": 0.96}]}'
    )
    assert stamp.parameters["efSearch"] == 64
    assert stamp.queries == {}
    assert [(each.parameters, each.recall_at_10) for each in stamp.recall_curve] == [
        ({"efSearch": 16}, 0.8),
        ({"efSearch": 64}, 0.96),
    ]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format_version": 1}'])
def test_what_is_not_a_manifest_is_corrupt(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(SnapshotCorrupt, match=r"manifest\.json") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_another_format_version(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format_version": 3, "unheard": "of"}')
    with pytest.raises(UnsupportedFormat, match=r"manifest\.json: format version 3"):
        read_manifest(tmp_path)
