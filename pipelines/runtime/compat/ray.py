"""Private names of Ray 2.60, with the reason why no public name does the same."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.data import DataContext
    from ray.job_submission import JobSubmissionClient
    from ray.train.torch import TorchConfig, TorchTrainer

UPLOAD_LOGGERS = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
_STATUS_TIMEOUT_S = 10


@dataclass(frozen=True)
class AutoscalerState:
    """What the autoscaler last reported. Placement groups are named by their id in hex."""

    version: int
    """Version of the cluster's state that `waiting` belongs to."""
    waiting: frozenset[str]
    """Placement groups that wait for resources."""
    seen_version: int
    """Last version of the cluster's state that the autoscaler has acted on; 0: none yet."""
    infeasible: frozenset[str]
    """Waiting placement groups for which the autoscaler can launch no nodes, given what is free now."""
    launching: Mapping[str, int]
    """Nodes that are requested or starting, by node group."""
    failures: tuple[str, ...]
    """Launches that the provider refused, as `COUNT x GROUP: REASON`."""


@dataclass(frozen=True)
class ApplicationState:
    """What Serve's controller says of an application."""

    running: bool
    fails: bool
    """No replica runs, and none could be started."""


def has_autoscaler() -> bool:
    """True if Ray's second autoscaler manages the connected cluster. The first one reports nothing that we could read.

    Private: Ray has no public call that says whether a cluster autoscales.
    """
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    return bool(is_autoscaler_v2(fetch_from_server=True))


def autoscaler_state() -> AutoscalerState:
    """State of the connected cluster's autoscaler. Raises ray.exceptions.RpcError if the head does not answer.

    Private: `ray.util.state` knows a placement group only as pending. That no node will ever come for it, which nodes are on their
    way, and why a launch failed is in the reply that `ray status` reads (autoscaler.proto, GetClusterStatusReply).
    """
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    reply = GetClusterStatusReply.FromString(
        internal_kv_get_gcs_client().get_cluster_status(timeout_s=_STATUS_TIMEOUT_S)
    )
    cluster, scaling = reply.cluster_resource_state, reply.autoscaling_state
    launching = Counter(instance.ray_node_type_name for instance in scaling.pending_instances)
    for request in scaling.pending_instance_requests:
        launching[request.ray_node_type_name] += request.count
    failed = scaling.failed_instance_requests
    return AutoscalerState(
        cluster.cluster_resource_state_version,
        _groups(cluster.pending_gang_resource_requests),
        scaling.last_seen_cluster_resource_state_version,
        _groups(scaling.infeasible_gang_resource_requests),
        launching,
        tuple(f"{one.count} x {one.ray_node_type_name}: {one.reason}" for one in failed),
    )


def server_version(client: JobSubmissionClient) -> str:
    """Ray version of the cluster that a job client talks to.

    Private: the client's `get_version` returns the version of the REST API, not of Ray.
    """
    return str(client._server_ray_version)


