"""Requests of OpenAI's completions and chat completions, as its official clients send them.

A completion's prompt is all that the student reads: `[label] Anne has 4 apples ...` for a step-by-step student. A chat is one user
message, which is an input of the student's task, as in `/v1/predict`. A student with a chat template also reads a system message and
several turns. The default temperature is 0, because students are trained for greedy decoding.

Parameters of OpenAI that would change the answer and are not supported are refused, never ignored.
https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue

from pipelines.config.serving import ServingConfig
from pipelines.errors import BadRowError
from pipelines.students.chat_prompt import Role
from pipelines.students.decoding import Sampling
from pipelines.tasks.base import text_field
from serving.api.errors import ApiError, failed_input
from serving.api.input_limits import check_characters
from serving.api.request_body import Priority, RequestBody, few
from serving.fair_queue import SMALL_REQUEST
from serving.messages import Failed, Piece, TextRequest, TooLong
from serving.model_card import StudentCard

_Stop = Annotated[str, Field(min_length=1, max_length=200)]
_Zero = Annotated[float, Field(ge=0.0, le=0.0)]
_Tokens = Annotated[
    int, Field(ge=1, strict=True, description="Upper limit. No text is longer than the student was trained to write.")
]
_Choice = Annotated[str, Field(min_length=1, max_length=200)]
_Choices = Annotated[list[_Choice], Field(fail_fast=True, min_length=1, max_length=256)]
_MAX_MESSAGES = 64
_MAX_PARTS = 64
"""Of a message."""
_MAX_METADATA = 16
"""OpenAI's limit."""
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_BY_TURNS: list[Role] = ["user", "assistant"] * (_MAX_MESSAGES // 2)
_LAST_SEED = 2**63 - 1
_MIN_TEMPERATURE = 1e-3
"""Below it decoding is greedy: only the likeliest tokens would remain, and logits divided by almost 0 are not finite."""


class StreamOptions(RequestBody):
    """Options of a stream."""

    include_usage: Annotated[bool, Field(strict=True)] | None = False
    """True: a last chunk without choices holds the token counts."""
    include_obfuscation: Literal[False] | None = None


class StructuredOutputs(RequestBody):
    """vLLM's form of `guided_choice`."""

    choice: _Choices


class OpenAIRequest(RequestBody):
    """The parameters that both routes share."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0, strict=True)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0, strict=True)] | None = None
    seed: Annotated[int, Field(strict=True, ge=-(2**63), le=_LAST_SEED)] | None = None
    n: Annotated[int, Field(ge=1, le=16, strict=True, description="Texts for each prompt.")] | None = None
    guided_choice: Annotated[_Choices, Field(description="The text is the likeliest of these.")] | None = None
    """Not in OpenAI's API, but in vLLM's."""
    structured_outputs: StructuredOutputs | None = None
    stop: _Stop | Annotated[list[_Stop], Field(fail_fast=True, max_length=4)] | None = None
    stream: Annotated[bool, Field(strict=True)] | None = None
    stream_options: StreamOptions | None = None
    # Not used: they change no answer.
    user: str | None = None
    metadata: Annotated[dict[str, str], few(_MAX_METADATA)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    priority: Priority = None
    """Not in OpenAI's API."""
    # Only the value that equals the default.
    presence_penalty: _Zero | None = None
    frequency_penalty: _Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0), few(0)] | None = None

    def sampling(self) -> Sampling | None:
        """None: greedy."""
        if self.temperature is None or self.temperature < _MIN_TEMPERATURE:
            return None
        # Text i of a prompt is drawn with seed + i.
        seed = secrets.randbits(31) if self.seed is None else min(self.seed, _LAST_SEED - self.copies() + 1)
        return Sampling(self.temperature, seed, top_p=1.0 if self.top_p is None else self.top_p)

    def copies(self) -> int:
        """Texts for each prompt."""
        return self.n or 1

    def draws(self) -> int:
        """Texts that are generated for each prompt. Greedy ones are equal: one is generated."""
        return self.copies() if self.sampling() else 1

    def choices(self) -> tuple[str, ...]:
        """The texts of which the answer is one. Raises ApiError 400 with parameters that have no meaning for it."""
        given = self.guided_choice or (self.structured_outputs and self.structured_outputs.choice)
        if not given:
            return ()
        name = "guided_choice" if self.guided_choice else "structured_outputs"
        _refuse_with(
            name,
            stream=self.stream,
            temperature=self.sampling(),
            stop=self.stops(),
            n=self.copies() > 1,
            logprobs=self.wants_logprobs,
        )
        return tuple(dict.fromkeys(given))

    @property
    def wants_logprobs(self) -> bool:
        """True if the answer has the log-probabilities of its tokens."""
        return False

    @property
    def num_likeliest(self) -> int:
        """Likeliest tokens beside each token of the answer: 0, or 1, which in a greedy answer is the token itself."""
        return 0

    def log_probs(self) -> bool:
        """`wants_logprobs`. Raises ApiError 400 with parameters with which they are not offered."""
        if self.num_likeliest and not self.wants_logprobs:
            message = "top_logprobs needs logprobs: true. Set it, or leave top_logprobs out"
            raise ApiError(400, "unsupported_parameter", message, param="top_logprobs")
        if self.wants_logprobs:
            _refuse_with("logprobs", stream=self.stream, temperature=self.num_likeliest and self.sampling())
        return self.wants_logprobs

    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionRequest(OpenAIRequest):
    """`POST /v1/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "[label] Anne has 4 apples and gives Peter 2. How many has she left?", "max_tokens": 32}
            ]
        }
    )

    prompt: str | Annotated[list[str], Field(fail_fast=True, min_length=1)]
    max_tokens: _Tokens | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    logprobs: Annotated[int, Field(ge=0, le=1, strict=True, description="1: with the likeliest token.")] | None = None
    suffix: Literal[""] | None = None

    @property
    def wants_logprobs(self) -> bool:
        """See OpenAIRequest."""
        return self.logprobs is not None

    @property
    def num_likeliest(self) -> int:
        """See OpenAIRequest."""
        return self.logprobs or 0

    def prompts(self) -> list[str]:
        """The prompts as a list."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class TextPart(RequestBody):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(RequestBody):
    """A turn of a chat. The last one is the input."""

    role: Literal["system", "developer", "user", "assistant"]
    """developer: OpenAI's newer name of system."""
    content: str | Annotated[list[TextPart], Field(fail_fast=True, min_length=1, max_length=_MAX_PARTS)]
    name: str | None = None
    # What answers of OpenAI's API and of vLLM have, if a client sends them back. Only empty ones.
    refusal: None = None
    annotations: Annotated[list[JsonValue], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[JsonValue], Field(max_length=0)] | None = None
    reasoning: None = None
    reasoning_content: None = None

    def text(self) -> str:
        """The parts as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(RequestBody):
    """Format of the answer."""

    type: Literal["text"]


class ChatRequest(OpenAIRequest):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "messages": [
                        {"role": "user", "content": "Anne has 4 apples and gives Peter 2. How many has she left?"}
                    ],
                    "stream": False,
                }
            ]
        }
    )

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=_MAX_MESSAGES)]
    """One message of the user. A student that was trained with `student.prompt: chat` also reads turns before it: a system message, then
    the user's and the assistant's by turns."""
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    response_format: ResponseFormat | None = None
    logprobs: Annotated[bool, Field(strict=True)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=1, strict=True)] | None = None
    # Empty, or what a chat without tools means.
    tools: Annotated[list[JsonValue], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: Annotated[bool, Field(strict=True)] | None = None
    functions: Annotated[list[JsonValue], Field(max_length=0)] | None = None
    function_call: Literal["none", "auto"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    # Only null: some clients send every parameter.
    audio: None = None
    prediction: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None

    @property
    def wants_logprobs(self) -> bool:
        """See OpenAIRequest."""
        return bool(self.logprobs)

    @property
    def num_likeliest(self) -> int:
        """See OpenAIRequest."""
        return self.top_logprobs or 0

    def token_limit(self) -> int | None:
        """Upper limit of the answer's tokens."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def completion_requests(
    body: CompletionRequest, card: StudentCard, max_prompts: int, serving: ServingConfig
) -> list[TextRequest]:
    """One request per prompt. Raises ApiError 413 for too many prompts, and 422 for an invalid one."""
    prompts = body.prompts()
    if (number := len(prompts) * body.draws()) > max_prompts:
        of_each = f", {body.draws()} texts of each" if body.draws() > 1 else ""
        message = f"{len(prompts):,} prompts in one request{of_each}, the limit is {max_prompts:,}"
        raise ApiError(413, "too_many_inputs", message, param="prompt")
    for i, prompt in enumerate(prompts):
        _check_text(prompt, f"prompt[{i}]", card, serving)
    bulk = number > SMALL_REQUEST
    return [text for prompt in prompts for text in _draws(body, TextRequest(prompt, True, body.max_tokens, bulk=bulk))]


