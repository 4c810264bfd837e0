"""vLLM's private names: each is there, and each that is gone is one clear error."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.runtime.compat import vllm as compat

MODULES: dict[str, Callable[[], Any]] = {
    "vllm.v1.engine.exceptions": compat.engine_dead_error,
    "vllm.usage.usage_lib": compat.offline_usage,
    "vllm.v1.metrics.loggers": compat.stat_logger_base,
    "vllm.v1.metrics.ray_wrappers": compat.ray_stat_logger,
    "vllm.v1.attention.backends.cpu_attn": compat.cpu_attention_head_sizes,
    "vllm.v1.executor.uniproc_executor": compat.executor_in_scheduler,
}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_vllm_dropped_is_one_clear_error(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    rule = rf"vllm(-cpu)? [\d.]+: it has no {module}.*, which Raystill needs\. Install the"
    with pytest.raises(UserError, match=rule):
        MODULES[module]()


def test_an_attribute_that_vllm_dropped_is_one_clear_error() -> None:
    with pytest.raises(UserError, match=r"it has no vllm\.logprobs\.FlatLogprobs\.token_ids"):
        compat.flat_logprobs(SimpleNamespace())


def test_every_private_name_is_there() -> None:
    assert issubclass(compat.engine_dead_error(), Exception)
    assert compat.offline_usage().value == "LLM_CLASS"
    assert callable(compat.stat_logger_base().record)
    assert issubclass(compat.ray_stat_logger(), compat.stat_logger_base())
    assert {64, 128} <= set(compat.cpu_attention_head_sizes())
    assert callable(compat.executor_in_scheduler().collective_rpc)


def test_flat_logprobs_begin_with_the_sampled_token() -> None:
    from vllm.logprobs import FlatLogprobs

    theirs = FlatLogprobs()
    for position in ([7, 7, 3], [5, 9, 3]):
        theirs.append_fast(position, [-0.1, -0.1, -2.0], (1, 1, 2), [None] * 3)
    ours = compat.flat_logprobs(theirs)
    assert (ours.token_ids, ours.logprobs) == ([7, 7, 3, 5, 9, 3], [-0.1, -0.1, -2.0] * 2)
