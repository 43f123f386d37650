"""Makes the TorchScript files of this folder.

    pip install torch==2.15.0
    python make.py

Each module is the smallest that shows one thing; there are no weights but those of fixed values.
"""

import warnings
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
warnings.filterwarnings("ignore", category=DeprecationWarning)


def save(name: str, module: nn.Module) -> None:
    torch.jit.save(torch.jit.script(module.eval()), HERE / f"{name}.pt")


class Identity(nn.Module):
    """Gives its input back, in the caller's own memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Pair(nn.Module):
    """Two inputs by position, the second with a default; a tuple."""

    def forward(self, a: Tensor, b: Tensor, scale: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        if scale is not None:
            a = a * scale
        return a - b, a.sum(1)


class Keyed(nn.Module):
    """A dict, whose keys are the names."""

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        return {"twice": x * 2, "rows": torch.tensor(x.size(0))}


class Boxes(NamedTuple):
    corners: Tensor
    scores: Tensor


class Nested(nn.Module):
    """What a detector gives: a list of named tuples, and numbers."""

    def forward(self, x: Tensor) -> Tuple[List[Boxes], int, float, bool]:
        return [Boxes(x, x + 1), Boxes(x + 2, x + 3)], 7, 0.5, True


class Views(nn.Module):
    """Answers that do not lie row by row, and one that lies inside the module."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.arange(6.0).reshape(2, 3))

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        return x.t(), x[:, ::2], self.weights


class InPlace(nn.Module):
    """Changes its input."""

    def forward(self, x: Tensor) -> Tensor:
        x.add_(1)
        return x * 1


class Casts(nn.Module):
    """Every kind of number there is."""

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        return {
            "bool": x > 0,
            "uint8": x.to(torch.uint8),
            "int8": x.to(torch.int8),
            "int16": x.to(torch.int16),
            "int32": x.to(torch.int32),
            "int64": x.to(torch.int64),
            "fp16": x.to(torch.float16),
            "bf16": x.to(torch.bfloat16),
            "fp32": x.to(torch.float32),
            "fp64": x.to(torch.float64),
        }


class Complex(nn.Module):
    """A kind of number that has no name in the protocol."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x)


class Throws(nn.Module):
    """Refuses what it does not like, as authors write it."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x < 0).any()):
            raise ValueError("negative values are not for this model")
        return x


class Product(nn.Module):
    """Fails in an operator where the shapes do not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.ones(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights


class Lookup(nn.Module):
    """Cannot be run on zeros where their count is not what it wants."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.size(0) == 5, "five rows"
        return x


for module in (
    Identity(), Pair(), Keyed(), Nested(), Views(), InPlace(), Casts(), Complex(), Throws(),
    Product(), Lookup(),
):
    save(type(module).__name__.lower(), module)

# A checkpoint, which people take for a model.
torch.save({"weights": torch.zeros(2)}, HERE / "checkpoint.pt")
