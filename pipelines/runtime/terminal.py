"""The user's terminal. It shows what Raystill says; everything else that a command prints goes to a log.

    with foreign_output(log):
        say("label: 20 rows take over stored answers")      # on the terminal, above a live bar

Inside the block sys.stdout, sys.stderr and the file descriptors 1 and 2 lead to the log: prints, warnings and log records of libraries,
lines of C++ code, and what child processes write. A process without such a block, as a worker, says its lines on its stderr.
"""

from __future__ import annotations

import os
import platform
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_STDOUT, _STDERR = 1, 2


@dataclass
class _Streams:
    """Those of the command itself."""

    out: TextIO
    err: TextIO
    log: Path | None = None

    @cached_property
    def console(self) -> Console:
        from rich.console import Console

        return Console(file=self.err, width=_columns(self.err))


_streams: list[_Streams] = []
"""Of the blocks that this process is in, the innermost one last."""
_last_log: list[Path] = []


def say(text: str) -> None:
    """Print a line of our own on stderr, above a live bar if there is one."""
    if _streams and _streams[-1].err.isatty():
        _streams[-1].console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
    else:
        print(text, file=err(), flush=True)


def out() -> TextIO:
    """The command's stdout, for its result."""
    return _streams[-1].out if _streams else sys.stdout


def err() -> TextIO:
    """The command's stderr, for messages and progress."""
    return _streams[-1].err if _streams else sys.stderr


def console() -> Console:
    """The console of the command's stderr, the same one within a block: only then lines and live bars do not overwrite each other."""
    from rich.console import Console

    return _streams[-1].console if _streams else Console(stderr=True)


def has_log() -> bool:
    """True if the output of others goes to a log now."""
    return bool(_streams) and _streams[-1].log is not None


def last_log() -> str | None:
    """The log of the last block that has ended; None if nothing was written to it."""
    return str(_last_log[-1]) if _last_log else None


def own_log() -> str:
    """The file with what this process prints, such as a worker of Ray, and its node: for a message. Without a file: `this process' log`."""
    try:
        is_file = stat.S_ISREG(os.fstat(_STDERR).st_mode)
        return (
            f"{os.readlink(f'/proc/self/fd/{_STDERR}')} on node {platform.node()}" if is_file else "this process' log"
        )
    except OSError:  # another system than Linux
        return "this process' log"


@contextmanager
def foreign_output(log: Path | None) -> Iterator[None]:
    """Inside the block only `say`, `out`, `err` and `console` reach the terminal. None: no log, and stdout is kept for the result alone.

    The file descriptors of a process with a terminal lead to the log until the process ends, since threads of libraries print at its end.
    sys.stdout and sys.stderr lead to the terminal again after the block.
    """
    if log is None:
        with _entered(_Streams(sys.stdout, sys.stderr)), redirect_stdout(sys.stderr):
            yield
        return
    streams = _Streams(_own(sys.stdout, _STDOUT), _own(sys.stderr, _STDERR), log)
    kept = [] if streams.err is not sys.stderr else [os.dup(_STDOUT), os.dup(_STDERR)]
    # Never closed: handlers that libraries make inside the block keep it.
    written = log.open("a", encoding="utf-8", errors="replace", buffering=1)
    for descriptor in (_STDOUT, _STDERR):
        os.dup2(written.fileno(), descriptor)
    try:
        with _entered(streams), redirect_stdout(written), redirect_stderr(written):
            yield
    finally:
        for descriptor, before in zip((_STDOUT, _STDERR), kept, strict=False):
            os.dup2(before, descriptor)
            os.close(before)
        if not kept:
            sys.stdout, sys.stderr = streams.out, streams.err
        written.flush()
        _last_log[:] = [log] if log.is_file() and log.stat().st_size else []
        if not _last_log:
            log.unlink(missing_ok=True)


@contextmanager
def _entered(streams: _Streams) -> Iterator[None]:
    _streams.append(streams)
    try:
        yield
    finally:
        _streams.pop()


def _own(stream: TextIO, descriptor: int) -> TextIO:
    """A stream to where the descriptor leads now, or the stream itself if it leads elsewhere, as under a test runner."""
    stream.flush()
    try:
        if stream.fileno() != descriptor:
            return stream
    except (OSError, ValueError):  # not a file
        return stream
    return os.fdopen(os.dup(descriptor), "w", encoding=stream.encoding, errors=stream.errors, buffering=1)


def _columns(stream: TextIO) -> int | None:
    """Width of the terminal behind a stream. None: rich's default."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if "COLUMNS" not in os.environ else None
    except (OSError, ValueError):
        return None
