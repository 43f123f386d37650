"""From `train.py:DigitsModel` and a Lightning checkpoint to a module with its weights.

The class comes from the user's file and runs as their own code. The checkpoint may come from
anywhere: it is read as weights only, and a pickle that would run code is refused unless it is
trusted.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pickle
import re
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from . import environment
from .report import ENVIRONMENT, NOT_FOUND, Refused, refuse


def load(path: Path, module: str, arguments: dict[str, Any], trust: bool) -> nn.Module:
    """The module with the checkpoint's weights, on the CPU, in eval mode."""
    made_by = _find(module)
    checkpoint = _read(path, trust)
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, dict):
        _not_lightning(path, checkpoint)
    if inspect.isclass(made_by):
        loaded = _by_lightning(made_by, path, checkpoint, arguments, trust)
    else:
        loaded = _by_function(made_by, module, path, weights, arguments)
    return loaded.cpu().eval()


def _find(module: str) -> Any:
    """The class, or the function, that `--module` names."""
    source, _, name = module.rpartition(":")
    if not source or not name.isidentifier():
        refuse(
            f"--module {module} is not FILE:CLASS",
            next="name the file and the class in it: --module train.py:DigitsModel",
        )
    imported = _import(source)
    found = getattr(imported, name, None)
    if inspect.isclass(found):
        if not issubclass(found, _lightning_modules()):
            refuse(
                f"{source}: {name} is no LightningModule",
                next="name the class that was trained, or a function without arguments that "
                f"makes the module; {_classes_of(imported, source)}",
            )
        return found
    if callable(found):
        return found
    refuse(
        f"{source} has no class {name}",
        next=f"correct --module; {_classes_of(imported, source)}",
        kind=NOT_FOUND,
    )


def _import(source: str) -> ModuleType:
    try:
        if source.endswith(".py"):
            return _import_file(Path(source))
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(source)
    except Refused:
        raise
    except ModuleNotFoundError as error:
        lacking = (error.name or "").partition(".")[0]
        if not source.endswith(".py") and lacking == source.partition(".")[0]:
            refuse(
                f"there is no Python module {source}",
                next="name the file, --module train.py:DigitsModel, or run in the folder that "
                "has the module",
                kind=NOT_FOUND,
                cause=error,
            )
        refuse(
            f"{source} needs the Python package {lacking}, which {sys.executable} has not",
            next=f"name the Python that trained the model, --python EXE, or install: "
            f"{environment.pip_install(lacking)}",
            kind=ENVIRONMENT,
            cause=error,
        )
    except SystemExit as error:
        refuse(
            f"{source} ended the process when it was imported",
            next='put what it runs below `if __name__ == "__main__":`',
            cause=error,
        )
    except Exception as error:
        refuse(
            f"{source} cannot be imported",
            next="correct what it does when it is imported; what it runs as a program belongs "
            'below `if __name__ == "__main__":`',
            cause=error,
        )


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        refuse(
            f"there is no file {path}",
            next="correct --module; it is FILE:CLASS, as in train.py:DigitsModel",
            kind=NOT_FOUND,
        )
    path = path.resolve()
    # In a package it has relative imports, so it needs its whole name.
    root, name = path.parent, path.stem
    while (root / "__init__.py").is_file():
        root, name = root.parent, f"{root.name}.{name}"
    sys.path.insert(0, str(root))
    if "." in name:
        return importlib.import_module(name)
    # A file may be called as a module that is there already, such as `model` or even `torch`.
    name = name if name not in sys.modules else f"user_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _lightning_modules() -> tuple[type, ...]:
    """The class LightningModule of every Lightning that is here: there are two packages of it."""
    found = []
    for package in ("lightning.pytorch", "pytorch_lightning"):
        try:
            found.append(importlib.import_module(package).LightningModule)
        except ImportError:
            continue
    return tuple(found)


def _classes_of(module: ModuleType, source: str) -> str:
    bases = _lightning_modules()
    names = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, bases) and value not in bases
    ]
    return f"{source} has {', '.join(names)}" if names else f"{source} has no LightningModule"


