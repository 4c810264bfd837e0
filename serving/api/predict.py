"""`POST /v1/predict`: inputs of a task, or texts -> label, confidence and, if requested, rationale of each.

{"inputs": [{"input": "Anne has 4 apples ..."}], "rationale": true}
  -> {"model": "svamp",
      "predictions": [{"label": "4 - 2 - 1", "value": "1", "confidence": 0.93, "rationale": "Anne has ..."}],
      "usage": {"prompt_tokens": 61, "completion_tokens": 34, "total_tokens": 95}}

An input that cannot be answered has {"error": {...}} at its place, and `failed` counts them. If no input is answered, the response is the
first error, with its status.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from pipelines.config.serving import ServingConfig
from pipelines.errors import BadRowError
from pipelines.methods import read_answer, written_labels
from pipelines.tasks.base import Example, Task, text_field
from pipelines.tasks.failures import checked_example, place_of
from serving.api.errors import ApiError, ErrorDetail, failed_input
from serving.api.input_limits import check_characters
from serving.api.request_body import Priority, RequestBody
from serving.fair_queue import SMALL_REQUEST
from serving.messages import Failed, Question, Reply, TooLong
from serving.model_card import StudentCard

_logger = logging.getLogger(__name__)
_INPUT = "Anne has 4 apples and gives Peter 2 and Thomas 1. How many apples has she left?"


class PredictRequest(RequestBody):
    """The inputs of a request."""

    model_config = ConfigDict(
        strict=True, json_schema_extra={"examples": [{"inputs": [{"input": _INPUT}], "rationale": True}]}
    )

    # Any: pydantic's JsonValue would check again, in Python, what was read from JSON.
    inputs: Annotated[list[dict[str, Any] | str], Field(fail_fast=True, min_length=1)]
    """Each one is the task's fields by name, or the text that the student reads."""
    rationale: bool = False
    """True: the student also generates its rationale, which is a second text per input."""
    model: str | None = None
    """A name of /v1/models. Optional if the endpoint has one student."""
    priority: Priority = None


class Prediction(BaseModel):
    """The answer to one input."""

    label: str
    value: str | None = None
    """The value of the label, if it says more than the label. For arithmetic: the number."""
    confidence: float = Field(
        description="Probability that the student gives to the label: the product over its tokens, end-of-sequence token included. For a "
        "closed set of labels (fixed ones, or the choices of an input) each token's probability is renormalised over the tokens that "
        "continue some label of the set, so that the confidences of all labels of an input sum to 1. If the answer is no label of the set "
        "as the student was trained to write it, or if a text names no choices, it is the plain product."
    )
    in_set: bool | None = Field(
        default=None,
        description="True if the answer is a label of the closed set as the student was trained to write it, and its confidence is "
        "renormalised. False: the confidence is the plain product. Null: the input has no closed set.",
    )
    readable: bool = Field(
        default=True, description="False if the task can read no label: `label` is the text as written."
    )
    rationale: str | None = None


class InputError(BaseModel):
    """At the place of an input that was not answered."""

    error: ErrorDetail


