"""The checker's rules, each by objects that break it alone and by objects that come close."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import pytest

from tests.k8s.cases import CASES, Case
from tests.k8s.cases.bases import BASES
from tests.k8s.checker import RULES, Crds, Problem, check, verdicts

REFUSING = {"apiserver": "rejected", "operator": "refused", "pod": "rejected"}
PLATFORM = ("Gate/RayCronJob", "GatewayClass/istio")
COLUMN = {"apiserver": "apiserver", "operator": "operator", "pod": "pods"}


def problems_of(case: Case, crds: Crds, off: Collection[str] = ()) -> list[Problem]:
    """What the checker says about a case's object, its surroundings aside."""
    options: dict[str, Any] = dict(case.options)
    objects = case.objects()
    if "beside" in options:
        objects = [BASES[options.pop("beside")], *objects]
    return check(objects, crds=crds, off=off, **{"imports": False, "externals": PLATFORM, **options})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_case_breaks_its_rule_and_no_other_of_the_layer(case: Case, crds: Crds) -> None:
    problems = problems_of(case, crds)
    if case.rule is None:
        assert problems == []
        return
    layer = RULES[case.rule].layer
    found = [problem for problem in problems if problem.layer == layer]
    assert {problem.rule for problem in found} == {case.rule}
    assert all(problem.path and problem.wrong and problem.todo for problem in found)
    if layer in COLUMN:
        assert verdicts(case.objects()[0], crds)[COLUMN[layer]] == REFUSING[layer]


@pytest.mark.parametrize(
    ("base", "path", "value", "place"),
    [
        ("Pod", "spec.securityContext.supplementalGroups", [-1], "spec.securityContext.supplementalGroups[0]"),
        ("Pod", "spec.resources.claims", [{"name": "gpu"}], "spec.resources.claims"),
        ("NetworkPolicy", "spec.policyTypes", ["Egres"], "spec.policyTypes[0]"),
        (
            "Pod",
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
            [{"matchExpressions": [{"key": "a b", "operator": "Exists"}]}],
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]"
            ".matchExpressions[0].key",
        ),
    ],
)
def test_a_finding_stands_at_the_field_that_is_wrong(base: str, path: str, value: Any, place: str, crds: Crds) -> None:
    assert [problem.path for problem in problems_of(Case(None, base, {path: value}), crds)] == [place]


@pytest.mark.parametrize("base", BASES)
def test_a_base_has_no_problem(base: str, crds: Crds) -> None:
    assert problems_of(Case(None, base), crds) == []


@cache
def _cases_by_rule() -> dict[str, list[Case]]:
    cases: dict[str, list[Case]] = {}
    for case in CASES:
        if case.rule is not None:
            cases.setdefault(case.rule, []).append(case)
    return cases


@pytest.mark.parametrize("rule", sorted(RULES))
def test_without_its_rule_a_case_passes(rule: str, crds: Crds) -> None:
    """Every rule is needed: switched off, each of its cases goes through the layer that refused it."""
    cases = _cases_by_rule().get(rule, [])
    assert cases, f"no case breaks {rule}"
    layer = RULES[rule].layer
    for case in cases:
        assert [problem for problem in problems_of(case, crds, off={rule}) if problem.layer == layer] == []
