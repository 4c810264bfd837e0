"""Find the answer in a teacher's text, for the parsers of all tasks.

In: raw text, `Anne starts with 4 apples. 4 - 1 = 3. The answer is (4 - 1).\\n\\nQ: There are 15 trees ...`
Out: the stated answer, `(4 - 1)`, and the rationale before it, `Anne starts with 4 apples. 4 - 1 = 3.`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pipelines.errors import UnparsableError

MAX_STATED_CHARACTERS = 2_000
"""Characters after `answer is` that a parser reads."""
MAX_STATEMENTS = 20
MAX_CONCLUSION_CHARACTERS = 400
MAX_TEXT_CHARACTERS = 100_000
"""Characters of a teacher's text that a parser reads. Every allowed answer is shorter."""

# After its answer a base model writes another question, a chat model its next turn. Patterns that begin with a literal are cheap:
# the regex engine skips to it.
_RUN_ON = tuple(
    re.compile(pattern)
    for pattern in (
        r"\n[ \t]*(?:Q|Question|Input)[ \t]*[0-9]{0,3}[ \t]*:",
        r"(?<=[.)])[ \t]+Q:[ \t]",
        r"<\|[a-z_]{2,20}\|>",
        r"</s>",
        r"\n### ?Instruction",
    )
)
_STATEMENT = re.compile(
    r"\banswer(?:[ \t]to[ \t][^.:\n]{1,80}?)?(?:[ \t]{1,3}is\b|[*_ \t]{0,4}[:=])[*_ \t]{0,4}:?|####", re.IGNORECASE
)
# Beginning of a statement. Searched only before each word `answer`, so that the rest of the text costs nothing.
_OPENING = re.compile(
    r"(?:\b(?P<conclusion>so|thus|hence|therefore|finally)\b,?[ \t]{0,3})?(?:\bthe[ \t]{1,3})?"
    r"(?:\b(?:final|correct|right|best|closest|only|most likely)[ \t]{1,3})?\Z",
    re.IGNORECASE,
)
_OPENING_CHARACTERS = 40
_CONCLUSION = re.compile(r"\b(?:so|thus|hence|therefore)\b,?[ \t]", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed[ \t]*\{")
# A box that never closes was truncated, perhaps in the middle of its number.
_CUT_OFF = re.compile(r"\\boxed[ \t]*\{[^{}]*\Z")
_NEGATION = re.compile(r"not\b", re.IGNORECASE)
_OPENERS = re.compile(r"(?:[\s:*_`]|\\\[|\\\(|\$\$)*")
_SENTENCE_END = re.compile(r"\n|[.!?;](?=\s|$|[*\"'”])")
_FINISHED = re.compile(r"[.!?](?=\s)|\n")
_SENTENCE_ENDS = re.compile(r"[.!?:](?=\s)|\n")

_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf|operatorname)\s*\{([^{}]*)\}")
# Two asterisks between numbers are a power, which no task reads, not bold type.
_DECORATION = re.compile(r"\\boxed|\\[()\[\]]|[${}`]|(?<![0-9)])\*\*|\*\*(?![0-9(])|\\(?=%)|€|£|\\quad")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Statement:
    """A place in the text that may state the answer."""

    rationale: str
    """Sentences before the statement."""
    stated: str
    """Text after `answer is`, to the end of the sentence."""
    onwards: str
    """Text after `answer is`, beyond the sentence: MAX_STATED_CHARACTERS at most."""
    bare: bool = False
    """The text has no `answer is`. It is a single line, which may be the answer itself."""
    concluding: bool = False
    """The text has no `answer is`. This is its last sentence from `so` on: the answer, or an intermediate step."""


def read_answer(
    text: str, read: Callable[[Statement], Result], *, negations: bool = False, conclusions: bool = False
) -> tuple[Result, str]:
    """Read the first readable statement. Returns (result of `read`, rationale).

    The first one counts: small models repeat themselves and then drift to other problems. If no `answer is` is readable, the last
    `\\boxed{}` counts. In a text without either, a single line may be the answer itself.

    Args:
        text: the teacher's text.
        read: raises UnparsableError for an unreadable statement.
        negations: also read `The answer is not ...`.
        conclusions: also read a last sentence like `So Jake has 16 - 7 = 9 peaches.` (Statement.concluding).

    Raises:
        UnparsableError: no statement is readable; with the reason of the first one.
    """
    reasons = []
    for statement in _statements(first_answer(text), conclusions):
        if not negations and _NEGATION.match(statement.stated):
            continue
        try:
            return read(statement), statement.rationale
        except UnparsableError as error:
            reasons.append(error)
    raise reasons[0] if reasons else UnparsableError("no `answer is` in the text")


def first_answer(text: str) -> str:
    """The text up to the next question or chat turn."""
    text = text[:MAX_TEXT_CHARACTERS].strip()
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    if "\\boxed" in text:
        text = _CUT_OFF.sub("", text)
    end = len(text)
    for pattern in _RUN_ON:
        match = pattern.search(text, 1, end)
        end = match.start() if match else end
    return text[:end].rstrip() if end < len(text) else text


def finished_sentences(text: str) -> str:
    """The text up to its last sentence end or line end. Of a text that the token limit cut, the rest may lack its end."""
    ends = [match.end() for match in _FINISHED.finditer(text)]
    return text[: ends[-1]] if ends else ""


def plain_text(text: str) -> str:
    """Remove LaTeX, Markdown and currency signs. `\\frac{1}{2}` becomes `((1) / (2))`."""
    if "\\" in text:
        text = _TEXT_COMMAND.sub(r" \1 ", _FRACTION.sub(r"((\1) / (\2))", text))
    return _DECORATION.sub("", text)


def _statements(text: str, conclusions: bool) -> Iterator[Statement]:
    """Yield statements in order of precedence: each `answer is`, the last box, a single line, the last sentence."""
    found = False
    for start, end, is_clause in _places(text):
        statement = _statement(text, start, end, is_clause)
        if statement.stated:
            found = True
            yield statement
    for match in list(_BOXED.finditer(text))[-1:] if "\\boxed" in text else ():
        found = True
        yield _statement(text, match.start(), match.start(), False)
    if found or not text:
        return
    if "\n" not in text:
        yield Statement("", text, text, bare=True)
    conclusion = _conclusion(text) if conclusions else None
    if conclusion is not None:
        yield conclusion


def _places(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, begins with `so`) of the first MAX_STATEMENTS `answer is`, `Answer:` and `####`, and of the last one."""
    lower = text.lower()
    if len(lower) != len(text):  # a few capitals have two lower-case characters
        lower = "".join(c.lower() if c.isascii() else c for c in text)
    word, sign = lower.find("answer"), lower.find("####")
    found = done = 0
    while found < MAX_STATEMENTS and (word >= 0 or sign >= 0):
        at = sign if word < 0 or 0 <= sign < word else word
        match = _STATEMENT.match(text, at)
        if match is not None:
            opening = _OPENING.search(text, max(done, at - _OPENING_CHARACTERS), at) if at == word else None
            yield opening.start() if opening else at, match.end(), bool(opening and opening["conclusion"])
            found, done = found + 1, match.end()
        onwards = max(at + 1, done)
        word = lower.find("answer", onwards) if 0 <= word < onwards else word
        sign = lower.find("####", onwards) if 0 <= sign < onwards else sign
    # The last one counts too, so that a text with a proper end is readable after any number of others.
    last = _STATEMENT.match(text, max(word, lower.rfind("answer"))) if word >= 0 else None
    if last is not None:
        yield last.start(), last.end(), False


def _conclusion(text: str) -> Statement | None:
    """The last sentence from its last `so` on. None if the text does not end with a full stop: it may be truncated."""
    tail = text[-MAX_CONCLUSION_CHARACTERS:]
    if not tail.endswith((".", "!")):
        return None
    ends = [match.end() for match in _SENTENCE_ENDS.finditer(tail[:-1])]
    sentence = tail[ends[-1] if ends else 0 :]
    starts = [match.end() for match in _CONCLUSION.finditer(sentence)]
    if not starts:
        return None
    clause = sentence[starts[-1] :].strip()
    return Statement(text, clause.rstrip(".!"), clause, concluding=True)


def _statement(text: str, start: int, end: int, is_clause: bool) -> Statement:
    opener = _OPENERS.match(text, end)
    begin = opener.end() if opener else end
    onwards = text[begin : begin + MAX_STATED_CHARACTERS]
    stop = _SENTENCE_END.search(onwards)
    return Statement(
        _rationale(text[:start], is_clause), (onwards[: stop.start()] if stop else onwards).strip(), onwards
    )


def _rationale(before: str, is_clause: bool) -> str:
    """Sentences before a statement.

    Keeps the clause of `4 - 1 = 3, so the answer is`. Drops the empty clause of `Of the choices, the answer is`, unless it is all
    there is.
    """
    before = before.rstrip(" \t*_")
    if not is_clause and before and before[-1] not in ".!?:\n)]":
        ends = [m.end() for m in _SENTENCE_ENDS.finditer(before)]
        before = before[: ends[-1]] if ends and before[: ends[-1]].strip() else before
    return before.rstrip().removesuffix("\\[").removesuffix("\\(").rstrip(" \t\n,;*_#-")
