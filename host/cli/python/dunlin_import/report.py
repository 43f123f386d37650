"""What is said to `dunlin`: one JSON document a line, on the standard output that we were given.

Documents are `{"step": text}`, `{"warning": text}`, and at the end either `{"result": …}` or
`{"refused": {"kind", "message", "cause", "next"}}`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn, TextIO

# Kinds of refusal; `dunlin` gives each an exit code.
ENVIRONMENT = "environment"
NOT_FOUND = "not_found"
INPUT = "input"


class Refused(Exception):
    """The import cannot go on, for a reason that the user can act on."""

    def __init__(self, message: str, *, next: str, kind: str = INPUT, cause: str = "") -> None:
        super().__init__(message)
        self.document = {"kind": kind, "message": message, "cause": cause, "next": next}


class Reporter:
    """Owns the real standard output. The user's code may print: that goes to standard error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @classmethod
    def take_standard_output(cls) -> Reporter:
        stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
        # Below Python too: C++ code writes to the descriptor.
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return cls(stream)

    def step(self, text: str) -> None:
        self._write({"step": text})

    def warning(self, text: str) -> None:
        self._write({"warning": text})

    def result(self, result: dict[str, Any]) -> None:
        self._write({"result": result})

    def refused(self, refused: Refused) -> None:
        self._write({"refused": refused.document})

    def _write(self, document: dict[str, Any]) -> None:
        self._stream.write(json.dumps(document) + "\n")
        self._stream.flush()


def refuse(message: str, *, next: str, kind: str = INPUT, cause: BaseException | str = "") -> NoReturn:
    """Raises `Refused`. The exception that caused it is chained: its traceback goes to the log."""
    if isinstance(cause, BaseException):
        raise Refused(message, next=next, kind=kind, cause=one_line(cause)) from cause
    raise Refused(message, next=next, kind=kind, cause=cause)


def one_line(error: BaseException, length_max: int = 400) -> str:
    """`TypeError: what it says`, without the pages that PyTorch adds."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)
    if len(text) > length_max:
        text = text[: length_max - 1] + "…"
    name = type(error).__name__
    return f"{name}: {text}" if text else name
