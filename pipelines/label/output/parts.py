"""The Parquet parts of labels: outcomes -> files in the folders of accepted rows, rejects, rationales and log-probabilities."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.data.label_manifest import PartFile
from pipelines.data.label_parts import CHANGED
from pipelines.data.reader import DataSplit
from pipelines.data.schema import LABEL, REJECT, TEXT_PARQUET, TOKEN_LOGPROBS_PARQUET
from pipelines.errors import UserError
from pipelines.label.answers.outcomes import rationales_table, texts_table, token_logprobs_table
from pipelines.storage.parquet import parquet_bytes
from pipelines.storage.store import Store

In = TypeVar("In")
Out = TypeVar("Out")
_REQUESTS = 16
_WHOLE_BYTES = 8 << 20
"""Smaller parts are read at once. Larger ones are read for their hash first, then the wanted columns, so that memory stays small."""
FOLDERS: dict[tuple[DataSplit, bool], tuple[str, pa.Schema]] = {
    ("train", True): ("data", LABEL),
    ("train", False): ("rejects", REJECT),
    ("heldout", True): ("heldout/data", LABEL),
    ("heldout", False): ("heldout/rejects", REJECT),
}
"""(split, accepted) -> folder and its schema."""
RATIONALES_FOLDER = "rationales"
TOKEN_LOGPROBS_FOLDER = "token_logprobs"
TEXTS_FOLDER = "texts"
RETRIED_FOLDER = "retried"
"""Rows with `engine_error` that a later commit replaces: their split and id. Empty once the labels are finished."""


_SETTINGS: dict[str, dict[str, Any]] = {TOKEN_LOGPROBS_FOLDER: TOKEN_LOGPROBS_PARQUET, TEXTS_FOLDER: TEXT_PARQUET}


def parquet_settings(folder: str) -> dict[str, Any]:
    """How the parts of a folder are written: arguments of `pyarrow.parquet.write_table` beside those of storage.parquet."""
    return dict(_SETTINGS.get(folder, {}))


def part_name(folder: str, number: int, ending: object = "") -> str:
    """The part `number` of a folder. `commits.part_number` reads the number back, whatever the ending."""
    return f"{folder}/part-{number:06d}{f'.{ending}' if ending else ''}.parquet"


def part_tables(outcomes: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """(folder, rows) of a table of outcomes, without the log-probabilities. Tables may be empty."""
    yield RATIONALES_FOLDER, rationales_table(outcomes)
    names = ["split", *dict.fromkeys([*LABEL.names, *REJECT.names]), "thoughts"]
    # Blocks have 64 rows or fewer, and a filter takes as long for one as for thousands of rows.
    outcomes = outcomes.select(names).combine_chunks()
    accepted = pc.is_null(outcomes["reason"])
    for (split, is_accepted), (folder, schema) in FOLDERS.items():
        chosen = pc.and_(pc.equal(outcomes["split"], split), accepted if is_accepted else pc.invert(accepted))
        rows = outcomes.select([*schema.names, "thoughts"]).filter(chosen)
        if is_accepted and rows["thoughts"].null_count < len(rows):  # teacher.keep_thoughts
            schema = schema.append(pa.field("thoughts", pa.string()))
        yield folder, pa.table([rows[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


def write_parts(
    store: Store, number: int, outcomes: pa.Table, retried: pa.Table | None = None, ending: str = ""
) -> dict[str, PartFile]:
    """Write the parts of one commit. Returns them by name.

    Args:
        retried: (split, id) of rows whose earlier `engine_error` these outcomes replace.
        ending: of the names of the parts.
    """
    tables = [
        *part_tables(outcomes),
        (TOKEN_LOGPROBS_FOLDER, token_logprobs_table(outcomes)),
        (TEXTS_FOLDER, texts_table(outcomes)),
        *([] if retried is None else [(RETRIED_FOLDER, retried)]),
    ]
    files = {}
    for folder, table in tables:
        if len(table):
            name = part_name(folder, number, ending)
            files[name] = write_part(store, name, table, **parquet_settings(folder))
    return files


def write_part(store: Store, name: str, table: pa.Table, **settings: object) -> PartFile:
    """Write one part."""
    data = parquet_bytes(table, **settings)
    store.write(name, data)
    return PartFile(rows=len(table), bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def in_parallel(call: Callable[[In], Out], items: Iterable[In], requests: int = _REQUESTS) -> Iterator[Out]:
    """Results of a call that waits for the store, in order. Some are made ahead, so that memory stays small.

    Args:
        requests: at the same time; twice as many results wait.
    """
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(requests) as pool:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) > 2 * requests:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def delete_all(store: Store, names: Iterable[str]) -> None:
    """Remove files. An object store takes several requests for each."""
    for _ in in_parallel(store.delete, names):
        pass


def read_part(store: Store, name: str, columns: list[str] | None, written: PartFile | None) -> pa.Table:
    """Columns of one part; None: all.

    Args:
        written: what its record says; None for files of 0.1.

    Raises:
        UserError: its content has changed.
    """
    with store.fs.open_input_file(store.path(name)) as file:
        source = file
        if written is not None:
            data, digest = file.read(_WHOLE_BYTES), hashlib.sha256()
            is_whole, chunk = len(data) < _WHOLE_BYTES, data
            while chunk:
                digest.update(chunk)
                chunk = b"" if is_whole else file.read(_WHOLE_BYTES)
            if digest.hexdigest() != written.sha256:
                remedy = "Run `raystill label RUN --check`: it labels the rows of this file again."
                raise UserError(store.shown(name), CHANGED, remedy)
            source = pa.BufferReader(data) if is_whole else file
        return pq.read_table(source, columns=columns)
