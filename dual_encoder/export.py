"""Write a model as a directory that serving loads without torch, and that open_clip still loads itself."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dual_encoder.encoder import FORMAT, rows_of
from dual_encoder.errors import DualEncoderError, ModelError, brief
from dual_encoder.files import in_native_code, sha256, staged
from dual_encoder.hf_tokenizer import write_hf_tokenizer
from dual_encoder.image_tower import encode_image
from dual_encoder.open_clip_model import OpenClipModel, load_open_clip
from dual_encoder.openvino_runtime import OpenVinoRuntime, cache_directory
from dual_encoder.packing import EndOfText
from dual_encoder.quantise import Examples, write_int8
from dual_encoder.record import MODEL_JSON, is_of_tower, read_record, write_record
from dual_encoder.reference import ModelReference, parse_reference
from dual_encoder.text_tower import encode_packed, end_of_text, is_cuttable
from dual_encoder.tokenizer import clean_kind, write_tokenizer

Judge = Callable[[Path], dict[str, Any]]

_LEAST_COSINE = {"fp32": 0.9999, "bf16": 0.99, "int8": 0.95}
_WEIGHTS = "open_clip_model.safetensors"
_PROTOBUF_LIMIT = 1.5 * 2**30  # bytes of weights in one ONNX file; larger ones get a .data file beside it


def export_cached(reference: ModelReference) -> Path:
    """Export a model once into the cache; returns the directory."""
    source = load_open_clip(reference)
    directory = cache_directory() / "models" / source.fingerprint[:32]
    while not _is_current(directory / MODEL_JSON):
        try:
            _export(source, reference.name, directory, weights=False)
        except BlockingIOError:  # another process is at it
            time.sleep(1)
    return directory


def _is_current(facts: Path) -> bool:
    try:
        return read_record(facts).get("format") == FORMAT
    except ModelError:  # there is none, or it is damaged
        return False


def export_model(
    reference: str,
    out: Path,
    license: str = "unknown",
    judge: Judge | None = None,
    *,
    int8: Examples | None = None,
    trust_pickle: bool = False,
) -> Path:
    """Export what `reference` names to `out`, which must not exist or be the model's own directory.

    `int8` adds 8-bit towers, scaled by these examples; `trust_pickle` reads weights that are not safetensors. `judge`
    sees the whole directory before it appears under its name: what it returns joins model.json, files that it writes
    there come along, and what it raises stops the export, which then leaves no trace.
    In the model's own directory the export takes the place of an older one in one step; other files there stay.
    Raises ModelError: it exists already, it has a tokenizer that cannot be written, or the exported towers do not
    give what torch gives at every batch size and text length tried; OSError.
    """
    parsed = parse_reference(reference)
    if out.exists() and out.resolve() != parsed.directory and any(out.iterdir()):
        raise ModelError(f"{out} exists already and is not empty")
    before = out.stat() if out.exists() else None
    source = load_open_clip(parsed, trust_pickle=trust_pickle)
    _export(source, parsed.name, out, before=before, license=license, judge=judge, int8=int8)
    return out


def _export(
    source: OpenClipModel,
    name: str,
    out: Path,
    *,
    before: os.stat_result | None = None,
    weights: bool = True,
    license: str = "unknown",
    judge: Judge | None = None,
    int8: Examples | None = None,
) -> None:
    from safetensors.torch import save_file

    with staged(out) as work:
        # From here on nobody else replaces it; a training run that ended meanwhile has left other weights there.
        if before and not (out.exists() and os.path.samestat(before, out.stat())):
            raise ModelError(f"{out} was replaced while it was being read: export it again")
        try:
            tokenizer = _write_tokenizer(source.tokenizer, work)
        except ModelError as error:
            raise ModelError(f"model {name!r} cannot be exported: {error}; use runtime torch") from None
        _write_json(work / "preprocess.json", source.preprocess.to_config())
        _write_json(
            work / "open_clip_config.json",
            {"model_cfg": source.config, "preprocess_cfg": {**source.preprocess.to_config(), "mode": "RGB"}},
        )
        context_length = int(source.tokenizer.context_length)
        _write_onnx(source, work, context_length)
        end = end_of_text(source.model) if is_cuttable(source.model) else None
        if int8:
            rows = rows_of(source.tokenizer(list(int8.texts)).numpy())
            write_int8(work, rows, map(source.preprocess, int8.images), context_length, end)
        parity = _measure_parity(source, work, context_length, end)
        if weights:
            kept, path = out / _WEIGHTS, work / _WEIGHTS
            if kept.is_file():
                _link(kept, path)
            else:
                state = {key: _half_if_exact(value) for key, value in source.model.state_dict().items()}
                with in_native_code(path):
                    save_file(state, path, metadata={"format": "pt"})
                path.chmod(0o644)  # safetensors lets nobody else read it
        facts = {
            "format": FORMAT,
            "fingerprint": source.fingerprint,
            "dim": source.dim,
            "temperature": 1 / source.logit_scale,
            "logit_bias": source.logit_bias,
            "context_length": context_length,
            "tokenizer": tokenizer,
            "end_of_text": end,
            "license": license,
            "parity": parity,
            "files": {f.name: sha256(f) for f in sorted(work.iterdir())},
        }
        write_record(work / MODEL_JSON, facts)
        if judge:
            write_record(work / MODEL_JSON, {**facts, **judge(work)})
        if out.is_dir():
            _keep_others(out, work)


def _keep_others(old: Path, new: Path) -> None:
    """Take along what lies in a model's directory and is no older export's."""
    for path in old.iterdir():
        if is_of_tower(path.name) or (new / path.name).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True, copy_function=_link)
        else:
            _link(path, new / path.name)


def _link(old: str | Path, new: str | Path) -> None:
    """A second name of a file that nobody changes; where the file system has no such thing, a copy."""
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError:
        shutil.copy2(old, new, follow_symlinks=False)


def _write_tokenizer(tokenizer: Any, out: Path) -> dict[str, Any]:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    if isinstance(tokenizer, HFTokenizer):
        return write_hf_tokenizer(tokenizer, out)
    if not isinstance(tokenizer, SimpleTokenizer):
        raise ModelError(f"it has a {type(tokenizer).__name__}")
    clean = clean_kind(tokenizer.clean_fn)
    if clean == "whitespace" or tokenizer.reduction_fn is not None or len(tokenizer.all_special_ids) != 2:
        raise ModelError("it has options of open_clip's SimpleTokenizer that tokenizer.json cannot say")
    write_tokenizer(tokenizer, out / "tokenizer.json")
    return {"kind": "clip", "clean": clean}


def _half_if_exact(weights: Any) -> Any:
    half = weights.half() if weights.is_floating_point() else weights
    return (half if bool((half == weights).all()) else weights).contiguous().clone()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _write_onnx(source: OpenClipModel, out: Path, context_length: int) -> None:
    import torch

    model = _explicit(copy.deepcopy(source.model))
    height, width = source.preprocess.size
    batch = torch.export.Dim("batch", min=1, max=4096)

    class ImageTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return encode_image(self.model, pixels)

    class TextTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.model.encode_text(tokens)  # type: ignore[no-any-return]

    class PackedTextTower(TextTower):
        def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return encode_packed(self.model, tokens, positions)

    if is_cuttable(source.model):
        shape = {0: batch, 1: torch.export.Dim("length", min=2, max=context_length)}
        tokens = torch.zeros(2, 9, dtype=torch.int64)
        positions = torch.arange(9).repeat(2, 1)
        _to_onnx(PackedTextTower(), {"tokens": (tokens, shape), "positions": (positions, shape)}, out / "text.onnx")
    else:
        whole = torch.zeros(2, context_length, dtype=torch.int64)
        _to_onnx(TextTower(), {"tokens": (whole, {0: batch})}, out / "text.onnx")
    _to_onnx(ImageTower(), {"pixels": (torch.zeros(2, 3, height, width), {0: batch})}, out / "image.onnx")


def _to_onnx(tower: Any, inputs: dict[str, tuple[Any, dict[int, Any]]], path: Path) -> None:
    """`inputs`: an example of each, and which of its dimensions may vary."""
    import torch

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of every fold it leaves alone
    size = sum(p.numel() * 4 for p in tower.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                tower.eval(), tuple(example for example, _ in inputs.values()), dynamo=True, input_names=list(inputs),
                output_names=["features"], dynamic_shapes=tuple(shape for _, shape in inputs.values()), verbose=False,
                optimize=True,
            )  # fmt: skip
        except Exception as error:
            raise ModelError(f"the {path.stem} tower cannot be exported: {brief(error)}") from None
    assert program is not None
    _forget_where(program.model)
    program.save(str(path), external_data=size > _PROTOBUF_LIMIT)
    if size <= _PROTOBUF_LIMIT:
        _halve(path)


def _forget_where(model: Any) -> None:
    """Drop the traces that the exporter notes on every node: they hold paths of the machine that exports."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()


