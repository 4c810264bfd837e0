"""A student's manifest and card: what they take from the labels, and that the form on disk is stable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.config import FiltersConfig
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import Store
from pipelines.students.details import LabelsProvenance, StudentDetails
from pipelines.train.model_card import model_card
from pipelines.train.student_manifest import labels_provenance
from tests.support.tiny_runs import label_rows, make_run, write_labels

# As version 0.1 wrote it, in its order.
DETAILS: dict[str, Any] = {
    "method": "step-by-step", "family": "decoder-only",
    "task": {"name": "arithmetic", "version": "3", "options": {}, "source": None},
    "parameters": 42_472_512, "trained_parameters": 42_472_512, "max_input_tokens": 256, "max_target_tokens": 64,
    "training": {
        "world_size": 2, "zero_stage": 2, "precision": "bf16", "optimizer_bytes_per_rank": [9, 9],
        "peak_memory_bytes_per_rank": [9, 9], "steps": 54, "planned_steps": 60, "started_at_steps": [0, 20],
        "world_sizes": [2, 2], "nodes": [["a", "b"], ["a", "c"]], "damaged_checkpoints": ["checkpoint_1: part is damaged"],
        "tokens_per_s": 100.5, "padding_share": 0.01, "data_wait_share": 0.0, "token_counts": {"train": 81, "widest": 50},
        "loss": {
            "label": {"first": 4.0, "last": 0.5}, "rationale": {"first": 5.0, "last": None},
            "validation": {
                "before": {"label": 4.125, "rationale": 5.0}, "during": [{"step": 54, "objective": 1.0, "label": 0.75}],
                "best": {"step": 54, "objective": 1.0, "terms": {"label": 0.75}}, "after": {"label": 0.75, "rationale": 1.5},
            },
        },
    },
}  # fmt: skip
LABELS: dict[str, Any] = {
    "fingerprint": "f" * 64, "prompt_version": "arithmetic/3/abc", "teacher": {"engine": "vllm", "model": "org/teacher"},
    "filters": None, "counts": {"read": 100, "accepted": 90, "rejected": 10}, "task": {"name": "arithmetic"},
}  # fmt: skip
COUNTS = {"train_examples": 81, "validation_examples": 9, "too_long": 2, "tokens": 123_456}


def card(run: Any, details: dict[str, Any] = DETAILS, **labels: Any) -> str:
    found = StudentDetails.model_validate(details)
    return model_card(run, found, LabelsProvenance.model_validate(LABELS | labels), COUNTS, {"torch": "2.13.0"})


def test_details_are_written_as_they_were_read() -> None:
    details = StudentDetails.model_validate(DETAILS)
    assert details.training.loss.terms["label"].last == 0.5
    assert str(details.model_dump()) == str(DETAILS), "keys, order and numbers"
    assert str(LabelsProvenance.model_validate(LABELS).model_dump()) == str(LABELS)


def test_provenance_repeats_the_labels_filters(tmp_path: Path) -> None:
    write_labels(tmp_path, label_rows(4))
    labels = require_manifest(Store(str(tmp_path / "labels")), "labels", "label")
    assert labels_provenance(labels).filters is None, "labels that do not record them"
    labels.identity["teacher"] = {"filters": {"gold": "drop-disagreeing"}}
    found = labels_provenance(labels)
    assert (found.filters, found.prompt_version) == ({"gold": "drop-disagreeing"}, "arithmetic/1/abc")


def test_a_card_holds_what_a_user_needs(tmp_path: Path) -> None:
    text = card(make_run(tmp_path, "org/student"))
    for part in ("`org/student`", "`org/teacher`", "arithmetic/3/abc", "42,472,512 parameters", "100 read, 90 accepted, 10 rejected",
                 "81 examples, 123,456 tokens", "ZeRO stage 2, bf16", "[rationale] <input>", "torch 2.13.0",
                 "| label | 4.0000 | 0.5000 | 4.1250 | 0.7500 |", "| rationale | 5.0000 | – | 5.0000 | 1.5000 |"):  # fmt: skip
        assert part in text, part
    assert text.startswith("---\nlibrary_name: transformers\n")


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        (FiltersConfig(gold="drop-disagreeing", min_agreement=0.4), "gold `drop-disagreeing`, min_agreement `0.4`."),
        (FiltersConfig(), "none."),
        (None, "unknown."),
    ],
)
def test_a_card_shows_the_filters_of_the_labels(tmp_path: Path, filters: FiltersConfig | None, shown: str) -> None:
    given = None if filters is None else filters.model_dump()
    assert f"Filters: {shown}" in card(make_run(tmp_path, "org/student"), filters=given)


def test_a_card_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    model = tmp_path / "deep" / "student-folder"
    model.mkdir(parents=True)
    text = card(make_run(tmp_path, str(model)))
    assert "`student-folder`" in text
    assert str(tmp_path) not in text


def test_a_card_of_a_finetuned_student_has_no_rationales(tmp_path: Path) -> None:
    loss = {"label": {"first": 4.0, "last": 0.5}, "validation": {}}
    details = DETAILS | {"method": "finetune", "training": DETAILS["training"] | {"loss": loss}}
    text = card(make_run(tmp_path, "org/student", student={"method": "finetune"}), details)
    assert "rationale" not in text
    assert "| label | 4.0000 | 0.5000 | – | – |" in text
