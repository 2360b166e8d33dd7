"""8-bit copies of exported towers: weights a channel, activations as they come."""

from __future__ import annotations

import logging
from pathlib import Path

from dual_encoder.errors import RuntimeMissing

TOWERS = ("text", "image")
_PROTOBUF_LIMIT = 1.5 * 2**30  # bytes


def int8_path(directory: Path, tower: str) -> Path:
    """Where the 8-bit copy of a tower lies."""
    return directory / f"{tower}.int8.onnx"


def write_int8(directory: Path) -> None:
    """Write `text.int8.onnx` and `image.int8.onnx` beside the towers of an exported directory.

    Matrix products get int8 weights, a scale for each output, and activations quantised as they come (dynamic
    quantisation), so that nothing needs calibrating; convolutions and embeddings stay. Raises RuntimeMissing.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise RuntimeMissing(f"8-bit towers need {error.name}: pip install 'crossmodal[train]'") from None

    root = logging.getLogger()  # the quantiser advises on the root logger at every call
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        for tower in TOWERS:
            source = directory / f"{tower}.onnx"
            model = onnx.load(str(source))
            _widen(model)
            size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
            quantize_dynamic(
                model,
                int8_path(directory, tower),
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=size > _PROTOBUF_LIMIT,
                extra_options={"MatMulConstBOnly": True},
            )
    finally:
        root.setLevel(level)


def _widen(model: object) -> None:
    """Undo what the export did to halve the file: the quantiser looks for weights, not for a Cast of them."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    graph = model.graph  # type: ignore[attr-defined]
    halves = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in halves:
            tensor = halves[node.input[0]]
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), node.output[0]))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
