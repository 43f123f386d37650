"""What the servers of the comparison have in common: the model in ONNX Runtime, and digits around it.

Each server is a small program of its own, written as its project's documentation says. `MODEL` names
the file; every run has one thread, as Dunlin's has.
"""

import os

import numpy
import onnxruntime

DTYPES = {"tensor(float)": numpy.dtype(numpy.float32), "tensor(int64)": numpy.dtype(numpy.int64)}


class Reference:
    """One model, and what it takes and gives: one input and one output, rows first."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )
        spec = self.session.get_inputs()[0]
        self.name = spec.name
        self.dtype = DTYPES[spec.type]
        self.row = [size for size in spec.shape if isinstance(size, int)]

    def run(self, values) -> numpy.ndarray:
        """Any shape of any numbers, taken as rows of the model."""
        rows = numpy.asarray(values, dtype=self.dtype).reshape([-1, *self.row])
        return self.session.run(None, {self.name: rows})[0]

    def run_bytes(self, body: bytes) -> bytes:
        """The same, little-endian in and out."""
        return self.run(numpy.frombuffer(body, dtype=self.dtype)).tobytes()

    def digit(self, pixels) -> dict:
        """What Dunlin's predictor of digits answers: the label, and the softmax of the logits."""
        logits = self.run(pixels)[0]
        exponentials = numpy.exp(logits - logits.max())
        return {
            "label": int(logits.argmax()),
            "probabilities": (exponentials / exponentials.sum()).tolist(),
        }
