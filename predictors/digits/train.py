"""Trains the digits classifier, exports it by Lightning's three routes, and checks the result.

    python train.py                # trains and writes models/ and samples/
    python train.py --check        # verifies the files that are there

The data are the 1,797 handwritten digits that scikit-learn carries, so nothing is downloaded.
README.md beside this file says what each written file is.
"""

import argparse
import sys
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import lightning as L
import numpy as np
import onnxruntime
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

HERE = Path(__file__).resolve().parent

# The split never moves with --seed: accuracies of different seeds are measured on the same rows.
SPLIT_SEED = 0
HELD_OUT_SHARE = 0.3

GOLDEN_ROWS = 32
OPSET = 17
TOLERANCE = 1e-4

# File name -> the digit it shows, the first of its kind in the held-out part.
SAMPLES = {"seven.png": 7, "three.jpg": 3}
SAMPLE_SCALE = 20


class DigitsData(L.LightningDataModule):
    """scikit-learn's digits, split once and for all into a training and a held-out part."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size
        digits = load_digits()
        pixels = torch.from_numpy(digits.images).float().unsqueeze(1)
        labels = torch.from_numpy(digits.target).long()
        train, held_out = train_test_split(
            np.arange(len(labels)),
            test_size=HELD_OUT_SHARE,
            stratify=digits.target,
            random_state=SPLIT_SEED,
        )
        self.train = TensorDataset(pixels[train], labels[train])
        self.held_out = TensorDataset(pixels[held_out], labels[held_out])

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.held_out, batch_size=len(self.held_out))


class DigitsModel(L.LightningModule):
    """A small CNN: raw pixels (0-16) `[batch, 1, 8, 8]` in, `[batch, 10]` logits out."""

    def __init__(self, learning_rate: float = 5e-3, dropout: float = 0.5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.example_input_array = torch.zeros(2, 1, 8, 8)
        self.network = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        # Scaled here and not by the caller: every exported file then takes the same raw pixels.
        return self.network(pixels / 16.0)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        pixels, labels = batch
        loss = F.cross_entropy(self(pixels), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pixels, labels = batch
        logits = self(pixels)
        self.log("test_loss", F.cross_entropy(logits, labels))
        self.log("test_accuracy", (logits.argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.learning_rate)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.hparams.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def train(epochs: int, seed: int, models: Path, samples: Path) -> None:
    """Trains, tests on the held-out part, and writes every file."""
    L.seed_everything(seed, workers=True)
    data = DigitsData()
    model = DigitsModel()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        deterministic=True,
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data)
    model.eval()

    models.mkdir(parents=True, exist_ok=True)
    # The optimizer's state, two thirds of a full file, is not needed to load the model.
    trainer.save_checkpoint(models / "digits.ckpt", weights_only=True)
    export_onnx(model, models / "digits.onnx")
    export_torchscript(model, models / "digits.pt")
    write_golden(model, data, models / "golden.safetensors")
    write_held_out(model, data, models / "heldout.safetensors")
    write_samples(data, samples)


def export_onnx(model: DigitsModel, path: Path) -> None:
    # The exporter that traces: it keeps the weights inside the one file.
    model.to_onnx(
        path,
        dynamo=False,
        opset_version=OPSET,
        input_names=["pixels"],
        output_names=["logits"],
        dynamic_axes={"pixels": {0: "batch"}, "logits": {0: "batch"}},
    )


def export_torchscript(model: DigitsModel, path: Path) -> None:
    """Writes the traced module without its debug records, and without the digest over them.

    The records hold the absolute paths and the source lines of this machine's Python files. Only
    stack traces need them, and the same training on two machines would write two files.
    Traced, because nothing in `forward` depends on the values and a scripted module carries
    the LightningModule's own attributes along.
    """
    traced = BytesIO()
    torch.jit.save(model.to_torchscript(method="trace"), traced)
    with zipfile.ZipFile(traced) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith((".debug_pkl", "/serialization_id")):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))


@torch.no_grad()
def write_golden(model: DigitsModel, data: DigitsData, path: Path) -> None:
    pixels, _ = data.held_out[:GOLDEN_ROWS]
    save_file({"input.pixels": pixels.numpy(), "output.logits": model(pixels).numpy()}, path)


@torch.no_grad()
def write_held_out(model: DigitsModel, data: DigitsData, path: Path) -> None:
    pixels, labels = data.held_out[:]
    predicted = model(pixels).argmax(dim=1)
    accuracy = float((predicted == labels).double().mean())
    tensors = {
        "pixels": pixels.squeeze(1).to(torch.uint8).numpy(),
        "labels": labels.to(torch.uint8).numpy(),
        "predicted": predicted.to(torch.uint8).numpy(),
    }
    # One key: the writer gives several no fixed order. Its values are strings.
    save_file(tensors, path, metadata={"accuracy": f"{accuracy:.6f}"})


def write_samples(data: DigitsData, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = data.held_out[:]
    for name, digit in SAMPLES.items():
        row = int((labels == digit).nonzero()[0])
        grey = (pixels[row, 0] * 255 / 16).round().to(torch.uint8).numpy()
        image = Image.fromarray(grey)
        # Nearest, by a whole factor: the mean of each block is the grey that was put in.
        image = image.resize((8 * SAMPLE_SCALE, 8 * SAMPLE_SCALE), Image.Resampling.NEAREST)
        options = {"quality": 95} if name.endswith(".jpg") else {"optimize": True}
        image.save(folder / name, **options)


def check(models: Path, samples: Path) -> list[str]:
    """Compares the files with each other and with the data; returns what is wrong."""
    data = DigitsData()
    pixels, labels = (tensor.numpy() for tensor in data.held_out[:])
    forms = load_forms(models)
    reference = forms["checkpoint"](pixels)
    predicted = reference.argmax(axis=1)
    problems = []

    print(f"{'form':<14}{'accuracy':>10}{'correct':>12}{'largest difference':>21}")
    for name, run in forms.items():
        logits = run(pixels)
        difference = float(np.abs(logits - reference).max())
        correct = int((logits.argmax(axis=1) == labels).sum())
        share = f"{correct} / {len(labels)}"
        print(f"{name:<14}{correct / len(labels):>10.4f}{share:>12}{difference:>21.2e}")
        # Written so that NaN fails, too.
        if not difference <= TOLERANCE:
            problems.append(f"{name} differs from the checkpoint by {difference:.2e}")
        if not np.abs(run(pixels[:1]) - logits[:1]).max() <= TOLERANCE:
            problems.append(f"{name} answers a row alone differently from the same row in a batch")

    with safe_open(models / "golden.safetensors", "np") as golden:
        if not np.array_equal(golden.get_tensor("input.pixels"), pixels[:GOLDEN_ROWS]):
            problems.append("golden.safetensors does not hold the first held-out rows")
        difference = np.abs(golden.get_tensor("output.logits") - reference[:GOLDEN_ROWS]).max()
        if not difference <= TOLERANCE:
            problems.append(f"golden.safetensors differs from the checkpoint by {difference:.2e}")

    with safe_open(models / "heldout.safetensors", "np") as held_out:
        expected = {"pixels": pixels[:, 0], "labels": labels, "predicted": predicted}
        for name, values in expected.items():
            if not np.array_equal(held_out.get_tensor(name), values):
                problems.append(f"heldout.safetensors: {name} is not what the data and model give")
        recorded = held_out.metadata()["accuracy"]
        if recorded != f"{(predicted == labels).mean():.6f}":
            problems.append(f"heldout.safetensors: accuracy {recorded} is not what the model gives")

    for name, digit in SAMPLES.items():
        image = Image.open(samples / name).convert("L").reduce(SAMPLE_SCALE)
        seen = np.array(image, dtype=np.float32) * 16 / 255
        row = int((labels == digit).nonzero()[0][0])
        if name.endswith(".png") and not np.array_equal(seen.round(), pixels[row, 0]):
            problems.append(f"{name} does not scale back to its pixels")
        answer = forms["checkpoint"](seen.reshape(1, 1, 8, 8)).argmax()
        print(f"{name:<14}is seen as {answer}")
        if answer != digit:
            problems.append(f"{name} is seen as {answer}")
    return problems


def load_forms(models: Path) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Pixels to logits by each of the three files; the checkpoint comes first."""
    checkpoint = DigitsModel.load_from_checkpoint(models / "digits.ckpt", map_location="cpu").eval()
    script = torch.jit.load(models / "digits.pt", map_location="cpu")
    session = onnxruntime.InferenceSession(
        models / "digits.onnx", providers=["CPUExecutionProvider"]
    )

    def run_torch(module: nn.Module, pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(pixels)).numpy()

    return {
        "checkpoint": partial(run_torch, checkpoint),
        "onnx": lambda pixels: session.run(["logits"], {"pixels": pixels})[0],
        "torchscript": partial(run_torch, script),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Train, export and check the digits classifier.")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=HERE, help="folder that gets models/ and samples/"
    )
    parser.add_argument(
        "--check", action="store_true", help="verify the files in --out instead of training"
    )
    arguments = parser.parse_args()
    models, samples = arguments.out / "models", arguments.out / "samples"

    # PyTorch announces the end of to_onnx(dynamo=False) and of TorchScript; both are meant here.
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category)
    # One thread: a sum that is split over cores ends in other last bits on another machine.
    torch.set_num_threads(1)

    if not arguments.check:
        train(arguments.epochs, arguments.seed, models, samples)
    problems = check(models, samples)
    for problem in problems:
        print(f"wrong: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
