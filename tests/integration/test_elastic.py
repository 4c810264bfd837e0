"""A cluster with fewer slots than requested workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.local_ray import local_ray
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels

pytestmark = [pytest.mark.integration, pytest.mark.deepspeed, pytest.mark.full, pytest.mark.timeout(300)]


def test_a_small_cluster_trains_with_fewer_workers(tmp_path: Path) -> None:
    from pipelines.train.stage import train

    write_labels(tmp_path, label_rows(40))
    with local_ray(num_cpus=2):
        training = {"workers": 4, "min_workers": 1, "epochs": 1}
        manifest = train(make_run(tmp_path, make_model("decoder-only", tmp_path / "model"), training=training))
    assert manifest.details["training"]["world_size"] in (1, 2)
