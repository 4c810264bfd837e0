"""The dashboards' queries against the metrics as the code defines them. That an endpoint exports them: tests/integration/test_serve.py."""

from __future__ import annotations

import re
from typing import Any

import pytest

from serving import metrics
from tests.k8s.dashboards import SERVING, metrics_read, panels, queries

_LABELS = re.compile(r"(?:by|on) \(([a-z_, ]+)\)")


@pytest.fixture
def defined(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Our metrics as Prometheus names them, with their labels."""
    found: dict[str, set[str]] = {}

    def noted(*suffixes: str) -> Any:
        def make(name: str, *, tag_keys: tuple[str, ...], **_: Any) -> None:
            found.update({f"ray_{name}{suffix}": set(tag_keys) for suffix in suffixes})

        return make

    monkeypatch.setattr(metrics, "Counter", noted("_total"))
    monkeypatch.setattr(metrics, "Histogram", noted("_bucket", "_count", "_sum"))
    metrics.IngressMetrics()
    metrics.ReplicaMetrics("sums")
    return found


def test_every_query_reads_metrics_that_there_are(defined: dict[str, set[str]]) -> None:
    ours = {name for name in metrics_read(SERVING) if name.startswith("ray_raystill")}
    assert ours <= set(defined)
    shown = {name.removesuffix("_bucket").removesuffix("_total").removesuffix("_count") for name in ours}
    assert shown == {
        name.removesuffix("_bucket").removesuffix("_total") for name in defined if not name.endswith(("_count", "_sum"))
    }


def test_every_query_groups_by_labels_that_there_are(defined: dict[str, set[str]]) -> None:
    for query in queries(SERVING):
        names = re.findall(r"ray_raystill[a-z_]+", query)
        wanted = {label.strip() for found in _LABELS.findall(query) for label in found.split(",")} - {"le"}
        for name in names:
            assert wanted <= defined[name], query


def test_panels_do_not_lie_on_each_other() -> None:
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels(SERVING)]
    assert len(set(places)) == len(places)
    assert len({p["id"] for p in panels(SERVING)}) == len(places)
    assert all(p["description"] for p in panels(SERVING))
