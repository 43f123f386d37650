"""The whole way of a Lightning checkpoint: load, feed, export, compare."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from . import checkpoint, compare, golden, onnx_route, samples, torchscript_route
from .compare import Difference, Tensors, Tolerance
from .original import Original
from .report import Reporter, refuse
from .samples import Samples


def run(request: dict, reporter: Reporter) -> dict:
    """Writes the models and the golden samples into `out`; gives the signature and what was seen."""
    out = Path(request["out"])
    path = Path(request["checkpoint"])
    reporter.step(f"loading {request['module']} with {path.name}")
    module = checkpoint.load(path, request["module"], request["arguments"], request["trust"])

    reporter.step("running the original module")
    torch.manual_seed(samples.SEED)
    example = samples.example(module, request)
    call = Original(module, list(example.tensors), example.constants)
    prepared = samples.prepare(call, example, reporter)
    golden.write(out / golden.FILE, prepared.golden, prepared.expected)

    frozen = call.values_read(prepared.golden)
    routes = [_route(route, call, prepared, frozen, request, reporter) for route in request["routes"]]
    return {
        "reference": f"the original module, {type(module).__name__}",
        "inputs": prepared.inputs,
        "outputs": prepared.outputs,
        "golden": golden.FILE,
        "samples": example.source if example.given else f"generated from {example.source}",
        "rows": prepared.rows(),
        "routes": routes,
        "versions": _versions(),
    }


def _route(
    route: str,
    call: Original,
    prepared: Samples,
    frozen: list[str],
    request: dict,
    reporter: Reporter,
) -> dict:
    out, tolerance = Path(request["out"]), Tolerance(**request["tolerance"])
    traced, why = True, ""
    if route == "onnx":
        reporter.step("exporting to ONNX")
        path = out / f"{request['name']}.onnx"
        _refuse_frozen(route, frozen, request)
        how = onnx_route.export(call, prepared, path, reporter)
        run_by = onnx_route.runner(path)
    else:
        reporter.step("exporting to TorchScript")
        path = out / f"{request['name']}.pt"
        how, why = torchscript_route.export(call, prepared, path)
        traced = how == "trace"
        if traced:
            _refuse_frozen(route, frozen, request, why)
        run_by = torchscript_route.runner(path)
    if traced and frozen:
        reporter.warning(f"the export has only the way that the samples took at {frozen[0]}")

    difference, checked_by = None, None
    if run_by is None:
        reporter.warning(
            "the ONNX export was not compared with the module here: onnxruntime is not installed "
            f"in {sys.executable}; a node compares them when it loads the model"
        )
    else:
        run, checked_by = run_by
        reporter.step(f"comparing {path.name} with the module")
        difference = _compare(route, run, prepared, tolerance)
    return {
        "route": route,
        "file": path.name,
        "files": sorted(p.name for p in out.glob(f"{path.name}?*")),
        "how": how,
        "why_traced": why,
        "checked_by": checked_by,
        "difference": difference.document() if difference else None,
    }


def _refuse_frozen(route: str, frozen: list[str], request: dict, why: str = "") -> None:
    """A traced export keeps one way through a branch: it would answer wrongly, and not say so."""
    if not frozen or request["allow_frozen"]:
        return
    name = "ONNX" if route == "onnx" else f"TorchScript by tracing (scripting failed: {why})"
    keeps = "import with --via torchscript, which keeps it; or " if route == "onnx" else ""
    refuse(
        f"what forward does depends on the data, and an export to {name} would keep only the way "
        f"that the samples take: {'; '.join(frozen)}",
        next=f"{keeps}compute both ways and choose with torch.where; where every way gives the "
        "same answer, add --allow-frozen",
    )


def _compare(
    route: str, run: Callable[[Tensors], Tensors], prepared: Samples, tolerance: Tolerance
) -> Difference:
    total = Difference()
    calls = [(prepared.golden, prepared.expected), *prepared.others]
    name = "ONNX" if route == "onnx" else "TorchScript"
    other = "torchscript" if route == "onnx" else "onnx"
    for inputs, expected in calls:
        shapes = ", ".join(f"{key} {list(tensor.shape)}" for key, tensor in inputs.items())
        try:
            got = run(inputs)
        except Exception as error:
            refuse(
                f"the {name} export fails where the module does not, on {shapes}",
                next=f"import with --via {other}; sizes that forward turns into Python numbers "
                "do not vary in an export",
                cause=error,
            )
        total.merge(compare.outputs(expected, got, tolerance))
        if total.worst:
            refuse(
                f"the {name} export does not answer as the module, on {shapes}: {total.worst}",
                next=f"import with --via {other}; where the difference does not matter, allow it: "
                "--tolerance 1e-3",
            )
    return total


def _versions() -> dict[str, str]:
    names = ("torch", "lightning", "pytorch_lightning", "onnx", "onnxruntime")
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in names}
    versions = {name: version for name, version in found.items() if version}
    return {"python": sys.version.split()[0], **versions}
