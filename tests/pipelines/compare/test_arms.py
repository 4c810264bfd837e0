import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.compare import cells, few_shot
from pipelines.compare.notices import notices
from pipelines.compare.search import chosen_settings
from pipelines.compare.tf_idf import score_tf_idf
from pipelines.compare.treated_labels import Treatment, treated_manifest, write_treated
from pipelines.config import RunConfig
from pipelines.data.heldout import is_validation
from pipelines.data.label_parts import LabelParts
from pipelines.data.schema import RATIONALE
from pipelines.errors import UserError
from pipelines.scoring.predict import Prediction, Predictions
from pipelines.storage.manifest import require_manifest, write_manifest
from pipelines.storage.store import Store
from pipelines.tasks import Example
from pipelines.tasks.nli import NaturalLanguageInference
from pipelines.train.data.sequences import in_fraction
from tests.support.artifacts import label_row, make_run, reject_row, write_corpus, write_labels
from tests.support.fake_grid import ROW_TOKENS, Lab
from tests.support.grid_results import scores
from tests.support.tiny_runs import name_parts

SEARCH = {"trials": 2, "learning_rate": [1e-4, 1e-2], "steps": [30, 60]}


def budgets(lab: Lab) -> list[tuple[str, int | None, float | None]]:
    return [(run.student.method, run.training.steps, run.training.epochs) for run in lab.trained]


@pytest.mark.parametrize(
    ("training", "equal", "expected"),
    [
        # 60 rows of 1,000 tokens, 2,000 with rationales; a step has 2,000 tokens.
        ({}, "steps", [("finetune", 20, None), ("step-by-step", 20, None)]),
        ({"steps": None, "epochs": 3}, "steps", [("finetune", 180, None), ("step-by-step", 180, None)]),
        ({"steps": None, "epochs": 3}, "tokens", [("finetune", None, 6.0), ("step-by-step", None, 3.0)]),
        ({"steps": 30}, "tokens", [("finetune", None, 1.0), ("step-by-step", None, 0.5)]),
        ({"steps": None, "epochs": 3}, "epochs", [("finetune", None, 3.0), ("step-by-step", None, 3.0)]),
    ],
)
def test_cells_have_equal_budgets(lab: Lab, training: dict[str, Any], equal: str, expected: list[Any]) -> None:
    lab.compare(training=training, compare={"equal": equal})
    assert (budgets(lab), lab.report().equal) == (expected, equal)


@pytest.mark.parametrize(("training", "rows"), [({}, 2), ({"steps": None, "epochs": 2}, 60)])
def test_given_steps_count_the_tokens_of_one_step(lab: Lab, training: dict[str, Any], rows: int) -> None:
    lab.compare(training=training, compare={"methods": ["finetune"]})
    (counted,) = [json.loads(lab.path(name).read_text()) for name in lab.files("budgets/*.json")]
    assert [size["rows"] for size in counted.values()] == [rows]


