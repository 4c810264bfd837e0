from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from pipelines.data.label_manifest import EngineUsage, LabelCounts, LabelDetails
from pipelines.label.output.commits import ScanRecord
from pipelines.label.output.counts import Counts
from pipelines.label.output.recovery import LabelState
from pipelines.label.reporting.manifest import label_manifest
from pipelines.label.reporting.usage import Work
from tests.support.corpora import run_config, word_problem_rows, write_jsonl


def test_the_manifest_has_the_keys_of_version_0_1(tmp_path: Path) -> None:
    run = run_config(train=write_jsonl(tmp_path / "train.jsonl", word_problem_rows(3)))
    counts = Counts(accepted=2, rejected=Counter(tie=1, engine_error=0), heldout_answered=1, with_gold=3, agreeing=2)
    usage = EngineUsage(engines=1, start_s=1.0, up_s=2.0, busy_s=1.5, deaths=0, ready_for_s=2.0)
    scan = ScanRecord({"train": 3, "heldout": 1}, [], np.empty(0, np.int64))
    manifest = label_manifest(
        run, {"format": 1}, scan, LabelState(counts, {"data/part-000000.parquet": 2}), Work(rows=4, seconds=2.0), usage,
        resumed_at_rows=0, scan_s=0.5,
    )  # fmt: skip
    assert manifest.counts == {
        "read": 3, "accepted": 2, "rejected": 1, "rejected_by_reason": {"tie": 1},
        "heldout": {"read": 1, "answered": 1, "unanswered": 0, "unanswered_by_reason": {}},
        "gold": {"with_gold": 3, "agreeing": 2}, "notes": {},
    }  # fmt: skip
    assert list(manifest.details) == [
        "content", "heldout_content", "prompt_version", "task", "teacher", "tokens", "nodes", "dtypes", "parts", "tally",
        "tokenizer", "resumed_at_rows", "engines", "throughput", "agreement_histogram", "cost", "gpu_hours",
    ]  # fmt: skip
    assert manifest.details["teacher"] == {
        "engine": "echo",
        "model": None,
        "sampling": run.teacher.sampling.model_dump(),
    }
    assert manifest.details["tally"] == counts.as_json()
    assert manifest.timings_s == {"scan": 0.5, "engine_start": 0.0, "label": 2.0}
    assert LabelDetails.model_validate(manifest.details).model_dump() == manifest.details
    assert LabelCounts.model_validate(manifest.counts).gold.agreeing == 2
    assert LabelDetails.model_validate({"parts": {}, "tally": {}}).cost is None, "older artifacts lack keys"
