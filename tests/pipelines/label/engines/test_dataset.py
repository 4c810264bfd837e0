import math

import pytest

from pipelines.label.engines.dataset import in_flight
from tests.support.corpora import run_config

SHAPE = 1.5


@pytest.mark.parametrize("batch", [64, 128, 256, 1000])
def test_a_batch_stays_full_with_heavy_tailed_latencies(batch: int) -> None:
    """Pareto's distribution has mean a / (a - 1); the longest of n is about gamma(1 - 1/a) n^(1/a)."""
    found = in_flight(run_config({"engine": "vllm", "model": "m", "vllm": {"max_num_seqs": batch}}))
    rows = found.rows_per_block
    open_share = (SHAPE / (SHAPE - 1)) / (math.gamma(1 - 1 / SHAPE) * rows ** (1 / SHAPE))
    assert found.blocks * rows * open_share >= 1.1 * batch
    assert batch < found.rows_in_engine <= 1.25 * batch + 1


@pytest.mark.parametrize(
    ("teacher", "rows", "blocks"),
    [
        ({"engine": "vllm", "vllm": {"max_num_seqs": 4}}, 16, 4),
        ({"engine": "vllm", "vllm": {"max_num_seqs": 256}, "sampling": {"n": 16, "temperature": 0.7}}, 16, 8),
        ({"engine": "vllm", "vllm": {"max_num_seqs": 256}}, 64, 64),
        ({"engine": "echo"}, 1024, 2),
        ({"engine": "openai", "remote": {"url": "http://127.0.0.1/v1", "max_concurrent_requests": 32}}, 16, 16),
    ],
)
def test_blocks_grow_with_the_batch(teacher: dict[str, object], rows: int, blocks: int) -> None:
    found = in_flight(run_config({"model": "m", **teacher}))
    assert (found.rows_per_block, found.blocks) == (rows, blocks)
