"""Calls in the project's own source, such as `Counter("raystill_requests", ...)`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Call:
    """A call with constant arguments. Other arguments are None."""

    function: str
    arguments: tuple[Any, ...]
    named: dict[str, Any]


def calls(package: str, functions: set[str]) -> Iterator[Call]:
    """The calls of these functions in a package, by file and line."""
    for file in sorted((_ROOT / package).rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        constants = {
            target.id: statement.value
            for statement in tree.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
                yield Call(
                    node.func.id,
                    tuple(_value(argument, constants) for argument in node.args),
                    {one.arg: _value(one.value, constants) for one in node.keywords if one.arg},
                )


def _value(node: ast.expr, constants: dict[str, ast.expr]) -> Any:
    if isinstance(node, ast.Name):
        node = constants.get(node.id, node)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
