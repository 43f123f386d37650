"""The ONNX route: one file by the exporter that traces, else by the one that builds on dynamo."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from inspect import signature
from pathlib import Path

import torch

from . import environment, torchscript_route
from .compare import Tensors
from .original import Flat, Original
from .report import Refused, Reporter, one_line, refuse
from .samples import BATCH, Samples

# What every backend reads; the dynamo exporter begins at the next one.
OPSET = 17
DYNAMO_OPSET = 18


def export(call: Original, samples: Samples, path: Path, reporter: Reporter) -> str:
    """Writes the model, and says how. A model that dynamo exported has its weights beside it."""
    clashing = [name for name in samples.expected if name in samples.golden]
    if clashing:
        refuse(
            f"{clashing[0]} is an input and an output, and ONNX has one name for one tensor",
            next="name the key of forward's answer otherwise, or import with --via torchscript",
        )
    try:
        with torchscript_route.lightning_without_trainer(call.module):
            _trace(call, samples, path)
        return f"torch.onnx, traced, opset {OPSET}"
    except Refused:
        raise
    except Exception as error:
        first = error
    path.unlink(missing_ok=True)
    if not environment.present("onnxscript"):
        refuse(
            "the module cannot be exported to ONNX by tracing it",
            next=f"try PyTorch's other exporter, {environment.pip_install('onnxscript')}, or "
            "import with --via torchscript",
            cause=first,
        )
    reporter.step("exporting to ONNX by torch.export")
    try:
        _dynamo(call, samples, path)
        return f"torch.onnx, dynamo, opset {DYNAMO_OPSET}"
    except Exception as error:
        refuse(
            "the module cannot be exported to ONNX; tracing it failed, and so did torch.export "
            f"with {one_line(error, 200)}",
            next="import with --via torchscript, or change in forward what ONNX has no operator for",
            cause=first,
        )


def _trace(call: Original, samples: Samples, path: Path) -> None:
    # Before there was another exporter there was no such option.
    options = {"dynamo": False} if "dynamo" in signature(torch.onnx.export).parameters else {}
    torch.onnx.export(
        Flat(call, "tuple").eval(),
        tuple(samples.golden[name] for name in call.names),
        str(path),
        **options,
        opset_version=OPSET,
        input_names=call.names,
        output_names=list(samples.expected),
        dynamic_axes=_named(samples.axes) | _named(samples.output_axes),
    )


def _dynamo(call: Original, samples: Samples, path: Path) -> None:
    shapes = {
        name: {axis: torch.export.Dim.DYNAMIC for axis in samples.axes[name]} for name in call.names
    }
    # It prints what it does.
    with redirect_stdout(io.StringIO()):
        torch.onnx.export(
            call.module,
            (),
            str(path),
            kwargs={name: samples.golden[name] for name in call.names} | call.constants,
            dynamo=True,
            opset_version=DYNAMO_OPSET,
            input_names=call.names,
            output_names=list(samples.expected),
            dynamic_shapes=shapes | {name: None for name in call.constants},
            verbose=False,
        )


def _named(axes: dict[str, list[int]]) -> dict[str, dict[int, str]]:
    return {
        name: {axis: "batch" if axis == BATCH else f"size_{axis}" for axis in varying}
        for name, varying in axes.items()
    }


def runner(path: Path) -> tuple[Callable[[Tensors], Tensors], str] | None:
    """A function that runs the file, and by what; none where ONNX Runtime is not installed."""
    if not environment.present("onnxruntime"):
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        refuse(
            "ONNX Runtime does not load the export",
            next="import with --via torchscript, or use a newer onnxruntime",
            cause=error,
        )
    names = [output.name for output in session.get_outputs()]
    taken = {value.name for value in session.get_inputs()}

    def run(inputs: Tensors) -> Tensors:
        # An input that does not matter to the answer is not in the file.
        arrays = {name: tensor.numpy() for name, tensor in inputs.items() if name in taken}
        return dict(zip(names, map(torch.from_numpy, session.run(names, arrays))))

    return run, f"onnxruntime {onnxruntime.__version__}"
