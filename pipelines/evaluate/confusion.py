"""report.json's `confusion`: which labels the student gives for which gold labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from pipelines.evaluate.model import ConfusionCell
from pipelines.tasks import Example

_MAX_LABELS = 20
_PLACES_NOTE = "A letter is a place among the choices of an example, which differ between examples: (a) is the first."
_Pair = tuple[str, str | None]
"""The gold label and the student's."""


def confusion(
    examples: Sequence[Example], labels: Sequence[str | None], key: Callable[[str], str]
) -> tuple[list[ConfusionCell] | None, str]:
    """The counts, the most frequent first, and a note for the reader. No counts for more than 20 gold labels.

    Args:
        labels: the student's, in the order of the examples.
        key: `Task.key`.
    """
    pairs, note = _by_place(examples, labels), _PLACES_NOTE
    if pairs is None:
        pairs, note = _by_meaning(examples, labels, key), ""
        kinds = len({gold for gold, _ in pairs})
        if kinds > _MAX_LABELS:
            return None, f"Not shown: there are {kinds:,} different gold labels, and the limit is {_MAX_LABELS}."
    ordered = sorted(Counter(pairs).items(), key=lambda item: (-item[1], item[0][0], item[0][1] or ""))
    return [ConfusionCell(gold=gold, student=label, count=count) for (gold, label), count in ordered], note


def _by_place(examples: Sequence[Example], labels: Sequence[str | None]) -> list[_Pair] | None:
    """Gold labels and answers by their places among the example's choices. Of choices with equal text, the first counts.

    None if the choices act as labels: the same for all examples (`yes`, `no`), none, or without the gold label or the answer.
    """
    if len({frozenset(example.choices) for example in examples}) == 1:
        return None
    pairs: list[_Pair] = []
    for example, label in zip(examples, labels, strict=True):
        gold, letters = str(example.gold), dict[str, str]()
        for place, choice in enumerate(example.choices):
            letters.setdefault(choice, f"({chr(ord('a') + place)})")
        if gold not in letters or (label is not None and label not in letters):
            return None
        pairs.append((letters[gold], None if label is None else letters[label]))
    return pairs


def _by_meaning(examples: Sequence[Example], labels: Sequence[str | None], key: Callable[[str], str]) -> list[_Pair]:
    """Gold labels and answers, one spelling per meaning, a gold one if there is any: `4` is right for `8 / 2`."""
    golds = sorted({str(example.gold) for example in examples})
    spelling: dict[str, str] = {}
    for label in [*golds, *sorted({label for label in labels if label is not None})]:
        spelling.setdefault(key(label), label)
    return [
        (spelling[key(str(e.gold))], None if label is None else spelling[key(label)])
        for e, label in zip(examples, labels, strict=True)
    ]
