"""Metrics that were told: without Ray, noted; with it, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

Told = dict[tuple[str, ...], float]
"""(metric, values of its labels in the order in which it names them) -> value."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What labelling and training tell while the test runs."""
    import pipelines.label.reporting.prometheus
    import pipelines.train.tracking.prometheus

    found: Told = {}

    class Noted:
        def __init__(self, name: str, description: str, labels: tuple[str, ...]) -> None:
            assert description
            self.name, self.labels = name, labels

        def at(self, tags: Mapping[str, str]) -> tuple[str, ...]:
            assert set(tags) == set(self.labels)
            return self.name, *(tags[label] for label in self.labels)

        def inc(self, value: float, tags: Mapping[str, str]) -> None:
            assert value > 0
            found[self.at(tags)] = found.get(self.at(tags), 0) + value

        def set(self, value: float, tags: Mapping[str, str]) -> None:
            found[self.at(tags)] = value

    for module in (pipelines.label.reporting.prometheus, pipelines.train.tracking.prometheus):
        monkeypatch.setattr(module, "Counter", Noted)
        monkeypatch.setattr(module, "Gauge", Noted)
    return found


Series = list[tuple[str, dict[str, str], float]]
"""(name, labels, value)."""


def exported() -> Series:
    """What Prometheus would read on the first node of the Ray that this process uses."""
    import httpx
    import ray
    from prometheus_client.parser import text_string_to_metric_families

    text = httpx.get(f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics").text
    return [(s.name, s.labels, s.value) for family in text_string_to_metric_families(text) for s in family.samples]


def total(found: Series, name: str, **labels: str) -> float:
    """Sum of the series of a name that have these labels."""
    return sum(value for n, have, value in found if n == name and labels.items() <= have.items())
