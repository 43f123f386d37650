"""Makes the two models that `dunlin doctor` tries the backends with: y = x * weight + bias, for x of
shape [1, 3]. Run it in this folder, with torch and onnx installed; probe.rs knows the answer."""

import numpy
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

WEIGHT = [[1.0, -2.0], [0.5, 4.0], [3.0, 0.25]]
BIAS = [0.5, -1.0]


class Affine(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(WEIGHT))
        self.register_buffer("bias", torch.tensor(BIAS))


def affine() -> torch.jit.ScriptModule:
    module = torch.jit.script(Affine().eval())
    # From a text: the file keeps the path of what its code was compiled from.
    module.define("""
        def forward(self, x: Tensor) -> Tensor:
            return torch.matmul(x, self.weight) + self.bias
    """)
    return module


def constant(name: str, values: list) -> TensorProto:
    return numpy_helper.from_array(numpy.array(values, dtype=numpy.float32), name)


graph = helper.make_graph(
    [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ],
    "affine",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
    [constant("weight", WEIGHT), constant("bias", BIAS)],
)
# Versions that every supported library reads.
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
onnx.checker.check_model(model)
onnx.save(model, "affine.onnx")
module = affine()
module.save("affine.pt")
print(module(torch.tensor([[1.0, 2.0, 3.0]])))
