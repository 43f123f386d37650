"""Lightning models that the tests import: one for each thing that an import must cope with."""

from __future__ import annotations

from typing import NamedTuple

import lightning as L
import torch
from torch import Tensor, nn


class Ranker(L.LightningModule):
    """Several inputs, of two types, and a dictionary of outputs."""

    def __init__(self, words: int, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.words = nn.Embedding(words, width)
        self.score = nn.Linear(width + 3, 4)
        self.example_input_array = {
            "words": torch.zeros(2, 5, dtype=torch.int64),
            "features": torch.rand(2, 3),
        }

    def forward(self, words: Tensor, features: Tensor) -> dict[str, Tensor]:
        hidden = torch.cat([self.words(words).mean(dim=1), features], dim=1)
        scores = self.score(hidden)
        return {"scores": scores, "best": scores.argmax(dim=1)}

    def training_step(self, batch, batch_idx: int) -> Tensor:
        words, features, labels = batch
        return nn.functional.cross_entropy(self(words, features)["scores"], labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Base(L.LightningModule):
    """Four numbers in, through one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.example_input_array = torch.randn(2, 4)


class NoExample(Base):
    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = None

    def forward(self, measures: Tensor) -> Tensor:
        return self.layer(measures)


class Pair(NamedTuple):
    low: Tensor
    high: Tensor


class Tuple(Base):
    def forward(self, measures: Tensor) -> Pair:
        answer = self.layer(measures)
        return Pair(answer - 1, answer + 1)


class Nested(Base):
    def forward(self, measures: Tensor):
        return {"hidden": [self.layer(measures)], "answer": measures}


class Text(Base):
    def forward(self, measures: Tensor):
        return "high"


class Random(Base):
    def forward(self, measures: Tensor) -> Tensor:
        return self.layer(measures) + torch.rand(3)


class Branch(Base):
    """What it does depends on the data; script keeps that, a trace cannot."""

    def forward(self, measures: Tensor) -> Tensor:
        if measures.sum() > 0:
            return self.layer(measures)
        return self.layer(-measures) * 2


class UnscriptableBranch(Base):
    """As Branch, and with what TorchScript has no form for."""

    def forward(self, measures: Tensor, **options) -> Tensor:
        if bool(measures.max() > 100):
            return self.layer(measures) * 0
        return self.layer(measures)


class Unscriptable(Base):
    def forward(self, measures: Tensor, **options) -> Tensor:
        return self.layer(measures)


class Spectrum(L.LightningModule):
    """The Fourier transform: only the dynamo exporter knows it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)
        self.example_input_array = torch.randn(2, 64)

    def forward(self, signal: Tensor) -> Tensor:
        return torch.fft.rfft(self.layer(signal)).abs()


class NeitherWay(Base):
    """Its answer leaves PyTorch on the way, so no export has it."""

    def forward(self, measures: Tensor, **options) -> Tensor:
        numbers = self.layer(measures).detach().numpy()
        return torch.tensor(numbers.round(2))


class FixedBatch(Base):
    def forward(self, measures: Tensor) -> Tensor:
        return self.layer(measures.reshape(2, 4))


class BatchInPython(Base):
    """The number of rows becomes a Python number: an export by tracing keeps that of its example."""

    def forward(self, measures: Tensor, **options) -> Tensor:
        return self.layer(measures) * float(len(measures))


class Flag(Base):
    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = (torch.randn(2, 4), True)

    def forward(self, measures: Tensor, double: bool = False) -> Tensor:
        answer = self.layer(measures)
        return answer * 2 if double else answer


class Sequence(L.LightningModule):
    """Two dimensions vary: rows and length."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        hidden = self.words(words) * mask.unsqueeze(-1)
        return hidden.sum(dim=1) / mask.sum(dim=1, keepdim=True)


class NeedsArgument(L.LightningModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, width)
        self.example_input_array = torch.randn(2, 4)

    def forward(self, measures: Tensor) -> Tensor:
        return self.layer(measures)


class Settings:
    """What a pickle can name, and only code can make."""

    def __init__(self, width: int) -> None:
        self.width = width


class PickledSettings(L.LightningModule):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(4, settings.width)
        self.example_input_array = torch.randn(2, 4)

    def forward(self, measures: Tensor) -> Tensor:
        return self.layer(measures)


class Breaks(Base):
    def forward(self, measures: Tensor) -> Tensor:
        return self.layer(measures @ torch.zeros(5, 5))


class NotLightning(nn.Module):
    def forward(self, measures: Tensor) -> Tensor:
        return measures


def make_needs_argument() -> NeedsArgument:
    return NeedsArgument(3)
