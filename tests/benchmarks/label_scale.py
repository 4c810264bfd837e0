"""Parts of labelling that grow with the corpus, without Ray: ids of the scan, the driver's loop, resuming.

python -m tests.benchmarks.label_scale ids 10000000        memory of the scan's process, and CPU per id; 1% repeat
python -m tests.benchmarks.label_scale loop 200000         CPU of the driver's own code per row, in tables of 64 rows
python -m tests.benchmarks.label_scale resume 20000        reading commits of 64 rows back, with key files and without
"""

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.config import LabellingConfig
from pipelines.label.early_stop import FirstRows, TaskFailures
from pipelines.label.engines.dataset import together
from pipelines.label.output.commits import PieceName
from pipelines.label.output.counts import Counts
from pipelines.label.output.id_index import Keys
from pipelines.label.output.recovery import finished_keys
from pipelines.label.output.writer import LabelWriter
from pipelines.label.reading import example_table
from pipelines.label.scan import PIECE_ROWS, CorpusScan, PieceRows
from pipelines.storage.store import Store
from pipelines.tasks import Example
from tests.benchmarks.capacity_simulation import corpus_rows, stub_outcomes

BLOCK = 64


def memory_mib() -> dict[str, int]:
    """Memory of this process by kind. RssFile is page cache."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Rss"))
    return {name.rstrip(":"): int(kib) >> 10 for name, kib, _ in lines}


def ids(count: int) -> dict[str, Any]:
    draw, ranges = np.random.default_rng(1), count // PIECE_ROWS
    scan, before, cpu = CorpusScan([1.0] * ranges, None, frozenset()), memory_mib(), time.process_time()

    def keys() -> Keys:
        return draw.integers(0, 2**63, size=(PIECE_ROWS, 2), dtype=np.int64).view("S16").reshape(-1)

    last = keys()
    for index in range(ranges):
        some = keys()
        some[: PIECE_ROWS // 100] = last[: PIECE_ROWS // 100]
        last = some
        asyncio.run(scan.decide([PieceRows(PieceName(index, 0), "train", PIECE_ROWS, True, some)]))
        scan.report(PieceName(index, 0), "train", PIECE_ROWS, True, None)
    grown = {kind: value - before[kind] for kind, value in memory_mib().items()}
    return {"ids": ranges * PIECE_ROWS, "grown MiB": grown, "us per id": 1e6 * (time.process_time() - cpu) / count}


def tables(count: int) -> Iterator[pa.Table]:
    rows = corpus_rows(count)
    while some := list(itertools.islice(rows, BLOCK)):
        yield stub_outcomes(example_table("train", [Example(r["id"], r["input"], r.get("label")) for r in some]))


def loop(count: int) -> dict[str, Any]:
    made, settings = list(tables(count)), LabellingConfig()
    with tempfile.TemporaryDirectory() as folder:
        writer = LabelWriter(Store(folder), {}, settings)
        first_rows, failures = FirstRows(settings, 256), TaskFailures(settings, Counts())
        cpu, thread = time.process_time(), time.thread_time()
        for table in together(iter(made)):
            writer.add(table)
            first_rows.check(table)
            failures.check(table, count)
        writer.commit()
        return {
            "us per row": 1e6 * (time.process_time() - cpu) / count,
            "of these in the loop's thread": 1e6 * (time.thread_time() - thread) / count,
        }


def resume(commits: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        writer = LabelWriter(Store(folder), {}, LabellingConfig())
        for table in tables(commits * BLOCK):
            writer.add(table)
            writer.commit()
        for how in ("with key files", "without"):
            began = time.monotonic()
            store = Store(folder)
            rows = sum(len(keys) for _, keys in finished_keys(store, LabelWriter(store, {}, LabellingConfig()).state))
            assert rows == commits * BLOCK
            found[f"{how}, s"] = time.monotonic() - began
            for file in Path(folder).glob("commits/keys-*"):
                file.unlink()
    return found


if __name__ == "__main__":
    print(json.dumps({"ids": ids, "loop": loop, "resume": resume}[sys.argv[1]](int(sys.argv[2]))))
