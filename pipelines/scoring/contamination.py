"""Contamination: held-out examples that the student was trained on, or on which weights or settings were chosen.

    input   the input equals that of the other row, ignoring case and spacing
    near    the inputs share at least NEAR of their word 3-grams (near_duplicates.py, also on what this misses)
    id      the ids are equal. This is counted, and is contamination only if the input matches too: files that number their rows
            share ids.

The held-out examples are in memory, some KB each. The other rows are streamed past them, at about 60 us each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.data.label_parts import LabelParts
from pipelines.data.near_duplicates import Neighbours, signature
from pipelines.errors import UserError
from pipelines.scoring.model import MatchCounts, Overlap
from pipelines.storage.store import Store
from pipelines.tasks import Example

NEAR = 0.8
_MAX_SHARE = 0.5
_LISTED_IDS = 100


@dataclass(frozen=True)
class Contamination:
    """Ids of held-out examples, each list in the order of the examples. `same_input` and `near` are disjoint."""

    same_id: tuple[str, ...]
    same_input: tuple[str, ...]
    near: tuple[str, ...]


def seen_in_training(labels: Store, share: float, examples: Sequence[Example]) -> Contamination:
    """Held-out examples among the training rows of the labels.

    Args:
        share: of the rows that the training held out for validation, by the hash of the id (`corpus.validation`).
    """
    rows = LabelParts.of(labels).training_rows(share, ["input"])
    return shared_with(((row["id"], row["input"]) for row in rows), examples)


def shared_with(
    rows: Iterable[tuple[str, str]], examples: Sequence[Example], *, with_near: bool = True
) -> Contamination:
    """Examples among other rows, given as (id, input).

    Args:
        with_near: False: without near duplicates, in a few microseconds a row.
    """
    ids = {example.id for example in examples}
    by_input: dict[str, list[str]] = {}
    for example in examples:
        by_input.setdefault(_normalised(example.input), []).append(example.id)
    neighbours = Neighbours([signature(example.input) for example in examples], NEAR) if with_near else None
    same_id: set[str] = set()
    same_input: set[str] = set()
    near: set[str] = set()
    for row_id, text in rows:
        if row_id in ids:
            same_id.add(row_id)
        same_input.update(by_input.get(_normalised(text), ()))
        if neighbours:
            near.update(examples[position].id for position in neighbours.of(signature(text)))

    return Contamination(*(_ordered(found, examples) for found in (same_id, same_input, near - same_input)))


def trained_on_part(found: Contamination, scored: int, key: str) -> Overlap:
    """report.json's `heldout.trained_on`.

    Args:
        scored: number of scored examples.
        key: the run file's key of the held-out examples.

    Raises:
        UserError: more than half of the examples have the input of a training row.
    """
    return _part(found, scored, key, "a training row", "Give examples that are not in corpus.train.")


def chosen_on_part(validation: Sequence[Example], examples: Sequence[Example], key: str) -> Overlap:
    """report.json's `heldout.chosen_on`. `validation`: the examples on which weights or settings are chosen.

    Raises:
        UserError: more than half of the examples have the input of a validation example.
    """
    found = shared_with(((one.id, one.input) for one in validation), examples)
    others = "a validation example, on which weights or settings are chosen"
    return _part(found, len(examples), key, others, "Give examples that are not in corpus.validation.")


def _part(found: Contamination, scored: int, key: str, others: str, remedy: str) -> Overlap:
    same = found.same_input
    if len(same) > _MAX_SHARE * scored:
        rule = f"{len(same):,} of its {scored:,} examples have the input of {others}: {', '.join(same[:5])} ..."
        raise UserError(key, rule, remedy)
    shared = [*same, *found.near]
    by = MatchCounts(id=len(found.same_id), input=len(same), near=len(found.near))
    return Overlap(count=len(shared), ids=shared[:_LISTED_IDS], by=by)


def _ordered(found: set[str], examples: Sequence[Example]) -> tuple[str, ...]:
    return tuple(example.id for example in examples if example.id in found)


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())
