"""What a Grafana dashboard asks Prometheus for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SERVING = Path(__file__).parents[2] / "k8s" / "monitoring" / "serving-dashboard.json"
_METRIC = re.compile(r"\bray_[a-z_]+")


def panels(file: Path) -> list[dict[str, Any]]:
    """A dashboard's panels."""
    return list(json.loads(file.read_text(encoding="utf-8"))["panels"])


def queries(file: Path) -> Iterator[str]:
    """PromQL of all panels and variables."""
    for panel in panels(file):
        yield from (target["expr"] for target in panel["targets"])
    for variable in json.loads(file.read_text(encoding="utf-8"))["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def metrics_read(file: Path) -> set[str]:
    """Names of the series that a dashboard reads."""
    return {name for query in queries(file) for name in _METRIC.findall(query)}
