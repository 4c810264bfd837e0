from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.data.heldout import heldout_examples, is_validation
from pipelines.errors import UserError
from pipelines.evaluate import report, stage
from pipelines.evaluate.stage import evaluate, report_identity
from pipelines.scoring.system import System
from pipelines.storage.manifest import manifest_of, require_manifest, write_manifest
from pipelines.storage.store import MANIFEST, Store
from pipelines.tasks.arithmetic import Arithmetic
from tests.support.artifacts import (
    TASK,
    label_row,
    make_run,
    reject_row,
    write_corpus,
    write_labels,
    write_student_manifest,
)

ROWS = [
    {"id": "h1", "input": "one", "label": "4 - 1"},
    {"id": "h2", "input": "two"},
    {"id": "h3", "input": "x", "label": "!"},
]


def _prepared(folder: Path, rows: list[dict[str, Any]] = ROWS, **details: Any) -> RunConfig:
    run = make_run(folder)
    write_corpus(folder / "test.jsonl", rows)
    labels = write_labels(folder / "out" / "labels", [label_row("a", "3", "3"), label_row("b", "4", "4")])
    write_student_manifest(folder / "out" / "student", run, labels, **details)
    return run


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Students answer `3` to everything, without Ray. The inputs that the last of them read."""
    read: list[str] = []

    def answer(name: str, student: Any, run: Any, task: Any, examples: Any, inputs: Sequence[str]) -> System:
        read[:] = inputs
        labels = ("3",) * len(inputs)
        right = tuple(task.same("3", example.gold, example) for example in examples)
        return System(name, labels, right, texts=labels, confidences=(0.5,) * len(labels), seconds=1.0, answering_s=0.5,
                      prompt_tokens=9, output_tokens=2)  # fmt: skip

    monkeypatch.setattr(stage, "student_system", answer)
    monkeypatch.setattr(stage, "student_rationales", lambda *_: [])
    return read


def _note(run: RunConfig) -> str:
    """What the finished report says of its student."""
    return str(report.load(Store(run.output).child("report"))["systems"][0]["note"])


def test_weights_that_were_chosen_on_what_is_scored_are_told_of(tmp_path: Path, answers: list[str]) -> None:
    write_corpus(tmp_path / "train.jsonl", [{"id": f"t{i}", "input": f"n {i}", "label": "3"} for i in range(40)])
    write_corpus(tmp_path / "test.jsonl", ROWS)
    labels = write_labels(tmp_path / "out" / "labels", [label_row(f"t{i}", "3", "3", f"n {i}") for i in range(40)])
    chosen = {"training": {"validate_every_steps": 5}}
    for corpus, training, told in (
        ({"train": str(tmp_path / "train.jsonl"), "validation": 0.5}, chosen, True),
        ({"train": str(tmp_path / "train.jsonl"), "validation": 0.5}, {}, False),
        ({"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}, chosen, False),
    ):
        run = make_run(tmp_path, corpus=corpus, **training)
        write_student_manifest(tmp_path / "out" / "student", run, labels, told=[told, corpus])
        evaluate(run)
        assert ("its weights were chosen by their loss on these very examples" in _note(run)) == told


def test_a_student_that_reads_rationales_is_told_of_those_that_are_not_there(
    tmp_path: Path, answers: list[str]
) -> None:
    write_corpus(tmp_path / "test.jsonl", [{"id": f"h{i}", "input": f"n {i}", "label": "3"} for i in range(4)])
    run = make_run(tmp_path, student={"model": "none", "method": "rationale-as-input"})
    said = ["1 + 2 = 3.", "who knows", ""]
    heldout = [{**label_row(f"h{i}", "3", text=f"n {i}"), "rationale": text} for i, text in enumerate(said)]
    labels = write_labels(tmp_path / "out" / "labels", [label_row("a", "3", "3"), label_row("b", "4", "4")], heldout)
    write_student_manifest(tmp_path / "out" / "student", run, labels)
    evaluate(run)
    assert answers == [
        "n 0 [rationale] 1 + 2 = 3.",
        "n 1 [rationale] who knows",
        "n 2 [rationale] ",
        "n 3 [rationale] ",
    ]
    assert _note(run) == (
        "it reads the teacher's rationales, of which 50.0% state the gold label, which helps its accuracy; "
        "to 2 of 4 examples there is none"
    )
    write_labels(tmp_path / "out" / "labels", [label_row("a", "3", "3"), label_row("b", "4", "4")], heldout[2:])
    (tmp_path / "out" / "report" / MANIFEST).unlink()
    with pytest.raises(
        UserError, match=r"method rationale-as-input: .* the labels hold none to the 4 held-out examples"
    ):
        evaluate(run)


def _shares(folder: Path) -> tuple[dict[str, Any], Any]:
    """A corpus of which a share is held out, and its labels: the teacher says 3, which is right of every second row."""
    rows = [{"id": f"t{i}", "input": f"n {i}", "label": "34"[i % 2]} for i in range(60)]
    write_corpus(folder / "train.jsonl", rows)
    labels = write_labels(folder / "out" / "labels", [label_row(r["id"], "3", r["label"], r["input"]) for r in rows])
    return {"train": str(folder / "train.jsonl")}, labels


def _report(run: RunConfig) -> dict[str, Any]:
    evaluate(run)
    return report.load(Store(run.output).child("report"))


def test_rows_that_were_trained_on_are_never_scored_as_held_out(tmp_path: Path, answers: list[str]) -> None:
    corpus, labels = _shares(tmp_path)
    trained = make_run(tmp_path, corpus={**corpus, "validation": 0.1})
    write_student_manifest(tmp_path / "out" / "student", trained, labels)
    with pytest.raises(
        UserError,
        match=r"corpus\.validation 0\.5: this share of train is what is scored, .*trained with corpus\.validation 0\.1",
    ):
        evaluate(make_run(tmp_path, corpus={**corpus, "validation": 0.5}))
    assert _report(trained)["heldout"]["trained_on"]["count"] == 0
    # A test set is scored whatever the run says of the share; what was trained on is what the student's training says.
    small = [i for i in range(60) if is_validation(f"t{i}", 0.1)]
    between = [i for i in range(60) if is_validation(f"t{i}", 0.5) and i not in small]
    write_corpus(
        tmp_path / "test.jsonl",
        [{"id": f"h{i}", "input": f"n {i}", "label": "3"} for i in [*small, between[0]]]
        + [{"id": f"x{i}", "input": f"another text {i}", "label": "3"} for i in range(9)],
    )
    tested = _report(make_run(tmp_path, corpus={**corpus, "validation": 0.5, "test": str(tmp_path / "test.jsonl")}))
    assert tested["heldout"]["trained_on"]["ids"] == [f"h{between[0]}"]
    assert tested["majority"]["rows"] == 60 - len(small)


def test_the_teacher_is_not_judged_by_what_a_filter_left_of_its_answers(tmp_path: Path, answers: list[str]) -> None:
    corpus, _ = _shares(tmp_path)
    run = make_run(tmp_path, corpus={**corpus, "validation": 0.5})
    rows = [label_row(f"t{i}", "3", "3", f"n {i}") for i in range(0, 60, 2)]
    wrong = [reject_row(f"t{i}", "disagrees_with_gold", "So. The answer is 3.") for i in range(1, 60, 2)]
    labels = write_labels(tmp_path / "out" / "labels", rows, rejects=wrong)
    write_student_manifest(tmp_path / "out" / "student", run, labels)
    teacher = next(system for system in _report(run)["systems"] if system["name"] == "teacher")
    scored = [i for i in range(60) if is_validation(f"t{i}", 0.5)]
    assert (teacher["correct"], teacher["total"]) == (sum(i % 2 == 0 for i in scored), len(scored))
    assert teacher["unanswered"] == 0, "it answered every row, and wrongly every second one"
    assert teacher["note"] == ""
    labels = write_labels(tmp_path / "out" / "labels", rows, rejects=wrong, samples=3)
    write_student_manifest(tmp_path / "out" / "student", run, labels, other=1)
    teacher = next(system for system in _report(run)["systems"] if system["name"] == "teacher")
    assert teacher["accuracy"] is None
    assert f"filters of the labels rejected {len(scored) - sum(i % 2 == 0 for i in scored)} of the" in teacher["note"]


def test_weights_that_were_chosen_on_some_of_what_is_scored_are_told_of(tmp_path: Path, answers: list[str]) -> None:
    corpus, labels = _shares(tmp_path)
    heldout = [f"n {i}" for i in range(60) if is_validation(f"t{i}", 0.1)]
    write_corpus(
        tmp_path / "test.jsonl", [{"id": f"h{i}", "input": text, "label": "3"} for i, text in enumerate(heldout)]
    )
    file = {**corpus, "validation": 0.1, "test": str(tmp_path / "test.jsonl")}
    for training, expected in (({}, None), ({"validate_every_steps": 5}, "refused")):
        run = make_run(tmp_path, corpus=file, training=training)
        write_student_manifest(tmp_path / "out" / "student", run, labels, trained=training)
        if expected is None:
            assert _report(run)["heldout"]["chosen_on"] is None
        else:
            with pytest.raises(
                UserError, match=rf"corpus\.test: {len(heldout)} of its .* have the input of a validation example"
            ):
                evaluate(run)
    others = [{"id": f"x{i}", "input": f"another text {i}", "label": "3"} for i in range(9)]
    write_corpus(tmp_path / "test.jsonl", [{"id": "h0", "input": heldout[0], "label": "3"}, *others])
    assert _report(run)["heldout"]["chosen_on"] == {"count": 1, "ids": ["h0"], "by": {"id": 0, "input": 1, "near": 0}}


def test_a_validation_file_is_the_same_wherever_it_lies_and_may_have_gone(tmp_path: Path, answers: list[str]) -> None:
    corpus, labels = _shares(tmp_path)
    rows = [{"id": f"v{i}", "input": f"a text to choose by {i}", "label": "3"} for i in range(9)]
    scored = [{"id": f"h{i}", "input": f"another text {i}", "label": "3"} for i in range(9)]
    for name, some in (("before", rows), ("moved", rows), ("test", scored)):
        write_corpus(tmp_path / f"{name}.jsonl", some)
    files = {"validation": str(tmp_path / "before.jsonl"), "test": str(tmp_path / "test.jsonl")}
    chosen = {"validate_every_steps": 5}
    trained = make_run(tmp_path, corpus={**corpus, **files}, training=chosen)
    write_student_manifest(tmp_path / "out" / "student", trained, labels, trained=chosen)
    moved = {**corpus, **files, "validation": str(tmp_path / "moved.jsonl")}
    assert _report(make_run(tmp_path, corpus=moved, training=chosen))["heldout"]["chosen_on"]["count"] == 0
    write_student_manifest(tmp_path / "out" / "student", trained, labels, trained=chosen, other=1)
    (tmp_path / "before.jsonl").unlink()
    run = make_run(tmp_path, corpus={**corpus, "validation": 0.1, "test": files["test"]}, training=chosen)
    assert _report(run)["heldout"]["chosen_on"] is None
    assert "before.jsonl, which is gone: it may have held examples that are scored here" in _note(run)


def test_the_untrained_student_is_the_one_that_was_trained(tmp_path: Path) -> None:
    run = _prepared(tmp_path)
    with pytest.raises(UserError, match=r"student: its student\.model none is not the run's, elsewhere/other"):
        evaluate(make_run(tmp_path, model="elsewhere/other"))
    random = {"model": "none", "init": {"kind": "random"}}
    run = make_run(tmp_path, student=random)
    labels = write_labels(tmp_path / "out" / "labels", [label_row("a", "3", "3"), label_row("b", "4", "4")])
    write_student_manifest(tmp_path / "out" / "student", run, labels)
    with pytest.raises(UserError, match=r"random weights were drawn with training\.seed 0, the run says 5"):
        evaluate(make_run(tmp_path, student=random, training={"seed": 5}))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    run = make_run(tmp_path, model=str(tmp_path / "base"))
    write_student_manifest(tmp_path / "out" / "student", run, labels)
    (tmp_path / "base" / "config.json").write_text('{"other": 1}')
    with pytest.raises(UserError, match=r"base has other files by now"):
        evaluate(run)


def test_without_a_student_the_command_is_named(tmp_path: Path) -> None:
    write_labels(tmp_path / "out" / "labels", [label_row("a", "3"), label_row("b", "3")])
    with pytest.raises(UserError, match=r"raystill train RUN"):
        evaluate(make_run(tmp_path))


def test_without_labels_the_command_is_named(tmp_path: Path) -> None:
    run = _prepared(tmp_path)
    (tmp_path / "out" / "labels" / MANIFEST).unlink()
    with pytest.raises(UserError, match=r"raystill label RUN"):
        evaluate(run)


@pytest.mark.parametrize("change", [{"name": "nli"}, {"version": "0"}])
def test_a_student_of_another_task_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    run = _prepared(tmp_path, task={**TASK, **change})
    with pytest.raises(UserError, match="student: it is for task"):
        evaluate(run)
    assert not (tmp_path / "out" / "report").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"labels": ["a", "b"]}}, r'its task_options\.labels is \["a", "b"\], the run\'s is not set'),
        ({"source": "class Mine: ..."}, "it was trained with another content of the task file than arithmetic has"),
    ],
)
def test_a_student_of_another_form_of_the_task_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    run = _prepared(tmp_path, task={**TASK, **change})
    with pytest.raises(UserError, match=rf"student: {message}\. Run `raystill label RUN --replace` and"):
        evaluate(run)


def test_what_is_refused_leaves_an_earlier_report(tmp_path: Path, answers: list[str]) -> None:
    """Whether its test set was trained on, or holds nothing that the student can read."""
    run = _prepared(tmp_path)
    evaluate(run)
    folder = tmp_path / "out" / "report"
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    write_corpus(tmp_path / "test.jsonl", [{"id": "h1", "input": "question a", "label": "3"}])
    with pytest.raises(UserError, match=r"corpus\.test: 1 of its 1 examples have the input of a training row"):
        evaluate(run)
    write_corpus(tmp_path / "test.jsonl", ROWS)
    reads = make_run(tmp_path, student={"model": "none", "method": "rationale-as-input"})
    labels = require_manifest(Store(run.output).child("labels"), "labels", "")
    write_student_manifest(tmp_path / "out" / "student", reads, labels, other=1)
    with pytest.raises(UserError, match="the labels hold none to the 1 held-out examples"):
        evaluate(reads)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files


def test_the_report_tells_of_settings_and_costs_and_another_price_scores_nothing_anew(
    tmp_path: Path, answers: list[str]
) -> None:
    run = _prepared(tmp_path)
    found = _report(run)
    assert found["settings"]["labels"] == "gold"
    assert (found["settings"]["training"]["epochs"], found["settings"]["filters"]) == (3, None)
    assert found["cost"] == {
        "teacher": dict.fromkeys(("prompt_tokens", "output_tokens", "gpu_hours", "money")),
        "training": {"seconds": 20.0, "gpu_hours": 0.0, "money": None},
        "answers": {"seconds_per_example": 0.5, "per_1000": None},
    }
    answers.clear()
    priced = make_run(tmp_path, compare={"price_per_worker_hour": 3.6})
    again = _report(priced)
    assert answers == []
    assert again["cost"]["training"]["money"] == pytest.approx(2 * 20.0 / 3600 * 3.6)
    assert again["cost"]["answers"]["per_1000"] == pytest.approx(0.5)
    assert {**again, "cost": None} == {**found, "cost": None}
    assert "Cost of 1,000 answers" in (tmp_path / "out" / "report" / "report.html").read_text()


def test_a_student_of_other_labels_is_refused(tmp_path: Path) -> None:
    run = _prepared(tmp_path)
    store = Store(str(tmp_path / "out" / "labels"))
    details = {"content": "c1", "task": TASK}
    write_manifest(
        store, manifest_of("labels", {"made": 2}, config={}, counts={}, timings_s={}, details=details, provenance={})
    )
    with pytest.raises(UserError, match="trained on other labels"):
        evaluate(run)


def test_a_student_trained_otherwise_than_the_run_says_is_refused(tmp_path: Path) -> None:
    _prepared(tmp_path)
    run = make_run(tmp_path, student={"model": "elsewhere/same", "method": "finetune"})
    with pytest.raises(UserError, match=r"student\.method was step-by-step, the run says finetune"):
        evaluate(run)


def test_nothing_to_score_is_refused(tmp_path: Path) -> None:
    run = _prepared(tmp_path, rows=ROWS[1:])
    with pytest.raises(
        UserError, match=r"corpus\.test: none of its 2 rows has a gold label.*\(h3: the gold label '!' is no"
    ):
        evaluate(run)
    assert not (tmp_path / "out" / "report").exists()


def _finish(run: RunConfig) -> Store:
    """The report's manifest as a finished evaluation of this run would leave it."""
    output = Store(run.output)
    student = require_manifest(output.child("student"), "student", "")
    labels = require_manifest(output.child("labels"), "labels", "")
    identity = report_identity(run, Arithmetic(), student, labels, heldout_examples(run, Arithmetic()))
    store = output.child("report")
    system = {"name": "student", "seconds_per_example": None}
    made = {"systems": [system], "cost": stage._cost(run, student, labels, system)}
    store.write(report.REPORT, json.dumps(made).encode())
    write_manifest(
        store, manifest_of("report", identity, config={}, counts={}, timings_s={}, details={}, provenance={})
    )
    return store


