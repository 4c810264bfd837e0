"""What a task is: prompt, how to read a corpus row, how to parse and score an answer, version. One file per task.

A row comes in as a mapping with the task's own field names (`corpus.fields` has been applied). An `Example` goes out:

    {"id": "apples-17", "input": "Anne has 4 apples ...", "label": "4 - 1"}
      -> Example(id="apples-17", input="Anne has 4 apples ...", gold="4 - 1", choices=())
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipelines.errors import BadRowError, UnparsableError
from pipelines.tasks.parsing.conclusions import last_sentence, names
from pipelines.tasks.parsing.giveaways import says_only
from pipelines.tasks.parsing.label_patterns import LabelPlace, answer_pattern, place_of_text, statement_region

MAX_FIELD_CHARACTERS = 100_000


@dataclass(frozen=True)
class Example:
    """One corpus row as its task reads it."""

    id: str
    input: str
    """What the student reads, without prefix."""
    gold: str | None
    """The label from a person, normalised; None where the row has none."""
    choices: tuple[str, ...] = ()
    """Multiple choice: the texts of (a), (b), ..."""


@dataclass(frozen=True)
class Shot:
    """One worked example of the few-shot prompt."""

    question: str
    answer: str


@dataclass(frozen=True)
class Answer:
    """What a teacher's text says. `label` is normalised."""

    label: str
    rationale: str
    note: str = ""
    """A peculiarity worth counting, such as a letter and a text that disagree."""


