"""Whether an export answers as the original module does.

The rule is the node's: a float may be `absolute + relative * |expected|` away, everything else
must be equal, and NaN is near to NaN only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Tolerance:
    relative: float
    absolute: float


@dataclass
class Difference:
    """The largest differences over all that was compared, and the worst element if one is too far."""

    absolute: float = 0.0
    relative: float = 0.0
    worst: str = ""

    def document(self) -> dict:
        return {"absolute": self.absolute, "relative": self.relative}

    def merge(self, other: Difference) -> None:
        self.absolute = max(self.absolute, other.absolute)
        self.relative = max(self.relative, other.relative)
        self.worst = self.worst or other.worst


def outputs(expected: Tensors, got: Tensors, tolerance: Tolerance) -> Difference:
    """Compares every output of one call."""
    total = Difference()
    for name, tensor in expected.items():
        if name not in got:
            return Difference(worst=f"it has no output {name}")
        total.merge(_tensor(name, tensor, got[name], tolerance))
    return total


def _tensor(name: str, expected: torch.Tensor, got: torch.Tensor, tolerance: Tolerance) -> Difference:
    if expected.shape != got.shape:
        return Difference(
            worst=f"output {name} has shape {list(got.shape)} and the module's {list(expected.shape)}"
        )
    if expected.dtype != got.dtype:
        return Difference(worst=f"output {name} is {got.dtype} and the module's {expected.dtype}")
    if expected.numel() == 0:
        return Difference()
    if not expected.dtype.is_floating_point:
        unequal = expected != got
        if not bool(unequal.any()):
            return Difference()
        return Difference(worst=_at(name, expected, got, int(unequal.flatten().int().argmax()), ""))

    wide, near = expected.double(), got.double()
    same = (wide == near) | (wide.isnan() & near.isnan())
    distance = torch.where(same, torch.zeros_like(wide), (wide - near).abs())
    # Where one of the two is not finite and they are not the same.
    distance = distance.nan_to_num(nan=float("inf"), posinf=float("inf"))
    magnitude = torch.where(wide.isfinite(), wide.abs(), torch.zeros_like(wide))
    allowed = tolerance.absolute + tolerance.relative * magnitude
    relative = torch.where(distance > 0, distance / magnitude.clamp_min(1e-30), distance)
    # Beside a value that is nearly zero every difference is large by its share alone.
    relative = relative[distance > tolerance.absolute]
    difference = Difference(float(distance.max()), float(relative.max()) if relative.numel() else 0.0)
    excess = (distance / allowed.clamp_min(1e-300)).flatten()
    if bool((distance > allowed).any()):
        at = int(excess.argmax())
        limit = f"; allowed is {float(allowed.flatten()[at]):.2g}"
        difference.worst = _at(name, expected, got, at, limit)
    return difference


def _at(name: str, expected: torch.Tensor, got: torch.Tensor, element: int, limit: str) -> str:
    index = []
    for size in reversed(expected.shape):
        index.append(element % size)
        element //= size
    index.reverse()
    here = tuple(index)
    return (
        f"output {name}{index} is {got[here].item():g} and the module's is "
        f"{expected[here].item():g}{limit}"
    )
