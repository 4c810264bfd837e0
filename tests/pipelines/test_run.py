from pathlib import Path

import pytest

from pipelines.config import RunConfig
from pipelines.config.load import load_run
from pipelines.errors import UserError
from pipelines.run import STAGES, Stage, decisions
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import write_manifest
from pipelines.storage.store import Store
from tests.support.planned_runs import begin_labels, finish_labels, finish_report, finish_student, write_run


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    return write_run(tmp_path)


def actions(run: RunConfig, stages: tuple[Stage, ...] = STAGES, *, replace: bool = False) -> list[str]:
    return [decision.action.value for decision in decisions(run, stages, replace=replace).values()]


def test_stages_are_reused_once_finished(run_file: str) -> None:
    run = load_run(run_file)
    assert actions(run) == ["make", "make", "make"]
    finish_labels(run)
    assert actions(run) == ["reuse", "make", "make"]
    Store(run.output).write("training/0123/tokens", b"of another training")
    assert actions(run, ("train",)) == ["make"]
    finish_student(run)
    assert actions(run) == ["reuse", "reuse", "make"]
    finish_report(run)
    assert actions(run) == ["reuse", "reuse", "reuse"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("evaluation.max_new_tokens=7", ["reuse", "reuse", "make"]),
        ("evaluation.samples.n=5", ["reuse", "reuse", "make"]),
        ("evaluation.weights=[int8]", ["reuse", "reuse", "make"]),
        ("training.workers=1", ["reuse", "reuse", "reuse"]),
        ("training.learning_rate=1e-6", ["reuse", "refuse", "make"]),
        ("teacher.sampling.max_tokens=50", ["refuse", "make", "make"]),
        ("corpus.limit=10", ["refuse", "make", "make"]),
    ],
)
def test_a_change_reaches_the_stages_that_it_decides(run_file: str, change: str, expected: list[str]) -> None:
    run = load_run(run_file)
    finish_labels(run)
    finish_student(run)
    finish_report(run)
    changed = load_run(run_file, [change])
    assert actions(changed) == expected
    replaced = ["make" if action == "refuse" else action for action in expected]
    assert actions(changed, replace=True) == replaced
    refused = [decision for decision in decisions(changed).values() if decision.refusal]
    assert len(refused) == expected.count("refuse")
    for decision in refused:
        with pytest.raises(UserError, match=rf"{change.split('=')[0]}: .* -> .*--replace"):
            decision.check()


def test_a_stage_alone_takes_its_input_from_disk(run_file: str) -> None:
    run = load_run(run_file)
    finish_labels(run)
    gone = load_run(run_file, ["corpus.train=gone.jsonl"])
    assert actions(gone, ("train",)) == ["make"], "labels replace the corpus"
    finish_student(run)
    assert actions(load_run(run_file, ["teacher.sampling.max_tokens=50"]), ("train",)) == ["reuse"]
    finish_report(run)
    assert actions(run, ("evaluate",)) == ["reuse"]


@pytest.mark.parametrize(("unreadable", "expected"), [(0, ["reuse"]), (1, ["make"])])
def test_a_report_survives_another_wording(run_file: str, unreadable: int, expected: list[str]) -> None:
    """The identity hashes messages about unreadable rows."""
    run = load_run(run_file)
    finish_labels(run)
    finish_student(run)
    old = finish_report(run)
    identity, counts = {**old.identity, "unreadable": "of other messages"}, {**old.counts, "unreadable": unreadable}
    changed = {"identity": identity, "fingerprint": fingerprint(identity), "counts": counts}
    write_manifest(Store(run.output).child("report"), old.model_copy(update=changed))
    assert actions(run, ("evaluate",)) == expected


def test_retried_rows_leave_the_student_open(run_file: str) -> None:
    run = load_run(run_file)
    finish_labels(run, engine_errors=3)
    finish_student(run)
    found = decisions(run)
    assert (actions(run), found["label"].rows_retried) == (["resume", "make", "make"], 3)
    assert found["train"].reason == "reused unless the retried rows change the labels"


def test_unfinished_labels_resume_only_with_their_settings(run_file: str) -> None:
    run = load_run(run_file)
    begin_labels(run, accepted=25)
    assert (actions(run), decisions(run)["label"].rows_finished) == (["resume", "make", "make"], 25)
    other = load_run(run_file, ["teacher.sampling.max_tokens=50"])
    assert actions(other) == ["refuse", "make", "make"]
    assert (actions(other, replace=True), decisions(other, replace=True)["label"].replaces) == (["make"] * 3, True)
