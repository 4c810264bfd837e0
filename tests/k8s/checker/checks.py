"""All checks in order. An object that its schema refuses is not checked any further."""

from collections.abc import Collection, Sequence
from pathlib import Path

from tests.k8s.checker.problem import Object, Problem
from tests.k8s.checker.references import reference_problems
from tests.k8s.checker.rules import rule_problems
from tests.k8s.checker.schemas import schema_problems


def check(objects: Sequence[Object], crds: Path | None, externals: Collection[str] = ()) -> list[Problem]:
    """Every problem of some objects together. `externals`: KIND/NAME of what they name and others provide."""
    if found := [problem for item in objects for problem in schema_problems(item, crds)]:
        return found
    found = [problem for item in objects for problem in rule_problems(item)]
    return [*found, *reference_problems(objects, externals)]


def verdicts(item: Object, crds: Path) -> dict[str, str]:
    """What an API server, KubeRay's operator and Pod validation say, in the words of oracle-verdicts.json."""
    invalid = any(schema_problems(item, crds))
    layers = {"apiserver"} if invalid else {problem.layer for problem in rule_problems(item)}
    if "apiserver" in layers:
        return {"apiserver": "rejected"}
    operator, pods = "refused" if "operator" in layers else "ok", "rejected" if "pod" in layers else "ok"
    return {"apiserver": "accepted", "operator": operator, "pods": pods}