def chat_requests(body: ChatRequest, card: StudentCard, serving: ServingConfig) -> list[TextRequest]:
    """The requests of a chat. Raises ApiError 422 for an invalid message, and 400 for turns that the student does not read."""
    roles = [_ROLES[message.role] for message in body.messages]
    _check_roles(roles, card)
    texts = [message.text() for message in body.messages]
    check_characters(texts, "messages", card, serving)
    for i, text in enumerate(texts):
        _check_text(text, f"messages[{i}].content", card, serving)
    *before, text = (text.strip() for text in texts)
    turns = tuple(zip(roles[:-1], before, strict=True))
    bulk = body.draws() > SMALL_REQUEST
    return _draws(body, TextRequest(text, False, body.token_limit(), bulk=bulk, turns=turns))


def _check_roles(roles: Sequence[Role], card: StudentCard) -> None:
    """Raises ApiError 400 `unsupported_messages`."""
    if len(roles) > 1 and card.prompt != "chat":
        rule = f"model {card.id} was trained on single inputs (student.prompt: plain). Send one user message"
    elif list(roles[roles[0] == "system" :]) != _BY_TURNS[: len(roles) - (roles[0] == "system")] or roles[-1] != "user":
        rule = "the messages must be one of the system, if any, then the user's and the assistant's by turns, and end with the user's"
    else:
        return
    raise ApiError(400, "unsupported_messages", rule, param="messages")


