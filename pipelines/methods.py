"""Registry of the methods: what a student reads, writes and learns. Training, evaluation and serving share it.

    finetune              input                       -> gold label
    task-distillation     input                       -> the teacher's label
    step-by-step          [label] input               -> label
                          [rationale] input           -> rationale
    label-then-rationale  input                       -> label, end of sequence, rationale; an answer ends after the label
    rationale-then-label  input                       -> rationale and label, in the format of the task's few-shot prompt
    rationale-as-input    input [rationale] rationale -> label; needs the teacher for every input
    soft-label            input                       -> label, weighted by the teacher's distribution over labels
    token-kd              input                       -> the teacher's text, weighted by its distribution over tokens

A new method is one entry of METHODS. Only a term that no other method has needs code elsewhere: its name in `train/loss_terms.py` and its
computation in `train/engine/losses.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pipelines.errors import UnparsableError

if TYPE_CHECKING:
    from pipelines.tasks.base import Answer, Example, Task

Part = Literal["label", "rationale", "text"]
LabelColumn = Literal["gold", "label", "either"]
WeightKey = Literal["rationale_weight", "soft_weight"]
_logger = logging.getLogger(__name__)
MAX_CANDIDATES = 8
"""Labels of an example that soft-label compares: the one to learn, and the likeliest others of the teacher."""


@dataclass(frozen=True)
class TeacherTokens:
    """The tokens of a teacher's text (T,), and its k likeliest tokens at each position."""

    ids: Sequence[int]
    top_ids: Sequence[Sequence[int]]
    """(T, k)"""
    top_logprobs: Sequence[Sequence[float]]
    """(T, k) natural logarithms."""


@dataclass(frozen=True)
class TrainingRow:
    """What a method may learn from one row of the labels."""

    id: str
    input: str
    label: str
    """Gold or the teacher's, by `label_column`."""
    rationale: str
    """The teacher's; empty if it gave none."""
    soft_label: Sequence[tuple[str, float]] = ()
    """The teacher's labels with their probabilities; empty if the labels have no distribution."""
    tokens: TeacherTokens | None = None
    """None if `labels/token_logprobs` lacks the row, or the method does not read it."""


@dataclass(frozen=True)
class Target:
    """One sequence to learn: the student reads the input and writes `text`."""

    part: Part
    text: str | None
    """None: the teacher's own tokens."""
    input: str | None = None
    """Read instead of the row's input."""
    probability: float | None = None
    """The teacher's, for methods that compare the labels of an example."""
    in_part_loss: bool = True
    """False: the tokens count in no term of `part`; they only serve the comparison."""
    rationale: str | None = None
    """Follows `text` and its end-of-sequence token in the same sequence. Its tokens count in the term `rationale`."""


class Targets(Protocol):
    """Lists what a method learns from a row. Empty if the row lacks what the method needs."""

    def __call__(self, row: TrainingRow, task: Task) -> list[Target]: ...


@dataclass(frozen=True)
class Method:
    """All that differs between methods."""

    answer: Part
    """The part of the output that holds the label: the label itself, or a text for the task's parser."""
    targets: Targets
    terms: tuple[str, ...]
    """Terms of the loss (`train/loss_terms.py`). Of two terms, the second has the weight w and the first 1 - w."""
    weight_key: WeightKey | None = None
    """Key of `student` that holds w."""
    options: tuple[str, ...] = ()
    """Further keys of `student` that the method reads."""
    label_column: LabelColumn | None = None
    """Whose label is learned. either: gold if the row has one, else the teacher's. None: `student.labels` decides."""
    learns: str = ""
    """What it learns, for the error if `student.labels` is set without effect."""
    prefixed: bool = False
    """True if label and rationale are separate answers, selected by the prompt's prefix."""
    continues: bool = False
    """True if the rationale follows the label and its end-of-sequence token. Decoding stops after the label; a request for the
    rationale continues there."""
    reads_rationale: bool = False
    """True if the student reads a teacher's rationale with every input, also at serving time."""
    compares_labels: bool = False
    """True if the loss compares the labels of an example, so that its sequences share a micro-batch."""
    learns_teacher_tokens: bool = False
    """True if it learns the teacher's tokens. Labels need `token_logprobs`, and the student the teacher's tokenizer."""
    remedy: str = ""
    """For labels that hold nothing to learn."""

    @property
    def separates_rationale(self) -> bool:
        """True if the student writes its rationale on request, as a text of its own."""
        return self.prefixed or self.continues

    @property
    def writes_rationales(self) -> bool:
        """True if the student writes rationales of its own."""
        return self.separates_rationale or self.answer == "text"

    @property
    def needs_teacher_text(self) -> bool:
        """True if rows that only have a gold label cannot measure the student."""
        return self.reads_rationale or self.answer == "text"

    @property
    def student_keys(self) -> frozenset[str]:
        """Keys of `student` that not every method reads."""
        return frozenset([*self.options, *([self.weight_key] if self.weight_key else [])])


def _label(row: TrainingRow, task: Task) -> list[Target]:
    return [Target("label", row.label)]


def _label_and_rationale(row: TrainingRow, task: Task) -> list[Target]:
    rationale = [Target("rationale", row.rationale)] if row.rationale else []
    return [Target("label", row.label), *rationale]


def _label_then_rationale(row: TrainingRow, task: Task) -> list[Target]:
    return [Target("label", row.label, rationale=row.rationale or None)]


