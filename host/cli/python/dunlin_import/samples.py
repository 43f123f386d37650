"""What the module is fed: the example it brings, what `--input` says, or the user's own samples.

From that follow the signature, by running the module with other sizes, and the golden inputs.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import dtypes, original
from .compare import Tensors
from .original import Original, place_of
from .report import NOT_FOUND, Refused, Reporter, refuse

SEED = 0
# Rows of generated samples, and the most that are taken of the example and of a file.
ROWS = 8
EXAMPLE_ROWS_MAX = 4
FILE_ROWS_MAX = 32
# Sizes of a batch, and of every other dimension that varies: two that no model has by chance.
OTHER_BATCHES = (1, 3)
VARYING = 8
OTHER_VARYING = 11

# The axis that a batch grows along.
BATCH = 0

FLAG = "--input name:FP32:-1,3,224,224 (-1 is a dimension that varies)"


@dataclass
class Example:
    """Inputs that forward takes, in the order of its parameters."""

    tensors: Tensors
    # What is said of it to the user.
    source: str
    # Arguments of forward that are no tensors.
    constants: dict[str, Any] = field(default_factory=dict)
    # Per input the axes that vary, where the user says it.
    declared: dict[str, list[int]] | None = None
    # They are the user's own samples: no others are made.
    given: bool = False


@dataclass
class Samples:
    """The signature, the golden inputs, and further inputs that every export must take."""

    inputs: list[dict]
    outputs: list[dict]
    axes: dict[str, list[int]]
    output_axes: dict[str, list[int]]
    golden: Tensors
    expected: Tensors
    others: list[tuple[Tensors, Tensors]]

    def rows(self) -> int:
        """How many rows the golden samples have."""
        return next((tensor.shape[0] for tensor in self.golden.values() if tensor.dim()), 1)


def example(module: nn.Module, request: dict) -> Example:
    """The inputs to begin with: `--samples`, else `--input`, else `example_input_array`."""
    own = _own_example(module)
    declared = _declared(module, request["inputs"]) if request["inputs"] else None
    known = declared or own
    if request["samples"]:
        return _from_file(module, Path(request["samples"]), known)
    if declared:
        return declared
    if own:
        return own
    names = original.parameters(module) or ["input"]
    refuse(
        f"{type(module).__name__} has no example_input_array, so what forward takes is not known",
        next=f"say it for {', '.join(names)}: {FLAG}; or give samples: --samples FILE.npz",
    )


def prepare(call: Original, example: Example, reporter: Reporter) -> Samples:
    """Runs the module with several sizes: what changes with them varies in the signature."""
    answer = _run(call, example.tensors, f"forward failed on {example.source}", example)
    again = call(example.tensors)
    if any(not torch.equal(answer[n].nan_to_num(), again[n].nan_to_num()) for n in answer):
        refuse(
            "the module answers the same inputs differently from one call to the next, in eval "
            "mode too",
            next="take what is random out of forward; dropout belongs in nn.Dropout, which eval "
            "mode switches off",
        )
    axes = _axes(call, example, reporter)
    inputs = _golden_inputs(call, example, axes)
    what = "forward failed on generated inputs" if not example.given else "forward failed"
    expected = _run(call, inputs, what, example)
    others = []
    for batch, varying in ((OTHER_BATCHES[0], None), (OTHER_BATCHES[1], OTHER_VARYING)):
        if any(axes.values()):
            resized = _resize(inputs, axes, batch, varying)
            others.append((resized, _run(call, resized, "forward failed on another size", example)))
    output_axes = _changed(expected, [outputs for _, outputs in others])
    return Samples(
        inputs=_specs(inputs, axes),
        outputs=_specs(expected, output_axes),
        axes=axes,
        output_axes=output_axes,
        golden=inputs,
        expected=expected,
        others=others,
    )


def _own_example(module: nn.Module) -> Example | None:
    value = getattr(module, "example_input_array", None)
    if value is None:
        return None
    names = original.parameters(module)
    if isinstance(value, Mapping):
        given = {str(name): value[name] for name in value}
    else:
        values = value if isinstance(value, (tuple, list)) else (value,)
        if original.varargs(module):
            names = [f"input_{index}" for index in range(len(values))]
        if len(values) > len(names):
            refuse(
                f"example_input_array has {len(values)} values and forward takes {len(names)}",
                next="make it a tuple of forward's arguments",
            )
        given = dict(zip(names, values))
    unknown = [name for name in given if name not in names]
    if unknown:
        refuse(
            f"example_input_array has {', '.join(unknown)}, and forward takes {', '.join(names)}",
            next="name the keys as forward's arguments: forward(**example_input_array) must work",
        )
    defaults = inspect.signature(module.forward).parameters
    tensors, constants = {}, {}
    for name in (name for name in names if name in given):
        argument = given[name]
        if isinstance(argument, torch.Tensor):
            tensors[name] = argument.detach().cpu()
        elif isinstance(argument, (bool, int, float, str, type(None))):
            if name not in defaults or defaults[name].default != argument:
                constants[name] = argument
        else:
            refuse(
                f"example_input_array gives {type(argument).__name__} for {name}; a request can "
                "carry only tensors",
                next="take each tensor as an argument of forward of its own",
            )
    if not tensors:
        refuse("example_input_array has no tensor", next=f"say what forward takes: {FLAG}")
    return Example(tensors, "example_input_array", constants)


def _declared(module: nn.Module, specs: list[dict]) -> Example:
    names = original.parameters(module)
    if original.varargs(module):
        names = [spec["name"] for spec in specs]
    unknown = [spec["name"] for spec in specs if spec["name"] not in names]
    if unknown:
        refuse(
            f"--input names {', '.join(unknown)}, and forward takes {', '.join(names)}",
            next="name the inputs as forward's arguments",
        )
    specs = sorted(specs, key=lambda spec: names.index(spec["name"]))
    generator = _Values(module)
    tensors, declared = {}, {}
    for spec in specs:
        name, shape = spec["name"], spec["shape"]
        declared[name] = [axis for axis, size in enumerate(shape) if size < 0]
        sizes = [VARYING if size < 0 else size for size in shape]
        tensors[name] = generator.like(name, torch.zeros(sizes, dtype=dtypes.torch_of(spec["datatype"])))
    return Example(tensors, "--input", declared=declared)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            # A single array, from np.save, has no name.
            return {name: file[name] for name in file.files} if hasattr(file, "files") else {"": file}
    except FileNotFoundError as error:
        refuse(f"there is no file {path}", next="correct --samples", kind=NOT_FOUND, cause=error)
    except Exception as error:
        refuse(
            f"{path} is no .npz file of numbers",
            next="save one: numpy.savez(path, name_of_the_input=array)",
            cause=error,
        )


def choose_arrays(path: Path, arrays: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """The arrays for these inputs. One array for one input may have any name."""
    if len(names) == 1 and len(arrays) == 1:
        return {names[0]: next(iter(arrays.values()))}
    missing = [name for name in names if name not in arrays]
    if missing:
        refuse(
            f"{path} has no array {', '.join(missing)}; it has {', '.join(arrays) or 'none'}",
            next="save it with the inputs' names: "
            f"numpy.savez(path, {', '.join(f'{name}=…' for name in names)})",
        )
    return {name: arrays[name] for name in names}


def _from_file(module: nn.Module, path: Path, known: Example | None) -> Example:
    arrays = read_arrays(path)
    names = list(known.tensors) if known else _required(module, arrays)
    tensors = {}
    for name, array in choose_arrays(path, arrays, names).items():
        tensor = dtypes.from_numpy(name, array)
        if known:
            tensor = _as(path, name, tensor, known.tensors[name].dtype)
        elif tensor.dtype == torch.float64:
            # What NumPy makes without being told otherwise.
            tensor = tensor.to(next((p.dtype for p in module.parameters()), torch.float32))
        tensors[name] = tensor
    rows = {tensor.shape[0] for tensor in tensors.values() if tensor.dim()}
    if len(rows) == 1 and rows.pop() > FILE_ROWS_MAX:
        tensors = {name: tensor[:FILE_ROWS_MAX] for name, tensor in tensors.items()}
    return Example(
        tensors,
        str(path),
        known.constants if known else {},
        known.declared if known else None,
        given=True,
    )


def _required(module: nn.Module, arrays: dict[str, np.ndarray]) -> list[str]:
    """The parameters that the file has, and those that have no default."""
    if original.varargs(module):
        return list(arrays)
    own = inspect.signature(module.forward).parameters
    names = original.parameters(module)
    needed = [n for n in names if n in arrays or own[n].default is inspect.Parameter.empty]
    return needed or names[:1]


def _as(path: Path, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if tensor.dtype.is_floating_point and not dtype.is_floating_point:
        refuse(
            f"{path} has {name} as {tensor.dtype}, and the module takes {dtype}",
            next=f"save whole numbers: {name}.astype(...)",
        )
    return tensor.to(dtype)


def _run(call: Original, inputs: Tensors, what: str, example: Example) -> Tensors:
    try:
        return call(inputs)
    except Refused:
        raise
    except Exception as error:
        at = place_of(traceback.extract_tb(error.__traceback__))
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        way = f"say what forward takes: {FLAG}, or give real samples: --samples FILE.npz"
        if example.given:
            way = "correct the samples, or say what forward takes: " + FLAG
        refuse(
            f"{what} ({shapes})" + (f" at {at}" if at else ""),
            next=way,
            cause=error,
        )


def _axes(call: Original, example: Example, reporter: Reporter) -> dict[str, list[int]]:
    """Per input the axes that vary: those declared, else the batch where the module takes others."""
    tensors = example.tensors
    if example.declared is not None:
        for batch in OTHER_BATCHES:
            resized = _resize(tensors, example.declared, batch, OTHER_VARYING)
            _run(call, resized, "forward does not take every size that --input allows", example)
        return example.declared
    fixed: dict[str, list[int]] = {name: [] for name in tensors}
    if len({tensor.shape[0] if tensor.dim() else None for tensor in tensors.values()}) != 1:
        return fixed
    if any(tensor.dim() == 0 for tensor in tensors.values()):
        return fixed
    axes = {name: [BATCH] for name in tensors}
    try:
        for batch in OTHER_BATCHES:
            call(_resize(tensors, axes, batch, None))
    except Refused:
        raise
    except Exception:
        size = next(iter(tensors.values())).shape[0]
        reporter.warning(
            f"the module takes only {size} rows at a time, as {example.source} has: the batch is fixed"
        )
        return fixed
    return axes


def _resize(inputs: Tensors, axes: dict[str, list[int]], batch: int, varying: int | None) -> Tensors:
    """The inputs with another batch, and another size of every other axis that varies."""

    def resized(name: str, tensor: torch.Tensor) -> torch.Tensor:
        for axis in axes[name]:
            size = batch if axis == BATCH else varying
            if size is not None:
                tensor = tensor.index_select(axis, torch.arange(size) % max(tensor.shape[axis], 1))
        return tensor

    return {name: resized(name, tensor) for name, tensor in inputs.items()}


def _golden_inputs(call: Original, example: Example, axes: dict[str, list[int]]) -> Tensors:
    if example.given:
        return example.tensors
    generator = _Values(call.module)
    # What was declared is generated already.
    real_rows = 0 if example.declared is not None else EXAMPLE_ROWS_MAX
    golden = {}
    for name, tensor in example.tensors.items():
        if BATCH not in axes[name]:
            golden[name] = generator.like(name, tensor)
            continue
        real = tensor[:real_rows]
        more = generator.like(name, tensor, rows=ROWS - len(real))
        golden[name] = torch.cat([real, more])
    return golden


def _changed(outputs: Tensors, others: list[Tensors]) -> dict[str, list[int]]:
    """Per output the axes whose size was not always the same."""
    axes = {}
    for name, tensor in outputs.items():
        shapes = [tensor.shape] + [other[name].shape for other in others if name in other]
        if any(len(shape) != len(shapes[0]) for shape in shapes):
            refuse(
                f"the output {name} has not always the same number of dimensions",
                next="return tensors of one rank from forward",
            )
        axes[name] = [axis for axis, sizes in enumerate(zip(*shapes)) if len(set(sizes)) > 1]
    return axes


def _specs(tensors: Tensors, axes: dict[str, list[int]]) -> list[dict]:
    return [
        {
            "name": name,
            "datatype": dtypes.name_of(name, tensor),
            "shape": [-1 if axis in axes[name] else size for axis, size in enumerate(tensor.shape)],
        }
        for name, tensor in tensors.items()
    ]


class _Values:
    """Random values like those that the module takes, the same in every run."""

    def __init__(self, module: nn.Module) -> None:
        self._random = torch.Generator().manual_seed(SEED)
        # An index must be one of every table that it might go into.
        tables = [m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)]
        self._indices = min(tables, default=2)

    def like(self, name: str, example: torch.Tensor, rows: int | None = None) -> torch.Tensor:
        shape = list(example.shape) if rows is None else [rows, *example.shape[1:]]
        low, high = (0.0, 0.0)
        if example.numel():
            low, high = float(example.min()), float(example.max())
        dtype = example.dtype
        if dtype == torch.bool or not dtype.is_floating_point:
            if low == high != 0 or (low == high and "mask" in name):
                # A mask, a length: a number that has a meaning.
                return torch.full(shape, int(low) or 1).to(dtype)
            top = int(high) if low != high else (1 if dtype == torch.bool else self._indices - 1)
            return torch.randint(int(low), top + 1, shape, generator=self._random).to(dtype)
        if low == high:
            return torch.randn(shape, generator=self._random).to(dtype)
        return (torch.rand(shape, generator=self._random) * (high - low) + low).to(dtype)
