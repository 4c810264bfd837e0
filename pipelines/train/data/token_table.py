"""Tokenise once: labels -> one Arrow file of token ids, which every worker maps into memory and reads by the batch plan.

In: `labels/data` (and `labels/token_logprobs` for token-kd). Out, in OUTPUT/training/<fingerprint>/tokens: `tokens.arrow` (Arrow IPC,
uncompressed) and, written last, `counts.json`. One row for each sequence, those of an example one after the other:

    {"id": "apples-17", "validation": false, "dropped": null, "part": 0, "probability": null, "prompt": [58, 1133, ...],
     "target": [20, 2], "top_ids": [], "top_logprobs": []}

Ray Data tokenises (a small corpus: this process); this process writes what streams out of it, so that there is one file, and no
moment at which a reader meets half of it. Arrow IPC rather than Parquet: a mapped file costs a worker no memory of its own,
and any row is reached at once. The order of examples means nothing: they are numbered in the order of their ids.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.data.heldout import is_validation
from pipelines.data.schema import TOKEN_LOGPROBS
from pipelines.storage.store import Store
from pipelines.students.init import student_tokenizer
from pipelines.tasks import Task, load_task
from pipelines.train.data.collate import TokenSequence
from pipelines.train.data.lengths import Ints, Lengths
from pipelines.train.data.sequences import TokenSettings, in_fraction, read_row, sequences_of
from pipelines.train.loss_terms import PARTS, TERMS

_IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("validation", pa.bool_(), nullable=False),
        pa.field("dropped", pa.string()),  # too_long | nothing_to_learn: the example is not used
        pa.field("part", pa.int8(), nullable=False),
        pa.field("probability", pa.float32()),
        pa.field("prompt", _IDS, nullable=False),
        pa.field("target", _IDS, nullable=False),
        pa.field("top_ids", _IDS, nullable=False),  # (U x k,) row by row
        pa.field("top_logprobs", pa.list_(pa.float32()), nullable=False),
        pa.field("top_positions", pa.int32(), nullable=False),  # U
    ]
)
FILE, COUNTS = "tokens.arrow", "counts.json"
# Up to here this process tokenises by itself, in seconds: a worker takes longer to import transformers.
_ROWS_HERE = 20_000
_BATCH_ROWS, _BATCH_ROWS_WITH_TOPS = 8192, 512
_COLUMNS = ["id", "input", "gold", "label", "rationale", "soft_label"]


@dataclass(frozen=True)
class TokenCounts:
    """What came of the rows. `train` and `validation` count the rows that are used."""

    train: int
    validation: int
    too_long: int
    """Rows of which a sequence is above its limit: not used."""
    nothing_to_learn: int
    """Rows without what the method learns from: not used."""
    rationales: int
    """Training rows that have a rationale to learn."""
    compared: int
    """Training rows with several labels to compare, for soft-label."""
    widest: int
    """Padded tokens that a micro-batch must have room for: of the longest sequence, or of all that stay together."""
    largest: int
    """Tokens of the largest training example, its sequences together."""


def encode_table(table: pa.Table, settings: TokenSettings) -> pa.Table:
    """Rows of labels -> rows of tokens. A row of which one sequence is above its limit is dropped, never cut."""
    tokenizer, task = _tokenizer(settings.model, settings.tokenizer), load_task(settings.task)
    rows = [found for row in table.to_pylist() for found in _encode(row, tokenizer, settings, task)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def tokenise(labels: Store, settings: TokenSettings, target: Store, more: Iterable[pa.Table] = ()) -> TokenCounts:
    """Tokenise all rows of a labels artifact into `target`; what an earlier run has finished there is used as it is.

    Args:
        more: rows in `SCHEMA` to be added: validation examples that are no labels.
    """
    if target.exists(COUNTS):
        return TokenCounts(**json.loads(target.read(COUNTS)))
    parts = labels.files("data", ".parquet")
    if sum(_rows_in(labels, name) for name in parts) <= _ROWS_HERE:
        here = (t for name in parts for t in encode_part(labels, name, settings))
        return write_tokens(chain(here, more), target, settings)
    import ray

    # By file and not by Ray's reader: a part of labels/token_logprobs belongs to the part of labels/data of its name.
    items = ray.data.from_items([{"part": name} for name in parts], override_num_blocks=len(parts))
    encoded = items.map_batches(_EncodeParts(labels, settings), batch_size=1, batch_format="numpy")
    tables = encoded.iter_batches(batch_format="pyarrow", batch_size=None)
    return write_tokens(chain(tables, more), target, settings)


class _EncodeParts:
    """What Ray Data calls for every part of the labels."""

    def __init__(self, labels: Store, settings: TokenSettings) -> None:
        self._labels, self._settings = labels, settings

    def __call__(self, batch: Any) -> Iterator[pa.Table]:
        yield SCHEMA.empty_table()
        for name in batch["part"]:
            yield from encode_part(self._labels, str(name), self._settings)


def encode_part(labels: Store, name: str, settings: TokenSettings) -> Iterator[pa.Table]:
    """The tokens of one file of labels/data, a batch of its rows at a time."""
    tops = _tops(labels, name.rpartition("/")[2]) if settings.needs_token_logprobs else None
    rows = _BATCH_ROWS if tops is None else _BATCH_ROWS_WITH_TOPS
    with labels.fs.open_input_file(labels.path(name)) as file:
        for batch in pq.ParquetFile(file).iter_batches(rows, columns=_COLUMNS):
            table = pa.Table.from_batches([batch])
            if tops is not None:
                table = table.append_column("top", _top_of(table["id"], tops))
            yield encode_table(table, settings)


def _tops(labels: Store, part: str) -> pa.Table:
    """The teacher's likeliest tokens: the part of labels/token_logprobs with this name."""
    if not labels.exists(f"token_logprobs/{part}"):
        return TOKEN_LOGPROBS.empty_table()
    with labels.fs.open_input_file(labels.path(f"token_logprobs/{part}")) as file:
        return pq.read_table(file).select(TOKEN_LOGPROBS.names).cast(TOKEN_LOGPROBS)


