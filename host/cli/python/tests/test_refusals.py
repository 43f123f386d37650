"""What cannot be imported: one message that says what to do."""

from __future__ import annotations

import unittest
from unittest import mock

import numpy as np
import torch

from dunlin_import import environment

from .support import MODELS, ImportTest, models


class TheModule(ImportTest):
    def test_the_wrong_name(self) -> None:
        path = self.checkpoint(models.Tuple())
        table = [
            ("Tuple", "is not FILE:CLASS"),
            (f"{self.folder}/train.py:Tuple", "there is no file"),
            ("no.such.module:Tuple", "there is no Python module"),
            (f"{MODELS}:Tupel", "has no class Tupel"),
            (f"{MODELS}:Tupel", "models.py has Ranker, Base"),
            (f"{MODELS}:NotLightning", "is no LightningModule"),
            (f"{MODELS}:Ranker", "needs words, which the checkpoint does not hold"),
            (f"{MODELS}:Sequence", "are not those of Sequence"),
        ]
        for module, message in table:
            with self.subTest(module=module, message=message):
                self.refused(path, message, module=module)

    def test_a_file_that_cannot_be_imported(self) -> None:
        path = self.checkpoint(models.Tuple())
        table = [
            ("import sklaern_of_mine", "needs the Python package sklaern_of_mine", "environment"),
            ("import sys; sys.exit(3)", "ended the process", "input"),
            ("1 / 0", "ZeroDivisionError", "input"),
            ("def f(:", "SyntaxError", "input"),
        ]
        for number, (source, message, kind) in enumerate(table):
            with self.subTest(source=source):
                file = self.folder / f"train{number}.py"
                file.write_text(source)
                document = self.refused(path, message, module=f"{file}:Model")
                self.assertEqual(document["kind"], kind)

    def test_the_pip_name_is_that_of_the_package(self) -> None:
        self.assertTrue(environment.pip_install("sklearn").endswith("pip install scikit-learn"))

    def test_a_python_without_the_packages(self) -> None:
        path = self.checkpoint(models.Tuple())
        lacking = {"torch", "lightning", "pytorch_lightning", "onnx"}
        with mock.patch.object(environment, "present", lambda name: name not in lacking):
            self.refused(path, "has no torch and no lightning and no onnx",
                         "pip install torch lightning onnx")
            self.refused(path, "has no torch and no lightning\"", routes=["torchscript"])

    def test_a_constructor_that_needs_what_the_checkpoint_lacks(self) -> None:
        self.refused(models.NeedsArgument(3), "NeedsArgument needs width", "--set width=VALUE",
                     "save_hyperparameters")
        self.refused(models.NeedsArgument(3), "are not those", arguments={"width": 4})


class TheCheckpoint(ImportTest):
    def check(self, content: object, *parts: str) -> None:
        path = self.folder / "Tuple.ckpt"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        self.refused(path, *parts)

    def test_no_checkpoint(self) -> None:
        self.refused(self.folder / "Tuple.ckpt", "there is no file")
        self.check(b"weights", "is no PyTorch checkpoint, or is damaged")
        self.check(models.Tuple().state_dict(), "it holds bare weights")
        self.check({"epoch": 3}, "is no Lightning checkpoint")
        self.check([1, 2], "is no Lightning checkpoint: it holds list")
        whole = self.checkpoint(models.Tuple()).read_bytes()
        self.check(whole[: len(whole) // 2], "is no PyTorch checkpoint, or is damaged")

    def test_a_pickle_that_would_run_code(self) -> None:
        class Evil:
            def __reduce__(self):
                return (exec, ("raise SystemExit('the pickle ran')",))

        self.check({"state_dict": {}, "hyper_parameters": Evil()}, "would run code", "--trust",
                   "exec")
        model = models.PickledSettings(models.Settings(2))
        self.refused(model, "holds more than weights", "models.Settings", "--trust")


class TheInputs(ImportTest):
    def test_nothing_says_what_forward_takes(self) -> None:
        self.refused(models.NoExample(), "has no example_input_array", "--input", "measures")

    def test_inputs_that_forward_does_not_take(self) -> None:
        spec = {"name": "pixels", "datatype": "FP32", "shape": [-1, 4]}
        self.refused(models.NoExample(), "--input names pixels", "measures", inputs=[spec])
        wrong = spec | {"name": "measures", "shape": [-1, 5]}
        self.refused(models.NoExample(), "forward", "measures [", inputs=[wrong])
        text = spec | {"name": "measures", "datatype": "BYTES"}
        self.refused(models.NoExample(), "BYTES is no datatype", inputs=[text])
        varying = spec | {"name": "measures", "shape": [-1, -1]}
        self.refused(models.NoExample(), "forward", inputs=[varying])

    def test_samples_that_do_not_fit(self) -> None:
        file = self.folder / "samples.npz"
        self.refused(models.NoExample(), "there is no file", samples=str(file))
        file.write_bytes(b"numbers")
        self.refused(models.NoExample(), "is no .npz file", samples=str(file))
        np.savez(file, a=np.zeros((2, 4)), b=np.zeros((2, 4)))
        self.refused(models.NoExample(), "has no array measures; it has a, b", samples=str(file))
        np.savez(file, measures=np.zeros((2, 5), dtype=np.float32))
        self.refused(models.NoExample(), "forward failed", "measures [2, 5]", samples=str(file))
        np.savez(file, measures=np.array([object()]))
        self.refused(models.NoExample(), "is no .npz file of numbers", samples=str(file))

    def test_forward_fails(self) -> None:
        self.refused(models.Breaks(), "forward failed on example_input_array", "models.py:",
                     "torch.zeros(5, 5)")


class TheAnswer(ImportTest):
    def test_what_is_no_tensor(self) -> None:
        self.refused(models.Text(), "forward returns str")
        self.refused(models.Nested(), "forward returns list as hidden")

    def test_random_answers(self) -> None:
        self.refused(models.Random(), "differently from one call to the next")


class TheExport(ImportTest):
    def test_control_flow_that_depends_on_data(self) -> None:
        self.refused(models.Branch(), "depends on the data", "models.py:",
                     "if measures.sum() > 0", "--via torchscript", routes=["onnx"])
        self.refused(models.UnscriptableBranch(), "depends on the data", "torch.where",
                     routes=["torchscript"])

    def test_neither_traced_nor_scripted(self) -> None:
        for routes in (["onnx"], ["torchscript"]):
            document = self.refused(models.NeitherWay(), "--via", routes=routes)
            self.assertLess(len(document["message"]), 700)

    def test_an_export_that_differs(self) -> None:
        for routes in (["onnx"], ["torchscript"]):
            self.refused(models.BatchInPython(), "does not answer as the module", "output[",
                         routes=routes)


if __name__ == "__main__":
    unittest.main()
