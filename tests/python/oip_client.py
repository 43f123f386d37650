"""Talks to a running node as Triton's own Python client does, and says what it gets wrong.

    python oip_client.py --url 127.0.0.1:8080 --model digits \
        --golden …/golden.safetensors --heldout …/heldout.safetensors

It knows the digits model (`pixels` FP32 [-1, 1, 8, 8] to `logits` FP32 [-1, 10]) and the Open
Inference Protocol, and nothing else of the node. One line per check; the exit status is 0 when
all passed, 1 when one failed, 2 when the arguments are wrong.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.http as sync_client
import tritonclient.http.aio as async_client
from safetensors import safe_open
from tritonclient.http import InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

INPUT = {"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 8, 8]}
OUTPUT = {"name": "logits", "datatype": "FP32", "shape": [-1, 10]}
UNKNOWN_MODEL = "there-is-no-such-model"
# What the model takes in one request.
MAX_BATCH_SIZE = 32

TOLERANCE = 1e-4
TIMEOUT_SECONDS = 30.0


class Failure(Exception):
    """A check found something else than what it expected."""


@dataclass(frozen=True)
class HeldOut:
    pixels: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    accuracy: float


@dataclass(frozen=True)
class Node:
    """What every check works with: the node's client and the original model's answers."""

    url: str
    model: str
    client: sync_client.InferenceServerClient
    pixels: np.ndarray
    logits: np.ndarray
    held_out: HeldOut


CHECKS: list[Callable[[Node], None]] = []


def check(function: Callable[[Node], None]) -> Callable[[Node], None]:
    """Adds a check; its name in the output is the function's, with spaces."""
    CHECKS.append(function)
    return function


# Health and metadata.


@check
def server_is_live(node: Node) -> None:
    expect_equal("live", node.client.is_server_live(), True)


@check
def server_is_ready(node: Node) -> None:
    expect_equal("ready", node.client.is_server_ready(), True)


@check
def health_ignores_a_query_string(node: Node) -> None:
    expect_equal("live", node.client.is_server_live(query_params={"verbose": "1"}), True)


@check
def server_metadata(node: Node) -> None:
    metadata = node.client.get_server_metadata()
    for key in ("name", "version"):
        expect_text(f"server metadata: {key}", metadata.get(key))
    expect_list_of_text("server metadata: extensions", metadata.get("extensions"))


@check
def model_is_ready(node: Node) -> None:
    expect_equal("ready", node.client.is_model_ready(node.model), True)


@check
def unknown_model_is_not_ready(node: Node) -> None:
    expect_equal("ready", node.client.is_model_ready(UNKNOWN_MODEL), False)


@check
def model_metadata(node: Node) -> None:
    metadata = node.client.get_model_metadata(node.model)
    expect_equal("name", metadata.get("name"), node.model)
    expect_text("platform", metadata.get("platform"))
    expect_list_of_text("versions", metadata.get("versions"))
    for key, expected in (("inputs", INPUT), ("outputs", OUTPUT)):
        tensors = metadata.get(key) or []
        described = [{field: tensor.get(field) for field in expected} for tensor in tensors]
        expect_equal(key, described, [expected])


@check
def model_version_in_the_path(node: Node) -> None:
    version = node.client.get_model_metadata(node.model)["versions"][0]
    expect_equal("ready", node.client.is_model_ready(node.model, version), True)
    result = node.client.infer(node.model, [tensor(node.pixels[:1])], model_version=version)
    expect_logits(result, node.logits[:1])
    expect_equal("model_version", result.get_response().get("model_version"), version)


# Inference: how the tensors travel.


@check
def infer_with_binary_tensors(node: Node) -> None:
    # The client's default: binary in, and binary asked for by `binary_data_output`.
    result = node.client.infer(node.model, [tensor(node.pixels[:1])])
    expect_logits(result, node.logits[:1])
    expect_travelled(result, rows=1, binary=True)
    expect_equal("model_name", result.get_response().get("model_name"), node.model)


@check
def infer_with_json_tensors(node: Node) -> None:
    result = infer(node, node.pixels[:1], binary_in=False, binary_out=False)
    expect_logits(result, node.logits[:1])
    expect_travelled(result, rows=1, binary=False)


