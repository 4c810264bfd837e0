"""What commands refuse before Ray is started and anything is labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from cluster.cli import main
from tests.support.artifacts import write_corpus

SAID = "corpus.test: 4 of its 5 examples have the input of a training row"


def run_file(folder: Path, shared: int) -> str:
    """A run whose test set shares so many of its five inputs with train."""
    write_corpus(folder / "train.jsonl", [{"id": f"t{i}", "input": f"question {i}", "label": "3"} for i in range(5)])
    held = [{"id": f"h{i}", "input": f"question {i if i < shared else 90 + i}", "label": "3"} for i in range(5)]
    write_corpus(folder / "test.jsonl", held)
    run = {
        "name": "leaky", "output": str(folder / "out"), "task": "arithmetic",
        "corpus": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "validation": 0.0},
        "teacher": {"engine": "echo"}, "student": {"model": "some/model"},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return str(folder / "run.yaml")


class StartedError(Exception):
    """Ray would have been started."""


def started(*_: Any, **__: Any) -> None:
    raise StartedError


@pytest.mark.parametrize("command", ["run", "compare"])
def test_a_test_set_that_is_trained_on_is_refused_before_anything_is_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("cluster.session.start.ray_session", started)
    done = CliRunner().invoke(main, [command, run_file(tmp_path, shared=4)])
    assert (done.exit_code, SAID in done.output) == (2, True), done.output
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(main, [command, run_file(tmp_path, shared=2)])
    assert isinstance(done.exception, StartedError)


def test_labelling_alone_scores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.session.start.ray_session", started)
    done = CliRunner().invoke(main, ["label", run_file(tmp_path, shared=4)])
    assert isinstance(done.exception, StartedError)


def test_an_evaluation_without_a_student_waits_for_no_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.session.start.ray_session", started)
    done = CliRunner().invoke(main, ["evaluate", run_file(tmp_path, shared=0)])
    assert (done.exit_code, "no finished student" in done.output) == (2, True), done.output


def test_the_help_says_of_which_reports_a_baseline_is() -> None:
    assert "An earlier report of `raystill evaluate`" in " ".join(
        CliRunner().invoke(main, ["evaluate", "-h"]).output.split()
    )
