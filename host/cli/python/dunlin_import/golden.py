"""Writes golden samples: inputs, and what the original module made of them.

The file is safetensors: the length of a JSON header as eight little-endian bytes, the header,
the tensors' bytes. It is little enough to write here, so that the user's Python needs no package
for it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from . import dtypes

FILE = "golden.safetensors"


def write(path: Path, inputs: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> None:
    """Writes `input.<name>` and `output.<name>` for every tensor."""
    tensors = {f"input.{name}": tensor for name, tensor in inputs.items()}
    tensors |= {f"output.{name}": tensor for name, tensor in outputs.items()}
    # The largest alignment first, as the format's own writer does.
    order = sorted(tensors, key=lambda key: (-tensors[key].element_size(), key))
    header: dict[str, object] = {}
    offset = 0
    for key in order:
        tensor = tensors[key]
        end = offset + tensor.element_size() * tensor.numel()
        header[key] = {
            "dtype": dtypes.file_name_of(key, tensor),
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for key in order:
            file.write(dtypes.bytes_of(tensors[key]))
