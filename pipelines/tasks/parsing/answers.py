"""Find the answer in a teacher's text, for the parsers of all tasks.

In: raw text, `Anne starts with 4 apples. 4 - 1 = 3. The answer is (4 - 1).\\n\\nQ: There are 15 trees ...`
Out: the stated answer, `(4 - 1)`, and the rationale before it, `Anne starts with 4 apples. 4 - 1 = 3.`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
    r"answer(?:[ \t]to[ \t][^.:\n]{1,80}?)?"
    r"(?:[ \t]{1,3}(?:is\b|equals\b|(?:would|will)[ \t]{1,3}be\b|(?:comes|works|turns)[ \t]out[ \t]to(?:[ \t]be)?\b)"
    r"|[*_\"' \t]{0,5}[:=])[*_ \t]{0,4}:?|(?<=<)answer>|####"
    r"|(?:option|choice)[ \t]{1,3}is\b[*_ \t]{0,4}:?|(?:option|choice)[*_ \t]{0,4}:|ans[.:][ \t]{0,3}:?",
    re.IGNORECASE,
)
_CANDIDATE = re.compile(
    r"\banswer\b|####|\b(?:option|choice)(?=[*_ \t]{0,4}(?::|is\b))|^ans(?=[.:])", re.IGNORECASE | re.MULTILINE
)
_CHOSEN = ("correct", "right", "best", "final")
"""An option or a choice counts only with one of these before it."""
# `**Final Answer**` or `### Answer` on a line of its own: the next line states it.
_HEADING = re.compile(r"answer[*_ \t]{0,4}(?=\n)", re.IGNORECASE)
_HEADING_OPENING = re.compile(
    r"(?:\A|\n)[#>*_ \t]{0,8}(?:(?:the|my|final|short|correct)[ \t]{1,3}){0,3}\Z", re.IGNORECASE
)
_CORRECTION = re.compile(
    r"\b(?:wait|correction|actually|mistake|my error|re-?(?:check|evaluat|calculat|consider|examin)\w*|"
    r"let me (?:re|correct|double|fix|try)|sorry|apologi[sz]e)\b",
    re.IGNORECASE,
)
_VERB = re.compile(r"answer\s*[:=].*", re.IGNORECASE)
_CLOSING = re.compile(
    r"(?:I hope|Hope (?:this|that)|Let me know|Feel free|Please (?:let|feel)|If you (?:have|need)|Would you like|Is there anything)\b",
    re.IGNORECASE,
)
_LEAST_WORDS = 3
_END_DECORATION = re.compile(r"[\s*_`\u2600-\u27bf\ufe0f\U0001f300-\U0001faff]+\Z")  # also emoji
_PAIRS = (("\\[", "\\]"), ("\\(", "\\)"))
_BOLD_LINE = re.compile(r"(?:\A|\n)[ \t]*\*\*([^*\n]{1,200})\*\*[ \t.]*\Z")
# Beginning of a statement. Searched only before each word `answer`, so that the rest of the text costs nothing.
_OPENING = re.compile(
    r"(?:\b(?P<conclusion>so|thus|hence|therefore|finally)\b,?[ \t]{0,3})?(?:\bthe[ \t]{1,3})?"
    r"(?:\b(?:final|correct|right|best|closest|only|most likely)[ \t]{1,3})?\Z",
    re.IGNORECASE,
)
_OPENING_CHARACTERS = 40
_CONCLUSION = re.compile(r"\b(?:so|thus|hence|therefore)\b,?[ \t]", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed[ \t]*\{")
_BOX = re.compile(r"\\boxed[ \t]*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
# A box that never closes was truncated, perhaps in the middle of its number.
_CUT_OFF = re.compile(r"\\boxed[ \t]*\{[^{}]*\Z")
_NEGATION = re.compile(r"not\b", re.IGNORECASE)
NEGATED = (
    r"(?:\b(?:not|no|never|neither|nor|cannot|hardly|anything but)|n['’]t)\s+(?:be\s+)?(?:an?\s+|the\s+)?"
    r"(?:\w+ly\s+|(?:clear|direct|strict|logical)\s+)?|\bnon-"
)
"""Pattern of what stands directly before a label that a phrase denies: `not a clear`, `isn't`. Case does not matter."""
_OPENERS = re.compile(r"(?:[\s:*_`]|\\\[|\\\(|\$\$)*")
_SENTENCE_END = re.compile(r"\n|[.!?;](?=\s|$|[*\"'”])(?! ?=)")
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
    """The text has no `answer is`. This is its last sentence: the answer, or an intermediate step."""
    start: int = 0
    """Offset of the statement in the text."""
    doubted: bool = False
    """The sentence is a question: `Is the answer 5? No.`"""
    marked: bool = False
    """With `concluding`: the sentence has `so`, and only what follows it is here."""


def read_answer(
    text: str, read: Callable[[Statement], Result], *, negations: bool = False, conclusions: bool = False
) -> tuple[Result, str]:
    """Read the first readable statement. Returns (result of `read`, rationale).

    The first one counts: small models repeat themselves and then drift to other problems. A text that corrects its answer (`Wait, ...
    The answer is 5.`) has none. If no `answer is` is readable, the last
    `\\boxed{}` counts. In a text without either, a single line may be the answer itself.

    Args:
        text: the teacher's text.
        read: raises UnparsableError for an unreadable statement.
        negations: also read `The answer is not ...`.
        conclusions: also read the last sentence (Statement.concluding), first from its `so` on, then whole.

    Raises:
        UnparsableError: no statement is readable; with the reason of the first one.
    """
    reasons = []
    text = first_answer(text)
    statements = _statements(text, conclusions)
    for statement in statements:
        if not negations and _NEGATION.match(statement.stated):
            continue
        if statement.doubted and statement.onwards[len(statement.stated) + 1 :].strip():
            continue
        try:
            found = read(statement)
        except UnparsableError as error:
            reasons.append(error)
            continue
        if not statement.concluding and _CORRECTION.search(text, statement.start):
            _check_corrections(text, found, statement, statements, read)
        return found, statement.rationale
    raise reasons[0] if reasons else UnparsableError("no `answer is` in the text")


def _check_corrections(
    text: str, found: Result, first: Statement, later: Iterator[Statement], read: Callable[[Statement], Result]
) -> None:
    """Raise UnparsableError if a later statement, after words of correction, states something else."""
    for statement in later:
        if statement.bare or statement.concluding or not _CORRECTION.search(text, first.start, statement.start):
            continue
        try:
            other = read(statement)
        except UnparsableError:
            continue
        if other != found:
            raise UnparsableError(f"the text corrects its answer {first.stated[:40]!r} to {statement.stated[:40]!r}")


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
    """The text up to its last sentence end or line end, and dots, so that its last sentence is no conclusion.

    For a text that the token limit has cut.
    """
    ends = [match.end() for match in _FINISHED.finditer(text)]
    return f"{text[: ends[-1]]}\n..." if ends else ""


def boxed(text: str) -> str | None:
    """Content of the first `\\boxed{...}`. None if the text has none that closes."""
    found = _BOX.search(text)
    return found[1] if found else None


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
        whole = _statement(text, match.start(), match.start(), False)
        content = boxed(whole.onwards)
        yield whole if content is None else replace(whole, stated=content, onwards=content)
    if found or not text:
        return
    if "\n" not in text:
        yield Statement("", text, text, bare=True)
    elif bold := _BOLD_LINE.search(text):
        yield Statement(text[: bold.start()].rstrip(), bold[1], bold[1], bare=True)
    if conclusions:
        yield from _conclusions(text)


def _places(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, begins with `so`) of the first MAX_STATEMENTS statements, such as `answer is` or `####`, and of the last one."""
    found = done = 0
    last: re.Match[str] | None = None
    for candidate in _CANDIDATE.finditer(text):
        at = candidate.start()
        if at < done:
            continue
        opening = _OPENING.search(text, max(done, at - _OPENING_CHARACTERS), at)
        match = _statement_at(text, at, opening)
        if match is None:
            continue
        if found == MAX_STATEMENTS:
            last = match
            continue
        found, done = found + 1, match.end()
        yield opening.start() if opening else at, match.end(), bool(opening and opening["conclusion"])
    # The last one counts too, so that a text with a proper end is readable after any number of others.
    if last is not None:
        yield last.start(), last.end(), False


