"""The model card. Exported weights are in tests/integration/test_train.py."""

from __future__ import annotations

import copy
from typing import Any

from pipelines.config import FiltersConfig
from pipelines.train.engine.export import model_card
from tests.support.tiny_runs import make_run

DETAILS: dict[str, Any] = {
    "method": "step-by-step", "family": "decoder-only", "task": {"name": "arithmetic", "version": "3"}, "parameters": 42_472_512,
    "max_input_tokens": 256, "max_target_tokens": 64,
    "training": {
        "steps": 54, "world_size": 2, "zero_stage": 2, "precision": "bf16",
        "loss": {
            "label": {"first": 4.0, "last": 0.5}, "rationale": {"first": 5.0, "last": 1.25},
            "validation": {"before": {"label": 4.125, "rationale": 5.0}, "after": {"label": 0.75, "rationale": 1.5}},
        },
    },
}  # fmt: skip
PROVENANCE = {
    "labels": {
        "fingerprint": "f" * 64, "prompt_version": "arithmetic/3/abc", "teacher": {"engine": "vllm", "model": "org/teacher"},
        "counts": {"read": 100, "accepted": 90, "rejected": 10},
    }
}  # fmt: skip
COUNTS = {"train_examples": 81, "validation_examples": 9, "too_long": 2, "tokens": 123_456}


def card(run: Any, details: dict[str, Any] = DETAILS, **labels: Any) -> str:
    return model_card(run, details, {"labels": PROVENANCE["labels"] | labels}, COUNTS, {"torch": "2.13.0"})


def test_a_card_says_what_a_user_asks(tmp_path):
    text = card(make_run(tmp_path, "org/student"))
    for said in ("`org/student`", "`org/teacher`", "arithmetic/3/abc", "42,472,512 parameters", "100 read, 90 accepted, 10 rejected",
                 "81 examples, 123,456 tokens", "ZeRO stage 2, bf16", "[rationale] <input>", "torch 2.13.0",
                 "| label | 4.0000 | 0.5000 | 4.1250 | 0.7500 |"):  # fmt: skip
        assert said in text, said
    assert text.startswith("---\nlibrary_name: transformers\n")


def test_a_card_carries_the_filters_of_the_labels(tmp_path):
    run = make_run(tmp_path, "org/student")
    filters = FiltersConfig(gold="drop-disagreeing", min_agreement=0.4).model_dump()
    assert "Filters: gold `drop-disagreeing`, min_agreement `0.4`." in card(run, filters=filters)
    assert "Filters: none." in card(run, filters=FiltersConfig().model_dump())
    assert "Filters: unknown." in card(run), "labels that do not say"


def test_a_card_names_no_folder_of_this_machine(tmp_path):
    model = tmp_path / "deep" / "student-folder"
    model.mkdir(parents=True)
    text = card(make_run(tmp_path, str(model)))
    assert "`student-folder`" in text
    assert str(tmp_path) not in text


def test_a_card_of_a_finetuned_student_has_no_rationales(tmp_path):
    details = copy.deepcopy(DETAILS) | {"method": "finetune"}
    del details["training"]["loss"]["rationale"]
    details["training"]["loss"]["validation"] = {"before": {}, "after": {}}
    text = card(make_run(tmp_path, "org/student", student={"model": "org/student", "method": "finetune"}), details)
    assert "rationale" not in text
    assert "| label | 4.0000 | 0.5000 | – | – |" in text
