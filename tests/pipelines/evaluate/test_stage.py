from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.config import RunConfig
from pipelines.data.heldout import is_validation
from pipelines.errors import UserError
from pipelines.evaluate import measure
from pipelines.evaluate.model import Report
from pipelines.evaluate.stage import evaluate
from pipelines.scoring.model import REPORT, read_report
from pipelines.scoring.predict import Prediction, Predictions, PredictRequest
from pipelines.storage.lock import folder_lock
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import MANIFEST, Store
from pipelines.tasks.arithmetic import Arithmetic
from tests.support.artifacts import TASK, label_row, make_run, write_corpus, write_labels, write_student_manifest
from tests.support.evaluations import ROWS, TRAINED, finish, heldout_file, prepared, shares


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Students answer `3` to everything, without Ray. The inputs of the last student."""
    read: list[str] = []

    def predict(requests: Sequence[PredictRequest], settings: Any, live: Any) -> list[Predictions]:
        read[:] = requests[0].inputs
        answer = Prediction("3", 0.5, prompt_tokens=9, output_tokens=2, seconds=0.5, too_long=False)
        return [Predictions([(answer,)] * len(request.inputs), 1.0) for request in requests]

    monkeypatch.setattr(measure, "predict", predict)
    return read


def report_of(run: RunConfig) -> Report:
    evaluate(run)
    return read_report(Store(run.output).child("report"), Report)


OTHERS = [f"another text {i}" for i in range(9)]


@pytest.mark.parametrize(
    ("corpus", "training", "noted"),
    [
        ({"validation": 0.5}, {"validate_every_steps": 5}, "loss"),
        ({"validation": 0.5}, {"validate_every_steps": 5, "choose_by": "accuracy"}, "accuracy"),
        ({"validation": 0.5}, {}, ""),
        ({"test": "test.jsonl"}, {"validate_every_steps": 5}, ""),
    ],
)
@pytest.mark.usefixtures("inputs")
def test_weights_chosen_on_scored_examples_are_noted(tmp_path: Path, corpus: Any, training: Any, noted: str) -> None:
    train, labels = shares(tmp_path)
    if "test" in corpus:
        corpus = {"test": heldout_file(tmp_path / corpus["test"], OTHERS)}
    run = make_run(tmp_path, corpus={**train, **corpus}, training=training, serving={"constrained": True})
    write_student_manifest(tmp_path / "out" / "student", run, labels)
    note = report_of(run).student_scores.note
    assert (f"its weights were chosen by their {noted} on these examples" in note) == bool(noted)
    assert "scored with free answers, and serving.constrained is true" in note


def test_free_and_constrained_answers_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: PredictRequest) -> Predictions:
        text, in_set = ("3", True) if request.query.constrained else ("no label", False)
        one = Prediction(text, 0.5, 9, 2, 0.5, too_long=False, in_set=in_set, engine="vllm", weights="float32")
        return Predictions([(one,)] * len(request.inputs), 1.0)

    monkeypatch.setattr(measure, "predict", lambda requests, settings, live: [answer(one) for one in requests])
    monkeypatch.setattr(Arithmetic, "labels", ("3", "4"))
    prepared(tmp_path, [{"id": f"h{i}", "input": f"text {i}", "label": "3"} for i in range(8)])
    report = report_of(make_run(tmp_path, evaluation={"constrained": True}))
    found = [(one.name, one.correct, one.unanswered, one.engine, one.weights) for one in report.systems[:2]]
    assert found == [("student", 0, 8, "vllm", "float32"), ("constrained", 8, 0, "vllm", "float32")]
    assert report.comparisons[0].student_vs == "constrained"
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / "report" / name).read_text()
        assert [part for part in ("student, constrained", "vllm, float32") if part not in text] == []
    rows = pq.read_table(tmp_path / "out/report/predictions.parquet").to_pylist()
    columns = ("student_in_set", "student_readable", "constrained_label", "constrained_right")
    assert {tuple(row[column] for column in columns) for row in rows} == {(False, False, "3", True)}


def test_a_student_that_reads_rationales_gets_them(tmp_path: Path, inputs: list[str]) -> None:
    heldout_file(tmp_path / "test.jsonl", [f"n {i}" for i in range(4)])
    run = make_run(tmp_path, student={"model": "none", "method": "rationale-as-input"})
    rationales = ["1 + 2 = 3.", "who knows", ""]
    heldout = [{**label_row(f"h{i}", "3", text=f"n {i}"), "rationale": text} for i, text in enumerate(rationales)]
    labels = write_labels(tmp_path / "out" / "labels", TRAINED, heldout)
    write_student_manifest(tmp_path / "out" / "student", run, labels)
    note, _, rest = report_of(run).student_scores.note.partition(", which helps its accuracy; ")
    assert inputs[:2] == ["n 0 [rationale] 1 + 2 = 3.", "n 1 [rationale] who knows"]
    assert note == "it reads the teacher's rationales, and 50.0% of them state the gold label"
    assert rest == "2 of 4 examples have no rationale"
    write_labels(tmp_path / "out" / "labels", TRAINED, heldout[2:])
    (tmp_path / "out" / "report" / MANIFEST).unlink()
    with pytest.raises(UserError, match=r"method rationale-as-input: .* the labels have none for the 4 held-out"):
        evaluate(run)


@pytest.mark.parametrize(("rationale", "compared"), [("two is 3.", 1), ("", None)])
def test_rows_without_rationale_are_no_agreement(tmp_path: Path, inputs: Any, rationale: str, compared: Any) -> None:
    run = make_run(tmp_path, student={"model": "none", "method": "rationale-as-input"})
    write_corpus(tmp_path / "test.jsonl", [{"id": "h1", "input": "one", "label": "3"}, {"id": "h2", "input": "two"}])
    heldout = [label_row("h1", "3", text="one"), {**label_row("h2", "3", text="two"), "rationale": rationale}]
    labels = write_labels(tmp_path / "out" / "labels", TRAINED, heldout)
    write_student_manifest(tmp_path / "out" / "student", run, labels)
    found = report_of(run).agreement
    assert (found.total if found else None) == compared


def test_rows_without_gold_show_the_agreement_with_the_teacher(tmp_path: Path, inputs: list[str]) -> None:
    run = prepared(tmp_path, [*ROWS, {"id": "h4", "input": "four"}, {"id": "h5", "input": "five"}])
    answers = (("h2", "1 + 2", "two"), ("h4", "5", "four"), ("h5", "3", "old"))
    heldout = [label_row(row, label, text=text) for row, label, text in answers]
    labels = write_labels(tmp_path / "out" / "labels", TRAINED, heldout)
    write_student_manifest(tmp_path / "out" / "student", run, labels)
    found: Any = report_of(run)
    assert (found.agreement.same, found.agreement.total) == (1, 2), "h5 had another input"
    assert (found.heldout.scored, found.student_scores.total) == (1, 1)
    page = (tmp_path / "out/report/report.html").read_text()
    assert "the student gives the teacher&#39;s label to 1 of 2 examples (50.0%" in page


def test_examples_of_the_prompt_are_not_scored(tmp_path: Path, inputs: list[str]) -> None:
    shot = Arithmetic().shots[0].question
    found = report_of(prepared(tmp_path, [*ROWS, {"id": "s", "input": shot, "label": "3"}]))
    assert (found.heldout.in_prompt.ids, found.heldout.scored, inputs) == (["s"], 1, ["one"])


def test_a_question_that_raises_costs_no_report(tmp_path: Path, inputs: list[str], monkeypatch: Any) -> None:
    """A task's own code runs on rows that labelling has rejected for it."""
    monkeypatch.setattr(Arithmetic, "question", lambda self, example: {}["none"])
    assert report_of(prepared(tmp_path)).heldout.scored == 1


