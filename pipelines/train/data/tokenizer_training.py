"""A tokenizer of the student's own, for students that start from random weights: trained on the texts of the labels.

In: `labels/data` and the tokenizer whose kind (pre-tokenisation, special tokens) it takes. Out: a tokenizer folder beside the tokens.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from pipelines.data.heldout import is_validation
from pipelines.errors import UserError
from pipelines.storage.store import Store
from pipelines.students.init import student_tokenizer
from pipelines.train.data.sequences import TokenSettings, in_fraction

_DONE = "done.json"
_ROWS = 4096
_COLUMNS = ("id", "input", "gold", "label", "rationale")
_PREFIXES = ("[label] ", "[rationale] ")


def train_tokenizer(labels: Store, settings: TokenSettings, size: int, target: Store) -> None:
    """Train a tokenizer with at most `size` entries on the texts that are trained on; what an earlier run has made stays.

    Raises:
        UserError: the model's tokenizer is of a kind that cannot be trained (ByT5's bytes), or `size` is too small.
    """
    if target.exists(_DONE):
        return
    model = settings.model
    like = student_tokenizer(model)
    if not like.is_fast:
        rule = f"the tokenizer of {model} is of a kind that cannot be trained anew ({type(like).__name__})"
        raise UserError(
            f"student.init.vocabulary {size}", rule, "Remove it, or give a model with a BPE or Unigram tokenizer."
        )
    try:
        tokenizer = like.train_new_from_iterator(_texts(labels, settings), vocab_size=size)
        needed = len(tokenizer)
    except Exception as error:  # what the Rust library raises has no type of its own
        raise UserError(
            f"student.init.vocabulary {size}", f"no tokenizer can be trained with it ({error})", "Raise it."
        ) from error
    if needed > size:
        rule = f"the characters and special tokens alone are {needed}"
        raise UserError(f"student.init.vocabulary {size}", rule, f"Raise it above {needed}.")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        target.put_folder(folder)
    target.write(_DONE, json.dumps({"entries": len(tokenizer)}).encode())


def _texts(labels: Store, settings: TokenSettings) -> Iterator[list[str]]:
    for name in labels.files("data", ".parquet"):
        with labels.fs.open_input_file(labels.path(name)) as file:
            for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=list(_COLUMNS)):
                yield [text for row in batch.to_pylist() for text in _texts_of(row, settings)]


def _texts_of(row: dict[str, Any], settings: TokenSettings) -> list[str]:
    """None of a row that is held out, or outside the share of the rows that is used."""
    held_out = is_validation(row["id"], settings.validation_share)
    if held_out or not in_fraction(row["id"], settings.fraction, settings.seed):
        return []
    found = [*(prefix + row["input"] + "\n" for prefix in _PREFIXES), row["gold"], row["label"], row["rationale"]]
    return [text for text in found if text]
