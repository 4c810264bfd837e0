"""Classification and free text, configured in the run file.

    task: classification
    task_options:
      instruction: What does the customer want?
      labels: [refund, delivery, other]
      examples: [{input: Where is my parcel?, rationale: The customer asks where something is., label: delivery}]
      input_field: message

    {"id": "m-1", "message": "I want my money back.", "label": "refund"} -> input "I want my money back.", gold `refund`

Without `labels` the answer is free text: the sentence after `The answer is`.

Versions:
    1              first
    2 (2026-11-24) reads `\\boxed{}` if no `answer is` is readable
Parsers:
    2 (2026-11-30) reads headings and `<answer>`; rejects a text that corrects its answer, or denies a label
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipelines.errors import BadRowError, UnparsableError, UserError
from pipelines.tasks.base import Answer, Example, Options, Row, Shot, Task, optional_gold, text_field
from pipelines.tasks.parsing.answers import MAX_STATED_CHARACTERS, NEGATED, Statement, plain_text, read_answer

OPTIONS = ("labels", "instruction", "examples", "input_field")
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$|[*\"'”])")
_ABBREVIATION = re.compile(r"(?:\b(?:St|Mt|Ft|Dr|Mr|Mrs|Ms|Prof|vs)|\.\s?[A-Z])\Z")
_INITIALS = re.compile(r"\. ?[A-Z]\.")
_EDGES = " \t\r\n.,;:!?\"'“”()[]*_`"


class Classification(Task):
    """The answer is one of the run file's labels, or free text if the run file has none."""

    name = "classification"
    version = "2"
    parser = "2"

    def __init__(self, options: Options | None = None) -> None:
        options = options or {}
        unknown = [str(key) for key in options if key not in OPTIONS]
        if unknown:
            raise UserError(f"task_options.{unknown[0]}", "unknown option", f"Use one of {', '.join(OPTIONS)}.")
        self._labels = _labels(options.get("labels"))
        self._instruction = _text(options.get("instruction", ""), "instruction")
        self._input_field = _text(options.get("input_field", "input"), "input_field")
        if self._input_field in ("", "id", "gold"):
            rule = "must name a text field"
            raise UserError(f"task_options.input_field {self._input_field!r}", rule, "Name the field of the input.")
        examples = _list(options.get("examples"), "examples")
        self._shots = tuple(self._shot(i, example) for i, example in enumerate(examples))
        # A class variable in other tasks. Here the run file decides.
        self.required = (self._input_field,)  # type: ignore[misc]

    @property
    def labels(self) -> tuple[str, ...] | None:
        return self._labels

    @property
    def instruction(self) -> str:
        names = f" Labels: {', '.join(self._labels)}." if self._labels else ""
        return (self._instruction + names).strip()

    @property
    def shots(self) -> Sequence[Shot]:
        return self._shots

    def read(self, row: Row) -> Example:
        gold = optional_gold(row, self._labels or ())
        example = Example(str(row.get("id", "")), text_field(row, self._input_field), None)
        if gold is None:
            return example
        try:
            return Example(
                example.id, example.input, self._known(gold) if self._labels else self.normalise(gold, example)
            )
        except UnparsableError as error:
            raise BadRowError(f"the gold label: {error}") from error

    def parse(self, text: str, example: Example) -> Answer:
        label, rationale = read_answer(text, self._stated, negations=True)
        return Answer(label, rationale)

    def normalise(self, label: str, example: Example) -> str:
        if len(label) > MAX_STATED_CHARACTERS:
            raise UnparsableError(f"a label of {len(label):,} characters, the limit is {MAX_STATED_CHARACTERS:,}")
        return self._stated(Statement("", label, label))

    def key(self, label: str) -> str:
        return _comparable(label)

    def _stated(self, statement: Statement) -> str:
        """Read the label of a statement. Raises UnparsableError unless it names exactly one."""
        if not self._labels:
            free = plain_text(_first_sentence(statement.onwards)).strip(' \t\r\n*_"“”').removesuffix(".").rstrip()
            if statement.bare or not free:
                raise UnparsableError("no `answer is` in the text")
            return free
        stated = plain_text(statement.stated)
        try:
            return self._known(stated)
        except UnparsableError:
            if statement.bare:
                raise UnparsableError("no `answer is` in the text") from None
        named = _named(stated, self._labels)
        if len(named) != 1:
            raise UnparsableError(f"{stated[:60]!r} names {'several labels' if named else 'none of the labels'}")
        return named[0]

    def _known(self, text: str) -> str:
        """The label that equals the whole text, regardless of case."""
        key = _comparable(text)
        for label in self._labels or ():
            if _comparable(label) == key:
                return label
        raise UnparsableError(f"{text[:60]!r} is not one of {', '.join(self._labels or ())[:200]}")

    def _shot(self, position: int, example: object) -> Shot:
        key = f"examples[{position}]"
        fields = example if isinstance(example, Mapping) else {}
        if not {"input", "label"} <= set(fields) <= {"input", "rationale", "label"}:
            rule = "must have the keys input and label; rationale is optional"
            raise UserError(f"task_options.{key}", rule, "Write these keys only.")
        label = _text(fields["label"], f"{key}.label")
        if self._labels and label not in self._labels:
            rule = f"must be one of {', '.join(self._labels)}"
            raise UserError(f"task_options.{key}.label {label!r}", rule, "Use one of the labels.")
        rationale = _text(fields.get("rationale", ""), f"{key}.rationale")
        return Shot(_text(fields["input"], f"{key}.input"), self.render(Answer(label, rationale)).lstrip())


def _first_sentence(text: str) -> str:
    """The first line up to its first full stop that ends no abbreviation: `St. Louis. It is ...` -> `St. Louis`."""
    line = text.partition("\n")[0]
    for end in _SENTENCE_END.finditer(line):
        abbreviates = _ABBREVIATION.search(line, 0, end.start()) or _INITIALS.match(line, end.start())
        if end[0] != "." or not abbreviates:
            return line[: end.start()]
    return line


def _named(phrase: str, labels: Sequence[str]) -> list[str]:
    """Labels in a phrase that it does not deny. Longer labels match first, so that `not spam` does not also name `spam`."""
    rest, found = phrase.casefold(), []
    for label in sorted(labels, key=len, reverse=True):
        pattern = rf"(?P<negated>{NEGATED})?(?<!\w){re.escape(label.casefold())}(?!\w)"
        matches = list(re.finditer(pattern, rest))
        if any(match["negated"] is None for match in matches):
            found.append(label)
        if matches:
            rest = re.sub(pattern, " ", rest)
    return found


def _labels(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    labels = tuple(_text(label, f"labels[{i}]") for i, label in enumerate(_list(value, "labels")))
    if len(labels) < 2 or len({_comparable(label) for label in labels}) < len(labels) or not all(labels):
        rule = "must be two or more different labels"
        raise UserError(f"task_options.labels {list(labels)}", rule, "Correct the list, or remove it for free text.")
    return labels


def _list(value: object, name: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        rule = f"a {type(value).__name__}, must be a list"
        raise UserError(f"task_options.{name}", rule, "Write a YAML list.")
    return list(value)


def _text(value: object, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"task_options.{name}", f"{value!r} must be text", "Put it in quotes.")
    return str(value).strip()


def _comparable(text: str) -> str:
    folded = " ".join(text.casefold().split())
    return folded.strip(_EDGES) or folded
