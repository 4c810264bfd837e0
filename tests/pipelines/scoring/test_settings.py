from pathlib import Path
from typing import Any

import pytest

from pipelines.config import FiltersConfig, StudentConfig
from pipelines.scoring.model import TrainingSettings
from pipelines.scoring.settings import filters_of, learned, settings_facts
from tests.support.artifacts import label_row, write_labels


@pytest.mark.parametrize(
    ("student", "whose"),
    [
        ({"method": "finetune"}, "gold"), ({"method": "step-by-step"}, "gold"),
        ({"method": "step-by-step", "labels": "teacher"}, "teacher"),
        ({"method": "task-distillation"}, "teacher"), ({"method": "soft-label"}, "either"),
        *(({"method": method, "labels": "gold-else-teacher"}, "either") for method in ("task-distillation", "step-by-step")),
    ],
)  # fmt: skip
def test_whose_labels_a_method_learns(student: dict[str, Any], whose: str) -> None:
    assert learned(StudentConfig(model="m", **student)) == whose


def test_filters_come_from_the_labels(tmp_path: Path) -> None:
    filters, rows = FiltersConfig(min_agreement=0.4).model_dump(), [label_row("a", "3"), label_row("b", "4")]
    assert filters_of(write_labels(tmp_path / "with", rows, teacher={"filters": filters})) == filters
    assert filters_of(write_labels(tmp_path / "without", rows)) is None


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        (None, "unknown"),
        (FiltersConfig(), "none"),
        (FiltersConfig(gold="rationalise", drop_giveaways=True), "gold rationalise, drop_giveaways on"),
        (FiltersConfig(max_rationale_words=90, near_duplicates=0.8), "max_rationale_words 90, near_duplicates 0.8"),
    ],
)
def test_set_filters_are_listed(filters: FiltersConfig | None, text: str) -> None:
    training = TrainingSettings(epochs=0.5, tokens_per_batch=1024)
    labels: Any = {"finetune": "gold", "step-by-step": "gold"}
    facts = settings_facts(labels, filters and filters.model_dump(mode="json"), training)
    trained = ("Training", "0.5 epochs, 1,024 tokens per batch")
    assert facts == [("Labels learned", "gold"), ("Label filters", text), trained]
    by_steps = TrainingSettings(steps=2000, tokens_per_batch=1024)
    assert settings_facts("gold", None, by_steps)[-1] == ("Training", "2,000 steps, 1,024 tokens per batch")
