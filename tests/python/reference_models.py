"""Write the models that the benchmark serves beside digits: ResNet-18 and a small text encoder.

Their weights are random, with a fixed seed: how long a run takes does not depend on them. The shapes
are those of the papers: He et al., "Deep Residual Learning for Image Recognition", table 1 (18
layers); Vaswani et al., "Attention Is All You Need", with 6 layers of width 384 and 12 heads, as
MiniLM has them, for 128 tokens.

    python reference_models.py FOLDER
"""

import argparse
import pathlib
import warnings

import torch
from torch import nn

OPSET = 17


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.convolutions(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """image [N, 3, 224, 224] to logits [N, 1000]."""
    blocks = []
    channels_in = 64
    for channels, stride in [(64, 1), (128, 2), (256, 2), (512, 2)]:
        blocks += [Block(channels_in, channels, stride), Block(channels, channels, 1)]
        channels_in = channels
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 1000),
    )


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
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    ids = torch.arange(128).reshape(1, 128)
    models = [
        ("resnet18", resnet18(), torch.rand(1, 3, 224, 224), "image", "logits"),
        ("encoder", Encoder(), ids, "ids", "embedding"),
    ]
    for name, model, example, taken, given in models:
        with warnings.catch_warnings(), torch.inference_mode():
            # The exporter that writes one file is announced to go.
            warnings.simplefilter("ignore")
            # Attention as plain operations, and not as the fused one that ONNX has no name for.
            torch.backends.mha.set_fastpath_enabled(False)
            path = folder / f"{name}.onnx"
            torch.onnx.export(
                model.eval(),
                (example,),
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=[taken],
                output_names=[given],
                dynamic_axes={taken: {0: "batch"}, given: {0: "batch"}},
            )
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
