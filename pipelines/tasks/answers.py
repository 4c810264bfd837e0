"""Where a teacher's text states its answer: shared by the tasks' parsers.

In: raw text, `Anne starts with 4. 4 - 1 = 3. The answer is (4 - 1).\\n\\nQ: There are 15 trees ...`
Out: statements, each the text before it (the rationale) and what it states, `(4 - 1).`
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipelines.errors import UnparsableError

MAX_STATED_CHARACTERS = 600
"""How much of the text after `answer is` is looked at."""

# A base model goes on with a question of its own making, a chat model with its next turn.
_RUN_ON = re.compile(
    r"(?:^|\n)[ \t]*(?:Q|Question|Input)[ \t]*[0-9]{0,3}[ \t]*:|(?<=[.)])[ \t]+Q:[ \t]|<\|[a-z_]{2,20}\|>|</s>|\n### ?Instruction"
)
_STATEMENT = re.compile(
    r"(?:\b(?:so|thus|hence|therefore|finally)\b,?[ \t]{0,3})?(?:\bthe[ \t]{1,3})?"
    r"(?:\b(?:final|correct|right|best|only|most likely)[ \t]{1,3})?"
    r"\banswer(?:[ \t]to[ \t][^.:\n]{1,80}?)?(?:[ \t]{1,3}is\b(?!\s+not\b)|[*_ \t]{0,4}[:=])[*_ \t]{0,4}:?|####",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed[ \t]*\{")
_OPENERS = re.compile(r"(?:[\s:*_`]|\\\[|\\\(|\$\$)*")
_SENTENCE_END = re.compile(r"\n|[.!?;](?=\s|$|[*\"'”])")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Statement:
    """One place where the text says what the answer is."""

    before: str
    """The rationale: everything before the statement, stripped."""
    stated: str
    """What follows `answer is`, to the end of its sentence."""


def first_answer(text: str) -> str:
    """The text up to where it runs on into the next question."""
    text = text.replace("\r\n", "\n").strip()
    for match in _RUN_ON.finditer(text):
        if match.start() > 0:
            return text[: match.start()].rstrip()
    return text


def statements(text: str) -> list[Statement]:
    """All statements of a text without run-on, in order; a `\\boxed{}` counts where no `answer is` does."""
    found = [Statement(_rationale(text[: m.start()]), _sentence(text, m.end())) for m in _STATEMENT.finditer(text)]
    if not any(s.stated for s in found):
        found = [Statement(_rationale(text[: m.start()]), _sentence(text, m.start())) for m in _BOXED.finditer(text)][-1:]
    return [s for s in found if s.stated]


def read_answer(text: str, read: Callable[[str], Result]) -> tuple[Result, str]:
    """The first statement that `read` understands, with its rationale.

    The first, because small models repeat themselves and then drift to other problems.

    Raises:
        UnparsableError: there is no statement, or `read` understands none; the first one's reason.
    """
    found = statements(first_answer(text))
    if not found:
        raise UnparsableError("no `answer is` in the text")
    reason: UnparsableError | None = None
    for statement in found:
        try:
            return read(statement.stated), statement.before
        except UnparsableError as error:
            reason = reason or error
    assert reason is not None
    raise reason


def _sentence(text: str, start: int) -> str:
    opener = _OPENERS.match(text, start)
    begin = opener.end() if opener else start
    stated = text[begin : begin + MAX_STATED_CHARACTERS]
    end = _SENTENCE_END.search(stated)
    return (stated[: end.start()] if end else stated).strip()


def _rationale(text: str) -> str:
    """Without the marks that opened the statement: `... = 3. **` or `... = 3. \\[`."""
    return re.sub(r"(?:\s|\*\*|__|\\\[|\\\(|[-#]{2,})+\Z", "", text)
