"""The rows of a validation file as tokens. They have an input and a gold label from a person, and nothing from a teacher.

They measure the label term alone. They cannot measure a method that reads or writes a teacher's text, which needs a share of train as
`corpus.validation`. If rows share an id, the first one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow as pa

from pipelines.config import CorpusConfig
from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.methods import METHODS
from pipelines.tasks import Example, load_task
from pipelines.train.data.sequences import TokenSettings
from pipelines.train.data.tokenise import encode_table

_BATCH_ROWS = 4096


def validation_tokens(corpus: CorpusConfig, settings: TokenSettings) -> Iterator[pa.Table]:
    """The rows of the file in token_table.SCHEMA. Empty if `corpus.validation` is a share, or the method needs a teacher's text."""
    if not isinstance(corpus.validation, str) or METHODS[settings.method].needs_teacher_text:
        return
    task = load_task(settings.task)
    splits = corpus_splits(corpus_files(corpus.validation, "corpus.validation"), "heldout", limit=corpus.limit)
    examples = (row.example for split in splits for row in read_split(split, task, corpus.fields))
    usable = _first_of_each_id(example for example in examples if example is not None and example.gold)
    while batch := list(islice(usable, _BATCH_ROWS)):
        table = encode_table(pa.Table.from_pylist([_label_row(example) for example in batch]), settings)
        held_out = pa.array([True] * len(table), pa.bool_())
        yield table.set_column(table.column_names.index("validation"), table.schema.field("validation"), held_out)


def _first_of_each_id(examples: Iterable[Example]) -> Iterator[Example]:
    seen: set[str] = set()
    for example in examples:
        if example.id not in seen:
            seen.add(example.id)
            yield example


def _label_row(example: Example) -> dict[str, str | None]:
    # With a namespace, because a training row may have the same id.
    return {
        "id": f"validation/{example.id}", "input": example.input, "gold": example.gold, "label": example.gold, "rationale": "",
        "soft_label": None,
    }  # fmt: skip
