"""MLServer with ONNX Runtime, over the Open Inference Protocol.

    MODEL=digits.onnx MLSERVER_MODEL_NAME=digits MLSERVER_MODEL_IMPLEMENTATION=mlserver_app.Digits \
        mlserver start .
"""

import numpy
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from reference import Reference


class Model(MLModel):
    async def load(self) -> bool:
        self.reference = Reference()
        return True

    def answer(self, **outputs: numpy.ndarray) -> InferenceResponse:
        encoded = [NumpyCodec.encode_output(name, values) for name, values in outputs.items()]
        return InferenceResponse(model_name=self.name, outputs=encoded)


class Digits(Model):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        digit = self.reference.digit(NumpyCodec.decode_input(payload.inputs[0]))
        return self.answer(
            label=numpy.array([digit["label"]]), probabilities=numpy.array(digit["probabilities"])
        )


class Tensors(Model):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return self.answer(output=self.reference.run(NumpyCodec.decode_input(payload.inputs[0])))
