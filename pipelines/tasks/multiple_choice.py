"""Multiple choice like CommonsenseQA. The label is the text of the right choice.

    {"id": "q-3", "question": "Where does Anne keep her apples?", "choices": ["basket", "river", "cloud"],
     "label": "basket"}
      -> input "Where does Anne keep her apples?\\n(a) basket\\n(b) river\\n(c) cloud", gold `basket`

The gold label may be the letter instead. Choices with the same text are the same answer.

Versions:
    1              first
    2 (2026-11-24) reads `\\boxed{}` and a final letter with its text (`so they were looking at (a) skeleton.`) if no `answer is`
                   is readable
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipelines.errors import BadRowError, UnparsableError
from pipelines.tasks.base import MAX_FIELD_CHARACTERS, Answer, Example, Row, Shot, Task, optional_gold, text_field
from pipelines.tasks.parsing.answers import MAX_STATED_CHARACTERS, Statement, plain_text, read_answer
from pipelines.tasks.parsing.giveaways import says_only
from pipelines.tasks.parsing.label_patterns import LabelPlace, answer_pattern, place_of_text, statement_region

MAX_CHOICES = 26
LETTER_AND_TEXT = "letter and text disagree: the letter counts"
SEVERAL = "several choices named: the first counts"


def _shot(question: str, choices: Sequence[str], answer: str) -> Shot:
    return Shot(_input(question, choices), answer)


def _input(question: str, choices: Sequence[str]) -> str:
    return "\n".join([question, *(f"({_letter(i)}) {text}" for i, text in enumerate(choices))])


def _letter(index: int) -> str:
    return chr(ord("a") + index)


_SHOTS = (
    _shot(
        "Where does Anne put her apples so that she can carry them home?",
        ("cloud", "river", "basket", "tree", "plate"),
        "The answer must be something in which apples can be carried. Of the above choices, only a basket is made to "
        "carry things. So the answer is (c) basket.",
    ),
    _shot(
        "Peter is thirsty after a long run. What will he do first?",
        ("drink water", "read a book", "paint a wall", "sell his shoes", "sleep in"),
        "The answer must be something that helps against thirst. Of the above choices, only drinking water does. "
        "So the answer is (a) drink water.",
    ),
    _shot(
        "What do people use to see in a dark cellar?",
        ("spoon", "lamp", "blanket", "radio", "hammer"),
        "The answer must be something that gives light. Of the above choices, only a lamp gives light. "
        "So the answer is (b) lamp.",
    ),
    _shot(
        "Clara wants to borrow a novel without paying for it. Where will she go?",
        ("bookshop", "cinema", "bank", "library", "bakery"),
        "The answer must be a place that lends books. Of the above choices, only a library lends books for free. "
        "So the answer is (d) library.",
    ),
)

_LETTERED = re.compile(r"(?<!\w)\(\s*([A-Za-z])\s*\)[\s:]*")
_NAMED = re.compile(
    r"(?:(?:option|choice|letter|answer)\s+\(?)?([A-Za-z])(?:\s*[).:,]|\s*\Z|\s+[-–]\s)[\s:]*", re.IGNORECASE
)
_WITH_WORD = re.compile(r"\b(?:option|choice|letter)\s+([A-Za-z])\b[).:,]?[\s:]*", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"(?:\bor|\band|,)\s*\(?\s*[A-Za-z]\s*\)", re.IGNORECASE)
_QUOTES = " \"'“”‘’*_`"


class MultipleChoice(Task):
    """Multiple choice. The answer is one of the row's choices."""

    name = "multiple-choice"
    version = "2"
    required = ("question", "choices")
    lists = ("choices",)

    @property
    def shots(self) -> Sequence[Shot]:
        return _SHOTS

    def read(self, row: Row) -> Example:
        choices = _choices(row.get("choices"))
        text = _input(text_field(row, "question"), choices)
        if len(text) > MAX_FIELD_CHARACTERS:
            raise BadRowError(f"question and choices: {len(text):,} characters, the limit is {MAX_FIELD_CHARACTERS:,}")
        example = Example(str(row.get("id", "")), text, None, choices)
        gold = optional_gold(row)
        if gold is None:
            return example
        try:
            return Example(example.id, text, self.normalise(gold, example), choices)
        except UnparsableError as error:
            raise BadRowError(f"the gold label {gold[:60]!r} is not one of the {len(choices)} choices") from error

    def parse(self, text: str, example: Example) -> Answer:
        (label, note), rationale = read_answer(
            text, lambda s: _stated_choice(s, example.choices), negations=True, conclusions=True
        )
        return Answer(label, rationale, note)

    def gives_away(self, answer: Answer, example: Example) -> bool:
        return says_only(answer.rationale, answer.label, example.input)

    def shot_example(self, question: str) -> Example:
        lines = question.split("\n")
        lettered = [line for i, line in enumerate(lines[-MAX_CHOICES:]) if line.startswith("(")]
        choices = tuple(line[len("(a) ") :] for i, line in enumerate(lettered) if line.startswith(f"({_letter(i)}) "))
        if not 2 <= len(choices) == len(lettered) < len(lines):
            raise BadRowError("its last lines must be the choices: `(a) cloud`, `(b) river` and so on")
        return Example("shot", question, None, choices)

    def normalise(self, label: str, example: Example) -> str:
        """The choice with this text, else the choice with this letter (`c`, `(C)`, `(c) basket`)."""
        by_text = _with_text(label, example.choices)
        if by_text is not None:
            return by_text
        letter = _LETTERED.match(label.strip()) or _NAMED.fullmatch(label.strip())
        if letter is None or len(label) > MAX_STATED_CHARACTERS:
            raise UnparsableError(f"{label[:60]!r} is not one of the choices")
        return _with_letter(letter[1], example.choices)

    def key(self, label: str) -> str:
        return _comparable(label)

    @property
    def is_closed(self) -> bool:
        return True

    def label_set(self, example: Example) -> tuple[str, ...]:
        first: dict[str, str] = {}
        for choice in example.choices:
            first.setdefault(_comparable(choice), choice)
        return tuple(first.values())

    def answer_pattern(self, example: Example) -> str:
        """States only the letter: rows with equally many choices share one pattern, which the engine compiles once."""
        return answer_pattern([f"({_letter(i)})." for i in range(len(example.choices))])

    def label_place(self, text: str, example: Example) -> LabelPlace | None:
        """Position of the letter, or of the choice's text if the answer has no letter."""
        answer = self.parse(text, example)
        region = statement_region(text, answer.rationale)
        if region is None:
            return None
        labels = {_comparable(label): label for label in self.label_set(example)}
        letters = {_letter(i): labels[_comparable(choice)] for i, choice in enumerate(example.choices)}
        expected = labels[_comparable(answer.label)]
        named = [*_LETTERED.finditer(text, *region), *filter(None, [_NAMED.match(text, *region)])]
        for match in named:
            if letters.get(match[1].lower()) == expected:
                return LabelPlace(match.start(1), expected, tuple(letters.items()))
        return place_of_text(text, region, expected, labels.values())

    def render(self, answer: Answer) -> str:
        return f"{answer.rationale} So the answer is {answer.label}.".lstrip()

    def shown(self, answer: Answer, example: Example) -> str:
        letter = _letter(example.choices.index(answer.label))
        return self.render(replace(answer, label=f"({letter}) {answer.label}"))


