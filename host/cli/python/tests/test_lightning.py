"""Models that can be imported: what is written answers as the module does."""

from __future__ import annotations

import unittest

import lightning as L
import numpy as np
import torch
from safetensors.numpy import load_file
from torch.utils.data import DataLoader, TensorDataset

from .support import REPOSITORY, ImportTest, models

DIGITS = REPOSITORY / "predictors/digits"


class Digits(ImportTest):
    """The real model of the repository."""

    def setUp(self) -> None:
        super().setUp()
        self.result = self.run_import(
            DIGITS / "models/digits.ckpt", module=f"{DIGITS / 'train.py'}:DigitsModel"
        )

    def test_the_signature(self) -> None:
        self.assertEqual(
            self.result["inputs"], [{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
        )
        self.assertEqual(
            self.result["outputs"], [{"name": "output", "datatype": "FP32", "shape": [-1, 10]}]
        )
        self.assertEqual([route["how"][:6] for route in self.result["routes"]], ["torch.", "script"])
        for route in self.result["routes"]:
            self.assertLess(route["difference"]["absolute"], 1e-4)
            self.assertTrue(route["checked_by"])

    def test_both_files_answer_the_held_out_set_as_the_module(self) -> None:
        held_out = load_file(DIGITS / "models/heldout.safetensors")
        pixels = held_out["pixels"].astype(np.float32)[:, None]
        onnx = self.run_onnx({"pixels": pixels})["output"]
        script = self.run_torchscript(pixels).numpy()
        for logits in (onnx, script):
            np.testing.assert_array_equal(logits.argmax(axis=1), held_out["predicted"])
        one = self.run_onnx({"pixels": pixels[:1]})["output"]
        np.testing.assert_allclose(one, onnx[:1], atol=1e-4)

    def test_the_golden_samples_are_the_modules_answers(self) -> None:
        golden = self.golden()
        self.assertEqual(golden["input.pixels"].shape, (8, 1, 8, 8))
        script = self.run_torchscript(golden["input.pixels"]).numpy()
        np.testing.assert_allclose(golden["output.output"], script, atol=1e-5)
        # Rows that are all alike would check nothing.
        self.assertGreater(np.ptp(golden["output.output"], axis=0).min(), 0)

    def test_the_same_import_makes_the_same_samples(self) -> None:
        before = (self.folder / "golden.safetensors").read_bytes()
        self.setUp()
        self.assertEqual((self.folder / "golden.safetensors").read_bytes(), before)


class SeveralInputs(ImportTest):
    def test_a_trained_model_with_hyper_parameters(self) -> None:
        L.seed_everything(0)
        rows = TensorDataset(
            torch.randint(0, 30, (16, 5)), torch.rand(16, 3), torch.randint(0, 4, (16,))
        )
        trainer = L.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, default_root_dir=self.folder,
            enable_progress_bar=False, enable_model_summary=False,
        )
        # 30 words: the checkpoint knows, and the class has no default for it.
        trainer.fit(models.Ranker(words=30), DataLoader(rows, batch_size=4))
        path = self.folder / "Ranker.ckpt"
        trainer.save_checkpoint(path)

        result = self.run_import(path)
        self.assertEqual(
            result["inputs"],
            [
                {"name": "words", "datatype": "INT64", "shape": [-1, 5]},
                {"name": "features", "datatype": "FP32", "shape": [-1, 3]},
            ],
        )
        self.assertEqual(
            result["outputs"],
            [
                {"name": "scores", "datatype": "FP32", "shape": [-1, 4]},
                {"name": "best", "datatype": "INT64", "shape": [-1]},
            ],
        )
        golden = self.golden()
        # An example of zeros says nothing about the range; the embedding does.
        self.assertGreater(golden["input.words"].max(), 1)
        self.assertLess(golden["input.words"].max(), 30)
        inputs = {"words": golden["input.words"], "features": golden["input.features"]}
        onnx = self.run_onnx(inputs)
        script = self.run_torchscript(*inputs.values())
        np.testing.assert_allclose(onnx["scores"], golden["output.scores"], atol=1e-5)
        np.testing.assert_array_equal(onnx["best"], golden["output.best"])
        np.testing.assert_allclose(script["scores"].numpy(), golden["output.scores"], atol=1e-5)

    def test_a_tuple_has_numbered_outputs(self) -> None:
        result = self.import_model(models.Tuple())
        self.assertEqual([out["name"] for out in result["outputs"]], ["output_0", "output_1"])
        golden = self.golden()
        difference = golden["output.output_1"] - golden["output.output_0"]
        np.testing.assert_allclose(difference, 2, atol=1e-5)

    def test_an_argument_that_is_no_tensor_is_kept_from_the_example(self) -> None:
        result = self.import_model(models.Flag())
        self.assertEqual(len(result["inputs"]), 1)
        self.assertEqual(result["routes"][1]["how"], "trace")
        golden = self.golden()
        module = models.Flag.load_from_checkpoint(self.folder / "Flag.ckpt")
        with torch.no_grad():
            doubled = module(torch.from_numpy(golden["input.measures"]), True)
        np.testing.assert_allclose(golden["output.output"], doubled.numpy(), atol=1e-5)


class Inputs(ImportTest):
    def test_declared_inputs_may_vary_in_any_dimension(self) -> None:
        inputs = [
            {"name": "mask", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "words", "datatype": "INT64", "shape": [-1, -1]},
        ]
        result = self.import_model(models.Sequence(), inputs=inputs)
        # In forward's order, which TorchScript is called in.
        self.assertEqual([spec["name"] for spec in result["inputs"]], ["words", "mask"])
        self.assertEqual(result["outputs"][0]["shape"], [-1, 6])
        words = np.arange(14, dtype=np.int64).reshape(2, 7)
        mask = np.ones((2, 7), dtype=np.float32)
        onnx = self.run_onnx({"words": words, "mask": mask})["output"]
        script = self.run_torchscript(words, mask).numpy()
        np.testing.assert_allclose(onnx, script, atol=1e-5)

    def test_samples_of_a_file_become_the_golden_inputs(self) -> None:
        # As NumPy makes them: float64.
        measures = np.linspace(0, 1, 40).reshape(10, 4)
        np.savez(self.folder / "samples.npz", measures)
        result = self.import_model(
            models.NoExample(), samples=str(self.folder / "samples.npz")
        )
        self.assertEqual(result["inputs"][0], {"name": "measures", "datatype": "FP32", "shape": [-1, 4]})
        self.assertEqual(result["rows"], 10)
        np.testing.assert_array_equal(self.golden()["input.measures"], measures.astype(np.float32))

    def test_a_module_for_one_size_of_batch_is_said_to_be_one(self) -> None:
        result = self.import_model(models.FixedBatch())
        self.assertEqual(result["inputs"][0]["shape"], [2, 4])
        self.assertEqual(result["outputs"][0]["shape"], [2, 3])
        self.assertIn("the batch is fixed", self.warnings()[0])


class Routes(ImportTest):
    def test_what_cannot_be_scripted_is_traced_and_says_why(self) -> None:
        route = self.import_model(models.Unscriptable(), routes=["torchscript"])["routes"][0]
        self.assertEqual(route["how"], "trace")
        self.assertIn("keyword-only arguments", route["why_traced"])

    def test_what_tracing_cannot_export_goes_by_dynamo_with_its_weights_beside(self) -> None:
        route = self.import_model(models.Spectrum(), routes=["onnx"])["routes"][0]
        self.assertIn("dynamo", route["how"])
        self.assertEqual(route["files"], ["model.onnx.data"])
        golden = self.golden()
        answer = self.run_onnx({"signal": golden["input.signal"]})["output"]
        np.testing.assert_allclose(answer, golden["output.output"], atol=1e-4)

    def test_a_script_keeps_control_flow(self) -> None:
        route = self.import_model(models.Branch(), routes=["torchscript"])["routes"][0]
        self.assertEqual(route["how"], "script")
        module = models.Branch.load_from_checkpoint(self.folder / "Branch.ckpt").eval()
        for sign in (-1, 1):
            measures = torch.full((1, 4), float(sign))
            with torch.no_grad():
                expected = module(measures).numpy()
            np.testing.assert_allclose(self.run_torchscript(measures.numpy()), expected, atol=1e-5)

    def test_a_frozen_branch_can_be_allowed_and_is_said(self) -> None:
        route = self.import_model(models.UnscriptableBranch(), allow_frozen=True)["routes"][1]
        self.assertEqual(route["how"], "trace")
        self.assertIn("models.py:", self.warnings()[0])

    def test_trusted_settings_are_loaded(self) -> None:
        model = models.PickledSettings(models.Settings(2))
        module = f"{models.__name__}:PickledSettings"
        result = self.run_import(self.checkpoint(model), module=module, trust=True)
        self.assertEqual(result["outputs"][0]["shape"], [-1, 2])

    def test_a_missing_argument_can_be_given(self) -> None:
        result = self.import_model(models.NeedsArgument(3), arguments={"width": 3})
        self.assertEqual(result["outputs"][0]["shape"], [-1, 3])

    def test_a_function_can_make_the_module(self) -> None:
        path = self.checkpoint(models.NeedsArgument(3))
        result = self.run_import(path, module=f"{models.__file__}:make_needs_argument")
        self.assertIn("NeedsArgument", result["reference"])


if __name__ == "__main__":
    unittest.main()
