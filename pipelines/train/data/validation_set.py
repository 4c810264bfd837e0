"""The rows of a validation file as tokens. They are people's: an input and a gold label, no rationale and no word of a teacher's.

So they measure the label term. Methods whose students write or read a teacher's text cannot be measured on them: they have no validation
in training, unless `corpus.validation` is a share of train. Of rows with the same id the first counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from pipelines.config import CorpusConfig
from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.methods import METHODS
from pipelines.tasks import Example, load_task
from pipelines.train.data.sequences import TokenSettings
from pipelines.train.data.token_table import encode_table

_ROWS = 4096


def validation_tokens(corpus: CorpusConfig, settings: TokenSettings) -> Iterator[pa.Table]:
    """The rows of the file in the schema of the tokens; none where `corpus.validation` is a share, or the method wants more."""
    if not isinstance(corpus.validation, str) or METHODS[settings.method].needs_teacher_text:
        return
    task = load_task(settings.task)
    splits = corpus_splits(corpus_files(corpus.validation, "corpus.validation"), "heldout", limit=corpus.limit)
    examples = (row.example for split in splits for row in read_split(split, task, corpus.fields))
    usable = _first_of_each_id(example for example in examples if example is not None and example.gold)
    while some := list(islice(usable, _ROWS)):
        table = encode_table(pa.Table.from_pylist([_row(example) for example in some]), settings)
        held_out = pa.array([True] * len(table), pa.bool_())
        yield table.set_column(table.column_names.index("validation"), table.schema.field("validation"), held_out)


def _first_of_each_id(examples: Iterable[Example]) -> Iterator[Example]:
    seen: set[str] = set()
    for example in examples:
        if example.id not in seen:
            seen.add(example.id)
            yield example


def _row(example: Example) -> dict[str, Any]:
    # Of its own name space: a training row may have the same id.
    return {
        "id": f"validation/{example.id}", "input": example.input, "gold": example.gold, "label": example.gold, "rationale": "",
        "soft_label": None,
    }  # fmt: skip
