"""Tokenise once: labels -> one Arrow file of token ids, which every worker maps into memory and reads by the batch plan.

In: `labels/data`. Out, in OUTPUT/training/<fingerprint>/tokens: `tokens.arrow` (Arrow IPC, uncompressed) and, written last,
`counts.json`. One row:

    {"id": "apples-17", "validation": false, "too_long": false, "label_prompt": [58, 1133, ...], "label_target": [20, 2],
     "rationale_prompt": [58, 3182, ...], "rationale_target": [10841, 8, ...]}

Ray Data tokenises (a small corpus: this process); this process writes what streams out of it, so that there is one file, and no
moment at which a reader meets half of it. Arrow IPC rather than Parquet: a mapped file costs a worker no memory of its own,
and any row is reached at once. Row order means nothing: examples are numbered in the order of their ids.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pipelines.artifacts import Store
from pipelines.corpus import is_validation
from pipelines.decode import Family, encode_prompt, encode_target, prompt_of
from pipelines.student_init import student_tokenizer
from pipelines.train.batches import PARTS, Ints, Lengths

_IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("validation", pa.bool_(), nullable=False),
        pa.field("too_long", pa.bool_(), nullable=False),
        *(pa.field(f"{part}_{side}", _IDS, nullable=False) for part in PARTS for side in ("prompt", "target")),
    ]
)
FILE, COUNTS = "tokens.arrow", "counts.json"
_BLOCK_ROWS = 8192
# Up to here this process tokenises by itself, in seconds: a worker takes longer to import transformers.
_ROWS_HERE = 20_000


@dataclass(frozen=True)
class TokenSettings:
    """What decides the tokens of a row."""

    model: str
    family: Family
    method: str
    parts: tuple[str, ...]
    """The parts that are trained; the others have empty sequences."""
    label_column: Literal["gold", "label"]
    validation_share: float
    """Share of the rows that is held out by hash of the id; 0 where the validation examples are a file of their own."""
    max_input_tokens: int
    max_target_tokens: int


@dataclass(frozen=True)
class TokenCounts:
    """What came of the rows. `train` and `validation` count the rows that are used, `too_long` those that are not."""

    train: int
    validation: int
    too_long: int
    rationales: int
    """Training rows that have a rationale to learn."""
    longest: int
    """Tokens of the longest sequence, prompt and target together."""
    largest: int
    """Tokens of the largest example, its sequences together."""


def encode_table(table: pa.Table, settings: TokenSettings) -> pa.Table:
    """Rows of labels -> rows of tokens. A row of which one sequence is above its limit is marked `too_long`, never cut."""
    tokenizer = _tokenizer(settings.model)
    return pa.Table.from_pylist([_encode(row, tokenizer, settings) for row in table.to_pylist()], schema=SCHEMA)


def tokenise(labels: Store, settings: TokenSettings, target: Store) -> TokenCounts:
    """Tokenise all rows of a labels artifact into `target`; what an earlier run has finished there is used as it is."""
    if target.exists(COUNTS):
        return TokenCounts(**json.loads(target.read(COUNTS)))
    import pyarrow.dataset as ds

    files = [labels.path(name) for name in labels.files("data", ".parquet")]
    columns = ["id", "input", settings.label_column, "rationale"]
    dataset = ds.dataset(files, filesystem=labels.fs, format="parquet")
    if dataset.count_rows() <= _ROWS_HERE:
        tables = (pa.Table.from_batches([batch]) for batch in dataset.to_batches(columns=columns))
        return write_tokens((encode_table(table, settings) for table in tables), target)
    import ray

    rows = ray.data.read_parquet(files, filesystem=labels.fs, columns=columns)
    # Ray reads small files into one block: cut it, so that every core of the cluster can tokenise.
    blocks = rows.repartition(target_num_rows_per_block=_BLOCK_ROWS)
    encoded = blocks.map_batches(encode_table, fn_args=(settings,), batch_format="pyarrow", batch_size=None)
    return write_tokens(encoded.iter_batches(batch_format="pyarrow", batch_size=None), target)


def write_tokens(tables: Iterable[pa.Table], target: Store) -> TokenCounts:
    """Write tables of tokens as the one file of `target`, and its counts last."""
    train = validation = too_long = rationales = longest = largest = 0
    with tempfile.TemporaryDirectory() as folder:
        with pa.ipc.new_file(Path(folder) / FILE, SCHEMA) as writer:
            for table in tables:
                chunk = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
                kept = chunk.filter(pa.compute.invert(chunk["too_long"])).combine_chunks()
                too_long += len(chunk) - len(kept)
                if not len(kept):
                    continue
                sizes, held_out = _lengths([kept]), kept["validation"].to_numpy()
                train, validation = train + int((~held_out).sum()), validation + int(held_out.sum())
                rationales += int((sizes.target[1::2][~held_out] > 0).sum())
                longest, largest = max(longest, int(sizes.real.max())), max(largest, int(sizes.per_example.max()))
                writer.write_table(kept)
        target.put_folder(folder)
    counts = TokenCounts(train, validation, too_long, rationales, longest, largest)
    target.write(COUNTS, json.dumps(asdict(counts)).encode())
    return counts


class Tokens:
    """The tokens of all examples, numbered in the order of their ids. Sequence 2e is example e's label, 2e + 1 its rationale."""

    def __init__(self, store: Store, cache: Path) -> None:
        """Map the file of a store. From an object store it is first copied into the folder `cache`."""
        path = Path(store.path(FILE))
        if not store.is_local:
            path = cache / FILE
            with store.fs.open_input_stream(store.path(FILE)) as source, open(path, "wb") as copy:
                while chunk := source.read(1 << 24):
                    copy.write(chunk)
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        batches = self._table.to_batches()
        order = pa.compute.sort_indices(self._table["id"]).to_numpy().astype(np.int64)
        self._columns = {name: _Column(batches, name, order) for name in SCHEMA.names[3:]}
        held_out = self._table["validation"].to_numpy()[order]
        self.train: Ints = np.flatnonzero(~held_out)
        self.validation: Ints = np.flatnonzero(held_out)
        by_row = _lengths(batches)
        both = np.stack([2 * order, 2 * order + 1], axis=1).ravel()
        self.lengths = Lengths(by_row.prompt[both], by_row.target[both])

    def prompt(self, sequence: int) -> Any:
        """Token ids of what the student reads. int32 (length,)."""
        return self._columns[f"{PARTS[sequence % 2]}_prompt"][sequence // 2]

    def target(self, sequence: int) -> Any:
        """Token ids of what the student learns to write, with its end token. int32 (length,)."""
        return self._columns[f"{PARTS[sequence % 2]}_target"][sequence // 2]


class _Column:
    """One list column in the order of the examples, without a copy of its values."""

    def __init__(self, batches: list[Any], name: str, order: Ints) -> None:
        self._values = [batch[name].values.to_numpy() for batch in batches]
        self._offsets = [batch[name].offsets.to_numpy() for batch in batches]
        sizes = [batch.num_rows for batch in batches]
        self._batch = np.repeat(np.arange(len(batches)), sizes)[order]
        self._row = np.concatenate([np.arange(size) for size in sizes])[order] if sizes else order

    def __getitem__(self, example: int) -> Any:
        batch, row = self._batch[example], self._row[example]
        offsets = self._offsets[batch]
        return self._values[batch][offsets[row] : offsets[row + 1]]


def _encode(row: dict[str, Any], tokenizer: Any, settings: TokenSettings) -> dict[str, Any]:
    texts = {"label": row[settings.label_column], "rationale": row["rationale"]}
    encoded: dict[str, list[int]] = {}
    for part in PARTS:
        wanted = part in settings.parts and bool(texts[part])
        prompt = prompt_of(settings.method, part, row["input"]) if wanted else ""  # type: ignore[arg-type]
        encoded[f"{part}_prompt"] = encode_prompt(tokenizer, settings.family, prompt) if wanted else []
        encoded[f"{part}_target"] = encode_target(tokenizer, texts[part]) if wanted else []
    too_long = any(len(encoded[f"{part}_prompt"]) > settings.max_input_tokens for part in PARTS)
    too_long |= any(len(encoded[f"{part}_target"]) > settings.max_target_tokens for part in PARTS)
    share = settings.validation_share
    held_out = share > 0 and is_validation(row["id"], share)
    return {"id": row["id"], "validation": held_out, "too_long": too_long, **encoded}


def _lengths(batches: list[Any]) -> Lengths:
    def of(side: str) -> Ints:
        columns = [
            np.concatenate([_sizes(b[f"{part}_{side}"]) for b in batches] or [np.zeros(0, np.int64)]) for part in PARTS
        ]
        return np.stack(columns, axis=1).ravel()

    return Lengths(of("prompt"), of("target"))


def _sizes(column: Any) -> Ints:
    return np.asarray(pa.compute.list_value_length(column).to_numpy(zero_copy_only=False), dtype=np.int64)


@lru_cache(maxsize=1)
def _tokenizer(model: str) -> Any:
    return student_tokenizer(model)
