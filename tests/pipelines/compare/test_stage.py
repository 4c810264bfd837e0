from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pipelines.compare import cells
from pipelines.compare.cells import Scores, answers_of_teacher, split_of, task_of
from pipelines.compare.stage import is_finished
from pipelines.config import RunConfig
from pipelines.errors import StageFailedError, UserError
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import MANIFEST, Store
from pipelines.tasks import Example, task_spec
from tests.support.artifacts import write_corpus
from tests.support.fake_grid import Lab

SEARCH = {"trials": 2, "learning_rate": [1e-4, 1e-2]}
SCORES = "cells/*/heldout-*/manifest.json"
READERS = {"methods": ["finetune", "rationale-as-input"]}


def trained(lab: Lab) -> list[tuple[str, float, int]]:
    return [(run.student.method, run.training.fraction, run.training.seed) for run in lab.trained]


def test_a_grid_is_made_once(lab: Lab) -> None:
    assert not is_finished(lab.run())
    made = lab.compare()
    assert (is_finished(lab.run()), is_finished(lab.run(compare={"seeds": [0, 1]}))) == (True, False)
    assert (trained(lab), made.counts) == ([("finetune", 1.0, 0), ("step-by-step", 1.0, 0)], {"cells": 2, "scored": 20})
    assert ([group.accuracy for group in lab.report().groups], lab.compare(), trained(lab)) == ([0.3, 0.5], made, [])
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
def test_an_extended_grid_keeps_its_cells(lab: Lab, more: dict[str, Any], expected: list[Any]) -> None:
    before = lab.compare(compare={"keep_students": True})
    there = {name: lab.path(name).stat().st_mtime_ns for name in lab.files("**/*.*") if "report" not in name}
    del there[MANIFEST]
    after = lab.compare(compare={"keep_students": True, **more})
    assert trained(lab) == expected
    assert {name: lab.path(name).stat().st_mtime_ns for name in there} == there, "untrained and kept students stay too"
    assert (after.fingerprint == before.fingerprint) == ("price_per_worker_hour" in more)
    assert {row.money is None for row in lab.report().cost.training} == {"price_per_worker_hour" not in more}


def test_each_report_shows_what_is_missing(lab: Lab) -> None:
    seen = []

    def look(run: RunConfig) -> None:
        there = sum(len(group.cells) for group in lab.report().groups)
        seen.append((there, len(lab.report().missing), lab.path(MANIFEST).exists()))

    lab.fails = look
    lab.compare()
    lab.compare(compare={"seeds": [0, 1]})
    assert (seen, lab.report().missing) == ([(0, 2, False), (1, 1, False), (2, 2, False), (3, 1, False)], [])


def test_a_refused_comparison_leaves_the_finished_one(lab: Lab) -> None:
    lab.compare()
    files = {name: lab.path(name).read_bytes() for name in (MANIFEST, "report.json", "report.html")}
    leaked = [{"id": f"h{i}", "input": f"question t{i}", "label": "3"} for i in range(20)]
    write_corpus(lab.folder / "test.jsonl", leaked)
    with pytest.raises(UserError, match=r"corpus\.test: \d+ of its 20 examples have the input of a training row"):
        lab.compare()
    assert ({name: lab.path(name).read_bytes() for name in files}, trained(lab)) == (files, [])


def test_scores_of_other_settings_lie_side_by_side(lab: Lab) -> None:
    made, first = lab.compare(evaluation={"max_new_tokens": 12}), lab.files(SCORES)
    lab.compare(evaluation={"max_new_tokens": 13})
    assert (len(trained(lab)), len(lab.files(SCORES))) == (2, 4)
    samples = {"n": 1, "temperature": 0.9, "seed": 3}
    workers = {"gpus_per_worker": 1, "workers": 2, "batch_size": 1, "samples": samples}
    for same in ({}, workers):  # batches and workers change no score
        assert lab.compare(evaluation={"max_new_tokens": 12, **same}).fingerprint == made.fingerprint
        assert trained(lab) == []
    assert first < lab.files(SCORES)


def test_a_validation_file_has_no_teacher_answers(lab: Lab, tmp_path: Path) -> None:
    # Its ids are those of the test set, whose rationales do not apply to it.
    write_corpus(tmp_path / "v.jsonl", [{"id": f"h{i}", "input": f"to choose {i}", "label": "3"} for i in range(4)])
    run = lab.run(corpus={**lab.corpus, "validation": str(tmp_path / "v.jsonl")})
    labels, task = Store(run.output).child("labels"), task_of(run)
    found = {split: split_of(run, split, task).examples for split in ("heldout", "validation")}
    assert len(answers_of_teacher(run, "heldout", labels, found["heldout"], task).by_id) == 20
    assert answers_of_teacher(run, "validation", labels, found["validation"], task).by_id == {}
    share = lab.run(corpus={**lab.corpus, "validation": 0.5})
    examples = split_of(share, "validation", task).examples
    answers = answers_of_teacher(share, "validation", labels, examples, task)
    assert answers.by_id.keys() == {example.id for example in examples}


