"""The TorchScript route: scripted, which keeps control flow, else traced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

from .compare import Tensors
from .original import Flat, Original, flatten
from .report import Refused, one_line, refuse
from .samples import Samples


def export(call: Original, samples: Samples, path: Path) -> tuple[str, str]:
    """Writes the module; gives `script` or `trace`, and why it was not scripted."""
    why = ""
    if call.called_by_position():
        try:
            torch.jit.save(_script(call.module), str(path))
            return "script", ""
        except Exception as error:
            why = one_line(error, 160)
    else:
        why = "forward is called with more than its first arguments"
    inputs = tuple(samples.golden[name] for name in call.names)
    try:
        with lightning_without_trainer(call.module), torch.no_grad():
            # A dictionary is a form of answer that only strict=False traces. What the trace gives
            # is checked with the samples, so not once more here.
            traced = torch.jit.trace(
                Flat(call, "own").eval(), inputs, strict=False, check_trace=False
            )
        torch.jit.save(traced, str(path))
        return "trace", why
    except Refused:
        raise
    except Exception as error:
        refuse(
            f"the module can be neither scripted ({why}) nor traced",
            next="import with --via onnx, or change in forward what TorchScript has no form for",
            cause=error,
        )


def _script(module: nn.Module) -> torch.jit.ScriptModule:
    with lightning_without_trainer(module):
        return torch.jit.script(module)


@contextmanager
def lightning_without_trainer(module: nn.Module) -> Iterator[None]:
    """Lets PyTorch look at every attribute of a LightningModule, which else wants a Trainer."""
    scripting = nullcontext
    for base in type(module).__mro__:
        if base.__name__ == "LightningModule":
            scripting = getattr(sys.modules[base.__module__], "_jit_is_scripting", nullcontext)
    with scripting():
        yield


def runner(path: Path) -> tuple[Callable[[Tensors], Tensors], str]:
    """A function that runs the file, and by what."""
    module = torch.jit.load(str(path), map_location="cpu").eval()

    @torch.no_grad()
    def run(inputs: Tensors) -> Tensors:
        return flatten(module(*(tensor.clone() for tensor in inputs.values())))

    return run, f"torch {torch.__version__}"
