"""What `python -m benchmarks.crash --of model` kills: a minute training from nothing and onwards, and exports of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks.crash import Scenario

_ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
_WEIGHTS = "open_clip_model.safetensors"


class Modelling(Scenario):
    """`new` is to be trained; `old` has been, for two steps, and is to be for two more; both exports are of `model`."""

    def prepare(self) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        # Now, and not in every child:
        import onnxscript  # noqa: F401
        import open_clip  # noqa: F401
        import openvino  # noqa: F401
        import pandas  # noqa: F401  # pyarrow's
        import torch
        import torch.onnx._internal.exporter._core
        import torch.utils.tensorboard

        import dual_encoder.export
        import training.train
        from training.config import read_config
        from training.scenes import write_scenes

        torch.set_num_threads(1)  # threads do not survive a fork
        self.base = self.folder / "base"
        data = write_scenes(self.folder / "data", 16, 0).parent
        (self.base / "architecture").mkdir(parents=True)
        (self.base / "architecture" / "model.json").write_text(json.dumps(_ARCHITECTURE))
        recipe = {"model": "architecture/model.json", "data": str(data), "batch_size": 8, "workers": 0, "log_every": 1,
                  "precision": "fp32", "warmup_steps": 1, "checkpoint_every": 1}  # fmt: skip
        for name, out, steps in (("new", "new", 4), ("old", "old", 2), ("on", "old", 4)):
            (self.base / f"{name}.yaml").write_text(json.dumps({**recipe, "out": out, "steps": steps}))

        def train(recipe: str) -> Any:
            return lambda place: training.train.train(read_config(place / f"{recipe}.yaml"))

        def export(place: Path) -> None:
            if not (place / "exported" / "model.json").exists():  # one that is whole is not made again, but refused
                dual_encoder.export.export_model(str(place / "model"), place / "exported")

        self.commands = {
            "train": train("new"),
            "train on": train("on"),
            "export": export,
            "export in place": lambda place: dual_encoder.export.export_model(str(place / "model"), place / "model"),
        }
        if self.in_child(lambda: train("old")(self.base)) != 0:
            raise RuntimeError("training fails without a fault")
        shutil.copytree(self.base / "old" / "model", self.base / "model")
        self.good: set[str] = set()
        for name in ("new", "on"):  # every checkpoint that an uninterrupted run writes
            place = self.fresh()
            self.in_child(lambda name=name, place=place: self._keep_all(train(name), place))
            self.good |= {_tensors(path) for path in place.rglob("*.kept")}
            shutil.rmtree(place.parent)

    def _keep_all(self, run: Any, place: Path) -> None:
        import training.train

        save = training.train.save_checkpoint

        def keep(path: Path, state: dict[str, Any]) -> None:
            save(path, state)
            shutil.copy(path, path.with_name(f"{state['step']}.kept"))

        training.train.save_checkpoint = keep
        run(place)

    def content_of(self, place: Path) -> dict[str, Any]:
        """Checkpoints by their tensors; models and exports by all their files, an export without model.json is none."""
        found: dict[str, Any] = {}
        for name in ("new", "old"):
            checkpoint, model = place / name / "checkpoint.pt", place / name / "model"
            found[f"{name} checkpoint"] = _tensors(checkpoint) if checkpoint.exists() else None
            found[f"{name} model"] = _model(model) if model.exists() else None
        found["model"] = _model(place / "model")
        for name in ("model", "exported"):
            found[f"{name} for serving"] = _export(place / name) if (place / name / "model.json").exists() else None
        return found

    def may_be_left(self, name: str, content: Any) -> bool:
        for part, value in content.items():
            allowed = {str(self.before[part]), str(self.expected[name][part])}
            if part.endswith("checkpoint"):
                allowed |= self.good
            if str(value) not in allowed:
                return False
        return True

    def litter(self, place: Path) -> list[str]:
        return [
            str(path.relative_to(place)) for kind in ("*.tmp*", ".*.partial", ".*.old") for path in place.rglob(kind)
        ]


def _tensors(checkpoint: Path) -> str:
    """A digest of a checkpoint's tensors, read as a run that resumes reads them."""
    import torch

    from training.checkpoint import load_checkpoint

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    digest = hashlib.sha256(str(state["step"]).encode())
    for name, part in sorted(load_checkpoint(checkpoint, state["architecture"])["model"].items()):
        digest.update(name.encode() + part.numpy().tobytes())
    for number, moments in sorted(state["optimiser"]["state"].items()):
        for name, value in sorted(moments.items()):
            digest.update(f"{number} {name}".encode() + value.numpy().tobytes())
    return digest.hexdigest()


def _model(folder: Path) -> str:
    """A digest of a model that open_clip can load."""
    from safetensors.numpy import load_file

    config = json.loads((folder / "open_clip_config.json").read_text())
    if config["model_cfg"]["embed_dim"] != _ARCHITECTURE["embed_dim"]:
        raise AssertionError("another architecture")
    made = json.loads((folder / "training.json").read_text())
    digest = hashlib.sha256(json.dumps([config, made]).encode())
    for name, value in sorted(load_file(folder / _WEIGHTS).items()):
        digest.update(name.encode() + value.tobytes())
    return digest.hexdigest()


def _export(folder: Path) -> dict[str, str]:
    """The files' digests, which must be those that model.json has."""
    facts = json.loads((folder / "model.json").read_text())
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in facts["files"]}
    if found != facts["files"]:
        raise AssertionError(f"{folder.name}: files are not those that model.json has")
    return found