def silence_uploads() -> None:
    """Log warnings only when a job's code is uploaded.

    Private: each of these loggers sets its own level, so the level of the public logger `ray` does not reach them. A name that is gone
    is no error: a release that renames one only logs more.
    """
    for name in UPLOAD_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def listen_on_loopback() -> None:
    """Let a Ray that this process starts listen on 127.0.0.1 alone, and not on all interfaces of the machine.

    Private: `ray.init` replaces 127.0.0.1 by the machine's address, except on macOS and Windows. This is their switch, which workers read
    from the environment and this process from the constant, as Ray may be imported already.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    os.environ[constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    constants.ENABLE_RAY_CLUSTER = False


def start_command() -> list[str]:
    """Command line of `ray start`, on this process' Python.

    Private: the documented script `ray` may lie in another environment, or not be on PATH.
    """
    return [sys.executable, "-m", "ray.scripts.scripts", "start"]


def serve_controller() -> Any:
    """Client of the running Serve's controller; None if Serve does not run.

    Private: `serve.run` replaces one application and cannot change several at once, and the REST API needs a dashboard, which a Ray on
    this machine alone does not start.
    """
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False)


async def application_states() -> dict[str, ApplicationState] | None:
    """States of the applications of the running Serve, by name; None if Serve does not run. For event loops.

    Private: `serve.status` blocks its thread.
    """
    import ray
    from ray.serve.schema import ApplicationStatus

    client = serve_controller() if ray.is_initialized() else None
    if client is None:
        return None
    reply = await client._controller.get_serve_instance_details.remote()
    return {
        name: ApplicationState(ApplicationStatus(details["status"]) is ApplicationStatus.RUNNING, fails(details))
        for name, details in reply["applications"].items()
    }


def fails(details: Mapping[str, Any]) -> bool:
    """True if a deployment of an application has no running replica and cannot start one. `details`: Serve's."""
    from ray.serve.schema import DeploymentStatus, ReplicaState

    failed = {DeploymentStatus.UNHEALTHY, DeploymentStatus.DEPLOY_FAILED}
    return any(
        DeploymentStatus(deployment["status"]) in failed
        and not any(ReplicaState(replica["state"]) is ReplicaState.RUNNING for replica in deployment["replicas"])
        for deployment in details["deployments"].values()
    )


def delete_applications(names: Collection[str]) -> None:
    """End applications of the running Serve without waiting for their end. Does nothing for no names.

    Private: `serve.delete` gives up waiting after a minute, and requests may take longer.
    """
    if names and (client := serve_controller()):
        client.delete_apps(sorted(names), blocking=False)


def drop_block_stats(context: DataContext) -> None:
    """Make datasets of this context keep no timings per block; their `stats()` are empty.

    Ray Data's driver keeps about 800 bytes per operator and block until a dataset ends: 100 bytes per row in blocks of 16.
    Private: Ray Data has no setting for it.
    """
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    callbacks = context.custom_execution_callback_classes

    class DropBlockStats(ExecutionCallback):  # type: ignore[misc]
        """Runs in the thread that appends to the lists, after each step of a dataset's execution."""

        def on_execution_step(self, executor: Any) -> None:
            for operator in executor._topology:
                for stats in operator.get_stats().values():
                    stats.clear()

    context.custom_execution_callback_classes = [*callbacks, DropBlockStats]


def torch_config_with_setup(setup: Callable[[], None]) -> TorchConfig:
    """Ray Train's settings for torch, whose workers all call `setup` before they connect to each other.

    Private: torch chooses its network interface when it connects, and Ray Train calls the user's function only after that.
    """
    from ray.train.torch import TorchConfig

    class TorchConfigWithSetup(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type:
            return _with_setup(super().backend_cls, setup)

    return TorchConfigWithSetup()


def leave_sigint(trainer: TorchTrainer) -> None:
    """Make Ctrl-C raise KeyboardInterrupt during `trainer.fit()` and after it.

    Private: Ray Train sets a handler of its own for good. It ends this process with exit code 0, as if the training were finished.
    """
    trainer._register_sigint_handler = lambda controller: None


def without_datasets(trainer: TorchTrainer) -> None:
    """Make a trainer that was given no datasets start no actor for them. It would take two seconds of a core.

    Private: Ray Train starts it for every training.
    """
    create = trainer._create_default_callbacks
    unused = "DatasetsCallback"
    trainer._create_default_callbacks = lambda: [one for one in create() if type(one).__name__ != unused]


def _with_setup(backend: Any, setup: Callable[[], None]) -> type:
    class BackendWithSetup(backend):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(setup)
            super().on_start(worker_group, backend_config)

    return BackendWithSetup


def _groups(requests: Any) -> frozenset[str]:
    """Ids of placement groups. A request's details are `ID:STRATEGY|STATE`."""
    return frozenset(request.details.partition(":")[0] for request in requests)
