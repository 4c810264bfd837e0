"""How a command ends that does not succeed: one message on stderr and, with --json, one object on stdout.

    {"error": {"type": "input", "exit_code": 2, "message": "corpus.train a.csv: ...", "value": "...", "rule": "...", "remedy": "...",
               "log": null}}

| exit code | type | the command |
| --- | --- | --- |
| 1 | failed | failed; it says how to resume |
| 1 | bug | met an error that it does not know; the traceback is on stderr |
| 2 | input | refuses its input |
| 130 | interrupted | was interrupted with Ctrl-C or SIGTERM |
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipelines.errors import RaystillError, StageFailedError, UserError, last_line
from pipelines.runtime.terminal import last_log

ErrorType = Literal["failed", "bug", "input", "interrupted"]
_INTERRUPTED = 130
_RESUMED = ("label", "train", "evaluate", "run", "compare", "quickstart")
_SPACE = "No space left on device"
_RESUME = "Finished work is kept; run the same command to resume."


class ErrorDetail(BaseModel):
    """Why a command did not succeed."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    type: ErrorType
    exit_code: int
    message: str
    """What stderr shows."""
    value: str | None = None
    """Of type input, as the next two: the value that is refused, such as a key of the run file."""
    rule: str | None = None
    remedy: str | None = None
    log: str | None = None
    """Of type failed or bug: the file with what libraries have printed."""


class CommandError(BaseModel):
    """The object that --json prints if a command does not succeed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    error: ErrorDetail


def of_raystill(error: RaystillError) -> ErrorDetail:
    """An error that the command reports itself."""
    if isinstance(error, UserError):
        parts = {"value": error.value, "rule": error.rule, "remedy": error.remedy}
        return ErrorDetail(type="input", exit_code=error.exit_code, message=str(error), **parts)
    kinds: dict[int, ErrorType] = {UserError.exit_code: "input", _INTERRUPTED: "interrupted"}
    kind = kinds.get(error.exit_code, "failed")
    log = last_log() if kind == "failed" else None
    return ErrorDetail(type=kind, exit_code=error.exit_code, message=str(error), log=log)


def of_interrupt(command: str | None, kept: str = "") -> ErrorDetail:
    """Ctrl-C or SIGTERM. Only stages have work that a second command resumes.

    Args:
        kept: what the stage knows of its finished work, as the exception's text.
    """
    message = f"Interrupted. {kept or _RESUME}" if command in _RESUMED else "Interrupted."
    return ErrorDetail(type="interrupted", exit_code=_INTERRUPTED, message=message)


def of_usage(message: str, exit_code: int) -> ErrorDetail:
    """Wrong arguments."""
    return ErrorDetail(type="input", exit_code=exit_code, message=message)


def of_bug(error: BaseException) -> ErrorDetail:
    """An error that nothing foresees."""
    message = f"{type(error).__name__}: {last_line(error)}. This is a bug; the traceback is on stderr."
    log = last_log()
    return ErrorDetail(type="bug", exit_code=1, message=message, log=log)


def explained(error: BaseException, command: str | None) -> RaystillError | None:
    """What the machine refused, also inside of a worker. None for other errors."""
    resume = _RESUME if command in _RESUMED else "Run the command again."
    for one in _chain(error):
        code, name = getattr(one, "errno", None), getattr(one, "filename", None)
        where = f"{name}: " if name else ""
        if code in (errno.ENOSPC, errno.EDQUOT) or _SPACE in str(one):
            return StageFailedError(
                f"{where or 'a disk: '}no space is left. Free some, or set another output. {resume}"
            )
        if isinstance(one, PermissionError) or code == errno.EROFS:
            rule = f"this user may not read or write it ({getattr(one, 'strerror', None) or last_line(one)})"
            return UserError(str(name or "a file"), rule, "Change its permissions, or name another path.")
        if isinstance(one, IsADirectoryError | NotADirectoryError) or "is a directory" in str(one):
            found = re.search("'([^']+)'", str(one))
            rule = "a file, must be a folder" if isinstance(one, NotADirectoryError) else "a folder, must be a file"
            return UserError(str(name or (found[1] if found else "a path")), rule, "Name another path.")
        if code in (errno.EMFILE, errno.ENFILE):
            return StageFailedError(f"{where}too many files are open. Raise the limit with `ulimit -n`. {resume}")
        if isinstance(one, MemoryError) or code == errno.ENOMEM:
            return StageFailedError(f"this machine has no memory left for the command. {resume}")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__
