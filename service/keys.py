"""API keys: a file of hashes that the command line writes and the service reads.

A key is 256 random bits, `cmk_<prefix>_<secret>`; the file holds its prefix, by which it is found and told in logs, and
the SHA-256 of the whole. A slow, salted hash is for passwords, which can be guessed: nobody tries 2^256 keys, and what
is checked at every request should cost a microsecond.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, field_validator

from service import logs
from service.rate_limit import parse_limits

Scope = Literal["search", "admin"]

log = logs.logger("crossmodal.keys")
UNREADABLE = Counter("crossmodal_keys_unreadable_total", "Times that the changed file of keys could not be read")

_MARK = "cmk"
_NOBODY = hashlib.sha256(b"nobody has this key").digest()
_LOOK_AGAIN = 1.0  # seconds; so long a revoked key may still be taken


class KeysError(ValueError):
    """The file of keys is missing or is not one, or there is no such key in it."""


class Key(BaseModel):
    """What is kept of a key. `rate_limit` is its own, instead of the service's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: Annotated[str, StringConstraints(pattern=r"^[a-z2-7]{8}$")]
    name: str = ""
    scope: Scope
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    created: datetime
    rate_limit: str | None = None

    @field_validator("rate_limit")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            parse_limits(value)
        return value

    def __str__(self) -> str:
        """How logs tell of it."""
        return f"{_MARK}_{self.prefix}" + (f" ({self.name})" if self.name else "")


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: list[Key] = []


def read(path: Path) -> list[Key]:
    """Raises KeysError."""
    try:
        return _Document.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise KeysError(f"{path}: the file of keys cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise KeysError(f"{path}: not a file of keys: {error.errors(include_input=False)[0]['msg']}") from None


def create(path: Path, scope: Scope, name: str = "", rate_limit: str | None = None) -> tuple[str, Key]:
    """Add a key, in a new file if there is none. The key itself is returned and kept nowhere."""
    with _editing(path) as edited:
        taken = {key.prefix for key in edited.keys}
        while (prefix := base64.b32encode(secrets.token_bytes(5)).decode().lower()) in taken:
            pass
        text = f"{_MARK}_{prefix}_{secrets.token_urlsafe(32)}"
        key = Key(
            prefix=prefix, name=name, scope=scope, sha256=hashlib.sha256(text.encode()).hexdigest(),
            created=datetime.now(UTC).replace(microsecond=0), rate_limit=rate_limit,
        )  # fmt: skip
        edited.keys.append(key)
    return text, key


def revoke(path: Path, prefix: str) -> Key:
    """Take a key out by its prefix, with or without the mark. Raises KeysError for one that is not there."""
    if not path.exists():
        raise KeysError(f"{path}: there is no such file")
    wanted = prefix.removeprefix(f"{_MARK}_")[:8]
    with _editing(path) as edited:
        found = next((key for key in edited.keys if key.prefix == wanted), None)
        if found is None:
            raise KeysError(f"{path}: no key begins with {_MARK}_{wanted}")
        edited.keys.remove(found)
    return found


@contextmanager
def _editing(path: Path) -> Iterator[_Document]:
    """Read, then replace the file atomically, readable for its owner alone. Others who edit it wait."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        document = _Document(keys=read(path)) if path.exists() else _Document()
        yield document
        text = json.dumps(document.model_dump(mode="json", exclude_none=True), indent=1, ensure_ascii=False)
        beside = path.with_name(f".{path.name}.tmp")
        beside.unlink(missing_ok=True)  # of an edit that was killed
        try:
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                if path.exists() and os.geteuid() == 0:  # the service runs as another user, who must go on reading it
                    os.fchown(file.fileno(), path.stat().st_uid, path.stat().st_gid)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        os.fsync(folder)
    finally:
        os.close(folder)


class KeyRing:
    """The keys of a file, read again when it changes. Raises KeysError if it cannot be read at first.

    Later a file that is missing or broken leaves the keys that were read last, is logged and counted: a slip of an
    editor does not lock everybody out, and only `revoke` takes a key away.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._stamp = self._stat()
        self._take(read(path))
        self._look_at = clock() + _LOOK_AGAIN

    def find(self, text: str) -> Key | None:
        """The key that `text` is, or None."""
        if self._clock() >= self._look_at:
            self._look()
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
        expected, key = self._keys.get(text[len(_MARK) + 1 : len(_MARK) + 9], (_NOBODY, None))
        return key if hmac.compare_digest(digest, expected) else None

    def _take(self, keys: list[Key]) -> None:
        self._keys: dict[str, tuple[bytes, Key | None]] = {key.prefix: (bytes.fromhex(key.sha256), key) for key in keys}

    def _stat(self) -> tuple[int, ...] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev  # mtime misses chmod

    def _look(self) -> None:
        self._look_at = self._clock() + _LOOK_AGAIN
        stamp = self._stat()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(read(self.path))
            log.info("keys were read", file=str(self.path), keys=len(self._keys))
        except KeysError as error:
            UNREADABLE.inc()
            log.error("the keys that were read before stay good", reason=str(error))