@check
def infer_with_json_in_and_binary_out(node: Node) -> None:
    result = infer(node, node.pixels[:3], binary_in=False, binary_out=True)
    expect_logits(result, node.logits[:3])
    expect_travelled(result, rows=3, binary=True)


@check
def infer_with_binary_in_and_json_out(node: Node) -> None:
    result = infer(node, node.pixels[:3], binary_in=True, binary_out=False)
    expect_logits(result, node.logits[:3])
    expect_travelled(result, rows=3, binary=False)


@check
def asked_output_only(node: Node) -> None:
    outputs = [InferRequestedOutput(OUTPUT["name"])]
    result = node.client.infer(node.model, [tensor(node.pixels[:1])], outputs=outputs)
    names = [output["name"] for output in result.get_response()["outputs"]]
    expect_equal("outputs", names, [OUTPUT["name"]])
    expect_logits(result, node.logits[:1])


@check
def request_id_comes_back(node: Node) -> None:
    # The last one is longer in bytes than in characters: the length that a binary reply gives
    # for its JSON part has to be the bytes'.
    for request_id in ("a", "7f3c-42 with space", "ünïcödé"):
        result = node.client.infer(
            node.model, [tensor(node.pixels[:1])], request_id=request_id
        )
        expect_equal("id", result.get_response().get("id"), request_id)
        expect_logits(result, node.logits[:1])


# Inference: what the numbers are.


@check
def several_rows_in_one_request(node: Node) -> None:
    for rows in (2, 7, len(node.pixels)):
        expect_logits(infer(node, node.pixels[:rows]), node.logits[:rows])


@check
def golden_samples_as_binary(node: Node) -> None:
    expect_logits(infer(node, node.pixels), node.logits)


@check
def golden_samples_as_json(node: Node) -> None:
    result = infer(node, node.pixels, binary_in=False, binary_out=False)
    expect_logits(result, node.logits)


@check
def golden_samples_one_by_one(node: Node) -> None:
    for row in range(len(node.pixels)):
        one = slice(row, row + 1)
        expect_logits(infer(node, node.pixels[one]), node.logits[one])


@check
def held_out_accuracy(node: Node) -> None:
    held_out = node.held_out
    answers = []
    for start in range(0, len(held_out.pixels), MAX_BATCH_SIZE):
        chunk = held_out.pixels[start : start + MAX_BATCH_SIZE]
        answers.append(infer(node, chunk).as_numpy(OUTPUT["name"]).argmax(axis=1))
    predicted = np.concatenate(answers)
    different = np.flatnonzero(predicted != held_out.predicted)
    expect_equal("rows that are not what the original module predicts", different.tolist(), [])
    accuracy = float((predicted == held_out.labels).mean())
    if abs(accuracy - held_out.accuracy) > 1e-6:
        raise Failure(f"accuracy is {accuracy:.6f}, the original module's {held_out.accuracy:.6f}")


# Errors: a status and a text that says what is wrong.


@check
def error_for_an_unknown_model(node: Node) -> None:
    pixels = [tensor(node.pixels[:1])]
    for call in (
        lambda: node.client.infer(UNKNOWN_MODEL, pixels),
        lambda: node.client.get_model_metadata(UNKNOWN_MODEL),
    ):
        expect_error(call, "404", "Request for unknown model", UNKNOWN_MODEL)


@check
def error_for_a_wrong_shape(node: Node) -> None:
    for shape in ((1, 1, 8, 7), (1, 8, 8), (1, 64), (1, 3, 8, 8)):
        for binary in (True, False):
            pixels = tensor(np.zeros(shape, np.float32), binary=binary)
            expect_error(lambda: node.client.infer(node.model, [pixels]), "400", INPUT["name"])


@check
def error_for_data_that_do_not_fill_the_shape(node: Node) -> None:
    for binary in (True, False):
        pixels = tensor(node.pixels[:1], binary=binary)
        pixels.set_shape([2, 1, 8, 8])
        expect_error(lambda: node.client.infer(node.model, [pixels]), "400", INPUT["name"])


