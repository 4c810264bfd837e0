"""A grid from its run file to its report: what is made once, what is made anew, and what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.artifacts import MANIFEST
from pipelines.tasks import task_spec
from tests.pipelines.compare.lab import Lab

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
