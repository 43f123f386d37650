"""Element types: the protocol's names, and what PyTorch, NumPy and safetensors call them."""

from __future__ import annotations

import numpy as np
import torch

from .report import refuse

# Open Inference Protocol -> (PyTorch, safetensors).
_NAMES = {
    "BOOL": (torch.bool, "BOOL"),
    "UINT8": (torch.uint8, "U8"),
    "INT8": (torch.int8, "I8"),
    "INT16": (torch.int16, "I16"),
    "INT32": (torch.int32, "I32"),
    "INT64": (torch.int64, "I64"),
    "FP16": (torch.float16, "F16"),
    "BF16": (torch.bfloat16, "BF16"),
    "FP32": (torch.float32, "F32"),
    "FP64": (torch.float64, "F64"),
}
_OF_TORCH = {dtype: (name, file_name) for name, (dtype, file_name) in _NAMES.items()}
_OF_FILE = {file_name: dtype for dtype, file_name in _NAMES.values()}


def torch_of(name: str) -> torch.dtype:
    """`FP32` -> torch.float32."""
    if name not in _NAMES:
        refuse(
            f"{name} is no datatype that PyTorch and the protocol both have",
            next=f"write one of {', '.join(_NAMES)}",
        )
    return _NAMES[name][0]


def torch_of_file(name: str) -> torch.dtype:
    """The type that a safetensors header names: `F32` -> torch.float32. KeyError for others."""
    return _OF_FILE[name]


def name_of(what: str, tensor: torch.Tensor) -> str:
    """The protocol's name of a tensor's type. `what` names the tensor in the refusal."""
    return _known(what, tensor)[0]


def file_name_of(what: str, tensor: torch.Tensor) -> str:
    """The name in a safetensors header."""
    return _known(what, tensor)[1]


def bytes_of(tensor: torch.Tensor) -> bytes:
    """Row-major little-endian data."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        # NumPy has no such type; the bits are what matters.
        tensor = tensor.view(torch.int16)
    array = tensor.numpy()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def from_numpy(name: str, array: np.ndarray) -> torch.Tensor:
    """A tensor of an array that a file holds."""
    try:
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    except TypeError as error:
        refuse(
            f"{name} has elements of type {array.dtype}, which PyTorch has not",
            next="save it as numbers or booleans",
            cause=error,
        )


def _known(what: str, tensor: torch.Tensor) -> tuple[str, str]:
    if tensor.is_sparse or tensor.is_quantized or tensor.dtype not in _OF_TORCH:
        refuse(
            f"{what} is a tensor of {tensor.dtype}, {tensor.layout}, which no request can carry",
            next=f"return a dense tensor of {', '.join(_NAMES)}",
        )
    return _OF_TORCH[tensor.dtype]
