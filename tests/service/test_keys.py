"""The file of keys: what is in it, who can read it, who may write at once, and when a change counts."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service import keys
from service.keys import UNREADABLE, KeyRing, KeysError


def crossmodal(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crossmodal", "keys", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


_LIMIT = (
    b'{"keys": [{"prefix": "aaaaaaaa", "scope": "search", "created": "2026-01-01T00:00:00Z", "rate_limit": "lots", '
    b'"sha256": "' + b"0" * 64 + b'"}]}'
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_the_file_holds_hashes_alone_and_is_its_owners(path: Path) -> None:
    before = os.umask(0)  # whatever the mask
    try:
        text, key = keys.create(path, "search", "the web site")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    written = path.read_text()
    assert text.split("_", 2)[2] not in written
    assert key.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert len(text.split("_", 2)[2]) == 43  # 256 bits in base64


def test_many_who_write_at_once_lose_nothing(path: Path) -> None:
    script = f"from pathlib import Path; from service import keys\nfor _ in range(10): keys.create(Path({str(path)!r}), 'search')"
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len({key.prefix for key in keys.read(path)}) == 40


def test_a_write_that_fails_leaves_the_file_and_nothing_beside_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.create(path, "search")
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            keys.create(path, "search")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_file_stays_the_services_when_root_edits_it(path: Path) -> None:
    keys.create(path, "search")
    os.chown(path, 10001, 10001)
    keys.create(path, "admin")
    assert (path.stat().st_uid, path.stat().st_gid) == (10001, 10001)


def test_a_ring_finds_whole_keys_only(path: Path) -> None:
    text, key = keys.create(path, "admin")
    ring = KeyRing(path)
    assert ring.find(text) == key
    for wrong in ("", "cmk_", text[:-1], text + "x", text.upper(), text.swapcase(), f" {text}", key.sha256,
                  f"cmk_{key.prefix}_", f"cmk_{key.prefix}_{'A' * 43}", "é" * 50, "\udc80"):  # fmt: skip
        assert ring.find(wrong) is None, wrong


def test_a_ring_reads_its_file_again_when_it_changes(path: Path) -> None:
    now = 0.0
    first, _ = keys.create(path, "search")
    ring = KeyRing(path, clock=lambda: now)
    second, _ = keys.create(path, "search")
    assert ring.find(second) is None  # not yet
    now = 1.0
    assert ring.find(second)
    keys.revoke(path, second[:12])
    now = 2.0
    assert ring.find(second) is None
    assert ring.find(first)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 2}', b'{"keys": [{"prefix": "x"}]}', _LIMIT, None])
def test_a_broken_file_leaves_the_keys_read_before_and_says_so(
    path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    text, _ = keys.create(path, "search")
    ring = KeyRing(path, clock=lambda: now)
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    before = UNREADABLE._value.get()
    for _ in range(3):
        now += 1.0
        assert ring.find(text)
    assert UNREADABLE._value.get() == before + 1
    assert len(caplog.records) == 1
    with pytest.raises(KeysError, match=r"keys\.json"):
        KeyRing(path)


def test_a_file_is_read_again_though_it_claims_to_be_as_old_as_before(path: Path) -> None:
    now = 0.0
    text, key = keys.create(path, "search")
    ring, before = KeyRing(path, clock=lambda: now), path.stat()
    path.write_text(path.read_text().replace(key.sha256, "0" * 64))  # as `cp -p` of a backup; chmod and chown likewise
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    now += 1.0
    assert ring.find(text) is None


def test_the_command_line(path: Path) -> None:
    made = crossmodal("create", "--scope", "search", "--name", "shop", "--rate-limit", "5/second", "--file", path)
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()
    audit = json.loads(made.stderr)
    assert audit["event"] == "keys.create"
    assert audit["key"] == f"{text[:12]} (shop)"
    assert text not in made.stderr
    listed = crossmodal("list", "--file", path)
    assert text[:12] in listed.stdout
    assert text not in listed.stdout
    shown = json.loads(crossmodal("list", "--file", path, "--json").stdout)
    assert [(key["name"], key["scope"], key["rate_limit"]) for key in shown] == [("shop", "search", "5/second")]
    assert "sha256" not in shown[0]
    gone = crossmodal("revoke", text[:12], "--file", path)
    assert gone.returncode == 0
    assert json.loads(gone.stderr)["event"] == "keys.revoke"
    assert keys.read(path) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "--scope", "root"], 2, "'root' is not search or admin"),
        (["create", "--scope", "search", "--rate-limit", "lots"], 1, "'lots' is not like"),
        (["list"], 1, "cannot be read"),
        (["revoke", "cmk_aaaaaaaa"], 1, "no such file"),
    ],
)
def test_bad_usage_is_one_clear_line(path: Path, arguments: list[str], code: int, words: str) -> None:
    done = crossmodal(*arguments, "--file", path)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not path.exists()
