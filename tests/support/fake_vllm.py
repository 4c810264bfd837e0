"""A vLLM engine without a model, for the teacher around it. It answers with the tokens of the prompt."""

from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any


class WordTokenizer:
    def __init__(self) -> None:
        self._words: list[str] = []

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        words = text.split()
        self._words += [word for word in words if word not in self._words]
        return {"input_ids": [self._words.index(word) for word in words]}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(self._words[i] for i in ids)

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return " ".join(message["content"] for message in messages)


class FakeEngine:
    """Stands in for vllm.AsyncLLMEngine. `failure` is raised by every request; `silent` requests return nothing."""

    def __init__(self, failure: Exception | None = None, silent: bool = False) -> None:
        self.failure, self.silent = failure, silent
        self.parameters: list[Any] = []
        self._tokenizer = WordTokenizer()

    def get_tokenizer(self) -> WordTokenizer:
        return self._tokenizer

    async def generate(self, prompt: dict[str, list[int]], parameters: Any, request_id: str) -> AsyncIterator[Any]:
        self.parameters.append(parameters)
        if self.failure:
            raise self.failure
        if self.silent:
            return
        text = self._tokenizer.decode(prompt["prompt_token_ids"])
        output = SimpleNamespace(text=f"{text} ...", token_ids=[0, 1], finish_reason="stop", logprobs=None)
        yield SimpleNamespace(outputs=[output] * parameters.n)
