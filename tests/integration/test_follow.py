"""`raystill status --follow` beside a `run`: a second process sees each stage at work, and ends with the last one."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import COMMAND, running
from tests.support.corpora import write_jsonl
from tests.support.endpoints import wait_until
from tests.support.run_files import write_run_file
from tests.support.tiny_runs import label_rows, make_model, make_run

pytestmark = [pytest.mark.integration, pytest.mark.deepspeed, pytest.mark.timeout(600)]


@pytest.mark.full
def test_follow_sees_every_stage_of_a_run(tmp_path: Path) -> None:
    rows = [{"id": row["id"], "input": row["input"], "label": row["gold"]} for row in label_rows(80)]
    heldout = [{**row, "id": f"held-{row['id']}", "input": row["input"].replace("Anne", "Tom")} for row in rows[60:]]
    corpus = {
        "train": write_jsonl(tmp_path / "train.jsonl", rows[:60]),
        "test": write_jsonl(tmp_path / "test.jsonl", heldout),
    }
    run = make_run(
        tmp_path / "out", make_model("decoder-only", tmp_path / "model"), corpus=corpus,
        teacher={"engine": "echo", "latency_s": 0.5, "vllm": {"max_num_seqs": 4}},
        evaluation={"engine": "transformers", "batch_size": 4, "max_new_tokens": 8},
    )  # fmt: skip
    file = write_run_file(tmp_path, run)
    with running("run", str(file), log=tmp_path / "log") as process:
        wait_until(
            lambda: (tmp_path / "out/labels/progress.json").exists() or process.poll() is not None, 240, every_s=0.1,
            of=lambda: (tmp_path / "log").read_text()[-3000:],
        )  # fmt: skip
        follow = [*COMMAND, "status", str(file), "--follow", "--json"]
        followed = subprocess.run(follow, capture_output=True, text=True, check=False)
    assert followed.returncode == 0, followed.stderr + (tmp_path / "log").read_text()[-3000:]
    seen = [json.loads(line)["stages"] for line in followed.stdout.splitlines()]
    at_work = [(stage, state) for states in seen for stage, state in states.items() if state["state"] == "running"]
    stages = list(dict.fromkeys(stage for stage, _ in at_work))
    assert stages == ["label", "train", "evaluate"], (tmp_path / "log").read_text()[-3000:]
    assert {state["pid"] for _, state in at_work} == {process.pid}
    counted = [state for stage, state in at_work if stage == "label" and state["done"] > 0]
    assert any(state["rows_per_s"] > 0 for state in counted)
    assert {state["phase"] for _, state in at_work} >= {"starting workers"}, "long before the first step"
    assert [state["state"] for state in seen[-1].values()] == ["finished"] * 3
    assert not list((tmp_path / "out").rglob("progress.json"))
