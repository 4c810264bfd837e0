"""Why an engine did not start, in one line with the remedy.

vLLM loads weights in a process of its own. Its error there reaches this process as `Engine core initialization failed. See root cause
above`; the cause is only in what that process printed. Ray sends a worker's output to files, so it can be read back.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from pipelines.tasks.failures import described

_READ_BYTES = 256 << 10
_CAUSE_CHARACTERS = 500
_PREFIX = re.compile(
    r"^(?:\x1b\[[0-9;]*m|\([\w ]+pid=[0-9]+\)|(?:ERROR|WARNING|INFO) [-0-9]+ [:0-9]+|\[[\w./-]+:[0-9]+\]|\s)+"
)
_ERROR_LINE = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt)\b(?:: .*)?$")
_POINTS_ELSEWHERE = re.compile(
    r"root cause|initialization failed|engine core|EngineCore|died unexpectedly", re.IGNORECASE
)
_TYPE = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Z]\w*): ")
_URL = re.compile(r"\s*For further information visit \S+")
_TYPE_AND_INPUT = re.compile(r"\s*\[type=\w+, input_value=.*?\](?=\s|$)", re.DOTALL)

_REMEDIES = (
    (
        r"max_model_len|max_position_embeddings|maximum model length|max seq len|KV cache",
        "Lower teacher.vllm.max_model_len",
    ),
    (
        r"out of memory|OutOfMemory|gpu_memory_utilization|memory on device|MemoryError|allocate memory",
        "Lower teacher.vllm.gpu_memory_utilization, max_num_seqs or max_model_len",
    ),
    (r"[Uu]nexpected keyword|extra_forbidden|engine_args|[Ii]nvalid .*argument", "Correct teacher.vllm"),
    (r"architecture", "Set teacher.model to a model that vLLM supports"),
    (
        r"safetensor|HeaderTooLarge|deserializ|checkpoint shard|size mismatch|[Ww]eights?\b",
        "The weights of teacher.model are damaged or incomplete: fetch them again",
    ),
    (
        r"LocalEntryNotFound|offline|huggingface|Repo|not a (?:valid|local)|config\.json|does not exist|No such file",
        "Check teacher.model: a hub id, or a folder that every node sees",
    ),
)


class StartLog:
    """What this process and its children print from now on, if their output goes to files."""

    def __init__(self) -> None:
        self._sizes = {fd: size for fd in (1, 2) if (size := _file_size(fd)) is not None}

    def written(self) -> str:
        """The last 256 KiB that were printed since, first the standard output, then the standard error."""
        parts = []
        for fd, before in self._sizes.items():
            size = _file_size(fd) or 0
            start = max(before, size - _READ_BYTES)
            try:
                with Path(f"/proc/self/fd/{fd}").open("rb") as file:
                    file.seek(start)
                    parts.append(file.read(max(size - start, 0)).decode(errors="replace"))
            except OSError:
                continue  # another system than Linux, or the file is gone
        return "\n".join(parts)


def start_failure(error: BaseException, printed: str = "") -> str:
    """The cause of a failed start, and what to do. `printed`: output of the engine's processes."""
    cause = _innermost(error)
    text = _message(cause)
    if _POINTS_ELSEWHERE.search(text):
        text = printed_cause(printed) or text
    text = _TYPE_AND_INPUT.sub("", _URL.sub("", text))
    text = " ".join(text.split())
    if len(text) > _CAUSE_CHARACTERS:
        text = text[: _CAUSE_CHARACTERS - 3] + "..."
    remedy = next(
        (remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), "Correct teacher.model or teacher.vllm"
    )
    return f"{text.rstrip('.')}. {remedy}"


def printed_cause(printed: str) -> str:
    """The last error line of tracebacks in a log, without the marks of the logger. Empty if there is none."""
    lines = [_PREFIX.sub("", line).rstrip() for line in printed.splitlines()]
    errors = [line for line in lines if _ERROR_LINE.match(line) and not _POINTS_ELSEWHERE.search(line)]
    return errors[-1] if errors else ""


def _innermost(error: BaseException) -> BaseException:
    """The first cause in a chain of `raise ... from`. A handler's own context is not followed: it is often a failed look-up."""
    seen: set[int] = set()
    while error.__cause__ is not None and id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__
    return error


def _message(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, ArithmeticError | LookupError | AttributeError | TypeError | AssertionError):
        return described(error)  # these messages say nothing without their place
    if not text:
        return type(error).__name__
    return text if _TYPE.match(text) else f"{type(error).__name__}: {text}"


def _file_size(fd: int) -> int | None:
    """Size of the regular file behind a descriptor, None if it is something else."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
