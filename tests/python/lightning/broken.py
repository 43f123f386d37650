"""Models that cannot be imported, or not by every route; `python broken.py FOLDER` saves them."""

import sys
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn


class Base(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.example_input_array = torch.randn(2, 4)


class Branch(Base):
    """What it does depends on the data."""

    def forward(self, measures: Tensor) -> Tensor:
        if measures.sum() > 0:
            return self.layer(measures)
        return self.layer(-measures) * 2


class Text(Base):
    def forward(self, measures: Tensor):
        return "high"


class NeedsWidth(L.LightningModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, width)
        self.example_input_array = torch.randn(2, 4)

    def forward(self, measures: Tensor) -> Tensor:
        return self.layer(measures)


class Settings:
    def __init__(self, width: int) -> None:
        self.width = width


class Pickled(L.LightningModule):
    """Its checkpoint holds an object that only code can make."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(4, settings.width)
        self.example_input_array = torch.randn(2, 4)

    def forward(self, measures: Tensor) -> Tensor:
        return self.layer(measures)


def main(folder: Path) -> None:
    for model in (Branch(), Text(), NeedsWidth(5), Pickled(Settings(5))):
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        # As in a run that has not begun to train.
        trainer.strategy.connect(model)
        trainer.save_checkpoint(folder / f"{type(model).__name__.lower()}.ckpt")


if __name__ == "__main__":
    # So that the class is pickled under the name that it is imported by.
    import broken

    broken.main(Path(sys.argv[1]))
