"""A structural schema (openAPIV3Schema of apiextensions.k8s.io/v1) applied as the API server applies it.

In: a value and its schema. Out: the value with nulls pruned and defaults filled in, and findings. The order is the server's:
unknown fields (strict), null pruning, defaults, then values. https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

from __future__ import annotations

import copy
import datetime
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from tests.k8s.checker.nodes import Node, join
from tests.k8s.checker.problem import Findings, rule

UNKNOWN = rule("apiserver/unknown-field", "correct its name or its indentation, or remove it")
TYPE = rule("apiserver/type", "write the type that the schema asks for; quote a number that has to be text")
REQUIRED = rule("apiserver/required", "set it")
ENUM = rule("apiserver/enum", "take one of the allowed values")
PATTERN = rule("apiserver/pattern", "write it in the form that the schema asks for, a quantity as 24Gi or 500m")
RANGE = rule("apiserver/range", "take a number inside the range")
LENGTH = rule("apiserver/length", "make it as long as the schema asks for")
FORMAT = rule("apiserver/format", "write a date and time as RFC 3339 does: 2026-01-31T12:00:00Z")
DUPLICATE_KEY = rule("apiserver/duplicate-key", "keep one entry for each key of the list")
DUPLICATE_ITEM = rule("apiserver/duplicate-item", "keep each item of the set once")

KEYWORDS = {
    *("description", "type", "properties", "additionalProperties", "items", "required", "default", "enum", "pattern"),
    *("nullable", "anyOf", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "format"),
    *("x-kubernetes-int-or-string", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"),
    *("x-kubernetes-validations", "x-kubernetes-preserve-unknown-fields"),
}
"""What this module and `cel_rules` read, or what has no say in validation. Another keyword would be a check left out in silence."""

_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_INTEGER_BITS = {"int32": 31, "int64": 63}


def check_keywords(schema: Node, path: str = "") -> None:
    """Raises where a schema uses a keyword that nothing here reads."""
    assert schema.keys() <= KEYWORDS, f"{path or 'schema'}: unread keywords {sorted(schema.keys() - KEYWORDS)}"
    if "anyOf" in schema:
        # Generated CRDs use it for int-or-string alone, which is checked by its own mark.
        assert schema.get("x-kubernetes-int-or-string"), f"{path}: anyOf without x-kubernetes-int-or-string is not read"
    for key, child in _children(schema):
        check_keywords(child, join(path, key))


def _children(schema: Node) -> list[tuple[str, Node]]:
    children = list(schema.get("properties", {}).items())
    children += [
        (key, schema[key]) for key in ("items", "additionalProperties") if isinstance(schema.get(key), Mapping)
    ]
    return children


def child_schema(schema: Node, key: str) -> Node | None:
    """The schema of one field of an object, None where the schema knows no such field."""
    properties = schema.get("properties", {})
    if key in properties:
        return dict(properties[key]) if not isinstance(properties[key], Mapping) else properties[key]
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        return extra
    return {} if extra is True or schema.get("x-kubernetes-preserve-unknown-fields") else None


def unknown_fields(value: Any, schema: Node, path: str) -> Findings:
    """Fields that the schema does not know, anywhere below: refused under fieldValidation=Strict, kubectl's default."""
    if isinstance(value, Mapping) and schema.get("type") == "object":
        for key, item in value.items():
            child = child_schema(schema, str(key))
            if child is None:
                yield UNKNOWN.at(join(path, str(key)), "unknown field")
            else:
                yield from unknown_fields(item, child, join(path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown_fields(item, schema.get("items", {}), join(path, index))


def defaulted(value: Any, schema: Node) -> Any:
    """A copy without the nulls of fields that are not nullable, and with the schema's defaults.

    >>> defaulted({"a": None}, {"type": "object", "properties": {"a": {"type": "integer", "default": 2}}})
    {'a': 2}
    """
    if isinstance(value, list):
        return [defaulted(item, schema.get("items", {})) for item in value]
    if not isinstance(value, Mapping):
        return value
    properties, values = schema.get("properties", {}), schema.get("additionalProperties")
    result = {}
    for key, item in value.items():
        # Nulls of fields without a schema and of list items stay; the latter are refused by their type.
        child = properties.get(key, values if isinstance(values, Mapping) else None)
        if item is not None or child is None or child.get("nullable"):
            result[key] = item
    for key, child in properties.items():
        if key not in result and "default" in child:
            result[key] = copy.deepcopy(child["default"])
    return {key: defaulted(item, child_schema(schema, str(key)) or {}) for key, item in result.items()}


def value_findings(value: Any, schema: Node, path: str) -> Findings:
    """What is wrong with a defaulted value: types, required fields, enums, patterns, ranges, lengths, duplicates."""
    if value is None and schema.get("nullable"):
        return
    wrong_type = _type_error(value, schema)
    if wrong_type:
        yield TYPE.at(path, wrong_type)
        return
    if "enum" in schema and value not in schema["enum"]:
        yield ENUM.at(path, f"{value!r}, allowed are {', '.join(map(str, schema['enum']))}")
    if isinstance(value, str):
        yield from _string_findings(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number_findings(value, schema, path)
    elif isinstance(value, list):
        yield from _list_findings(value, schema, path)
    elif isinstance(value, Mapping):
        for key in schema.get("required", []):
            if key not in value:
                yield REQUIRED.at(join(path, key), "required, and not set")
        for key, item in value.items():
            yield from value_findings(item, child_schema(schema, str(key)) or {}, join(path, str(key)))


def _type_error(value: Any, schema: Node) -> str | None:
    if schema.get("x-kubernetes-int-or-string"):
        fits = isinstance(value, str) or _is_integer(value)
        return None if fits else f"{_type_name(value)} {value!r}, wanted an integer or a string"
    wanted = schema.get("type")
    fits = {
        None: True,
        "object": isinstance(value, Mapping),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": _is_integer(value),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
    }[wanted]
    return None if fits else f"{_type_name(value)} {value!r}, wanted {wanted}"


def _is_integer(value: Any) -> bool:
    """As the server reads JSON: what no int64 holds becomes a float, and a whole float is an integer below 2**53."""
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return not isinstance(value, bool)
    return isinstance(value, int | float) and abs(value) < 2**53 and float(value).is_integer()


def _type_name(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", type(None): "null"}
    return names.get(type(value), "object")


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    # Python's $ also matches before a final newline, Go's does not.
    return re.compile(re.sub(r"(?<!\\)\$$", r"\\Z", pattern))


def _string_findings(value: str, schema: Node, path: str) -> Findings:
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield PATTERN.at(path, f"{value!r} does not match {schema['pattern']}")
    if len(value) < schema.get("minLength", 0):
        yield LENGTH.at(path, f"{len(value)} characters, at least {schema['minLength']} are needed")
    if len(value) > schema.get("maxLength", len(value)):
        yield LENGTH.at(path, f"{len(value)} characters, at most {schema['maxLength']} are allowed")
    if schema.get("format") == "date-time" and not _is_rfc_3339(value):
        yield FORMAT.at(path, f"{value!r} is no date and time with a zone")


def _is_rfc_3339(value: str) -> bool:
    if not _DATE_TIME.fullmatch(value):
        return False
    try:
        datetime.datetime.fromisoformat(value.replace(",", "."))
    except ValueError:
        return False
    return True


def _number_findings(value: float, schema: Node, path: str) -> Findings:
    bits = _INTEGER_BITS.get(schema.get("format", ""))
    if bits and not -(2**bits) <= value < 2**bits:
        yield RANGE.at(path, f"{value} does not fit {schema['format']}")
    if value < schema.get("minimum", value):
        yield RANGE.at(path, f"{value}, at least {schema['minimum']} is needed")
    if value > schema.get("maximum", value):
        yield RANGE.at(path, f"{value}, at most {schema['maximum']} is allowed")


def _list_findings(value: list[Any], schema: Node, path: str) -> Findings:
    if len(value) < schema.get("minItems", 0):
        yield LENGTH.at(path, f"{len(value)} items, at least {schema['minItems']} are needed")
    if len(value) > schema.get("maxItems", len(value)):
        yield LENGTH.at(path, f"{len(value)} items, at most {schema['maxItems']} are allowed")
    kind = schema.get("x-kubernetes-list-type")
    keys = schema.get("x-kubernetes-list-map-keys", []) if kind == "map" else []
    seen: list[Any] = []
    for index, item in enumerate(value):
        yield from value_findings(item, schema.get("items", {}), join(path, index))
        identity = {key: item[key] for key in keys if key in item} if keys and isinstance(item, Mapping) else item
        if identity in seen and kind in ("map", "set"):
            which = DUPLICATE_KEY if kind == "map" else DUPLICATE_ITEM
            yield which.at(join(path, index), f"{identity} stands in the list twice")
        seen.append(identity)
