"""The dashboard reads metrics that the installed Ray exports."""

import re
from pathlib import Path

import ray.serve

from tests.support.k8s.dashboards import SERVING, metrics_read


def test_the_dashboard_reads_metrics_that_serve_has() -> None:
    """Above all the wait for a replica, which no metric of ours shows. tests/integration/test_serve.py shows their export."""
    source = "\n".join(file.read_text(encoding="utf-8") for file in Path(ray.serve.__file__).parent.rglob("*.py"))
    read = {name for name in metrics_read(SERVING) if name.startswith("ray_serve_")}
    assert "ray_serve_request_router_fulfillment_time_ms_bucket" in read
    for name in read:
        assert f'"{re.sub("_bucket$", "", name.removeprefix("ray_"))}"' in source, name