def test_fractions_have_the_same_steps(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.compare(training={"steps": None, "epochs": 2}, compare={"fractions": [0.25, 1.0]})
    assert {steps for _, steps, _ in budgets(lab)} == {120}
    longest = "2 epochs of step-by-step, which has most tokens, with 100% of the labels"
    report, printed = lab.report(), capsys.readouterr().err
    assert (report.settings.training.steps, report.settings.training.epochs) == (120, None)
    assert report.budget == f"All cells take 120 optimizer steps: {longest}."
    assert report.budget in printed
    assert "warning: 20 held-out examples and 1 seed can show no difference" in printed


@pytest.mark.parametrize(
    ("training", "compare", "message"),
    [
        ({"tokens_per_batch": 70 * ROW_TOKENS}, {}, r"tokens_per_batch 70000: .*60 rows of model finetune 1 seed 0 .*at most 60000"),
        ({"tokens_per_batch": 30 * ROW_TOKENS}, {"gold_fractions": [0.1, 1.0]}, r"10% of the gold .*raise compare\.gold_fractions"),
        ({}, {"equal": "epochs"}, r"compare\.equal epochs: training\.steps gives all cells equal steps"),
    ],
)  # fmt: skip
def test_a_budget_out_of_reach_is_refused(lab: Lab, training: Any, compare: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        lab.compare(training=training, compare=compare)
    assert lab.trained == []


def test_the_grid_gets_the_arms_that_apply(lab: Lab) -> None:
    arms = ["finetune", "shuffled-rationales", "few-shot", "tf-idf"]
    lab.compare(compare={"methods": ["step-by-step"], "arms": arms, "fractions": [0.5, 1.0]}, student=RANDOM)
    assert [(run.student.method, run.training.fraction) for run in lab.trained] == [
        ("finetune", 0.5), ("step-by-step", 0.5), ("finetune", 1.0), ("step-by-step", 1.0), ("step-by-step", 1.0),
    ]  # fmt: skip
    report = lab.report()
    assert [group.title for group in report.groups][-1] == "step-by-step, shuffled rationales"
    assert [(one.title, one.versus) for one in report.differences if one.fraction == 1.0] == [
        ("step-by-step", ""), ("step-by-step", "step-by-step, shuffled rationales"), ("step-by-step, shuffled rationales", ""),
    ]  # fmt: skip
    assert {arm.name: arm.note for arm in report.arms} == {
        "finetune": "", "shuffled-rationales": "", "few-shot": "its weights are random before training", "tf-idf": "labels are free",
    }  # fmt: skip
    equal = "step-by-step against step-by-step, shuffled rationales: +0.0 points (95% interval -12.6 to +12.6, 1 seed)"
    assert f"{equal}, no difference is shown (fewer than 3 seeds)." in notices(report)
    absent = "few-shot (its weights are random before training), tf-idf (labels are free)."
    missing = f"Controls that this grid lacks: {absent}"
    assert missing in report.notes
    assert missing in lab.path("report.html").read_text()
    assert not lab.files("labels/**/*.parquet"), "changed labels go when cells are finished"


RANDOM = {"model": "some/model", "init": {"kind": "random"}}


def test_shares_of_gold_meet_the_teachers_labels(lab: Lab) -> None:
    grid: Any = {"gold_fractions": [0.25, 1.0], "seeds": [0, 1, 2]}
    made = lab.compare(compare=grid)
    treated = [run for run in lab.trained if run.student.labels == "gold-else-teacher"]
    assert {run.student.method for run in treated} == {"task-distillation", "step-by-step"}
    share, methods = "25% of the gold labels", ("task-distillation", "step-by-step")
    assert {(one.title, one.versus) for one in lab.report().differences if one.gold_fraction == 0.25} == {
        (f"{method}, {share}, else the teacher's", f"finetune, {share}") for method in methods
    }
    assert "Accuracy by amount of gold labels" in lab.path("report.html").read_text()
    assert (lab.compare(compare=grid), lab.trained) == (made, [])


def test_gold_fractions_need_gold(lab: Lab) -> None:
    write_labels(lab.folder / "out" / "labels", [label_row(f"t{i}", "3", text=f"question t{i}") for i in range(60)])
    with pytest.raises(UserError, match=r"gold_fractions: none of 60 labelled examples has a gold label"):
        lab.compare(compare={"gold_fractions": [0.5]})
    write_corpus(lab.folder / "train.jsonl", [{"id": "a", "input": "one"}])
    with pytest.raises(UserError, match=r"gold_fractions: none of the rows of corpus\.train has a gold label"):
        lab.compare(compare={"gold_fractions": [0.5]})


def test_a_search_over_steps_keeps_budgets_equal(lab: Lab) -> None:
    """finetune is best at 30 steps and step-by-step at 60; over both methods 60 steps are best."""
    best = {("finetune", 30): 9, ("finetune", 60): 8, ("step-by-step", 30): 2, ("step-by-step", 60): 12}

    def right(run: RunConfig) -> int:
        return best.get((run.student.method, run.training.steps or 0), 0) - (run.training.learning_rate > 1e-3)

    lab.right = right
    lab.compare(corpus={**lab.corpus, "validation": 0.4}, compare={"search": SEARCH})
    search: Any = lab.report().search
    assert {one.method: one.steps for one in search.settings if one.chosen} == {"finetune": 60, "step-by-step": 60}
    assert {group.steps for group in lab.report().groups} == {60}
    assert "Common steps, learning rate and loss weight were chosen" in lab.path("report.html").read_text()


def test_failed_trials_choose_no_budget(lab: Lab) -> None:
    from pipelines.compare.grid import trials

    run = lab.run(corpus={**lab.corpus, "validation": 0.4}, compare={"search": SEARCH})
    found: Any = {cell: scores(cell, [cell.setting.steps == 30] * 4) for cell in trials(run)}
    failed = [cell for cell in found if (cell.method, cell.setting.steps) == ("finetune", 30)]
    found |= dict.fromkeys(failed)
    assert {setting.steps for setting in chosen_settings(found).values()} == {60}


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    rows = LabelParts.of(Store(str(folder))).read_rows("data", ["id", "gold", "label", "rationale"])
    return {row["id"]: row for row in rows}


def treat(folder: Path, kind: Any, share: float | None = None, seed: int = 0) -> dict[str, dict[str, Any]]:
    store, treatment = Store(str(folder / "labels")), Treatment(kind, seed, 0.2, share)
    target = folder / treatment.name
    write_treated(store, require_manifest(store, "labels", ""), treatment, Store(str(target)))
    return rows_of(target)


def write(folder: Path, rows: int = 200) -> dict[str, dict[str, Any]]:
    made = [label_row(f"r{i}", f"{i % 3}", f"{i % 4}") for i in range(rows)]
    made = [row | {"rationale": f"since {i}" if i % 10 else ""} for i, row in enumerate(made)]
    # Changed labels have neither held-out nor rejected rows, so that their manifest counts others.
    write_labels(folder / "labels", made, [label_row("h", "1")], [reject_row("r", "unparsable", "?")])
    return rows_of(folder / "labels")


def test_rationales_move_among_training_rows(tmp_path: Path) -> None:
    before, after = write(tmp_path), treat(tmp_path, "shuffled-rationales")
    labels = [{row: (one["gold"], one["label"]) for row, one in rows.items()} for rows in (before, after)]
    assert labels[0] == labels[1]
    assert sorted(one["rationale"] for one in after.values()) == sorted(one["rationale"] for one in before.values())
    for row, one in before.items():
        stays = is_validation(row, 0.2) or not one["rationale"]
        assert (after[row]["rationale"] == one["rationale"]) == stays
    # A fraction has its own rationales, but for the one at its edge.
    part = [row for row in before if in_fraction(row, 0.5, 0) and not is_validation(row, 0.2)]
    own = {before[row]["rationale"] for row in part}
    assert sum(after[row]["rationale"] not in own for row in part) <= 1
    assert treat(tmp_path, "shuffled-rationales", seed=1) != after
    other = Store(str(tmp_path / "shuffled-rationales-seed0"))
    write_manifest(other, require_manifest(other, "labels", "").model_copy(update={"counts": {"read": 201}}))
    assert treat(tmp_path, "shuffled-rationales") == after, "labels with wrong counts are written again"


def test_all_rationales_of_a_row_move_together(tmp_path: Path) -> None:
    rows = write(tmp_path)
    names = LabelParts.of(Store(str(tmp_path / "labels"))).names("data")
    (tmp_path / "labels/rationales").mkdir()
    for name in names:
        ids = [i for i in pq.read_table(tmp_path / "labels" / name)["id"].to_pylist() if rows[i]["rationale"]]
        both = [(i, k) for i in ids[::2] for k in (0, 1)]
        texts = [{"id": i, "rationale": f"{rows[i]['rationale']}{'.' * k}", "index": k} for i, k in both]
        pq.write_table(pa.Table.from_pylist(texts, schema=RATIONALE), tmp_path / "labels/rationales" / Path(name).name)
    name_parts(tmp_path / "labels")

    def several(folder: Path) -> dict[str, list[str]]:
        parts = LabelParts.of(Store(str(folder)))
        return {row: texts for name in names for row, texts in parts.rationales(name).items()}

    before, after = several(tmp_path / "labels"), treat(tmp_path, "shuffled-rationales")
    moved = several(tmp_path / "shuffled-rationales-seed0")
    assert sorted(moved.values()) == sorted(before.values())
    assert moved.keys() != before.keys()
    assert all(texts == [after[row]["rationale"], f"{after[row]['rationale']}."] for row, texts in moved.items())
    alone = treat(tmp_path, "gold-only", 0.25)
    assert several(tmp_path / "gold-only-0.25-seed0") == {row: before[row] for row in before if row in alone}


def test_gold_is_kept_for_a_share(tmp_path: Path) -> None:
    before = write(tmp_path)
    alone, filled = treat(tmp_path, "gold-only", 0.25), treat(tmp_path, "gold-else-teacher", 0.25)
    training = [row for row in before if not is_validation(row, 0.2)]
    kept = {row for row in training if in_fraction(row, 0.25, 0)}
    assert {row for row in alone if row in training} == kept
    assert {row for row, one in filled.items() if one["gold"] and row in training} == kept
    assert filled.keys() == before.keys()
    assert set(treat(tmp_path, "gold-only", 0.1)) < set(alone)


def test_treatments_have_their_own_fingerprints(tmp_path: Path) -> None:
    write(tmp_path, 4)
    labels = require_manifest(Store(str(tmp_path / "labels")), "labels", "")
    treatments = [Treatment("shuffled-rationales", seed, 0.2, None) for seed in (0, 1)]
    treatments += [Treatment("gold-only", 0, 0.2, share) for share in (0.5, 0.6)]
    assert len({labels.fingerprint, *(treated_manifest(labels, one).fingerprint for one in treatments)}) == 5


def test_tf_idf_learns_words_of_the_same_rows(tmp_path: Path) -> None:
    golds = ["entailment", "neutral", "contradiction"] * 20
    rows = [label_row(f"r{i}", "neutral", gold, f"premise: the {gold} sky {i}") for i, gold in enumerate(golds)]
    write_labels(tmp_path / "labels", rows)
    corpus = {"train": "t.jsonl", "test": "h.jsonl", "validation": 0.0}
    run = make_run(tmp_path, task="nli", corpus=corpus, compare={"fractions": [0.5, 1.0], "seeds": [0, 1]})
    labels, task = LabelParts.of(Store(str(tmp_path / "labels"))), NaturalLanguageInference()
    examples = [Example("a", "premise: neutral 1", "neutral"), Example("b", "premise: entailment", "contradiction")]
    half, whole = score_tf_idf(run, labels, examples, task, gold=True)
    assert (whole.fraction, whole.rows, whole.rights, half.fraction) == (1.0, 60.0, [[True, False]] * 2, 0.5)
    assert half.rows == sum(in_fraction(f"r{i}", 0.5, seed) for i in range(60) for seed in (0, 1)) / 2
    teachers = score_tf_idf(run, labels, examples, task, gold=False)
    assert teachers[1].rights == [[True, False]] * 2, "one label alone needs no regression"


@pytest.mark.parametrize(
    ("task", "written", "labels"),
    [("nli", "The answer is neutral", 3), ("arithmetic", "So. The answer is 3.\nQ: 4?", 0)],
)
def test_few_shot_students_read_prompts(tmp_path: Path, monkeypatch: Any, task: str, written: str, labels: int) -> None:
    prediction = Prediction(written, 0.5, 9, 3, 0.1, too_long=False)
    predict = Mock(return_value=[Predictions([(prediction,)] * 2, 1.0)])
    monkeypatch.setattr(cells, "predict", predict)
    monkeypatch.setattr(few_shot, "student_config", lambda student: None)
    run = make_run(tmp_path, task=task, student={"model": "some/model", "method": "rationale-then-label"})
    examples = [Example("a", "one", "3" if task == "arithmetic" else "neutral"), Example("b", "two", "7")]
    asked: Any = ({"some/model": run}, cells.task_of(run), examples)
    found = few_shot.score_few_shot(*asked)
    counts = found["some/model"].counts
    assert (counts["correct"], counts["unanswered"]) == (1, 0)
    assert few_shot.score_few_shot(*asked) == found
    [[request], *_] = predict.call_args.args
    assert predict.call_count == 1
    assert request.inputs[0].endswith("\n\nQ: one\nA:")
    assert request.inputs[0].count("The answer is") >= 3
    assert request.query.ranked == bool(labels)
    assert [len(some) for some in request.label_sets or ()] == [labels] * 2 * bool(labels)
