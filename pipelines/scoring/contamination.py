"""Held-out examples that the student was trained on, or that it or its settings were chosen on: what is right on them says little.

    input   its input is a training row's, whatever the spelling of spaces and capitals
    near    it is not, but nearly: of the word 3-grams of both at least NEAR are shared (near_duplicates.py, which also says what it
            misses and that a word problem with another number in it may be a near duplicate)
    id      its id is a training row's. That alone says nothing, since two files that both number their rows share ids: it is
            counted, and counts as trained on only where the input does, too.

The same is asked of the validation examples wherever settings or weights are chosen on them (`chosen_on`).

The held-out examples are held in memory (some KB each), the training rows are streamed past them: 60 us each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipelines.data.heldout import is_validation
from pipelines.data.near_duplicates import Neighbours, signature
from pipelines.errors import UserError
from pipelines.storage.store import Store
from pipelines.tasks import Example

NEAR = 0.8
_MOST_SHARED = 0.5
_LISTED_IDS = 100
_ROWS = 8192


@dataclass(frozen=True)
class Contamination:
    """Ids of held-out examples, each in the order of the examples. No example is both in `same_input` and in `near`."""

    same_id: tuple[str, ...]
    same_input: tuple[str, ...]
    near: tuple[str, ...]


def seen_in_training(labels: Store, share: float, examples: Sequence[Example]) -> Contamination:
    """Which of the held-out examples stand among the training rows of the labels.

    Args:
        share: of the rows that the student was not trained on, by the hash of their id (`corpus.validation` of its training).
    """
    return shared_with(_training_rows(labels, share), examples)


def shared_with(rows: Iterable[tuple[str, str]], examples: Sequence[Example]) -> Contamination:
    """Which of the examples stand among other rows: (id, input)."""
    ids = {example.id for example in examples}
    by_input = _by_input(examples)
    neighbours = Neighbours([signature(example.input) for example in examples], NEAR)
    same_id: set[str] = set()
    same_input: set[str] = set()
    near: set[str] = set()
    for row_id, text in rows:
        if row_id in ids:
            same_id.add(row_id)
        same_input.update(by_input.get(_spelling(text), ()))
        near.update(examples[position].id for position in neighbours.of(signature(text)))

    return Contamination(*(_ordered(found, examples) for found in (same_id, same_input, near - same_input)))


def with_input_of(rows: Iterable[tuple[str, str]], examples: Sequence[Example]) -> Contamination:
    """As `shared_with`, but of the same input alone, which decides what is refused: a few microseconds a row."""
    by_input = _by_input(examples)
    same_input: set[str] = set()
    for _, text in rows:
        same_input.update(by_input.get(_spelling(text), ()))
    return Contamination((), _ordered(same_input, examples), ())


def _by_input(examples: Sequence[Example]) -> dict[str, list[str]]:
    """The ids of the examples with each input."""
    by_input: dict[str, list[str]] = {}
    for example in examples:
        by_input.setdefault(_spelling(example.input), []).append(example.id)
    return by_input


def _ordered(found: set[str], examples: Sequence[Example]) -> tuple[str, ...]:
    return tuple(example.id for example in examples if example.id in found)


def overlap_part(found: Contamination, scored: int, key: str) -> dict[str, Any]:
    """The overlap with the training rows as it stands in the report.

    Raises:
        UserError: more than half of the examples have the input of a training row.
    """
    return _part(found, scored, key, "a training row", "Give examples that are not in corpus.train.")


def chosen_on(validation: Sequence[Example], examples: Sequence[Example], key: str) -> dict[str, Any]:
    """The overlap with the validation examples, on which settings or weights are chosen, as it stands in the report.

    Raises:
        UserError: more than half of the examples have the input of a validation example.
    """
    found = shared_with(((one.id, one.input) for one in validation), examples)
    others = "a validation example, on which settings or weights are chosen"
    return _part(found, len(examples), key, others, "Give examples that are not in corpus.validation.")


def _part(found: Contamination, scored: int, key: str, others: str, remedy: str) -> dict[str, Any]:
    same = found.same_input
    if len(same) > _MOST_SHARED * scored:
        rule = f"{len(same):,} of its {scored:,} examples have the input of {others}: {', '.join(same[:5])} ..."
        raise UserError(key, rule, remedy)
    shared = [*same, *found.near]
    return {
        "count": len(shared),
        "ids": shared[:_LISTED_IDS],
        "by": {"id": len(found.same_id), "input": len(same), "near": len(found.near)},
    }


def _training_rows(labels: Store, share: float) -> Iterator[tuple[str, str]]:
    """(id, input) of the labels, without the rows of a validation split: no student is trained on them."""
    for name in labels.files("data", ".parquet"):
        with labels.fs.open_input_file(labels.path(name)) as file:
            for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=["id", "input"]):
                rows = batch.to_pydict()
                for row_id, text in zip(rows["id"], rows["input"], strict=True):
                    if not is_validation(row_id, share):
                        yield row_id, text


def _spelling(text: str) -> str:
    return " ".join(text.casefold().split())
