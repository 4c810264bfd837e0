"""What Ray Data's driver keeps of each block while a dataset runs, with `forget_blocks` and without."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import ray
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipelines.label.engines.block_stats import forget_blocks
from tests.support.local_ray import local_ray

pytestmark = pytest.mark.integration
BLOCKS = 40


class RequestMiddleware(ExecutionCallback):
    """Notes how many entries there are, after each step."""

    seen: list[int]

    def on_execution_step(self, executor: object) -> None:
        stats = [of for operator in executor._topology for of in operator.get_stats().values()]  # type: ignore[attr-defined]
        RequestMiddleware.seen.append(sum(map(len, stats)))


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with local_ray():
        yield


@pytest.mark.parametrize("forgotten", [True, False])
def test_the_driver_keeps_nothing_of_a_block(ray_here: None, forgotten: bool) -> None:
    RequestMiddleware.seen = []
    context = copy.deepcopy(DataContext.get_current())
    if forgotten:
        forget_blocks(context)
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, RequestMiddleware]
    with DataContext.current(context):
        rows = ray.data.range(BLOCKS, override_num_blocks=BLOCKS).map_batches(lambda batch: batch)
        found = [int(row) for table in rows.iter_batches(batch_size=None) for row in table["id"]]
    assert sorted(found) == list(range(BLOCKS))
    if forgotten:
        assert max(RequestMiddleware.seen) == 0
    else:
        assert max(RequestMiddleware.seen) >= BLOCKS, "Ray keeps no times any more: forget_blocks can go"
