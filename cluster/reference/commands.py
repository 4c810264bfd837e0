"""docs/reference/commands.md: every command with its options."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from cluster.reference.fields import table

_HEAD = """# Commands

`raystill COMMAND --help` shows the same. Exit codes and JSON: [commands.md](../commands.md).

"""


def commands_page() -> str:
    """The page."""
    from cluster.cli import main

    text = _HEAD
    for name, command in _commands(main, ""):
        text += f"## raystill {name}\n\n{_help(command)}\n\n{_parameters(command)}\n"
    return text


def _help(command: click.Command) -> str:
    """The help text; its example as a block of code."""
    text, _, example = inspect.cleandoc(command.help or "").replace("\b\n", "").partition("\nExample")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]
    code = "\n".join(line.strip() for line in example.split("\n")[1:] if line.strip())
    return "\n\n".join(paragraphs) + f"\n\n```\n{code}\n```"


def _parameters(command: click.Command) -> str:
    rows = []
    for one in command.params:
        if isinstance(one, click.Option):
            value = (
                "" if one.is_flag else f" {one.metavar or ('N' if one.type.name.startswith('integer') else 'VALUE')}"
            )
            if isinstance(one.type, click.Choice):
                value = f" {'|'.join(map(str, one.type.choices))}"
            rows.append([f"`{', '.join(one.opts)}{value}`", one.help or ""])
        else:
            rows.append(
                [f"`{one.make_metavar(click.Context(command))}`", "optional" if not one.required else "required"]
            )
    return table(["argument, option", "meaning"], rows)


def _commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command
