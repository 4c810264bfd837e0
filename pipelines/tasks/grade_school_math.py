"""Grade-school math like GSM8K: problems of several steps. The label is a number.

    {"id": "g-7", "question": "Anne sells 48 apples in April and half as many in May. How many ...?", "label": "72"}
      -> input "Anne sells 48 apples ...", gold `72`

The gold label may also be GSM8K's own solution text, which ends in `#### 72`.

Versions:
    1              first
    2 (2026-11-24) reads `\\boxed{}` if no `answer is` is readable
    3 (2026-11-25) rejects `2**3` and numbers that are too long after evaluation
Parsers:
    2 (2026-11-30) reads sentences (`The bill is $36.`), headings, `<answer>`, `<1200>`, `3 400`, `10^3`, `1 million`, `$1.234,56`, `2 1/2`;
                   rejects times, several numbers, ranges, dozens, unknowns, cents for dollars and numbers that may not be the answer
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.errors import BadRowError, UnparsableError
from pipelines.tasks.base import Answer, Example, Row, Shot, optional_gold, text_field
from pipelines.tasks.number_task import NumberTask
from pipelines.tasks.parsing.answers import Statement, plain_text, read_answer
from pipelines.tasks.parsing.expressions import spell_signs
from pipelines.tasks.parsing.quantities import read_quantity

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

# A last sentence with one of these describes a step, not the result.
_STEP = re.compile(
    r"\b(?:we (?:need|can|must|should|have to)|multiply|divide|subtract|let's|let us|calculate|if we|assum\w+|remember|note that)\b|"
    r"\bsuppose\b|\?|\A(?:[-*•]|[0-9]+[.)])\s",
    re.IGNORECASE,
)
_REFUSES = re.compile(
    r"\b(?:(?:(?:not|n['’]t) (?:\w+ )?(?:enough|sufficient)|insufficient) information|(?:cannot|can't|impossible to) (?:be )?determine)",
    re.IGNORECASE,
)
_BARE = re.compile(r"[-+*/(). 0-9,$€£%=<>]*[0-9][-+*/(). 0-9,$€£%=<>]*")


class GradeSchoolMath(NumberTask):
    """Word problems of several steps. The answer is a number."""

    name = "grade-school-math"
    version = "3"
    parser = "2"
    required = ("question",)

    @property
    def shots(self) -> Sequence[Shot]:
        return _SHOTS

    def read(self, row: Row) -> Example:
        gold = optional_gold(row)
        if gold is not None:
            try:
                gold = read_quantity(gold.rpartition("####")[2])
            except UnparsableError as error:
                raise BadRowError(f"the gold label {gold[:60]!r} is not a number") from error
        return Example(str(row.get("id", "")), text_field(row, "question"), gold)

    def parse(self, text: str, example: Example) -> Answer:
        label, rationale = read_answer(text, lambda s: _stated_number(s, example.input), conclusions=True)
        return Answer(label, rationale)

    def normalise(self, label: str, example: Example) -> str:
        return read_quantity(label)


def _stated_number(statement: Statement, question: str) -> str:
    stated = statement.stated
    if statement.concluding:
        if (not statement.marked and _STEP.search(stated)) or _REFUSES.search(statement.rationale):
            raise UnparsableError("no `answer is` in the text")
        return read_quantity(stated, question, sentence=True)
    if statement.bare and _BARE.fullmatch(spell_signs(plain_text(stated)).strip()) is None:
        raise UnparsableError("no `answer is` in the text")
    return read_quantity(stated, question)
