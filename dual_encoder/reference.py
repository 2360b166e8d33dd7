"""The one string that names a dual encoder everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dual_encoder.errors import ModelError

TINY = Path(__file__).parent / "tiny"


@dataclass(frozen=True)
class ModelReference:
    """`name` is what snapshots record. `directory` is set for `tiny` and directories, `tag` for pretrained tags.

    `repository` and, if it is pinned, `revision` are a hub's.
    """

    kind: Literal["tag", "random", "hub", "directory"]
    name: str
    directory: Path | None = None
    architecture: str = ""
    tag: str | None = None
    repository: str = ""
    revision: str | None = None


def parse_reference(text: str) -> ModelReference:
    """`tiny`, a directory, `hf-hub:org/name[@revision]`, `ARCHITECTURE/TAG` or `ARCHITECTURE`. Raises ModelError."""
    if text == "tiny":
        return ModelReference("directory", "tiny", TINY)
    if text.startswith("hf-hub:"):
        repository, _, revision = text.removeprefix("hf-hub:").partition("@")
        return ModelReference("hub", text, repository=repository, revision=revision or None)
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "open_clip_config.json").is_file() and not (path / "model.json").is_file():
            raise ModelError(f"{text}: the directory holds neither open_clip_config.json nor model.json")
        return ModelReference("directory", str(path.resolve()), path.resolve())
    if not text or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ModelError(
            f"model {text!r}: no such directory, and not one of tiny, hf-hub:org/name, ARCHITECTURE/TAG, ARCHITECTURE"
        )
    architecture, _, tag = text.partition("/")
    if tag:
        return ModelReference("tag", text, architecture=architecture, tag=tag)
    return ModelReference("random", text, architecture=architecture)
