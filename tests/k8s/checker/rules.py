"""Rules of rules.yaml, evaluated on the parts of an object that they are for."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cel
import yaml

from tests.k8s.checker.problem import Object, Problem, title
from tests.support.k8s.quantities import quantity

CLUSTERS = {
    "RayCluster": "spec",
    "RayJob": "spec.rayClusterSpec",
    "RayService": "spec.rayClusterConfig",
    "RayCronJob": "spec.jobTemplate.rayClusterSpec",
}
"""Path of the RayClusterSpec in each kind."""


@dataclass(frozen=True)
class Rule:
    """An expression that is true of every part that it names."""

    id: str
    parts: tuple[str, ...]
    cel: str  # reads `self`, `text` (the part as JSON) and the function `quantity`
    fix: str
    breaks: tuple[
        Object, ...
    ]  # changes of a correct part that the rule refuses: path -> value, None to remove the field


@dataclass(frozen=True)
class Part:
    """One part of an object: a container, a volume claim, or the object itself."""

    name: str
    path: str
    node: Any


def _rules() -> dict[str, Rule]:
    text = Path(__file__).with_name("rules.yaml").read_text(encoding="utf-8")
    found: dict[str, Rule] = {}
    for entry in yaml.safe_load(text)["rules"]:
        parts = (entry["part"],) if isinstance(entry["part"], str) else tuple(entry["part"])
        assert entry["id"] not in found, f"rules.yaml has two rules {entry['id']}"
        found[entry["id"]] = Rule(entry["id"], parts, entry["cel"], entry["fix"], tuple(entry["breaks"]))
    return found


RULES = _rules()


def rule_problems(item: Object) -> Iterator[Problem]:
    """Rules that an object breaks. An expression that cannot be evaluated, because a field is missing, is broken too."""
    for part in parts(item):
        wanted = [rule for rule in RULES.values() if part.name in rule.parts]
        if not wanted:
            continue
        context = cel.Context(variables={"self": part.node, "text": json.dumps(part.node)})
        context.add_function("quantity", _number)
        for rule in wanted:
            if not _holds(rule.cel, context):
                yield Problem(title(item), part.path, rule.id, rule.fix)


def _holds(expression: str, context: cel.Context) -> bool:
    try:
        return _program(expression).execute(context) is True
    except (LookupError, RuntimeError, TypeError, ValueError):
        return False


def _number(text: str | int) -> float:
    try:
        return float(quantity(text))
    except ValueError:
        return math.nan  # every comparison with it is false


@cache
def _program(expression: str) -> cel.Program:
    return cel.compile(expression)


def parts(item: Object) -> Iterator[Part]:
    """The object under `object` and its kind, then everything inside it that rules are for."""
    kind = str(item.get("kind"))
    yield Part("object", "", item)
    yield Part(kind, "", item)
    if kind == "RayCronJob":
        spec = {"submissionMode": "K8sJobMode", **item["spec"]["jobTemplate"]}  # the CRD's default
        yield Part("RayJob", "spec.jobTemplate", {"kind": "RayJob", "spec": spec})
    if kind in CLUSTERS and (cluster := at(item, CLUSTERS[kind])) is not None:
        yield Part("ray", "", item)
        yield from _cluster_parts(cluster, CLUSTERS[kind])
    for path, template in pod_templates(item):
        yield Part("pod", path, template)
        for place, container in _containers(template["spec"], f"{path}.spec".lstrip(".")):
            yield Part("container", place, container)
            yield from (Part("probe", f"{place}.{key}", node) for key, node in container.items() if "Probe" in key)
    if kind == "PersistentVolumeClaim":
        yield Part("claim", "spec", item["spec"])
    for index, claim in enumerate(item.get("spec", {}).get("volumeClaimTemplates", ())):
        yield Part("claim", f"spec.volumeClaimTemplates[{index}].spec", claim["spec"])
    for path, key, node in walk(item):
        if key in _LISTS and isinstance(node, list):
            yield from (Part(_LISTS[key], f"{path}[{index}]", entry) for index, entry in enumerate(node))
        if key in ("labels", "matchLabels", "nodeSelector") and isinstance(node, dict):
            yield Part("labels", path, node)


_LISTS = {"from": "peer", "to": "peer", "matchExpressions": "expression"}


def _cluster_parts(cluster: Object, path: str) -> Iterator[Part]:
    yield Part("cluster", path, cluster)
    for name, group in cluster_groups(cluster):
        role = "head" if name == "headGroupSpec" else "worker"
        yield Part(role, f"{path}.{name}", group)
        yield Part("group", f"{path}.{name}", group)


def cluster_groups(cluster: Object) -> Iterator[tuple[str, Object]]:
    """The head group, then the worker groups, with their paths."""
    yield "headGroupSpec", cluster["headGroupSpec"]
    for index, group in enumerate(cluster.get("workerGroupSpecs") or ()):
        yield f"workerGroupSpecs[{index}]", group


def pod_templates(item: Object) -> Iterator[tuple[str, Object]]:
    """What pods are made of, as {metadata, spec}, with its path."""
    kind = str(item.get("kind"))
    if kind == "Pod":
        yield "", item
    if kind == "StatefulSet":
        spec = item["spec"]["template"]["spec"]
        claimed = [{"name": c["metadata"]["name"], "claim": {}} for c in item["spec"].get("volumeClaimTemplates", ())]
        template = {**item["spec"]["template"], "spec": {**spec, "volumes": [*spec.get("volumes", ()), *claimed]}}
        yield "spec.template", template
    if kind in CLUSTERS and (cluster := at(item, CLUSTERS[kind])) is not None:
        for name, group in cluster_groups(cluster):
            yield f"{CLUSTERS[kind]}.{name}.template", group["template"]
    if kind == "Job":
        yield "spec.template", item["spec"]["template"]
    for place in ("spec", "spec.jobTemplate"):
        if "submitterPodTemplate" in (job := at(item, place) or {}):
            yield f"{place}.submitterPodTemplate", job["submitterPodTemplate"]


def _containers(spec: Object, path: str) -> Iterator[tuple[str, Object]]:
    for key in ("initContainers", "containers"):
        yield from ((f"{path}.{key}[{index}]", node) for index, node in enumerate(spec.get(key) or ()))


def at(node: Any, path: str) -> Any:
    """The value at a dotted path; None if a part of it is missing."""
    for key in path.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def walk(node: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """(path, key, value) of every field of a tree."""
    if isinstance(node, dict):
        for key, value in node.items():
            place = f"{path}.{key}".lstrip(".")
            yield place, str(key), value
            yield from walk(value, place)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from walk(value, f"{path}[{index}]")
