"""Tokenises the labels once: `labels/data` -> the token table. token-kd reads `labels/token_logprobs` too, and methods that learn several
rationales of a row `labels/rationales`.

Ray Data tokenises a large corpus, and this process a small one. This process writes the result as one file, so that no reader ever meets
a part of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.heldout import is_validation
from pipelines.data.label_parts import LabelParts
from pipelines.data.schema import TOKEN_LOGPROBS
from pipelines.runtime.cpus import usable_cpus
from pipelines.storage.store import Store
from pipelines.students.chat_prompt import PromptKind
from pipelines.students.init import student_tokenizer
from pipelines.tasks import Task, load_task
from pipelines.train.data.collate import TokenSequence
from pipelines.train.data.rotation import EVERY_EPOCH
from pipelines.train.data.sequences import (
    LearnedRationales,
    TokenSettings,
    in_fraction,
    learned_rationales,
    read_row,
    sequences_of,
)
from pipelines.train.data.token_table import COUNTS, FILE, SCHEMA, TokenCounts, write_tokens

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Up to here this process is done before a Ray worker would have imported transformers.
_LOCAL_ROWS = 20_000
_BATCH_ROWS, _BATCH_ROWS_WITH_TOKENS = 8192, 512
_COLUMNS = ["id", "input", "gold", "label", "rationale", "soft_label"]


def tokenise(
    labels: Store, settings: TokenSettings, target: Store, extra: Iterable[pa.Table] = (),
    on_rows: Callable[[int], None] = lambda rows: None,
) -> TokenCounts:  # fmt: skip
    """Tokenise all rows of a labels artifact into `target`. Reuses the tokens that an earlier run has finished there.

    Args:
        extra: rows in `SCHEMA` to add: validation examples that are not among the labels.
        on_rows: gets the number of rows of each table that is written, `extra` aside.
    """
    if target.exists(COUNTS) and target.exists(FILE):
        return TokenCounts(**json.loads(target.read(COUNTS)))
    parts = LabelParts.of(labels)
    names = parts.names("data")
    if parts.num_rows("data") <= _LOCAL_ROWS:
        local = (table for name in names for table in encode_part(parts, name, settings))
        tables = chain(_counted(local, on_rows), extra)
        return write_tokens(tables, target, settings.family, grouped=settings.compares_labels)
    import ray

    # By file rather than by Ray's reader, because a part of labels/token_logprobs belongs to the part of labels/data with its name.
    items = ray.data.from_items([{"part": name} for name in names], override_num_blocks=len(names))
    encoded = items.map_batches(
        _EncodeParts(parts, settings), batch_size=1, batch_format="numpy", concurrency=_tasks_at_once()
    )
    tables = chain(_counted(encoded.iter_batches(batch_format="pyarrow", batch_size=None), on_rows), extra)
    return write_tokens(tables, target, settings.family, grouped=settings.compares_labels)


def _tasks_at_once() -> int | None:
    """On one node its cores: Ray's CPUs may be more (cluster/session/start.py), and the process of each task imports transformers."""
    import ray

    alone = sum(node["Alive"] for node in ray.nodes()) == 1
    return usable_cpus() if alone else None


def _counted(tables: Iterable[pa.Table], on_rows: Callable[[int], None]) -> Iterator[pa.Table]:
    for table in tables:
        yield table
        on_rows(int(pc.count_distinct(table["id"]).as_py()))  # a row has several sequences


def rows_to_tokenise(labels: Store, settings: TokenSettings) -> int:
    """About how many rows `tokenise` will count: those outside `settings.fraction` are skipped."""
    held_out = settings.validation_share
    return round(LabelParts.of(labels).num_rows("data") * (held_out + (1 - held_out) * settings.fraction))


class _EncodeParts:
    """Called by Ray Data for every part of the labels."""

    def __init__(self, labels: LabelParts, settings: TokenSettings) -> None:
        self._labels, self._settings = labels, settings

    def __call__(self, batch: Mapping[str, npt.NDArray[np.str_]]) -> Iterator[pa.Table]:
        yield SCHEMA.empty_table()
        for name in batch["part"]:
            yield from encode_part(self._labels, str(name), self._settings)


def encode_part(labels: LabelParts, name: str, settings: TokenSettings) -> Iterator[pa.Table]:
    """The tokens of one file of labels/data, in batches of rows."""
    tokens = _teacher_tokens(labels, name.rpartition("/")[2]) if settings.needs_token_logprobs else None
    rationales = labels.rationales(name) if settings.rotates_rationales else None
    rows = _BATCH_ROWS if tokens is None else _BATCH_ROWS_WITH_TOKENS
    for batch in labels.open(name).iter_batches(rows, columns=_COLUMNS):
        table = pa.Table.from_batches([batch])
        if tokens is not None:
            table = table.append_column("top", _structs_by_id(table["id"], tokens))
        if rationales is not None:
            found = [rationales.get(row_id) for row_id in table["id"].to_pylist()]
            table = table.append_column("rationales", pa.array(found, pa.list_(pa.string())))
        yield encode_table(table, settings)


