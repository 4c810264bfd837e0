"""Queries of dashboards and alerts read metrics that the code defines, and alerts fire on the right series.

tests/integration/test_serve.py and tests/integration/test_stage_metrics.py show that these metrics are exported.
"""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipelines.label.reporting.prometheus
import pipelines.train.tracking.prometheus
import serving.metrics
from pipelines.label.output.counts import Counts
from tests.support.k8s.dashboards import ALERTS, CHAIN, SERVING, metrics_read, panels, queries, rules
from tests.support.k8s.rendering import K8S

DASHBOARDS = (SERVING, CHAIN)
Promtool = Callable[..., str]
_FIRES = Path(__file__).with_name("alerts.yaml")


@pytest.fixture
def defined(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Raystill's metrics as Prometheus names them, with their labels."""
    found: dict[str, set[str]] = {}

    def recorder(*suffixes: str) -> Any:
        def make(name: str, description: str = "", tag_keys: tuple[str, ...] = (), **_: Any) -> None:
            found.update({f"ray_{name}{suffix}": set(tag_keys) for suffix in suffixes})

        return make

    kinds = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_count", "_sum")}
    for module in (serving.metrics, pipelines.label.reporting.prometheus, pipelines.train.tracking.prometheus):
        for kind, suffixes in kinds.items():
            monkeypatch.setattr(module, kind, recorder(*suffixes), raising=False)
    serving.metrics.IngressMetrics()
    serving.metrics.ReplicaMetrics("sums")
    pipelines.label.reporting.prometheus.LabelMetrics("svamp", 1, Counts())
    pipelines.train.tracking.prometheus.TrainMetrics("svamp", 1).close(finished=False)  # ends its thread
    pipelines.train.tracking.prometheus.StepsLeft("svamp")
    return found


def plain(names: set[str]) -> set[str]:
    """Names without the suffixes that Prometheus adds."""
    return {re.sub(r"_(bucket|total|count|sum)$", "", name) for name in names}


@pytest.mark.parametrize("file", [*DASHBOARDS, ALERTS], ids=lambda file: file.stem)
def test_queries_read_raystill_metrics_that_exist(file: Path, defined: dict[str, set[str]]) -> None:
    ours = {name for name in metrics_read(file) if name.startswith("ray_raystill")}
    assert ours <= set(defined)


@pytest.mark.parametrize("file", [*DASHBOARDS, ALERTS], ids=lambda file: file.stem)
def test_queries_read_node_metrics_that_ray_exports(file: Path) -> None:
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    of_nodes = {name for name in metrics_read(file) if name.startswith(("ray_node_", "ray_cluster_"))}
    assert of_nodes <= {f"ray_{name}" for name in METRICS_GAUGES}


def test_alerts_read_metrics_that_the_operator_exports() -> None:
    """Source: ray-operator/controllers/ray/metrics of KubeRay 1.7, and the chart's Service for `job`."""
    exported = {
        "kuberay_service_info": {"namespace", "name"},
        "kuberay_service_condition_ready": {"namespace", "name", "condition"},
        "kuberay_cluster_info": {"namespace", "name", "owner_kind"},
        "kuberay_cluster_condition_provisioned": {"namespace", "name", "condition"},
        "kuberay_job_deployment_status": {"namespace", "name", "deployment_status"},
    }
    for query in queries(ALERTS):
        for name, labels in re.findall(r"\b(kuberay_[a-z_]+)(?:\{([^}]*)\})?", query):
            assert set(re.findall(r"([a-z_]+)=", labels)) <= exported[name], query
    values = [
        yaml.safe_load((K8S / f"platform/operator-values{part}.yaml").read_text()) for part in ("", "-monitoring")
    ]
    monitors = [one["metrics"]["serviceMonitor"] for one in values]
    assert [monitor["enabled"] for monitor in monitors] == [False, True]
    assert monitors[1]["honorLabels"], "otherwise `namespace` is the operator's"


def test_dashboards_show_every_raystill_metric(defined: dict[str, set[str]]) -> None:
    assert plain({one for file in DASHBOARDS for one in metrics_read(file) if "raystill" in one}) == plain(set(defined))


@pytest.mark.parametrize("file", [*DASHBOARDS, ALERTS], ids=lambda file: file.stem)
def test_queries_group_by_labels_that_exist(file: Path, defined: dict[str, set[str]]) -> None:
    for query in queries(file):
        grouped = re.findall(r"(?:by|on) \(([a-z_, ]+)\)", query)
        wanted = {label.strip() for found in grouped for label in found.split(",")} - {"le"}
        for name in re.findall(r"ray_raystill[a-z_]+", query):
            assert wanted <= defined[name], query


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    cases = [case for group in yaml.safe_load(_FIRES.read_text())["tests"] for case in group.get("alert_rule_test", [])]
    for fires in (True, False):
        assert {c["alertname"] for c in cases if bool(c["exp_alerts"]) is fires} == {r["alert"] for r in rules()}


@pytest.fixture
def promtool() -> Promtool:
    """Runs promtool. Returns its output if it fails, else an empty text."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian 13: promtool, older: prometheus)")

    def run(*arguments: str, cwd: Path) -> str:
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, cwd=cwd, check=False)
        return done.stdout + done.stderr if done.returncode else ""

    return run


def test_alerts_fire_in_their_cases(promtool: Promtool, tmp_path: Path) -> None:
    spec = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    (tmp_path / "cases.yaml").write_text(_FIRES.read_text())
    assert not promtool("test", "rules", "cases.yaml", cwd=tmp_path)


def filled(query: str) -> str:
    """The query with values for Grafana's variables."""
    for name, value in {"$__rate_interval": "1m", "$__range": "1h", "$run": ".*", "$model": ".*"}.items():
        query = query.replace(name, value)
    return query


def evaluated(promtool: Promtool, folder: Path, series: list[Any], expression: str, value: int) -> str:
    """What promtool says if the expression has another value in minute 70."""
    expected = {"expr": expression, "eval_time": "70m", "exp_samples": [{"labels": "{}", "value": value}]}
    case = {"interval": "1m", "input_series": series, "promql_expr_test": [expected]}
    (folder / "cases.yaml").write_text(yaml.safe_dump({"tests": [case]}))
    return promtool("test", "rules", "cases.yaml", cwd=folder)


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_prometheus_parses_the_panels_queries(file: Path, promtool: Promtool, tmp_path: Path) -> None:
    expressions = [target["expr"] for panel in panels(file) for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": filled(query)} for number, query in enumerate(expressions)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert not promtool("check", "rules", "rules.yaml", cwd=tmp_path)


@pytest.mark.parametrize("values", ["_x62 1 2 3x10", "7x62 8 9 10x10"], ids=["starts in the range", "exists before"])
@pytest.mark.parametrize("metric", ["ray_raystill_label_engine_deaths_total", "ray_raystill_gpu_seconds_total"])
def test_panels_count_a_counters_first_sample(metric: str, values: str, promtool: Promtool, tmp_path: Path) -> None:
    """Ray exports a counter with its first increase. Both series increase by 3 in the range."""
    (query,) = (query for query in queries(CHAIN) if metric in query and ("increase" in query or "offset" in query))
    # Without labels, rounded, in the counter's unit.
    expression = f"round(sum({filled(query)}) * {3600 if '3600' in query else 1})"
    series = [{"series": f'{metric}{{run="svamp"}}', "values": values}]
    assert not evaluated(promtool, tmp_path, series, expression, 3)


@pytest.mark.parametrize(
    ("values", "hours"),
    [("_x20 1x29 stale", 1), ("1x80", 2), ("1x9 stale _x29 2x29 stale", 2)],
    ids=["part of the range", "all of the range", "before, and part of the range"],
)
def test_gpu_hours_count_only_the_time_in_use(values: str, hours: int, promtool: Promtool, tmp_path: Path) -> None:
    """Two nodes with these GPUs each, and a range of one hour that ends in minute 70."""
    (query,) = (query for query in queries(CHAIN) if "ray_resources" in query and "$__range" in query)
    labels = 'Name="GPU", State="USED"'
    series = [{"series": f'ray_resources{{{labels}, node="{node}"}}', "values": values} for node in ("a", "b")]
    assert not evaluated(promtool, tmp_path, series, f"round({filled(query)}, 0.2)", hours)
