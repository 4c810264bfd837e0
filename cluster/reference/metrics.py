"""docs/reference/metrics.md: the series that Prometheus reads."""

from __future__ import annotations

from cluster.reference.fields import table
from cluster.reference.source import calls

_HEAD = """# Metrics

Ray exports these series on the metrics port of each node, with the prefix `ray_`. Counters end in `_total`,
histograms have `_bucket`, `_sum` and `_count`.
Replicas, queues and autoscaling of the endpoint are series of Ray Serve.

"""
_PARTS = {"pipelines": "Stages", "serving": "Endpoint"}


def metrics_page() -> str:
    """The page."""
    text = _HEAD
    for package, title in _PARTS.items():
        rows = {}
        for call in calls(package, {"Counter", "Gauge", "Histogram"}):
            if call.arguments and str(call.arguments[0]).startswith("raystill_"):
                name, *rest = call.arguments
                meaning = call.named.get("description") or rest[0]
                labels = call.named.get("tag_keys") or rest[1]
                rows[name] = [f"`{name}`", call.function.lower(), ", ".join(labels), meaning]
        text += f"## {title}\n\n{table(['series', 'kind', 'labels', 'meaning'], list(rows.values()))}\n"
    return text
