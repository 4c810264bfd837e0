"""The errors that a command reports. Everything else is a bug and keeps its traceback."""

from __future__ import annotations

_LINE_CHARACTERS = 300


class RaystillError(Exception):
    """A failure that we understand. `exit_code` is what the command returns."""

    exit_code = 1


class UserError(RaystillError):
    """What the user gave is wrong: the message names the value, the rule and what to do. Nothing has been written."""

    exit_code = 2

    def __init__(self, value: str, rule: str, remedy: str) -> None:
        super().__init__(value, rule, remedy)  # as they came, so that the error survives the way from a Ray worker
        self.value, self.rule, self.remedy = value, rule, remedy

    def __str__(self) -> str:
        return f"{self.value}: {self.rule}. {self.remedy}"


class StageFailedError(RaystillError):
    """A stage broke off. What it finished is kept; the message says how to go on."""


def last_line(error: BaseException) -> str:
    """What an error says on one line: the last of its text, which in an error of Ray's stands below the worker's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:_LINE_CHARACTERS] if lines else type(error).__name__


class BadRowError(RaystillError):
    """One corpus row cannot be read by the task. It becomes a reject with the reason `bad_input`; the run goes on."""


class UnparsableError(RaystillError):
    """The teacher's text holds no answer that the task can read. It becomes a reject with the reason `unparsable`."""
