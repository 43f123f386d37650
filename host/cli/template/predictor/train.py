"""Trains the model of this predictor and writes models/iris.onnx and its golden samples.

pip install numpy onnx safetensors scikit-learn && python train.py

Put your own training in place of it. What counts is what it leaves behind: an ONNX file, and a
safetensors file with some inputs ("input.NAME") and what the original model made of them
("output.NAME"), which every node checks when it loads the model.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

iris = load_iris()
train_x, test_x, train_y, test_y = train_test_split(
    iris.data.astype(np.float32), iris.target, test_size=0.3, random_state=0, stratify=iris.target
)
classifier = LogisticRegression(max_iter=1000).fit(train_x, train_y)
print(f"accuracy on the held-out part: {classifier.score(test_x, test_y):.3f}")

weights = numpy_helper.from_array(classifier.coef_.T.astype(np.float32), "weights")
bias = numpy_helper.from_array(classifier.intercept_.astype(np.float32), "bias")
graph = helper.make_graph(
    [
        helper.make_node("MatMul", ["features", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ],
    "iris",
    [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4])],
    [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
    [weights, bias],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
model.ir_version = 8
onnx.checker.check_model(model)

models = Path(__file__).parent / "models"
models.mkdir(exist_ok=True)
onnx.save(model, models / "iris.onnx")
samples = test_x[:8]
save_file(
    {
        "input.features": samples,
        "output.probabilities": classifier.predict_proba(samples).astype(np.float32),
    },
    models / "iris.golden.safetensors",
)
