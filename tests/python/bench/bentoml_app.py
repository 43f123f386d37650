"""BentoML with ONNX Runtime.

    MODEL=digits.onnx bentoml serve bentoml_app:Digits
"""

import os

import bentoml
import numpy

from reference import Reference

SETTINGS = {"workers": int(os.environ.get("WORKERS", "1")), "traffic": {"timeout": 120}}


@bentoml.service(**SETTINGS)
class Digits:
    def __init__(self) -> None:
        self.model = Reference()

    @bentoml.api
    def predict(self, pixels: numpy.ndarray) -> dict:
        return self.model.digit(pixels)


@bentoml.service(**SETTINGS)
class Tensors:
    def __init__(self) -> None:
        self.model = Reference()

    @bentoml.api
    def predict(self, data: numpy.ndarray) -> numpy.ndarray:
        return self.model.run(data)[0]
