"""Ray for one command: the cluster that RAY_ADDRESS names, or a Ray on this machine that ends with the command.

Before a stage starts, its resources are compared with those of the cluster.
"""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain

from cluster.environment import own_ray, ray_address, wants_token
from cluster.session.connection import REACH_HEAD, ray_errors, wait_for_head
from cluster.session.ending import OwnRay
from cluster.session.output_check import check_output
from cluster.session.preflight import LISTED, inspect_nodes, nodes_table, refuse
from cluster.session.resources import check_resources, node_totals, room_for, stage_requests
from pipelines.config import RunConfig
from pipelines.errors import StageFailedError, UserError, last_line
from pipelines.runtime import terminal
from pipelines.runtime.compat.ray import listen_on_loopback
from pipelines.runtime.cpus import usable_cpus
from pipelines.runtime.terminal import say

_MIN_SLOTS = 8
_SLOTS_PER_CPU = 4
_TOKEN_CHECK_S = 120.0
_TABLE_COLUMNS = 140


def machine_resources() -> dict[str, float]:
    """CPUs that this process may use, and GPUs that the driver lists."""
    return {"CPU": float(usable_cpus()), "GPU": float(_gpus())}


@contextmanager
def ray_session(run: RunConfig, stages: list[str], *, verbose: bool = False) -> Iterator[None]:
    """Run a block with Ray connected and the first stage's resources present.

    Raises:
        UserError: the resources are missing and cannot come, the output cannot be written, or the nodes do not fit together.
        StageFailedError: the resources did not come in time.
    """
    address = ray_address()
    if address is None:
        for request in chain.from_iterable(stage_requests(run, stage) for stage in stages):
            # Actors occupy cores. Readers only need Ray's logical CPUs, which exceed the cores.
            check_resources(replace(request, reader_cpus=0), [machine_resources()])
    if _writes_output(stages):
        check_output(run.output)
    if address is None and stages == ["serve"]:
        listen_on_loopback()  # its ports would be open for longer than a stage runs
    own = OwnRay()
    try:
        _start(address, verbose)
    except KeyboardInterrupt:
        own.started()
        own.shutdown()
        raise
    own.started()
    try:
        if address is not None:
            _check_token(address)
        _check_cluster(run, stages)
        _silence_ray(stages, verbose)
        if address is not None:
            _check_nodes(run.output if _writes_output(stages) else None, verbose)
            _print_busy(run, stages)
        yield
    finally:
        own.shutdown()


def _start(address: str | None, verbose: bool) -> None:
    """Connect to a cluster, or start Ray on this machine.

    RAY_AUTH_MODE stays as the user set it: only the cluster's refusal shows that it needs a token, and a token sent to a cluster
    without tokens breaks the run (`_check_token`).

    Raises:
        UserError: the cluster cannot be reached or refuses this process.
    """

    level = logging.INFO if verbose else logging.ERROR
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _connect(address, verbose, level)
    finally:
        # Ray's own handler would end this process without the ends of its `with` blocks.
        if on_sigterm is signal.default_int_handler:
            signal.signal(signal.SIGTERM, on_sigterm)


def _connect(address: str | None, verbose: bool, level: int) -> None:
    """Raises as `_start`."""
    import ray

    if address is not None:
        if "://" in address and not address.startswith("ray://"):
            rule = "it must be the address of a head, not a URL"
            raise UserError(f"RAY_ADDRESS {address}", rule, f"{REACH_HEAD} --address takes the dashboard's URL.")
        with ray_errors(f"cluster {address}", REACH_HEAD):
            wait_for_head(address)
            ray.init(address=address, log_to_driver=verbose, logging_level=level)
        return
    # Ray's CPUs are slots, not cores. Driver, readers and actors need one each; with too few, a pipeline waits forever.
    slots = max(_MIN_SLOTS, _SLOTS_PER_CPU * int(machine_resources()["CPU"]))
    with own_ray(), _start_errors():  # Ray's processes inherit the environment
        context = ray.init(
            address="local", num_cpus=slots, include_dashboard=False, log_to_driver=verbose, logging_level=level
        )
    if terminal.has_log():
        print(f"Ray's logs, also of workers and engines: {context.address_info['session_dir']}/logs", flush=True)


