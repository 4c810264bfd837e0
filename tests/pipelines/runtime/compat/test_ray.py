"""Ray's private names: what is made of them. That they are there: test_private_names.py."""

import importlib
import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.runtime.compat import ray as compat
from pipelines.runtime.compat.ray import AutoscalerState

GROUP = "8964fd73859a7ff86855ae7f0fce01000000"


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A head's client; a test sets what it answers."""
    client = SimpleNamespace()
    for module in ("ray.experimental.internal_kv", "ray.autoscaler.v2.utils"):
        monkeypatch.setattr(f"{module}.internal_kv_get_gcs_client", lambda: client)
    return client


@pytest.mark.parametrize(("stored", "expected"), [(b"1", True), (None, False)])
def test_the_head_says_if_the_cluster_autoscales(head: SimpleNamespace, stored: bytes | None, expected: bool) -> None:
    head.internal_kv_get = lambda key, namespace: stored
    assert compat.has_autoscaler() is expected


def test_the_autoscalers_state_is_read_from_the_heads_reply(head: SimpleNamespace) -> None:
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply(
        cluster_resource_state={
            "cluster_resource_state_version": 8,
            "pending_gang_resource_requests": [{"details": f"{GROUP}:PACK|PENDING"}],
        },
        autoscaling_state={
            "last_seen_cluster_resource_state_version": 7,
            "infeasible_gang_resource_requests": [{"details": f"{GROUP}:PACK|PENDING"}],
            "pending_instance_requests": [{"ray_node_type_name": "gpu", "count": 2}],
            "pending_instances": [{"ray_node_type_name": "gpu"}, {"ray_node_type_name": "cpu"}],
            "failed_instance_requests": [{"ray_node_type_name": "gpu", "count": 1, "reason": "quota"}],
        },
    )
    head.get_cluster_status = lambda timeout_s: reply.SerializeToString()
    group = frozenset([GROUP])
    assert compat.autoscaler_state() == AutoscalerState(8, group, 7, group, {"gpu": 3, "cpu": 1}, ("1 x gpu: quota",))


def test_ray_starts_on_this_python_and_logs_no_uploads() -> None:
    for name in compat.UPLOAD_LOGGERS:
        importlib.import_module(name)
        assert name in logging.Logger.manager.loggerDict, f"{name} logs under another name"
    compat.silence_uploads()
    assert compat.start_command() == [sys.executable, "-m", "ray.scripts.scripts", "start"]
    assert not any(logging.getLogger(name).isEnabledFor(logging.INFO) for name in compat.UPLOAD_LOGGERS)


def test_applications_end_without_a_wait_and_none_needs_no_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[tuple[list[str], bool]] = []
    client = SimpleNamespace(delete_apps=lambda names, blocking: deleted.append((names, blocking)))
    monkeypatch.setattr("ray.serve.context._get_global_client", lambda **_: client)
    compat.delete_applications({"b", "a"})
    compat.delete_applications(())
    assert deleted == [(["a", "b"], False)]


def test_stats_of_blocks_are_cleared_after_each_step() -> None:
    context = SimpleNamespace(custom_execution_callback_classes=[])
    compat.drop_block_stats(context)
    (callback,) = (made() for made in context.custom_execution_callback_classes)
    stats = {"map": [1, 2]}
    callback.on_execution_step(SimpleNamespace(_topology=[SimpleNamespace(get_stats=lambda: stats)]))
    assert stats == {"map": []}


def test_workers_are_set_up_before_torch_connects_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.torch import TorchConfig

    calls: list[object] = []

    class Backend:
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            calls.append("connected")

    monkeypatch.setattr(TorchConfig, "backend_cls", Backend)
    backend = compat.torch_config_with_setup(setup := lambda: None).backend_cls()
    backend.on_start(SimpleNamespace(execute=calls.append), None)
    assert calls == [setup, "connected"]
