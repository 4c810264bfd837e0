"""Block statistics in Ray Data's driver, with and without `drop_block_stats`."""

import copy

import pytest
import ray
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipelines.runtime.compat.ray import drop_block_stats

pytestmark = pytest.mark.integration
BLOCKS = 40


class CountEntries(ExecutionCallback):
    """Counts the kept entries after each step."""

    seen: list[int]

    def on_execution_step(self, executor: object) -> None:
        stats = [of for operator in executor._topology for of in operator.get_stats().values()]  # type: ignore[attr-defined]
        CountEntries.seen.append(sum(map(len, stats)))


@pytest.mark.parametrize("dropped", [True, False])
def test_the_driver_keeps_no_stats_of_a_block(ray_here: None, dropped: bool) -> None:
    CountEntries.seen = []
    context = copy.deepcopy(DataContext.get_current())
    if dropped:
        drop_block_stats(context)
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, CountEntries]
    with DataContext.current(context):
        rows = ray.data.range(BLOCKS, override_num_blocks=BLOCKS).map_batches(lambda batch: batch)
        found = [int(row) for table in rows.iter_batches(batch_size=None) for row in table["id"]]
    assert sorted(found) == list(range(BLOCKS))
    if dropped:
        assert max(CountEntries.seen) == 0
    else:
        assert max(CountEntries.seen) >= BLOCKS, "Ray keeps no stats: remove drop_block_stats"
