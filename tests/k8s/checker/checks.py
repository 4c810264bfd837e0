"""All checks in order. An object that its schema refuses is not checked any further."""

from collections.abc import Collection, Sequence
from pathlib import Path

from tests.k8s.checker.problem import Object, Problem
from tests.k8s.checker.references import reference_problems
from tests.k8s.checker.rules import rule_problems
from tests.k8s.checker.schemas import schema_problems


def check(objects: Sequence[Object], crds: Path | None, externals: Collection[str] = ()) -> list[Problem]:
    """Every problem of some objects together.

    Args:
        objects: rendered manifests.
        crds: the folder with KubeRay's CRDs. None skips the schemas of Ray's kinds.
        externals: KIND/NAME of what the manifests name and others provide: {"Secret/raystill-keys"}.
    """
    found = [problem for item in objects for problem in schema_problems(item, crds)]
    if found:
        return found
    found = [problem for item in objects for problem in rule_problems(item)]
    return [*found, *reference_problems(objects, externals)]


def verdicts(item: Object, crds: Path) -> dict[str, str]:
    """What an API server, KubeRay's operator and Pod validation say, in the words of oracle-verdicts.json.

    >>> verdicts(service, crds)
    {'apiserver': 'accepted', 'operator': 'refused', 'pods': 'ok'}
    """
    if any(schema_problems(item, crds)):
        return {"apiserver": "rejected"}
    layers = {problem.layer for problem in rule_problems(item)}
    if "apiserver" in layers:
        return {"apiserver": "rejected"}
    operator, pods = "refused" if "operator" in layers else "ok", "rejected" if "pod" in layers else "ok"
    return {"apiserver": "accepted", "operator": operator, "pods": pods}
