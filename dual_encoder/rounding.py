"""Weights in the 16 bits that a bf16 computation rounds them to, so that nothing holds them in 32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_OF_WEIGHTS = ("MatMul", "Gather")  # a convolution's may yet be scaled by what follows it, before they are rounded
_LEAST = 2**16  # numbers: smaller ones are not worth a node


def round_weights(model: Any) -> None:
    """Turn the weights of an openvino.Model's matrix products and embeddings, 32-bit or 16-bit floats, into bf16.

    They are marked as compressed: OpenVINO then keeps them so, and gives what it gives when it rounds them itself.
    """
    import openvino

    rounded: dict[str, Any] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() not in _OF_WEIGHTS:
            continue
        for place in node.inputs():
            source = place.get_source_output().get_node()
            constant = source
            if source.get_type_name() == "Convert" and node.get_type_name() == "MatMul":
                constant = source.input_value(0).get_node()  # float16, in which an export is kept that is exact so
            if constant.get_type_name() != "Constant" or source.get_element_type() != openvino.Type.f32:
                continue
            values = constant.get_data()
            if values.size < _LEAST or values.dtype.kind != "f":
                continue
            name = source.get_name()  # unique, as the friendly one need not be
            if name not in rounded:
                tensor = openvino.Tensor(bf16(values), openvino.Shape(values.shape), openvino.Type.bf16)
                small = openvino.op.Constant(tensor, shared_memory=False)
                rounded[name] = openvino.opset13.convert(small, "f32")
                rounded[name].get_rt_info()["decompression_0"] = ""
            place.replace_source_output(rounded[name].output(0))


def bf16(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """The nearest numbers with 8 bits of precision, of two as near the even one, as the upper halves of float32s.

    As the processor rounds; OpenVINO's own conversion of constants does not.
    """
    floats = np.ascontiguousarray(values, dtype=np.float32)
    bits = floats.view(np.uint32)
    return np.where(np.isnan(floats), 0x7FC0, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
