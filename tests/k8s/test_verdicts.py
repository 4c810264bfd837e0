"""The checker says about every recorded object what a real API server, KubeRay's operator and Pod validation said."""

from __future__ import annotations

from typing import Any

from tests.k8s.checker.crds import Crds


def test_apiserver_column(crds: Crds, verdicts: list[dict[str, Any]]) -> None:
    wrong = []
    for case in verdicts:
        definition = crds.of(case["object"])
        assert definition is not None
        findings = list(definition.findings(case["object"]))
        if ("rejected" if findings else "accepted") != case["apiserver"]:
            wrong.append((case["name"], case["apiserver"], findings))
    assert not wrong
    assert len(verdicts) > 50
