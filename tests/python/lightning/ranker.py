"""A Lightning model that is not one of Dunlin's predictors: the import must know nothing of it.

    python ranker.py FOLDER        # trains for a moment, writes FOLDER/ranker.ckpt and answers.json

It ranks by words and by two features, so it has two inputs of two types, and it answers with a
dictionary.
"""

import json
import sys
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Ranker(L.LightningModule):
    def __init__(self, words: int, width: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.words = nn.Embedding(words, width)
        self.hidden = nn.Sequential(nn.Linear(width + 2, 32), nn.GELU(), nn.Dropout(0.2))
        self.score = nn.Linear(32, 3)
        self.example_input_array = {
            "words": torch.zeros(1, 6, dtype=torch.int64),
            "features": torch.zeros(1, 2),
        }

    def forward(self, words: Tensor, features: Tensor) -> dict[str, Tensor]:
        mixed = torch.cat([self.words(words).mean(dim=1), features], dim=1)
        scores = self.score(self.hidden(mixed)).softmax(dim=1)
        return {"scores": scores, "best": scores.argmax(dim=1)}

    def training_step(self, batch, batch_idx: int) -> Tensor:
        words, features, ranks = batch
        return nn.functional.nll_loss(self(words, features)["scores"].log(), ranks)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def rows(count: int) -> TensorDataset:
    words = torch.randint(0, 50, (count, 6))
    features = torch.rand(count, 2)
    ranks = (features.sum(dim=1) + (words > 25).float().mean(dim=1)).long().clamp(0, 2)
    return TensorDataset(words, features, ranks)


def main(folder: Path) -> None:
    L.seed_everything(0)
    model = Ranker(words=50)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, DataLoader(rows(256), batch_size=32))
    trainer.save_checkpoint(folder / "ranker.ckpt")

    words, features, _ = rows(20)[:]
    with torch.no_grad():
        answer = model.eval()(words, features)
    document = {
        "inputs": {"words": words.tolist(), "features": features.tolist()},
        "outputs": {name: tensor.tolist() for name, tensor in answer.items()},
    }
    (folder / "answers.json").write_text(json.dumps(document))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