def test_training_rows_are_never_scored_as_held_out(tmp_path: Path, inputs: list[str]) -> None:
    corpus, labels = shares(tmp_path)
    trained = make_run(tmp_path, corpus={**corpus, "validation": 0.1})
    write_student_manifest(tmp_path / "out" / "student", trained, labels)
    with pytest.raises(UserError, match=r"corpus\.validation 0\.5: this share .*trained with corpus\.validation 0\.1"):
        evaluate(make_run(tmp_path, corpus={**corpus, "validation": 0.5}))
    assert report_of(trained).heldout.trained_on.count == 0
    # With a test set, the run's share has no effect: the student's training decides which rows were trained on.
    small = [i for i in range(60) if is_validation(f"t{i}", 0.1)]
    between = next(i for i in range(60) if is_validation(f"t{i}", 0.5) and i not in small)
    file = heldout_file(tmp_path / "test.jsonl", [*(f"n {i}" for i in (*small, between)), *OTHERS])
    tested: Any = report_of(make_run(tmp_path, corpus={**corpus, "validation": 0.5, "test": file}))
    assert (tested.heldout.trained_on.ids, tested.majority.rows) == ([f"h{len(small)}"], 60 - len(small))
    assert tested.teacher_labels.rows == 60


def test_scored_examples_of_the_validation_split_are_listed(tmp_path: Path, inputs: list[str]) -> None:
    corpus, labels = shares(tmp_path)
    validation = [f"n {i}" for i in range(60) if is_validation(f"t{i}", 0.1)]
    files = {**corpus, "validation": 0.1, "test": heldout_file(tmp_path / "test.jsonl", validation)}

    def run_with(training: dict[str, Any]) -> RunConfig:
        run = make_run(tmp_path, corpus=files, training=training)
        write_student_manifest(tmp_path / "out" / "student", run, labels, trained=training)
        return run

    assert report_of(run_with({})).heldout.chosen_on is None, "no weights were chosen"
    run = run_with({"validate_every_steps": 5})
    with pytest.raises(UserError, match=rf"corpus\.test: {len(validation)} of its .* have the input of a validation"):
        evaluate(run)
    heldout_file(tmp_path / "test.jsonl", [validation[0], *OTHERS])
    found: Any = report_of(run).heldout.chosen_on
    assert found.model_dump() == {"count": 1, "ids": ["h0"], "by": {"id": 0, "input": 1, "near": 0}}


