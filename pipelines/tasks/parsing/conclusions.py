"""Check that a rationale arrives at a label, by its text: without a gold label and without a model.

    numbers   the last computation has the label's value, as its stated result or as the value of its expression:
                "He had 7 boxes. 7 * 5 = 35. 35 - 4 = 31."  with 31, or with 7 * 5 - 4    -> arrives
                "He had 7 boxes. 7 * 5 = 35."               with 31                       -> does not arrive
                "37 - 18 = 21." with 37 - 18, or with 21                                  -> arrives, despite the slip
    words     the last sentence contains all words of the label, in any inflection, except function words:
                "Of the above choices, a binder makes the most sense."  with `in a binder`  -> arrives

This checks form only. It does not check that a step follows from the previous one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.tasks.parsing.answers import MAX_TEXT_CHARACTERS, plain_text
from pipelines.tasks.parsing.expressions import (
    MAX_CHARACTERS,
    ExpressionError,
    evaluate_expression,
    spell_signs,
    value_key,
)
from pipelines.tasks.parsing.giveaways import word_stems

_SENTENCE_ENDS = re.compile(r"[.!?](?=\s)|\n")
_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_NUMBERS = re.compile(_NUMBER)
_OPERAND = rf"(?:\( ?){{0,9}}-?{_NUMBER}%?(?: ?\)){{0,9}}"
_WORKED = re.compile(rf"(?<![A-Za-z0-9.])-?{_OPERAND}(?: ?[-+*/] ?{_OPERAND})*")
_UNITS = re.compile(r"(?<=[0-9)%])(?: [^\W\d_]{1,20}){1,3}(?= ?[-+*/=])")
_SIGN_BETWEEN = re.compile(r"[0-9)%] ?[-+*/]")
_EQUALS = ("=", "≈")


def last_sentence(text: str) -> str:
    """Last non-empty sentence or line, without its final punctuation mark."""
    parts = [part.strip() for part in _SENTENCE_ENDS.split(text[:MAX_TEXT_CHARACTERS])]
    return next((part for part in reversed(parts) if part), "")


def names(text: str, label: str) -> bool:
    """True if the text contains the label verbatim, or all its words except function words, in any inflection."""
    folded_text, folded_label = (" ".join(t.casefold().split()) for t in (text, label))
    if re.search(r"(?<!\w)" + re.escape(folded_label) + r"(?!\w)", folded_text):
        return True
    stems = word_stems(folded_label)
    return bool(stems) and not any(c.isdecimal() for c in folded_label) and stems <= word_stems(folded_text)


def ends_with_value(rationale: str, key: str) -> bool:
    """True if the last computation has the value with this key (expressions.value_key)."""
    computed = list(_computations(rationale))
    return bool(computed) and key in computed[-1]


def states_value(rationale: str, key: str, given: str) -> bool:
    """True if the rationale computes the value anywhere, or contains it as a number that the `given` text lacks."""
    if any(key in keys for keys in _computations(rationale)):
        return True
    return key in _numbers(rationale) - _numbers(given)


def _computations(text: str) -> Iterator[set[str]]:
    """Yield for each computation the keys of its value and of the results after its equals signs."""
    text = _plain(text)
    keys: set[str] = set()
    for match in _WORKED.finditer(text):
        is_result = text[max(0, match.start() - 3) : match.start()].rstrip().endswith(_EQUALS)
        if not is_result and not _SIGN_BETWEEN.search(match[0]):
            continue
        if keys and not is_result:
            yield keys
            keys = set()
        keys |= _keys(match[0])
    if keys:
        yield keys


def _keys(worked: str) -> set[str]:
    """Key of an expression's value, ignoring unmatched parentheses. Empty if it has no value."""
    if len(worked) > MAX_CHARACTERS:
        return set()
    for _ in range(worked.count("(") - worked.count(")")):
        worked = worked.replace("(", "", 1)
    for _ in range(worked.count(")") - worked.count("(")):
        worked = "".join(worked.rpartition(")")[::2])
    try:
        return {value_key(evaluate_expression(worked))}
    except ExpressionError:
        return set()


def _numbers(text: str) -> set[str]:
    return set().union(*(_keys(number) for number in _NUMBERS.findall(_plain(text))))


def _plain(text: str) -> str:
    """Remove LaTeX, units and repeated spaces: `20 marbles \\times $5 = 100` -> `20 * 5 = 100`."""
    spelled = plain_text(spell_signs(plain_text(text[:MAX_TEXT_CHARACTERS])))
    return _UNITS.sub("", re.sub(r"[ \t]+", " ", spelled))
