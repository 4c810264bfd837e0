"""Killed trainings resume with the same command, with other worker numbers, past damaged checkpoints, with equal losses."""

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import COMMAND
from tests.support.label_kills import Family, started, wait
from tests.support.run_files import write_run_file
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

TRAINING: dict[str, Any] = {
    "workers": 2, "epochs": 4, "checkpoint_every_steps": 4, "keep_checkpoints": 3, "learning_rate": 1e-3, "zero_stage": 2,
}  # fmt: skip
GIVE_UP_S = 240.0


@dataclass
class Training:
    """The train stage of a run file, as commands that can be killed."""

    run_file: Path
    output: Path

    def committed(self) -> list[Path]:
        """The checkpoints that Ray Train has committed, oldest first."""
        for snapshot in self.output.glob("training/*/ray-*/checkpoint_manager_snapshot.json"):
            results = json.loads(snapshot.read_text() or "{}").get("checkpoint_results", [])
            return [snapshot.parent / result["checkpoint_dir_name"] for result in results]
        return []

    def is_storing(self) -> bool:
        """True if the folder of a checkpoint exists that Ray Train has not committed yet."""
        folders = set(self.output.glob("training/*/ray-*/checkpoint_2*"))
        return bool(folders - set(self.committed()))

    def kill(self, fault: str, when: Callable[[], bool], *settings: str) -> None:
        """Start the command and kill `driver` (it alone) or `node` (all processes at once) when `when` is true."""
        deadline = time.monotonic() + GIVE_UP_S
        with self._started(settings) as (process, family):
            while not when():
                family.look()
                assert process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.005)
            assert family.kill(fault)
            process.wait(GIVE_UP_S)

    def finish(self, *settings: str) -> dict[str, Any]:
        """Run the command to its end. Returns the training's details in the manifest."""
        with self._started(settings) as (process, family):
            assert wait(process, family) == 0, self.log()
        return dict(json.loads((self.output / "student/manifest.json").read_text())["details"]["training"])

    def log(self) -> str:
        return (self.output / "log").read_text(errors="replace")[-4000:]

    def _started(self, settings: tuple[str, ...]) -> AbstractContextManager[tuple[subprocess.Popen[bytes], Family]]:
        changes = [part for setting in settings for part in ("--set", setting)]
        return started([*COMMAND, "train", str(self.run_file), *changes], self.output / "log")


def begin(tmp_path: Path) -> tuple[Training, Any]:
    output, model = tmp_path / "out", make_model("encoder-decoder", tmp_path / "model")
    write_labels(output, label_rows(60))
    run = make_run(output, model, training=TRAINING)
    return Training(write_run_file(tmp_path, run), output), run


def test_a_killed_driver_resumes_past_a_damaged_checkpoint(tmp_path: Path) -> None:
    training, run = begin(tmp_path)
    training.kill("driver", lambda: len(training.committed()) >= 2)
    assert not (training.output / "student/manifest.json").exists()
    newest = training.committed()[-1]
    part = next(newest.glob("part-00001*.safetensors"))
    part.write_bytes(part.read_bytes()[:-100])

    details = training.finish("training.workers=1")
    assert details["world_sizes"] == [2, 1]
    assert [reason.partition(":")[0] for reason in details["damaged_checkpoints"]] == [newest.name]
    first, second = details["started_at_steps"]
    assert first == 0 < second
    _same_losses(training.output, run, details["steps"], until=second + 10)


@pytest.mark.full
def test_a_machine_lost_during_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    training, run = begin(tmp_path)
    training.kill("node", lambda: bool(training.committed()) and training.is_storing())
    known = [path.name for path in training.committed()]
    assert training.is_storing(), "the kill must fall while a checkpoint is incomplete"
    training.kill("driver", lambda: training.committed()[-1].name not in known, "training.workers=1")
    details = training.finish()
    assert details["world_sizes"] == [2, 1, 2]
    first, second, third = details["started_at_steps"]
    assert first == 0 < second < third
    _same_losses(training.output, run, details["steps"], until=third + 10)


def _same_losses(output: Path, run: Any, steps: int, until: int) -> None:
    """Losses up to a step, also after the resume, equal those of an undisturbed training in plain torch."""
    import torch

    from pipelines.storage.store import Store
    from pipelines.students.init import initial_student
    from pipelines.train.checks import token_settings
    from pipelines.train.data.token_table import Tokens
    from pipelines.train.data.tokenise import tokenise
    from pipelines.train.engine.deepspeed_engine import learning_rate
    from pipelines.train.engine.worker import make_plan
    from tests.support.reference_training import reference_training

    torch.set_num_threads(1)
    store = Store(str(output / "again"))
    tokenise(Store(str(output / "labels")), token_settings(run), store)
    tokens = Tokens(store, output)
    plan = make_plan(tokens, run, "encoder-decoder", 1)
    rates = [learning_rate(s, steps, run.training.learning_rate, run.training.warmup) for s in range(min(until, steps))]
    model, _ = initial_student(run.student, 0)
    wanted = reference_training(model, tokens, plan, rates, clip=run.training.gradient_clipping, decay=0.0)
    history = [json.loads(line) for line in (output / "student/training.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == list(range(plan.steps))
    off = {i: abs(m["label"] / t["label"] - 1) for i, (m, t) in enumerate(zip(history, wanted, strict=False))}
    # Rounding differs with the number of workers, and its effect grows with the steps.
    assert max(off.values()) < 5e-3, off