def _rationale_then_label(row: TrainingRow, task: Task) -> list[Target]:
    from pipelines.tasks.base import Answer

    return [Target("text", task.render(Answer(row.label, row.rationale)).strip())]


def _label_from_rationale(row: TrainingRow, task: Task) -> list[Target]:
    return [Target("label", row.label, with_rationale(row.input, row.rationale))] if row.rationale else []


def _label_distribution(row: TrainingRow, task: Task) -> list[Target]:
    """The label to learn first, then the likeliest others. Labels of equal meaning are merged."""
    learned = task.key(row.label)
    texts, probabilities = {learned: row.label}, {learned: 0.0}
    for label, probability in row.soft_label or ((row.label, 1.0),):
        key = task.key(label)
        texts.setdefault(key, label)
        probabilities[key] = probabilities.get(key, 0.0) + probability
    others = sorted(probabilities.keys() - {learned}, key=lambda key: (-probabilities[key], key))
    return [
        Target("label", texts[key], probability=probabilities[key], in_part_loss=key == learned)
        for key in [learned, *others[: MAX_CANDIDATES - 1]]
    ]


def _teacher_tokens(row: TrainingRow, task: Task) -> list[Target]:
    return [Target("text", None)] if row.tokens else []


METHODS: dict[str, Method] = {
    "finetune": Method("label", _label, ("label",), label_column="gold", learns="gold labels"),
    "task-distillation": Method("label", _label, ("label",), label_column="label", learns="the teacher's labels"),
    "step-by-step": Method(
        "label", _label_and_rationale, ("label", "rationale"), "rationale_weight", ("rationales",), prefixed=True,
        remedy="Label with a prompt that asks for rationales, or lower student.rationale_weight.",
    ),
    "label-then-rationale": Method(
        "label", _label_then_rationale, ("label", "rationale"), "rationale_weight", ("rationales",), continues=True,
        remedy="Label with a prompt that asks for rationales, or set method: task-distillation.",
    ),
    "rationale-then-label": Method("text", _rationale_then_label, ("text",), options=("rationales",)),
    "rationale-as-input": Method(
        "label", _label_from_rationale, ("label",), reads_rationale=True,
        remedy="Label with a prompt that asks for rationales, or set method: task-distillation.",
    ),
    "soft-label": Method(
        "label", _label_distribution, ("label", "soft"), "soft_weight", ("temperature",), compares_labels=True,
        label_column="either", learns="the teacher's distribution, and the gold label if there is one",
    ),
    "token-kd": Method(
        "text", _teacher_tokens, ("text", "divergence"), "soft_weight", ("divergence",), learns_teacher_tokens=True,
        label_column="label", learns="the teacher's text",
        remedy="Label with teacher.token_logprobs, or choose another method.",
    ),
}  # fmt: skip
METHOD_KEYS = frozenset().union(*(method.student_keys for method in METHODS.values()))
"""Keys of `student` that only some methods read."""

if TYPE_CHECKING:
    MethodName = str
else:
    # Made from the registry, so that pydantic's errors and schemas list its names. A type checker cannot read it.
    MethodName = Literal[tuple(METHODS)]


def rationale_readers(methods: Iterable[str] = METHODS) -> list[str]:
    """Those of the methods whose students read a teacher's rationale."""
    return [name for name in methods if METHODS[name].reads_rationale]


def prompt_of(method: str, part: Part, text: str) -> str:
    """What the student reads for one part of its answer. Raises ValueError for a part that the method does not train."""
    spec = METHODS[method]
    if spec.prefixed and part in ("label", "rationale"):
        return f"[{part}] {text}"
    if part == spec.answer or (part == "rationale" and spec.continues):
        return text
    raise ValueError(f"method {method} trains no {part}")


def with_rationale(text: str, rationale: str) -> str:
    """The input of a student that reads a rationale."""
    return f"{text} [rationale] {rationale}"


def written_labels(method: str, task: Task, example: Example) -> tuple[str, ...]:
    """The closed label set of an example, each label in an answer as the student is trained to write it.

    Empty if labels are free. A student of the teacher's tokens has the teacher's words: those of the task's few-shot examples, if the
    teacher keeps to them.
    """
    from pipelines.tasks.base import Answer

    labels = task.label_set(example)
    if METHODS[method].answer != "text":
        return labels
    answers = (Answer(label, "It is so.") for label in labels)
    texts = (task.shown(a, example) if METHODS[method].learns_teacher_tokens else task.render(a) for a in answers)
    return tuple(text.strip() for text in texts)


def read_answer(method: str, text: str, task: Task, example: Example) -> Answer | None:
    """Label and rationale in the text of a student's answer part; None if it holds no label, or if the user's task fails on it.

    The rationale is empty if the method writes it as a separate part, or not at all.
    """
    from pipelines.tasks.base import Answer
    from pipelines.tasks.failures import checked_answer, place_of

    try:
        if METHODS[method].answer == "text":
            return checked_answer(task.parse(text, example))
        return checked_answer(Answer(task.normalise(text, example), ""))
    except UnparsableError:
        return None
    except Exception as error:  # noqa: BLE001 the task may be the user's code
        # Without its message, which may quote the text.
        _logger.warning("task %s raised %s%s on a student's answer", task.name, type(error).__name__, place_of(error))
        return None
