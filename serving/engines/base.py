"""The protocol of engines, and what all of them share: questions to generation requests, tokens to text.

A new engine is a subclass, an entry in serving/engines/select.py, and one in pipelines/students/decoding/engines.py.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar, Self

from pipelines.config.serving import ServingConfig
from pipelines.methods import METHODS, Part, prompt_of
from pipelines.students.chat_prompt import NoSuchConversationError, Role
from pipelines.students.decoding import Family, GenerationOutput, GenerationRequest, LabelSet, encode_prompt
from pipelines.students.decoding.engines import EngineUnsuitableError as EngineUnsuitableError
from pipelines.students.decoding.label_scores import label_sets
from pipelines.students.decoding.requests import after_label, decoded
from pipelines.students.decoding.tokens import encode_conversation
from serving.engines.detokenizer import Detokenizer, text_tokens
from serving.messages import Failed, Piece, Question, Reply, TextRequest, TooLong
from serving.metrics import ReplicaMetrics
from serving.model_card import StudentCard

_PROBE = "Anne has 4 apples and gives Peter 2. How many apples has she left?"


class Engine(ABC):
    """A loaded student. Many callers may await its methods at once; cancelling a call does not affect the others."""

    name: ClassVar[str]
    """The value of `serving.engine`."""
    continuous: ClassVar[bool] = False
    """True if every text slows all others, because they share each step. False: batches, and an express one for short texts."""
    draws_with_seeds: ClassVar[bool] = True
    """True if the same seed gives the same sampled text again."""

    def __init__(self, card: StudentCard, tokenizer: Any, max_new_tokens: int, *, constrained: bool = False) -> None:
        self._student_id = card.id
        self._proven = False
        """True after an answer with probabilities."""
        self._method = card.method
        self._spec = METHODS[card.method]
        self._family: Family = card.family
        self._max_input_tokens = card.max_input_tokens
        self._max_new_tokens = max_new_tokens
        # A text of rationale and label may be as long as the student was trained to write it.
        self._max_text_tokens = max(max_new_tokens, card.max_target_tokens)
        self._constrained = constrained
        self.tokenizer = tokenizer
        self.computed = 1
        """Inputs that it computes at once."""
        # One thread: the tokenizer's settings are no place for two.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._label_set = label_sets(tokenizer)

    @classmethod
    def cpu_environment(cls, serving: ServingConfig) -> dict[str, str]:
        """Environment variables of a replica on CPUs. They must hold before its process starts."""
        return {}

    @classmethod
    @abstractmethod
    def load(cls, card: StudentCard, serving: ServingConfig, metrics: ReplicaMetrics) -> Self:
        """Load a student in this process.

        Raises:
            EngineUnsuitableError: this engine does not know the model.
            UserError: the files cannot be loaded, or the engine does not start.
        """

    @abstractmethod
    async def complete(self, request: GenerationRequest) -> GenerationOutput:
        """Generate one text."""

    @abstractmethod
    def tokens(self, request: GenerationRequest) -> AsyncGenerator[int, None]:
        """The tokens of one text as they are generated, end-of-sequence token included."""

    @abstractmethod
    async def _check_alive(self) -> None:
        """Raises RuntimeError if the engine is dead or hangs."""

    async def check_health(self) -> None:
        """Raises RuntimeError if the engine is dead or hangs, or if the student's probabilities are no numbers.

        The first check asks for a token, before Serve sends requests: engines load damaged weights, too.
        """
        if not self._proven:
            self._check_numbers((await self._first_token()).log_probs)
            self._proven = True
        await self._check_alive()

    async def _first_token(self) -> GenerationOutput:
        part = self._spec.answer
        return await self.complete(GenerationRequest(prompt_of(self._method, part, _PROBE), 1))

    def _check_numbers(self, log_probs: Sequence[float]) -> None:
        if not log_probs or not all(map(math.isfinite, log_probs)):
            found = ", ".join(map(str, log_probs)) or "missing"
            rule = f"the log-probabilities of its answer must be numbers, and are {found}"
            remedy = "Its weights are damaged: restore them, or train it again."
            raise RuntimeError(f"student {self._student_id}: {rule}. {remedy}")

    async def close(self) -> None:
        """Free what the end of the process would not free."""
        self._tokenizing.shutdown(wait=False)

    async def answer(self, question: Question) -> Reply | TooLong:
        """The student's label, and its rationale if that is requested and is a text of its own.

        Both are generated concurrently, unless the rationale follows the label.
        """
        parts: list[Part] = [self._spec.answer]
        if self._spec.prefixed and question.rationale:
            parts.append("rationale")
        requests = await self._encoded(
            [self._request(prompt_of(self._method, part, question.text), part, bulk=question.bulk) for part in parts]
        )
        if isinstance(requests, TooLong):
            return requests
        with_labels = []
        for request, part in zip(requests, parts, strict=True):
            labelled = await self._with_labels(request, part, question.labels, constrained=self._constrained)
            if isinstance(labelled, TooLong):
                return labelled
            with_labels.append(labelled)
        outputs = await asyncio.gather(*(self.complete(request) for request in with_labels))
        self._check_numbers([number for output in outputs for number in output.log_probs] or [0.0])
        answers = [decoded(*of, self.tokenizer) for of in zip(parts, with_labels, outputs, strict=True)]
        if self._spec.continues and question.rationale:
            follows = after_label(with_labels[0], outputs[0], int(self.tokenizer.eos_token_id), self._max_text_tokens)
            answers.append(decoded("rationale", follows, await self.complete(follows), self.tokenizer))
        return Reply(answers[0], answers[1] if len(answers) > 1 else None, self.name)

    async def write(self, request: TextRequest) -> Piece | TooLong | Failed:
        """One whole text."""
        encoded = await self._encoded_text(request)
        if isinstance(encoded, TooLong | Failed):
            return encoded
        [generation] = encoded
        if request.choices:
            return await self._choose(generation, request.choices)
        if request.log_probs:
            return self._with_tokens(await self.complete(generation), request.stop)
        if request.stop:  # as a stream, which ends at the stop string instead of the end of the batch
            pieces = [piece async for piece in self._pieces(generation, request.stop)]
            text = "".join(piece.text for piece in pieces)
            return replace(pieces[-1], text=text)
        output = await self.complete(generation)
        text = output.text(self.tokenizer)
        return Piece(text, output.prompt_tokens, len(output.ids), output.finish_reason, self.name)

    async def _choose(self, request: GenerationRequest, choices: tuple[str, ...]) -> Piece | TooLong:
        chosen = await self._with_labels(request, "label", choices, constrained=True)
        if isinstance(chosen, TooLong):
            return chosen
        output = await self.complete(chosen)
        assert chosen.labels is not None
        text = chosen.labels.text_of(output.ids)  # as given: decoded, it may lack spaces at its ends
        return Piece(text, output.prompt_tokens, len(output.ids), output.finish_reason, self.name)

    async def _with_labels(
        self, request: GenerationRequest, part: Part, labels: tuple[str, ...], *, constrained: bool
    ) -> GenerationRequest | TooLong:
        """The request with a closed label set. TooLong: the answer must be a label, and one is longer than the student writes."""
        if not labels:
            return request
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._tokenizing, self._read_labels, part, labels)
        if found and constrained and not found.at_end and found.longest > self._max_text_tokens:
            return TooLong(found.longest, self._max_text_tokens, written=True)
        return request.with_labels(found, constrained=constrained)

    def _read_labels(self, part: Part, labels: tuple[str, ...]) -> LabelSet | None:
        found = self._label_set(part, labels)
        if found:
            _ = found.watched  # kept: for hundreds of labels it takes 0.1 s
        return found

    def _with_tokens(self, output: GenerationOutput, stop: tuple[str, ...]) -> Piece:
        tokens = text_tokens(output.ids, output.log_probs, self.tokenizer)
        text = "".join(token.text for token in tokens)
        found = [at for one in stop if (at := text.find(one)) >= 0]
        if not found:
            return Piece(text, output.prompt_tokens, len(output.ids), output.finish_reason, self.name, tokens)
        text, used = text[: min(found)], 0
        while len("".join(token.text for token in tokens[:used])) < len(text):
            used += 1
        return Piece(text, output.prompt_tokens, len(output.ids), "stop", self.name, tokens[:used])

    async def stream(self, request: TextRequest) -> AsyncGenerator[Piece | TooLong | Failed, None]:
        """One text while it is generated. The last piece has a finish reason."""
        encoded = await self._encoded_text(request)
        if isinstance(encoded, TooLong | Failed):
            yield encoded
            return
        [generation] = encoded
        async with aclosing(self._pieces(generation, request.stop)) as pieces:
            async for piece in pieces:
                yield piece

    async def _pieces(self, request: GenerationRequest, stop: tuple[str, ...]) -> AsyncGenerator[Piece, None]:
        detokenizer = Detokenizer(self.tokenizer, stop)
        prompt_tokens = len(request.ids or ())
        tokens = self.tokens(request)
        try:
            async for token in tokens:
                text = detokenizer.add(token)
                if detokenizer.stopped:
                    break
                if text:
                    yield Piece(text, prompt_tokens, detokenizer.num_tokens)
        finally:
            await tokens.aclose()
        yield Piece(detokenizer.rest(), prompt_tokens, detokenizer.num_tokens, detokenizer.finish_reason, self.name)

    def _text_request(self, request: TextRequest) -> GenerationRequest:
        part = self._spec.answer
        prompt = request.text if request.raw else prompt_of(self._method, part, request.text)
        return self._request(prompt, part, request)

    def _request(
        self, prompt: str, part: Part, text: TextRequest | None = None, *, bulk: bool = False
    ) -> GenerationRequest:
        default = self._max_text_tokens if part == "text" else self._max_new_tokens
        if text is None:
            return GenerationRequest(prompt, default, bulk=bulk)
        # Bounded: one client's number must not hold up a whole batch, or break it.
        max_tokens = default if text.max_tokens is None else min(text.max_tokens, self._max_text_tokens)
        return GenerationRequest(prompt, max_tokens, text.sampling, bulk=text.bulk)

    async def _encoded_text(self, request: TextRequest) -> list[GenerationRequest] | TooLong | Failed:
        """As `_encoded`. Failed: the student's chat template has no such turns."""
        try:
            return await self._encoded([self._text_request(request)], request.turns)
        except NoSuchConversationError as error:
            return Failed(refused=str(error))

    async def _encoded(
        self, requests: list[GenerationRequest], turns: Sequence[tuple[Role, str]] = ()
    ) -> list[GenerationRequest] | TooLong:
        """The requests with their token ids. Encoded once, outside of the event loop. `turns`: those before each prompt."""
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self._tokenizing, self._encode, requests, turns)
        tokens = max(len(request.ids or ()) for request in encoded)
        return TooLong(tokens, self._max_input_tokens) if tokens > self._max_input_tokens else encoded

    def _encode(self, requests: list[GenerationRequest], turns: Sequence[tuple[Role, str]]) -> list[GenerationRequest]:
        return [replace(request, ids=tuple(self._prompt_ids(request.prompt, turns))) for request in requests]

    def _prompt_ids(self, prompt: str, turns: Sequence[tuple[Role, str]]) -> list[int]:
        if turns:
            return encode_conversation(self.tokenizer, [*turns, ("user", prompt)])
        return encode_prompt(self.tokenizer, self._family, prompt)


def replicas_per_machine(serving: ServingConfig) -> int:
    """The most replicas that may share a machine's cores."""
    return min(serving.replicas.max, serving.max_replicas_per_node or serving.replicas.max)
