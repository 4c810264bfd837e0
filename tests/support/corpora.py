"""Corpora that tests write, and the run files that name them."""

import bz2
import csv
import gzip
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import recipes
from pipelines.config import RunConfig
from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.tasks import load_task, task_spec


def jsonl(rows: Iterable[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_jsonl(path: Path, rows: Iterable[Any]) -> str:
    """Write a JSON Lines file. Returns its path."""
    path.write_bytes(jsonl(rows))
    return str(path)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table in parts of 30 rows, in the format of the suffix. `stream.arrow` is a stream, other .arrow files are not."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=30)
        return
    with pa.OSFile(str(path), "wb") as file:
        make = pa.ipc.new_stream if path.name == "stream.arrow" else pa.ipc.new_file
        with make(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=30)


def write_corpus(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows in the format of the suffix, compressed if it ends in .gz, .zst or .bz2. `array.json` is one array."""
    if path.suffix in (".arrow", ".feather", ".parquet"):
        write_table(path, pa.Table.from_pylist(list(rows)))
        return
    content = _csv(rows) if ".csv" in path.name else jsonl(rows)
    if path.name.startswith("array"):
        content = json.dumps(list(rows), ensure_ascii=False, indent=1).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = pa.Codec("zstd").compress(content, asbytes=True)
    elif path.suffix == ".bz2":
        content = bz2.compress(content)
    path.write_bytes(content)


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def shipped_rows(name: str, count: int | None = None) -> list[dict[str, str]]:
    """The first rows of a shipped file, such as `word_problems/train`; None: all. Beyond its end, rows repeat with a number before."""
    file = Path(recipes.__file__).parent / "corpora" / f"{name}.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for i in range(len(rows), count or 0):
        row, turn = rows[i % len(rows)], i // len(rows)
        rows.append({**row, "id": f"{row['id']}-{turn}", "input": f"{turn}. {row['input']}"})
    return rows[:count]


def train_rows(count: int) -> list[dict[str, str]]:
    """Word problems of the quickstart."""
    return shipped_rows("word_problems/train", count)


def word_problem_rows(count: int) -> list[dict[str, str]]:
    """Readable rows of the task `arithmetic`, with the ids r0, r1, ..."""
    return [{"id": f"r{i}", "input": f"Anne has {i} äpples. How many?", "label": f"{i} + 0"} for i in range(count)]


def corpus_ids(named: str | list[str]) -> list[str]:
    """The ids of all rows that a corpus setting names, for the task `arithmetic`."""
    task = load_task(task_spec("arithmetic"))
    splits = corpus_splits(corpus_files(named, "corpus.train"), "train")
    return [row.id for split in splits for row in read_split(split, task, {})]


def run_config(
    teacher: Mapping[str, Any] | None = None, *, train: str = "train.jsonl", output: str = "out", **sections: Any
) -> RunConfig:
    """A run of the task `arithmetic`. Further sections and keys of `corpus` replace the defaults."""
    corpus = {"train": train, **sections.pop("corpus", {})}
    tree = {"name": "small", "output": output, "task": "arithmetic", "student": {"model": "some/model"}, **sections}
    return RunConfig.model_validate({**tree, "corpus": corpus, "teacher": teacher or {"engine": "echo"}})
