"""Base class of tasks: prompt, reading of corpus rows, parsing and scoring of answers, version. One file per task.

A task reads a row with its own field names (`corpus.fields` is already applied) into an `Example`:

    {"id": "apples-17", "input": "Anne has 4 apples ...", "label": "4 - 1"}
      -> Example(id="apples-17", input="Anne has 4 apples ...", gold="4 - 1", choices=())
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pipelines.errors import BadRowError, UnparsableError, UserError
from pipelines.tasks.parsing.conclusions import last_sentence, names
from pipelines.tasks.parsing.giveaways import says_only
from pipelines.tasks.parsing.label_patterns import LabelPlace, answer_pattern, place_of_text, statement_region

MAX_FIELD_CHARACTERS = 100_000
_WHOLE_FLOAT = re.compile(r"(-?\d+)\.0")

Row = Mapping[str, object]
"""A corpus row by field name."""
Options = Mapping[str, object]
"""`task_options` of a run file."""


@dataclass(frozen=True)
class Example:
    """A corpus row as its task reads it."""

    id: str
    input: str
    """The student's input, without its prefix."""
    gold: str | None
    """Human label, normalised. None if the row has no label."""
    choices: tuple[str, ...] = ()
    """Multiple choice: texts of (a), (b), ..."""


@dataclass(frozen=True)
class Shot:
    """A worked example of the few-shot prompt."""

    question: str
    answer: str


@dataclass(frozen=True)
class Answer:
    """Content of a teacher's text."""

    label: str
    """Normalised."""
    rationale: str
    note: str = ""
    """A peculiarity that the label stage counts, such as a letter and a text that disagree."""


