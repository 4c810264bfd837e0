"""Where a teacher's text states its answer: shared by the tasks' parsers.

In: raw text, `Anne starts with 4 apples. 4 - 1 = 3. The answer is (4 - 1).\\n\\nQ: There are 15 trees ...`
Out: what it states, `(4 - 1)`, and the rationale before it, `Anne starts with 4 apples. 4 - 1 = 3.`
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipelines.errors import UnparsableError

MAX_STATED_CHARACTERS = 2_000
"""How much of the text after `answer is` is looked at."""
MAX_STATEMENTS = 20
MAX_TEXT_CHARACTERS = 100_000
"""How much of a teacher's text is looked at. Longer than any answer that a teacher is allowed to give."""

# A base model goes on with a question of its own making, a chat model with its next turn.
_RUN_ON = re.compile(
    r"(?:^|\n)[ \t]*(?:Q|Question|Input)[ \t]*[0-9]{0,3}[ \t]*:|(?<=[.)])[ \t]+Q:[ \t]"
    r"|<\|[a-z_]{2,20}\|>|</s>|\n### ?Instruction"
)
_STATEMENT = re.compile(
    r"(?:\b(?P<conclusion>so|thus|hence|therefore|finally)\b,?[ \t]{0,3})?(?:\bthe[ \t]{1,3})?"
    r"(?:\b(?:final|correct|right|best|closest|only|most likely)[ \t]{1,3})?"
    r"\banswer(?:[ \t]to[ \t][^.:\n]{1,80}?)?(?:[ \t]{1,3}is\b|[*_ \t]{0,4}[:=])[*_ \t]{0,4}:?|####",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed[ \t]*\{")
# A box that never closes was cut off, perhaps in the middle of its number.
_CUT_OFF = re.compile(r"\\boxed[ \t]*\{[^{}]*\Z")
_NEGATION = re.compile(r"not\b", re.IGNORECASE)
_OPENERS = re.compile(r"(?:[\s:*_`]|\\\[|\\\(|\$\$)*")
_SENTENCE_END = re.compile(r"\n|[.!?;](?=\s|$|[*\"'”])")
_SENTENCE_ENDS = re.compile(r"[.!?:](?=\s)|\n")

_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf|operatorname)\s*\{([^{}]*)\}")
_DECORATION = re.compile(r"\\boxed|\\[()\[\]]|[${}`]|\*\*|\\(?=%)|€|£|\\quad")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Statement:
    """One place where the text says what the answer is."""

    rationale: str
    """The sentences before it."""
    stated: str
    """What follows `answer is`, to the end of its sentence."""
    onwards: str
    """What follows `answer is`, beyond its sentence."""
    bare: bool = False
    """The text says no `answer is`: it is one line that may be the answer alone."""


def read_answer(text: str, read: Callable[[Statement], Result], *, negations: bool = False) -> tuple[Result, str]:
    """The first statement that `read` understands, with its rationale. `The answer is not ...` counts with `negations`.

    The first, because small models repeat themselves and then drift to other problems. A text without any statement
    that is one line is taken for the answer alone.

    Raises:
        UnparsableError: there is no statement, or `read` understands none; the first one's reason.
    """
    text = first_answer(text)
    found = [s for s in _statements(text) if negations or not _NEGATION.match(s.stated)]
    if not found:
        raise UnparsableError("no `answer is` in the text")
    reasons = []
    for statement in found:
        try:
            return read(statement), statement.rationale
        except UnparsableError as error:
            reasons.append(error)
    raise reasons[0]


def first_answer(text: str) -> str:
    """The text up to where it runs on into the next question."""
    text = _CUT_OFF.sub("", text[:MAX_TEXT_CHARACTERS].replace("\r\n", "\n").strip())
    for match in _RUN_ON.finditer(text):
        if match.start() > 0:
            return text[: match.start()].rstrip()
    return text


def plain_text(text: str) -> str:
    """Without LaTeX, Markdown and currency signs; `\\frac{1}{2}` becomes `((1) / (2))`."""
    text = _FRACTION.sub(r"((\1) / (\2))", text)
    return _DECORATION.sub("", _TEXT_COMMAND.sub(r" \1 ", text))


def _statements(text: str) -> list[Statement]:
    """All statements in order; `\\boxed{}` counts where no `answer is` does, a single line where neither does."""
    matches = itertools.islice(_STATEMENT.finditer(text), MAX_STATEMENTS)
    found = [_statement(text, m.start(), m.end(), bool(m["conclusion"])) for m in matches]
    if not any(s.stated for s in found):
        found = [_statement(text, m.start(), m.start(), False) for m in list(_BOXED.finditer(text))[-1:]]
    if not found and text and "\n" not in text:
        found = [Statement("", text, text, bare=True)]
    return [s for s in found if s.stated]


def _statement(text: str, start: int, end: int, is_clause: bool) -> Statement:
    opener = _OPENERS.match(text, end)
    begin = opener.end() if opener else end
    onwards = text[begin : begin + MAX_STATED_CHARACTERS]
    stop = _SENTENCE_END.search(onwards)
    return Statement(
        _rationale(text[:start], is_clause), (onwards[: stop.start()] if stop else onwards).strip(), onwards
    )


def _rationale(before: str, is_clause: bool) -> str:
    """The sentences before a statement.

    `4 - 1 = 3, so the answer is` ends with a clause that says something. `Of the choices, the answer is` does not: it
    goes, unless nothing else is left.
    """
    before = before.rstrip(" \t*_")
    if not is_clause and before and before[-1] not in ".!?:\n)]":
        ends = [m.end() for m in _SENTENCE_ENDS.finditer(before)]
        before = before[: ends[-1]] if ends and before[: ends[-1]].strip() else before
    return before.removesuffix("\\[").removesuffix("\\(").rstrip(" \t\n,;*_#-")
