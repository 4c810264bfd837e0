"""The methods: what a student of each reads and writes, and how its text is read back. The same in training, evaluation and serving.

    finetune              input                       -> gold label
    task-distillation     input                       -> the teacher's label
    step-by-step          [label] input               -> label
                          [rationale] input           -> rationale
    rationale-then-label  input                       -> rationale and label, as the task's prompt teaches a teacher to write them
    rationale-as-input    input [rationale] rationale -> label; needs the teacher for every input
    soft-label            input                       -> label, likelier labels of the teacher likelier
    token-kd              input                       -> the teacher's text, its likelier tokens likelier

A student that writes one text for both (`text`) is read by the task's parser, as a teacher is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.errors import UnparsableError

if TYPE_CHECKING:
    from pipelines.tasks.base import Answer, Example, Task

Method = Literal[
    "finetune", "task-distillation", "step-by-step", "rationale-then-label", "rationale-as-input", "soft-label", "token-kd"
]  # fmt: skip
Part = Literal["label", "rationale", "text"]
NEEDS_A_TEACHER: Method = "rationale-as-input"


@dataclass(frozen=True)
class Format:
    """What a student of a method reads and writes."""

    answer: Part
    """The part that holds the label: the label itself, or a text for the task's parser."""
    prefixed: bool = False
    """Whether label and rationale are two answers, told apart by the prompt's prefix."""


FORMATS: dict[str, Format] = {
    "finetune": Format("label"),
    "task-distillation": Format("label"),
    "step-by-step": Format("label", prefixed=True),
    "rationale-then-label": Format("text"),
    "rationale-as-input": Format("label"),
    "soft-label": Format("label"),
    "token-kd": Format("text"),
}
METHODS: tuple[Method, ...] = tuple(FORMATS)  # type: ignore[arg-type]


def writes_rationales(method: str) -> bool:
    """Whether a student of the method writes rationales of its own."""
    return FORMATS[method].prefixed or FORMATS[method].answer == "text"


def prompt_of(method: str, part: Part, text: str) -> str:
    """What the student reads for one part of its answer. Raises ValueError for a part that the method does not train."""
    form = FORMATS[method]
    if form.prefixed and part in ("label", "rationale"):
        return f"[{part}] {text}"
    if part == form.answer:
        return text
    raise ValueError(f"method {method} trains no {part}")


def with_rationale(text: str, rationale: str) -> str:
    """The input of a `rationale-as-input` student."""
    return f"{text} [rationale] {rationale}"


def written_labels(method: str, task: Task, example: Example) -> tuple[str, ...]:
    """The closed label set of an example, each label in an answer as a student of the method is trained to write it.

    Empty where labels are free. A token-kd student has its teacher's words: those of the task's shots, if the teacher keeps to them.
    """
    from pipelines.tasks.base import Answer

    labels = task.label_set(example)
    if FORMATS[method].answer != "text":
        return labels
    answers = (Answer(label, "It is so.") for label in labels)
    texts = (task.shown(a, example) if method == "token-kd" else task.render(a) for a in answers)
    return tuple(text.strip() for text in texts)


def read_answer(method: str, text: str, task: Task, example: Example) -> Answer | None:
    """Label and rationale in what a student wrote for its answer part; None where it holds no label.

    The rationale is empty where the method writes it as a part of its own, or not at all.
    """
    from pipelines.tasks.base import Answer

    try:
        if FORMATS[method].answer == "text":
            return task.parse(text, example)
        return Answer(task.normalise(text, example), "")
    except UnparsableError:
        return None
