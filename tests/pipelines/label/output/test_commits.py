"""Records of version 0.1 open, and records are still written in its form."""

from __future__ import annotations

import json

from pipelines.data.reader import FileRange
from pipelines.label.output.commits import Commit, ScanSummary
from pipelines.label.output.counts import Counts

TALLY = {
    "accepted": 2, "rejected": {"tie": 1}, "heldout_answered": 0, "heldout_rejected": {}, "with_gold": 2, "agreeing": 1,
    "prompt_tokens": 9, "output_tokens": 6, "notes": {}, "agreements": {"9": 2}, "nodes": {"n": 3}, "dtypes": {}, "content": 7,
    "heldout_content": 0,
}  # fmt: skip
SPLIT = {"name": "train", "uri": "s3://b/c.jsonl", "kind": "jsonl", "start": 0, "end": 9, "rows": None}
RECORD = {
    "parts": {"data/part-000000.parquet": 2}, "tally": TALLY, "removed": ["rejects/part-000003.parquet"],
    "scan": {"rows": {"train": 3, "heldout": 0}, "splits": [SPLIT]},
}  # fmt: skip


def test_a_record_of_0_1_is_read_and_written_unchanged() -> None:
    data = json.dumps(RECORD).encode()
    commit = Commit.from_json(data)
    assert commit.counts == Counts.from_json(TALLY)
    assert commit.scan == ScanSummary({"train": 3, "heldout": 0}, [FileRange("train", "s3://b/c.jsonl", "jsonl", 0, 9)])
    assert commit.as_json() == data
    without_scan = json.dumps({**RECORD, "scan": None}).encode()
    assert Commit.from_json(without_scan).as_json() == without_scan
