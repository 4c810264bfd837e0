"""The checker agrees with a real API server, KubeRay's operator and Pod validation on recorded objects."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.checker import verdicts


@pytest.fixture(scope="module")
def recorded(crds: Path) -> list[dict[str, Any]]:
    """Objects with the verdicts apiserver, operator and pods. A rejected object has no verdict of the other two."""
    cases: list[dict[str, Any]] = json.loads((crds / "oracle-verdicts.json").read_text(encoding="utf-8"))["cases"]
    return cases


@pytest.mark.parametrize(("column", "count"), [("apiserver", 54), ("operator", 38), ("pods", 38)])
def test_verdicts_are_those_of_real_servers(column: str, count: int, crds: Path, recorded: list[Any]) -> None:
    cases = [case for case in recorded if case.get(column)]
    found = {case["name"]: verdicts(case["object"], crds).get(column) for case in cases}
    assert found == {case["name"]: case[column] for case in cases}
    assert len(cases) == count
