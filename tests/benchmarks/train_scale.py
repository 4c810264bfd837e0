"""What does a training of many examples cost each worker, from finished tokens to its first step? Seconds, and memory of its own.

Examples are made up: two sequences each, of log-normal lengths (medians 74 and 40 tokens), 65,536 tokens a step on 8 workers. Nothing is
trained.

    python -m tests.benchmarks.train_scale --examples 1000000
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.storage.store import Store
from pipelines.train.data.batch_plan import BatchPlan
from pipelines.train.data.micro_batching import COSTS
from pipelines.train.data.token_table import SCHEMA, Tokens, write_tokens
from tests.benchmarks.results import publish

_PER_TABLE = 50_000


def tables(examples: int) -> Iterator[pa.Table]:
    """Examples in token_table.SCHEMA, one in a hundred held out."""
    rng = np.random.default_rng(0)
    for first in range(0, examples, _PER_TABLE):
        count = 2 * min(_PER_TABLE, examples - first)
        odd, numbers = np.arange(count) % 2, first + np.arange(count) // 2
        prompt = np.clip(rng.lognormal(4.3, 0.5, count).astype(int), 5, 256)
        target = np.where(odd == 0, 4, np.clip(rng.lognormal(3.7, 0.5, count).astype(int), 5, 128))
        none = np.zeros(count, dtype=int)
        columns = [
            [f"{number * 2654435761 % 2**32:08x}-{number}" for number in numbers], numbers % 100 == 0, pa.nulls(count), odd, none,
            none - 1, pa.nulls(count), _lists(rng, prompt), _lists(rng, target), _lists(rng, none), _lists(rng, none), none,
        ]  # fmt: skip
        yield pa.table(dict(zip(SCHEMA.names, columns, strict=True))).cast(SCHEMA)


def _lists(rng: np.random.Generator, sizes: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, rng.integers(0, 30_000, offsets[-1]).astype(np.int32))


def _write(examples: int, store: Store) -> None:
    write_tokens(tables(examples), store, "decoder-only", grouped=False)


def own_mib() -> int:
    """Memory of this process that it shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        # In a process of its own, whose freed memory does not serve this one.
        writer = multiprocessing.Process(target=_write, args=(options.examples, store))
        writer.start()
        writer.join()
        before, rows, began = own_mib(), [], time.monotonic()

        def measured(part: str) -> None:
            nonlocal began
            rows.append({"part": part, "s": round(time.monotonic() - began, 2), "MiB": own_mib() - before})
            began = time.monotonic()

        tokens = Tokens(store, Path(folder))
        measured("tokens")
        plan = BatchPlan(
            tokens.lengths, tokens.train, family="decoder-only", workers=8, epochs=3, seed=0,
            tokens_per_batch=65_536, tokens_per_micro_batch=16_384, cost=COSTS[True],
        )  # fmt: skip
        plan.step(0)
        measured("first step of the plan")
        plan.many_micro_batches(tokens.validation)
        measured("validation split")
        tokens.term_counts(plan.examples)
        measured("counts of the loss")
        for step in range(1, 101):
            plan.step(step)
        measured("100 more steps of the plan")
        publish("train_scale", rows, title=f"{options.examples:,} examples, {plan.steps:,} steps")


if __name__ == "__main__":
    main()
