"""Students in vLLM over a fake of its engine. Real vLLM: tests/integration/test_scored_as_served.py."""

import importlib.util
import math
import random
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.methods import prompt_of
from pipelines.students.decoding import encode_prompt, encode_target
from pipelines.students.decoding.vllm_student import VllmStudent
from tests.support.tiny_students import TEXTS, tiny_tokenizer

NEEDS_VLLM = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
pytestmark = [NEEDS_VLLM]
SETS = [("spam", "spam not", "ham"), tuple(f"{chr(33 + number % 90)}{number}" for number in range(200)), ("one",)]


@cache
def log_probs(context: tuple[int, ...]) -> list[float]:
    chance = random.Random(str(context))
    logits = [chance.gauss(0, 2) for _ in range(384)]
    total = math.log(math.fsum(map(math.exp, logits)))
    return [logit - total for logit in logits]


class FakeLlm:
    """Returns the log-probabilities that a request may ask for, and no others."""

    def __init__(self) -> None:
        self.tokenizer, self.requests = tiny_tokenizer("decoder-only"), 0

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    def generate(self, prompts: Sequence[Any], parameters: Sequence[Any], use_tqdm: bool) -> list[Any]:
        self.requests += len(prompts)
        return [self._answer(p["prompt_token_ids"], one) for p, one in zip(prompts, parameters, strict=True)]

    def _answer(self, prompt: list[int], parameters: Any) -> Any:
        ids, found = list[int](), []
        assert len(parameters.logprob_token_ids or ()) <= 128
        while len(ids) < parameters.max_tokens and self.tokenizer.eos_token_id not in ids:
            row = log_probs((*prompt, *ids))
            ids.append(row.index(max(row)))
            wanted = {ids[-1], *(parameters.logprob_token_ids or ())}
            found.append({token: SimpleNamespace(logprob=row[token]) for token in wanted})
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=found)])


def greedy(tokenizer: Any, prompt: str, labels: Sequence[str]) -> tuple[str, float]:
    read = encode_prompt(tokenizer, "decoder-only", prompt)
    targets = {tuple(encode_target(tokenizer, label)): label for label in labels}
    path, log_prob = (), 0.0
    while path not in targets:
        following = {target[len(path)] for target in targets if target[: len(path)] == path}
        row = log_probs((*read, *path))
        best = max(following, key=row.__getitem__)
        log_prob += row[best] - math.log(math.fsum(math.exp(row[token]) for token in following))
        path = (*path, best)
    return targets[path], math.exp(log_prob)


def test_constrained_answers_follow_the_likeliest_path() -> None:
    llm = FakeLlm()
    student = VllmStudent(llm, "float32", {"method": "finetune", "max_input_tokens": 64, "max_target_tokens": 8})
    sets, texts = [labels for labels in SETS for _ in TEXTS], TEXTS * len(SETS)
    found = student.answer(texts, "label", 6, labels=sets, constrained=True)
    for text, labels, answer in zip(texts, sets, found, strict=True):
        label, confidence = greedy(llm.tokenizer, prompt_of("finetune", "label", text), labels)
        assert (answer.text, answer.in_set, answer.confidence) == (label, True, pytest.approx(confidence))
    llm.requests = 0
    free = student.answer(TEXTS, "label", 6, labels=SETS[:1] * len(TEXTS))
    assert llm.requests == len(TEXTS), "free answers outside the set need no second request"
    assert not any(answer.in_set for answer in free)


def test_draws_of_one_input_differ_and_follow_the_seed() -> None:
    from pipelines.students.decoding import GenerationRequest, Sampling
    from pipelines.students.decoding.vllm_settings import sampling_parameters

    requests = [GenerationRequest("a", 4, Sampling(0.7, seed=5, draw=draw)) for draw in (0, 1, 1)]
    assert [sampling_parameters(request, "FINAL_ONLY").seed for request in requests] == [5, 6, 6]
