"""Check if a rationale reveals its label: it states the label without a reason, so a student learns nothing else from it.

    words            no word remains after removal of the label's words, function words, stock phrases (`the answer must be`, `of
                     the above choices`, `makes the most sense`) and kinds of answer (`a place`, `a person`):
                       "The premise entails the hypothesis." with label entailment             -> revealed
                       "Apples are fruit, so who eats apples eats fruit." with entailment      -> kept
    multiple choice  as above, after removal of the words of question and choices too; repeating the question gives no reason:
                       "The answer must be something that children do in a hurry. Of the above choices, only run is something that
                       children do in a hurry." to "What do children in a hurry do?"           -> revealed
                       "A bridge keeps the rain off, so a bum can sleep there." to "Where does the bum live?"
                                                                                               -> keeps, rain, sleep: kept
    arithmetic       it has neither an operation on numbers nor a number other than the final value:
                       "Faye has 30 crayons." with label 30                                    -> revealed
                       "Faye has 7 rows." with label 30, or "7 * 30 = 210" with label 7 * 30   -> kept

This filter checks form only, not truth or relevance. It compares words without their endings. Two words are equal if one begins with
the other (MIN_STEM letters or more): `mathematical` and `math`. The word lists are English. In other languages only the words of label
and question are removed, so more rationales are kept.

Check the counts before you rely on it: two thirds of PaLM 540B's few-shot rationales for CommonsenseQA only repeat the question.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction

MIN_STEM = 4

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_ENDING = re.compile(r"(?<=..)(?:ings?|i?edly|i?ed|i?es|i?ers?|i?est|i?ly|['’]s|s|e|y)\Z")
_DOUBLED = re.compile(r"(?<=.)([^aeiou\W])\1\Z")  # getting -> gett -> get
_FUNCTION_WORDS = """
    a an the this that these those it its it's he him his she her hers they them their theirs we us our you your i me my who whom whose
    which what where when why how there here am is isn't are aren't was were be been being do does doesn't did don't done have has had
    having can cannot can't could will won't would should shall may might must not no nor and or but if then else than so as at by for
    from in into of off on onto out over to too up down with without within about after before
    during also such any all both each either neither every
    other others another some same very most more much many lot lots just only because since therefore thus hence while though although
    let's let that's there's what's one ones
    """
_STOCK_WORDS = """
    answer choice option above following given correct right best closest most likely something someone somewhere anything thing question
    statement sentence scenario context case situation example make makes sense seem fit mean describe refer relate relevant appropriate
    suitable suited logical logically possible possibly reasonable reasonably conclude conclusion premise hypothesis text input label say
    says know use used known called happen
    """
_KINDS_OF_ANSWER = (
    "place location person people kind type sort way action activity word adjective noun item object event"
)
_DIGITS = r"[0-9][0-9,]*(?:\.[0-9]+)?"
_NUMBER = re.compile(_DIGITS)
_MAX_DIGITS = 1000  # more than the value of any label has; reading digits takes quadratic time
_NEARLY = Fraction(1, 10**6)
_OPERATION = re.compile(
    r"[0-9)}%](?:[ \t]+[^\W\d_]+){0,3}[ \t]*"
    r"(?:[-+*/×÷·−–^]|\\(?:times|div|cdot)\b|\b(?:x|times|plus|minus|over|divided by|multiplied by)\b)"
    r"[ \t]*[$({]*[ \t]*[0-9]|\\[dt]?frac",
    re.IGNORECASE,
)
_SPELLED = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
            "twelve": 12, "dozen": 12, "half": 0.5, "twice": 2, "double": 2, "triple": 3}  # fmt: skip


def says_only(rationale: str, *known_texts: str) -> bool:
    """Rule for labels that are words.

    Args:
        known_texts: the label, and texts whose words give no reason, such as the question.
    """
    return not informative_words(rationale, *known_texts)


def informative_words(rationale: str, *known_texts: str) -> set[str]:
    """Stems of a rationale except those of the known texts, function words, stock phrases and kinds of answer."""
    remaining = _stems(rationale) - _UNINFORMATIVE
    known: set[str] = set().union(*map(_stems, known_texts))
    remaining -= known
    if not remaining:
        return remaining
    prefixes = {stem[:end] for stem in known for end in range(MIN_STEM, len(stem))}
    return {stem for stem in remaining - prefixes if not any(stem[:end] in known for end in range(MIN_STEM, len(stem)))}


def word_stems(text: str) -> set[str]:
    """Stems of a text's words, without function words."""
    return _stems(text) - _FUNCTION_STEMS


def calculates_nothing(rationale: str, value: Fraction) -> bool:
    """Rule for labels that are numbers or expressions.

    Args:
        value: of the label.
    """
    if _OPERATION.search(rationale):
        return False
    numbers = [Fraction(digits.replace(",", "")[:_MAX_DIGITS]) for digits in _NUMBER.findall(rationale)]
    numbers += [Fraction(_SPELLED[word]) for word in _WORD.findall(rationale.casefold()) if word in _SPELLED]
    return all(abs(number - value) < _NEARLY for number in numbers)


@functools.lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    return _DOUBLED.sub(r"\1", _ENDING.sub("", word))


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in _WORD.findall(text.casefold())}


_FUNCTION_STEMS = _stems(_FUNCTION_WORDS)
_UNINFORMATIVE = _stems(_FUNCTION_WORDS + _STOCK_WORDS + _KINDS_OF_ANSWER)
