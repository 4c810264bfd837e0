"""Private names of libraries stand in `compat` alone, and each that is gone is one clear error."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.runtime.compat import deepspeed, ray, transformers, vllm

ROOT = Path(__file__).parents[4]
MODULES: dict[str, Callable[[], Any]] = {
    "ray.autoscaler.v2.utils": ray.has_autoscaler,
    "ray.core.generated.autoscaler_pb2": ray.autoscaler_state,
    "ray.scripts.scripts": ray.start_command,
    "ray._private.ray_constants": ray.listen_on_loopback,
    "ray.serve.context": ray.serve_controller,
    "ray.data._internal.execution.execution_callback": lambda: ray.drop_block_stats(SimpleNamespace()),
    "vllm.v1.engine.exceptions": vllm.engine_dead_error,
    "vllm.usage.usage_lib": vllm.offline_usage,
    "vllm.v1.metrics.loggers": vllm.stat_logger_base,
    "vllm.v1.metrics.ray_wrappers": vllm.ray_stat_logger,
    "vllm.v1.attention.backends.cpu_attn": vllm.cpu_attention_head_sizes,
    "vllm.v1.executor.uniproc_executor": vllm.executor_in_scheduler,
}
LACKS: Any = SimpleNamespace(optimizer=SimpleNamespace())
LINKED: Any = SimpleNamespace(optimizer=SimpleNamespace(_hp_optimizer_states_linked=True))
ATTRIBUTES: dict[str, Callable[[], Any]] = {
    "deepspeed .*fp32_partitioned_groups_flat": lambda: deepspeed.sharded_weights(LACKS),
    "deepspeed .*_hp_optimizer_states_linked": lambda: deepspeed.link_moments(LACKS),
    "deepspeed .*_lazy_init_hp_params_optimizer_state": lambda: deepspeed.link_moments(LINKED),
    r"transformers PreTrainedModel\._no_split_modules": lambda: transformers.layer_classes(LACKS),
    r"ray JobSubmissionClient\._server_ray_version": lambda: ray.server_version(LACKS),
    r"vllm vllm\.logprobs\.FlatLogprobs\.token_ids": lambda: vllm.flat_logprobs(LACKS),
}


def test_no_other_module_names_what_ray_keeps_private() -> None:
    private = re.compile(
        r"\bray\.(_[a-z]|[\w.]*\._[a-z]|core\.|dashboard|experimental|autoscaler\.v2|scripts|serve\.context)"
    )
    files = [file for package in ("cluster", "pipelines", "serving") for file in (ROOT / package).rglob("*.py")]
    found = [file for file in files if private.search(file.read_text(encoding="utf-8")) and "compat" not in file.parts]
    assert found == []


@pytest.mark.parametrize("module", MODULES)
def test_a_dropped_module_is_one_clear_error(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    library = module.partition(".")[0]
    rule = rf"^{library}(-cpu)? [\d.]+: it has no {module}.*, which Raystill needs\. Install the version of {library}"
    with pytest.raises(UserError, match=rule):
        MODULES[module]()


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_dropped_attribute_is_one_clear_error(name: str) -> None:
    library, _, attribute = name.partition(" ")
    with pytest.raises(UserError, match=rf"^{library}(-cpu)? [\d.]+: it has no {attribute}, which Raystill needs"):
        ATTRIBUTES[name]()
