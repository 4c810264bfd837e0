"""The token table: one Arrow file that every worker maps into memory and reads by the batch plan.

It lies in OUTPUT/training/<fingerprint>/tokens: `tokens.arrow` (Arrow IPC, uncompressed), and `counts.json`, which is written last. Each
sequence is a row, and the sequences of an example follow each other:

    {"id": "apples-17", "validation": false, "dropped": null, "part": 0, "tail": 0, "probability": null,
     "turn": -1, "prompt": [58, 1133, ...], "target": [20, 2], "top_ids": [], "top_logprobs": []}

Arrow IPC rather than Parquet, because a mapped file takes no memory of its own in a worker and gives access to any row. The order of
examples in the file has no meaning: they are numbered by their sorted ids.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.storage.store import Store
from pipelines.students.decoding import Family
from pipelines.train.data.collate import TokenSequence
from pipelines.train.data.lengths import Ints, Lengths
from pipelines.train.data.rotation import Rotation
from pipelines.train.loss_terms import PARTS, TERMS

_IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("validation", pa.bool_(), nullable=False),
        pa.field("dropped", pa.string()),  # see TokenCounts; null: the sequence is used
        pa.field("part", pa.int8(), nullable=False),
        pa.field("tail", pa.int32(), nullable=False),  # see TokenSequence
        pa.field("turn", pa.int16(), nullable=False),  # see Rotation
        pa.field("probability", pa.float32()),
        pa.field("prompt", _IDS, nullable=False),
        pa.field("target", _IDS, nullable=False),
        pa.field("top_ids", _IDS, nullable=False),  # (U x k,) row by row
        pa.field("top_logprobs", pa.list_(pa.float32()), nullable=False),
        pa.field("top_positions", pa.int32(), nullable=False),  # U
    ]
)
FILE, COUNTS = "tokens.arrow", "counts.json"
DROPPED = ("too_long", "nothing_to_learn", "sequences_too_long", "long_rationales", "unshared")
"""Reasons in the column `dropped`, which are fields of TokenCounts."""
_RATIONALE = PARTS.index("rationale")
_TOP_COLUMNS = ("top_ids", "top_logprobs")


@dataclass(frozen=True)
class TokenCounts:
    """Counts of the rows. `train` and `validation` count the rows that are used."""

    train: int
    validation: int
    too_long: int
    """Rows whose label, or only sequence, is above its limit: not used."""
    nothing_to_learn: int
    """Rows without what the method learns: not used."""
    rationales: int
    """Training rows with a rationale to learn."""
    compared: int
    """Training rows with several labels to compare, for soft-label."""
    widest: int
    """Padded tokens that a micro-batch must have room for: the longest sequence, or all sequences that stay together."""
    largest: int
    """Tokens of the largest training example, over all its sequences."""
    sequences_too_long: int = 0
    """Further sequences above their limit, such as rationales. Their rows are used without them."""
    tokens: int = 0
    """Unpadded tokens of all training examples in one epoch. If rationales are learned in turn, a mean."""
    rotating: int = 0
    """Training rows with several rationales to learn in turn."""
    long_rationales: int = 0
    """Rationales of training rows with more than `student.rationales.max_words` words: not learned."""
    unshared: int = 0
    """Training rows outside `student.rationales.share`: their label alone is learned."""


def write_tokens(tables: Iterable[pa.Table], target: Store, family: Family, *, grouped: bool) -> TokenCounts:
    """Write tables in `SCHEMA` as the one file of `target`, then its counts. An example's rows must be in one table.

    Args:
        grouped: as in `Lengths`.
    """
    counts = dict.fromkeys(TokenCounts.__dataclass_fields__, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        with pa.ipc.new_file(Path(folder) / FILE, SCHEMA) as writer:
            for table in tables:
                chunk = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
                for reason in DROPPED:
                    counts[reason] += int(pc.sum(pc.equal(chunk["dropped"], reason)).as_py() or 0)
                kept = chunk.filter(pc.is_null(chunk["dropped"])).combine_chunks()
                if len(kept):
                    lengths = Lengths(_sizes(kept["prompt"]), _sizes(kept["target"]), _starts(kept["id"]), grouped)
                    _count(kept, Rotation(lengths, _turns(kept)), family, counts)
                    writer.write_table(kept)
        target.put_folder(folder)
    result = TokenCounts(**{name: round(count) for name, count in counts.items()})
    target.write(COUNTS, json.dumps(asdict(result)).encode())
    return result


def _count(table: pa.Table, rotation: Rotation, family: Family, counts: dict[str, float]) -> None:
    lengths, turn = rotation.lengths, rotation.turn
    first = lengths.starts[:-1]
    held_out = table["validation"].to_numpy()[first]
    train = np.flatnonzero(~held_out)
    counts["train"] += int((~held_out).sum())
    counts["validation"] += int(held_out.sum())
    counts["compared"] += int((~held_out & (np.diff(lengths.starts) > 1)).sum())
    rationale = (table["part"].to_numpy() == _RATIONALE) | (table["tail"].to_numpy() > 0)
    counts["rationales"] += int((rationale & (turn <= 0) & ~table["validation"].to_numpy()).sum())
    counts["rotating"] += int((turn == 1).sum())
    rows, columns, _ = lengths.widths(*lengths.units(np.arange(len(first))), family)
    counts["widest"] = max(counts["widest"], int((rows * columns).max()))
    if len(train):
        counts["tokens"] += rotation.mean_tokens(train)
        counts["largest"] = max(counts["largest"], rotation.largest(train))


class Tokens:
    """The sequences of all examples. Examples are numbered by sorted id, sequences consecutively from example to example."""

    def __init__(self, store: Store, cache: Path, *, grouped: bool = False) -> None:
        """Map the file of a store. A file of an object store is first copied into the folder `cache`.

        Args:
            grouped: as in `Lengths`.
        """
        path = Path(store.path(FILE))
        if not store.is_local:
            path = cache / FILE
            with store.fs.open_input_stream(store.path(FILE)) as source, open(path, "wb") as copy:
                while chunk := source.read(1 << 24):
                    copy.write(chunk)
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        batches = table.to_batches()
        # Stable: the sequences of an example keep their order.
        order = pc.sort_indices(table["id"]).to_numpy().astype(np.int64)
        small = table.select(["validation", "part", "tail", "turn", "probability", "top_positions"]).take(order)
        prompt, target = (_sizes(table[name])[order] for name in ("prompt", "target"))
        self.lengths = Lengths(prompt, target, _starts(table["id"].take(order)), grouped)
        self.rotation = Rotation(self.lengths, _turns(small))
        held_out = small["validation"].to_numpy()[self.lengths.starts[:-1]]
        self.train: Ints = np.flatnonzero(~held_out)
        self.validation: Ints = np.flatnonzero(held_out)
        self._part, self._tail = small["part"].to_numpy(), small["tail"].to_numpy()
        self._probability = small["probability"].to_numpy()
        self._positions = small["top_positions"].to_numpy()
        # Every worker has its own: 32-bit numbers, and one place in the file for all columns of a sequence.
        sizes = [batch.num_rows for batch in batches]
        self._batch = np.repeat(np.arange(len(batches), dtype=np.int32), sizes)[order]
        self._row = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])[order] if sizes else order
        self._ids = [batch["id"] for batch in batches]
        self._columns = {name: _ListColumn(batches, name) for name in ("prompt", "target", *_TOP_COLUMNS)}

    def sequence(self, sequence: int) -> TokenSequence:
        """A sequence. Its token ids are views of the mapped file."""
        positions, probability = int(self._positions[sequence]), float(self._probability[sequence])
        at = int(self._batch[sequence]), int(self._row[sequence])
        top = [self._columns[name].at(*at).reshape(positions, -1) if positions else None for name in _TOP_COLUMNS]
        return TokenSequence(
            self._columns["prompt"].at(*at),
            self._columns["target"].at(*at),
            int(self._part[sequence]),
            int(np.searchsorted(self.lengths.starts, sequence, side="right")) - 1,
            int(self._tail[sequence]),
            None if np.isnan(probability) else probability,
            *top,
        )

    def ids(self, examples: Ints) -> list[str]:
        """The ids of examples."""
        firsts = self.lengths.starts[examples]
        return [str(self._ids[self._batch[first]][int(self._row[first])].as_py()) for first in firsts]

    def term_counts(self, examples: Ints) -> dict[str, float]:
        """What each term of the loss (loss_terms.TERMS) counts in these examples in one epoch, as a mean over a whole rotation."""
        sequences = self.lengths.of(examples)
        part, share = self._part[sequences], self.rotation.shares[sequences]
        tail = self._tail[sequences] * share
        head = self.lengths.target[sequences] * share - tail
        counts = {name: float(head[part == index].sum()) for index, name in enumerate(PARTS)}
        counts["rationale"] += float(tail.sum())
        counts["soft"] = float(len(examples)) if self.lengths.grouped else 0.0
        counts["divergence"] = float(self._positions[sequences].sum())
        return {term: counts[term] for term in TERMS}

    def compare_labels(self, examples: Ints) -> bool:
        """True if any of the examples has several labels to compare (soft-label)."""
        return self.lengths.grouped and bool((np.diff(self.lengths.starts)[examples] > 1).any())


class _ListColumn:
    """A list column, without a copy of its values."""

    def __init__(self, batches: list[pa.RecordBatch], name: str) -> None:
        self._values = [batch[name].values.to_numpy() for batch in batches]
        self._offsets = [batch[name].offsets.to_numpy() for batch in batches]

    def at(self, batch: int, row: int) -> npt.NDArray[Any]:
        """The list in a row of a batch of the file."""
        first, end = self._offsets[batch][row : row + 2]
        return np.asarray(self._values[batch][first:end])


def _starts(ids: pa.ChunkedArray) -> Ints:
    """The first position of each run of equal ids, and the end of the last run."""
    if not len(ids):
        return np.zeros(1, dtype=np.int64)
    ends = pc.run_end_encode(ids.combine_chunks(), run_end_type=pa.int64()).run_ends.to_numpy()
    return np.concatenate([np.zeros(1, dtype=np.int64), ends])


def _turns(table: pa.Table) -> Ints:
    return np.asarray(table["turn"].to_numpy(), dtype=np.int64)


def _sizes(column: pa.ChunkedArray) -> Ints:
    return np.asarray(pc.list_value_length(column).to_numpy(zero_copy_only=False), dtype=np.int64)