def test_a_validation_file_may_move_or_vanish(tmp_path: Path, inputs: list[str]) -> None:
    corpus, labels = shares(tmp_path)
    before, moved = (heldout_file(tmp_path / f"{n}.jsonl", [f"to choose by {i}" for i in range(9)]) for n in "ab")
    files = {**corpus, "test": heldout_file(tmp_path / "test.jsonl", OTHERS)}
    chosen = {"validate_every_steps": 5}
    trained = make_run(tmp_path, corpus={**files, "validation": before}, training=chosen)
    write_student_manifest(tmp_path / "out" / "student", trained, labels, trained=chosen)
    found: Any = report_of(make_run(tmp_path, corpus={**files, "validation": moved}, training=chosen)).heldout
    assert found.chosen_on.count == 0
    write_student_manifest(tmp_path / "out" / "student", trained, labels, trained=chosen, other=1)
    Path(before).unlink()
    lost = report_of(make_run(tmp_path, corpus={**files, "validation": 0.1}, training=chosen))
    assert lost.heldout.chosen_on is None
    assert "a.jsonl, which is missing: it may share examples with these" in lost.student_scores.note


def test_the_untrained_student_must_be_the_trained_one(tmp_path: Path) -> None:
    prepared(tmp_path)
    with pytest.raises(
        UserError, match=r'student: .* other settings \(student\.model: "none" -> "elsewhere/other"\)\. Run'
    ):
        evaluate(make_run(tmp_path, model="elsewhere/other"))
    random = {"model": "none", "init": {"kind": "random"}}
    labels = write_labels(tmp_path / "out" / "labels", TRAINED)
    write_student_manifest(tmp_path / "out" / "student", make_run(tmp_path, student=random), labels)
    with pytest.raises(UserError, match=r"training\.seed: 0 -> 5"):
        evaluate(make_run(tmp_path, student=random, training={"seed": 5}))
    base = Store(str(tmp_path / "base"))
    base.write("config.json", b"{}")
    run = make_run(tmp_path, model=base.uri)
    write_student_manifest(tmp_path / "out" / "student", run, labels)
    base.write("config.json", b'{"other": 1}')
    with pytest.raises(UserError, match=r'student\.model: "[0-9a-f]+'):
        evaluate(run)


