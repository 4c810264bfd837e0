"""Whose labels are learned, and what settings look like to a reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.config import FiltersConfig, StudentConfig
from pipelines.scoring.settings import filters_of, learned, settings_facts, student_settings
from tests.support.artifacts import label_row, make_run, write_labels, write_student_manifest

ROWS = [label_row("a", "3"), label_row("b", "4")]


@pytest.mark.parametrize(
    ("student", "whose"),
    [
        ({"method": "finetune"}, "gold"),
        ({"method": "step-by-step"}, "gold"),
        ({"method": "step-by-step", "labels": "teacher"}, "teacher"),
        ({"method": "task-distillation"}, "teacher"),
        ({"method": "soft-label"}, "either"),
    ],
)
def test_whose_labels_a_method_learns(student: dict[str, Any], whose: str) -> None:
    assert learned(StudentConfig(model="m", **student)) == whose


def test_the_settings_are_those_of_the_training_whatever_the_run_says_by_now(tmp_path: Path) -> None:
    filters = FiltersConfig(min_agreement=0.4).model_dump()
    labels = write_labels(tmp_path / "labels", ROWS, teacher={"filters": filters})
    trained = make_run(tmp_path, student={"model": "none", "labels": "teacher"}, training={"epochs": 7})
    found = student_settings(write_student_manifest(tmp_path / "student", trained, labels), labels)
    assert (found["labels"], found["filters"], found["training"]["epochs"]) == ("teacher", filters, 7)


def test_labels_that_do_not_say_have_unknown_filters(tmp_path: Path) -> None:
    assert filters_of(write_labels(tmp_path / "labels", ROWS)) is None


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        (None, "not known"),
        (FiltersConfig().model_dump(), "none"),
        (
            {**FiltersConfig(gold="rationalise", drop_giveaways=True).model_dump()},
            "gold rationalise, drop_giveaways on",
        ),
        (
            FiltersConfig(max_rationale_words=90, near_duplicates=0.8).model_dump(),
            "max_rationale_words 90, near_duplicates 0.8",
        ),
    ],
)
def test_filters_that_are_set_are_told(filters: dict[str, Any] | None, said: str) -> None:
    settings = {"labels": {"finetune": "gold", "step-by-step": "gold"}, "filters": filters}
    facts = settings_facts({**settings, "training": {"epochs": 0.5, "tokens_per_batch": 1024}})
    assert facts == [
        ("Labels learned", "gold"),
        ("Filters of the labels", said),
        ("Training", "0.5 epochs, 1,024 tokens a batch"),
    ]
