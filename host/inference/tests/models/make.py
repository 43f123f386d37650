"""Makes the ONNX files of this folder and, with onnxruntime, their golden samples.

    pip install onnx onnxruntime safetensors numpy
    python make.py

The weights come from a fixed seed, so a second run writes the same files.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper
from safetensors.numpy import save_file

HERE = Path(__file__).parent
random = np.random.default_rng(7)


def f32(*shape, scale=0.5):
    return (random.standard_normal(shape) * scale).astype(np.float32)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def value(name, elem_type, shape):
    return h.make_tensor_value_info(name, elem_type, shape)


def model(name, inputs, outputs, nodes, constants=(), opsets=(("", 17),)):
    graph = h.make_graph(nodes, name, inputs, outputs, list(constants))
    made = h.make_model(
        graph,
        producer_name="dunlin-tests",
        ir_version=8,
        opset_imports=[h.make_opsetid(domain, version) for domain, version in opsets],
    )
    onnx.save(made, HERE / f"{name}.onnx")


def golden(name, **feeds):
    """Runs onnxruntime on the model and writes what went in and what came out."""
    session = onnxruntime.InferenceSession(str(HERE / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    tensors = {f"input.{k}": v for k, v in feeds.items()}
    tensors |= {f"output.{k}": np.array(v, order="C") for k, v in zip(names, session.run(names, feeds))}
    save_file(tensors, HERE / f"{name}.safetensors")


# Fixed dimensions.
model(
    "fixed",
    [value("x", T.FLOAT, [2, 3])],
    [value("y", T.FLOAT, [2, 3])],
    [h.make_node("Mul", ["x", "scale"], ["scaled"]), h.make_node("Add", ["scaled", "shift"], ["y"])],
    [constant("scale", f32(3)), constant("shift", f32(2, 3))],
)
golden("fixed", x=f32(2, 3))

# A small convolutional net with a dynamic batch, as an exporter of digits classifiers writes it.
model(
    "digits",
    [value("pixels", T.FLOAT, ["batch", 1, 8, 8])],
    [value("logits", T.FLOAT, ["batch", 10])],
    [
        h.make_node("Conv", ["pixels", "w1", "b1"], ["c1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        h.make_node("Relu", ["c1"], ["r1"]),
        h.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        h.make_node("Conv", ["p1", "w2", "b2"], ["c2"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        h.make_node("Relu", ["c2"], ["r2"]),
        h.make_node("Flatten", ["r2"], ["flat"], axis=1),
        h.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], transB=1),
    ],
    [
        constant("w1", f32(4, 1, 3, 3)),
        constant("b1", f32(4)),
        constant("w2", f32(6, 4, 3, 3)),
        constant("b2", f32(6)),
        constant("w3", f32(10, 96)),
        constant("b3", f32(10)),
    ],
)
golden("digits", pixels=f32(5, 1, 8, 8, scale=1.0))

# The same kind of net with a batch of exactly two: a sample of six rows has to be cut.
model(
    "pairs",
    [value("x", T.FLOAT, [2, 4])],
    [value("y", T.FLOAT, [2, 3])],
    [h.make_node("MatMul", ["x", "w"], ["m"]), h.make_node("Tanh", ["m"], ["y"])],
    [constant("w", f32(4, 3))],
)
session = onnxruntime.InferenceSession(str(HERE / "pairs.onnx"), providers=["CPUExecutionProvider"])
rows = f32(6, 4)
answers = np.concatenate([session.run(None, {"x": rows[i : i + 2]})[0] for i in range(0, 6, 2)])
save_file({"input.x": rows, "output.y": answers}, HERE / "pairs.safetensors")

# Two dynamic dimensions shared by two inputs: self-attention under a mask.
model(
    "attention",
    [value("x", T.FLOAT, ["batch", "sequence", 4]), value("mask", T.FLOAT, ["batch", "sequence"])],
    [value("y", T.FLOAT, ["batch", "sequence", 4]), value("mean", T.FLOAT, ["batch", 4])],
    [
        h.make_node("MatMul", ["x", "wq"], ["q"]),
        h.make_node("MatMul", ["x", "wk"], ["k"]),
        h.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        h.make_node("MatMul", ["q", "kt"], ["scores"]),
        h.make_node("Sub", ["one", "mask"], ["absent"]),
        h.make_node("Mul", ["absent", "low"], ["bias"]),
        h.make_node("Unsqueeze", ["bias", "axis1"], ["bias3"]),
        h.make_node("Add", ["scores", "bias3"], ["masked"]),
        h.make_node("Softmax", ["masked"], ["weights"], axis=-1),
        h.make_node("MatMul", ["weights", "x"], ["y"]),
        h.make_node("ReduceMean", ["y"], ["mean"], axes=[1], keepdims=0),
    ],
    [
        constant("wq", f32(4, 4)),
        constant("wk", f32(4, 4)),
        constant("one", np.float32(1)),
        constant("low", np.float32(-1e4)),
        constant("axis1", np.array([1], np.int64)),
    ],
)
golden("attention", x=f32(3, 7, 4), mask=(random.random((3, 7)) > 0.3).astype(np.float32))

# The shape as an int64 output: an engine may carry it as something of its own.
model(
    "shape",
    [value("x", T.FLOAT, ["rows", "columns"])],
    [value("shape", T.INT64, [2]), value("elements", T.INT64, [])],
    [h.make_node("Shape", ["x"], ["shape"]), h.make_node("Size", ["x"], ["elements"])],
)
golden("shape", x=f32(3, 5))

# Every element type through an identity.
identities = {
    "bool": (T.BOOL, random.random((4, 3)) > 0.5),
    "u8": (T.UINT8, random.integers(0, 255, (4, 3)).astype(np.uint8)),
    "u16": (T.UINT16, random.integers(0, 65535, (4, 3)).astype(np.uint16)),
    "u32": (T.UINT32, random.integers(0, 2**32 - 1, (4, 3)).astype(np.uint32)),
    "u64": (T.UINT64, random.integers(0, 2**63, (4, 3)).astype(np.uint64) * 2),
    "i8": (T.INT8, random.integers(-128, 127, (4, 3)).astype(np.int8)),
    "i16": (T.INT16, random.integers(-32768, 32767, (4, 3)).astype(np.int16)),
    "i32": (T.INT32, random.integers(-(2**31), 2**31 - 1, (4, 3)).astype(np.int32)),
    "i64": (T.INT64, random.integers(-(2**62), 2**62, (4, 3)).astype(np.int64)),
    "f16": (T.FLOAT16, f32(4, 3).astype(np.float16)),
    "f32": (T.FLOAT, f32(4, 3)),
    "f64": (T.DOUBLE, f32(4, 3).astype(np.float64)),
}
for name, (elem_type, array) in identities.items():
    model(
        f"identity_{name}",
        [value("x", elem_type, ["n", 3])],
        [value("y", elem_type, ["n", 3])],
        [h.make_node("Identity", ["x"], ["y"])],
    )
    golden(f"identity_{name}", x=array)
for name, elem_type in [("string", T.STRING), ("bf16", T.BFLOAT16)]:
    model(
        f"identity_{name}",
        [value("x", elem_type, ["n", 3])],
        [value("y", elem_type, ["n", 3])],
        [h.make_node("Identity", ["x"], ["y"])],
    )

# Several inputs and outputs, of several types; one input has no batch.
model(
    "several",
    [value("a", T.FLOAT, ["n", 4]), value("b", T.FLOAT, ["n", 4]), value("c", T.FLOAT, [4])],
    [value("sum", T.FLOAT, ["n", 4]), value("largest", T.INT64, ["n"]), value("greater", T.BOOL, ["n", 4])],
    [
        h.make_node("Add", ["a", "b"], ["ab"]),
        h.make_node("Add", ["ab", "c"], ["sum"]),
        h.make_node("ArgMax", ["sum"], ["largest"], axis=1, keepdims=0),
        h.make_node("Greater", ["a", "b"], ["greater"]),
    ],
)
golden("several", a=f32(3, 4), b=f32(3, 4), c=f32(4))

# Dimensions that have no name, and one that is an expression of another.
model(
    "nameless",
    [value("x", T.FLOAT, [None, None])],
    [value("y", T.FLOAT, [None, None])],
    [h.make_node("Softmax", ["x"], ["y"], axis=1)],
)
golden("nameless", x=f32(2, 5))
model(
    "expression",
    [value("a", T.FLOAT, ["n"]), value("b", T.FLOAT, ["2*n + 1"])],
    [value("y", T.FLOAT, ["3*n + 1"])],
    [h.make_node("Concat", ["a", "b"], ["y"], axis=0)],
)
golden("expression", a=f32(3), b=f32(7))

# Dimensions that can only be one number, whether they have no name or one.
for name, features in [("implied_nameless", None), ("implied_named", "features")]:
    model(
        name,
        [value("x", T.FLOAT, ["batch", features])],
        [value("y", T.FLOAT, ["batch", 3])],
        [h.make_node("Gemm", ["x", "w"], ["y"])],
        [constant("w", f32(4, 3))],
    )
    golden(name, x=f32(2, 4))
# Here tract does not find out by itself; a wrong number must still be refused.
model(
    "implied_late",
    [value("x", T.FLOAT, ["batch", "features"])],
    [value("y", T.FLOAT, ["batch", 3])],
    [h.make_node("MatMul", ["x", "w"], ["y"])],
    [constant("w", f32(4, 3))],
)
golden("implied_late", x=f32(2, 4))

# Two dimensions with different names may be equal, or one of them 1.
model(
    "broadcast",
    [value("a", T.FLOAT, ["n", 2]), value("b", T.FLOAT, ["m", 2])],
    [value("y", T.FLOAT, ["k", 2])],
    [h.make_node("Sub", ["a", "b"], ["y"])],
)
golden("broadcast", a=f32(1, 2), b=f32(3, 2))

# Shapes that tract can only analyse with numbers: the depth must be a multiple of four.
model(
    "depth",
    [value("x", T.FLOAT, [1, "depth", "height", "width"])],
    [value("y", T.FLOAT, [1, "d", "h", "w"])],
    [h.make_node("DepthToSpace", ["x"], ["y"], blocksize=2)],
)
golden("depth", x=f32(1, 8, 2, 3))

# An input that is an output as it is.
model(
    "passed",
    [value("x", T.FLOAT, ["n"])],
    [value("x", T.FLOAT, ["n"]), value("y", T.FLOAT, ["n"])],
    [h.make_node("Relu", ["x"], ["y"])],
)
golden("passed", x=f32(4))

# An output whose shape depends on the values, and which declares none.
model(
    "nonzero",
    [value("x", T.FLOAT, ["n"])],
    [value("where", T.INT64, None)],
    [h.make_node("NonZero", ["x"], ["where"])],
)
golden("nonzero", x=np.array([0, 1, 0, 2, 3], np.float32))

# A model may compute something far larger than its inputs and outputs.
model(
    "outer",
    [value("x", T.FLOAT, ["n"])],
    [value("y", T.FLOAT, ["n"])],
    [
        h.make_node("Unsqueeze", ["x", "first"], ["row"]),
        h.make_node("Unsqueeze", ["x", "second"], ["column"]),
        h.make_node("Mul", ["row", "column"], ["product"]),
        h.make_node("Exp", ["product"], ["grown"]),
        h.make_node("ReduceSum", ["grown", "second"], ["y"], keepdims=0),
    ],
    [constant("first", np.array([0], np.int64)), constant("second", np.array([1], np.int64))],
)
golden("outer", x=f32(6))

# A run that fails for some values only.
model(
    "pick",
    [value("table", T.FLOAT, ["n"]), value("index", T.INT64, ["m"])],
    [value("y", T.FLOAT, ["m"])],
    [h.make_node("Gather", ["table", "index"], ["y"], axis=0)],
)
golden("pick", table=f32(5), index=np.array([4, 0, 2], np.int64))

# uint8 out of a quantization.
model(
    "quantize",
    [value("x", T.FLOAT, ["n"])],
    [value("y", T.UINT8, ["n"])],
    [h.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])],
    [constant("scale", np.float32(0.05)), constant("zero", np.uint8(128))],
)
golden("quantize", x=f32(9))

# Weights in a second file.
name = "external"
graph = h.make_graph(
    [h.make_node("MatMul", ["x", "w"], ["y"])],
    name,
    [value("x", T.FLOAT, ["batch", 16])],
    [value("y", T.FLOAT, ["batch", 8])],
    [constant("w", f32(16, 8))],
)
made = h.make_model(graph, producer_name="dunlin-tests", ir_version=8, opset_imports=[h.make_opsetid("", 17)])
(HERE / "external.onnx.data").unlink(missing_ok=True)
onnx.save(made, HERE / "external.onnx", save_as_external_data=True, location="external.onnx.data", size_threshold=0)
golden("external", x=f32(2, 16))

# An operator that no engine has.
model(
    "unknown_operator",
    [value("x", T.FLOAT, ["n"])],
    [value("y", T.FLOAT, ["n"])],
    [h.make_node("Frobnicate", ["x"], ["y"], domain="com.example")],
    opsets=(("", 17), ("com.example", 1)),
)

# It runs for as long as its input says: a run that somebody may want to give up.
body = h.make_graph(
    [h.make_node("Identity", ["goes_on"], ["goes_on_out"]), h.make_node("Add", ["sum", "one"], ["sum_out"])],
    "body",
    [value("turn", T.INT64, []), value("goes_on", T.BOOL, []), value("sum", T.FLOAT, [1])],
    [value("goes_on_out", T.BOOL, []), value("sum_out", T.FLOAT, [1])],
)
model(
    "turns",
    [value("turns", T.INT64, [1])],
    [value("sum", T.FLOAT, [1])],
    [
        h.make_node("Squeeze", ["turns"], ["trips"]),
        h.make_node("Loop", ["trips", "", "zero"], ["sum"], body=body),
    ],
    [constant("zero", np.zeros(1, np.float32)), constant("one", np.ones(1, np.float32))],
)
