"""What the train stage says when a training breaks off, and what its manifest carries on of the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import Store
from pipelines.train.checks import check_counts, token_settings
from pipelines.train.data.token_table import TokenCounts
from pipelines.train.stage import _how_to_go_on, _manifest
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels

OUTPUT = "s3://KEY:SECRET@bucket/run?region=eu-west-1"


def test_no_message_holds_credentials(tmp_path: Path) -> None:
    said = _how_to_go_on(Store(OUTPUT).child("training/ab"))
    assert said.endswith("it lies in s3://bucket/run/training/ab?region=eu-west-1.")
    run = make_run(tmp_path, make_model("decoder-only", tmp_path / "model"))
    nothing = TokenCounts(**dict.fromkeys(TokenCounts.__dataclass_fields__, 0))
    with pytest.raises(UserError, match=r"s3://bucket/run/labels\?region=eu-west-1: no example is left") as refused:
        check_counts(nothing, run.model_copy(update={"output": OUTPUT}), token_settings(run))
    assert "SECRET" not in str(refused.value)


def test_a_students_manifest_carries_the_filters_of_the_labels(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_model("decoder-only", tmp_path / "model"))
    write_labels(tmp_path, label_rows(4))
    labels = require_manifest(Store(str(tmp_path / "labels")), "labels", "label")
    nothing = TokenCounts(**dict.fromkeys(TokenCounts.__dataclass_fields__, 0))
    result: dict[str, Any] = {"history": [], "tokens": 9, "seconds": 1.0, "validation": {}} | dict.fromkeys(
        (
            "parameters", "trained_parameters", "world_size", "optimizer_bytes_per_rank", "peak_memory_bytes_per_rank", "steps",
            "planned_steps", "started_at_steps", "world_sizes", "nodes", "damaged_checkpoints", "padding_share", "data_wait_share",
        )
    )  # fmt: skip

    def filters() -> Any:
        made = _manifest(run, {}, labels, token_settings(run), nothing, result, {})
        return made.provenance["labels"]["filters"]

    assert filters() is None, "labels that do not say"
    labels.identity["teacher"] = {"filters": {"gold": "drop-disagreeing"}}
    assert filters() == {"gold": "drop-disagreeing"}
