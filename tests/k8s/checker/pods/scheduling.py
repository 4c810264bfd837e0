"""Where a Pod may run: tolerations, affinity, topology spread, node selector."""

from __future__ import annotations

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, get, mapping
from tests.k8s.checker.pods.fields import OBJECT_NAME, at_least, each_written, not_empty, one_of, written
from tests.k8s.checker.pods.selectors import label_map_findings, label_selector_findings, node_selector_findings
from tests.k8s.checker.problem import Findings, rule

TOLERATION = rule(
    "pod/toleration", "write key, operator, value and effect so that they fit: Exists has no value, no key means Exists"
)
TOLERATION_SECONDS = rule("pod/toleration-seconds", "set effect: NoExecute beside tolerationSeconds")
TERMS = rule("pod/node-terms", "give the required node affinity at least one term")
TOPOLOGY = rule("pod/topology-key", "name a node label as topologyKey")
SPREAD = rule("pod/spread", "take maxSkew above 0, and minDomains above 0 and only with DoNotSchedule")
LABEL_KEYS = rule(
    "pod/match-label-keys",
    "write label keys beside a labelSelector that does not have them, each in one of matchLabelKeys and mismatchLabelKeys",
)

_AFFINITIES = ("podAffinity", "podAntiAffinity")


def scheduling_findings(spec: Node, path: str, labels: Node) -> Findings:
    """In: a Pod's spec and the Pod's labels. Out: what is wrong with where it wants to run."""
    for place, toleration in elements(spec, "tolerations", path):
        yield from _toleration_findings(toleration, place)
    yield from label_map_findings(mapping(spec, "nodeSelector"), f"{path}.nodeSelector")
    for place, spread in elements(spec, "topologySpreadConstraints", path):
        yield from _spread_findings(spread, place, labels)
    yield from _node_affinity_findings(mapping(spec, "affinity.nodeAffinity"), f"{path}.affinity.nodeAffinity")
    for kind in _AFFINITIES:
        yield from _pod_affinity_findings(mapping(spec, f"affinity.{kind}"), f"{path}.affinity.{kind}", labels)


def _toleration_findings(toleration: Node, place: str) -> Findings:
    key, operator, value = toleration.get("key"), toleration.get("operator") or "Equal", toleration.get("value")
    yield from written(TOLERATION, toleration, "key", syntax.qualified_name, place, empty_is_unset=True)
    if operator not in ("Exists", "Equal"):
        yield TOLERATION.at(f"{place}.operator", f"{operator!r}, allowed are Exists and Equal")
    elif not key and operator != "Exists":
        yield TOLERATION.at(f"{place}.operator", f"{operator} without a key")
    elif operator == "Exists" and value:
        yield TOLERATION.at(f"{place}.value", f"{value!r} beside Exists")
    elif operator == "Equal":
        yield from written(TOLERATION, toleration, "value", syntax.label_value, place)
    yield from one_of(toleration, "effect", ("NoSchedule", "PreferNoSchedule", "NoExecute"), place, empty_is_unset=True)
    if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
        yield TOLERATION_SECONDS.at(f"{place}.tolerationSeconds", f"effect is {toleration.get('effect')}")


def _spread_findings(spread: Node, place: str, labels: Node) -> Findings:
    yield from not_empty(spread, "topologyKey", place)
    yield from one_of(spread, "whenUnsatisfiable", ("DoNotSchedule", "ScheduleAnyway"), place)
    for name in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
        yield from one_of(spread, name, ("Honor", "Ignore"), place)
    if spread.get("maxSkew", 0) <= 0:
        yield SPREAD.at(f"{place}.maxSkew", f"{spread.get('maxSkew')}")
    domains = spread.get("minDomains")
    if domains is not None and (domains <= 0 or spread.get("whenUnsatisfiable") != "DoNotSchedule"):
        yield SPREAD.at(f"{place}.minDomains", f"{domains} with {spread.get('whenUnsatisfiable')}")
    yield from _label_keys_findings(spread, place, labels)
    yield from label_selector_findings(spread.get("labelSelector"), f"{place}.labelSelector")


def _label_keys_findings(term: Node, place: str, labels: Node) -> Findings:
    """Keys whose values the server takes from the Pod's own labels and adds to the term's labelSelector."""
    selector, matching = term.get("labelSelector"), term.get("matchLabelKeys") or []
    for kind in ("matchLabelKeys", "mismatchLabelKeys"):
        if term.get(kind) and selector is None:
            yield LABEL_KEYS.at(f"{place}.{kind}", "set without a labelSelector")
        else:
            yield from each_written(LABEL_KEYS, term, kind, syntax.qualified_name, place)
    for key in sorted(set(matching) & set(term.get("mismatchLabelKeys") or [])):
        yield LABEL_KEYS.at(f"{place}.matchLabelKeys", f"{key!r} is in mismatchLabelKeys as well")
    asked = set(mapping(selector, "matchLabels"))
    expressions = [str(entry.get("key")) for _, entry in elements(selector, "matchExpressions")]
    for key in [*expressions, *(key for key in matching if key in labels)]:
        if key in asked and key in matching:
            yield LABEL_KEYS.at(f"{place}.matchLabelKeys", f"labelSelector asks for {key!r} as well")
        asked.add(key)


def _node_affinity_findings(affinity: Node, path: str) -> Findings:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    if affinity.get(required) is not None:
        if not get(affinity, f"{required}.nodeSelectorTerms"):
            yield TERMS.at(f"{path}.{required}.nodeSelectorTerms", "none")
        for place, term in elements(affinity, f"{required}.nodeSelectorTerms", path):
            yield from node_selector_findings(term, place)
    for place, term in elements(affinity, "preferredDuringSchedulingIgnoredDuringExecution", path):
        yield from at_least(term, "weight", 1, place, 100)
        # The server takes values that no node can have, where they are only preferred.
        yield from node_selector_findings(term.get("preference"), f"{place}.preference", free_values=True)


def _pod_affinity_findings(affinity: Node, path: str, labels: Node) -> Findings:
    for place, term in elements(affinity, "requiredDuringSchedulingIgnoredDuringExecution", path):
        yield from _pod_term_findings(term, place, labels)
    for place, weighted in elements(affinity, "preferredDuringSchedulingIgnoredDuringExecution", path):
        yield from at_least(weighted, "weight", 1, place, 100)
        yield from _pod_term_findings(mapping(weighted, "podAffinityTerm"), f"{place}.podAffinityTerm", labels)


def _pod_term_findings(term: Node, place: str, labels: Node) -> Findings:
    yield from written(TOPOLOGY, term, "topologyKey", syntax.qualified_name, place, required=True)
    yield from each_written(OBJECT_NAME, term, "namespaces", syntax.dns_label, place)
    yield from _label_keys_findings(term, place, labels)
    yield from label_selector_findings(term.get("labelSelector"), f"{place}.labelSelector")
    yield from label_selector_findings(term.get("namespaceSelector"), f"{place}.namespaceSelector")
