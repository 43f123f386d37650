"""Talks to a running node over gRPC as Triton's own Python client does, and says what it gets wrong.

    python oip_grpc_client.py --url 127.0.0.1:8082 --model digits --token TOKEN --golden …/golden.safetensors

The node's `model_control` is `token`, which is what TOKEN is for. One line per check; the exit status is
0 when all passed, 1 when one failed.
"""

import argparse
import asyncio
import json
import queue
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as aio
from google.protobuf import descriptor_pb2
from safetensors import safe_open
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

CHECKS: list[Callable] = []


def check(function: Callable) -> Callable:
    CHECKS.append(function)
    return function


class Node:
    """A client, and what the original model answers."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.url, self.model = arguments.url, arguments.model
        self.client = grpcclient.InferenceServerClient(arguments.url)
        self.headers = {"authorization": f"Bearer {arguments.token}"}
        with safe_open(arguments.golden, "np") as golden:
            self.pixels = golden.get_tensor("input.pixels")
            self.logits = golden.get_tensor("output.logits")

    def infer(self, pixels: np.ndarray, **more) -> grpcclient.InferResult:
        return self.client.infer(self.model, [tensor(pixels)], **more)


def tensor(values: np.ndarray, name: str = "pixels") -> grpcclient.InferInput:
    given = grpcclient.InferInput(name, list(values.shape), "FP32")
    given.set_data_from_numpy(values)
    return given


def close(result: grpcclient.InferResult, expected: np.ndarray) -> None:
    found = result.as_numpy("logits")
    assert found.shape == expected.shape, found.shape
    assert np.abs(found - expected).max() <= 1e-4, "the logits differ"


def refused(code: str, part: str, call: Callable[[], object]) -> None:
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{code}", error
        assert part in error.message(), error
    else:
        raise AssertionError(f"was accepted; {part} was expected")


@check
def health(node: Node) -> None:
    client = node.client
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(node.model) and client.is_model_ready(node.model, "1")
    assert not client.is_model_ready("nobody") and not client.is_model_ready(node.model, "2")


@check
def metadata(node: Node) -> None:
    server = node.client.get_server_metadata(as_json=True)
    assert server["name"] == "dunlin" and "statistics" in server["extensions"], server
    model = node.client.get_model_metadata(node.model, as_json=True)
    assert model["versions"] == ["1"], model
    assert model["inputs"][0]["shape"] == ["-1", "1", "8", "8"], model
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": ["-1", "10"]}]
    unknown = "Request for unknown model"
    refused("NOT_FOUND", unknown, lambda: node.client.get_model_metadata("nobody"))
    refused("NOT_FOUND", unknown, lambda: node.client.get_model_config("nobody"))
    refused("NOT_FOUND", unknown, lambda: node.infer(node.pixels[:1], model_version="9"))


@check
def configuration(node: Node) -> None:
    config = node.client.get_model_config(node.model).config
    assert config.name == node.model
    assert config.input[0].data_type == model_config_pb2.TYPE_FP32
    assert config.instance_group[0].count == 1
    assert config.version_policy.latest.num_versions == 1


@check
def infer(node: Node) -> None:
    close(node.infer(node.pixels), node.logits)
    result = node.infer(node.pixels[:1], request_id="ünïcödé", model_version="1", timeout=30_000_000)
    close(result, node.logits[:1])
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("ünïcödé", node.model, "1")
    outputs = [grpcclient.InferRequestedOutput("logits")]
    close(node.infer(node.pixels[:2], outputs=outputs), node.logits[:2])
    for algorithm in ("gzip", "deflate"):
        close(node.infer(node.pixels, compression_algorithm=algorithm), node.logits)


@check
def contents_instead_of_bytes(node: Node) -> None:
    request = service_pb2.ModelInferRequest(model_name=node.model)
    given = request.inputs.add(name="pixels", datatype="FP32", shape=node.pixels[:1].shape)
    given.contents.fp32_contents.extend(node.pixels[:1].ravel())
    with grpc.insecure_channel(node.url) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    found = np.frombuffer(answer.raw_output_contents[0], np.float32)
    assert np.abs(found - node.logits[0]).max() <= 1e-4


@check
def classification(node: Node) -> None:
    outputs = [grpcclient.InferRequestedOutput("logits", class_count=2)]
    classes = node.infer(node.pixels[:3], outputs=outputs).as_numpy("logits")
    assert classes.shape == (3, 2), classes.shape
    best = [int(text.decode().split(":")[1]) for text in classes[:, 0]]
    assert best == node.logits[:3].argmax(axis=1).tolist(), classes


@check
def statistics(node: Node) -> None:
    def counts() -> tuple[int, int]:
        [model] = node.client.get_inference_statistics(node.model).model_stats
        return model.inference_count, model.inference_stats.success.count

    rows, calls = counts()
    node.infer(node.pixels[:3])
    assert counts() == (rows + 3, calls + 1)
    every = node.client.get_inference_statistics().model_stats
    assert node.model in [model.name for model in every]


@check
def refusals(node: Node) -> None:
    one = node.pixels[:1]
    wrong = "INVALID_ARGUMENT"
    refused(wrong, "pixels", lambda: node.infer(one.reshape(1, 64)))
    refused(wrong, "missing", lambda: node.client.infer(node.model, []))
    stranger = [tensor(one, "stranger")]
    refused(wrong, "stranger", lambda: node.client.infer(node.model, stranger))
    outputs = [grpcclient.InferRequestedOutput("stranger")]
    refused(wrong, "stranger", lambda: node.infer(one, outputs=outputs))
    refused(wrong, "sequence_id", lambda: node.infer(one, sequence_id=3))
    refused("NOT_FOUND", "unknown model", lambda: node.client.infer("nobody", [tensor(one)]))
    refused("DEADLINE_EXCEEDED", "deadline", lambda: node.infer(one, timeout=1))
    too_large = np.zeros((1 << 17, 1, 8, 8), np.float32)
    refused("RESOURCE_EXHAUSTED", "larger than", lambda: node.infer(too_large))
    far_too_large = np.zeros((1 << 19, 1, 8, 8), np.float32)
    refused("OUT_OF_RANGE", "too large", lambda: node.infer(far_too_large))
    shared = grpcclient.InferInput("pixels", [1, 1, 8, 8], "FP32")
    shared.set_shared_memory("region", 256)
    refused(wrong, "shared_memory_region", lambda: node.client.infer(node.model, [shared]))
    refused("UNIMPLEMENTED", "", node.client.get_system_shared_memory_status)
    close(node.infer(one), node.logits[:1])


@check
def refused_messages(node: Node) -> None:
    def send(change: Callable[[service_pb2.ModelInferRequest], None]) -> grpc.RpcError | None:
        request = service_pb2.ModelInferRequest(model_name=node.model)
        request.inputs.add(name="pixels", datatype="FP32", shape=[1, 1, 8, 8])
        request.raw_input_contents.append(node.pixels[:1].tobytes())
        change(request)
        with grpc.insecure_channel(node.url) as channel:
            try:
                service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
            except grpc.RpcError as error:
                return error
        return None

    def fp16(request: service_pb2.ModelInferRequest) -> None:
        request.inputs[0].datatype = "FP16"
        del request.raw_input_contents[:]

    def out_of_range(request: service_pb2.ModelInferRequest) -> None:
        request.inputs[0].datatype = "INT8"
        request.inputs[0].contents.int_contents.append(300)
        del request.raw_input_contents[:]

    assert send(lambda request: None) is None
    table = [
        ("raw_input_contents", lambda request: request.raw_input_contents.append(b"")),
        ("both", lambda request: request.inputs[0].contents.fp32_contents.append(1)),
        ("takes 256 bytes", lambda request: request.raw_input_contents.__setitem__(0, b"1234")),
        ("negative", lambda request: request.inputs[0].shape.__setitem__(0, -1)),
        ("larger than", lambda request: request.inputs[0].shape.__setitem__(0, 2**62)),
        ("FP8", lambda request: setattr(request.inputs[0], "datatype", "FP8")),
        ("has no contents", fp16),
        ("300 is out of range for INT8", out_of_range),
        ("twice", lambda request: [request.outputs.add(name="logits") for _ in range(2)]),
        ("classification", lambda request: request.outputs.add(name="logits").parameters[
            "classification"].MergeFrom(service_pb2.InferParameter(int64_param=-1))),
        ("timeout", lambda request: request.parameters["timeout"].MergeFrom(
            service_pb2.InferParameter(string_param="soon"))),
    ]
    for part, change in table:
        error = send(change)
        assert error is not None, f"was accepted; {part} was expected"
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        assert part in error.details(), error


@check
def a_stream_answers_in_order_and_survives_errors(node: Node) -> None:
    answers: queue.Queue = queue.Queue()
    with grpcclient.InferenceServerClient(node.url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for row in range(len(node.pixels)):
            pixels = node.pixels[row : row + 1]
            client.async_stream_infer(node.model, [tensor(pixels)], request_id=str(row))
            if row == 1:
                client.async_stream_infer("nobody", [tensor(pixels)], request_id="wrong")
        for row in range(len(node.pixels)):
            result, error = answers.get(timeout=30)
            assert error is None, error
            assert result.get_response().id == str(row)
            close(result, node.logits[row : row + 1])
            if row == 1:
                _, error = answers.get(timeout=30)
                assert "unknown model" in error.message(), error
        client.stop_stream()


@check
def a_repository(node: Node) -> None:
    client, name = node.client, node.model

    def state() -> str:
        models = client.get_model_repository_index().models
        return next(model.state for model in models if model.name == name)

    def max_batch_size() -> int:
        return client.get_model_config(name).config.max_batch_size

    packaged = max_batch_size()
    refused("UNAUTHENTICATED", "token", lambda: client.unload_model(name))
    assert state() == "READY"
    client.unload_model(name, headers=node.headers)
    assert state() == "UNAVAILABLE" and not client.is_model_ready(name)
    refused("UNAVAILABLE", "unloaded", lambda: node.infer(node.pixels[:1]))
    config = json.dumps({"max_batch_size": "16"})
    client.load_model(name, headers=node.headers, config=config)
    assert state() == "READY"
    assert max_batch_size() == 16 != packaged
    close(node.infer(node.pixels[:1]), node.logits[:1])
    for config in ("{", '{"backend": "x"}'):
        load = lambda: client.load_model(name, headers=node.headers, config=config)  # noqa: B023, E731
        refused("INVALID_ARGUMENT", "failed to load", load)
    load = lambda: client.load_model("nobody", headers=node.headers)  # noqa: E731
    refused("NOT_FOUND", "failed to load", load)
    client.load_model(name, headers=node.headers)
    assert max_batch_size() == packaged


@check
def asyncio_clients(node: Node) -> None:
    async def ask() -> None:
        async with aio.InferenceServerClient(node.url) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata(node.model)).name == node.model

            async def one(row: int) -> None:
                pixels = node.pixels[row : row + 1]
                result = await client.infer(node.model, [tensor(pixels)], request_id=str(row))
                assert result.get_response().id == str(row)
                close(result, node.logits[row : row + 1])

            await asyncio.gather(*(one(row) for row in range(len(node.pixels))))

            async def requests():
                for row in range(4):
                    inputs = [tensor(node.pixels[row : row + 1])]
                    yield {"model_name": node.model, "inputs": inputs}

            row = 0
            async for result, error in client.stream_infer(requests()):
                assert error is None, error
                close(result, node.logits[row : row + 1])
                row += 1
            assert row == 4

    asyncio.run(ask())


def varint(number: int) -> bytes:
    low = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([byte | 0x80 for byte in low[:-1]] + low[-1:])


def unary(node: Node, method: str, request: bytes) -> bytes:
    """A call of a service that we have no stub for."""
    with grpc.insecure_channel(node.url) as channel:
        return channel.unary_unary(method)(request, timeout=30)


@check
def standard_health(node: Node) -> None:
    def status(service: str) -> bytes:
        name = service.encode()
        request = b"\x0a" + varint(len(name)) + name if name else b""
        return unary(node, "/grpc.health.v1.Health/Check", request)

    for service in ("", "inference.GRPCInferenceService", node.model):
        assert status(service) == b"\x08\x01", "SERVING was expected"
    try:
        status("nobody")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
    else:
        raise AssertionError("a service that is not there is healthy")
    with grpc.insecure_channel(node.url) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=30)
        assert next(iter(watch)) == b"\x08\x01"
        watch.cancel()


def fields(text: bytes) -> dict[int, list[bytes]]:
    """The length-delimited fields of a message."""
    found: dict[int, list[bytes]] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = text[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(text):
        key = number()
        if key & 7 == 2:
            length = number()
            found.setdefault(key >> 3, []).append(text[at : at + length])
            at += length
        else:
            number()
    return found


@check
def reflection_has_the_numbers_that_this_client_knows(node: Node) -> None:
    name = b"inference.GRPCInferenceService"
    for version in ("v1", "v1alpha"):
        method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        with grpc.insecure_channel(node.url) as channel:
            ask = channel.stream_stream(method)
            requests = [b"\x3a\x00", b"\x22" + varint(len(name)) + name]
            services, files = (fields(answer) for answer in ask(iter(requests), timeout=30))
        listed = [fields(s)[1][0].decode() for s in fields(services[6][0])[1]]
        assert {name.decode(), "grpc.health.v1.Health"} <= set(listed), listed
    messages: dict[str, descriptor_pb2.DescriptorProto] = {}
    services: dict[str, descriptor_pb2.ServiceDescriptorProto] = {}
    for text in fields(files[4][0])[1]:
        file = descriptor_pb2.FileDescriptorProto.FromString(text)
        assert file.package == "inference", file.package
        collect(messages, "", file.message_type)
        services.update({service.name: service for service in file.service})
    known = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for rpc in services["GRPCInferenceService"].method:
        theirs = known.methods_by_name[rpc.name]
        assert rpc.input_type == f".{theirs.input_type.full_name}", rpc
        assert rpc.output_type == f".{theirs.output_type.full_name}", rpc
        assert rpc.server_streaming == theirs.server_streaming
    compared = 0
    for name, ours in messages.items():
        theirs = their_message(name)
        for field in ours.field:
            same = theirs.fields_by_name[field.name]
            assert (field.number, field.type) == (same.number, same.type), f"{name}.{field.name}"
            compared += 1
    assert compared > 100, compared


def collect(into: dict, path: str, messages) -> None:
    for found in messages:
        # The maps' entries are made by the compiler.
        if found.options.map_entry:
            continue
        into[path + found.name] = found
        collect(into, f"{path}{found.name}.", found.nested_type)


def their_message(path: str):
    first, *inner = path.split(".")
    known = {
        **service_pb2.DESCRIPTOR.message_types_by_name,
        **model_config_pb2.DESCRIPTOR.message_types_by_name,
    }
    found = known[first]
    for name in inner:
        found = found.nested_types_by_name[name]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a running node with Triton's gRPC client.")
    parser.add_argument("--url", required=True, help="host:port of the gRPC plane")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--token", required=True)
    parser.add_argument("--golden", type=Path, required=True)
    node = Node(parser.parse_args())
    failed = 0
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        try:
            function(node)
        # Whatever a client raises fails this check and leaves the others to run.
        except Exception as error:
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        else:
            print(f"ok      {name}", flush=True)
    print(f"{failed} of {len(CHECKS)} checks failed" if failed else f"all {len(CHECKS)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
