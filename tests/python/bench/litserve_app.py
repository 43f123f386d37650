"""LitServe with ONNX Runtime.

    MODEL=digits.onnx python litserve_app.py digits --port 8000
"""

import argparse

import litserve

from reference import Reference


class Digits(litserve.LitAPI):
    def setup(self, device):
        self.model = Reference()

    def decode_request(self, request):
        return request["pixels"]

    def predict(self, pixels):
        return self.model.digit(pixels)

    def encode_response(self, output):
        return output


class Tensors(litserve.LitAPI):
    def setup(self, device):
        self.model = Reference()

    def decode_request(self, request):
        return request["data"]

    def predict(self, values):
        return self.model.run(values)[0]

    def encode_response(self, output):
        return {"data": output.tolist()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("api", choices=["digits", "tensors"])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    api = {"digits": Digits, "tensors": Tensors}[arguments.api]()
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=arguments.workers, timeout=120
    )
    server.run(
        host="127.0.0.1", port=arguments.port, log_level="warning", generate_client_file=False
    )
