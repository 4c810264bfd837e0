from dataclasses import replace

import pytest
from pydantic import ValidationError

from pipelines.config import EvaluationConfig
from pipelines.errors import UserError
from pipelines.evaluate.quantized import check_weights, quantized_scores
from pipelines.scoring.system import System
from pipelines.students.decoding import Family
from pipelines.tasks.arithmetic import Arithmetic


def system(labels: list[str | None], golds: list[str]) -> System:
    task = Arithmetic()
    pairs = zip(labels, golds, strict=True)
    right = tuple(label is not None and task.key(label) == task.key(gold) for label, gold in pairs)
    return System("student", labels=tuple(labels), right=right, answering_s=2.0)


def test_other_weights_are_paired_with_float32() -> None:
    golds = ["1", "2", "3", "4", "5"]
    student = system(["1", "3 - 1", "3", None, None], golds)
    quantized = replace(system(["1", "2", "4 - 2", "4", None], golds), engine="ctranslate2")
    found = quantized_scores("int8", quantized, student, Arithmetic())
    assert (found.weights, found.engine, found.correct, found.total) == ("int8", "ctranslate2", 3, 5)
    assert (found.better, found.worse, found.difference) == (1, 1, 0.0)
    assert found.same_label == 3 / 5, "equal values are the same label, and so are two missing ones"
    assert found.seconds_per_example == 0.4
    assert found.difference_interval[0] < 0.0 < found.difference_interval[1]


@pytest.mark.parametrize(
    ("family", "gpus", "rule"),
    [("decoder-only", 0, "no engine supports it for decoder-only"), ("encoder-decoder", 1, "its engine runs on CPUs")],
)
def test_int8_is_refused_without_an_engine(family: Family, gpus: int, rule: str) -> None:
    settings = EvaluationConfig.model_validate({"weights": ["int8"], "gpus_per_worker": gpus})
    with pytest.raises(UserError, match=rule):
        check_weights(settings, family)
    check_weights(EvaluationConfig.model_validate({"weights": ["bfloat16"], "gpus_per_worker": gpus}), family)
    half = EvaluationConfig(weights=["float16"])
    check_weights(half, "decoder-only")
    with pytest.raises(UserError, match="leave its range"):
        check_weights(half, "encoder-decoder")


@pytest.mark.parametrize(
    "settings",
    [{"weights": ["int8", "int8"]}, {"weights": ["int8"], "samples": {"n": 3}}, {"weights": ["float8"]}],
)
def test_incomparable_weights_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EvaluationConfig.model_validate(settings)
