import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.commands.summary import print_summary, stage_summary
from pipelines.storage.manifest import Manifest
from tests.support.corpora import run_config, word_problem_rows, write_jsonl

MEASURED: dict[str, Any] = {
    "resumed_at_rows": 100,
    "throughput": {"rows": 900, "seconds": 61.5, "replicas": 1.9, "rows_per_s": 14.6, "prompt_tokens_per_s": 3000.0,
                   "output_tokens_per_s": 500.4, "engine_busy_share": 0.973},
    "agreement_histogram": [0, 0, 1, 0, 0, 0, 40, 0, 0, 120],
    "gpu_hours": 0.25,
    "cost": {"amount": 1.0, "basis": "0.25 GPU-hours at 4", "rows": 900, "this_run": None},
}  # fmt: skip
TRAINING: dict[str, Any] = {
    "world_size": 2, "zero_stage": 2, "precision": "fp32", "optimizer_bytes_per_rank": [1, 1],
    "peak_memory_bytes_per_rank": [2**30, 3 * 2**29], "steps": 88, "planned_steps": 88, "started_at_steps": [0], "world_sizes": [2],
    "nodes": [["a", "a"]], "damaged_checkpoints": [], "tokens_per_s": 1234.4, "padding_share": 0.0212, "data_wait_share": 0.001,
    "token_counts": {},
    "loss": {"validation": {"before": {"label": 4.0, "rationale": 5.0}, "during": [], "best": None, "after": {"label": 0.25}}},
}  # fmt: skip


def manifest(**details: Any) -> Manifest:
    return Manifest(
        type="labels", fingerprint="f" * 64, identity={}, config={}, versions={}, provenance={}, created="2026-01-01T00:00:00+00:00",
        timings_s={"scan": 1.0, "engine_start": 98.0, "label": 61.5},
        counts={"read": 1000, "accepted": 161, "rejected": 839, "rejected_by_reason": {"tie": 39, "unparsable": 800},
                "gold": {"with_gold": 10, "agreeing": 9}, "heldout": {}, "notes": {}, "train_examples": 534},
        details={"tokens": {"prompt": 1, "output": 2}, **details},
    )  # fmt: skip


def lines(stage: str, **details: Any) -> list[str]:
    return list(stage_summary(run_config(), stage, manifest(**details), 70.0).lines())


def test_labels_in_words() -> None:
    assert lines("label", **MEASURED) == [
        "1,000 read = 161 accepted + 839 rejected",
        "  unparsable 800 (80.0%)",
        "  tie 39 (3.9%)",
        "the teacher's label is gold in 9 of 10 (90.0%)",
        "14.6 rows/s; tokens/s 3,000 in, 500 out; engine start 1 min 38 s, apart",
        "engines busy 97.3% of the time, 1.9 of them on average",
        "(rates of the 900 rows of the last run)",
        "agreement of the samples:",
        "  0.2 to 0.3  █ 1",
        "  0.6 to 0.7  ██████████ 40",
        "  0.9 to 1.0  ██████████████████████████████ 120",
        "0.25 GPU-hours",
        "estimated cost 1.00: 0.25 GPU-hours at 4",
    ]
    assert lines("label")[-1] == "the teacher's label is gold in 9 of 10 (90.0%)", "what was not measured has no line"


@pytest.mark.parametrize(
    ("labels", "gold", "line", "warned"),
    [
        (["a"] * 19 + ["b"], ["a", "b"] * 10, "labels: a 19 (95%), b 1 (5%)", "19 of 20 rows the label 'a', and people gave it to 10"),
        (["a"] * 19 + ["b"], [None] * 20, "labels: a 19 (95%), b 1 (5%)", "19 of 20 rows the label 'a'. Look"),
        (["a"] * 19 + ["b"], ["a"] * 18 + ["b"] * 2, "labels: a 19 (95%), b 1 (5%)", ""),
        (["a"] * 10, [None] * 10, "labels: a 10 (100%)", ""),
        ([str(i) for i in range(101)], [None] * 101, "", ""),
    ],
)  # fmt: skip
def test_collapsed_labels_are_warned_of(tmp_path: Path, labels: list[str], gold: Any, line: str, warned: str) -> None:
    (tmp_path / "labels" / "data").mkdir(parents=True)
    pq.write_table(pa.table({"label": labels, "gold": gold}), tmp_path / "labels" / "data" / "p.parquet")
    run, made = run_config(output=str(tmp_path)), manifest(parts={"data/p.parquet": len(labels)})
    found = list(stage_summary(run, "label", made, 70.0).lines())
    assert [text for text in found if text.startswith("labels: ")] == ([line] if line else [])
    warnings = [text for text in found if text.startswith("warning: ")]
    assert [warned in text for text in warnings] == ([True] if warned else [])