class Task(ABC):
    """A task. Subclasses are stateless: class and options decide everything."""

    name: ClassVar[str]
    version: ClassVar[str]
    """Increase it when prompt, labels or scoring change: labels of another version are not reused."""
    parser: ClassVar[str] = "1"
    """Version of `parse`. Increase it when other answers are accepted or read: new labels are not mixed with those of another parser.
    Labels of Raystill 0.1, which recorded none, stay valid."""
    required: ClassVar[tuple[str, ...]] = ("input",)
    """Required fields of a row, besides `id` and the optional `gold`."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Optional fields of a row."""
    lists: ClassVar[tuple[str, ...]] = ()
    """Fields that are lists of texts."""
    gold_field: ClassVar[str] = "label"
    """Column of the gold label if corpus.fields names none."""
    stops: ClassVar[tuple[str, ...]] = ("\nQ:", "\n\n")
    """Stop strings for plain prompts. Without them a base model writes the next question."""

    def __init__(self, options: Options | None = None) -> None:
        """Raise UserError if the task does not take these options."""
        if options:
            raise UserError(f"task_options {sorted(options)}", f"task {self.name} takes none", "Remove task_options.")

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Closed label set that all examples share. None if labels are free or differ by example."""
        return None

    @property
    def is_closed(self) -> bool:
        """True if each example has a closed label set."""
        return self.labels is not None

    def label_set(self, example: Example) -> tuple[str, ...]:
        """Labels that this example may have, without duplicates. Empty if labels are free."""
        return self.labels or ()

    @property
    @abstractmethod
    def shots(self) -> Sequence[Shot]:
        """Few-shot examples of the prompt. Written for this project, taken from no corpus."""

    @property
    def instruction(self) -> str:
        """First line of the prompt; may be empty."""
        return ""

    @abstractmethod
    def read(self, row: Row) -> Example:
        """Convert a row with the task's field names to an example.

        Raises:
            BadRowError: a field is missing, empty, too long or of the wrong type, or the gold label is not valid for this task.
        """

    def question(self, example: Example) -> str:
        """The example as it appears in the prompt."""
        return example.input

    @abstractmethod
    def parse(self, text: str, example: Example) -> Answer:
        """Read label and rationale from the teacher's text. Raises UnparsableError if it holds no answer."""

    @abstractmethod
    def normalise(self, label: str, example: Example) -> str:
        """Canonical form of a label. Raises UnparsableError if the text is not a label."""

    def key(self, label: str) -> str:
        """Key by which votes and scores compare labels: equal for labels with the same meaning."""
        return label

    def value(self, label: str) -> str | None:
        """Value of the label if it differs from its text, such as the number of an arithmetic expression."""
        return None

    def gives_away(self, answer: Answer, example: Example) -> bool:
        """True if the rationale states the label without a reason (giveaways.py). Default: it has no words except the labels'."""
        return says_only(answer.rationale, answer.label, *(self.labels or ()))

    def leads_to(self, rationale: str, label: str, example: Example) -> bool | None:
        """True if the rationale arrives at the label (conclusions.py). Default: its last sentence contains the label's words.

        None if the text cannot show it: labels that all examples share are words of the task, not of the example.
        """
        return names(last_sentence(rationale), label) if self.labels is None else None

    def states(self, rationale: str, label: str, example: Example) -> bool:
        """True if the rationale contains the label anywhere."""
        return names(rationale, label)

    def shot_example(self, question: str) -> Example:
        """Example of a few-shot question, for parsing its answer. Raises BadRowError if the question is malformed."""
        return Example("shot", question, None)

    def sample(self) -> dict[str, object]:
        """A row that `read` takes, for a first request to an endpoint. Default: the first shot's question in the only field.

        Without shots, or with several required fields, each holds `...`, of lists two.
        """
        if len(self.required) == 1 and self.shots and not self.lists:
            return {self.required[0]: self.shots[0].question}
        return {name: ["...", "..."] if name in self.lists else "..." for name in self.required}

    def render(self, answer: Answer) -> str:
        """The answer in the format of the shots. The echo teacher writes it."""
        return f"{answer.rationale} The answer is {answer.label}."

    def shown(self, answer: Answer, example: Example) -> str:
        """The answer as a shot shows it to a teacher. Default: `render`."""
        return self.render(answer)

    def answer_pattern(self, example: Example) -> str | None:
        """Regular expression of whole answers: a rationale of bounded length, then a statement of one of the labels.

        `parse` reads every text that matches. None if labels are free.
        """
        labels = self.label_set(example)
        return answer_pattern([f"{label}." for label in labels]) if labels else None

    def label_place(self, text: str, example: Example) -> LabelPlace | None:
        """Position of the label that `parse` reads in the text. None if labels are free or the text uses other words.

        Raises:
            UnparsableError: the text holds no answer.
        """
        answer = self.parse(text, example)
        region = statement_region(text, answer.rationale)
        labels = self.label_set(example)
        return place_of_text(text, region, answer.label, labels) if region and answer.label in labels else None

    def same(self, predicted: str, gold: str, example: Example) -> bool:
        """True if a predicted text means the gold label. A text that is not a label is wrong."""
        try:
            return self.key(self.normalise(predicted, example)) == self.key(gold)
        except UnparsableError:
            return False

    def prompt_version(self, shots: Sequence[Shot] | None = None) -> str:
        """Version of everything that the teacher reads: name, version and a hash of the prompt.

        Args:
            shots: replace the task's own shots.
        """
        used = self.shots if shots is None else shots
        text = json.dumps([self.instruction, [(s.question, s.answer) for s in used], list(self.stops)])
        return f"{self.name}/{self.version}/{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class TaskSpec:
    """A task as other processes receive it."""

    name: str
    """Built-in name, or path of a task file."""
    options: dict[str, object] = field(default_factory=dict)
    source: str | None = None
    """Code of the task file. None for built-in tasks."""


def text_field(row: Row, name: str) -> str:
    """Required text field of a row, stripped. Numbers become text. Raises BadRowError."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRowError(f"field `{name}` is {_kind(value)}, must be text")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRowError(f"field `{name}` is the number {value}, must be text")
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
    """True if the text can be encoded as UTF-8. JSON can spell lone surrogates, which cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def optional_gold(row: Row, labels: Collection[str] = ()) -> str | None:
    """Text of the gold label. None if the row has none. Raises BadRowError if it is neither text nor number.

    A column of integers with nulls is often stored as floats, so `1.0` is read as `1`. Texts are read so if the label set is closed.

    Args:
        labels: the closed set, whose own spelling is kept.
    """
    value = row.get("gold")
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()  # as JSON and CSV spell it
    text = text_field(row, "gold")
    whole = _WHOLE_FLOAT.fullmatch(text)
    return whole[1] if whole and text not in labels and (labels or isinstance(value, float)) else text


def _kind(value: object) -> str:
    return "missing or null" if value is None else f"a {type(value).__name__}"
