"""Commands on a terminal: it shows our own lines alone, and a signal leaves nothing behind."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import environment
from tests.support.on_terminal import on_terminal, wait_until_gone
from tests.support.run_files import label_run, word_rows, write_run_file
from tests.support.tiny_runs import label_rows, make_model, write_labels

pytestmark = pytest.mark.integration
END = "raystill: Interrupted. Finished work is kept; run the same command to resume."
OURS = re.compile(rf"sums: |warning: |train: |(label|train) +[━╸╺ ]*|{re.escape(END)}|\^C")
TRAINING = {
    "workers": 1,
    "gpus_per_worker": 0,
    "zero_stage": 0,
    "precision": "fp32",
    "tokens_per_batch": 512,
    "epochs": 5000,
}


@pytest.mark.parametrize(
    ("command", "number", "begun"),
    [
        pytest.param("label", signal.SIGTERM, "starting engine", marks=pytest.mark.full),
        pytest.param("train", signal.SIGINT, "step ", marks=pytest.mark.deepspeed),
    ],
)
def test_a_signal_leaves_our_lines_and_nothing_running(tmp_path: Path, command: str, number: int, begun: str) -> None:
    sections: dict[str, Any] = {"training": TRAINING}
    if command == "train":
        sections["student"] = {"model": make_model("encoder-decoder", tmp_path / "model"), "init": {"kind": "random"}}
        write_labels(tmp_path / "out", label_rows(60))
    run = label_run(tmp_path, word_rows(40), {"latency_s": 20.0}, name="sums", **sections)
    env = environment() | {"RAYSTILL_CACHE": str(tmp_path / "cache")}
    shown = on_terminal(command, str(write_run_file(tmp_path, run)), env=env, begun=begun, number=number)
    assert (shown.exit_code, [line for line in shown.lines if not OURS.match(line)]) == (130, [])
    wait_until_gone(env["RAY_TMPDIR"])
