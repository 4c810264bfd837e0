"""What every engine does: questions into orders, tokens into text. How the tokens are made is the subclass's."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pipelines.methods import METHODS, Part, prompt_of
from pipelines.students.decoding import Family, GenerationOutput, GenerationRequest, encode_prompt
from pipelines.students.decoding.label_scores import label_sets
from pipelines.students.decoding.requests import decoded
from serving.engines.detokenizer import TextSoFar
from serving.messages import Piece, Question, Reply, TextRequest, TooLong
from serving.model_card import StudentCard


class Engine(ABC):
    """A loaded student. Its methods may be awaited by many callers at once; a cancelled call leaves the engine as it was."""

    name: str

    def __init__(self, card: StudentCard, tokenizer: Any, max_new_tokens: int) -> None:
        self._method = card.method
        self._spec = METHODS[card.method]
        self._family: Family = card.family
        self._max_input_tokens = card.max_input_tokens
        self._max_new_tokens = max_new_tokens
        # A text of rationale and label may be as long as the student was trained to write it.
        self._max_text_tokens = max(max_new_tokens, card.max_target_tokens)
        self.tokenizer = tokenizer
        self._label_set = label_sets(tokenizer)

    @abstractmethod
    async def complete(self, order: GenerationRequest) -> GenerationOutput:
        """Write one order."""

    @abstractmethod
    def tokens(self, order: GenerationRequest) -> AsyncGenerator[int, None]:
        """The tokens of one order as they are chosen, the end-of-sequence token included."""

    @abstractmethod
    async def check_health(self) -> None:
        """Raises RuntimeError where the engine is dead or does not move any more."""

    async def close(self) -> None:
        """Give back what the process does not give back by ending."""
        return None

    async def answer(self, question: Question) -> Reply | TooLong:
        """The student's answer: the label, and the rationale at the same time where it is a text of its own."""
        parts: list[Part] = [self._spec.answer]
        if self._spec.prefixed and question.rationale:
            parts.append("rationale")
        orders = [self._order(prompt_of(self._method, part, question.text), part) for part in parts]
        if too_long := self._too_long(*orders):
            return too_long
        orders = [
            replace(o, labels=self._label_set(part, question.labels)) for o, part in zip(orders, parts, strict=True)
        ]
        written = await asyncio.gather(*(self.complete(order) for order in orders))
        answers = [decoded(part, w, self.tokenizer) for part, w in zip(parts, written, strict=True)]
        return Reply(answers[0], answers[1] if len(answers) > 1 else None, self.name)

    async def write(self, asked: TextRequest) -> Piece | TooLong:
        """The whole of one text."""
        order = self._text_order(asked)
        if too_long := self._too_long(order):
            return too_long
        if asked.stop:  # what is written after a stop need not be waited for
            pieces = [piece async for piece in self._pieces(order, asked.stop)]
            text = "".join(piece.text for piece in pieces)
            return replace(pieces[-1], text=text)
        written = await self.complete(order)
        text = written.text(self.tokenizer)
        return Piece(text, written.prompt_tokens, len(written.ids), written.finish_reason, self.name)

    async def stream(self, asked: TextRequest) -> AsyncGenerator[Piece | TooLong, None]:
        """One text as it is written; the last piece has a finish reason."""
        order = self._text_order(asked)
        if too_long := self._too_long(order):
            yield too_long
            return
        async with aclosing(self._pieces(order, asked.stop)) as pieces:
            async for piece in pieces:
                yield piece

    async def _pieces(self, order: GenerationRequest, stop: tuple[str, ...]) -> AsyncGenerator[Piece, None]:
        so_far = TextSoFar(self.tokenizer, stop)
        prompt_tokens = self._count(order.prompt)
        tokens = self.tokens(order)
        try:
            async for token in tokens:
                text = so_far.add(token)
                if so_far.stopped:
                    break
                if text:
                    yield Piece(text, prompt_tokens, so_far.tokens)
        finally:
            await tokens.aclose()
        yield Piece(so_far.rest(), prompt_tokens, so_far.tokens, so_far.finish_reason, self.name)

    def _text_order(self, asked: TextRequest) -> GenerationRequest:
        part = self._spec.answer
        prompt = asked.text if asked.raw else prompt_of(self._method, part, asked.text)
        return self._order(prompt, part, asked)

    def _order(self, prompt: str, part: Part, asked: TextRequest | None = None) -> GenerationRequest:
        most = self._max_text_tokens if part == "text" else self._max_new_tokens
        if asked is None:
            return GenerationRequest(prompt, most)
        # No more than a text of the student may have: one client's number must not hold up, or break, a whole batch.
        wanted = most if asked.max_tokens is None else min(asked.max_tokens, self._max_text_tokens)
        return GenerationRequest(prompt, wanted, asked.sampling)

    def _too_long(self, *orders: GenerationRequest) -> TooLong | None:
        tokens = max(self._count(order.prompt) for order in orders)
        return TooLong(tokens, self._max_input_tokens) if tokens > self._max_input_tokens else None

    def _count(self, prompt: str) -> int:
        return len(encode_prompt(self.tokenizer, self._family, prompt))
