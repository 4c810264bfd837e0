"""A grid from its run file to its report: what is made once, what is made anew, and what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.artifacts import MANIFEST, Store
from pipelines.compare.cells import answers_of_teacher, split_of, task_of
from pipelines.errors import UserError
from pipelines.tasks import task_spec
from tests.pipelines.compare.lab import Lab
from tests.pipelines.evaluate.made import write_corpus

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
    assert len(answers_of_teacher(run, "heldout", labels, found["heldout"])) == 20
    assert answers_of_teacher(run, "validation", labels, found["validation"]) == {}
    share = lab.run(corpus={**lab.corpus, "validation": 0.5})
    examples = split_of(share, "validation", task_of(share)).examples
    assert answers_of_teacher(share, "validation", labels, examples).keys() == {example.id for example in examples}


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


@pytest.mark.parametrize("what", ["version", "options", "format"])
def test_scores_by_other_rules_are_never_mixed(lab: Lab, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    made = lab.compare()
    untrained = lab.files("untrained/*/manifest.json")
    if what == "version":
        monkeypatch.setattr("pipelines.tasks.arithmetic.Arithmetic.version", "9")
    elif what == "format":
        monkeypatch.setattr("pipelines.evaluate.identity.ANSWERS", 99)
    else:
        monkeypatch.setattr("pipelines.compare.cells.task_spec", lambda task, options: task_spec(task, {}))
    again = lab.compare(**({"task_options": {"other": 1}} if what == "options" else {}))
    assert again.fingerprint != made.fingerprint
    assert len(lab.files(SCORES)) == 4
    assert untrained < lab.files("untrained/*/manifest.json"), "the untrained student is scored anew too"