@check
def error_for_a_wrong_datatype(node: Node) -> None:
    for dtype in (np.float64, np.int64, np.uint8):
        for binary in (True, False):
            pixels = tensor(node.pixels[:1].astype(dtype), binary=binary)
            expect_error(lambda: node.client.infer(node.model, [pixels]), "400", INPUT["name"])


@check
def error_for_an_unknown_input(node: Node) -> None:
    inputs = [tensor(node.pixels[:1]), tensor(node.pixels[:1], name="stranger")]
    expect_error(lambda: node.client.infer(node.model, inputs), "400", "stranger")


@check
def error_for_a_missing_input(node: Node) -> None:
    expect_error(lambda: node.client.infer(node.model, []), "400", INPUT["name"])


@check
def error_for_an_unknown_output(node: Node) -> None:
    outputs = [InferRequestedOutput("stranger")]
    pixels = [tensor(node.pixels[:1])]
    expect_error(
        lambda: node.client.infer(node.model, pixels, outputs=outputs), "400", "stranger"
    )


@check
def a_good_request_after_the_errors(node: Node) -> None:
    expect_logits(infer(node, node.pixels[:1]), node.logits[:1])


# Many at once: every answer goes to the one who asked.


@check
def many_requests_at_once(node: Node) -> None:
    with sync_client.InferenceServerClient(
        node.url, concurrency=8, network_timeout=TIMEOUT_SECONDS
    ) as client:
        pending = [
            client.async_infer(node.model, [tensor(node.pixels[row : row + 1])])
            for row in range(len(node.pixels))
        ]
        for row, request in enumerate(pending):
            result = request.get_result(timeout=TIMEOUT_SECONDS)
            expect_logits(result, node.logits[row : row + 1])


@check
def asyncio_health_and_metadata(node: Node) -> None:
    async def ask(client: async_client.InferenceServerClient) -> None:
        expect_equal("live", await client.is_server_live(), True)
        expect_equal("ready", await client.is_server_ready(), True)
        expect_equal("model ready", await client.is_model_ready(node.model), True)
        expect_text("server name", (await client.get_server_metadata()).get("name"))
        metadata = await client.get_model_metadata(node.model)
        expect_equal("model name", metadata.get("name"), node.model)

    run_async(node, ask)


@check
def asyncio_many_requests_at_once(node: Node) -> None:
    async def ask(client: async_client.InferenceServerClient) -> None:
        async def one(row: int) -> None:
            # Every second request all in JSON, so that both kinds are under way together.
            binary = row % 2 == 0
            result = await client.infer(
                node.model,
                [tensor(node.pixels[row : row + 1], binary=binary)],
                outputs=[InferRequestedOutput(OUTPUT["name"], binary_data=binary)],
                request_id=f"row-{row}",
            )
            expect_equal("id", result.get_response().get("id"), f"row-{row}")
            expect_logits(result, node.logits[row : row + 1])

        await asyncio.gather(*(one(row) for row in range(len(node.pixels))))

    run_async(node, ask)


@check
def asyncio_error_for_an_unknown_model(node: Node) -> None:
    async def ask(client: async_client.InferenceServerClient) -> None:
        try:
            await client.infer(UNKNOWN_MODEL, [tensor(node.pixels[:1])])
        except InferenceServerException as error:
            expect_error_text(error, "404", "Request for unknown model", UNKNOWN_MODEL)
        else:
            raise Failure("was accepted, an error was expected")

    run_async(node, ask)


def tensor(values: np.ndarray, *, name: str = INPUT["name"], binary: bool = True) -> InferInput:
    described = InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return described.set_data_from_numpy(np.ascontiguousarray(values), binary_data=binary)


def infer(
    node: Node, pixels: np.ndarray, *, binary_in: bool = True, binary_out: bool = True
) -> InferResult:
    return node.client.infer(
        node.model,
        [tensor(pixels, binary=binary_in)],
        outputs=[InferRequestedOutput(OUTPUT["name"], binary_data=binary_out)],
    )


def run_async(node: Node, ask) -> None:
    async def session() -> None:
        async with async_client.InferenceServerClient(
            node.url, conn_timeout=TIMEOUT_SECONDS
        ) as client:
            await ask(client)

    asyncio.run(session())


