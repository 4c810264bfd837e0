"""The labelling dataset on Ray Data: file ranges -> examples without a label -> blocks -> teacher actors -> outcomes.

Sizes. A block costs the driver 7 to 10 ms of a core, whatever its size, and stays open until its slowest row is answered. It has a quarter
of the engine's batch, at least 16 and at most 64 rows.

Latencies have a heavy tail (Pareto, shape 1.5). An open block then waits for n x mean / expected maximum of its n rows: 2.8 of 16, and 4.5
of 64. A replica is assigned 8 times the engine's batch, or 16 times if blocks have 64 rows. Of these 1.4 or 1.1 batches are unanswered, so
the engine's batch stays full. The engine itself has 1.25 batches.
"""

from __future__ import annotations

import copy
import math
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.config import READER_CPUS, RunConfig
from pipelines.data.reader import FileRange, read_split, with_states
from pipelines.data.schema import EXAMPLE
from pipelines.label.answers.prompts import read_shots
from pipelines.label.engines.actor import TeacherActor, TeacherSetup
from pipelines.label.engines.placement import remove_groups, replica_arguments
from pipelines.label.engines.shared_budget import Funds
from pipelines.label.output.commits import ScanRecord
from pipelines.label.output.id_index import Keys, contains, id_keys
from pipelines.label.output.writer import LabelWriter
from pipelines.label.positions import Positions, rows_of
from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.teachers.base import Access
from pipelines.label.teachers.registry import teacher_class
from pipelines.tasks import Example, TaskSpec, load_task

_MIN_ROWS_PER_BLOCK, _MAX_ROWS_PER_BLOCK = 16, 64
_ROWS_PER_INSTANT_BLOCK = 1024
_ASSIGNED_BATCHES = 8
_READ_ROWS = 1024


@dataclass(frozen=True)
class InFlight:
    """What one replica is assigned at the same time."""

    rows_per_block: int
    blocks: int
    rows_in_engine: int


@dataclass(frozen=True)
class ExampleReader:
    """What a worker needs to read the examples of a file range."""

    splits: list[FileRange]
    spec: TaskSpec
    fields: Mapping[str, str]
    """`corpus.fields`."""
    rejected: Positions
    """By the scan."""
    done: Mapping[str, Keys]
    """Ids with an outcome, by split."""

    def blocks(self, index: int) -> Iterator[pa.Table]:
        """Blocks (schema.EXAMPLE) of the examples of one file range that have no outcome yet."""
        split = self.splits[index]
        rejected = rows_of(self.rejected, index)
        block: list[Example] = []
        for row in read_split(split, load_task(self.spec), self.fields):
            if row.position in rejected or row.example is None:
                continue
            block.append(row.example)
            if len(block) == _READ_ROWS:
                yield self._table(split.name, block)
                block = []
        yield self._table(split.name, block)

    def _table(self, name: str, block: list[Example]) -> pa.Table:
        finished = contains(self.done[name], id_keys(example.id for example in block))
        columns: list[Iterable[Any]] = [
            [name] * len(block),
            [example.id for example in block],
            [example.input for example in block],
            [example.gold for example in block],
            [example.choices for example in block],
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, EXAMPLE, strict=True)]
        table = pa.table(arrays, schema=EXAMPLE)
        return table.filter(pa.array(~finished)) if finished.any() else table


def in_flight(run: RunConfig) -> InFlight:
    """The sizes for this run's engine, by the rules of the module's docstring."""
    load = teacher_class(run.teacher.engine).load(run.teacher)
    if load is None:
        return InFlight(_ROWS_PER_INSTANT_BLOCK, 2, _ROWS_PER_INSTANT_BLOCK)
    rows = min(max(load.batch_rows // 4, _MIN_ROWS_PER_BLOCK), _MAX_ROWS_PER_BLOCK)
    assigned = _ASSIGNED_BATCHES * load.batch_rows * math.sqrt(rows / _MIN_ROWS_PER_BLOCK)
    return InFlight(rows, max(math.ceil(assigned / rows), 4), load.rows_in_engine)


def open_examples(run: RunConfig, spec: TaskSpec, scan: ScanRecord, writer: LabelWriter) -> Any:
    """A Ray Data dataset of the examples (schema.EXAMPLE) that have no outcome now."""
    import ray

    splits, done = with_states(scan.splits), writer.state.done
    reader = ray.put(ExampleReader(splits, spec, dict(run.corpus.fields), scan.rejected, done))
    items = [{"index": index} for index in range(len(splits))]
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _read, fn_args=(reader,), batch_size=1, batch_format="numpy", num_cpus=READER_CPUS
    )


def outcomes(
    run: RunConfig, spec: TaskSpec, scan: ScanRecord, writer: LabelWriter, health: Any, keys: AnswerKeys
) -> Generator[pa.Table]:
    """Tables of outcomes (outcomes.OUTCOME) of the rows without one, as they arrive. A block whose rows the budget skips is empty.

    Args:
        writer: knows which rows have an outcome.
        health: handle of `health_actor`.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    from pipelines.runtime.compat.ray import drop_block_stats

    teacher, sizes = run.teacher, in_flight(run)
    used = writer.counts.paid_tokens
    access = Access(teacher_class(teacher.engine).key(teacher), used)
    ray.get(health.fund.remote(Funds(teacher.budget, teacher.charged, used, teacher.gpus_per_replica)))
    setup = TeacherSetup(run, spec, sizes.rows_in_engine, read_shots(teacher, load_task(spec)), access, keys)
    group = f"raystill-teacher-{uuid.uuid4().hex}"
    context = copy.deepcopy(DataContext.get_current())
    # Ray delays calls whose results it sees no room for, and assumes this size for each until the first result is there.
    context.target_max_block_size = 4 << 20
    # A pool grows when all its places are taken. By Ray's own threshold nearly twice as many calls must wait as are running.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    drop_block_stats(context)
    with DataContext.current(context):
        examples = open_examples(run, spec, scan, writer).repartition(target_num_rows_per_block=sizes.rows_per_block)
        answered = examples.map_batches(
            TeacherActor,
            fn_constructor_args=(setup, health),
            batch_size=sizes.rows_per_block,  # one block; with GPUs Ray requires a number
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(
                min_size=teacher.replicas.min,
                max_size=teacher.replicas.max,
                max_tasks_in_flight_per_actor=sizes.blocks + 2,
                max_concurrent_calls_per_actor=sizes.blocks,
            ),
            **replica_arguments(teacher, group),
        )
        try:
            yield from answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        finally:
            if teacher.pipeline_parallel > 1:
                remove_groups(group)


def _read(batch: Any, shared: Any) -> Iterator[pa.Table]:
    """`batch`: the index of one file range. `shared`: the ExampleReader, or a reference to it."""
    import ray

    reader: ExampleReader = ray.get(shared) if isinstance(shared, ray.ObjectRef) else shared
    yield EXAMPLE.empty_table()
    yield from reader.blocks(int(batch["index"][0]))
