"""A grid from its run file to its report: what is made once, what is made anew, and what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.compare import cells
from pipelines.compare.cells import Scores, answers_of_teacher, split_of, task_of
from pipelines.config import RunConfig
from pipelines.errors import StageFailedError, UserError
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import MANIFEST, Store
from pipelines.tasks import Example, task_spec
from tests.support.artifacts import write_corpus
from tests.support.fake_grid import Lab

SEARCH = {"trials": 2, "learning_rate": [1e-4, 1e-2]}
SCORES = "cells/*/heldout-*/manifest.json"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


def trained(lab: Lab) -> list[tuple[str, float, int]]:
    """What the last call has trained: method, fraction, seed."""
    return [(run.student.method, run.training.fraction, run.training.seed) for run in lab.trained]


def test_a_grid_is_made_once(lab: Lab) -> None:
    made = lab.compare()
    assert trained(lab) == [("finetune", 1.0, 0), ("step-by-step", 1.0, 0)]
    assert made.counts == {"cells": 2, "scored": 20}
    assert [group["accuracy"] for group in lab.report()["groups"]] == [0.3, 0.5]
    assert lab.compare() == made
    assert trained(lab) == []
    assert not lab.files("cells/*/student"), "weights go when they are scored"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"seeds": [0, 1]}, [("finetune", 1.0, 1), ("step-by-step", 1.0, 1)]),
        ({"fractions": [0.5, 1.0]}, [("finetune", 0.5, 0), ("step-by-step", 0.5, 0)]),
        ({"methods": ["finetune", "task-distillation"]}, [("task-distillation", 1.0, 0)]),
        ({"price_per_worker_hour": 2.0}, []),
    ],
)
def test_a_finished_grid_that_is_extended_keeps_its_cells(
    lab: Lab, more: dict[str, Any], expected: list[tuple[str, float, int]]
) -> None:
    before = lab.compare(compare={"keep_students": True})
    there = {name: lab.path(name).stat().st_mtime_ns for name in lab.files("**/*.*") if "report" not in name}
    del there[MANIFEST]
    after = lab.compare(compare={"keep_students": True, **more})
    assert trained(lab) == expected
    assert {name: lab.path(name).stat().st_mtime_ns for name in there} == there, "untrained and kept students stay too"
    assert (after.fingerprint == before.fingerprint) == ("price_per_worker_hour" in more)
    assert {row["money"] is None for row in lab.report()["cost"]["training"]} == {"price_per_worker_hour" not in more}


def test_before_the_first_new_cell_the_report_shows_what_is_missing(lab: Lab) -> None:
    seen: list[tuple[int, int, bool]] = []

    def look(run: RunConfig) -> None:
        report = lab.report()
        there = sum(len(group["cells"]) for group in report["groups"])
        seen.append((there, len(report["missing"]), lab.path(MANIFEST).exists()))

    lab.fails = look
    lab.compare()
    lab.compare(compare={"seeds": [0, 1]})
    assert seen == [(0, 2, False), (1, 1, False), (2, 2, False), (3, 1, False)]
    assert lab.report()["missing"] == []


def test_a_comparison_that_is_refused_leaves_the_finished_one(lab: Lab) -> None:
    lab.compare()
    files = {name: lab.path(name).read_bytes() for name in (MANIFEST, "report.json", "report.html")}
    leaked = [{"id": f"h{i}", "input": f"question t{i}", "label": "3"} for i in range(20)]
    write_corpus(lab.folder / "test.jsonl", leaked)
    with pytest.raises(UserError, match=r"corpus\.test: \d+ of its 20 examples have the input of a training row"):
        lab.compare()
    assert {name: lab.path(name).read_bytes() for name in files} == files


def test_a_baseline_that_is_trained_for_longer_lies_beside_the_grid(lab: Lab) -> None:
    """The control of equal steps: README, Comparing methods."""
    made = lab.compare()
    lab.compare(training={"epochs": 9}, compare={"methods": ["finetune"]})
    assert trained(lab) == [("finetune", 1.0, 0)]
    assert [group["method"] for group in lab.report()["groups"]] == ["finetune"]
    assert lab.compare().fingerprint == made.fingerprint
    assert trained(lab) == []
    assert [group["method"] for group in lab.report()["groups"]] == ["finetune", "step-by-step"]


def test_scores_of_another_evaluation_stay_beside_those_of_this(lab: Lab) -> None:
    lab.compare(evaluation={"max_new_tokens": 12})
    first = lab.files(SCORES)
    lab.compare(evaluation={"max_new_tokens": 13})
    assert len(trained(lab)) == 2
    assert len(lab.files(SCORES)) == 4
    lab.compare(evaluation={"max_new_tokens": 12})
    assert trained(lab) == []
    assert first < lab.files(SCORES)


@pytest.mark.parametrize(
    "evaluation",
    [{"gpus_per_worker": 1}, {"workers": 2}, {"batch_size": 1}, {"samples": {"n": 1, "temperature": 0.9, "seed": 3}}],
)
def test_what_changes_no_answer_scores_nothing_anew(lab: Lab, evaluation: dict[str, Any]) -> None:
    made = lab.compare(evaluation={"max_new_tokens": 12})
    assert lab.compare(evaluation={"max_new_tokens": 12, **evaluation}).fingerprint == made.fingerprint
    assert trained(lab) == []


def test_a_validation_file_beside_a_test_set_has_no_answers_of_the_teacher(lab: Lab, tmp_path: Path) -> None:
    # It numbers its rows as the test set does, whose answers are no rationales for it.
    write_corpus(tmp_path / "v.jsonl", [{"id": f"h{i}", "input": f"to choose {i}", "label": "3"} for i in range(4)])
    run = lab.run(corpus={**lab.corpus, "validation": str(tmp_path / "v.jsonl")})
    labels = Store(run.output).child("labels")
    found = {split: split_of(run, split, task_of(run)).examples for split in ("heldout", "validation")}
    task = task_of(run)
    assert len(answers_of_teacher(run, "heldout", labels, found["heldout"], task).by_id) == 20
    assert answers_of_teacher(run, "validation", labels, found["validation"], task).by_id == {}
    share = lab.run(corpus={**lab.corpus, "validation": 0.5})
    examples = split_of(share, "validation", task_of(share)).examples
    answers = answers_of_teacher(share, "validation", labels, examples, task)
    assert answers.by_id.keys() == {example.id for example in examples}


def test_a_training_that_was_gone_on_from_costs_what_all_its_attempts_took(lab: Lab) -> None:
    lab.timings_s["steps"] = 40.0  # half of them in an attempt before the last
    lab.compare()
    assert {cell["train_s"] for group in lab.report()["groups"] for cell in group["cells"]} == {40.0}


def test_what_reads_rationales_is_not_chosen_on_a_file_that_has_none(lab: Lab, tmp_path: Path) -> None:
    compare = {"methods": ["finetune", "rationale-as-input"], "search": SEARCH}
    write_corpus(tmp_path / "v.jsonl", [{"id": "v", "input": "to choose", "label": "3"}])
    file = {**lab.corpus, "validation": str(tmp_path / "v.jsonl")}
    with pytest.raises(
        UserError, match=r"compare\.methods rationale-as-input: .*on a file that the teacher does not answer"
    ):
        lab.compare(corpus=file, compare=compare)
    lab.compare(corpus=file, compare={**compare, "methods": ["finetune"]})
    lab.compare(corpus={**lab.corpus, "validation": 0.5}, compare=compare)


def test_a_failed_cell_does_not_stop_the_others_and_is_tried_again(lab: Lab) -> None:
    lab.fails = lambda run: StageFailedError("no room") if run.student.method == "finetune" else None
    with pytest.raises(StageFailedError, match=r"finetune 1 seed 0 failed: no room\. The report shows the other cells"):
        lab.compare()
    report = lab.report()
    assert [(row["method"], row["why"]) for row in report["missing"]] == [("finetune", "no room")]
    assert [group["method"] for group in report["groups"]] == ["step-by-step"]
    assert not lab.files(MANIFEST)
    lab.fails = lambda run: None
    lab.compare()
    assert trained(lab) == [("finetune", 1.0, 0)]
    assert lab.report()["missing"] == []


def test_where_every_failure_is_the_users_so_is_the_error(lab: Lab) -> None:
    wrong = UserError("training.tokens_per_micro_batch 16", "it is below the 50 tokens of the longest", "Raise it")
    lab.fails = lambda run: wrong
    with pytest.raises(
        UserError, match=r"finetune 1 seed 0 and 1 other: training\.tokens_per_micro_batch 16: .*Raise it"
    ):
        lab.compare()
    lab.fails = lambda run: wrong if run.student.method == "finetune" else StageFailedError("no room")
    with pytest.raises(StageFailedError, match="the same command tries again"):
        lab.compare()


def searched(**compare: Any) -> dict[str, Any]:
    return {"compare": {"search": SEARCH, **compare}}


def test_a_trial_that_fails_is_not_chosen_and_blocks_nothing(lab: Lab) -> None:
    lab.right = lambda run: 15 if run.training.learning_rate == 1e-2 else 5
    diverges = StageFailedError("step 3 is not finite")
    lab.fails = lambda run: (
        diverges if run.student.method == "finetune" and run.training.learning_rate == 1e-2 else None
    )
    corpus = {**lab.corpus, "validation": 0.3}
    made = lab.compare(corpus=corpus, **searched())
    settings = {(s["method"], s["learning_rate"]): (s["chosen"], s["why"]) for s in lab.report()["search"]["settings"]}
    assert settings == {
        ("finetune", 1e-4): (True, ""),
        ("finetune", 1e-2): (False, "step 3 is not finite"),
        ("step-by-step", 1e-4): (False, ""),
        ("step-by-step", 1e-2): (True, ""),
    }
    assert lab.report()["missing"] == []
    assert lab.compare(corpus=corpus, **searched()) == made
    assert trained(lab) == [], "what is finished is not searched again"
    lab.fails = lambda run: diverges if run.student.method == "finetune" else None
    with pytest.raises(StageFailedError, match=r"finetune 1 seed 1 and 1 other failed: .*No trial of it is left"):
        lab.compare(corpus=corpus, **searched(seeds=[1]))


def test_no_weights_stay_that_no_split_needs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = {**lab.corpus, "validation": 0.3}
    search = {**SEARCH, "fraction": 0.5}  # the trials are no cells of the grid
    lab.compare(corpus=corpus, compare={"search": search})
    assert len(lab.files("cells/*/validation-*")) == 4
    assert not lab.files("cells/*/student")

    def killed(run: RunConfig) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cells, "drop_student", killed)
        with pytest.raises(KeyboardInterrupt):
            lab.compare(compare={"seeds": [5]})
    assert lab.files("cells/*/student"), "between the manifest of the scores and the removal of the weights"
    lab.compare(compare={"seeds": [5]})
    assert len(trained(lab)) == 1
    assert not lab.files("cells/*/student")


def test_an_overlap_is_refused_before_anything_is_trained(lab: Lab) -> None:
    rows = [{"id": f"t{i}", "input": f"question h{i}", "label": "3"} for i in range(20)]
    write_corpus(lab.folder / "test.jsonl", [{**row, "id": f"h{i}"} for i, row in enumerate(rows)])
    lab.label([{**row, "id": row["id"].replace("t", "h")} for row in rows], [])
    with pytest.raises(UserError, match=r"corpus\.test: 18 of its 20 examples have the input of a training row"):
        lab.compare()
    assert trained(lab) == []


@pytest.mark.parametrize(
    ("sections", "chooses"),
    [({"compare": {"search": SEARCH}}, True), ({"training": {"validate_every_steps": 2}}, True), ({}, False)],
)
def test_what_is_chosen_is_not_chosen_on_what_is_scored(lab: Lab, sections: dict[str, Any], chooses: bool) -> None:
    """A file that is named for both, or one that shares examples with the other under ids of its own."""
    same = {**lab.corpus, "validation": lab.corpus["test"]}
    if chooses:
        with pytest.raises(
            UserError, match=r"corpus\.test: 20 of its 20 examples have the input of a validation example"
        ):
            lab.compare(corpus=same, **sections)
        assert trained(lab) == []
    else:
        lab.compare(corpus=same, **sections)
        assert lab.report()["heldout"]["chosen_on"] is None
    shared = [{"id": f"v{i}", "input": f"Another  question {i}", "label": "3"} for i in range(3)]
    write_corpus(lab.folder / "v.jsonl", [*shared, {"id": "h9", "input": "nothing of the sort", "label": "3"}])
    lab.compare(corpus={**lab.corpus, "validation": str(lab.folder / "v.jsonl")}, **sections)
    found = lab.report()["heldout"]["chosen_on"]
    assert found == (
        {"count": 3, "ids": ["h0", "h1", "h2"], "by": {"id": 1, "input": 3, "near": 0}} if chooses else None
    )
    said = "3 of the 20 scored examples are among those on which settings or weights were chosen"
    assert (said in lab.path("report.html").read_text()) == chooses


def test_only_scores_that_read_what_filters_rejected_are_made_anew(lab: Lab) -> None:
    labels = require_manifest(Store(str(lab.folder / "out/labels")), "labels", "")

    def identity(method: str, **corpus: Any) -> dict[str, Any]:
        run = lab.run(
            corpus={"train": lab.corpus["train"], **corpus}, student={"model": "some/model", "method": method}
        )
        return Scores.of_cell(
            run, "heldout", task_of(run), labels, split_of(run, "heldout", task_of(run)).examples
        ).identity

    plain = {"student", "format", "max_new_tokens", "samples", "task", "examples"}
    assert identity("finetune", validation=0.3).keys() == plain
    assert identity("rationale-as-input", test=lab.corpus["test"]).keys() == {*plain, "labels"}
    assert identity("rationale-as-input", validation=0.3).keys() == {*plain, "labels", "rejects_read"}


def test_only_scores_of_closed_label_sets_are_made_anew(lab: Lab) -> None:
    """Their confidences were plain products before; those of a task with free labels have not changed."""
    labels = require_manifest(Store(str(lab.folder / "out/labels")), "labels", "")

    def keys(task: str, options: dict[str, Any] | None = None, **sections: Any) -> set[str]:
        run = lab.run(task=task, task_options=options or {}, **sections)
        found = Scores.of_cell(run, "heldout", task_of(run), labels, [Example("h", "one", "spam")])
        return set(found.identity)

    plain = {"student", "format", "max_new_tokens", "samples", "task", "examples"}
    assert keys("arithmetic") == keys("classification") == plain
    closed = {"labels": ["spam", "ham"]}
    assert keys("classification", closed) == keys("multiple-choice") == keys("nli") == {*plain, "confidence"}
    assert keys("nli", evaluation={"samples": {"n": 3}}) == plain, "samples that agree are no probabilities"


def test_examples_without_gold_labels_are_refused_by_key_and_with_a_problem(lab: Lab) -> None:
    write_corpus(lab.folder / "test.jsonl", [{"id": "h1", "input": "one"}, {"id": "h2", "input": "two", "label": "!"}])
    with pytest.raises(UserError, match=r"corpus\.test: none of its 2 rows has a gold label.*\(h2: the gold label '!'"):
        lab.compare()


def test_a_student_that_reads_rationales_in_a_grid(lab: Lab) -> None:
    lab.compare(compare={"methods": ["finetune", "rationale-as-input"]})
    assert lab.answered[0] == "another question 0 [rationale] because"
    assert lab.report()["rationales_read"] == {"examples": 20, "without": 0, "states_gold": 0.0}
    lab.label(
        [{"id": f"t{i}", "input": f"question t{i}", "label": "3"} for i in range(4)],
        [{"id": "other", "input": "other", "label": "3"}],
    )
    with pytest.raises(UserError, match="the labels hold none to the 20 held-out examples"):
        lab.compare(compare={"methods": ["finetune", "rationale-as-input"], "seeds": [8]})
    assert trained(lab) == []


def test_other_answers_of_the_teacher_to_held_out_examples_are_reported_and_read(lab: Lab) -> None:
    """As when rows that no engine could answer are tried again."""
    grid = {"methods": ["finetune", "rationale-as-input"]}
    made, scores = lab.compare(compare=grid), lab.files(SCORES)
    path = lab.folder / "out/labels/manifest.json"
    path.write_text(path.read_text().replace('"c0"', '"c0", "heldout_content": "h1"'))
    assert lab.compare(compare=grid).fingerprint != made.fingerprint
    assert [run.student.method for run in lab.trained] == ["rationale-as-input"], "it reads what the teacher says"
    assert len(lab.files(SCORES) - scores) == 1


@pytest.mark.parametrize("what", ["version", "options", "format"])
def test_scores_by_other_rules_are_never_mixed(lab: Lab, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    made = lab.compare()
    untrained = lab.files("untrained/*/manifest.json")
    if what == "version":
        monkeypatch.setattr("pipelines.tasks.arithmetic.Arithmetic.version", "9")
    elif what == "format":
        monkeypatch.setattr("pipelines.scoring.identity.ANSWERS", 99)
    else:
        monkeypatch.setattr("pipelines.compare.cells.task_spec", lambda task, options: task_spec(task, {}))
    again = lab.compare(**({"task_options": {"other": 1}} if what == "options" else {}))
    assert again.fingerprint != made.fingerprint
    assert len(lab.files(SCORES)) == 4
    assert untrained < lab.files("untrained/*/manifest.json"), "the untrained student is scored anew too"