@contextmanager
def _start_errors() -> Iterator[None]:
    """What keeps a Ray on this machine from starting. Ray raises no class of its own for it.

    Raises:
        StageFailedError: the machine is too busy.
        UserError: Ray's folder is no place for sockets.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        if "timed out during startup" in text:
            rule = "Ray did not start in time: this machine is too busy, or its memory is used up"
            raise StageFailedError(f"{rule}. Run the same command again when it has room.") from error
        if "AF_UNIX path length" in text:
            rule = f"too long for Ray's sockets ({last_line(error)})"
            raise UserError("RAY_TMPDIR or TMPDIR", rule, "Set RAY_TMPDIR to a short path, such as /tmp/r.") from error
        raise


def _check_token(address: str) -> None:
    """Refuse a driver with tokens on a cluster without them.

    The cluster's head could not ask this driver which actors it still uses. It would end them during the run ("all references to the
    actor were removed").

    Raises:
        UserError: the cluster sends no token.
        StageFailedError: the cluster runs no task.
    """
    import ray

    if not wants_token():
        return
    remote = ray.remote(num_cpus=0, max_retries=0)(wants_token).remote()
    try:
        cluster_wants_token = ray.get(remote, timeout=_TOKEN_CHECK_S)
    except ray.exceptions.RayError as error:
        raise StageFailedError(f"the cluster at {address} cannot run Raystill's code ({last_line(error)})") from error
    if not cluster_wants_token:
        rule = f"the cluster at {address} works without tokens and would end this command's actors"
        remedy = "Set RAY_AUTH_MODE=disabled, or start the cluster with RAY_AUTH_MODE=token."
        raise UserError("RAY_AUTH_MODE token", rule, remedy)


def _check_cluster(run: RunConfig, stages: Sequence[str]) -> None:
    """Refuse requests that Ray would keep waiting forever, and wait for launching nodes. Raises as `ray_session`."""
    from cluster.session.autoscaling import check_feasible, wait_for_nodes
    from pipelines.runtime.compat.ray import has_autoscaler

    nodes = node_totals()  # CUDA_VISIBLE_DEVICES may hide GPUs of this machine from Ray
    missing = [[one for one in stage_requests(run, stage) if room_for(one, nodes) < one.count] for stage in stages]
    if not any(missing):
        return
    if not has_autoscaler():
        for request in chain.from_iterable(missing):
            check_resources(request, nodes)
        return
    # Nodes of later stages launch when these begin; until then it is enough that they can.
    now, *later = missing
    for request in dict.fromkeys(chain.from_iterable(later)):
        if request not in now:
            check_feasible(request)
    for request in now:
        wait_for_nodes(request)


def _writes_output(stages: Sequence[str]) -> bool:
    return any(stage != "serve" for stage in stages)


def _print_busy(run: RunConfig, stages: Sequence[str]) -> None:
    """Print which resources of the first stage other work holds: Ray waits for them silently."""
    from ray.exceptions import RpcError

    from cluster.session.autoscaling import busy_line

    if not stages or stages[0] == "serve":  # a running endpoint holds the resources that its update needs
        return
    with suppress(RpcError):  # the head is busy
        for request in stage_requests(run, stages[0]):
            if line := busy_line(request):
                say(f"{stages[0]}: {line} ({request.key})")


def _check_nodes(output: str | None, verbose: bool) -> None:
    """Check a cluster of several nodes, and print them if they are few, faulty, or `verbose`.

    Raises:
        UserError: the run would fail on a node.
    """
    import ray

    if sum(node["Alive"] for node in ray.nodes()) < 2:
        return
    nodes = inspect_nodes(output)
    faulty = any(node.problems for node in nodes)
    if faulty or verbose or len(nodes) <= LISTED:
        width = None if terminal.err().isatty() else _TABLE_COLUMNS
        terminal.console().print(nodes_table(nodes), width=width)
    if not faulty:
        versions = ", ".join(sorted({node.report.ray for node in nodes if node.report}))
        storage = ", the output is readable and writable" if output is not None else ""
        checked = f"{len(nodes):,} nodes checked: Ray {versions}, the same code{storage}"
        say(f"{checked}; nodes that join later are not checked")
    refuse(nodes)


def _silence_ray(stages: Sequence[str], verbose: bool) -> None:
    """Turn off Ray Data's and Serve's progress bars and logs, which would overwrite ours."""
    import ray

    if "serve" in stages:
        import ray.serve  # its import sets the level of its logger

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if not verbose:
        for name in ("ray.data", "ray.train", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _gpus() -> int:
    """GPUs that nvidia-smi lists; 0 without it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())
