"""What belongs to the key of an answer."""

from typing import Any

import pytest

from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.teachers.base import Prompt
from pipelines.tasks import Example
from tests.support.corpora import run_config

PROMPT = Prompt(Example("a", "1 and 1?", "2"), "Q: 1 and 1?\nA:")
SAMPLING = {"n": 2, "temperature": 0.7}


def key(asked: Prompt = PROMPT, **teacher: Any) -> bytes:
    settings = {"engine": "vllm", "model": "/a/model", "sampling": SAMPLING, **teacher}
    return AnswerKeys.of_run(run_config(settings), "weights").of(asked)


@pytest.mark.parametrize(
    ("same", "teacher"),
    [
        (True, {"filters": {"gold": "drop-disagreeing"}, "replicas": {"max": 4}, "price": {"per_gpu_hour": 2.0}}),
        (True, {"vllm": {"max_model_len": 4096, "max_num_seqs": 8}, "reasoning": "think", "keep_thoughts": True}),
        (False, {"engine": "openai", "remote": {"url": "http://h/v1"}}),
        *((False, {"sampling": {**SAMPLING, **more}}) for more in (
            {"n": 3}, {"temperature": 0.8}, {"seed": 1}, {"seed": None}, {"stop": ["X"]}, {"max_tokens": 9})),
        *((False, {"vllm": more}) for more in ({"engine_args": {"quantization": "fp8"}}, {"dtype": "float16"})),
        (False, {"prompt": "chat", "chat_template_kwargs": {"x": 1}, "sampling": {**SAMPLING, "stop": []}}),
        *((False, more) for more in ({"reasoning": "none"}, {"constrained": True}, {"soft_labels": "logprobs"})),
    ],
)  # fmt: skip
def test_the_key_has_what_decides_a_text(same: bool, teacher: dict[str, Any]) -> None:
    assert (key(**teacher) == key()) is same


def test_the_key_has_the_prompt_and_not_the_row() -> None:
    assert key(Prompt(Example("b", "1 and 1?", None), PROMPT.text)) == key()
    assert key(Prompt(PROMPT.example, PROMPT.text + " ")) != key()
    assert key(Prompt(PROMPT.example, PROMPT.text, ({"role": "user", "content": "1 and 1?"},))) != key()
    assert key(sampling={"seed": 1}) == key(sampling={"seed": 2}), "nothing is drawn"
    echo = AnswerKeys.of_run(run_config({"engine": "echo"}), None)
    assert echo.of(Prompt(Example("a", "i", "3"), "p")) != echo.of(Prompt(Example("a", "i", "2"), "p"))
