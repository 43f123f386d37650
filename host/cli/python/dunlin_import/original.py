"""The module as it was trained, as a function of named tensors.

Owns the names: inputs are called as forward's arguments, outputs as a dictionary's keys, `output`
for one tensor, `output_0`, `output_1`, … for a tuple or a list.
"""

from __future__ import annotations

import inspect
import linecache
import traceback
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .compare import Tensors
from .report import refuse

# Reading a value out of a tensor into Python: what follows depends on the data.
_VALUE_READERS = {
    torch.Tensor.__bool__,
    torch.Tensor.__int__,
    torch.Tensor.__float__,
    torch.Tensor.__index__,
    torch.Tensor.item,
    torch.Tensor.tolist,
}


class Original:
    """A module in eval mode on the CPU, with what each call gives it besides the tensors."""

    def __init__(self, module: nn.Module, names: list[str], constants: dict[str, Any]) -> None:
        self.module = module.eval()
        # In the order of forward's parameters: TorchScript is called by position.
        self.names = names
        # Arguments that are no tensors and that the example gives.
        self.constants = constants

    @torch.no_grad()
    def __call__(self, inputs: Tensors) -> Tensors:
        # A module may write into what it is given.
        outputs = self.forward(*(inputs[name].clone() for name in self.names))
        return {name: tensor.detach().clone() for name, tensor in flatten(outputs).items()}

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The module's own answer."""
        arguments = dict(zip(self.names, tensors))
        if varargs(self.module):
            return self.module(*tensors)
        return self.module(**arguments, **self.constants)

    def called_by_position(self) -> bool:
        """Whether the tensors are forward's first parameters, and nothing else is given."""
        first = parameters(self.module)[: len(self.names)]
        return not self.constants and (varargs(self.module) or self.names == first)

    def values_read(self, inputs: Tensors) -> list[str]:
        """Where forward lets what it does depend on a tensor's values: `train.py:42: if x > 0:`."""
        reads = _ValueReads()
        with reads:
            self(inputs)
        return reads.places


class Flat(nn.Module):
    """The module for an exporter: tensors by position, and a form of answer that it can write."""

    def __init__(self, original: Original, form: str) -> None:
        super().__init__()
        self.module = original.module
        self._original = [original]
        self._form = form

    def forward(self, *tensors: torch.Tensor) -> Any:
        answer = self._original[0].forward(*tensors)
        flat = flatten(answer)
        if self._form == "tuple":
            return tuple(flat.values())
        if isinstance(answer, torch.Tensor):
            return answer
        return flat if isinstance(answer, Mapping) else tuple(flat.values())


def flatten(answer: Any) -> Tensors:
    """The tensors of an answer under their names."""
    if isinstance(answer, torch.Tensor):
        return {"output": answer}
    if isinstance(answer, Mapping):
        # Models of the transformers library answer with None for what was not asked for.
        named = {str(name): value for name, value in answer.items() if value is not None}
    elif isinstance(answer, (tuple, list)):
        named = {f"output_{index}": value for index, value in enumerate(answer)}
    else:
        refuse(
            f"forward returns {type(answer).__name__}, which is no tensor",
            next="return a tensor, a tuple of tensors or a dictionary of tensors",
        )
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            refuse(
                f"forward returns {type(value).__name__} as {name}, which is no tensor",
                next="return a tensor, a tuple of tensors or a dictionary of tensors, and nothing "
                "nested",
            )
    if not named:
        refuse("forward returns no tensor", next="return a tensor, a tuple or a dictionary")
    return named


def parameters(module: nn.Module) -> list[str]:
    """The names of forward's parameters that a caller can give."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    own = inspect.signature(module.forward).parameters.values()
    return [parameter.name for parameter in own if parameter.kind in kinds]


def varargs(module: nn.Module) -> bool:
    """Whether forward is `forward(self, *tensors)`, which has no names."""
    own = inspect.signature(module.forward).parameters.values()
    return not parameters(module) and any(p.kind == inspect.Parameter.VAR_POSITIONAL for p in own)


def place_of(frames: traceback.StackSummary) -> str:
    """The user's own line among the frames: the last that is of no installed package."""
    own = [frame for frame in frames if _is_users(frame.filename)]
    if not own:
        return ""
    frame = own[-1]
    line = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
    name = frame.filename.rsplit("/", 1)[-1]
    return f"{name}:{frame.lineno}: {line}"


def _is_users(filename: str) -> bool:
    installed = ("/site-packages/", "/dist-packages/", "/dunlin_import/", "/lib/python")
    return not filename.startswith("<") and not any(part in filename for part in installed)


class _ValueReads(TorchFunctionMode):
    """Notes every read of a tensor's value by the user's code. Shapes are no tensors, and free."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in _VALUE_READERS:
            frames = traceback.extract_stack()[:-1]
            # A library's own checks, such as those of nn.Transformer, choose between ways to
            # compute the same.
            if frames and _is_users(frames[-1].filename):
                place = place_of(frames)
                if place not in self.places:
                    self.places.append(place)
        return function(*args, **(kwargs or {}))
