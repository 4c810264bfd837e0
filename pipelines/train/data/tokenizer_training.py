"""Trains a student's own tokenizer on the texts of the labels, for students that start from random weights.

In: `labels/data`, and a tokenizer whose kind (pre-tokenisation, special tokens) is kept. Out: a tokenizer folder beside the tokens.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from pipelines.data.heldout import is_validation
from pipelines.data.label_parts import LabelParts
from pipelines.errors import UserError
from pipelines.storage.store import Store
from pipelines.students.init import student_tokenizer
from pipelines.train.data.sequences import TokenSettings, in_fraction

_DONE = "done.json"
_BATCH_ROWS = 4096
_COLUMNS = ("id", "input", "gold", "label", "rationale")
_PREFIXES = ("[label] ", "[rationale] ")


def train_tokenizer(labels: Store, settings: TokenSettings, size: int, target: Store) -> None:
    """Train a tokenizer with at most `size` entries on the texts that are trained on. Does nothing if `target` has one.

    Raises:
        UserError: the model's tokenizer is of a kind that cannot be trained (ByT5's bytes), or `size` is too small.
    """
    if target.exists(_DONE):
        return
    setting, base = f"student.init.vocabulary {size}", student_tokenizer(settings.model)
    if not base.is_fast:
        rule = f"the tokenizer of {settings.model} is of a kind that cannot be trained ({type(base).__name__})"
        raise UserError(setting, rule, "Remove it, or give a model with a BPE or Unigram tokenizer.")
    try:
        tokenizer = base.train_new_from_iterator(_texts(labels, settings), vocab_size=size)
        needed = len(tokenizer)
    except Exception as error:  # the Rust library raises plain Exception
        raise UserError(setting, f"no tokenizer can be trained with it ({error})", "Raise it.") from error
    if needed > size:
        rule = f"the characters and special tokens alone are {needed}"
        raise UserError(setting, rule, f"Raise it above {needed}.")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        target.put_folder(folder)
    target.write(_DONE, json.dumps({"entries": len(tokenizer)}).encode())


def _texts(labels: Store, settings: TokenSettings) -> Iterator[list[str]]:
    parts = LabelParts.of(labels)
    for name in parts.names("data"):
        several = parts.rationales(name) if settings.rotates_rationales else {}
        for batch in parts.open(name).iter_batches(_BATCH_ROWS, columns=list(_COLUMNS)):
            rows = batch.to_pylist()
            yield [text for row in rows for text in _texts_of(row, several.get(row["id"], [])[1:], settings)]


def _texts_of(row: Mapping[str, str], others: Sequence[str], settings: TokenSettings) -> list[str]:
    """`others`: further rationales of the row. Empty if the row is held out, or outside the share of the rows that is used."""
    held_out = is_validation(row["id"], settings.validation_share)
    if held_out or not in_fraction(row["id"], settings.fraction, settings.seed):
        return []
    inputs = [f"{prefix}{row['input']}\n" for prefix in _PREFIXES]
    return [text for text in (*inputs, row["gold"], row["label"], row["rationale"], *others) if text]
