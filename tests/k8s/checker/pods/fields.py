"""What the Pod rules share: enumerated fields, ranges of numbers, texts with a grammar, and fields of which exactly one is set.

The server's types decide what counts as unset. A pointer is unset where it is null or left out; empty text in it is a value. A plain text
is unset where it is empty as well (`empty_is_unset`). What is `required` is held against the rule even then.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node
from tests.k8s.checker.problem import Findings, Rule, rule
from tests.k8s.checker.syntax import Grammar

VALUE = rule("pod/value", "take one of the allowed values")
MINIMUM = rule("pod/minimum", "take a number inside the range")
EMPTY = rule("pod/empty", "set it: the schema wants the field, Pod validation wants text in it")
OBJECT_NAME = rule("pod/object-name", "name the object as Kubernetes names objects")

MAX_INT32 = 2**31 - 1


def one_of(
    node: Node,
    key: str,
    allowed: Collection[str],
    path: str,
    *,
    empty_is_unset: bool = False,
    required: bool = False,
) -> Findings:
    """An enumerated field: unset or one of these."""
    value = _checked(node, key, empty_is_unset, required)
    if value is not None and value not in allowed:
        yield VALUE.at(f"{path}.{key}", f"{value!r}, allowed are {', '.join(allowed)}")


def written(
    which: Rule,
    node: Node,
    key: str,
    grammar: Grammar,
    path: str,
    *,
    empty_is_unset: bool = False,
    required: bool = False,
) -> Findings:
    """A text: unset or as its grammar has it; `which` is the rule that it breaks otherwise."""
    value = _checked(node, key, empty_is_unset, required)
    wrong = None if value is None else grammar(str(value))
    if wrong:
        yield which.at(f"{path}.{key}", wrong)


def each_written(which: Rule, node: Node, key: str, grammar: Grammar, path: str) -> Findings:
    """A list of texts, each as its grammar has it."""
    for index, text in enumerate(node.get(key) or []):
        wrong = grammar(str(text))
        if wrong:
            yield which.at(f"{path}.{key}[{index}]", wrong)


def _checked(node: Node, key: str, empty_is_unset: bool, required: bool) -> Any:
    """A field's value, None where there is nothing to check."""
    value = node.get(key)
    if required:
        return value or ""
    return None if empty_is_unset and value == "" else value


def at_least(node: Node, key: str, low: int, path: str, high: int = 2**63 - 1) -> Findings:
    """A number's range; unset fits."""
    yield from in_range(node.get(key), low, f"{path}.{key}", high)


def in_range(value: Any, low: int, path: str, high: int = 2**63 - 1) -> Findings:
    """As `at_least`, for a value that is no field, such as an element of a list."""
    if value is not None and not low <= value <= high:
        yield MINIMUM.at(path, f"{value}, allowed are {low} and above" + (f", to {high}" if high < 2**62 else ""))


def not_empty(node: Node, key: str, path: str) -> Findings:
    """A required text that is empty: the CRD's `required` is satisfied, Pod validation is not."""
    if node.get(key) in (None, ""):
        yield EMPTY.at(f"{path}.{key}", "empty")


def exactly_one(which: Rule, node: Node, keys: Collection[str], path: str, *, none_is_fine: bool = False) -> Findings:
    """Fields that exclude each other."""
    present = [key for key in keys if node.get(key) is not None]
    if len(present) > 1:
        yield which.at(path, f"{', '.join(present)} are set together")
    elif not present and not none_is_fine:
        yield which.at(path, f"none of {', '.join(keys)} is set")


def object_name_findings(node: Node, key: str, path: str, *, prefix: bool = False) -> Findings:
    """The required name of another object; `prefix`: the server takes the beginning of a name as well."""
    yield from not_empty(node, key, path)
    grammar = _beginning if prefix else syntax.dns_subdomain
    yield from written(OBJECT_NAME, node, key, grammar, path, empty_is_unset=True)


def _beginning(text: str) -> str | None:
    return syntax.dns_subdomain(syntax.masked_dash(text))
