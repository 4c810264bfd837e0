"""x-kubernetes-validations: rules in the Common Expression Language, at any depth of a schema.

Rules that read `oldSelf` compare with the stored object, so they have no say when an object is created.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import cel

from tests.k8s.checker.nodes import Node, join
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.structure import child_schema

CEL = rule("apiserver/cel", "do what the rule's message asks for")


@cache
def _program(expression: str) -> cel.Program:
    return cel.compile(expression)


def cel_findings(value: Any, schema: Node, path: str) -> Findings:
    """Rules of the schema and its parts that the value breaks; run on values that fit the schema otherwise."""
    for entry in schema.get("x-kubernetes-validations", []):
        program = _program(entry["rule"])
        if "oldSelf" not in program.variables() and program.execute({"self": value}) is not True:
            yield CEL.at(path, entry.get("message", entry["rule"]))
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from cel_findings(item, child_schema(schema, str(key)) or {}, join(path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from cel_findings(item, schema.get("items", {}), join(path, index))
