"""`POST /v1/predict`: inputs of a task, or texts -> label, confidence and, on demand, rationale of each.

{"inputs": [{"input": "Anne has 4 apples ..."}], "rationale": true}
  -> {"model": "svamp",
      "predictions": [{"label": "4 - 2 - 1", "value": "1", "confidence": 0.93, "rationale": "Anne has ..."}],
      "usage": {"prompt_tokens": 61, "completion_tokens": 34, "total_tokens": 95}}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from pipelines.config.serving import LimitsConfig
from pipelines.errors import BadRowError
from pipelines.methods import read_answer, written_labels
from pipelines.tasks.base import Example, Task, text_field
from serving.api.errors import ApiError
from serving.messages import Question, Reply, TooLong
from serving.model_card import StudentCard


class PredictRequest(BaseModel):
    """What a client asks."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Annotated[list[dict[str, JsonValue] | str], Field(min_length=1)]
    """Each one the task's fields by name, or the text as the student reads it."""
    rationale: bool = False
    """Whether the student writes its rationales too; a second answer per input."""
    model: str | None = None
    """A name of /v1/models; may be left out where there is one student."""


class Prediction(BaseModel):
    """The answer to one input."""

    label: str
    value: str | None = None
    """What the label comes to, where that says more than the label (arithmetic: the number)."""
    confidence: float = Field(
        description="How sure the student is of the label: the product of the probabilities of its tokens, end-of-sequence token "
        "included. Of a closed set of labels (fixed ones, or an input's choices) each token's is renormalised over those with which "
        "some label of the set goes on: the confidences of all labels of an input add up to 1. An answer that is none of them as the "
        "student was trained to write it, and one to a text that names no choices, keeps the plain product."
    )
    rationale: str | None = None


class Usage(BaseModel):
    """Tokens read and written for the request, without padding."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class PredictResponse(BaseModel):
    """The answers, in the order of the inputs."""

    model: str
    predictions: list[Prediction]
    usage: Usage


def read_inputs(
    body: PredictRequest, card: StudentCard, task: Task, max_inputs: int, limits: LimitsConfig
) -> tuple[list[Question], list[Example]]:
    """Questions as the student read them in training. Raises ApiError 413 or 422, which names the input."""
    if len(body.inputs) > max_inputs:
        message = f"{len(body.inputs):,} inputs in one request, the limit is {max_inputs:,}"
        raise ApiError(413, "too_many_inputs", message, param="inputs")
    if body.rationale and not card.has_rationale:
        message = f"model {card.id} was trained with method {card.method}, which teaches no rationales"
        raise ApiError(422, "no_rationale", message, param="rationale")
    examples = []
    for i, given in enumerate(body.inputs):
        try:
            examples.append(_example(task, given, f"input-{i}"))
        except BadRowError as error:
            raise ApiError(422, "invalid_field", f"inputs[{i}]: {error}", param=f"inputs[{i}]") from error
        if (length := len(examples[-1].input)) > limits.input_characters:
            message = f"inputs[{i}] has {length:,} characters, the limit is {limits.input_characters:,}"
            raise ApiError(422, "input_too_long", message, param=f"inputs[{i}]")
    labels = [written_labels(card.method, task, example) for example in examples]
    return [Question(e.input, body.rationale, s) for e, s in zip(examples, labels, strict=True)], examples


def _example(task: Task, given: dict[str, JsonValue] | str, dummy_id: str) -> Example:
    if isinstance(given, str):
        return Example(id=dummy_id, input=text_field({"input": given}, "input"), gold=None)
    fields = {key: value for key, value in given.items() if key not in {"id", "gold", task.gold_field}}
    return task.read({**fields, "id": dummy_id})


def respond(
    card: StudentCard, task: Task, examples: Sequence[Example], outcomes: Sequence[Reply | TooLong], *, rationale: bool
) -> PredictResponse:
    """The response of a request. Raises ApiError 422 where an input was too long for the student.

    Args:
        rationale: whether one was asked for.
    """
    predictions = []
    prompt_tokens = completion_tokens = 0
    for i, (example, outcome) in enumerate(zip(examples, outcomes, strict=True)):
        if isinstance(outcome, TooLong):
            message = f"inputs[{i}] has {outcome.tokens:,} tokens, model {card.id} reads at most {outcome.limit:,}"
            raise ApiError(422, "input_too_long", message, param=f"inputs[{i}]")
        for part in (outcome.answer, outcome.rationale):
            prompt_tokens += part.prompt_tokens if part else 0
            completion_tokens += part.output_tokens if part else 0
        predictions.append(_prediction(card, task, example, outcome, wanted=rationale))
    usage = Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )
    return PredictResponse(model=card.id, predictions=predictions, usage=usage)


def _prediction(card: StudentCard, task: Task, example: Example, reply: Reply, *, wanted: bool) -> Prediction:
    read = read_answer(card.method, reply.answer.text, task, example)
    said = read.rationale or None if read and wanted else None
    return Prediction(
        label=reply.answer.text if read is None else read.label,  # unreadable: the student's words as they are
        value=None if read is None else task.value(read.label),
        confidence=reply.answer.confidence,
        rationale=reply.rationale.text if reply.rationale else said,
    )
