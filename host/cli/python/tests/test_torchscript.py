"""Golden samples of a TorchScript file, for a machine without libtorch."""

from __future__ import annotations

import unittest

import numpy as np

from dunlin_import.report import Refused

from .support import REPOSITORY, ImportTest

DIGITS = REPOSITORY / "predictors/digits/models/digits.pt"
PIXELS = {"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 8, 8]}


class TorchScriptFile(ImportTest):
    def test_the_outputs_are_found(self) -> None:
        result = self.run_torchscript_import(DIGITS, [PIXELS], None)
        self.assertEqual(result["inputs"], [PIXELS])
        self.assertEqual(
            result["outputs"], [{"name": "output", "datatype": "FP32", "shape": [-1, 10]}]
        )
        self.assertIn("torch", result["reference"])
        self.assertEqual(self.golden()["output.output"].shape, (8, 10))

    def test_samples_of_a_file(self) -> None:
        file = self.folder / "samples.npz"
        np.savez(file, pixels=np.ones((3, 1, 8, 8)))
        result = self.run_torchscript_import(DIGITS, [PIXELS], str(file))
        self.assertEqual(result["rows"], 3)

    def test_what_cannot_be_run(self) -> None:
        file = self.folder / "model.pt"
        file.write_bytes(DIGITS.read_bytes()[:5000])
        wrong = PIXELS | {"shape": [-1, 3, 8, 8]}
        for model, spec, message in [
            (file, PIXELS, "is no TorchScript module"),
            (self.folder / "none.pt", PIXELS, "there is no file"),
            (DIGITS, wrong, "forward failed on --input"),
        ]:
            with self.subTest(message=message), self.assertRaises(Refused) as caught:
                self.run_torchscript_import(model, [spec], None)
            self.assertIn(message, caught.exception.document["message"])


if __name__ == "__main__":
    unittest.main()