def _halve(path: Path) -> None:
    """Keep weights that are exact in float16 as float16: a model trained to be small stays small."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(path))
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < 256:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.fp16"))
            casts.append(helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))
    if casts:
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        onnx.save(model, str(path))


def _explicit(model: Any) -> Any:
    """Write out every nn.MultiheadAttention: the exporter bakes the traced length into the fused one."""
    import torch

    class Attention(torch.nn.Module):
        def __init__(self, fused: torch.nn.MultiheadAttention) -> None:
            super().__init__()
            self.fused = fused
            self.batch_first = fused.batch_first
            same = fused.in_proj_weight.chunk(3) if fused._qkv_same_embed_dim else ()
            # Cut up here and not as it runs: what is no whole weight would stay 32-bit in int8.
            self.parts = torch.nn.ParameterList(torch.nn.Parameter(each.detach(), requires_grad=False) for each in same)

        def forward(
            self, q: Any, k: Any, v: Any, need_weights: bool = False, attn_mask: Any = None, **_: Any
        ) -> tuple[Any, None]:
            f = self.fused
            linear = torch.nn.functional.linear
            to_itself = q is k and k is v
            if not f.batch_first:
                q, k, v = (x.transpose(0, 1) for x in (q, k, v))
            if to_itself and f._qkv_same_embed_dim:  # in one product
                q, k, v = linear(q, f.in_proj_weight, f.in_proj_bias).chunk(3, dim=-1)
            else:
                weights = self.parts or (f.q_proj_weight, f.k_proj_weight, f.v_proj_weight)
                biases = f.in_proj_bias.chunk(3) if f.in_proj_bias is not None else (None, None, None)
                q, k, v = (linear(x, w, b) for x, w, b in zip((q, k, v), weights, biases, strict=True))

            def heads(x: Any) -> Any:
                return x.unflatten(-1, (f.num_heads, f.head_dim)).transpose(1, 2)

            qh, kh, vh = heads(q), heads(k), heads(v)
            logits = (qh * f.head_dim**-0.5) @ kh.transpose(-2, -1)
            if attn_mask is not None:
                if attn_mask.ndim == 3:  # (batch × heads, queries, keys); of 4 dimensions it is encode_packed's
                    attn_mask = attn_mask.unflatten(0, (-1, f.num_heads))
                logits = logits + attn_mask
            out = f.out_proj((logits.softmax(-1) @ vh).transpose(1, 2).flatten(2))
            return (out if f.batch_first else out.transpose(0, 1)), None

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.MultiheadAttention):
                setattr(module, name, Attention(child))
    return model


def _measure_parity(
    source: OpenClipModel, directory: Path, context_length: int, end: EndOfText
) -> dict[str, dict[str, float]]:
    """Least cosine of each tower and precision to open_clip's own float32, over several lengths and batch sizes."""
    import torch

    rng = np.random.default_rng(0)
    height, width = source.preprocess.size
    noise = rng.integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)
    pictures = [Image.fromarray(n).resize((width, height), Image.Resampling.BICUBIC) for n in noise]
    pixels = np.stack([source.preprocess(p) for p in pictures])
    words = "a photo of two red cats left of the big blue house in the snow 一张照片 红色 猫".split()  # noqa: SIM905
    texts = [" ".join(rng.choice(words, n)) for n in (1, 3, 7, 12, 25)] + [" ".join(words * 20)]
    tokens = source.tokenizer(texts)
    rows = rows_of(tokens.numpy())
    with torch.inference_mode():
        want_text = source.model.encode_text(tokens).numpy()
        want_image = source.model.encode_image(torch.from_numpy(pixels)).numpy()

    figures: dict[str, dict[str, float]] = {}
    for precision in ("fp32", "bf16", "int8"):
        try:
            runtime = OpenVinoRuntime(directory, precision, context_length, end)
        except DualEncoderError:
            if precision == "fp32":
                raise
            continue  # this CPU has no bf16, or there are no 8-bit towers
        text = [_cosine(runtime.encode_rows([row]), want_text[i : i + 1]) for i, row in enumerate(rows)]
        text.append(_cosine(runtime.encode_rows(rows), want_text))
        image = [_cosine(runtime.encode_pixels(pixels[:n]), want_image[:n]) for n in (1, 2, 5)]
        figures[precision] = {"text": min(text), "image": min(image)}
        for tower, value in figures[precision].items():
            if not value >= _LEAST_COSINE[precision]:
                raise ModelError(f"the exported {tower} tower differs from torch: cosine {value:.5f} in {precision}")
    return figures


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).min())