def expect_equal(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Failure(f"{what} is {found!r}, expected {expected!r}")


def expect_text(what: str, found: object) -> None:
    if not isinstance(found, str) or not found:
        raise Failure(f"{what} is {found!r}, expected a text that is not empty")


def expect_list_of_text(what: str, found: object) -> None:
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise Failure(f"{what} is {found!r}, expected a list of texts")


def expect_logits(result: InferResult, expected: np.ndarray) -> None:
    output = result.get_output(OUTPUT["name"])
    if output is None:
        raise Failure(f"the reply has no output {OUTPUT['name']!r}: {result.get_response()!r}")
    expect_equal("datatype", output.get("datatype"), OUTPUT["datatype"])
    expect_equal("shape", output.get("shape"), list(expected.shape))
    difference = float(np.abs(result.as_numpy(OUTPUT["name"]) - expected).max())
    # Written so that NaN fails, too.
    if not difference <= TOLERANCE:
        raise Failure(f"the logits differ from the original's by {difference:.2e}")


def expect_travelled(result: InferResult, *, rows: int, binary: bool) -> None:
    """The output came in the form that was asked for."""
    output = result.get_output(OUTPUT["name"])
    size = (output.get("parameters") or {}).get("binary_data_size")
    expect_equal("binary_data_size", size, rows * 10 * 4 if binary else None)
    expect_equal("presence of JSON data", "data" in output, not binary)


def expect_error(call: Callable[[], object], status: str, *parts: str) -> None:
    try:
        call()
    except InferenceServerException as error:
        expect_error_text(error, status, *parts)
    else:
        raise Failure("was accepted, an error was expected")


def expect_error_text(error: InferenceServerException, status: str, *parts: str) -> None:
    text = error.message()
    # The client keeps the body only where it could not find `{"error": …}` in it.
    if error.debug_details() is not None:
        raise Failure(f"status {error.status()}, body is not an error object: {text}")
    if error.status() != status:
        raise Failure(f"status is {error.status()}, expected {status}; the text: {text}")
    for part in parts:
        if part not in text:
            raise Failure(f"the error's text does not say {part!r}: {text}")


def read_node(arguments: argparse.Namespace) -> Node:
    with safe_open(arguments.golden, "np") as golden:
        pixels = golden.get_tensor("input.pixels")
        logits = golden.get_tensor("output.logits")
    with safe_open(arguments.heldout, "np") as file:
        held_out = HeldOut(
            pixels=file.get_tensor("pixels").astype(np.float32)[:, np.newaxis],
            labels=file.get_tensor("labels"),
            predicted=file.get_tensor("predicted"),
            accuracy=float(file.metadata()["accuracy"]),
        )
    client = sync_client.InferenceServerClient(
        arguments.url, connection_timeout=TIMEOUT_SECONDS, network_timeout=TIMEOUT_SECONDS
    )
    return Node(arguments.url, arguments.model, client, pixels, logits, held_out)


def run(node: Node) -> list[str]:
    """Runs every check and returns the names of those that failed."""
    failed = []
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        try:
            function(node)
        except Failure as failure:
            problem = str(failure)
        # Whatever the client raises (a refused connection, a reply it cannot read) fails this
        # check and leaves the others to run.
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        else:
            print(f"ok      {name}", flush=True)
            continue
        failed.append(name)
        print(f"FAILED  {name}: {' '.join(problem.split())}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a running node with Triton's client.")
    parser.add_argument("--url", required=True, help="host:port of the data plane, no scheme")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--golden", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    arguments = parser.parse_args()
    for path in (arguments.golden, arguments.heldout):
        if not path.is_file():
            parser.error(f"{path} is not a file; predictors/digits/train.py writes it")
    if "://" in arguments.url:
        parser.error(f"--url {arguments.url} has a scheme; write host:port")

    node = read_node(arguments)
    failed = run(node)
    node.client.close()
    if failed:
        print(f"{len(failed)} of {len(CHECKS)} checks failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    print(f"all {len(CHECKS)} checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
