"""The queries of Grafana dashboards and alerts."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parents[3] / "k8s" / "monitoring"
SERVING = MONITORING / "serving-dashboard.json"
CHAIN = MONITORING / "chain-dashboard.json"
ALERTS = MONITORING / "alerts.yaml"
_METRIC = re.compile(r"\bray_(?!io_cluster\b)[a-z_]+")  # ray_io_cluster is a label that PodMonitors set


def panels(file: Path) -> list[dict[str, Any]]:
    return list(json.loads(file.read_text(encoding="utf-8"))["panels"])


def rules() -> list[dict[str, Any]]:
    spec = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["spec"]
    return [rule for group in spec["groups"] for rule in group["rules"]]


def queries(file: Path) -> Iterator[str]:
    """PromQL of a dashboard's panels and variables, or of the alerts."""
    if file == ALERTS:
        yield from (rule["expr"] for rule in rules())
        return
    for panel in panels(file):
        yield from (target["expr"] for target in panel["targets"])
    for variable in json.loads(file.read_text(encoding="utf-8"))["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def metrics_read(file: Path) -> set[str]:
    """Names of the series that a file's queries read."""
    return {name for query in queries(file) for name in _METRIC.findall(query)}
