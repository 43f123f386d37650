"""The original module asked and timed: its answers are the golden ones."""

from __future__ import annotations

import unittest
from pathlib import Path

import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from dunlin_import import __main__ as entry
from dunlin_import import original_route
from dunlin_import.report import Refused, Reporter

from .support import MODELS, REPOSITORY, ImportTest, models

DIGITS = REPOSITORY / "predictors/digits"


class OriginalTest(ImportTest):
    def run_original(self, checkpoint: Path, golden: Path, module: str = "", **changes) -> dict:
        request = {
            "task": "original",
            "checkpoint": str(checkpoint),
            "module": module or f"{MODELS}:{checkpoint.stem}",
            "arguments": {},
            "trust": False,
            "golden": str(golden),
            "inputs": [],
            "out": str(self.folder),
            "threads": 1,
            "seconds": 0.05,
        } | changes
        return entry.run(request, Reporter(self.said))

    def answers(self) -> dict[str, torch.Tensor]:
        return original_route.read(self.folder / original_route.FILE)[1]

    def golden(self, **tensors: torch.Tensor) -> Path:
        """A file of golden samples; `input_x` is `input.x`."""
        path = self.folder / "golden.safetensors"
        save_file({name.replace("_", ".", 1): tensor for name, tensor in tensors.items()}, path)
        return path


class WhatItAnswers(OriginalTest):
    def test_digits_as_its_golden_samples(self) -> None:
        result = self.run_original(
            DIGITS / "models/digits.ckpt",
            DIGITS / "models/golden.safetensors",
            module=f"{DIGITS / 'train.py'}:DigitsModel",
        )
        expected = torch.from_numpy(load_file(DIGITS / "models/golden.safetensors")["output.logits"])
        # The file calls its output otherwise than the module, which has no name for it.
        torch.testing.assert_close(self.answers(), {"logits": expected}, rtol=1e-4, atol=1e-4)
        speed = result["speed"]
        self.assertGreaterEqual(speed["requests"], 1)
        self.assertTrue(0 < speed["p50_ms"] <= speed["p99_ms"])
        self.assertGreater(result["load_ms"], 0)
        # PyTorch alone is more.
        self.assertGreater(result["resident_bytes"], 50 << 20)
        self.assertTrue(result["single_rows"])
        self.assertRegex(result["platform"], r"^Python 3\.\d+\.\d+, PyTorch \d+\.\d+")
        self.assertTrue(any("timing for 0.05 s" in line for line in self.said.getvalue().splitlines()))

    def test_several_inputs_and_outputs_of_an_import(self) -> None:
        path = self.checkpoint(models.Ranker(words=7))
        self.run_import(path)
        expected = original_route.read(self.folder / "golden.safetensors")[1]
        self.run_original(path, self.folder / "golden.safetensors")
        torch.testing.assert_close(self.answers(), expected, rtol=0, atol=0)

    def test_inputs_of_other_names_go_by_their_order(self) -> None:
        path = self.checkpoint(models.Ranker(words=7))
        words, features = torch.tensor([[1, 2], [3, 4]]), torch.rand(2, 3)
        golden = self.golden(input_z=words, input_a=features, output_y=torch.rand(2, 1))
        self.run_original(path, golden, inputs=["z", "a"])
        self.assertEqual(self.answers()["scores"].shape, (2, 4))
        for order in ([], ["z"]):
            with self.subTest(order=order), self.assertRaises(Refused) as caught:
                self.run_original(path, golden, inputs=order)
            self.assertIn("have a, z, and forward takes words, features", str(caught.exception))

    def test_a_fixed_batch_is_timed_as_it_is(self) -> None:
        path = self.checkpoint(models.FixedBatch())
        golden = self.golden(input_measures=torch.rand(2, 4), output_y=torch.rand(2, 3))
        self.assertFalse(self.run_original(path, golden)["single_rows"])
        self.assertEqual(self.answers()["y"].shape, (2, 3))


class WhatIsRefused(OriginalTest):
    def check(self, golden: Path, message: str) -> None:
        path = self.checkpoint(models.FixedBatch())
        with self.assertRaises(Refused) as caught:
            self.run_original(path, golden)
        self.assertIn(message, str(caught.exception))
        self.assertTrue(caught.exception.document["next"], "it says what to do")

    def test_what_forward_does_not_take(self) -> None:
        golden = self.golden(input_measures=torch.rand(3, 4))
        self.check(golden, "forward failed on the golden samples (measures [3, 4])")

    def test_files_that_are_no_golden_samples(self) -> None:
        path = self.folder / "damaged.safetensors"
        golden = self.golden(input_measures=torch.rand(2, 4)).read_bytes()
        for content in (b"", b"no samples", golden[:-8], golden.replace(b'"F32"', b'"F99"')):
            with self.subTest(content=content[:20]):
                path.write_bytes(content)
                self.check(path, "has no golden samples")
        self.check(self.folder / "none", "has no golden samples")


if __name__ == "__main__":
    unittest.main()
