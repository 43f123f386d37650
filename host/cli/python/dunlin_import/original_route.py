"""The original module on golden inputs, for `dunlin compare`: what it answers, and how fast.

One call is one row, as a request to a node is; where the module takes only a fixed batch, one call
is the whole sample.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from pathlib import Path

import torch

from . import checkpoint, dtypes, environment, golden, original
from .compare import Tensors
from .original import Original
from .report import Reporter, refuse

FILE = "answers.safetensors"
# Rows that are timed in turn.
ROWS_MAX = 64
WARM_UP_SECONDS_MAX = 0.5
ANOTHER_CLASS = "does --module name the class that the model was exported from?"


def run(request: dict, reporter: Reporter) -> dict:
    """Writes the module's outputs into `out`; gives its times and its memory."""
    path = Path(request["checkpoint"])
    reporter.step(f"original/python: loading {request['module']} with {path.name}")
    torch.set_num_threads(request["threads"])
    started = time.perf_counter()
    module = checkpoint.load(path, request["module"], request["arguments"], request["trust"])
    load_ms = (time.perf_counter() - started) * 1e3

    inputs, expected = read(Path(request["golden"]))
    inputs = _as_forward_takes_them(module, inputs, request["inputs"])
    call = Original(module, list(inputs), {})
    reporter.step("original/python: running the golden samples")
    outputs = _run(call, inputs)
    if len(outputs) == 1 and len(expected) == 1:
        # A single output has no name of its own.
        outputs = {next(iter(expected)): next(iter(outputs.values()))}
    golden.write(Path(request["out"]) / FILE, {}, outputs)

    seconds = request["seconds"]
    reporter.step(f"original/python: timing for {seconds:g} s")
    calls = _rows(call, inputs)
    _time(call, calls, min(WARM_UP_SECONDS_MAX, seconds / 4))
    speed = _time(call, calls, seconds)
    return {
        "answers": FILE,
        "load_ms": load_ms,
        "speed": speed,
        "single_rows": calls[0] is not inputs,
        "resident_bytes": _resident_bytes(),
        "platform": environment.platform(),
    }


def read(path: Path) -> tuple[Tensors, Tensors]:
    """The inputs and the outputs in a file of golden samples."""
    try:
        file = path.read_bytes()
        end = 8 + int.from_bytes(file[:8], "little")
        header = json.loads(file[8:end])
        header.pop("__metadata__", None)
        sides: dict[str, Tensors] = {"input": {}, "output": {}}
        for key, entry in header.items():
            side, _, name = key.partition(".")
            start, stop = entry["data_offsets"]
            # Of its own: PyTorch may write into it, and wants it aligned.
            data = bytearray(file[end + start : end + stop])
            dtype = dtypes.torch_of_file(entry["dtype"])
            tensor = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            sides[side][name] = tensor.reshape(entry["shape"])
        return sides["input"], sides["output"]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        refuse(
            f"{path} has no golden samples that PyTorch can read",
            next="write them again: dunlin import",
            cause=error,
        )


def _as_forward_takes_them(module: torch.nn.Module, inputs: Tensors, order: list[str]) -> Tensors:
    """The inputs in forward's order and by its names. `order` is that of the deployment file, if any.

    A file of golden samples has no order, and an export may name its inputs otherwise.
    """
    known = original.parameters(module)
    by_name = [name for name in known if name in inputs]
    if len(by_name) == len(inputs):
        return {name: inputs[name] for name in by_name}
    if len(inputs) == 1:
        order = list(inputs)
    if sorted(order) == sorted(inputs):
        ordered = [inputs[name] for name in order]
        if original.varargs(module):
            return dict(zip(order, ordered))
        if len(order) <= len(known):
            return dict(zip(known, ordered))
    refuse(
        f"the golden samples have {', '.join(sorted(inputs))}, and forward takes "
        f"{', '.join(known) or 'tensors without names'}",
        next=f"{ANOTHER_CLASS} Where the names differ, list the model's inputs in dunlin.yaml in "
        "forward's order",
    )


def _run(call: Original, inputs: Tensors) -> Tensors:
    try:
        return call(inputs)
    except Exception as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        refuse(
            f"forward failed on the golden samples ({shapes})",
            next=ANOTHER_CLASS,
            cause=error,
        )


def _rows(call: Original, inputs: Tensors) -> list[Tensors]:
    """Single rows, where the module takes them; else the sample as it is."""
    counts = {tensor.shape[0] if tensor.dim() else None for tensor in inputs.values()}
    count = counts.pop() if len(counts) == 1 else None
    if not count:
        return [inputs]
    cut = [
        {name: tensor[row : row + 1].clone() for name, tensor in inputs.items()}
        for row in range(min(count, ROWS_MAX))
    ]
    try:
        call(cut[0])
    except Exception:
        # Whatever a module says of a batch of one: it took the sample.
        return [inputs]
    return cut


def _time(call: Original, calls: list[Tensors], seconds: float) -> dict:
    """Calls in turn for so long, and at least once."""
    arguments = [[inputs[name] for name in call.names] for inputs in calls]
    took: list[int] = []
    with torch.inference_mode():
        started = now = time.perf_counter_ns()
        end = started + int(seconds * 1e9)
        while not took or now < end:
            call.forward(*arguments[len(took) % len(arguments)])
            before, now = now, time.perf_counter_ns()
            took.append(now - before)
    took.sort()

    def percentile(share: float) -> float:
        # Nearest rank, as for the nodes.
        return took[max(math.ceil(share * len(took)), 1) - 1] / 1e6

    return {
        "requests": len(took),
        "requests_per_second": len(took) / ((now - started) / 1e9),
        "p50_ms": percentile(0.50),
        "p99_ms": percentile(0.99),
    }


def _resident_bytes() -> int | None:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        # Not Linux.
        command = ["ps", "-o", "rss=", "-p", str(os.getpid())]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        kibibytes = ended.stdout.strip()
    return int(kibibytes) << 10 if kibibytes.isdecimal() else None