def _statement_at(text: str, at: int, opening: re.Match[str] | None) -> re.Match[str] | None:
    match = _STATEMENT.match(text, at)
    if match is None:
        heading = _HEADING.match(text, at)
        is_heading = heading and _HEADING_OPENING.search(text, max(0, at - _OPENING_CHARACTERS), at)
        return heading if is_heading else None
    if text[max(0, at - 3) : at].lower() == "to " and _VERB.fullmatch(match[0]):
        return None  # a verb: `not enough to answer: 3 numbers`
    if text[at] in "oOcC" and not (opening and any(word in opening[0].lower() for word in _CHOSEN)):
        return None
    return match


def _conclusions(text: str) -> Iterator[Statement]:
    """The last sentence from its last `so` on, then the whole of it. None if the text does not end with a full stop: it may be cut."""
    tail = text[-MAX_CONCLUSION_CHARACTERS:]
    while True:
        tail = _END_DECORATION.sub("", tail)
        if not tail.endswith((".", "!", ".\\]", ".$", ".)")) or tail.endswith("..."):
            return
        ends = [match.end() for match in _SENTENCE_ENDS.finditer(tail[:-1])]
        begin = ends[-1] if ends else 0
        sentence = tail[begin:].strip()
        if not _CLOSING.match(sentence) or not begin:
            break
        tail = tail[:begin]
    # The number of a list item, or a formula, that is cut.
    if len(sentence.split()) < _LEAST_WORDS or any(
        sentence.count(opens) > sentence.count(closes) for opens, closes in _PAIRS
    ):
        return
    starts = [match.end() for match in _CONCLUSION.finditer(sentence)]
    if starts:
        clause = sentence[starts[-1] :].strip()
        yield Statement(text, clause.rstrip(".!"), clause, concluding=True, marked=True)
    yield Statement(text, sentence.rstrip(".!"), sentence, concluding=True)


def _statement(text: str, start: int, end: int, is_clause: bool) -> Statement:
    opener = _OPENERS.match(text, end)
    begin = opener.end() if opener else end
    onwards = text[begin : begin + MAX_STATED_CHARACTERS].partition("</answer>")[0]
    stop = _SENTENCE_END.search(onwards)
    return Statement(
        _rationale(text[:start], is_clause),
        (onwards[: stop.start()] if stop else onwards).strip(),
        onwards,
        start=start,
        doubted=stop is not None and stop[0] == "?",
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
