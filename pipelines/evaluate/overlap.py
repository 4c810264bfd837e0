"""Held-out examples that the student was trained on: what is right on them says nothing.

Compared are the inputs, whatever their spelling of spaces and capitals. Ids are not: two files that both number their rows share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from pipelines.artifacts import Store
from pipelines.config import CorpusConfig
from pipelines.corpus import is_validation
from pipelines.errors import UserError
from pipelines.tasks import Example

_MOST_SHARED = 0.5
_LISTED_IDS = 100
_ROWS = 8192


def seen_in_training(labels: Store, corpus: CorpusConfig, examples: Sequence[Example]) -> list[str]:
    """The ids of the held-out examples whose input is a training row's."""
    share = corpus.validation if isinstance(corpus.validation, float) and corpus.test is None else 0.0
    by_input: dict[str, list[str]] = {}
    for example in examples:
        by_input.setdefault(_spelling(example.input), []).append(example.id)
    seen: set[str] = set()
    for name in labels.files("data", ".parquet"):
        with labels.fs.open_input_file(labels.path(name)) as file:
            for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=["id", "input"]):
                rows = batch.to_pydict()
                for row_id, text in zip(rows["id"], rows["input"], strict=True):
                    if not (share and is_validation(row_id, share)):
                        seen.update(by_input.get(_spelling(text), ()))
    return [example.id for example in examples if example.id in seen]


def overlap_part(ids: Sequence[str], scored: int, key: str) -> dict[str, Any]:
    """The overlap as it stands in the report.

    Raises:
        UserError: more than half of the examples were trained on.
    """
    if len(ids) > _MOST_SHARED * scored:
        rule = f"{len(ids):,} of its {scored:,} examples have the input of a training row: {', '.join(ids[:5])} ..."
        raise UserError(key, rule, "Give examples that are not in corpus.train.")
    return {"count": len(ids), "ids": list(ids[:_LISTED_IDS])}


def _spelling(text: str) -> str:
    return " ".join(text.casefold().split())
