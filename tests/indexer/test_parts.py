from pathlib import Path
from typing import Any

from indexer.parts import SCHEMA, Workbench, write_durably


def row(uri: str) -> dict[str, Any]:
    return dict.fromkeys(SCHEMA.names) | {"uri": uri, "captions": [], "vector": b"\0" * 4}


def test_parts_outlive_the_bench_that_made_them(tmp_path: Path) -> None:
    folder, plan = tmp_path / ".build", {"model": "a"}
    bench = Workbench(folder, plan, resume=True)
    for number in range(3):
        bench.save(number, [row(f"{number}.png")])
    again = Workbench(folder, plan, resume=True)
    assert [part[0]["uri"] for n in range(3) if (part := again.load(n))] == ["0.png", "1.png", "2.png"]
    again.discard_from(1)
    assert [again.load(n) is None for n in range(3)] == [False, True, True]
    assert Workbench(folder, {"model": "b"}, resume=True).load(0) is None


def test_a_damaged_part_is_no_part(tmp_path: Path) -> None:
    bench = Workbench(tmp_path / ".build", {}, resume=False)
    write_durably(bench.folder / "part-000000.arrow", b"ARROW1 no")
    assert bench.load(0) is None
    bench.save(0, [row("0.png")])
    path = bench.folder / "part-000000.arrow"
    content = bytearray(path.read_bytes())
    for at in (0, len(content) // 2, len(content) - 1):
        content[at] ^= 1
        path.write_bytes(content)
        assert bench.load(0) is None
        content[at] ^= 1
    path.write_bytes(content)
    assert bench.load(0) is not None


def test_parts_beyond_a_gap_are_forgotten_too(tmp_path: Path) -> None:
    """A kill while parts are discarded may leave a later one, which builds on what came before it."""
    bench = Workbench(tmp_path / ".build", {}, resume=True)
    for number in (0, 2, 3):
        bench.save(number, [row(f"{number}.png")])
    bench.discard_from(1)
    assert [bench.load(n) is None for n in range(4)] == [False, True, True, True]