def test_other_labels_and_missing_artifacts_are_refused(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    write_labels(tmp_path / "out" / "labels", TRAINED, other=1)
    with pytest.raises(UserError, match="trained on other labels"):
        evaluate(run)
    for missing, command in (("student", "train RUN"), ("labels", "label RUN")):
        run = prepared(tmp_path)
        (tmp_path / "out" / missing / MANIFEST).unlink()
        with pytest.raises(UserError, match=f"raystill {command}"):
            evaluate(run)


@pytest.mark.parametrize(
    ("change", "sections", "message"),
    [
        ({"task": {**TASK, "name": "nli"}}, {}, "it is for task nli"),
        ({"task": {**TASK, "version": "0"}}, {}, "it is for task arithmetic 0"),
        ({"task": {**TASK, "options": {"labels": ["a"]}}}, {}, r'.*task_options\.labels: \["a"\] -> null'),
        ({"task": {**TASK, "source": "class"}}, {}, r'.*task_file: "\w+" -> null'),
        ({}, {"student": {"model": "x/same", "method": "finetune"}}, r'.*student\.method: "step-by-step" -> "finetune"'),
    ],
)  # fmt: skip
def test_a_student_of_another_task_or_run_is_refused(tmp_path: Path, change: Any, sections: Any, message: str) -> None:
    prepared(tmp_path, **change)
    with pytest.raises(UserError, match=f"student: {message}"):
        evaluate(make_run(tmp_path, **sections))
    assert not (tmp_path / "out" / "report").exists()


def test_a_refusal_leaves_an_earlier_report(tmp_path: Path, inputs: list[str]) -> None:
    run, folder = prepared(tmp_path), tmp_path / "out" / "report"
    evaluate(run)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    write_corpus(tmp_path / "test.jsonl", [{"id": "h1", "input": "question a", "label": "3"}])
    with pytest.raises(UserError, match=r"corpus\.test: 1 of its 1 examples have the input of a training row"):
        evaluate(run)
    write_corpus(tmp_path / "test.jsonl", ROWS)
    reads = make_run(tmp_path, student={"model": "none", "method": "rationale-as-input"})
    labels = require_manifest(Store(run.output).child("labels"), "labels", "")
    write_student_manifest(tmp_path / "out" / "student", reads, labels, other=1)
    with pytest.raises(UserError, match="the labels have none for the 1 held-out examples"):
        evaluate(reads)
    write_student_manifest(tmp_path / "out" / "student", run, labels, other=2)
    held = folder_lock(Store(str(folder)), 60.0, "evaluate")
    with held, pytest.raises(UserError, match="another driver is evaluating into it"):
        evaluate(run)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files


def test_another_price_updates_costs_without_scoring(tmp_path: Path, inputs: list[str]) -> None:
    found = report_of(prepared(tmp_path))
    assert (found.settings.labels, found.settings.training.epochs, found.settings.filters) == ("gold", 3, None)
    assert found.cost.model_dump() == {
        "teacher": dict.fromkeys(("prompt_tokens", "output_tokens", "gpu_hours", "money")),
        "training": {"seconds": 20.0, "gpu_hours": 0.0, "money": None},
        "answers": {"seconds_per_example": 0.5, "per_1000": None},
    }
    inputs.clear()
    again = report_of(make_run(tmp_path, compare={"price_per_worker_hour": 3.6}))
    money = (again.cost.training.money, again.cost.answers.per_1000)
    assert (inputs, money) == ([], pytest.approx((2 * 20.0 / 3600 * 3.6, 0.5)))
    assert again.model_copy(update={"cost": found.cost}) == found
    assert "Cost of 1,000 answers" in (tmp_path / "out" / "report" / "report.html").read_text()


def test_a_damaged_finished_report_is_refused(tmp_path: Path, inputs: list[str]) -> None:
    run = prepared(tmp_path)
    evaluate(run)
    (tmp_path / "out" / "report" / REPORT).write_text('{"format": 6}')
    with pytest.raises(UserError, match=r"report\.json: not a report that this version of Raystill reads \(format: "):
        evaluate(run)
    for name in (REPORT, "predictions.parquet", "report.html", "accuracy.png"):
        (tmp_path / "out" / "report" / name).unlink()
        inputs.clear()
        evaluate(run)
        scored = name in (REPORT, "predictions.parquet")
        assert ((tmp_path / "out" / "report" / name).exists(), bool(inputs)) == (True, scored), name


def test_nothing_to_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpus\.test: none of its 2 rows has a gold .*\(h3: the gold label '!' is"):
        evaluate(prepared(tmp_path, rows=ROWS[1:]))
    assert not (tmp_path / "out" / "report").exists()


def test_batches_and_workers_do_not_change_the_identity(tmp_path: Path) -> None:
    made = finish(prepared(tmp_path))
    settings = {"batch_size": 1, "workers": 2, "gpus_per_worker": 1, "samples": {"n": 1, "seed": 9}}
    assert evaluate(make_run(tmp_path, evaluation={**settings, "max_new_tokens": 12})) == made


SECTIONS: dict[str, dict[str, Any]] = {
    "max_new_tokens": {"evaluation": {"batch_size": 4, "max_new_tokens": 13}},
    "samples": {"evaluation": {"batch_size": 4, "max_new_tokens": 12, "samples": {"n": 2}}},
    "served": {"serving": {"constrained": True}},
    "seed": {"training": {"seed": 5}},
}


@pytest.mark.parametrize("what", [*SECTIONS, "gold", "input", "student", "content", "heldout"])
def test_what_decides_a_report_is_in_its_identity(tmp_path: Path, what: str) -> None:
    before, manifest = finish(prepared(tmp_path)), tmp_path / "out" / "labels" / MANIFEST
    if what == "student":
        prepared(tmp_path, parameters=9)
    elif what in ("content", "heldout"):  # rows with `engine_error` were retried
        content = '"c9"' if what == "content" else '"c0", "heldout_content": "h1"'
        manifest.write_text(manifest.read_text().replace('"c0"', content))
    elif what not in SECTIONS:
        change = {"label": "5"} if what == "gold" else {"input": "other"}
        write_corpus(tmp_path / "test.jsonl", [{**ROWS[0], **change}, *ROWS[1:]])
    assert finish(make_run(tmp_path, **SECTIONS.get(what, {}))).fingerprint != before.fingerprint
