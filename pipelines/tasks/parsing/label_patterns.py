"""Closed label sets: the form of an answer as a regular expression, and where in an answer the label stands.

The person could be training his horse, but need not. The answer is neutral.
|-------------------- rationale --------------------| |---- statement -----|
                                                                    ^ label place: `entailment` could stand there instead
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_WORDS = 40
"""Between one word `answer` and the next; a rationale may hold two such words."""

# No line ends: they end a plain prompt's answer. None of `:`, `#`, `<`, `\`: with these a text runs on into another question or
# states an answer in a form of its own (`Q:`, `####`, `<|im_end|>`, `\boxed{}`), and the parser would not reach the statement.
_NONE_OF = r" \x00-\x1f\x7f:#<\\"

_STATES = re.compile(r"\banswer\b[^.\n]{0,100}?(?:\bis\b|[:=])|####", re.IGNORECASE)


@dataclass(frozen=True)
class LabelPlace:
    """Where a text states its label, and what could have stood there for each label of the closed set."""

    start: int
    """Offset in characters."""
    label: str
    """What it states: one of the labels in `spellings`."""
    spellings: tuple[tuple[str, str], ...]
    """(what would stand there, label): (`c`, `basket`), or (`neutral`, `neutral`). A label may have several spellings."""


def answer_pattern(statements: Sequence[str]) -> str:
    """A regular expression for a rationale of at most 3 x MAX_WORDS words or so, then `answer is` and one of the statements.

    `answer is` stands nowhere else: otherwise a statement could pass for a part of the rationale, and a model that has answered could
    go on. It is written so that Python's `re` and the engines' grammar compilers read it alike, and so that xgrammar has little to do
    at each token: 20 us, against 170 us where 600 characters are counted and 20 ms where a word is a choice between two forms.
    """
    word = _other_than("answer")
    words = f"{word}(?: {word}){{0,{MAX_WORDS - 1}}}"
    mention = f"answer {_other_than('is')} {words} "
    alternatives = "|".join(re.sub(r"[\\.^$*+?{}\[\]|()]", r"\\\g<0>", statement) for statement in statements)
    return f" ?{words} (?:{mention}(?:{mention})?)?answer is (?:{alternatives})"


def statement_region(text: str, rationale: str) -> tuple[int, int] | None:
    """(begin, end) of the line in which an answer states its label: after its rationale and after `answer is`, where it says that.

    None where the rationale is not found in the text as it stands.
    """
    begin = text.find(rationale)
    if begin < 0:
        return None
    begin += len(rationale)
    states = _STATES.search(text, begin)
    if states:
        begin = states.end()
    begin += len(text[begin:]) - len(text[begin:].lstrip())
    end = text.find("\n", begin)
    return begin, len(text) if end < 0 else end


def place_of_text(text: str, region: tuple[int, int], label: str, labels: Iterable[str]) -> LabelPlace | None:
    """The first place in the region where the label's own text stands, in any case. None where it does not."""
    found = re.compile(r"(?<!\w)" + re.escape(label) + r"(?!\w)", re.IGNORECASE).search(text, *region)
    return LabelPlace(found.start(), label, tuple((other, other) for other in labels)) if found else None


def _other_than(word: str) -> str:
    """A regular expression for all words but this one, without look-ahead, which grammar compilers do not have."""
    rest = f"[^{_NONE_OF}]+"
    for letter in reversed(word[1:]):
        rest = f"(?:[^{_NONE_OF}{letter}][^{_NONE_OF}]*|{letter}{rest})?"
    return f"(?:[^{_NONE_OF}{word[0]}][^{_NONE_OF}]*|{word[0]}{rest})"