def _top_of(ids: Any, tops: pa.Table) -> pa.StructArray:
    """For each id its row of `tops` as a struct, null where it has none."""
    place = pc.index_in(ids.combine_chunks(), value_set=tops["id"].combine_chunks())
    found = tops.drop_columns(["id"]).take(place)
    columns = [column.combine_chunks() for column in found.columns]
    return pa.StructArray.from_arrays(columns, found.column_names, mask=pc.is_null(place))


def _rows_in(labels: Store, name: str) -> int:
    with labels.fs.open_input_file(labels.path(name)) as file:
        return int(pq.read_metadata(file).num_rows)


def write_tokens(tables: Iterable[pa.Table], target: Store, settings: TokenSettings) -> TokenCounts:
    """Write tables of tokens as the one file of `target`, and its counts last. An example's rows are all in one table."""
    seen = dict.fromkeys(TokenCounts.__dataclass_fields__, 0)
    with tempfile.TemporaryDirectory() as folder:
        with pa.ipc.new_file(Path(folder) / FILE, SCHEMA) as writer:
            for table in tables:
                chunk = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
                for reason in ("too_long", "nothing_to_learn"):
                    seen[reason] += int(pc.sum(pc.equal(chunk["dropped"], reason)).as_py() or 0)
                kept = chunk.filter(pc.is_null(chunk["dropped"])).combine_chunks()
                if not len(kept):
                    continue
                _count(kept, settings, seen)
                writer.write_table(kept)
        target.put_folder(folder)
    counts = TokenCounts(**seen)
    target.write(COUNTS, json.dumps(asdict(counts)).encode())
    return counts


def _count(table: pa.Table, settings: TokenSettings, seen: dict[str, int]) -> None:
    lengths = _lengths(table, settings.compares_labels)
    first = lengths.starts[:-1]
    held_out = table["validation"].to_numpy()[first]
    seen["train"] += int((~held_out).sum())
    seen["validation"] += int(held_out.sum())
    seen["compared"] += int((~held_out & (np.diff(lengths.starts) > 1)).sum())
    rationale = table["part"].to_numpy() == PARTS.index("rationale")
    seen["rationales"] += int((rationale & ~table["validation"].to_numpy()).sum())
    rows, columns, _ = lengths.widths(*lengths.units(np.arange(len(first))), settings.family)
    seen["widest"] = max(seen["widest"], int((rows * columns).max()))
    if not held_out.all():
        seen["largest"] = max(seen["largest"], int(lengths.per_example[~held_out].max()))


