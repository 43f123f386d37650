"""Whether this Python has what an import needs, and the command that installs what it lacks."""

from __future__ import annotations

import importlib.util
import sys

from .report import ENVIRONMENT, refuse

# The name that is imported -> the name that pip installs, where they differ.
PIP_NAMES = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "pytorch_lightning": "pytorch-lightning",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def require(request: dict) -> None:
    """Refuses where a package is missing that the request cannot do without."""
    if sys.version_info < (3, 9):
        refuse(
            f"{sys.executable} is Python {sys.version.split()[0]}; Dunlin's helper needs 3.9 or newer",
            next="name the Python that trained the model: --python EXE",
            kind=ENVIRONMENT,
        )
    missing = [name for name in _needed(request) if not present(name)]
    if missing:
        refuse(
            f"{sys.executable} has no {' and no '.join(missing)}",
            next=f"name the Python that trained the model, --python EXE, or install: "
            f"{pip_install(*missing)}",
            kind=ENVIRONMENT,
        )


def pip_install(*modules: str) -> str:
    """The command that installs what these names are imported from."""
    names = " ".join(PIP_NAMES.get(name, name) for name in modules)
    return f"{sys.executable} -m pip install {names}"


def _needed(request: dict) -> list[str]:
    needed = ["torch", "numpy"]
    if request["task"] in ("checkpoint", "original") and not present("pytorch_lightning"):
        needed.append("lightning")
    if request["task"] == "checkpoint" and "onnx" in request["routes"]:
        needed.append("onnx")
    return needed


def platform() -> str:
    """What runs a module here: `Python 3.12.3, PyTorch 2.15.0`."""
    import torch

    # Without the build, as in 2.15.0+cpu.
    return f"Python {sys.version.split()[0]}, PyTorch {torch.__version__.partition('+')[0]}"


def present(name: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
