"""Multiple choice like CommonsenseQA. The label is the text of the right choice.

    {"id": "q-3", "question": "Where does Anne keep her apples?", "choices": ["basket", "river", "cloud"],
     "label": "basket"}
      -> input "Where does Anne keep her apples?\\n(a) basket\\n(b) river\\n(c) cloud", gold `basket`

The gold label may be the letter instead, or with `task_options: {gold: index}` the position, counted from 0, as in MMLU. Choices with
the same text are the same answer.

Versions:
    1              first
    2 (2026-11-24) reads `\\boxed{}` and a final letter with its text (`so they were looking at (a) skeleton.`) if no `answer is`
                   is readable
Parsers:
    2 (2026-11-30) rejects an answer that names several choices (unless `task_options: {several: first}`) and a letter with another text;
                   reads headings, `<answer>`, `The correct option is (b)`, `Option (b) is correct`, `B because ...`, misspelt choices
                   and choices with LaTeX or currency
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipelines.errors import BadRowError, UnparsableError, UserError
from pipelines.tasks.base import (
    MAX_FIELD_CHARACTERS,
    Answer,
    Example,
    Options,
    Row,
    Shot,
    Task,
    optional_gold,
    text_field,
)
from pipelines.tasks.parsing.answers import MAX_STATED_CHARACTERS, Statement, read_answer
from pipelines.tasks.parsing.choices import LETTERED, NAMED, comparable, stated_choice, with_letter, with_text
from pipelines.tasks.parsing.giveaways import says_only
from pipelines.tasks.parsing.label_patterns import LabelPlace, answer_pattern, place_of_text, statement_region

MAX_CHOICES = 26
_OPTIONS = {"several": ("reject", "first"), "gold": ("choice", "index")}
"""Their values, the default first."""


def _shot(question: str, choices: Sequence[str], answer: str) -> Shot:
    return Shot(_input(question, choices), answer)


def _input(question: str, choices: Sequence[str]) -> str:
    return "\n".join([question, *(f"({_letter(i)}) {text}" for i, text in enumerate(choices))])


def _letter(index: int) -> str:
    return chr(ord("a") + index)


_SHOTS = (
    _shot(
        "Where does Anne put her apples so that she can carry them home?",
        ("cloud", "river", "basket", "tree", "plate"),
        "The answer must be something in which apples can be carried. Of the above choices, only a basket is made to "
        "carry things. So the answer is (c) basket.",
    ),
    _shot(
        "Peter is thirsty after a long run. What will he do first?",
        ("drink water", "read a book", "paint a wall", "sell his shoes", "sleep in"),
        "The answer must be something that helps against thirst. Of the above choices, only drinking water does. "
        "So the answer is (a) drink water.",
    ),
    _shot(
        "What do people use to see in a dark cellar?",
        ("spoon", "lamp", "blanket", "radio", "hammer"),
        "The answer must be something that gives light. Of the above choices, only a lamp gives light. "
        "So the answer is (b) lamp.",
    ),
    _shot(
        "Clara wants to borrow a novel without paying for it. Where will she go?",
        ("bookshop", "cinema", "bank", "library", "bakery"),
        "The answer must be a place that lends books. Of the above choices, only a library lends books for free. "
        "So the answer is (d) library.",
    ),
)


class MultipleChoice(Task):
    """Multiple choice. The answer is one of the row's choices."""

    name = "multiple-choice"
    version = "2"
    parser = "2"
    required = ("question", "choices")
    lists = ("choices",)

    def __init__(self, options: Options | None = None) -> None:
        options = options or {}
        unknown = [str(key) for key in options if key not in _OPTIONS]
        if unknown:
            raise UserError(f"task_options.{unknown[0]}", "unknown option", f"Use {' or '.join(_OPTIONS)}.")
        chosen = {key: options.get(key, values[0]) for key, values in _OPTIONS.items()}
        for key, value in chosen.items():
            if value not in _OPTIONS[key]:
                raise UserError(
                    f"task_options.{key} {value!r}", f"must be {' or '.join(_OPTIONS[key])}", "Set one of these."
                )
        self._keeps_first = chosen["several"] == "first"
        self._gold_is_index = chosen["gold"] == "index"

    @property
    def shots(self) -> Sequence[Shot]:
        return _SHOTS

    def read(self, row: Row) -> Example:
        choices = _choices(row.get("choices"))
        text = _input(text_field(row, "question"), choices)
        if len(text) > MAX_FIELD_CHARACTERS:
            raise BadRowError(f"question and choices: {len(text):,} characters, the limit is {MAX_FIELD_CHARACTERS:,}")
        example = Example(str(row.get("id", "")), text, None, choices)
        gold = optional_gold(row, choices)
        if gold is None:
            return example
        if self._gold_is_index:
            return Example(example.id, text, _at_index(gold, choices), choices)
        try:
            return Example(example.id, text, self.normalise(gold, example), choices)
        except UnparsableError as error:
            raise BadRowError(f"the gold label {gold[:60]!r} is not one of the {len(choices)} choices") from error

    def parse(self, text: str, example: Example) -> Answer:
        (label, note), rationale = read_answer(
            text, lambda s: self._stated(s, example.choices), negations=True, conclusions=True
        )
        return Answer(label, rationale, note)

    def _stated(self, statement: Statement, choices: Sequence[str]) -> tuple[str, str]:
        label, note = stated_choice(statement, choices)
        if note and not self._keeps_first:
            raise UnparsableError(f"several choices are named, first {label[:60]!r}")
        return label, note

    def gives_away(self, answer: Answer, example: Example) -> bool:
        return says_only(answer.rationale, answer.label, example.input)

    def sample(self) -> dict[str, object]:
        shot = self.shots[0].question
        return {"question": shot.partition("\n")[0], "choices": [*self.shot_example(shot).choices]}

    def shot_example(self, question: str) -> Example:
        lines = question.split("\n")
        lettered = [line for i, line in enumerate(lines[-MAX_CHOICES:]) if line.startswith("(")]
        choices = tuple(line[len("(a) ") :] for i, line in enumerate(lettered) if line.startswith(f"({_letter(i)}) "))
        if not 2 <= len(choices) == len(lettered) < len(lines):
            raise BadRowError("its last lines must be the choices: `(a) cloud`, `(b) river` and so on")
        return Example("shot", question, None, choices)

    def normalise(self, label: str, example: Example) -> str:
        """The choice with this text, else the choice with this letter (`c`, `(C)`, `(c) basket`)."""
        by_text = with_text(label, example.choices)
        if by_text is not None:
            return by_text
        letter = LETTERED.match(label.strip()) or NAMED.fullmatch(label.strip())
        if letter is None or len(label) > MAX_STATED_CHARACTERS:
            raise UnparsableError(f"{label[:60]!r} is not one of the choices")
        return with_letter(letter[1], example.choices)

    def key(self, label: str) -> str:
        return comparable(label)

    @property
    def is_closed(self) -> bool:
        return True

    def label_set(self, example: Example) -> tuple[str, ...]:
        first: dict[str, str] = {}
        for choice in example.choices:
            first.setdefault(comparable(choice), choice)
        return tuple(first.values())

    def answer_pattern(self, example: Example) -> str:
        """States only the letter: rows with equally many choices share one pattern, which the engine compiles once."""
        return answer_pattern([f"({_letter(i)})." for i in range(len(example.choices))])

    def label_place(self, text: str, example: Example) -> LabelPlace | None:
        """Position of the letter, or of the choice's text if the answer has no letter."""
        answer = self.parse(text, example)
        region = statement_region(text, answer.rationale)
        if region is None:
            return None
        labels = {comparable(label): label for label in self.label_set(example)}
        letters = {_letter(i): labels[comparable(choice)] for i, choice in enumerate(example.choices)}
        expected = labels[comparable(answer.label)]
        named = [*LETTERED.finditer(text, *region), *filter(None, [NAMED.match(text, *region)])]
        for match in named:
            if letters.get(match[1].lower()) == expected:
                return LabelPlace(match.start(1), expected, tuple(letters.items()))
        return place_of_text(text, region, expected, labels.values())

    def render(self, answer: Answer) -> str:
        return f"{answer.rationale} So the answer is {answer.label}.".lstrip()

    def shown(self, answer: Answer, example: Example) -> str:
        letter = _letter(example.choices.index(answer.label))
        return self.render(replace(answer, label=f"({letter}) {answer.label}"))


def _at_index(gold: str, choices: Sequence[str]) -> str:
    known = {str(index): choice for index, choice in enumerate(choices)}
    index = gold.removesuffix(".0")
    if index not in known:
        raise BadRowError(f"the gold label {gold[:60]!r} must be the index of a choice, 0 to {len(choices) - 1}")
    return known[index]


def _choices(value: object) -> tuple[str, ...]:
    """Choices of a row: a list, or a JSON list as text (CSV has no lists)."""
    if isinstance(value, str):
        if len(value) > MAX_FIELD_CHARACTERS:
            raise BadRowError(f"field `choices` has {len(value):,} characters, the limit is {MAX_FIELD_CHARACTERS:,}")
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRowError("field `choices` is text, but not a JSON list") from error
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        kind = "missing or null" if value is None else f"a {type(value).__name__}"
        raise BadRowError(f"field `choices` is {kind}, must be a list")
    if not 2 <= len(value) <= MAX_CHOICES:
        raise BadRowError(f"field `choices` has {len(value)} entries, 2 to {MAX_CHOICES} are allowed")
    return tuple(" ".join(text_field({"choices": choice}, "choices").split()) for choice in value)
