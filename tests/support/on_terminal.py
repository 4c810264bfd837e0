"""Runs a command on a terminal of its own, and reads what a person would see."""

import os
import pty
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import COMMAND
from tests.support.endpoints import wait_until

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Shown:
    """How a command ended."""

    exit_code: int
    lines: list[str]
    """Without control sequences, each once."""


def on_terminal(
    *arguments: str, env: Mapping[str, str], number: int, begun: str, before: Callable[[str], None]
) -> Shown:
    """Run a command to its end.

    Args:
        number: interrupt it by this signal once it shows `begun`: SIGINT by Ctrl-C, another signal by itself. 0: do not.
        before: gets what it shows up to then; called before the signal.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored if a shell has started the tests in the background
        os.execve(COMMAND[0], [*COMMAND, *arguments], dict(env))
    written, sent = b"", number == 0
    while part := _read(terminal):
        written += part
        if not sent and begun.encode() in written:
            sent = True
            time.sleep(0.5)  # amid the work, rather than at its start
            before(written.decode(errors="replace"))
            if number == signal.SIGINT:
                os.write(terminal, b"\x03")
            else:
                os.kill(pid, number)
    exit_code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    lines = re.split(r"[\r\n]+", _CONTROL.sub("", written.decode(errors="replace")))
    return Shown(exit_code, list(dict.fromkeys(line.strip() for line in lines if line.strip())))


def wait_until_gone(variable: str) -> None:
    """Wait until no process has this text in its environment, such as the folder of a command's Ray."""
    wait_until(lambda: not running_with(variable), every_s=0.2, of=lambda: running_with(variable))


def running_with(variable: str) -> list[str]:
    """The command lines of the processes with this text in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue  # it has ended, or is another user's
    return found


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux: the command has closed it
        return b""
