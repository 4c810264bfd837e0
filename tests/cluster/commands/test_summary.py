"""What a command says at its end."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cluster.commands.summary import describe, print_summary, stage_summary
from pipelines.config.load import parse_run
from pipelines.storage.manifest import Manifest

RUN = parse_run(
    {
        "name": "small",
        "output": "out",
        "task": "arithmetic",
        "corpus": {"train": "train.jsonl"},
        "teacher": {"engine": "echo"},
        "student": {"model": "some/model"},
    }
)
FIGURES: dict[str, Any] = {
    "resumed_at_rows": 100,
    "throughput": {"rows": 900, "seconds": 61.5, "replicas": 1.9, "rows_per_s": 14.6, "prompt_tokens_per_s": 3000.0,
                   "output_tokens_per_s": 500.4, "engine_busy_share": 0.973},
    "agreement_histogram": [0, 0, 1, 0, 0, 0, 40, 0, 0, 120],
    "gpu_hours": 0.25,
    "cost": {"amount": 1.0, "basis": "0.25 GPU-hours at 4", "rows": 900},
}  # fmt: skip


def manifest(details: dict[str, Any]) -> Manifest:
    return Manifest(
        type="labels", fingerprint="f" * 64, identity={}, config={}, versions={}, provenance={}, created="2026-01-01T00:00:00+00:00",
        timings_s={"scan": 1.0, "engine_start": 98.0, "label": 61.5},
        counts={"read": 1000, "accepted": 161, "rejected": 839, "rejected_by_reason": {"tie": 39, "unparsable": 800},
                "gold": {"with_gold": 10, "agreeing": 9}, "heldout": {}, "notes": {}},
        details={"tokens": {"prompt": 1, "output": 2}, **details},
    )  # fmt: skip


def test_label_in_words() -> None:
    assert describe(stage_summary(RUN, "label", manifest(FIGURES), 70.0)).splitlines() == [
        "1,000 read = 161 accepted + 839 rejected",
        "  unparsable 800 (80.0%)",
        "  tie 39 (3.9%)",
        "the teacher's label is gold in 9 of 10 (90.0%)",
        "14.6 rows/s; tokens/s 3,000 in, 500 out; engine start 1 min 38 s, apart",
        "engines busy 97.3% of the time, 1.9 of them on average",
        "(rates of the 900 rows that the last run asked)",
        "agreement of the samples:",
        "  0.2 to 0.3  █ 1",
        "  0.6 to 0.7  ██████████ 40",
        "  0.9 to 1.0  ██████████████████████████████ 120",
        "0.25 GPU-hours",
        "estimated cost 1.00: 0.25 GPU-hours at 4",
    ]


def test_labels_without_figures_have_none() -> None:
    lines = describe(stage_summary(RUN, "label", manifest({}), 70.0)).splitlines()
    assert lines[-1] == "the teacher's label is gold in 9 of 10 (90.0%)"


def test_label_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary([stage_summary(RUN, "label", manifest(FIGURES), 0.1)], as_json=True)
    (stage,) = json.loads(capsys.readouterr().out)["stages"]
    assert {key: stage[key] for key in FIGURES} == FIGURES
    assert stage["reused"] is True, "it was made months before"
    assert stage["timings_s"]["engine_start"] == 98.0


@pytest.mark.parametrize(("age_s", "reused"), [(0.0, False), (29.0, False), (32.0, True)])
def test_what_was_made_before_the_stage_began_is_reused(age_s: float, reused: bool) -> None:
    """The stage took 30 s; what its parts took says nothing: those of a training that went on are of both attempts."""
    made = manifest(FIGURES)
    made.created = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(timespec="seconds")
    assert stage_summary(RUN, "label", made, 30.0)["reused"] is reused


def test_rows_by_node_in_words() -> None:
    def said(nodes: dict[str, int]) -> str:
        return describe(stage_summary(RUN, "label", manifest({"nodes": nodes}), 70.0)).splitlines()[-1]

    assert (
        said({"10.0.0.2 (ab)": 300, "10.0.0.3 (cd)": 700}) == "rows by node: 10.0.0.3 (cd) 70.0%, 10.0.0.2 (ab) 30.0%"
    )
    assert said({f"10.0.0.{i} (ab)": 10 for i in range(10)}).endswith("10.0.0.7 (ab) 10.0%, and 2 more")
    assert "node" not in said({"10.0.0.2 (ab)": 300})


def test_training_in_words() -> None:
    training = {
        "steps": 88, "world_size": 2, "zero_stage": 2, "tokens_per_s": 1234.4, "padding_share": 0.0212, "data_wait_share": 0.001,
        "peak_memory_bytes_per_rank": [2**30, 3 * 2**29],
        "loss": {"validation": {"before": {"label": 4.0, "rationale": 5.0}, "after": {"label": 0.25}}},
    }  # fmt: skip
    found = manifest({"training": training})
    found.counts = {"train_examples": 534}
    spread = manifest({"training": {**training, "nodes": [["a", "a"], ["a", "b"]]}})
    spread.counts = found.counts
    assert "2 workers on 2 nodes, ZeRO" in describe(stage_summary(RUN, "train", spread, 300.0))
    assert describe(stage_summary(RUN, "train", found, 300.0)).splitlines() == [
        "534 examples, 88 steps, 2 workers, ZeRO stage 2",
        "held-out label loss 4.000 -> 0.250",
        "1,234 tokens/s, 2.1% padding, 0.1% of the time waiting for data",
        "peak memory 1.5 GiB a worker",
        "curves: tensorboard --logdir out/tensorboard",
    ]