def test_a_failed_cell_is_reported_and_retried(lab: Lab) -> None:
    lab.fails = lambda run: StageFailedError("no room") if run.student.method == "finetune" else None
    shuffled = {"arms": ["shuffled-rationales"]}
    with pytest.raises(StageFailedError, match=r"finetune 1 seed 0 failed: no room\. The report shows the other cells"):
        lab.compare(compare=shuffled)
    report = lab.report()
    assert [(row.method, row.why) for row in report.missing] == [("finetune", "no room")]
    assert ([group.method for group in report.groups], lab.files(MANIFEST)) == (["step-by-step"] * 2, set())
    assert lab.files("labels/*/manifest.json"), "changed labels stay for the retry"
    lab.fails = lambda run: None
    lab.compare(compare=shuffled)
    assert (trained(lab), lab.report().missing) == ([("finetune", 1.0, 0)], [])


@pytest.mark.parametrize("content", [b"no Parquet", None])
def test_what_is_lost_or_damaged_is_made_again(lab: Lab, content: bytes | None) -> None:
    epochs: dict[str, Any] = {"training": {"steps": None, "epochs": 2}}
    lab.compare(**epochs)
    [answers, *_] = sorted(lab.files("cells/*/heldout-*/predictions.parquet"))
    reports = ("report.json", "report.html") if content is None else ()  # a damaged one is named by who reads it
    for name in (answers, *lab.files("budgets/*"), *reports):
        lab.path(name).unlink() if content is None else lab.path(name).write_bytes(content)
        if name not in reports:
            lab.path(MANIFEST).unlink()
        lab.compare(**epochs)
        assert (name, len(lab.trained)) == (name, int(name == answers))
        assert lab.path(name).read_bytes() != content
    assert len(lab.report().groups) == 2


def test_only_user_errors_make_a_user_error(lab: Lab) -> None:
    wrong = UserError("training.tokens_per_micro_batch 16", "it is below the 50 tokens of the longest", "Raise it")
    lab.fails = lambda run: wrong
    with pytest.raises(UserError, match=r"finetune 1 seed 0 and 1 other: training\..* 16: .*Raise it"):
        lab.compare()
    lab.fails = lambda run: wrong if run.student.method == "finetune" else StageFailedError("no room")
    with pytest.raises(StageFailedError, match="run the same command to retry"):
        lab.compare()


def test_a_failed_trial_is_not_chosen(lab: Lab) -> None:
    lab.right = lambda run: 15 if run.training.learning_rate == 1e-2 else 5
    diverges, failing = StageFailedError("step 3 is not finite"), ("finetune", 1e-2)
    lab.fails = lambda run: diverges if (run.student.method, run.training.learning_rate) == failing else None
    sections: dict[str, Any] = {"corpus": {**lab.corpus, "validation": 0.3}, "compare": {"search": SEARCH}}
    made = lab.compare(**sections)
    search = lab.report().search
    assert {(s.method, s.learning_rate): (s.chosen, s.why) for s in search.settings} == {
        ("finetune", 1e-4): (True, ""), ("finetune", 1e-2): (False, "step 3 is not finite"),
        ("step-by-step", 1e-4): (False, ""), ("step-by-step", 1e-2): (True, ""),
    }  # fmt: skip
    assert lab.report().missing == []
    assert (lab.compare(**sections), trained(lab)) == (made, []), "a finished search is not repeated"
    lab.fails = lambda run: diverges if run.student.method == "finetune" else None
    sections["compare"] = {"search": SEARCH, "seeds": [1]}
    with pytest.raises(StageFailedError, match=r"finetune 1 seed 1 and 1 other failed: .*All its trials failed"):
        lab.compare(**sections)


