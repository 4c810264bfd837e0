"""`raystill evaluate RUN --baseline REPORT`: read before the stage replaces anything, written and shown after it."""

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cluster.cli import main
from pipelines.evaluate.predictions import PREDICTIONS, predictions
from pipelines.scoring.model import REPORT, report_bytes
from pipelines.scoring.system import System
from pipelines.storage.store import Store
from pipelines.tasks import Example
from tests.support import reports
from tests.support.corpora import run_config

EXAMPLES = [Example(f"e{i}", f"premise {i}", "neutral") for i in range(200)]


def write_report(folder: Path, right: int, **changed: Any) -> None:
    labels = ("neutral",) * 200
    student = System("student", labels, tuple(i < right for i in range(200)), labels, confidences=(0.5,) * 200)
    systems = [student, dataclasses.replace(student, name="untrained"), System("teacher"), System("majority")]
    store = Store(str(folder))
    store.write(REPORT, report_bytes(reports.report(baseline=None, **changed)))
    store.write(PREDICTIONS, predictions(EXAMPLES, {system.name: system for system in systems}))


def evaluated(folder: Path, monkeypatch: pytest.MonkeyPatch, baseline: Path, task: str = "nli") -> Result:
    """The command over a stage that replaces the report by one with 130 right."""
    run = run_config(output=str(folder / "out"), task=task)
    (folder / "run.yaml").write_text(yaml.safe_dump(run.model_dump(exclude_unset=True)))

    def stage(*_: Any, **__: Any) -> None:
        Store(str(folder / "out/report")).clear()
        write_report(folder / "out/report", 130)

    monkeypatch.setattr("cluster.session.start.ray_session", lambda *_, **__: nullcontext())
    monkeypatch.setattr("pipelines.evaluate.stage.check_evaluate", lambda _: None)
    monkeypatch.setattr("cluster.commands.staged.StagedRun.run", stage)
    return CliRunner().invoke(main, ["evaluate", str(folder / "run.yaml"), "--baseline", str(baseline)])


def test_the_replaced_report_may_be_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(tmp_path / "out/report", 120, created="2026-01-24T09:00:00+00:00")
    done = evaluated(tmp_path, monkeypatch, tmp_path / "out/report")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out/report/report.json").read_text())["baseline"]
    assert (found["created"][:10], found["better"], found["worse"]) == ("2026-01-24", 10, 0)
    assert "compared with the report of esnli, 2026-01-24: +5.0 points" in " ".join(done.output.split())
    assert "Change since an earlier report" in (tmp_path / "out/report/report.html").read_text()


def test_a_wrong_baseline_ends_the_command_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(tmp_path / "before", 120)
    done = evaluated(tmp_path, monkeypatch, tmp_path / "before", task="arithmetic")
    assert done.exit_code == 2
    assert "its task is nli, the run's is arithmetic" in done.output
    assert not (tmp_path / "out").exists()
