"""All layers in order. An object that its API server would refuse is not asked about by the layers behind it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.k8s.checker.core import core_findings, is_core
from tests.k8s.checker.crds import Crds, load_crds
from tests.k8s.checker.nodes import Node, title
from tests.k8s.checker.operator import operator_findings
from tests.k8s.checker.pods import pod_findings, pod_templates
from tests.k8s.checker.policy import policy_findings
from tests.k8s.checker.problem import Finding, Findings, Problem, rule
from tests.k8s.checker.references import Inventory, reference_findings
from tests.k8s.checker.selection import pods_of, selection_findings
from tests.k8s.checker.serve import serve_findings

KIND = rule(
    "apiserver/unknown-kind", "correct apiVersion and kind, or add the kind's schema to tests/k8s/checker/schemas"
)

_SCHEMAS = Path(__file__).parent / "schemas"


def check(
    objects: Sequence[Node],
    *,
    crds: Crds,
    externals: Collection[str] = (),
    digests: bool = False,
    imports: bool = True,
    off: Collection[str] = (),
) -> list[Problem]:
    """Everything that would refuse the objects, or make them do nothing.

    Args:
        objects: parsed manifests; a List stands for its items.
        crds: KubeRay's definitions, from `load_crds(folder)`.
        externals: KIND/NAME of what the manifests name and others provide: `{"Secret/raystill-token"}`.
        digests: whether images have to be named by digest.
        imports: whether import paths of Serve applications are imported in this process.
        off: ids of rules, or layers, that are not asked about.
    """
    items = [inner for item in objects for inner in (item.get("items", []) if item.get("kind") == "List" else [item])]
    problems: list[Problem] = []
    accepted: list[Node] = []
    for item in items:
        found = _problems(item, apiserver_findings(item, crds), off)
        problems += found
        if not found:
            accepted.append(stored(item, crds))
    inventory, pods = Inventory(accepted, externals), pods_of(accepted)
    for item in accepted:
        problems += _problems(item, _later_findings(item, inventory, digests, imports), off)
        problems += _problems(item, selection_findings(item, pods), off)
    return problems


def _later_findings(item: Node, inventory: Inventory, digests: bool, imports: bool) -> Findings:
    if is_ray(item):
        yield from operator_findings(item)
        if item["kind"] == "RayService":
            yield from serve_findings(item, imports=imports)
    for template in pod_templates(item):
        yield from pod_findings(template)
    yield from reference_findings(item, inventory)
    yield from policy_findings(item, digests=digests)


def is_ray(item: Node) -> bool:
    """Whether KubeRay's operator reads the object."""
    return str(item.get("apiVersion", "")).startswith("ray.io/")


def apiserver_findings(item: Node, crds: Crds) -> Findings:
    """Layer 1: a kind that nobody knows, or what its schema and validation refuse."""
    definition = crds.of(item) or _third_party().of(item)
    if definition is not None:
        yield from definition.findings(item)
    elif is_core(item):
        yield from core_findings(item)
    else:
        yield KIND.at(
            "kind",
            f"{item.get('apiVersion')} {item.get('kind')} is no kind of Kubernetes, KubeRay or the other schemas",
        )


def stored(item: Node, crds: Crds) -> dict[str, Any]:
    """The object with its schema's defaults; Kubernetes' own kinds are taken as they are."""
    definition = crds.of(item) or _third_party().of(item)
    return definition.defaulted(item) if definition is not None else dict(item)


@cache
def _third_party() -> Crds:
    return load_crds(_SCHEMAS)


def verdicts(item: Node, crds: Crds, off: Collection[str] = ()) -> dict[str, str]:
    """What a server, the operator and Pod validation would say, in the words of oracle-verdicts.json.

    >>> verdicts(service, crds)
    {'apiserver': 'accepted', 'operator': 'refused', 'pods': 'ok'}
    """
    if _problems(item, apiserver_findings(item, crds), off):
        return {"apiserver": "rejected"}
    accepted = stored(item, crds)
    operator = _problems(item, operator_findings(accepted), off)
    pods = [problem for template in pod_templates(accepted) for problem in _problems(item, pod_findings(template), off)]
    return {"apiserver": "accepted", "operator": "refused" if operator else "ok", "pods": "rejected" if pods else "ok"}


def _problems(item: Node, findings: Iterator[Finding], off: Collection[str]) -> list[Problem]:
    kept = [finding for finding in findings if finding.rule.id not in off and finding.rule.layer not in off]
    return [Problem(title(item), finding.path, finding.rule.id, finding.wrong, finding.rule.todo) for finding in kept]