def encode_table(table: pa.Table, settings: TokenSettings) -> pa.Table:
    """Rows of labels -> rows of `SCHEMA`. A sequence above its limit is dropped, never truncated.

    The first sequence of a row holds its label. If that one is too long, the row is not used at all. A rationale that follows the label in
    one sequence is dropped alone. Of several rationales those that are too long take no turn.
    """
    tokenizer, task = tokenizer_of(settings.model, settings.tokenizer, settings.prompt), load_task(settings.task)
    rows = [encoded for row in table.to_pylist() for encoded in _encode(row, tokenizer, settings, task)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _encode(row: Mapping[str, Any], tokenizer: Any, settings: TokenSettings, task: Task) -> list[dict[str, object]]:
    share = settings.validation_share
    held_out = share > 0 and is_validation(row["id"], share)
    if not (held_out or in_fraction(row["id"], settings.fraction, settings.seed)):
        return []
    common = {
        "id": row["id"], "validation": held_out, "dropped": None, "part": -1, "tail": 0, "turn": EVERY_EPOCH,
        "probability": None, "prompt": [], "target": [], "top_ids": [], "top_logprobs": [], "top_positions": 0,
    }  # fmt: skip
    # Held-out rows measure all settings of `student.rationales` alike.
    chosen = LearnedRationales([row["rationale"]]) if held_out else learned_rationales(row, settings)
    read = read_row(row, settings.label_column)
    if not read.label and {"label", "text"} & set(settings.terms) and not settings.needs_token_logprobs:
        return [common | {"dropped": "nothing_to_learn"}]  # student.labels: gold, and the row has none
    turns = [sequences_of(replace(read, rationale=text), tokenizer, settings, task) for text in chosen.texts]
    if not turns[0]:
        return [common | {"dropped": "nothing_to_learn"}]
    kept = [[_within_limits(sequence, settings) for sequence in sequences] for sequences in turns]
    cut = [sum(a is not b for a, b in zip(*pair, strict=True)) for pair in zip(kept, turns, strict=True)]
    used = [found for found, count in zip(kept, cut, strict=True) if not count] or kept[:1]
    if used[0][0] is None:
        return [common | {"dropped": "too_long"}]
    left_out = {
        "sequences_too_long": sum(cut),
        "long_rationales": chosen.long,
        "unshared": int(not chosen.shared),
    }
    dropped = [common | {"dropped": reason} for reason, count in left_out.items() for _ in range(count)]
    return [*(common | columns for columns in _in_turn(used)), *dropped]


def _in_turn(turns: Sequence[Sequence[TokenSequence | None]]) -> Iterator[dict[str, object]]:
    """The columns of the sequences of all turns. A sequence that all turns have belongs to every epoch."""
    for first, *others in zip(*turns, strict=True):
        if all(other == first for other in others):
            if first is not None:
                yield _columns(first)
            continue
        yield from (_columns(one) | {"turn": turn} for turn, one in enumerate((first, *others)) if one is not None)


def _within_limits(sequence: TokenSequence, settings: TokenSettings) -> TokenSequence | None:
    """The sequence, or its label alone if the rationale that follows makes it too long. None if that is too long as well."""
    if sequence.tail and len(sequence.target) > settings.max_target_tokens:
        sequence = replace(sequence, target=sequence.target[: -sequence.tail], tail=0)
    fits = len(sequence.prompt) <= settings.max_input_tokens and len(sequence.target) <= settings.max_target_tokens
    return sequence if fits else None


def _columns(sequence: TokenSequence) -> dict[str, object]:
    columns = {name: getattr(sequence, name) for name in ("part", "tail", "probability", "prompt", "target")}
    if sequence.top_ids is None or sequence.top_logprobs is None:
        return columns
    top = {"top_ids": sequence.top_ids.ravel(), "top_logprobs": sequence.top_logprobs.ravel()}
    return {**columns, "top_positions": len(sequence.top_ids), **top}


def _teacher_tokens(labels: LabelParts, part: str) -> pa.Table:
    """The part of labels/token_logprobs with this name; empty if no row of it has distributions."""
    name = f"token_logprobs/{part}"
    if name not in labels.rows:
        return TOKEN_LOGPROBS.empty_table()
    return labels.open(name).read().select(TOKEN_LOGPROBS.names).cast(TOKEN_LOGPROBS)


def _structs_by_id(ids: pa.ChunkedArray, table: pa.Table) -> pa.StructArray:
    """For each id, the row of `table` as a struct; null if the table lacks it."""
    place = pc.index_in(ids.combine_chunks(), value_set=table["id"].combine_chunks())
    rows = table.drop_columns(["id"]).take(place)
    columns = [column.combine_chunks() for column in rows.columns]
    return pa.StructArray.from_arrays(columns, rows.column_names, mask=pc.is_null(place))


@lru_cache(maxsize=1)
def tokenizer_of(model: str, own: str | None, prompt: PromptKind) -> Any:
    """The model's tokenizer, or the student's own in a store."""
    if own is None:
        return student_tokenizer(model, prompt)
    with Store(own).local_copy() as folder:
        return student_tokenizer(str(folder))
