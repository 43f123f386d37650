"""Running an import in a folder of its own, and reading what it wrote."""

from __future__ import annotations

import io
import json
import logging
import tempfile
import unittest
import warnings
from pathlib import Path

import lightning as L
import numpy as np
import torch
from safetensors.numpy import load_file

from dunlin_import import __main__ as entry
from dunlin_import.report import Refused, Reporter

from . import models

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[3]
MODELS = HERE / "models.py"

# Lightning's advice and PyTorch's announcements say nothing about a test.
logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")


class ImportTest(unittest.TestCase):
    """A temporary folder, and imports into it."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.said = io.StringIO()

    def checkpoint(self, model: L.LightningModule) -> Path:
        """As a Trainer saves it that has not trained."""
        torch.manual_seed(1)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        path = self.folder / f"{type(model).__name__}.ckpt"
        trainer = L.Trainer(
            logger=False, enable_checkpointing=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False,
        )
        trainer.strategy.connect(model)
        trainer.save_checkpoint(path, weights_only=True)
        return path

    def run_import(self, checkpoint: Path, module: str = "", **changes) -> dict:
        """The result of importing it, by both routes unless `changes` say otherwise."""
        request = {
            "task": "checkpoint",
            "checkpoint": str(checkpoint),
            "module": module or f"{MODELS}:{checkpoint.stem}",
            "routes": ["onnx", "torchscript"],
            "name": "model",
            "out": str(self.folder),
            "inputs": [],
            "samples": None,
            "trust": False,
            "arguments": {},
            "allow_frozen": False,
            "tolerance": {"relative": 1e-4, "absolute": 1e-4},
        } | changes
        return entry.run(request, Reporter(self.said))

    def run_torchscript_import(self, model: Path, inputs: list[dict], samples: str | None) -> dict:
        """The result of making golden samples for a TorchScript file."""
        request = {
            "task": "torchscript",
            "model": str(model),
            "inputs": inputs,
            "samples": samples,
            "out": str(self.folder),
        }
        return entry.run(request, Reporter(self.said))

    def import_model(self, model: L.LightningModule, **changes) -> dict:
        return self.run_import(self.checkpoint(model), **changes)

    def refused(self, model: L.LightningModule | Path, *parts: str, **changes) -> dict:
        """What the import is refused with; it must say all the parts."""
        path = model if isinstance(model, Path) else self.checkpoint(model)
        with self.assertRaises(Refused) as caught:
            self.run_import(path, **changes)
        document = caught.exception.document
        text = json.dumps(document, ensure_ascii=False)
        for part in parts:
            self.assertIn(part, text)
        self.assertTrue(document["next"], "it says what to do")
        self.assertNotIn("Traceback", text)
        return document

    def warnings(self) -> list[str]:
        lines = map(json.loads, self.said.getvalue().splitlines())
        return [line["warning"] for line in lines if "warning" in line]

    def golden(self) -> dict[str, np.ndarray]:
        return load_file(self.folder / "golden.safetensors")

    def run_onnx(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(self.folder / "model.onnx"))
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs)))

    def run_torchscript(self, *inputs: np.ndarray):
        module = torch.jit.load(str(self.folder / "model.pt"))
        with torch.no_grad():
            return module(*map(torch.from_numpy, inputs))


__all__ = ["HERE", "MODELS", "REPOSITORY", "ImportTest", "models"]
