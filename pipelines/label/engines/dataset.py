"""The flow on Ray Data: splits -> examples that want a label -> blocks -> teacher actors -> outcomes.

How much is in flight. A block costs the driver 7 to 10 ms of a core whatever its size, and is open until its slowest row is answered. So
it has a quarter of the engine's batch, 16 rows at the least and 64 at the most. With latencies of a heavy tail (Pareto, shape 1.5) on
average 2.8 of 16 rows are still being answered, and 4.5 of 64 (n x the mean / the expected longest of n). A replica has 8 times the
engine's batch assigned, and 16 times where blocks have 64 rows; 1.4 and 1.1 batches of these are unanswered, so that its batch stays full.
Of them the engine has 1.25 batches at a time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.config import READER_CPUS, RunConfig
from pipelines.data.reader import FileRange, read_split
from pipelines.data.schema import EXAMPLE
from pipelines.label.answers.prompts import read_shots
from pipelines.label.engines.actor import TeacherActor, TeacherSetup
from pipelines.label.output.id_index import Keys, contains, id_keys
from pipelines.label.output.writer import LabelWriter, Positions, ScanRecord
from pipelines.label.scan import SPLIT_SHIFT
from pipelines.label.teachers.secret import Secret
from pipelines.tasks import TaskSpec, load_task

_LEAST_ROWS_PER_BLOCK, _MOST_ROWS_PER_BLOCK = 16, 64
_ROWS_PER_INSTANT_BLOCK = 1024
_ASSIGNED_BATCHES = 8
_READ_ROWS = 1024


@dataclass(frozen=True)
class InFlight:
    """What one replica holds at a time."""

    rows_per_block: int
    blocks: int
    rows_in_engine: int


def in_flight(run: RunConfig) -> InFlight:
    """The sizes of the module's docstring for this run's engine."""
    teacher = run.teacher
    if teacher.engine == "replay" or (teacher.engine == "echo" and not teacher.latency_s):
        return InFlight(_ROWS_PER_INSTANT_BLOCK, 2, _ROWS_PER_INSTANT_BLOCK)
    if teacher.engine == "openai":  # it limits itself, and a longer queue before it costs nothing
        limit = teacher.remote.max_concurrent_requests
        return _sizes(limit, rows_in_engine=2 * limit)
    batch = max(teacher.vllm.max_num_seqs // teacher.sampling.n, 1)
    return _sizes(batch, rows_in_engine=batch + -(-batch // 4))


def _sizes(batch: int, rows_in_engine: int) -> InFlight:
    rows = min(max(batch // 4, _LEAST_ROWS_PER_BLOCK), _MOST_ROWS_PER_BLOCK)
    assigned = _ASSIGNED_BATCHES * batch * math.sqrt(rows / _LEAST_ROWS_PER_BLOCK)
    return InFlight(rows, max(math.ceil(assigned / rows), 4), rows_in_engine)


def outcomes(
    run: RunConfig, spec: TaskSpec, splits: list[FileRange], scan: ScanRecord, sink: LabelWriter, ledger: Any
) -> Iterator[pa.Table]:
    """Tables of outcomes (outcomes.OUTCOME), as they come; empty ones where a block's rows were not asked (budget)."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    from pipelines.runtime.compat.ray import drop_block_stats

    teacher, sizes = run.teacher, in_flight(run)
    used = (sink.tally.prompt_tokens, sink.tally.output_tokens)
    setup = TeacherSetup(run, spec, sizes.rows_in_engine, read_shots(teacher, load_task(spec)), _key(run), used)
    reader = ray.put(
        {
            "splits": splits,
            "spec": spec,
            "fields": dict(run.corpus.fields),
            "passed_over": scan.passed_over,
            "done": sink.done,
        }
    )
    context = copy.deepcopy(DataContext.get_current())
    # Ray holds back calls for whose results it sees no room, and takes each to be of this size until the first is there.
    context.target_max_block_size = 4 << 20
    # A pool grows while all its places are taken; Ray's own threshold wants nearly twice as many calls waiting as are running.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    drop_block_stats(context)
    with DataContext.current(context):
        items = [{"index": index} for index in range(len(splits))]
        examples = (
            ray.data.from_items(items, override_num_blocks=len(items))
            .map_batches(_read, fn_args=(reader,), batch_size=1, batch_format="numpy", num_cpus=READER_CPUS)
            .repartition(target_num_rows_per_block=sizes.rows_per_block)
        )
        answered = examples.map_batches(
            TeacherActor,
            fn_constructor_args=(setup, ledger),
            batch_size=sizes.rows_per_block,  # a block; Ray insists on a number where GPUs are asked for
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(
                min_size=teacher.replicas.min,
                max_size=teacher.replicas.max,
                max_tasks_in_flight_per_actor=sizes.blocks + 2,
                max_concurrent_calls_per_actor=sizes.blocks,
            ),
            num_cpus=1,
            num_gpus=teacher.gpus_per_replica,
        )
        yield from answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _key(run: RunConfig) -> Secret | None:
    if run.teacher.engine != "openai":
        return None
    from pipelines.label.teachers.openai import remote_key

    return remote_key(run.teacher)


def _read(batch: Any, shared: Any) -> Any:
    import ray

    reader = ray.get(shared) if isinstance(shared, ray.ObjectRef) else shared
    yield EXAMPLE.empty_table()
    yield from example_blocks(int(batch["index"][0]), **reader)


def example_blocks(
    index: int,
    splits: list[FileRange],
    spec: TaskSpec,
    fields: dict[str, str],
    passed_over: Positions,
    done: dict[str, Keys],
) -> Iterator[pa.Table]:
    """Blocks (schema.EXAMPLE) of a split's examples that still want a label: neither rejected by the scan nor done."""
    split = splits[index]
    here = passed_over[slice(*passed_over.searchsorted([index << SPLIT_SHIFT, (index + 1) << SPLIT_SHIFT]))]
    passed = set((here & (2**SPLIT_SHIFT - 1)).tolist())
    block: list[tuple[Any, ...]] = []
    for row in read_split(split, load_task(spec), fields):
        if row.position in passed or row.example is None:
            continue
        example = row.example
        block.append((split.name, example.id, example.input, example.gold, example.choices))
        if len(block) == _READ_ROWS:
            yield _without(block, done[split.name])
            block = []
    yield _without(block, done[split.name])


def _without(block: list[tuple[Any, ...]], done: Keys) -> pa.Table:
    finished = contains(done, id_keys(row[1] for row in block))
    columns = list(zip(*block, strict=True)) or [()] * len(EXAMPLE)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, EXAMPLE, strict=True)], schema=EXAMPLE)
    return table.filter(pa.array(~finished)) if finished.any() else table