def _choices(value: object) -> tuple[str, ...]:
    """Choices of a row: a list, or a JSON list as text (CSV has no lists)."""
    if isinstance(value, str):
        if len(value) > MAX_FIELD_CHARACTERS:
            raise BadRowError(f"field `choices` has {len(value):,} characters, the limit is {MAX_FIELD_CHARACTERS:,}")
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRowError("field `choices` is text, but not a JSON list") from error
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        kind = "missing or null" if value is None else f"a {type(value).__name__}"
        raise BadRowError(f"field `choices` is {kind}, must be a list")
    if not 2 <= len(value) <= MAX_CHOICES:
        raise BadRowError(f"field `choices` has {len(value)} entries, 2 to {MAX_CHOICES} are allowed")
    return tuple(" ".join(text_field({"choices": choice}, "choices").split()) for choice in value)


def _stated_choice(statement: Statement, choices: Sequence[str]) -> tuple[str, str]:
    """Read the choice of a statement. Returns (choice, note). The letter takes precedence over the text.

    Raises:
        UnparsableError: the statement names no choice, or a letter that the row lacks.
    """
    onwards = plain_text(statement.onwards).strip()
    if statement.concluding:
        return _concluded(onwards, choices), ""
    either = onwards[:7].lower() == "either "
    onwards = onwards[len("either ") :].lstrip() if either else onwards
    # The exact text of a choice. `(c) basket` is a letter and a text unless a choice itself begins with a parenthesis.
    if not onwards.startswith("(") or any(choice.startswith("(") for choice in choices):
        exact = _with_text(statement.stated, choices)
        if exact is not None:
            return exact, ""
    if onwards[:4].lower() == "not ":
        negative = _starting_with(onwards, choices)
        if negative is None:
            raise UnparsableError(f"{statement.stated[:60]!r} only negates a choice")
        return negative, ""
    letter = _find_letter(onwards, bare=statement.bare)
    if letter is None and statement.bare:
        raise UnparsableError("no `answer is` in the text")
    if letter is None:
        text = _starting_with(onwards, choices) or _only_one_in(statement.stated, choices)
        if text is None:
            raise UnparsableError(f"{statement.stated[:60]!r} is not one of the choices")
        return text, ""
    label = _with_letter(letter[1], choices)
    rest = onwards[letter.end() :]
    if either or _ALTERNATIVE.search(rest.split("\n")[0].split(". ")[0]):
        return label, SEVERAL
    return label, "" if _agrees(rest, label) else LETTER_AND_TEXT


