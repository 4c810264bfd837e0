"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the run file: section.key=value."
)
replace_option = click.option("--replace", is_flag=True, help="Replace an artifact that has other settings.")


def run_options(command: Command) -> Command:
    """Add the options of every command with a run file."""
    for option in (
        click.option("--verbose", is_flag=True, help="Print the logs of Ray and of the engines on stderr."),
        click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on stdout."),
        set_option,
    ):
        command = option(command)
    return command