@pytest.mark.parametrize(
    "settings", [{"batch_size": 1}, {"workers": 2}, {"gpus_per_worker": 1}, {"samples": {"n": 1, "seed": 9}}]
)
def test_a_finished_report_is_reused_however_it_is_batched(tmp_path: Path, settings: dict[str, Any]) -> None:
    run = _prepared(tmp_path)
    _finish(run)
    other = make_run(tmp_path, evaluation={"batch_size": 4, "max_new_tokens": 12, **settings})
    assert evaluate(other).type == "report"


@pytest.mark.parametrize(
    "what", ["max_new_tokens", "samples", "gold", "input", "student", "seed", "content", "heldout"]
)
def test_what_decides_a_report_is_in_its_identity(tmp_path: Path, what: str) -> None:
    run = _prepared(tmp_path)
    before = _finish(run).read(MANIFEST)
    if what == "max_new_tokens":
        run = make_run(tmp_path, evaluation={"batch_size": 4, "max_new_tokens": 13})
    elif what == "samples":
        run = make_run(tmp_path, evaluation={"batch_size": 4, "max_new_tokens": 12, "samples": {"n": 2}})
    elif what == "seed":
        run = make_run(tmp_path, training={"seed": 5})
    elif what == "student":
        _prepared(tmp_path, parameters=9)
    elif what == "content":
        path = tmp_path / "out" / "labels" / MANIFEST
        path.write_text(path.read_text().replace('"c0"', '"c9"'))
    elif what == "heldout":  # rows that no engine could answer were tried again
        path = tmp_path / "out" / "labels" / MANIFEST
        path.write_text(path.read_text().replace('"c0"', '"c0", "heldout_content": "h1"'))
    else:
        change = {"label": "5"} if what == "gold" else {"input": "other"}
        write_corpus(tmp_path / "test.jsonl", [{**ROWS[0], **change}, *ROWS[1:]])
    assert _finish(run).read(MANIFEST).partition(b'"identity"')[0] != before.partition(b'"identity"')[0]
