"""What open_clip leaves undone is done here; what it would unpickle is refused; what a hub had at a revision is found."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from dual_encoder import ModelError, export, load_encoder
from dual_encoder.export import export_model
from dual_encoder.open_clip_model import draw_projection, load_open_clip
from dual_encoder.reference import TINY, parse_reference


class Poisoned(torch.nn.Module):
    """The part of CoCa whose projection open_clip allocates and does not fill."""

    def __init__(self) -> None:
        super().__init__()
        self.text_decoder = torch.nn.Module()
        self.text_decoder.text_projection = torch.nn.Parameter(torch.full((64, 32), 1e36))


def test_the_projection_of_a_decoder_is_drawn() -> None:
    model = Poisoned()
    draw_projection(model)
    assert 0.1 < float(model.text_decoder.text_projection.std()) < 0.15  # type: ignore[arg-type,union-attr]
    draw_projection(torch.nn.Linear(2, 2))  # other models have none


# --- pickles ----------------------------------------------------------------------------------------------------------


class Program:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def directory(folder: Path, name: str, content: object) -> str:
    """A model of tiny's architecture whose weights are a pickle."""
    folder.mkdir()
    shutil.copy(TINY / "open_clip_config.json", folder)
    torch.save(content, folder / name)
    return str(folder)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return dict(load_open_clip(parse_reference("tiny")).model.state_dict())


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth", "anything.bin"])
def test_a_pickle_in_a_directory_is_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    made = tmp_path / "made by the program"
    reference = directory(tmp_path / "model", name, Program(made))
    pickle.loads(pickle.dumps(Program(made)))  # it would work
    made.rmdir()
    for load in (lambda: load_encoder(reference, runtime="torch"), lambda: load_encoder(reference)):
        with pytest.raises(ModelError, match=f"{name} is a pickle.*--trust-pickle"):
            load()
    assert not made.exists()
    assert "refuse" not in torch.load.__qualname__  # torch is as it was


def test_safetensors_beside_a_pickle_are_taken(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    reference = directory(tmp_path / "model", "open_clip_pytorch_model.bin", Program(tmp_path / "made"))
    shutil.copy(TINY / "open_clip_model.safetensors", tmp_path / "model")
    assert load_encoder(reference, runtime="torch").fingerprint == load_encoder("tiny").fingerprint
    assert not (tmp_path / "made").exists()


def test_only_an_export_that_is_told_to_trust_it_reads_a_pickle(
    tmp_path: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = directory(tmp_path / "model", "open_clip_pytorch_model.bin", weights)
    exported: list[Any] = []
    monkeypatch.setattr(export, "_export", lambda source, *_, **__: exported.append(source.fingerprint))  # takes 20 s
    with pytest.raises(ModelError, match="pickle"):
        export_model(reference, tmp_path / "out")
    assert exported == []
    export_model(reference, tmp_path / "out", trust_pickle=True)
    assert exported == [load_encoder("tiny").fingerprint]


# --- a hub ------------------------------------------------------------------------------------------------------------

FILES = ["open_clip_config.json", "open_clip_model.safetensors"]


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """A hub whose repository org/tiny has the bundled model at one revision and nothing of use at the newest."""
    asked: list[str] = []

    def size(name: str) -> int:
        return (TINY / name).stat().st_size if name in FILES else 9

    commits = {"v1": "1" * 40, "1" * 40: "1" * 40, "main": "2" * 40, "2" * 40: "2" * 40}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[:3] == ["api", "models", "org"] and len(parts) > 5 and parts[5] in commits:
                names = [*FILES, "README.md"]
                about = {
                    "id": "org/tiny",
                    "sha": commits[parts[5]],
                    "siblings": [{"rfilename": name} for name in names],
                }
                tree = [{"type": "file", "path": name, "size": size(name), "oid": name} for name in names]
                body: Any = tree if parts[4] == "tree" else about
                self.answer(json.dumps(body).encode(), {"Content-Type": "application/json"})
            elif parts[2:3] == ["resolve"] and commits.get(parts[3]) == "1" * 40 and parts[4] in FILES:
                data = (TINY / parts[4]).read_bytes()
                etag = hashlib.sha256(data).hexdigest()
                self.answer(data, {"X-Repo-Commit": commits[parts[3]], "ETag": f'"{etag}"'})
            else:
                self.answer(b"", {"X-Error-Code": "EntryNotFound"}, 404)

        do_HEAD = do_GET

        def answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def test_a_hub_is_read_at_a_revision(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    url, asked = hub
    script = (
        "import sys; from dual_encoder import ModelError, load_encoder\n"
        "for reference in sys.argv[1:]:\n"
        "    try: print(load_encoder(reference, runtime='torch').fingerprint)\n"
        "    except ModelError: print('ModelError')"
    )
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    # The newest has no weights, and there is no revision v2.
    command = [sys.executable, "-c", script, *(f"hf-hub:org/tiny{revision}" for revision in ("@v1", "@v2", ""))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [load_encoder("tiny").fingerprint, "ModelError", "ModelError"], done.stderr[-2000:]
    pinned = [path for path in asked if "1" * 40 in path]
    assert pinned
    assert not [path for path in pinned if "README" in path]


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    for name in ("open_clip_config.json", "tokenizer.json"):
        shutil.copyfile(TINY / name, tmp_path / name)
    with pytest.raises(ModelError, match=r"cannot be loaded: .*weights"):
        load_open_clip(parse_reference(str(tmp_path)))


def test_what_open_clip_refuses_without_a_word_is_told_by_its_type(tmp_path: Path) -> None:
    tower = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 32, "pos_embed_type": "other"}
    config = json.loads((TINY / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] = tower
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    shutil.copyfile(TINY / "open_clip_model.safetensors", tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match=r"cannot be loaded: ValueError$"):
        load_open_clip(parse_reference(str(tmp_path)))
