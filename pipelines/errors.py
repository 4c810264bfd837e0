"""Errors that a command reports in one message. Any other exception is a bug and keeps its traceback."""

from __future__ import annotations

_LINE_CHARACTERS = 300


class RaystillError(Exception):
    """Base of all errors that a command reports. The command exits with `exit_code`."""

    exit_code = 1


class UserError(RaystillError):
    """Invalid input. The message names the value, the rule and the remedy. Raised before anything is written."""

    exit_code = 2

    def __init__(self, value: str, rule: str, remedy: str) -> None:
        super().__init__(value, rule, remedy)  # all arguments: pickle rebuilds an error of a Ray worker from them
        self.value, self.rule, self.remedy = value, rule, remedy

    def __str__(self) -> str:
        return f"{self.value}: {self.rule}. {self.remedy}"


class StageFailedError(RaystillError):
    """A stage stopped early. Its finished work is kept; the message says how to resume."""


def last_line(error: BaseException | str) -> str:
    """Last non-empty line of a text, or of an error's text: below the worker's traceback in an error of Ray."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:_LINE_CHARACTERS] if lines else type(error).__name__


class BadRowError(RaystillError):
    """The task cannot read a corpus row. The row is rejected with the reason `bad_input`; the run continues."""


class UnparsableError(RaystillError):
    """The task finds no answer in the teacher's text. The row is rejected with the reason `unparsable`."""
