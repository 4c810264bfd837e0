"""Which of a row's choices a statement names: by letter, by text, or both.

(c) basket   C   option c   c) basket   basket   to put them into a basket      are read
(a) or (c)   (c) river   basket or river   not (c)                              are refused, or noted as several
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence

from pipelines.errors import UnparsableError
from pipelines.tasks.parsing.answers import Statement, plain_text
from pipelines.tasks.parsing.giveaways import word_stems

_MAX_TEXT_CHARACTERS = 100_000

SEVERAL = "several choices named: the first counts"
"""Note of an answer that `task_options: {several: first}` accepts."""

LETTERED = re.compile(r"(?<!\w)\(\s*([A-Za-z])\s*\)[\s:]*")
NAMED = re.compile(
    r"(?:(?:option|choice|letter|answer)\s+\(?)?([A-Za-z])"
    r"(?:\s*[).:,\"*]|\s*\Z|\s+[-–]\s|\s+(?=(?:because|since)\b))[\s:]*",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"'“‘\[<]([A-Za-z])[\"'”’\]>][\s:.]*")
_WITH_WORD = re.compile(r"\b(?:option|choice|letter)\s+([A-Za-z])\b[).:,]?[\s:]*", re.IGNORECASE)
# `(a) soccer or b) hockey`, `(a) / (b)`: letters after the first. `(b), not (a)` names one.
_FURTHER = re.compile(
    r"(?<!\w)(not |rather than |instead of |than |over )?\(\s*([A-Za-z])\s*\)|"
    r"(?:\bor\b|\band\b|,|/|&)\s*([A-Za-z])\s*(?:\)|[.,]?\s*\Z)",
    re.IGNORECASE,
)
_REJECTED = re.compile(r"[,;]? (?:and )?(?:not|rather than|instead of) [^.\n]*", re.IGNORECASE)
# `Therefore, option (b) is correct`, `(b) river is the best answer`
_IS_CORRECT = re.compile(
    r"(?<!\w)(?:(?:option|choice|answer)\s+\(?([A-Za-z])\)?|\(\s*([A-Za-z])\s*\))(?!\w)([^.,;]{0,80}?)\s+"
    r"(?:is|seems|would be)\s+(?:therefore |clearly )?(?:the\s+)?(?:most \w+\s+)?(?:correct|right|best|answer)\b",
    re.IGNORECASE,
)
_CONNECTS = re.compile(r"[\s\"'”*_)]*(?:,\s*)?(?:(?:or|and|/|&)\s|,\s)", re.IGNORECASE)
_REASON = re.compile(r"\b(?:since|because|as|while|whereas)\b", re.IGNORECASE)
_ARTICLE = re.compile(r"\A(?:an?|the) ")
_LIKE = 0.8
"""Similarity of a misspelt choice: `skyscraper` for `skyscaper`."""
_QUOTES = " \"'“”‘’*_`"


def stated_choice(statement: Statement, choices: Sequence[str]) -> tuple[str, str]:
    """Read the choice of a statement. Returns (choice, note). The note is SEVERAL if further choices are named.

    Raises:
        UnparsableError: the statement names no choice, a letter that the row lacks, or a letter and the text of something else.
    """
    plain = [plain_text(choice) for choice in choices]
    if plain != [*choices] and len(set(map(comparable, plain))) == len(set(map(comparable, choices))) and all(plain):
        # The statement is read without `$`, braces and so on, so its choices are too: `(b) $2,000`.
        exact = None if statement.concluding else with_text(statement.stated, choices)
        if exact is not None:
            return exact, ""
        label, note = _stated_choice(dataclasses.replace(statement, stated=plain_text(statement.stated)), plain)
        return choices[plain.index(label)], note
    return _stated_choice(statement, choices)


def _stated_choice(statement: Statement, choices: Sequence[str]) -> tuple[str, str]:
    onwards = plain_text(statement.onwards).strip()
    if statement.concluding:
        return _concluded(onwards, choices, statement.marked), ""
    either = onwards[:7].lower() == "either "
    onwards = onwards[len("either ") :].lstrip() if either else onwards
    # The exact text of a choice. `(c) basket` is a letter and a text unless a choice itself begins with a parenthesis.
    if not onwards.startswith("(") or any(choice.startswith("(") for choice in choices):
        exact = with_text(statement.stated, choices)
        if exact is not None:
            return exact, ""
    if onwards[:4].lower() == "not ":
        negative = _starting_with(onwards, choices)
        if negative is None:
            raise UnparsableError(f"{statement.stated[:60]!r} only negates a choice")
        return negative, ""
    letter = _find_letter(onwards, bare=statement.bare)
    if letter is None and statement.bare:
        letter = _bare_letter(onwards, choices)
    if letter is None and statement.bare:
        raise UnparsableError("no `answer is` in the text")
    if letter is None:
        text = _starting_with(onwards, choices)
        if text is not None:
            return text, SEVERAL if either or _continues(onwards, text, choices) else ""
        stated = statement.stated
        text = _only_one_in(stated, choices) or _only_one_in(_REJECTED.sub("", stated), choices)
        if text is None:
            raise UnparsableError(f"{statement.stated[:60]!r} is not one of the choices")
        return text, ""
    label = with_letter(letter[1], choices)
    first = _starting_with(onwards, choices) if letter.start() else None
    if first is not None and comparable(first) != comparable(label):
        raise UnparsableError(f"{statement.stated[:60]!r}: choice ({letter[1].lower()}) is {label[:60]!r}")
    whole = onwards[letter.end() :]
    rest = _REJECTED.sub("", whole)
    if either or _further_letters(rest, letter[1]):
        return label, SEVERAL
    if not _agrees(rest, label, choices) and not _agrees(whole, label, choices):
        raise UnparsableError(f"{statement.stated[:60]!r}: choice ({letter[1].lower()}) is {label[:60]!r}")
    return label, SEVERAL if _continues(rest, label, choices) else ""


def _concluded(clause: str, choices: Sequence[str], marked: bool) -> str:
    """Read a final clause with one letter and its text: `so they were looking at (a) skeleton`, or `option (a) is correct`.

    Args:
        marked: the clause follows `so`. Other sentences must say `is correct`.

    Raises:
        UnparsableError: the clause has another form.
    """
    letters = list(LETTERED.finditer(clause))
    if marked and len(letters) == 1 and ord(letters[0][1].lower()) - ord("a") < len(choices):
        label, rest = with_letter(letters[0][1], choices), clause[letters[0].end() :]
        if rest.strip(_QUOTES + ".!") and _agrees(rest, label, choices):
            return label
    correct = list(_IS_CORRECT.finditer(clause))
    if len(correct) == 1 and len({letter[1].lower() for letter in letters}) <= 1:
        found = correct[0]
        label = with_letter(found[1] or found[2], choices)
        if _agrees(found[3], label, choices):
            return label
    raise UnparsableError("no `answer is` in the text")


def _bare_letter(text: str, choices: Sequence[str]) -> re.Match[str] | None:
    """Match of the letter in a line that is one letter and its text: `b) river`."""
    found = NAMED.match(text)
    named = with_text(text[found.end() :], choices) if found else None
    return found if found and named is not None and named == with_letter(found[1], choices) else None


def _find_letter(onwards: str, *, bare: bool) -> re.Match[str] | None:
    """Find `(c)`, `c` or `C.` at the start, else `option c` or `(c)` later in the sentence."""
    found = (
        LETTERED.match(onwards)
        or _QUOTED.match(onwards)
        or (NAMED.fullmatch(onwards) if bare else NAMED.match(onwards))
    )
    if found is not None or bare:
        return found
    sentence = onwards.split("\n")[0]
    return _WITH_WORD.search(sentence) or LETTERED.search(sentence)


def with_letter(letter: str, choices: Sequence[str]) -> str:
    """The choice with this letter. Raises UnparsableError if the row has none."""
    # With IGNORECASE, `[a-z]` also matches the Turkish dotted I and the Kelvin sign.
    index = ord(letter.lower()) - ord("a") if letter.isascii() else len(choices)
    if index >= len(choices):
        raise UnparsableError(f"the row has no choice ({letter.lower()})")
    return choices[index]


def with_text(text: str, choices: Sequence[str]) -> str | None:
    """The choice that is this text, regardless of case, outer quotes and final punctuation."""
    key = comparable(text) if len(text) <= _MAX_TEXT_CHARACTERS else ""
    return next((choice for choice in choices if key and comparable(choice) == key), None)


def _starting_with(onwards: str, choices: Sequence[str]) -> str | None:
    """The longest choice at the start of the text. Choices may contain full stops, so the text is not cut at one."""
    text = comparable(onwards)
    fitting = [c for c in choices if re.match(re.escape(comparable(c)) + r"(?!\w)", text)]
    return max(fitting, key=len) if fitting else None


def _only_one_in(stated: str, choices: Sequence[str]) -> str | None:
    """The only choice that a sentence contains: `to put them into a basket`. None if it contains several."""
    text = comparable(stated)
    named = {comparable(c): c for c in choices if re.search(r"(?<!\w)" + re.escape(comparable(c)) + r"(?!\w)", text)}
    # `sea shore` does not also name `sea`.
    outer = [c for key, c in named.items() if not any(key != other and key in other for other in named)]
    return outer[0] if len(outer) == 1 else None


def _further_letters(rest: str, letter: str) -> bool:
    """True if the sentence after a letter names other letters: `(a) soccer or (b) hockey`."""
    sentence = _REASON.split(rest.split("\n")[0].split(". ")[0])[0]
    found = [match[2] or match[3] for match in _FURTHER.finditer(sentence) if not match[1]]
    return any(other.lower() != letter.lower() for other in found)


def _continues(text: str, label: str, choices: Sequence[str]) -> bool:
    """True if the text goes from this choice to another one: `ocean or sea`."""
    sentence = text.split("\n")[0]
    found = re.search(re.escape(label), sentence, re.IGNORECASE)
    connected = _CONNECTS.match(sentence, found.end()) if found else None
    if connected is None:
        return False
    further = comparable(sentence[connected.end() :].split(". ")[0])
    others = [key for key in map(comparable, choices) if key != comparable(label)]
    return any(
        re.match(r"(?:(?:or |and )?(?:an? |the |\([a-z]\) ))?" + re.escape(key) + r"(?!\w)", further) for key in others
    )


def _agrees(rest: str, label: str, choices: Sequence[str]) -> bool:
    """True if the text after a letter is empty, or the choice, or nearly so: `skyscraper` for `skyscaper`, `jury` for `on jury`.

    False if the text is another choice, or nearer to another one. Choices may contain full stops.
    """
    sentence = rest.split("\n")[0]
    stop = re.search(r"[.!?;](?=\s|\Z)", sentence)
    text, key = comparable(sentence[: stop.start()] if stop else sentence), comparable(label)
    named = _starting_with(sentence, choices)
    if not text.strip("()[]{}$\\ ") or named is not None:
        return named is None or comparable(named) == key
    if _REASON.match(sentence.lstrip(" ,")):
        return True  # a letter and why, without its text
    words, own = word_stems(text), word_stems(key)
    if (
        words
        and own
        and (words <= own or own <= words)
        and not any(words == word_stems(c) for c in choices if c != label)
    ):
        return True
    text = _ARTICLE.sub("", text)
    likeness = {
        choice: difflib.SequenceMatcher(None, text[: len(choice) + 20], comparable(choice)).ratio()
        for choice in choices
    }
    return text[:1] == key[:1] and likeness[label] >= _LIKE and likeness[label] == max(likeness.values())


def comparable(text: str) -> str:
    """Fold case, outer quotes and final punctuation. A choice of such characters only stays unchanged."""
    folded = " ".join(text.casefold().split())
    return folded.lstrip(_QUOTES).rstrip(_QUOTES + ".,;:!?") or folded
