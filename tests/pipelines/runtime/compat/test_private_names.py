"""Private names of libraries stand in `compat` alone, and the installed libraries have them."""

import importlib.metadata
import pkgutil
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.runtime.compat import transformers, vllm

ROOT = Path(__file__).parents[4]
NAMES = [
    "ray.autoscaler.v2.utils:is_autoscaler_v2",
    "ray.core.generated.autoscaler_pb2:GetClusterStatusReply",
    "ray.experimental.internal_kv:internal_kv_get_gcs_client",
    "ray.scripts.scripts",
    "ray._private.ray_constants:ENABLE_RAY_CLUSTERS_ENV_VAR",
    "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
    "ray.serve.context:_get_global_client",
    "ray.data._internal.execution.execution_callback:ExecutionCallback",
    "ray.train.torch:TorchConfig.backend_cls",
    "ray.train.torch:TorchTrainer._register_sigint_handler",
    "ray.train.torch:TorchTrainer._create_default_callbacks",
    "deepspeed:ops.__compatible_ops__",
    "deepspeed.runtime.zero.stage_1_and_2:DeepSpeedZeroOptimizer._lazy_init_hp_params_optimizer_state",
]
"""Those of classes and modules. Attributes of instances: the tests of the stage that reads them."""


def test_no_other_module_names_what_ray_keeps_private() -> None:
    private = re.compile(
        r"\bray\.(_[a-z]|[\w.]*\._[a-z]|core\.|dashboard|experimental|autoscaler\.v2|scripts|serve\.context)"
    )
    files = [file for package in ("cluster", "pipelines", "serving") for file in (ROOT / package).rglob("*.py")]
    found = [file for file in files if private.search(file.read_text(encoding="utf-8")) and "compat" not in file.parts]
    assert found == []


@pytest.mark.parametrize("name", NAMES)
def test_the_installed_library_has_each_private_name(name: str) -> None:
    pytest.importorskip(name.partition(":")[0].partition(".")[0])
    pkgutil.resolve_name(name)


def test_a_dropped_name_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks: Any = SimpleNamespace()
    with pytest.raises(UserError, match=r"^transformers [\d.]+: it has no PreTrainedModel\._no_split_modules, which"):
        transformers.layer_classes(lacks)
    with pytest.raises(UserError, match=r"^vllm(-cpu)? [\d.]+: it has no vllm\.logprobs\.FlatLogprobs\.token_ids"):
        vllm.flat_logprobs(lacks)
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.exceptions", None)  # importing it fails
    rule = (
        r"it has no vllm\.v1\.engine\.exceptions\.EngineDeadError, which Raystill needs\. Install the version of vllm"
    )
    with pytest.raises(UserError, match=rule):
        vllm.engine_dead_error()


def test_a_present_name_searches_no_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes 0.3 ms, and replicas look names up in their event loop."""
    vllm.engine_dead_error()  # imported before: vLLM itself searches
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: pytest.fail("searched"))
    vllm.engine_dead_error()
