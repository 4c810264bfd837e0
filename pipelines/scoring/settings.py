"""Settings that decided a student: whose labels it learns, filters of the labels, training. For reports."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from pipelines.config import FiltersConfig, StudentConfig
from pipelines.reports.format import plural
from pipelines.scoring.model import JsonObject, Learned, TrainingSettings
from pipelines.storage.manifest import Manifest

_NAMES: dict[Learned, str] = {"gold": "gold", "teacher": "teacher's", "either": "gold, else teacher's"}


def learned(student: StudentConfig) -> Learned:
    """Whose labels the student learns."""
    column = student.label_column
    return "teacher" if column == "label" else column


def filters_of(labels: Manifest) -> JsonObject | None:
    """The `teacher.filters` of the labels; None if their manifest has none."""
    found: JsonObject | None = labels.identity.get("teacher", {}).get("filters")
    return found


def settings_facts(
    labels: Learned | Mapping[str, Learned], filters: JsonObject | None, training: TrainingSettings
) -> list[tuple[str, str]]:
    """The most important settings as (name, value). `labels`: of one student, or by method. The provenance lists all settings."""
    budget = plural(training.steps or 0, "step")
    if training.epochs is not None:
        budget = f"{training.epochs:g} {'epoch' if training.epochs == 1 else 'epochs'}"
    return [
        ("Labels learned", _labels_text(labels)),
        ("Label filters", _filters_text(filters)),
        ("Training", f"{budget}, {plural(training.tokens_per_batch, 'token')} per batch"),
    ]


def _labels_text(labels: Learned | Mapping[str, Learned]) -> str:
    if isinstance(labels, str):
        return _NAMES[labels]
    if len(set(labels.values())) == 1:
        return _NAMES[next(iter(labels.values()))]
    return "; ".join(f"{method}: {_NAMES[whose]}" for method, whose in labels.items())


def _filters_text(filters: JsonObject | None) -> str:
    """The filters that are set."""
    if filters is None:
        return "unknown"
    return ", ".join(f"{name} {_value_text(value)}" for name, value in FiltersConfig.chosen(filters).items()) or "none"


def _value_text(value: JsonValue) -> str:
    return "on" if value is True else str(value)
