from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.errors import UserError
from pipelines.scoring.identity import answers_identity
from pipelines.scoring.sources import check_engine, trained
from pipelines.scoring.systems import label_request
from pipelines.students.decoding import Family
from pipelines.students.decoding.constrained import check_constrained
from pipelines.students.decoding.engines import EngineChoice
from pipelines.tasks import Example, Task
from pipelines.tasks.arithmetic import Arithmetic
from pipelines.tasks.multiple_choice import MultipleChoice
from pipelines.tasks.nli import NaturalLanguageInference
from tests.support.artifacts import make_run

T5, LLAMA = "encoder-decoder", "decoder-only"


def run_of(folder: Path, evaluation: dict[str, Any], serving: dict[str, Any], method: str = "finetune") -> RunConfig:
    return make_run(folder, evaluation=evaluation, serving=serving, student={"model": "some/model", "method": method})


@pytest.mark.parametrize(
    ("family", "evaluation", "serving", "engines", "weights"),
    [
        (T5, {}, {}, ["ctranslate2", "transformers"], "float32"),
        (LLAMA, {}, {}, ["vllm", "transformers"], "float32"),
        (T5, {"gpus_per_worker": 1}, {}, ["transformers"], "float32"),
        (T5, {}, {"engine": "transformers"}, ["transformers"], "float32"),
        (LLAMA, {}, {"engine": "ctranslate2"}, ["vllm", "transformers"], "float32"),
        (LLAMA, {"engine": "transformers"}, {"engine": "vllm"}, ["transformers"], "float32"),
        (T5, {}, {"weights": "int8"}, ["ctranslate2"], "int8"),
        (T5, {"gpus_per_worker": 1}, {"weights": "int8"}, ["transformers"], "float32"),
        (LLAMA, {}, {"weights": "bfloat16"}, ["vllm", "transformers"], "bfloat16"),
        (LLAMA, {"weights": ["bfloat16"]}, {"weights": "bfloat16"}, ["vllm", "transformers"], "float32"),
        (T5, {"samples": {"n": 3}}, {}, ["transformers"], "float32"),
    ],
)
def test_a_student_is_scored_as_it_is_served(
    tmp_path: Path, family: Family, evaluation: Any, serving: Any, engines: list[str], weights: str
) -> None:
    run = run_of(tmp_path, evaluation, serving)
    check_engine(run, family)
    source = trained(run, "folder", family)
    choice = EngineChoice(source.engine, source.weights, run.evaluation.gpus_per_worker)
    assert (choice.candidates(family), source.weights) == (engines, weights)


@pytest.mark.parametrize(
    ("evaluation", "match"),
    [
        ({"engine": "vllm"}, r"evaluation\.engine vllm: it does not run encoder-decoder"),
        ({"engine": "ctranslate2", "gpus_per_worker": 1}, r"engine ctranslate2: it is built.*gpus_per_worker: 0"),
    ],
)
def test_an_engine_for_other_students_is_refused(tmp_path: Path, evaluation: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        check_engine(run_of(tmp_path, evaluation, {}), T5)


class Verdict(NaturalLanguageInference):
    """States its label in words of its own."""

    def render(self, answer: Any) -> str:
        return f"{answer.rationale} Verdict: {answer.label}."


@pytest.mark.parametrize(
    ("method", "task", "match"),
    [
        ("finetune", Arithmetic(), r"evaluation\.constrained true: the labels of task arithmetic are free"),
        ("rationale-then-label", Verdict(), r"constrained true: method rationale-then-label .* does not state it with"),
    ],
)
def test_only_closed_label_sets_constrain(tmp_path: Path, method: str, task: Task, match: str) -> None:
    run = run_of(tmp_path, {"constrained": True}, {}, method)
    example = Example("a", "4 apples", "4")
    with pytest.raises(UserError, match=match):
        label_request("student", trained(run, "folder", "decoder-only"), run, task, [example], ["4 apples"])
    check_constrained("evaluation.constrained", "finetune", Verdict())
    check_constrained("evaluation.constrained", method, MultipleChoice())


def test_defaults_keep_the_identity_of_earlier_scores(tmp_path: Path) -> None:
    task, examples = NaturalLanguageInference(), [Example("a", "b", "neutral")]
    plain = answers_identity(run_of(tmp_path, {}, {}), task, examples)
    assert not {"engine", "weights", "constrained"} & plain.keys()
    settings: Any = [({"engine": "vllm"}, {}), ({"constrained": True}, {}), ({}, {"weights": "bfloat16"})]
    others = [answers_identity(run_of(tmp_path, *sections), task, examples) for sections in settings]
    assert len({str(one) for one in (plain, *others)}) == 4