class Usage(BaseModel):
    """Token counts of the request, without padding."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> Self:
        """The counts with their total."""
        total = prompt_tokens + completion_tokens
        return cls(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=total)


class PredictResponse(BaseModel):
    """The answers, in the order of the inputs."""

    model: str
    predictions: list[Prediction | InputError]
    failed: int | None = Field(default=None, description="Inputs with an error. Null: every input is answered.")
    usage: Usage


@dataclass(frozen=True)
class ReadInputs:
    """The inputs of a request."""

    examples: Mapping[int, Example]
    """By place in the request: those that can be sent."""
    questions: Sequence[Question]
    """One per example."""
    errors: Mapping[int, ApiError]
    """By place in the request."""


def read_inputs(
    body: PredictRequest, card: StudentCard, task: Task, max_inputs: int, serving: ServingConfig
) -> ReadInputs:
    """Inputs as the student read them in training.

    Raises:
        ApiError: 413 or 422 for the whole request, or the first error if no input can be sent.
    """
    if len(body.inputs) > max_inputs:
        message = f"{len(body.inputs):,} inputs in one request, the limit is {max_inputs:,}"
        raise ApiError(413, "too_many_inputs", message, param="inputs")
    if body.rationale and not card.has_rationale:
        message = f"model {card.id} was trained with method {card.method}, which teaches no rationales"
        raise ApiError(422, "no_rationale", message, param="rationale")
    bulk = body.priority == "bulk" or len(body.inputs) > SMALL_REQUEST
    examples, questions, errors = {}, [], {}
    for i, given in enumerate(body.inputs):
        try:
            example, labels = _read_input(given, f"inputs[{i}]", card, task, serving)
        except ApiError as error:
            errors[i] = error
            continue
        examples[i] = example
        questions.append(Question(example.input, body.rationale, labels, bulk))
    if not questions:
        raise errors[0]
    return ReadInputs(examples, questions, errors)


def _read_input(
    given: dict[str, JsonValue] | str, param: str, card: StudentCard, task: Task, serving: ServingConfig
) -> tuple[Example, tuple[str, ...]]:
    """An input and its closed label set. Raises ApiError 422."""
    # Before the task reads it: a refusal of a long text costs nothing.
    check_characters(given if isinstance(given, str) else given.values(), param, card, serving)
    try:
        example = checked_example(_example(task, given, param))
        labels = written_labels(card.method, task, example)
    except BadRowError as error:
        raise ApiError(422, "invalid_field", f"{param}: {error}", param=param) from error
    except Exception as error:  # the task may be the user's code
        # Without its message, which may quote the input: texts are logged with serving.log_text alone.
        _logger.warning("model %s: task %s raised %s%s", card.id, card.task.name, type(error).__name__, place_of(error))
        rule = f"task {card.task.name} cannot read it ({type(error).__name__})"
        raise ApiError(422, "invalid_field", f"{param}: {rule}", param=param) from error
    check_characters(example.input, param, card, serving)
    if serving.constrained and not labels:
        message = f"{param} names no labels to choose from; send the fields of task {card.task.name} instead of a text"
        raise ApiError(422, "no_label_set", message, param=param)
    return example, labels


def _example(task: Task, given: dict[str, JsonValue] | str, example_id: str) -> Example:
    if isinstance(given, str):
        return Example(id=example_id, input=text_field({"input": given}, "input"), gold=None)
    fields = {key: value for key, value in given.items() if key not in {"id", "gold", task.gold_field}}
    return task.read({"gold": None, **fields, "id": example_id})


def build_response(
    card: StudentCard, task: Task, inputs: ReadInputs, outcomes: Sequence[Reply | TooLong | Failed], *, rationale: bool
) -> PredictResponse:
    """The response of a request. Raises the first ApiError if no input is answered.

    Args:
        rationale: True if the request asks for rationales.
    """
    errors = dict(inputs.errors)
    predictions: dict[int, Prediction] = {}
    prompt_tokens = completion_tokens = 0
    for (i, example), outcome in zip(inputs.examples.items(), outcomes, strict=True):
        if not isinstance(outcome, Reply):
            errors[i] = failed_input(outcome, f"inputs[{i}]", card.id)
            continue
        for part in (outcome.answer, outcome.rationale):
            prompt_tokens += part.prompt_tokens if part else 0
            completion_tokens += part.output_tokens if part else 0
        predictions[i] = _prediction(card, task, example, outcome, rationale=rationale)
    if not predictions:
        raise errors[min(errors)]
    places = range(len(predictions) + len(errors))
    return PredictResponse(
        model=card.id,
        predictions=[predictions[i] if i in predictions else InputError(error=errors[i].body().error) for i in places],
        failed=len(errors) or None,
        usage=Usage.of(prompt_tokens, completion_tokens),
    )


def _prediction(card: StudentCard, task: Task, example: Example, reply: Reply, *, rationale: bool) -> Prediction:
    parsed = read_answer(card.method, reply.answer.text, task, example)
    in_answer = parsed.rationale or None if parsed and rationale else None
    return Prediction(
        label=reply.answer.text if parsed is None else parsed.label,  # not parsable: the raw text
        value=None if parsed is None else _value(card, task, parsed.label),
        confidence=reply.answer.confidence,
        in_set=reply.answer.in_set,
        readable=parsed is not None,
        rationale=reply.rationale.text if reply.rationale else in_answer,
    )


def _value(card: StudentCard, task: Task, label: str) -> str | None:
    try:
        return task.value(label)
    except Exception as error:  # noqa: BLE001 the task may be the user's code. A label without its value is an answer
        _logger.warning("model %s: task %s raised %s%s", card.id, task.name, type(error).__name__, place_of(error))
        return None
