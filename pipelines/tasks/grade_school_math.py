"""Grade-school math like GSM8K: problems of several steps. The label is a number.

    {"id": "g-7", "question": "Anne sells 48 apples in April and half as many in May. How many ...?", "label": "72"}
      -> input "Anne sells 48 apples ...", gold `72`

The gold label may also be GSM8K's own solution text, which ends in `#### 72`.

Versions:
    1              first
    2 (2026-11-24) reads `\\boxed{}` if no `answer is` is readable
    3 (2026-11-25) rejects `2**3` and numbers that are too long after evaluation
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.errors import BadRowError, UnparsableError
from pipelines.tasks.base import Answer, Example, Row, Shot, Task, optional_gold, text_field
from pipelines.tasks.parsing.answers import MAX_STATED_CHARACTERS, Statement, plain_text, read_answer
from pipelines.tasks.parsing.conclusions import ends_with_value, states_value
from pipelines.tasks.parsing.expressions import (
    ExpressionError,
    evaluate_expression,
    format_value,
    spell_signs,
    value_key,
)
from pipelines.tasks.parsing.giveaways import calculates_nothing

_SHOTS = (
    Shot(
        "Anne sells 48 apples in April and half as many in May. How many apples does she sell in April and May?",
        "In May Anne sells 48 / 2 = 24 apples. In April and May she sells 48 + 24 = 72 apples. The answer is 72.",
    ),
    Shot(
        "Peter buys 3 notebooks for $4 each and a pen for $2. He pays with $20. How many dollars does he get back?",
        "The notebooks cost 3 * 4 = 12 dollars. With the pen Peter pays 12 + 2 = 14 dollars. "
        "He gets back 20 - 14 = 6 dollars. The answer is 6.",
    ),
    Shot(
        "A train has 5 cars with 40 seats each. 30% of the seats are free. How many seats are taken?",
        "The train has 5 * 40 = 200 seats. 200 * 30 / 100 = 60 seats are free. 200 - 60 = 140 seats are taken. "
        "The answer is 140.",
    ),
    Shot(
        "Clara reads 12 pages a day. Her book has 180 pages and she has read for 10 days. "
        "How many days does she still need?",
        "Clara has read 12 * 10 = 120 pages. 180 - 120 = 60 pages are left. She needs 60 / 12 = 5 more days. "
        "The answer is 5.",
    ),
)

_EQUALS = re.compile(r"=|≈|\\approx")
_NUMBER = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
_WORKED = re.compile(rf"-?[( ]*-?(?:{_NUMBER})(?:[-+*/() ]+(?:{_NUMBER})\)*)*(?![0-9])")
_SECOND = re.compile(r"\s*(?:[A-Za-z%]+ )?(?:and|or)\b[^0-9]*[0-9]")


class GradeSchoolMath(Task):
    """Word problems of several steps. The answer is a number."""

    name = "grade-school-math"
    version = "3"
    required = ("question",)

    @property
    def shots(self) -> Sequence[Shot]:
        return _SHOTS

    def read(self, row: Row) -> Example:
        gold = optional_gold(row)
        if gold is not None:
            try:
                gold = _read_number(gold.rpartition("####")[2])
            except UnparsableError as error:
                raise BadRowError(f"the gold label {gold[:60]!r} is not a number") from error
        return Example(str(row.get("id", "")), text_field(row, "question"), gold)

    def parse(self, text: str, example: Example) -> Answer:
        label, rationale = read_answer(text, _stated_number)
        return Answer(label, rationale)

    def gives_away(self, answer: Answer, example: Example) -> bool:
        return calculates_nothing(answer.rationale, evaluate_expression(answer.label))

    def leads_to(self, rationale: str, label: str, example: Example) -> bool:
        return ends_with_value(rationale, self.key(label))

    def states(self, rationale: str, label: str, example: Example) -> bool:
        return states_value(rationale, self.key(label), example.input)

    def normalise(self, label: str, example: Example) -> str:
        return _read_number(label)

    def key(self, label: str) -> str:
        """Value rounded to 6 decimals: equal for `72` and `72.0`."""
        return value_key(evaluate_expression(label))

    def value(self, label: str) -> str:
        return format_value(evaluate_expression(label))


def _stated_number(statement: Statement) -> str:
    if statement.bare and _WORKED.fullmatch(spell_signs(plain_text(statement.stated)).strip(" .%")) is None:
        raise UnparsableError("no `answer is` in the text")
    return _read_number(statement.stated)


def _read_number(stated: str) -> str:
    """`$1,234.50 per year` -> `1234.5`, `7 + 5 = 12` -> `12`. Raises UnparsableError unless the text states one number."""
    if len(stated) > MAX_STATED_CHARACTERS:
        raise UnparsableError(f"a label of {len(stated):,} characters")
    text = _EQUALS.split(plain_text(spell_signs(plain_text(stated))))[-1]
    match = _WORKED.search(text)
    if match is None:
        raise UnparsableError(f"{stated[:60]!r} states no number")
    if _SECOND.match(text, match.end()):
        raise UnparsableError(f"{stated[:60]!r} names two numbers")
    try:
        label = format_value(evaluate_expression(match[0]))
        evaluate_expression(label)  # scoring reads the label again, which may exceed a limit that its expression kept
        return label
    except ExpressionError as error:
        raise UnparsableError(f"{stated[:60]!r} states no number: {error}") from error
