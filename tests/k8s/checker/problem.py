"""What a check finds. Each rule is declared once, with what to do about it; a finding adds where and what is wrong.

    REPLICAS = rule("operator/min-above-max", "make minReplicas at most maxReplicas")
    ...
    yield REPLICAS.at("spec.workerGroupSpecs[0].minReplicas", "3, and maxReplicas is 2")

The part of a rule's id before the slash is its layer: who refuses the object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

RULES: dict[str, Rule] = {}
"""Every rule by its id, filled as the modules are imported."""


@dataclass(frozen=True)
class Finding:
    """A broken rule and its place inside one object; `path` is written as the API server writes it."""

    rule: Rule
    path: str
    wrong: str


@dataclass(frozen=True)
class Rule:
    """One reason to refuse an object: `id` is LAYER/NAME, `todo` tells the author what to change."""

    id: str
    todo: str

    @property
    def layer(self) -> str:
        """Who refuses: apiserver, operator, pod, serve, reference or policy."""
        return self.id.partition("/")[0]

    def at(self, path: str, wrong: str) -> Finding:
        """This rule, broken at `path`."""
        return Finding(self, path, wrong)


@dataclass(frozen=True)
class Problem:
    """A finding with its object: what `check` returns.

    >>> print(Problem("RayJob train", "spec.suspend", "operator/suspend-needs-shutdown", "true", "set ..."))
    RayJob train: spec.suspend: true [operator/suspend-needs-shutdown]: set ...
    """

    object: str
    path: str
    rule: str
    wrong: str
    todo: str

    @property
    def layer(self) -> str:
        """The rule's layer."""
        return self.rule.partition("/")[0]

    def __str__(self) -> str:
        return f"{self.object}: {self.path}: {self.wrong} [{self.rule}]: {self.todo}"


def rule(id: str, todo: str) -> Rule:
    """Declares a rule; an id is declared once."""
    assert id not in RULES, f"rule {id} is declared twice"
    RULES[id] = Rule(id, todo)
    return RULES[id]


Findings = Iterator[Finding]
