"""Fields of pydantic models as rows of Markdown tables: name, type with its limits, default, meaning."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import textwrap
import types
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_NAMES = {bool: "true or false", int: "integer", float: "number", str: "text", type(None): "null", Any: "any value"}


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table. Cells may contain `|` and line breaks."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(
        f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
    )


def nested(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds alone, None for other types. A field that may be null counts too."""
    kinds = [kind for kind in _alternatives(annotation) if kind is not type(None)]
    [kind] = kinds if len(kinds) == 1 else [None]
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def sentence(model: type[Any]) -> str:
    """The docstring of a class, on one line."""
    return " ".join((inspect.getdoc(model) or "").split())


@cache
def meanings(model: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field, or the field's description, those of base classes included."""
    found: dict[str, str] = {}  # in the words of YAML and JSON
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= dict(_docstrings(base))
    described = {name: field.description for name, field in model.model_fields.items() if field.description}
    return {name: re.sub(r"\b(None|True|False)\b", _yaml, text) for name, text in (found | described).items()}


def default_text(field: FieldInfo, default: Any = PydanticUndefined) -> str:
    """The default as YAML has it. `default`: what the section that holds the field sets instead."""
    value = field.default if default is PydanticUndefined else default
    if value is PydanticUndefined:
        return "required"
    return f"`{json.dumps(value)}`"


def type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """The type in words, with the limits of its values."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return type_text(inner, [*more, *metadata])
    alternatives = _alternatives(annotation)
    if len(alternatives) > 1:
        kinds = [type_text(kind) for kind in alternatives if kind is not type(None)]
        null = ", or null" if type(None) in alternatives else ""
        return " or ".join(dict.fromkeys(kinds)) + _limits(metadata) + null
    if get_origin(annotation) is Literal:
        return " ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in get_args(annotation))
    if get_origin(annotation) is list:
        item, limits = type_text(get_args(annotation)[0]), _limits(metadata, "items")
        return f"list of {item}{',' if limits else ''}{limits}"
    if get_origin(annotation) is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.__name__
    unit = "characters" if annotation is str else ""
    return _NAMES.get(annotation, "any value") + _limits(metadata, unit)


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated and get_origin(get_args(annotation)[0]) in (Union, types.UnionType):
        annotation = get_args(annotation)[0]
    return list(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else [annotation]


def _limits(metadata: Sequence[Any], unit: str = "") -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": ">=", "max_length": "<="}
    found = []
    for one in metadata:
        for part in one.metadata if isinstance(one, FieldInfo) else [one]:
            for name, sign in signs.items():
                if isinstance(value := getattr(part, name, None), int | float) and abs(value) < 2**63 - 1:
                    found.append(f" {sign} {value:g}{f' {unit}' if name.endswith('length') and unit else ''}")
    return ",".join(found)


def _yaml(found: re.Match[str]) -> str:
    return {"None": "null"}.get(found[0], found[0].lower())


def _docstrings(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """(field, the string literal below it) for the fields that a class itself defines."""
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    body = getattr(tree, "body", [])
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(text):
            yield field.target.id, " ".join(text.value.value.split())


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
