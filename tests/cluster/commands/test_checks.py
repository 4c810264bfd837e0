"""What commands refuse before Ray starts: nothing is written, and the one message comes first."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from cluster.cli import main
from pipelines.config.load import load_run
from tests.support import planned_runs
from tests.support.corpora import write_jsonl

LEAKY = "corpus.test: 4 of its 5 examples have the input of a training row"
NO_LOGPROBS = "learns the teacher's distributions over tokens, and teacher.token_logprobs is not set"
TOKEN_KD = {
    "student": {"model": "some/model", "method": "token-kd"},
    "compare": {"methods": ["finetune", "token-kd"]},
}


class StartedError(Exception):
    """Ray would have been started, with nodes for the stages in `args`."""


@pytest.fixture(autouse=True)
def ray_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(run: Any, stages: list[str], **_: Any) -> None:
        raise StartedError(*stages)

    monkeypatch.setattr("cluster.session.start.ray_session", started)


def write_run(folder: Path, shared: int = 0, **sections: Any) -> str:
    """A run whose test set shares `shared` of its five inputs with train."""
    train = [{"id": f"t{i}", "input": f"question {i}", "label": "3"} for i in range(5)]
    test = [{"id": f"h{i}", "input": f"question {i if i < shared else 90 + i}", "label": "3"} for i in range(5)]
    run = {
        "name": "leaky", "output": str(folder / "out"), "task": "arithmetic", "teacher": {"engine": "echo"},
        "student": {"model": "some/model"},
        "corpus": {
            "train": write_jsonl(folder / "train.jsonl", train), "test": write_jsonl(folder / "test.jsonl", test), "validation": 0.0,
        },
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump({**run, **sections}))
    return str(folder / "run.yaml")


@pytest.mark.parametrize("command", ["run", "compare", "plan"])
@pytest.mark.parametrize(("shared", "sections", "message"), [(4, {}, LEAKY), (0, TOKEN_KD, NO_LOGPROBS)])
def test_a_run_that_cannot_end_well_never_begins(
    tmp_path: Path, command: str, shared: int, sections: dict[str, Any], message: str
) -> None:
    done = CliRunner().invoke(main, [command, write_run(tmp_path, shared, **sections)])
    assert (done.exit_code, message in done.output) == (2, True), done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("command", "shared"), [("run", 2), ("compare", 2), ("label", 4)])
def test_a_sound_run_starts_ray(tmp_path: Path, command: str, shared: int) -> None:
    """Labelling alone scores nothing, whatever the test set shares with train."""
    done = CliRunner().invoke(main, [command, write_run(tmp_path, shared)])
    assert isinstance(done.exception, StartedError)


def test_nodes_are_requested_for_unfinished_stages(tmp_path: Path) -> None:
    run_file = planned_runs.write_run(tmp_path)
    planned_runs.finish_labels(load_run(run_file))
    started = {
        command: CliRunner().invoke(main, [command, run_file]).exception for command in ("label", "run", "compare")
    }
    assert {command: error.args for command, error in started.items() if error} == {
        "label": (), "run": ("train", "evaluate"), "compare": ("train", "evaluate"),
    }  # fmt: skip


@pytest.mark.parametrize(("finished", "nodes"), [(True, ()), (False, ("train", "evaluate"))])
def test_a_finished_comparison_needs_no_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool, nodes: tuple[str, ...]
) -> None:
    run_file = planned_runs.write_run(tmp_path)
    planned_runs.finish_labels(load_run(run_file))
    monkeypatch.setattr("pipelines.compare.stage.is_finished", lambda run: finished)
    error = CliRunner().invoke(main, ["compare", run_file]).exception
    assert isinstance(error, StartedError)
    assert error.args == nodes


@pytest.mark.parametrize("command", ["label", "run", "compare"])
def test_artifacts_of_other_settings_are_refused(tmp_path: Path, command: str) -> None:
    run_file = planned_runs.write_run(tmp_path)
    planned_runs.finish_labels(load_run(run_file))
    done = CliRunner().invoke(main, [command, run_file, "--set", "corpus.limit=9"])
    assert (done.exit_code, "(corpus.limit: null -> 9)" in done.output) == (2, True), done.output


def test_an_evaluation_needs_a_student(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["evaluate", write_run(tmp_path)])
    assert (done.exit_code, "no finished student" in done.output) == (2, True), done.output


def test_submit_checks_what_needs_no_input(tmp_path: Path) -> None:
    run_file = write_run(tmp_path, **TOKEN_KD)
    done = CliRunner().invoke(main, ["submit", run_file, "--stage", "run", "--address", "http://127.0.0.1:1"])
    assert (done.exit_code, NO_LOGPROBS in done.output) == (2, True), done.output
