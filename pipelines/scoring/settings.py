"""What students learned from and how they were trained, as reports tell it.

In: the run, manifests. Out: report.json's `settings`, of `raystill evaluate` and (with `labels` by method) of `raystill compare`:

    {"labels": "gold", "filters": {"gold": "keep", "min_agreement": 0.4, ...},
     "training": {"epochs": 3, "tokens_per_batch": 16384, ...}}

`labels`: whose labels are learned, `gold` (from people), `teacher`, or `either`: gold where there is one, else the teacher's. `filters`:
the `teacher.filters` of the labels; null where their manifest does not say. `training`: what of the run file's `training` decides a
student.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pipelines.config import FiltersConfig, StudentConfig
from pipelines.reports.format import plural
from pipelines.storage.manifest import Manifest

Learned = Literal["gold", "teacher", "either"]
_SAID: dict[str, str] = {"gold": "gold", "teacher": "the teacher's", "either": "gold, else the teacher's"}


def learned(student: StudentConfig) -> Learned:
    """Whose labels the student learns."""
    column = student.label_column
    return "teacher" if column == "label" else column


def filters_of(labels: Manifest) -> dict[str, Any] | None:
    """What the teacher's answers had to pass to become labels; None where the manifest does not say."""
    found: dict[str, Any] | None = labels.identity.get("teacher", {}).get("filters")
    return found


def student_settings(student: Manifest, labels: Manifest) -> dict[str, Any]:
    """report.json's `settings` of one student: those of its training, whatever the run says by now."""
    return {
        "labels": learned(StudentConfig.model_validate(student.config["student"])),
        "filters": filters_of(labels),
        "training": student.identity["training"],
    }


def settings_facts(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings that a reader asks for first. All of them stand among the origins."""
    training = settings["training"]
    said = f"{training['epochs']:g} {'epoch' if training['epochs'] == 1 else 'epochs'}"
    return [
        ("Labels learned", _labels_said(settings["labels"])),
        ("Filters of the labels", _filters_said(settings["filters"])),
        ("Training", f"{said}, {plural(training['tokens_per_batch'], 'token')} a batch"),
    ]


def _labels_said(labels: str | Mapping[str, str]) -> str:
    by_method = {"": labels} if isinstance(labels, str) else labels
    said = {method: _SAID.get(whose, whose) for method, whose in by_method.items()}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"{method}: {whose}" for method, whose in said.items())


def _filters_said(filters: Mapping[str, Any] | None) -> str:
    """Those that are set."""
    if filters is None:
        return "not known"
    return ", ".join(f"{name} {_value_said(value)}" for name, value in FiltersConfig.chosen(filters).items()) or "none"


def _value_said(value: Any) -> str:
    return "on" if value is True else str(value)