def _draws(body: OpenAIRequest, request: TextRequest) -> list[TextRequest]:
    """The request for each text that is generated for a prompt. Raises ApiError 400 for parameters that exclude each other."""
    request = replace(
        request, sampling=body.sampling(), stop=body.stops(), bulk=request.bulk or body.priority == "bulk",
        choices=body.choices(), log_probs=body.log_probs(),
    )  # fmt: skip
    if request.sampling is None:
        return [request]
    return [replace(request, sampling=replace(request.sampling, draw=draw)) for draw in range(body.draws())]


def _refuse_with(name: str, **others: object) -> None:
    """Raises ApiError 400 if one of the other parameters is used."""
    if used := [other for other, value in others.items() if value]:
        raise ApiError(400, "unsupported_parameter", f"{name} cannot be used with {used[0]}. Leave one out", param=name)


def _check_text(text: str, param: str, card: StudentCard, serving: ServingConfig) -> None:
    check_characters(text, param, card, serving)
    try:
        text_field({"text": text}, "text")
    except BadRowError as error:
        raise ApiError(
            422, "invalid_field", f"{param}: {str(error).replace('field `text`', 'it')}", param=param
        ) from error


def check_answered(
    card: StudentCard, pieces: Sequence[Piece | TooLong | Failed], param: str, draws: int = 1
) -> list[Piece]:
    """The texts, `draws` of each prompt. Raises ApiError for the first prompt without one: OpenAI's API has no errors by prompt."""
    texts = []
    for i, piece in enumerate(pieces):
        if not isinstance(piece, Piece):
            raise failed_input(piece, f"{param}[{i // draws}]", card.id)
        texts.append(piece)
    return texts
