"""Closed label sets: regular expression of an answer, and position of the label in an answer.

The person could be training his horse, but need not. The answer is neutral.
|-------------------- rationale --------------------| |---- statement -----|
                                                                    ^ label place: `entailment` could stand there instead
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_WORDS = 40
"""Longest run of words up to the word `answer`, which a rationale may hold twice."""

# Excludes line ends, which end a plain prompt's answer, and `:`, `#`, `<`, `\`. With these a text starts another question or states
# an answer in another form (`Q:`, `####`, `<|im_end|>`, `\boxed{}`), and the parser would not reach the statement.
_NONE_OF = r" \x00-\x1f\x7f:#<\\"

_STATES = re.compile(r"\banswer\b[^.\n]{0,100}?(?:\bis\b|[:=])|####", re.IGNORECASE)


@dataclass(frozen=True)
class LabelPlace:
    """Position of the label in a text, and the spelling of each label of the closed set at that position."""

    start: int
    """Offset in characters."""
    label: str
    """The label in the text: one of the labels in `spellings`."""
    spellings: tuple[tuple[str, str], ...]
    """(spelling, label): (`c`, `basket`), or (`neutral`, `neutral`). A label may have several spellings."""


def answer_pattern(statements: Sequence[str]) -> str:
    """Regular expression of a rationale of at most about 3 x MAX_WORDS words, then `answer is` and one of the statements.

    The rationale never contains `answer is`: a model cannot write a second answer after its first one. Python's `re` and the engines'
    grammar compilers read the pattern alike. It costs xgrammar 20 us per token. A count of 600 characters costs 170 us, a choice
    between two forms of a word 20 ms.
    """
    word = _other_than("answer")
    words = f"{word}(?: {word}){{0,{MAX_WORDS - 1}}}"
    mention = f"answer {_other_than('is')} {words} "
    alternatives = "|".join(re.sub(r"[\\.^$*+?{}\[\]|()]", r"\\\g<0>", statement) for statement in statements)
    return f" ?{words} (?:{mention}(?:{mention})?)?answer is (?:{alternatives})"


def statement_region(text: str, rationale: str) -> tuple[int, int] | None:
    """(begin, end) of the line that states the label: after the rationale and after `answer is`, if the text has it.

    None if the text does not contain the rationale verbatim.
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
    """First position of the label's text in the region, regardless of case. None if the region lacks it."""
    found = re.compile(r"(?<!\w)" + re.escape(label) + r"(?!\w)", re.IGNORECASE).search(text, *region)
    return LabelPlace(found.start(), label, tuple((other, other) for other in labels)) if found else None


def _other_than(word: str) -> str:
    """Regular expression of every word except this one. Without look-ahead, which grammar compilers lack."""
    rest = f"[^{_NONE_OF}]+"
    for letter in reversed(word[1:]):
        rest = f"(?:[^{_NONE_OF}{letter}][^{_NONE_OF}]*|{letter}{rest})?"
    return f"(?:[^{_NONE_OF}{word[0]}][^{_NONE_OF}]*|{word[0]}{rest})"
