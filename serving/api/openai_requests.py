"""What OpenAI's completions and chat completions ask, as its official clients speak them.

A completion's prompt is all that the student reads: `[label] Anne has 4 apples ...` for a step-by-step student. A chat is one user
message, an input of the student's task, which it answers as `/v1/predict` has it answered: students know no conversations.
Temperature is 0 unless it is given: students are trained to be greedy.

Parameters of OpenAI's that would change the answer and are not offered are refused, never ignored.
https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import secrets
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.errors import BadRowError
from pipelines.students.decoding import Sampling
from pipelines.tasks.base import is_unicode, text_field
from serving.api.errors import ApiError
from serving.messages import Piece, TextRequest, TooLong
from serving.model_card import StudentCard

_Stop = Annotated[str, Field(min_length=1, max_length=200)]
_Zero = Annotated[float, Field(ge=0.0, le=0.0)]
_Tokens = Annotated[
    int, Field(ge=1, strict=True, description="At most; no text is longer than the student was trained to write one.")
]
_COLDEST = 1e-3
"""Below it a temperature is greedy: next to none leaves the likeliest tokens, and divides by next to nothing."""


class StreamOptions(BaseModel):
    """Of a stream."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    """Whether a last chunk without choices tells the tokens."""


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0, strict=True)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0, strict=True)] | None = None
    seed: Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    stream: Annotated[bool, Field(strict=True)] | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Read by nobody."""
    # Only what says the same as leaving it out.
    n: Literal[1] | None = None
    presence_penalty: _Zero | None = None
    frequency_penalty: _Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def sampling(self) -> Sampling | None:
        """None: greedy."""
        if self.temperature is None or self.temperature < _COLDEST:
            return None
        seed = secrets.randbits(31) if self.seed is None else self.seed
        return Sampling(self.temperature, seed, top_p=1.0 if self.top_p is None else self.top_p)

    def stops(self) -> tuple[str, ...]:
        """The texts before which the answer ends."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionRequest(_Asked):
    """`POST /v1/completions`."""

    prompt: str | Annotated[list[str], Field(min_length=1)]
    max_tokens: _Tokens | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    logprobs: None = None
    suffix: None = None

    def prompts(self) -> list[str]:
        """What is to be continued."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """The input of a chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None

    def text(self) -> str:
        """What it says."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(BaseModel):
    """The form of the answer."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]


class ChatRequest(_Asked):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1)]
    """One message of the user: students read one input, no conversation and no system message."""
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    response_format: ResponseFormat | None = None
    logprobs: Literal[False] | None = None

    def limit(self) -> int | None:
        """Tokens of the answer at most."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def completion_orders(asked: CompletionRequest, max_prompts: int, max_characters: int) -> list[TextRequest]:
    """One order for each prompt. Raises ApiError 413 for too many of them, and 422 for one that is no text."""
    if len(asked.prompts()) > max_prompts:
        message = f"{len(asked.prompts()):,} prompts in one request, the limit is {max_prompts:,}"
        raise ApiError(413, "too_many_inputs", message, param="prompt")
    sampling, stops = asked.sampling(), asked.stops()
    for i, prompt in enumerate(asked.prompts()):
        _check(prompt, f"prompt[{i}]", max_characters)
    return [TextRequest(prompt, True, asked.max_tokens, sampling, stops) for prompt in asked.prompts()]


def chat_order(asked: ChatRequest, max_characters: int) -> TextRequest:
    """The order of a chat. Raises ApiError 422 for a message that is no text."""
    text = asked.messages[0].text()
    _check(text, "messages[0].content", max_characters)
    return TextRequest(text.strip(), False, asked.limit(), asked.sampling(), asked.stops())


def _check(text: str, param: str, max_characters: int) -> None:
    if len(text) > max_characters:
        message = f"{param} has {len(text):,} characters, the limit is {max_characters:,}"
        raise ApiError(422, "input_too_long", message, param=param)
    try:
        text_field({"text": text}, "text")
    except BadRowError as error:
        raise ApiError(
            422, "invalid_field", f"{param}: {str(error).replace('field `text`', 'it')}", param=param
        ) from error
    if not is_unicode(text):
        raise ApiError(422, "invalid_field", f"{param} is not valid Unicode", param=param)


def fitting(card: StudentCard, pieces: list[Piece | TooLong], param: str) -> list[Piece]:
    """The pieces. Raises ApiError 422 where a text was too long for the student."""
    found = []
    for i, piece in enumerate(pieces):
        if isinstance(piece, TooLong):
            message = f"{param}[{i}] has {piece.tokens:,} tokens, model {card.id} reads at most {piece.limit:,}"
            raise ApiError(422, "input_too_long", message, param=f"{param}[{i}]")
        found.append(piece)
    return found