class Task(ABC):
    """A task. Subclasses are stateless: everything follows from the class and its options."""

    name: ClassVar[str]
    version: ClassVar[str]
    """Bumped when prompt, parsing or scoring changes: labels of another version are not reused."""
    required: ClassVar[tuple[str, ...]] = ("input",)
    """Fields that a row must have, besides `id` and the optional `gold`."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Fields that a row may have."""
    lists: ClassVar[tuple[str, ...]] = ()
    """Fields that are lists of texts."""
    gold_field: ClassVar[str] = "label"
    """The column that holds the gold label where corpus.fields does not name one."""
    stops: ClassVar[tuple[str, ...]] = ("\nQ:", "\n\n")
    """Where a plain prompt's answer ends: a model that continues text would go on with the next question."""

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        """Raises UserError where the task takes no such options."""
        from pipelines.errors import UserError

        if options:
            raise UserError(f"task_options {sorted(options)}", f"task {self.name} takes none", "Remove task_options.")

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The closed label set where it is the same for all examples, else None."""
        return None

    @property
    def is_closed(self) -> bool:
        """Whether each example's label is one of a set that is known beforehand."""
        return self.labels is not None

    def label_set(self, example: Example) -> tuple[str, ...]:
        """The labels that this example may have, each one once. Empty where labels are free."""
        return self.labels or ()

    @property
    @abstractmethod
    def shots(self) -> Sequence[Shot]:
        """The few-shot examples of the prompt, of our own making."""

    @property
    def instruction(self) -> str:
        """One line that opens the prompt; may be empty."""
        return ""

    @abstractmethod
    def read(self, row: Mapping[str, Any]) -> Example:
        """Turn a row with the task's field names into an example.

        Raises:
            BadRowError: a field is missing, of the wrong type, empty or too long, or the gold label is none of this task.
        """

    def question(self, example: Example) -> str:
        """The example as the prompt asks it."""
        return example.input

    @abstractmethod
    def parse(self, text: str, example: Example) -> Answer:
        """Read label and rationale from the teacher's text. Raises UnparsableError where it holds no answer."""

    @abstractmethod
    def normalise(self, label: str, example: Example) -> str:
        """The label in this task's one form. Raises UnparsableError where it is none."""

    def key(self, label: str) -> str:
        """What votes and scores compare: equal for labels that mean the same."""
        return label

    def value(self, label: str) -> str | None:
        """What the label comes to, where that says more than the label (arithmetic: the number)."""
        return None

    def gives_away(self, answer: Answer, example: Example) -> bool:
        """Whether the rationale states the label and nothing that leads to it (giveaways.py). Here: no word but the labels' is left."""
        return says_only(answer.rationale, answer.label, *(self.labels or ()))

    def leads_to(self, rationale: str, label: str, example: Example) -> bool | None:
        """Whether the rationale arrives at the label (conclusions.py). Here: its last sentence has the label's words.

        None where the text cannot tell: labels that are the same for all examples are words of the task, not of the example.
        """
        return names(last_sentence(rationale), label) if self.labels is None else None

    def states(self, rationale: str, label: str, example: Example) -> bool:
        """Whether the rationale says the label anywhere, so that who reads it need not find the label."""
        return names(rationale, label)

    def shot_example(self, question: str) -> Example:
        """The example that a few-shot question stands for, so that its answer can be parsed. Raises BadRowError where it is none."""
        return Example("shot", question, None)

    def render(self, answer: Answer) -> str:
        """The answer in the format that the shots teach; what the echo teacher says."""
        return f"{answer.rationale} The answer is {answer.label}."

    def shown(self, answer: Answer, example: Example) -> str:
        """The answer in the words in which the shots show answers to a teacher. Here: those of `render`."""
        return self.render(answer)

    def answer_pattern(self, example: Example) -> str | None:
        """A regular expression for whole answers: a rationale of bounded length, then a statement of one of the labels.

        `parse` reads every text that it allows. None where labels are free.
        """
        labels = self.label_set(example)
        return answer_pattern([f"{label}." for label in labels]) if labels else None

    def label_place(self, text: str, example: Example) -> LabelPlace | None:
        """Where the text states the label that `parse` reads in it. None where labels are free or it says it in other words.

        Raises:
            UnparsableError: it holds no answer.
        """
        answer = self.parse(text, example)
        region = statement_region(text, answer.rationale)
        labels = self.label_set(example)
        return place_of_text(text, region, answer.label, labels) if region and answer.label in labels else None

    def same(self, predicted: str, gold: str, example: Example) -> bool:
        """Whether a predicted label text means the gold label; a text that is no label is wrong."""
        try:
            return self.key(self.normalise(predicted, example)) == self.key(gold)
        except UnparsableError:
            return False

    def prompt_version(self, shots: Sequence[Shot] | None = None) -> str:
        """Changes when anything that the teacher reads changes. `shots`: those used instead of the task's own."""
        shown = self.shots if shots is None else shots
        text = json.dumps([self.instruction, [(s.question, s.answer) for s in shown], list(self.stops)])
        return f"{self.name}/{self.version}/{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class TaskSpec:
    """A task as it travels to other processes: name, options, and the source of a task file of the user's own."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    source: str | None = None


def text_field(row: Mapping[str, Any], name: str) -> str:
    """A required text field of a row, stripped. Raises BadRowError."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRowError(f"field `{name}` is {_kind(value)}, text is needed")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRowError(f"field `{name}` is the number {value}, text is needed")
    text = str(value).strip()
    if not text:
        raise BadRowError(f"field `{name}` is empty")
    if len(text) > MAX_FIELD_CHARACTERS:
        raise BadRowError(f"field `{name}` has {len(text):,} characters, the limit is {MAX_FIELD_CHARACTERS:,}")
    if "\x00" in text:
        raise BadRowError(f"field `{name}` holds a NUL character")
    if not is_unicode(text):
        raise BadRowError(f"field `{name}` is not valid Unicode (a lone surrogate)")
    return text


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: JSON can spell characters that no text can hold."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def optional_gold(row: Mapping[str, Any]) -> str | None:
    """The gold label's text, None where the row has none. Raises BadRowError where it is neither text nor number."""
    value = row.get("gold")
    if value is None or value == "":
        return None
    return text_field(row, "gold")


def _kind(value: Any) -> str:
    return "missing or null" if value is None else f"a {type(value).__name__}"
