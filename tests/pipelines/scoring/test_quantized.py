"""What other weights cost, and which are refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipelines.config import EvaluationConfig
from pipelines.errors import UserError
from pipelines.scoring.quantized import check_weights, weights_entry
from pipelines.scoring.system import System
from pipelines.students.decoding import Family
from pipelines.tasks import load_task, task_spec

TASK = load_task(task_spec("arithmetic", {}))


def _system(labels: list[str | None], golds: list[str]) -> System:
    right = tuple(label == gold for label, gold in zip(labels, golds, strict=True))
    return System("student", labels=tuple(labels), right=right, answering_s=2.0)


def test_an_entry_compares_with_float32_example_by_example() -> None:
    golds = ["1", "2", "3", "4", "5"]
    student = _system(["1", "2", "3", None, None], golds)
    recast = _system(["1", "2", "4 - 2", "4", None], golds)
    entry = weights_entry("int8", recast, student, TASK)
    assert (entry["weights"], entry["engine"], entry["correct"], entry["total"]) == ("int8", "ctranslate2", 3, 5)
    assert (entry["better"], entry["worse"], entry["difference"]) == (1, 1, 0.0)
    assert entry["same_label"] == 3 / 5  # none in both is the same
    assert entry["seconds_per_example"] == 0.4
    assert entry["difference_interval"][0] < 0.0 < entry["difference_interval"][1]


def test_labels_of_one_value_are_the_same() -> None:
    one, other = _system(["4 - 2"], ["2"]), _system(["2"], ["2"])
    assert weights_entry("bfloat16", one, other, TASK)["same_label"] == 1.0


@pytest.mark.parametrize(
    ("family", "gpus", "rule"),
    [
        ("decoder-only", 0, "no engine has it for decoder-only students"),
        ("encoder-decoder", 1, "its engine runs on CPUs"),
    ],
)
def test_int8_is_refused_where_no_engine_has_it(family: Family, gpus: int, rule: str) -> None:
    settings = EvaluationConfig.model_validate({"weights": ["int8"], "gpus_per_worker": gpus})
    with pytest.raises(UserError, match=rule):
        check_weights(settings, family)
    check_weights(EvaluationConfig.model_validate({"weights": ["bfloat16"], "gpus_per_worker": gpus}), family)


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({"weights": ["int8", "int8"]}, "has a duplicate"),
        ({"weights": ["int8"], "samples": {"n": 3}}, "compared by greedy answers"),
        ({"weights": ["float16"]}, "bfloat16"),
    ],
)
def test_weights_that_cannot_be_compared_are_refused(asked: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        EvaluationConfig.model_validate(asked)
