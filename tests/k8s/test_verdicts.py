"""The checker says about every recorded object what a real API server, KubeRay's operator and Pod validation said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.k8s.checker import Crds, verdicts

CHECKER = Path(__file__).parent / "checker"

COLUMNS = ("apiserver", "operator", "pods")


@pytest.mark.parametrize("column", COLUMNS)
def test_column(column: str, crds: Crds, verdicts_recorded: list[dict[str, Any]]) -> None:
    """Objects that the API server rejected have no verdict in the other columns."""
    cases = [case for case in verdicts_recorded if case.get(column)]
    wrong = {
        case["name"]: said for case in cases if (said := verdicts(case["object"], crds).get(column)) != case[column]
    }
    assert wrong == {}
    assert len(cases) > 30


def test_no_rule_is_made_for_a_recorded_case(verdicts_recorded: list[dict[str, Any]]) -> None:
    """The rules come from the API's and the operator's semantics: the code names no recorded object."""
    source = "".join(file.read_text(encoding="utf-8") for file in CHECKER.rglob("*.py"))
    names = [text for case in verdicts_recorded for text in (case["name"], case["object"]["metadata"]["name"])]
    assert [name for name in names if name in source] == []
