"""What the Pod rules share: enumerated fields, numbers with a lowest value, and fields of which exactly one is set."""

from __future__ import annotations

from collections.abc import Collection

from tests.k8s.checker.nodes import Node
from tests.k8s.checker.problem import Findings, Rule, rule

VALUE = rule("pod/value", "take one of the allowed values")
MINIMUM = rule("pod/minimum", "take a number inside the range")
EMPTY = rule("pod/empty", "set it: the schema wants the field, Pod validation wants text in it")

MAX_INT32 = 2**31 - 1


def one_of(node: Node, key: str, allowed: Collection[str], path: str, *, empty_is_unset: bool = False) -> Findings:
    """An enumerated field, unset or one of these. `empty_is_unset`: the server's type has no pointer, so empty text gets its default."""
    value = node.get(key)
    if value is None or (empty_is_unset and value == ""):
        return
    if value not in allowed:
        yield VALUE.at(f"{path}.{key}", f"{value!r}, allowed are {', '.join(allowed)}")


def at_least(node: Node, key: str, low: int, path: str, high: int = 2**63 - 1) -> Findings:
    """A number's range; unset fits."""
    value = node.get(key)
    if value is not None and not low <= value <= high:
        yield MINIMUM.at(
            f"{path}.{key}", f"{value}, allowed are {low} and above" + (f", to {high}" if high < 2**62 else "")
        )


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
