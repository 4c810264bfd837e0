"""What belongs to the key of an answer."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.teachers.base import Prompt
from pipelines.tasks import Example
from tests.support.corpora import run_config

PROMPT = Prompt(Example("a", "1 and 1?", "2"), "Q: 1 and 1?\nA:")


def key(asked: Prompt = PROMPT, **teacher: Any) -> bytes:
    settings = {"engine": "vllm", "model": "/a/model", "sampling": {"n": 2, "temperature": 0.7}, **teacher}
    return AnswerKeys.of_run(run_config(settings), "weights").of(asked)


@pytest.mark.parametrize(
    "teacher",
    [
        {"filters": {"gold": "drop-disagreeing", "min_agreement": 0.5}},
        {"vllm": {"max_model_len": 4096, "max_num_seqs": 8}},
        {"replicas": {"min": 1, "max": 4}},
        {"reasoning": "think", "keep_thoughts": True},
        {"price": {"per_gpu_hour": 2.0}},
    ],
)
def test_what_is_made_of_a_text_keeps_its_key(teacher: dict[str, Any]) -> None:
    assert key(**teacher) == key()


@pytest.mark.parametrize(
    "teacher",
    [
        {"engine": "openai", "remote": {"url": "http://h/v1"}},
        {"sampling": {"n": 3, "temperature": 0.7}}, {"sampling": {"n": 2, "temperature": 0.8}},
        {"sampling": {"n": 2, "temperature": 0.7, "seed": 1}},
        {"sampling": {"n": 2, "temperature": 0.7, "seed": None}},
        {"sampling": {"n": 2, "temperature": 0.7, "stop": ["X"]}},
        {"sampling": {"n": 2, "temperature": 0.7, "max_tokens": 9}},
        {"vllm": {"engine_args": {"quantization": "fp8"}}},
        {"vllm": {"dtype": "float16"}}, {"reasoning": "none"}, {"constrained": True}, {"soft_labels": "logprobs"},
    ],
)  # fmt: skip
def test_what_decides_a_text_changes_its_key(teacher: dict[str, Any]) -> None:
    assert key(**teacher) != key()


def test_the_key_has_the_prompt_and_not_the_row() -> None:
    assert key(Prompt(Example("b", "1 and 1?", None), PROMPT.text)) == key()
    assert key(Prompt(PROMPT.example, PROMPT.text + " ")) != key()
    turns = ({"role": "user", "content": "1 and 1?"},)
    assert key(Prompt(PROMPT.example, PROMPT.text, turns)) != key()
    greedy = {"temperature": 0.0, "n": 1}
    assert key(sampling={**greedy, "seed": 1}) == key(sampling=greedy), "nothing is drawn"


def test_teachers_that_read_more_than_the_prompt_have_it_in_the_key() -> None:
    def of(engine: dict[str, Any], **example: Any) -> bytes:
        fields = {"id": "a", "input": "i", "gold": "2", **example}
        return AnswerKeys.of_run(run_config(engine), None).of(Prompt(Example(**fields), "p"))

    assert of({"engine": "echo"}, gold="3") != of({"engine": "echo"})
    assert of({"engine": "echo"}, id="b") == of({"engine": "echo"})
