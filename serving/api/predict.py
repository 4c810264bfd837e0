"""`POST /v1/predict`: inputs of a task, or texts -> label, confidence and, if requested, rationale of each.

{"inputs": [{"input": "Anne has 4 apples ..."}], "rationale": true}
  -> {"model": "svamp",
      "predictions": [{"label": "4 - 2 - 1", "value": "1", "confidence": 0.93, "rationale": "Anne has ..."}],
      "usage": {"prompt_tokens": 61, "completion_tokens": 34, "total_tokens": 95}}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from pipelines.config.serving import ServingConfig
from pipelines.errors import BadRowError
from pipelines.methods import read_answer, written_labels
from pipelines.tasks.base import Example, Task, text_field
from serving.api.errors import ApiError
from serving.api.request_body import RequestBody
from serving.messages import Question, Reply, TooLong
from serving.model_card import StudentCard

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

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "svamp",
                    "predictions": [
                        {
                            "label": "4 - 2 - 1",
                            "value": "1",
                            "confidence": 0.93,
                            "rationale": "Anne gives away 2 and 1.",
                        }
                    ],
                    "usage": {"prompt_tokens": 61, "completion_tokens": 34, "total_tokens": 95},
                }
            ]
        }
    )

    model: str
    predictions: list[Prediction]
    usage: Usage


def read_inputs(
    body: PredictRequest, card: StudentCard, task: Task, max_inputs: int, serving: ServingConfig
) -> tuple[list[Question], list[Example]]:
    """Inputs as the student read them in training. Raises ApiError 413 or 422, which names the input."""
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
        if (length := len(examples[-1].input)) > serving.limits.input_characters:
            message = f"inputs[{i}] has {length:,} characters, the limit is {serving.limits.input_characters:,}"
            raise ApiError(422, "input_too_long", message, param=f"inputs[{i}]")
    labels = [written_labels(card.method, task, example) for example in examples]
    if serving.constrained and not all(labels):
        where = f"inputs[{labels.index(())}]"
        message = f"{where} names no labels to choose from; send the fields of task {card.task.name} instead of a text"
        raise ApiError(422, "no_label_set", message, param=where)
    return [Question(e.input, body.rationale, s) for e, s in zip(examples, labels, strict=True)], examples


def _example(task: Task, given: dict[str, JsonValue] | str, example_id: str) -> Example:
    if isinstance(given, str):
        return Example(id=example_id, input=text_field({"input": given}, "input"), gold=None)
    fields = {key: value for key, value in given.items() if key not in {"id", "gold", task.gold_field}}
    return task.read({**fields, "id": example_id})


def build_response(
    card: StudentCard, task: Task, examples: Sequence[Example], outcomes: Sequence[Reply | TooLong], *, rationale: bool
) -> PredictResponse:
    """The response of a request. Raises ApiError 422 if an input is too long for the student.

    Args:
        rationale: True if the request asks for rationales.
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
        predictions.append(_prediction(card, task, example, outcome, rationale=rationale))
    usage = Usage.of(prompt_tokens, completion_tokens)
    return PredictResponse(model=card.id, predictions=predictions, usage=usage)


def _prediction(card: StudentCard, task: Task, example: Example, reply: Reply, *, rationale: bool) -> Prediction:
    parsed = read_answer(card.method, reply.answer.text, task, example)
    in_answer = parsed.rationale or None if parsed and rationale else None
    return Prediction(
        label=reply.answer.text if parsed is None else parsed.label,  # not parsable: the raw text
        value=None if parsed is None else task.value(parsed.label),
        confidence=reply.answer.confidence,
        in_set=reply.answer.in_set,
        readable=parsed is not None,
        rationale=reply.rationale.text if reply.rationale else in_answer,
    )
