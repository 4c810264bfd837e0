"""Requests of OpenAI's completions and chat completions, as its official clients send them.

A completion's prompt is all that the student reads: `[label] Anne has 4 apples ...` for a step-by-step student. A chat is one user
message, which is an input of the student's task, as in `/v1/predict`: students know no conversations. The default temperature is 0,
because students are trained for greedy decoding.

Parameters of OpenAI that would change the answer and are not supported are refused, never ignored.
https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from pipelines.config.serving import ServingConfig
from pipelines.errors import BadRowError
from pipelines.students.decoding import Sampling
from pipelines.tasks.base import text_field
from serving.api.errors import ApiError, failed_input
from serving.api.input_limits import check_characters
from serving.api.request_body import Priority, RequestBody
from serving.fair_queue import SMALL_REQUEST
from serving.messages import Failed, Piece, TextRequest, TooLong
from serving.model_card import StudentCard

_Stop = Annotated[str, Field(min_length=1, max_length=200)]
_Zero = Annotated[float, Field(ge=0.0, le=0.0)]
_Tokens = Annotated[
    int, Field(ge=1, strict=True, description="Upper limit. No text is longer than the student was trained to write.")
]
_MIN_TEMPERATURE = 1e-3
"""Below it decoding is greedy: only the likeliest tokens would remain, and logits divided by almost 0 are not finite."""


class StreamOptions(RequestBody):
    """Options of a stream."""

    include_usage: Annotated[bool, Field(strict=True)] = False
    """True: a last chunk without choices holds the token counts."""


class OpenAIRequest(RequestBody):
    """The parameters that both routes share."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0, strict=True)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0, strict=True)] | None = None
    seed: Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(fail_fast=True, max_length=4)] | None = None
    stream: Annotated[bool, Field(strict=True)] | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Not used."""
    priority: Priority = None
    """Not in OpenAI's API."""
    # Only the value that equals the default.
    n: Literal[1] | None = None
    presence_penalty: _Zero | None = None
    frequency_penalty: _Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def sampling(self) -> Sampling | None:
        """None: greedy."""
        if self.temperature is None or self.temperature < _MIN_TEMPERATURE:
            return None
        seed = secrets.randbits(31) if self.seed is None else self.seed
        return Sampling(self.temperature, seed, top_p=1.0 if self.top_p is None else self.top_p)

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
    logprobs: None = None
    suffix: None = None

    def prompts(self) -> list[str]:
        """The prompts as a list."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class TextPart(RequestBody):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(RequestBody):
    """The input of a chat."""

    role: Literal["user"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True, min_length=1)]
    name: str | None = None

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

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=1)]
    """One message of the user: students read one input, no conversation and no system message."""
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    response_format: ResponseFormat | None = None
    logprobs: Literal[False] | None = None

    def token_limit(self) -> int | None:
        """Upper limit of the answer's tokens."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def completion_requests(
    body: CompletionRequest, card: StudentCard, max_prompts: int, serving: ServingConfig
) -> list[TextRequest]:
    """One request per prompt. Raises ApiError 413 for too many prompts, and 422 for an invalid one."""
    prompts = body.prompts()
    if len(prompts) > max_prompts:
        message = f"{len(prompts):,} prompts in one request, the limit is {max_prompts:,}"
        raise ApiError(413, "too_many_inputs", message, param="prompt")
    sampling, stops = body.sampling(), body.stops()
    bulk = body.priority == "bulk" or len(prompts) > SMALL_REQUEST
    for i, prompt in enumerate(prompts):
        _check_text(prompt, f"prompt[{i}]", card, serving)
    return [TextRequest(prompt, True, body.max_tokens, sampling, stops, bulk) for prompt in prompts]


def chat_request(body: ChatRequest, card: StudentCard, serving: ServingConfig) -> TextRequest:
    """The request of a chat. Raises ApiError 422 for an invalid message."""
    text = body.messages[0].text()
    _check_text(text, "messages[0].content", card, serving)
    bulk = body.priority == "bulk"
    return TextRequest(text.strip(), False, body.token_limit(), body.sampling(), body.stops(), bulk)


def _check_text(text: str, param: str, card: StudentCard, serving: ServingConfig) -> None:
    check_characters(text, param, card, serving)
    try:
        text_field({"text": text}, "text")
    except BadRowError as error:
        raise ApiError(
            422, "invalid_field", f"{param}: {str(error).replace('field `text`', 'it')}", param=param
        ) from error


def check_answered(card: StudentCard, pieces: Sequence[Piece | TooLong | Failed], param: str) -> list[Piece]:
    """The texts. Raises ApiError for the first prompt without one: a response of OpenAI's API has no errors by prompt."""
    texts = []
    for i, piece in enumerate(pieces):
        if not isinstance(piece, Piece):
            raise failed_input(piece, f"{param}[{i}]", card.id)
        texts.append(piece)
    return texts
