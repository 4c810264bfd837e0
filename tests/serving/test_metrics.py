"""Serve's own series that the dashboard reads are those that the installed Ray exports."""

from __future__ import annotations

import re
from pathlib import Path

import ray.serve

from tests.support.k8s.dashboards import SERVING, metrics_read


def test_the_dashboard_reads_series_that_serve_has() -> None:
    """Above all the wait for a replica, which no series of ours knows. That they are exported: tests/integration/test_serve.py."""
    source = "\n".join(file.read_text(encoding="utf-8") for file in Path(ray.serve.__file__).parent.rglob("*.py"))
    read = {name for name in metrics_read(SERVING) if name.startswith("ray_serve_")}
    assert "ray_serve_request_router_fulfillment_time_ms_bucket" in read
    for name in read:
        assert f'"{re.sub("_bucket$", "", name.removeprefix("ray_"))}"' in source, name