def test_a_reject_of_each_reason_is_shown(tmp_path: Path) -> None:
    rows = [*word_problem_rows(300), {"id": "late", "input": None}]
    rows[2]["id"] = "r1"
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)
    rejects = {"r250": "unparsable", "r17": "unparsable", "r1": "duplicate", "late": "bad_input", "gone": "tie"}
    table = pa.Table.from_pylist([{"id": one, "reason": reason, "detail": "why"} for one, reason in rejects.items()])
    (tmp_path / "labels" / "rejects").mkdir(parents=True)
    pq.write_table(table, tmp_path / "labels" / "rejects" / "p.parquet")
    counts = manifest().counts | {"rejected_by_reason": Counter(rejects.values())}
    made = manifest(parts={"rejects/p.parquet": 5}).model_copy(update={"counts": counts})
    run = run_config(train=corpus, output=str(tmp_path))
    assert list(stage_summary(run, "label", made, 70.0).lines())[1:5] == [
        "  unparsable 2 (0.2%), such as c.jsonl, row 251: 'Anne has 250 äpples. How many?'",
        "  duplicate 1 (0.1%), such as c.jsonl, row 3: 'Anne has 2 äpples. How many?'",
        """  bad_input 1 (0.1%), such as c.jsonl, row 301: '{"id": "late", "input": null}'""",
        "  tie 1 (0.1%), such as id gone: 'why'",
    ]


def test_training_and_rows_by_node_in_words() -> None:
    assert lines("train", training=TRAINING) == [
        "534 examples, 88 steps, 2 workers, ZeRO stage 2",
        "held-out label loss 4.000 -> 0.250",
        "1,234 tokens/s, 2.1% padding, 0.1% of the time waiting for data",
        "peak memory 1.5 GiB per worker",
        "curves: tensorboard --logdir out/tensorboard",
    ]
    on_two = lines("train", training={**TRAINING, "nodes": [["a", "a"], ["a", "b"]]})
    assert "2 workers on 2 nodes, ZeRO" in on_two[0]
    two = {"10.0.0.2 (ab)": 300, "10.0.0.3 (cd)": 700}
    assert lines("label", nodes=two)[-1] == "rows by node: 10.0.0.3 70.0%, 10.0.0.2 30.0%"
    ten = {f"10.0.0.{i} (ab)": 10 for i in range(10)}
    assert lines("label", nodes=ten)[-1].endswith("10.0.0.7 10.0%, and 2 more")
    assert "node" not in lines("label", nodes={"10.0.0.2 (ab)": 300, "10.0.0.2 (cd)": 9})[-1], "one in two runs"


@pytest.mark.parametrize(("age_s", "reused"), [(0.0, False), (29.0, False), (32.0, True)])
def test_artifacts_older_than_the_stage_are_reused(age_s: float, reused: bool) -> None:
    created = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(timespec="seconds")
    made = manifest(**MEASURED).model_copy(update={"created": created})
    assert stage_summary(run_config(), "label", made, seconds=30.0).reused is reused


def test_json_keeps_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    run = run_config()
    made = {"label": manifest(**MEASURED), "train": manifest(training=TRAINING)}
    print_summary([stage_summary(run, s, m, 0.1) for s, m in made.items()], as_json=True, extra={"report": {}})
    found = json.loads(capsys.readouterr().out)
    label, train = found["stages"]
    assert {key: label[key] for key in MEASURED} == MEASURED
    assert (label["artifact"], label["timings_s"]["engine_start"]) == ("out/labels", 98.0)
    assert (train["training"], train["tensorboard"]) == (TRAINING, "out/tensorboard")
    assert found["report"] == {}
