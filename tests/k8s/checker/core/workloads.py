"""Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob and PodDisruptionBudget beyond their schemas."""

from __future__ import annotations

import re
from typing import Any

from tests.k8s.checker.nodes import Node, mapping
from tests.k8s.checker.operator.cronspec import schedule_error
from tests.k8s.checker.pods.selectors import label_selector_findings, matches
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.quantities import integer

SELECTOR = rule("apiserver/workload-selector", "let the selector name labels that the template has")
SELECTOR_SYNTAX = rule("apiserver/selector-syntax", "write labels, operators and values as a selector takes them")
COUNT = rule("apiserver/negative-count", "take 0 or more")
BUDGET = rule("apiserver/disruption-budget", "set minAvailable or maxUnavailable, a number or a share like 50%")
SCHEDULE = rule("apiserver/cron-schedule", "write five cron fields")
CHOICE = rule("apiserver/choice", "take one of the allowed values")
PARALLEL = rule("apiserver/rolling-update", "let at least one of maxSurge and maxUnavailable be above 0")

_COUNTS = ("replicas", "backoffLimit", "completions", "parallelism", "ttlSecondsAfterFinished", "minReadySeconds")


def workload_findings(item: Node) -> Findings:
    """In: an object with Pods of its own. Out: selectors that miss them, counts below zero, impossible updates."""
    kind, spec = str(item.get("kind")), mapping(item, "spec")
    if kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"):
        selector = mapping(spec, "selector")
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            yield SELECTOR.at("spec.selector", "empty")
        elif not matches(selector, mapping(spec, "template.metadata.labels")):
            yield SELECTOR.at("spec.selector", "does not match the labels of spec.template")
    for name in _COUNTS:
        if (spec.get(name) or 0) < 0:
            yield COUNT.at(f"spec.{name}", f"{spec[name]}")
    rolling = mapping(spec, "strategy.rollingUpdate")
    if rolling and all(share(rolling.get(name, 1)) == 0 for name in ("maxSurge", "maxUnavailable")):
        yield PARALLEL.at("spec.strategy.rollingUpdate", "maxSurge and maxUnavailable are both 0")
    if kind == "CronJob":
        wrong = schedule_error(str(spec.get("schedule", "")))
        if wrong:
            yield SCHEDULE.at("spec.schedule", wrong)
        yield from choice(spec, "concurrencyPolicy", ("Allow", "Forbid", "Replace"), "spec")


def budget_findings(item: Node) -> Findings:
    """A PodDisruptionBudget: one bound of the two, well written."""
    spec = mapping(item, "spec")
    bounds = {name: spec[name] for name in ("minAvailable", "maxUnavailable") if spec.get(name) is not None}
    if len(bounds) > 1:
        yield BUDGET.at("spec", "minAvailable and maxUnavailable are set together")
    for name, bound in bounds.items():
        if share(bound) is None:
            yield BUDGET.at(f"spec.{name}", f"{bound!r} is neither a number from 0 nor a share from 0% to 100%")
    yield from choice(spec, "unhealthyPodEvictionPolicy", ("IfHealthyBudget", "AlwaysAllow"), "spec")
    yield from selector_findings(spec.get("selector"), "spec.selector")


def selector_findings(selector: Any, path: str) -> Findings:
    """A LabelSelector outside a Pod."""
    for finding in label_selector_findings(selector, path):
        yield SELECTOR_SYNTAX.at(finding.path, finding.wrong)


def share(value: Any) -> int | None:
    """A count or the number before a %, None where it is neither: 3 -> 3, "50%" -> 50."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value >= 0 else None
    percent = integer(str(value)[:-1]) if re.fullmatch(r"[0-9]+%", str(value)) else None
    return percent if percent is not None and percent <= 100 else None


def choice(node: Node, key: str, allowed: tuple[str, ...], path: str) -> Findings:
    """An enumerated field that the published schemas leave open."""
    yield from choice_of(node.get(key), allowed, f"{path}.{key}")


def choice_of(value: Any, allowed: tuple[str, ...], path: str) -> Findings:
    """As `choice`, for a value that is no field, such as an element of a list."""
    if value not in (None, "", *allowed):
        yield CHOICE.at(path, f"{value!r}, allowed are {', '.join(allowed)}")
