"""Natural language inference like e-SNLI and ANLI: entailment, neutral or contradiction.

    {"id": "horse-1", "premise": "A person on a horse jumps over a broken down airplane.",
     "hypothesis": "A person is training his horse for a competition.", "label": "neutral"}
      -> input "premise: A person on a horse jumps ... hypothesis: A person is training his horse ...", gold `neutral`

Gold labels may also be 0, 1, 2 in that order (the coding of SNLI, MNLI and ANLI) or e, n, c (ANLI's own files).

Versions:
    1              first
    2 (2026-11-24) reads `\\boxed{}` if no `answer is` is readable
Parsers:
    2 (2026-11-30) reads headings and `<answer>`; rejects a text that corrects its answer, or denies a label
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.errors import BadRowError, UnparsableError
from pipelines.tasks.base import Answer, Example, Row, Shot, Task, optional_gold, text_field
from pipelines.tasks.parsing.answers import NEGATED, Statement, plain_text, read_answer

LABELS = ("entailment", "neutral", "contradiction")

_LETTERS = {"e": "entailment", "n": "neutral", "c": "contradiction"}
_GOLD = {**_LETTERS, **{label: label for label in LABELS}, **{str(i): label for i, label in enumerate(LABELS)}}
_SYNONYMS = {
    **_LETTERS,
    **dict.fromkeys(("yes", "true"), "entailment"),
    **dict.fromkeys(("maybe", "neither", "unknown", "undetermined"), "neutral"),
    **dict.fromkeys(("it is not possible to tell", "it's not possible to tell", "it cannot be determined"), "neutral"),
    **dict.fromkeys(("no", "false"), "contradiction"),
}
"""Phrases that teachers write instead of the label."""
_WORD = re.compile(
    r"(?P<negated>"
    + NEGATED
    + r")?\b(?:(?P<entailment>entail(?:ment|ed|s))|(?P<neutral>neutral)|(?P<contradiction>contradict(?:ion|ed|s|ory)))\b",
    re.IGNORECASE,
)

_SHOTS = (
    Shot(
        "premise: A person on a horse jumps over a broken down airplane. "
        "hypothesis: A person is training his horse for a competition.",
        "The person could be training his horse for a competition, but it is not necessarily the case. "
        "The answer is neutral.",
    ),
    Shot(
        "premise: Two children are eating apples in a garden. hypothesis: Children are eating fruit.",
        "Apples are fruit, so children who eat apples eat fruit. The answer is entailment.",
    ),
    Shot(
        "premise: A man is asleep on a bench in the park. hypothesis: A man is running through the park.",
        "A man who is asleep cannot be running at the same time. The answer is contradiction.",
    ),
)


class NaturalLanguageInference(Task):
    """Decide if a hypothesis follows from a premise."""

    name = "nli"
    version = "2"
    parser = "2"
    required = ("premise", "hypothesis")

    @property
    def labels(self) -> tuple[str, ...]:
        return LABELS

    @property
    def instruction(self) -> str:
        return (
            "Does the hypothesis follow from the premise (entailment), does the premise rule it out (contradiction), "
            "or neither (neutral)?"
        )

    @property
    def shots(self) -> Sequence[Shot]:
        return _SHOTS

    def sample(self) -> dict[str, object]:
        premise, _, hypothesis = self.shots[0].question.removeprefix("premise: ").partition(" hypothesis: ")
        return {"premise": premise, "hypothesis": hypothesis}

    def read(self, row: Row) -> Example:
        premise, hypothesis = (" ".join(text_field(row, name).split()) for name in self.required)
        gold = optional_gold(row, LABELS)
        if gold is not None:
            known = _GOLD.get(gold.lower())
            if known is None:
                raise BadRowError(
                    f"the gold label {gold[:60]!r} is not one of {', '.join(LABELS)} (or 0, 1, 2; e, n, c)"
                )
            gold = known
        return Example(str(row.get("id", "")), f"premise: {premise} hypothesis: {hypothesis}", gold)

    def parse(self, text: str, example: Example) -> Answer:
        label, rationale = read_answer(text, _stated_label)
        return Answer(label, rationale)

    def normalise(self, label: str, example: Example) -> str:
        return _stated_label(Statement("", label, label))


def _stated_label(statement: Statement) -> str:
    """Read the label of a statement. Raises UnparsableError if it names none, several, or only negated ones."""
    stated = plain_text(statement.stated)
    exact = stated.strip(" .,:;!?\"'()*_").lower()
    if exact in _SYNONYMS:
        return _SYNONYMS[exact]
    if statement.bare and exact not in LABELS:
        raise UnparsableError("no `answer is` in the text")
    named = {match.lastgroup for match in _WORD.finditer(stated) if not match["negated"]}
    if len(named) != 1:
        named_labels = "several labels" if named else "no label"
        raise UnparsableError(f"{stated[:60]!r} names {named_labels}")
    return str(named.pop())
