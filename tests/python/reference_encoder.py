"""Write the small text encoder that the benchmark serves beside digits and ResNet-18.

Its weights are random, with a fixed seed: how long a run takes does not depend on them. The shape is
that of Vaswani et al., "Attention Is All You Need", with 6 layers of width 384 and 12 heads, as MiniLM
has them, for 128 tokens.

    python reference_encoder.py FILE
"""

import argparse
import pathlib
import warnings

import torch
from torch import nn

OPSET = 17


class Encoder(nn.Module):
    """token ids [N, 128] to one vector [N, 384] of length 1."""

    def __init__(self, vocabulary: int = 30522, tokens: int = 128, width: int = 384):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(
            width, nhead=12, dim_feedforward=4 * width, activation="gelu", batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers=6, enable_nested_tensor=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.layers(self.norm(self.words(ids) + self.places))
        return nn.functional.normalize(hidden.mean(dim=1), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    path = parser.parse_args().file
    torch.manual_seed(0)
    with warnings.catch_warnings(), torch.inference_mode():
        # The exporter that writes one file is announced to go.
        warnings.simplefilter("ignore")
        # Attention as plain operations, and not as the fused one that ONNX has no name for.
        torch.backends.mha.set_fastpath_enabled(False)
        torch.onnx.export(
            Encoder().eval(),
            (torch.arange(128).reshape(1, 128),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=["ids"],
            output_names=["embedding"],
            dynamic_axes={"ids": {0: "batch"}, "embedding": {0: "batch"}},
        )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
