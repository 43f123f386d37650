"""Reads the request, does it, and answers in one of the ways that `report` names."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from pathlib import Path

from . import report
from .report import Refused, Reporter


def main() -> int:
    reporter = Reporter.take_standard_output()
    # Exports run on the CPU, where the answers are compared; a GPU would only be slower to start.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    try:
        request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        reporter.result(run(request, reporter))
    except Refused as refused:
        traceback.print_exc()
        reporter.refused(refused)
        return 1
    except MemoryError as error:
        traceback.print_exc()
        reporter.refused(
            Refused(
                "there is not enough memory for the model",
                next="use a machine with more memory",
                cause=report.one_line(error),
            )
        )
        return 1
    return 0


def run(request: dict, reporter: Reporter) -> dict:
    """Does what the request asks. Without the packages it needs, it refuses before anything else."""
    reporter.step("starting PyTorch")
    from . import environment

    environment.require(request)
    # PyTorch announces the end of the exporters that are meant here.
    for category in (DeprecationWarning, FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category)
    if request["task"] == "checkpoint":
        from . import lightning_import

        return lightning_import.run(request, reporter)
    if request["task"] == "original":
        from . import original_route

        return original_route.run(request, reporter)
    from . import torchscript_import

    return torchscript_import.run(request, reporter)


if __name__ == "__main__":
    # Not `sys.exit`: what the user's code left running, a thread or an exit hook, ends with us.
    code = main()
    sys.stderr.flush()
    os._exit(code)