def test_weights_that_no_split_needs_are_removed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    search = {**SEARCH, "fraction": 0.5}  # the trials are no cells of the grid
    lab.compare(corpus={**lab.corpus, "validation": 0.3}, compare={"search": search})
    assert len(lab.files("cells/*/validation-*")) == 4
    assert not lab.files("cells/*/student")
    with monkeypatch.context() as patch:
        patch.setattr(cells, "drop_student", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lab.compare(compare={"seeds": [5]})
    assert lab.files("cells/*/student"), "killed between the manifest of the scores and the removal of the weights"
    lab.compare(compare={"seeds": [5]})
    assert len(trained(lab)) == 1
    assert not lab.files("cells/*/student")


@pytest.mark.parametrize(
    ("sections", "chooses"),
    [({"compare": {"search": SEARCH}}, True), ({"training": {"validate_every_steps": 2}}, True), ({}, False)],
)
def test_nothing_is_chosen_on_scored_examples(lab: Lab, sections: dict[str, Any], chooses: bool) -> None:
    """Neither with one file for both, nor with files that share examples under different ids."""
    same = {**lab.corpus, "validation": lab.corpus["test"]}
    if chooses:
        with pytest.raises(UserError, match=r"corpus\.test: 20 of its 20 examples have the input of a validation"):
            lab.compare(corpus=same, **sections)
        assert trained(lab) == []
    else:
        lab.compare(corpus=same, **sections)
        assert lab.report().heldout.chosen_on is None
    shared = [{"id": f"v{i}", "input": f"Another  question {i}", "label": "3"} for i in range(3)]
    write_corpus(lab.folder / "v.jsonl", [*shared, {"id": "h9", "input": "nothing of the sort", "label": "3"}])
    lab.compare(corpus={**lab.corpus, "validation": str(lab.folder / "v.jsonl")}, **sections)
    found = lab.report().heldout.chosen_on
    expected = {"count": 3, "ids": ["h0", "h1", "h2"], "by": {"id": 1, "input": 3, "near": 0}}
    assert (found and found.model_dump()) == (expected if chooses else None)
    notice = "3 of 20 scored examples (3 by equal input, 0 by similar input: h0, h1, h2) are also in the data on which"
    assert (notice in lab.path("report.html").read_text()) == chooses


PLAIN = {"student", "format", "max_new_tokens", "samples", "task", "examples"}


def test_the_identity_of_early_scores_is_kept(lab: Lab) -> None:
    """Keys mark what early scores lacked: sources of rationales, and probabilities over closed label sets."""
    labels = require_manifest(Store(str(lab.folder / "out/labels")), "labels", "")

    def keys(method: str = "finetune", **sections: Any) -> set[str]:
        run = lab.run(student={"model": "some/model", "method": method}, **sections)
        return set(Scores.of_cell(run, "heldout", task_of(run), labels, [Example("h", "one", "spam")]).identity)

    share = {"train": lab.corpus["train"], "validation": 0.3}
    assert keys(corpus=share) == keys(task="classification") == PLAIN
    assert keys("rationale-as-input") == {*PLAIN, "labels"}
    assert keys("rationale-as-input", corpus=share) == {*PLAIN, "labels", "rejects_read"}
    closed = {"labels": ["spam", "ham"]}
    assert keys(task="classification", task_options=closed) == keys(task="nli") == {*PLAIN, "confidence"}
    assert keys(task="nli", evaluation={"samples": {"n": 3}}) == PLAIN, "a share of samples is not a probability"


def test_a_student_that_reads_rationales_needs_them(lab: Lab) -> None:
    lab.compare(compare=READERS)
    assert lab.read[0] == "another question 0 [rationale] because"
    found: Any = lab.report().rationales_read
    assert found.model_dump() == {"examples": 20, "without": 0, "states_gold": 0.0}
    rows = [{"id": f"t{i}", "input": f"question t{i}", "label": "3"} for i in range(4)]
    lab.label(rows, [{"id": "other", "input": "other", "label": "3"}])
    with pytest.raises(UserError, match="the labels have none for the 20 held-out examples"):
        lab.compare(compare={**READERS, "seeds": [8]})
    assert trained(lab) == []


def test_other_teacher_answers_are_read_again(lab: Lab) -> None:
    """As after rows with `engine_error` were retried."""
    made, scores = lab.compare(compare=READERS), lab.files(SCORES)
    path = lab.folder / "out/labels/manifest.json"
    path.write_text(path.read_text().replace('"c0"', '"c0", "heldout_content": "h1"'))
    assert lab.compare(compare=READERS).fingerprint != made.fingerprint
    assert ([run.student.method for run in lab.trained], len(lab.files(SCORES) - scores)) == (["rationale-as-input"], 1)


@pytest.mark.parametrize("what", ["version", "options", "format", "prompt"])
def test_scores_by_other_rules_are_never_mixed(lab: Lab, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    made = lab.compare()
    untrained = lab.files("untrained/*/manifest.json")
    if what == "version":
        monkeypatch.setattr("pipelines.tasks.arithmetic.Arithmetic.version", "9")
    elif what == "format":
        monkeypatch.setattr("pipelines.scoring.identity.ANSWERS", 99)
    elif what == "options":
        for module in ("compare.cells", "scoring.heldout_part"):
            monkeypatch.setattr(f"pipelines.{module}.task_spec", lambda task, options: task_spec(task, {}))
    student = {"model": "some/model", "prompt": "chat"}
    again = lab.compare(**{"options": {"task_options": {"other": 1}}, "prompt": {"student": student}}.get(what, {}))
    assert (again.fingerprint == made.fingerprint, len(lab.files(SCORES))) == (False, 4)
    assert untrained < lab.files("untrained/*/manifest.json"), "the untrained student is scored again too"
