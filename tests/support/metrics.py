"""Exported metrics: recorded without Ray, or as Prometheus reads them from Ray."""

from collections.abc import Mapping

import pytest

Recorded = dict[tuple[str, ...], float]
"""(metric, values of its labels in their declared order) -> value."""


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The metrics that labelling and training export during the test."""
    import pipelines.label.reporting.prometheus
    import pipelines.train.tracking.prometheus

    values: Recorded = {}

    class RecordedMetric:
        def __init__(self, name: str, description: str, labels: tuple[str, ...]) -> None:
            assert description
            self.name, self.labels = name, labels

        def at(self, tags: Mapping[str, str]) -> tuple[str, ...]:
            assert set(tags) == set(self.labels)
            return self.name, *(tags[label] for label in self.labels)

        def inc(self, value: float, tags: Mapping[str, str]) -> None:
            assert value > 0
            values[self.at(tags)] = values.get(self.at(tags), 0) + value

        def set(self, value: float, tags: Mapping[str, str]) -> None:
            values[self.at(tags)] = value

    for module in (pipelines.label.reporting.prometheus, pipelines.train.tracking.prometheus):
        monkeypatch.setattr(module, "Counter", RecordedMetric)
        monkeypatch.setattr(module, "Gauge", RecordedMetric)
    return values


Series = list[tuple[str, dict[str, str], float]]
"""(name, labels, value)."""


def exported() -> Series:
    """The metrics of the first node of the connected Ray, as Prometheus would read them."""
    import httpx
    import ray
    from prometheus_client.parser import text_string_to_metric_families

    text = httpx.get(f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics").text
    return [(s.name, s.labels, s.value) for family in text_string_to_metric_families(text) for s in family.samples]


def total(series: Series, name: str, **labels: str) -> float:
    return sum(value for n, have, value in series if n == name and labels.items() <= have.items())
