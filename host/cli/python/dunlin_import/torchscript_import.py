"""Golden samples of a TorchScript file, made by the user's PyTorch.

`dunlin` asks for it where it has no libtorch of its own. A TorchScript file says neither types nor
shapes of what it takes: those come from `--input`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import golden, samples
from .original import Original
from .report import NOT_FOUND, Reporter, refuse


class _Positional(nn.Module):
    """A scripted module has no Python signature; it is called by position."""

    def __init__(self, scripted: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.scripted = scripted

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.scripted(*tensors)


def run(request: dict, reporter: Reporter) -> dict:
    """Writes the golden samples into `out`; gives the signature."""
    path = Path(request["model"])
    reporter.step(f"running {path.name} with PyTorch {torch.__version__}")
    if not path.is_file():
        refuse(f"there is no file {path}", next="correct the path", kind=NOT_FOUND)
    try:
        module = _Positional(torch.jit.load(str(path), map_location="cpu"))
    except Exception as error:
        refuse(
            f"{path} is no TorchScript module",
            next="save one: torch.jit.save(torch.jit.script(module), path); a Lightning "
            "checkpoint ends in .ckpt and needs --module",
            cause=error,
        )
    torch.manual_seed(samples.SEED)
    example = samples.example(module, request)
    prepared = samples.prepare(Original(module, list(example.tensors), {}), example, reporter)
    golden.write(Path(request["out"]) / golden.FILE, prepared.golden, prepared.expected)
    return {
        "inputs": prepared.inputs,
        "outputs": prepared.outputs,
        "golden": golden.FILE,
        "samples": example.source if example.given else "generated",
        "rows": prepared.rows(),
        "reference": f"torch {torch.__version__}",
    }