def _concluded(clause: str, choices: Sequence[str]) -> str:
    """Read a final clause with one letter and its text: `they were looking at (a) skeleton` -> `skeleton`.

    Raises:
        UnparsableError: the clause has another form.
    """
    letters = list(_LETTERED.finditer(clause))
    if len(letters) == 1 and ord(letters[0][1].lower()) - ord("a") < len(choices):
        label, rest = _with_letter(letters[0][1], choices), clause[letters[0].end() :]
        if rest.strip(_QUOTES + ".!") and _agrees(rest, label):
            return label
    raise UnparsableError("no `answer is` in the text")


def _find_letter(onwards: str, *, bare: bool) -> re.Match[str] | None:
    """Find `(c)`, `c` or `C.` at the start, else `option c` or `(c)` later in the sentence."""
    found = _LETTERED.match(onwards) or (_NAMED.fullmatch(onwards) if bare else _NAMED.match(onwards))
    if found is not None or bare:
        return found
    sentence = onwards.split("\n")[0]
    return _WITH_WORD.search(sentence) or _LETTERED.search(sentence)


def _with_letter(letter: str, choices: Sequence[str]) -> str:
    # With IGNORECASE, `[a-z]` also matches the Turkish dotted I and the Kelvin sign.
    index = ord(letter.lower()) - ord("a") if letter.isascii() else len(choices)
    if index >= len(choices):
        raise UnparsableError(f"the row has no choice ({letter.lower()})")
    return choices[index]


def _with_text(text: str, choices: Sequence[str]) -> str | None:
    key = _comparable(text) if len(text) <= MAX_FIELD_CHARACTERS else ""
    return next((choice for choice in choices if key and _comparable(choice) == key), None)


def _starting_with(onwards: str, choices: Sequence[str]) -> str | None:
    """The longest choice at the start of the text. Choices may contain full stops, so the text is not cut at one."""
    text = _comparable(onwards)
    fitting = [c for c in choices if re.match(re.escape(_comparable(c)) + r"(?!\w)", text)]
    return max(fitting, key=len) if fitting else None


def _only_one_in(stated: str, choices: Sequence[str]) -> str | None:
    """The only choice that a sentence contains: `to put them into a basket`. None if it contains several."""
    text = _comparable(stated)
    named = {_comparable(c): c for c in choices if re.search(r"(?<!\w)" + re.escape(_comparable(c)) + r"(?!\w)", text)}
    # `sea shore` does not also name `sea`.
    outer = [c for key, c in named.items() if not any(key != other and key in other for other in named)]
    return outer[0] if len(outer) == 1 else None


def _agrees(rest: str, label: str) -> bool:
    """True if the text after a letter is empty or starts with the choice, which may contain full stops."""
    sentence = rest.split("\n")[0]
    stop = re.search(r"[.!?;](?=\s|\Z)", sentence)
    text, key = _comparable(sentence[: stop.start()] if stop else sentence), _comparable(label)
    return not text or text.startswith(key) or _comparable(sentence).startswith(key)


def _comparable(text: str) -> str:
    """Fold case, outer quotes and final punctuation. A choice of such characters only stays unchanged."""
    folded = " ".join(text.casefold().split())
    return folded.lstrip(_QUOTES).rstrip(_QUOTES + ".,;:!?") or folded
