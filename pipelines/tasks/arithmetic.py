"""Arithmetic word problems like SVAMP. The label is an expression, scored by its value.

    {"id": "apples-17", "input": "Anne has 4 apples and gives Peter 2 and Thomas 1. How many apples has she left?",
     "label": "( ( 4.0 - 2.0 ) - 1.0 )"}
      -> gold `4 - 2 - 1`, value `1`

Versions:
    1              first
    2 (2026-11-24) reads `\\boxed{}` and a final true equation (`So Jake has 16 - 7 = 9 peaches.`) if no `answer is` is readable
    3 (2026-11-25) rejects `2**3`, `0x10` and expressions whose canonical text is too long; reads `.5` as 0.5
Parsers:
    2 (2026-11-30) reads headings, `<answer>`, `3 400`, `1 million`, `$1.234,56` and a single sentence with a true equation;
                   rejects powers, times, several numbers or equations, and words as numbers (`some - 18`, `half of 84`)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.errors import BadRowError, UnparsableError
from pipelines.tasks.base import Answer, Example, Row, Shot, optional_gold, text_field
from pipelines.tasks.number_task import NumberTask
from pipelines.tasks.parsing.answers import MAX_STATED_CHARACTERS, Statement, boxed, plain_text, read_answer
from pipelines.tasks.parsing.expressions import (
    ExpressionError,
    evaluate_expression,
    normalise_expression,
    spell_signs,
    value_key,
)
from pipelines.tasks.parsing.quantities import NEGATIVE, SPELLED, check_after, plain_numbers

_SHOTS = (
    Shot(
        "Anne has 4 apples and gives Peter 2 and Thomas 1. How many apples has she left?",
        "Anne starts with 4 apples. She gives away 2 and then 1. 4 - 2 - 1 = 1. The answer is (4 - 2 - 1).",
    ),
    Shot(
        "Ben has 7 red marbles and 5 blue marbles. How many marbles does he have?",
        "Ben has 7 red marbles and 5 blue marbles. 7 + 5 = 12. The answer is (7 + 5).",
    ),
    Shot(
        "A shelf holds 6 books. How many books do 3 such shelves hold?",
        "There are 3 shelves with 6 books each. 3 * 6 = 18. The answer is (3 * 6).",
    ),
    Shot(
        "Clara puts 20 eggs into 4 boxes, the same number into each. How many eggs are in each box?",
        "There are 20 eggs in 4 equal boxes. 20 / 4 = 5. The answer is (20 / 4).",
    ),
)

_EQUALS = re.compile(r"=|≈|\\approx")
_WRAPPED_EQUATION = re.compile(r"\s*\(([^()]*=[^()]*)\)[\s.]*")
_UNKNOWN = re.compile(r"(?<![A-Za-z])[xyzXYZ](?![A-Za-z])")
_ANOTHER_ANSWER = re.compile(r"\b(?:and|or)\s+\(?[0-9]|,\s*\(?[0-9]|[0-9)] ?[-+*/] ?[(0-9]")
_SEVERAL = re.compile(r"[0-9)]\s*,\s*[(0-9]")
_ARITHMETIC = re.compile(r"[-+*/().,%0-9 ]*[0-9][-+*/().,%0-9 ]*")
_WORDS = re.compile(r"[A-Za-z_'’²³]+")
_UNIT = re.compile(r"(?<=[A-Za-z])/[A-Za-z]+|(?<=[0-9A-Za-z]) ?\([A-Za-z_ ]+\)")  # `apples/box`, `700 (girls)`
# A word instead of an operand: `some - 18`, `54 - (some - 28)`, `5 + some`. A hyphen within a word is no sign.
_WORD_AS_OPERAND = re.compile(
    r"(?:\A|[+*/(])[\s(]*(?:[A-Za-z_]+\s+)+(?:[+*/]|-(?=\s))|(?:[+*/]|(?<=\s)-(?=\s))[\s(]*[A-Za-z_]+(?:\s+[A-Za-z_]+)*\s*(?:[-+*/)=]|\Z)"
)
_EDGES = re.compile(r"\A(?:[ ,:]|\.(?![0-9]))+|[ .,:]+\Z")  # `.5` keeps its point
_ENDS_WORKED = re.compile(r"[-+*/().0-9 ]*[0-9][-+*/().0-9 ]*\Z")
_RESULT = re.compile(r" *([0-9][0-9.,]*)")
_DIGIT = re.compile(r"[0-9=]")


class Arithmetic(NumberTask):
    """Arithmetic word problems; the answer is an expression."""

    name = "arithmetic"
    version = "3"
    parser = "2"
    required = ("input",)

    @property
    def shots(self) -> Sequence[Shot]:
        return _SHOTS

    def read(self, row: Row) -> Example:
        gold = optional_gold(row)
        if gold is not None:
            try:
                gold = normalise_expression(gold)
            except ExpressionError as error:
                raise BadRowError(f"the gold label {gold[:60]!r} is not an arithmetic expression: {error}") from error
        return Example(str(row.get("id", "")), text_field(row, "input"), gold)

    def parse(self, text: str, example: Example) -> Answer:
        label, rationale = read_answer(text, _stated_expression, conclusions=True)
        return Answer(label, rationale)

    def normalise(self, label: str, example: Example) -> str:
        # The whole label must be an expression: a number somewhere in a student's text is not an answer.
        return read_expression(label, bare=True)

    def render(self, answer: Answer) -> str:
        return f"{answer.rationale} The answer is ({answer.label}).".lstrip()


def _stated_expression(statement: Statement) -> str:
    if statement.concluding:
        if not statement.marked and statement.rationale.strip() != statement.onwards:
            raise UnparsableError("no `answer is` in the text")  # the last of several sentences may be a step
        return _concluded(statement.stated)
    return read_expression(statement.stated, bare=statement.bare)


def _concluded(clause: str) -> str:
    """Read a final clause with one true equation and no other number: `Jake has 16 - 7 = 9 peaches` -> `16 - 7`.

    Raises:
        UnparsableError: the clause has another form, which may be an intermediate step.
    """
    no_answer = UnparsableError("no `answer is` in the text")
    left, _, right = plain_text(spell_signs(plain_text(clause))).partition("=")
    worked, result = _ENDS_WORKED.search(left), _RESULT.match(right)
    if worked is None or result is None or _DIGIT.search(left[: worked.start()] + right[result.end() :]):
        raise no_answer
    try:
        expression = normalise_expression(worked[0])
        true = value_key(evaluate_expression(expression)) == value_key(evaluate_expression(result[1].rstrip(".,")))
    except ExpressionError:
        raise no_answer from None
    if not true or " " not in expression:
        raise no_answer
    return expression


def read_expression(stated: str, *, bare: bool = False) -> str:
    """Read the expression in a teacher's phrase, normalised: `\\(84 \\div 2 = 42\\) points` -> `84 / 2`.

    In an equation, the first side with an operation counts; without one, the first side.

    Args:
        bare: the phrase must contain nothing but the expression.

    Raises:
        UnparsableError: the phrase states no expression, several, or one without a value.
    """
    if len(stated) > MAX_STATED_CHARACTERS:
        raise UnparsableError(f"a label of {len(stated):,} characters")
    text = plain_text(spell_signs(plain_text(boxed(stated) or stated)))
    wrapped = _WRAPPED_EQUATION.fullmatch(text)
    text = wrapped[1] if wrapped else text
    if not bare:
        text = _plain(text)
    sides = [side for side in _EQUALS.split(text) if not _UNKNOWN.fullmatch(side.strip())]
    if not sides or any(_UNKNOWN.search(side) for side in sides):
        raise UnparsableError("no `answer is` in the text" if bare else f"{stated[:60]!r} holds an unknown")
    read = [_side(side, bare) for side in sides]
    found = [side for side in read if isinstance(side, str)]
    if len({value_key(evaluate_expression(side)) for side in found if " " in side}) > 1:
        raise UnparsableError(f"{stated[:60]!r} states several expressions")
    if bare and len(found) < len(read):
        raise UnparsableError("no `answer is` in the text")
    if not found:
        raise UnparsableError(f"{stated[:60]!r} states no expression: {read[0]}")
    return next((side for side in found if " " in side), found[0])


def _plain(text: str) -> str:
    """Numbers in other forms as plain ones (quantities.py). Powers and words are no part of the task's expressions."""
    if "^" in text or "**" in text:
        raise UnparsableError(f"{text.strip()[:60]!r} holds a power")
    text = _UNIT.sub(" ", plain_numbers(NEGATIVE.sub("-", text)))
    if SPELLED.search(text) or _WORD_AS_OPERAND.search(text):
        raise UnparsableError(f"{text.strip()[:60]!r} holds a number in words, or an unknown")
    return text


def _side(text: str, bare: bool) -> str | ExpressionError:
    """Read one side of an equation. Units may stand between or after the numbers. Raises UnparsableError for two answers."""
    try:
        return normalise_expression(_EDGES.sub("", text if bare else _WORDS.sub(" ", text)))
    except ExpressionError as error:
        reason = error
    match = _ARITHMETIC.search(text)
    if match is None:
        return ExpressionError("it has no number")
    if bare:
        return reason
    try:
        check_after(text[match.end() :], text)
    except UnparsableError as error:
        if _ANOTHER_ANSWER.search(text, match.end()):
            raise
        return ExpressionError(str(error))
    if _SEVERAL.search(match[0]):
        raise UnparsableError(f"{text.strip()[:60]!r} names two numbers")
    try:
        return normalise_expression(match[0].rstrip(" .,-+*/("))
    except ExpressionError:
        return reason
