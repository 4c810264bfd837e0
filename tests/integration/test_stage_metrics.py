"""Metrics of labelling and training as Prometheus reads them: values of the manifests, names of the dashboard."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.endpoints import wait_until
from tests.support.k8s.dashboards import CHAIN, SERVING, metrics_read
from tests.support.metrics import Series, exported, total
from tests.support.run_files import label_run, word_rows
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ROWS = 200
NOT_HERE = {"ray_raystill_label_engine_deaths_total"} | {
    f"ray_cluster_{kind}_nodes" for kind in ("active", "idle", "pending")
}
"""Metrics that need a dead engine or an autoscaler."""


@dataclass
class Labelled:
    details: dict[str, Any]
    seen: set[str]
    """Exported metric names."""


@pytest.fixture(scope="module")
def labelled(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """Two runs: `kept` accepts all rows, `dropped` rejects all."""
    folder = tmp_path_factory.mktemp("labelled")
    seen: set[str] = set()
    with watching(seen):
        done = label(folder, "kept", ROWS, latency_s=2.0, vllm={"max_num_seqs": 32})
    label(folder, "dropped", 40, filters={"min_rationale_words": 50})
    return Labelled(done.details, seen)


def label(folder: Path, name: str, rows: int, **teacher: Any) -> Any:
    from pipelines.label.stage import label

    folder.joinpath(name).mkdir()
    teacher = {"latency_s": 0.01, "gpus_per_replica": 1, **teacher}
    return label(label_run(folder / name, word_rows(rows), teacher, name=name, labelling={"max_reject_share": 1.0}))


@contextmanager
def watching(seen: set[str]) -> Iterator[None]:
    """Records every exported name while the block runs."""
    over = threading.Event()

    def record() -> None:
        while not over.wait(0.5):
            seen.update(name for name, _, _ in exported())

    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def counted(name: str, value: float, **labels: str) -> Series:
    """The exported metrics, once the series with these labels reach this value."""

    def found() -> float:
        return total(exported(), name, **labels)

    wait_until(lambda: found() == pytest.approx(value), 30.0, of=lambda: (name, labels, value, found()))
    return exported()


def test_labelling_exports_what_its_manifest_says(labelled: Labelled) -> None:
    gauges = {"ray_raystill_label_rows_left", "ray_raystill_stage_done", "ray_raystill_stage_total"}
    assert gauges <= labelled.seen, "a gauge was not exported during the run"
    counted("ray_raystill_label_rows_total", 40, run="dropped", outcome="rationale_length")
    counted("ray_raystill_label_rows_total", ROWS, run="kept", outcome="accepted")
    tokens = labelled.details["tokens"]
    counted("ray_raystill_label_tokens_total", tokens["prompt"], run="kept", direction="in")
    counted("ray_raystill_label_tokens_total", tokens["output"], run="kept", direction="out")
    seconds = 3600 * labelled.details["gpu_hours"]
    counted("ray_raystill_gpu_seconds_total", seconds, run="kept", stage="label")
    counted("ray_raystill_label_engine_seconds_total", seconds, run="kept")


@pytest.mark.full
def test_training_exports_the_loss_that_the_dashboard_reads(labelled: Labelled, tmp_path: Path) -> None:
    from pipelines.train.stage import train

    write_labels(tmp_path, label_rows(40))
    seen: set[str] = set()
    with watching(seen):
        run = make_run(tmp_path, make_model("decoder-only", tmp_path / "model"), training={"workers": 1})
        done = train(run.model_copy(update={"name": "measured"}))
    assert {"ray_raystill_train_loss", "ray_raystill_train_steps_left", "ray_raystill_stage_done"} <= seen
    found = counted("ray_raystill_train_tokens_total", done.counts["tokens"], run="measured")
    of_an_endpoint = {name for name in metrics_read(SERVING) if name.startswith(("ray_serve_", "ray_raystill_re"))}
    here = metrics_read(CHAIN) - of_an_endpoint - NOT_HERE
    assert here <= {name for name, _, _ in found} | seen | labelled.seen