def _read(path: Path, trust: bool) -> dict[str, Any]:
    if not path.is_file():
        refuse(f"there is no file {path}", next="correct the path", kind=NOT_FOUND)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        _refuse_pickle(path, error)
    except Exception as error:
        # With weights_only a file that is no pickle at all ends here, too.
        refuse(
            f"{path} is no PyTorch checkpoint, or is damaged",
            next="give the .ckpt file that Lightning's Trainer saved",
            cause=error,
        )
    if not isinstance(checkpoint, dict):
        _not_lightning(path, checkpoint)
    return checkpoint


def _refuse_pickle(path: Path, error: pickle.UnpicklingError) -> None:
    names = re.findall(r"(?:GLOBAL|Unsupported global: GLOBAL|Unsupported class) ([\w.]+)", str(error))
    if not names and not zipfile.is_zipfile(path):
        refuse(
            f"{path} is no PyTorch checkpoint, or is damaged",
            next="give the .ckpt file that Lightning's Trainer saved",
            cause=error,
        )
    named = f": it names {names[0]}" if names else ""
    # The text of PyTorch is a page about its own options.
    raise Refused(
        f"{path} holds more than weights, and loading it would run code{named}",
        next="if you trust where it comes from, add --trust; better, save_hyperparameters() "
        "with plain values only, and save the checkpoint again",
    ) from error


def _not_lightning(path: Path, checkpoint: Any) -> None:
    weights = isinstance(checkpoint, dict) and any(torch.is_tensor(v) for v in checkpoint.values())
    what = "bare weights (a state_dict)" if weights else type(checkpoint).__name__
    refuse(
        f"{path} is no Lightning checkpoint: it holds {what}",
        next="save one with trainer.save_checkpoint(path)",
    )


def _by_lightning(
    made_by: Any, path: Path, checkpoint: dict[str, Any], arguments: dict[str, Any], trust: bool
) -> nn.Module:
    options = dict(arguments)
    # Older versions have no such option. What is not trusted was read as weights only by now.
    if trust and "weights_only" in inspect.signature(made_by.load_from_checkpoint).parameters:
        options["weights_only"] = False
    name = made_by.__name__
    try:
        return made_by.load_from_checkpoint(str(path), map_location="cpu", **options)
    except TypeError as error:
        missing = _missing_arguments(made_by, checkpoint, arguments)
        if missing:
            refuse(
                f"the constructor of {name} needs {', '.join(missing)}, which the checkpoint does "
                "not hold",
                next=f"give what is a number or a text: --set {missing[0]}=VALUE; or call "
                "self.save_hyperparameters() in __init__ and save the checkpoint again; or name a "
                "function that makes the module: --module FILE:FUNCTION",
                cause=error,
            )
        refuse(
            f"{name} cannot be made from the checkpoint",
            next="does --module name the class that was trained, as it was then?",
            cause=error,
        )
    except RuntimeError as error:
        _refuse_weights(name, path, error)
    except Exception as error:
        refuse(
            f"the constructor of {name} failed",
            next="does it need a file or a device that is not here? A function can make the "
            "module instead: --module FILE:FUNCTION",
            cause=error,
        )


def _missing_arguments(
    made_by: Any, checkpoint: dict[str, Any], arguments: dict[str, Any]
) -> list[str]:
    given = set(checkpoint.get("hyper_parameters") or {}) | set(arguments)
    empty = inspect.Parameter.empty
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own = list(inspect.signature(made_by.__init__).parameters.values())[1:]
    return [p.name for p in own if p.default is empty and p.kind not in kinds and p.name not in given]


def _by_function(
    made_by: Any, module: str, path: Path, weights: dict[str, Any], arguments: dict[str, Any]
) -> nn.Module:
    try:
        made = made_by(**arguments)
    except Exception as error:
        refuse(
            f"{module} failed to make the module",
            next="it must work without arguments, or with those of --set NAME=VALUE",
            cause=error,
        )
    if not isinstance(made, nn.Module):
        refuse(
            f"{module} made {type(made).__name__}, which is no module",
            next="return the LightningModule that the checkpoint was saved from",
        )
    try:
        made.load_state_dict(weights)
    except RuntimeError as error:
        _refuse_weights(module, path, error)
    return made


def _refuse_weights(name: str, path: Path, error: RuntimeError) -> None:
    refuse(
        f"the weights in {path} are not those of {name}",
        next="does --module name the class that was trained, as it was then, with the same "
        "arguments?",
        cause=error,
    )