class Tokens:
    """The sequences of all examples. Examples are numbered in the order of their ids, sequences on from example to example."""

    def __init__(self, store: Store, cache: Path, *, together: bool = False) -> None:
        """Map the file of a store. From an object store it is first copied into the folder `cache`.

        Args:
            together: as in `Lengths`.
        """
        path = Path(store.path(FILE))
        if not store.is_local:
            path = cache / FILE
            with store.fs.open_input_stream(store.path(FILE)) as source, open(path, "wb") as copy:
                while chunk := source.read(1 << 24):
                    copy.write(chunk)
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        batches = self._table.to_batches()
        # Stable: the sequences of an example keep their order.
        order = pc.sort_indices(self._table["id"]).to_numpy().astype(np.int64)
        small = self._table.select(["id", "validation", "part", "probability", "top_positions"]).take(order)
        sizes = {name: _sizes(self._table[name])[order] for name in ("prompt", "target")}
        self.lengths = Lengths(sizes["prompt"], sizes["target"], _starts(small["id"]), together)
        held_out = small["validation"].to_numpy()[self.lengths.starts[:-1]]
        self.train: Ints = np.flatnonzero(~held_out)
        self.validation: Ints = np.flatnonzero(held_out)
        self._ids = small["id"]
        self._part = small["part"].to_numpy()
        self._probability = small["probability"].to_numpy()
        self._positions = small["top_positions"].to_numpy()
        self._example = np.repeat(np.arange(len(held_out)), np.diff(self.lengths.starts))
        self._columns = {
            name: _Column(batches, name, order) for name in ("prompt", "target", "top_ids", "top_logprobs")
        }

    def sequence(self, sequence: int) -> TokenSequence:
        """A sequence, its token ids without a copy."""
        positions, probability = int(self._positions[sequence]), float(self._probability[sequence])
        tops = [self._columns[name][sequence].reshape(positions, -1) if positions else None for name in _TOPS]
        return TokenSequence(
            self._columns["prompt"][sequence],
            self._columns["target"][sequence],
            int(self._part[sequence]),
            int(self._example[sequence]),
            None if np.isnan(probability) else probability,
            *tops,
        )

    def ids(self, examples: Ints) -> list[str]:
        """The ids of examples."""
        return [str(self._ids[int(first)].as_py()) for first in self.lengths.starts[examples]]

    def term_counts(self, examples: Ints) -> dict[str, float]:
        """What each term of the loss (objective.TERMS) counts in these examples."""
        sequences = self.lengths.of(examples)
        target, part = self.lengths.target[sequences], self._part[sequences]
        counts = {name: float(target[part == index].sum()) for index, name in enumerate(PARTS)}
        counts["soft"] = float(len(examples)) if self.lengths.together else 0.0
        counts["divergence"] = float(self._positions[sequences].sum())
        return {term: counts[term] for term in TERMS}

    def compare_labels(self, examples: Ints) -> bool:
        """Whether any of the examples holds several labels to be compared (soft-label)."""
        return self.lengths.together and bool((np.diff(self.lengths.starts)[examples] > 1).any())


_TOPS = ("top_ids", "top_logprobs")


class _Column:
    """One list column in the order of the examples, without a copy of its values."""

    def __init__(self, batches: list[Any], name: str, order: Ints) -> None:
        self._values = [batch[name].values.to_numpy() for batch in batches]
        self._offsets = [batch[name].offsets.to_numpy() for batch in batches]
        sizes = [batch.num_rows for batch in batches]
        self._batch = np.repeat(np.arange(len(batches)), sizes)[order]
        self._row = np.concatenate([np.arange(size) for size in sizes])[order] if sizes else order

    def __getitem__(self, sequence: int) -> npt.NDArray[Any]:
        batch, row = self._batch[sequence], self._row[sequence]
        offsets = self._offsets[batch]
        return np.asarray(self._values[batch][offsets[row] : offsets[row + 1]])


def _encode(row: dict[str, Any], tokenizer: Any, settings: TokenSettings, task: Task) -> list[dict[str, Any]]:
    share = settings.validation_share
    held_out = share > 0 and is_validation(row["id"], share)
    if not (held_out or in_fraction(row["id"], settings.fraction, settings.seed)):
        return []
    common = {
        "id": row["id"], "validation": held_out, "dropped": None, "part": -1,
        "probability": None, "prompt": [], "target": [], "top_ids": [], "top_logprobs": [], "top_positions": 0,
    }  # fmt: skip
    found = sequences_of(read_row(row, settings.label_column), tokenizer, settings, task)
    if not found:
        return [common | {"dropped": "nothing_to_learn"}]
    if any(len(s.prompt) > settings.max_input_tokens or len(s.target) > settings.max_target_tokens for s in found):
        return [common | {"dropped": "too_long"}]
    return [common | _columns(sequence) for sequence in found]


def _columns(sequence: TokenSequence) -> dict[str, Any]:
    columns = {name: getattr(sequence, name) for name in ("part", "probability", "prompt", "target")}
    if sequence.top_ids is None:
        return columns
    return {**columns, "top_positions": len(sequence.top_ids), **{n: getattr(sequence, n).ravel() for n in _TOPS}}


def _lengths(table: pa.Table, together: bool) -> Lengths:
    """Of a table whose rows of one example follow each other."""
    return Lengths(_sizes(table["prompt"]), _sizes(table["target"]), _starts(table["id"]), together)


def _starts(ids: Any) -> Ints:
    """Where the runs of equal ids begin, and the end of the last."""
    if not len(ids):
        return np.zeros(1, dtype=np.int64)
    ends = pc.run_end_encode(ids.combine_chunks(), run_end_type=pa.int64()).run_ends.to_numpy()
    return np.concatenate([np.zeros(1, dtype=np.int64), ends])


def _sizes(column: Any) -> Ints:
    return np.asarray(pc.list_value_length(column).to_numpy(zero_copy_only=False), dtype=np.int64)


@lru_cache(maxsize=1)
def _tokenizer(model: str, own: str | None) -> Any:
    if own is None:
        return student_tokenizer(model)
    with Store(own).local_copy() as folder:
        return student_tokenizer(str(folder))
