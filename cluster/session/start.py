"""Ray for one command: the cluster that RAY_ADDRESS names, or one of our own that ends with the command.

Before anything is started, what the run asks for is compared with what is there, or with what will come.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain

from cluster.environment import no_api_server, ray_address, wants_token
from cluster.session.connection import REACH_HEAD, ray_errors, reach_head
from cluster.session.preflight import LISTED, check_output, nodes_table, preflight, refuse
from cluster.session.resources import check_resources, nodes_here, room_for, wanted_by
from pipelines.config import RunConfig
from pipelines.errors import StageFailedError, UserError, last_line
from pipelines.runtime.cpus import usable_cpus

_MANY_SLOTS = 8
_SEVERAL = 2
_ANSWER_S = 120.0
_SETTLED_S = 1.0


def machine_resources() -> dict[str, float]:
    """CPUs that this process may use, and GPUs that the driver shows."""
    return {"CPU": float(usable_cpus()), "GPU": float(_gpus())}


@contextmanager
def ray_session(run: RunConfig, stages: list[str], *, verbose: bool = False) -> Iterator[None]:
    """Ray, running, with what the stages need.

    Raises:
        UserError: that is not there, and will not come.
        StageFailedError: it is on its way and did not come in time.
    """
    address = ray_address()
    if address is None:
        for stage in stages:
            for wanted in wanted_by(run, stage):
                # Of cores, which replicas use up; what stands beside them has Ray's slots, of which there are more.
                check_resources(replace(wanted, beside=0), [machine_resources()])
    if _writes(stages):
        check_output(run.output)
    import ray

    _start(address, verbose)
    try:
        if address is not None:
            _check_token(address)
        _check_cluster(run, stages)
        _quiet(stages, verbose)
        if address is not None:
            _look_at_nodes(run.output if _writes(stages) else None, verbose)
            _tell_of_others(run, stages)
        yield
    finally:
        ray.shutdown()


def _start(address: str | None, verbose: bool) -> None:
    """Connect to a cluster, or start a Ray on this machine. Raises UserError where the cluster does not let this process in.

    RAY_AUTH_MODE is left as it is: clusters without a token are not to be used with one (`_check_token`), and what a cluster wants is
    known only once it refuses.
    """
    import ray

    level = logging.INFO if verbose else logging.ERROR
    if address is not None:
        if "://" in address and not address.startswith("ray://"):
            rule = "it is the address of a head, and this is a URL"
            raise UserError(f"RAY_ADDRESS {address}", rule, f"{REACH_HEAD} A dashboard's URL is what --address takes.")
        with ray_errors(f"cluster {address}", REACH_HEAD):
            reach_head(address)
            ray.init(address=address, log_to_driver=verbose, logging_level=level)
        return
    # Logical CPUs are Ray's slots, not cores: driver, readers and actors that live side by side need one each, and a pipeline
    # that finds none left waits for ever.
    slots = max(_MANY_SLOTS, 4 * int(machine_resources()["CPU"]))
    with no_api_server():  # its processes get this environment
        ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=verbose, logging_level=level)


def _check_token(address: str) -> None:
    """Refuse to drive a cluster that sends no token with a process that wants one: its head could not ask this process whether actors are
    still referred to, and would end them in the middle of a run ("all references to the actor were removed").

    Raises:
        UserError: so it is.
        StageFailedError: the cluster starts no task.
    """
    import ray

    if not wants_token():
        return
    asked = ray.remote(num_cpus=0, max_retries=0)(wants_token).remote()
    try:
        sent = ray.get(asked, timeout=_ANSWER_S)
    except ray.exceptions.RayError as error:
        raise StageFailedError(f"the cluster at {address} does not run our code ({last_line(error)})") from error
    if not sent:
        rule = f"is token here, and the cluster at {address} works without tokens: it would end this command's actors"
        raise UserError(
            "RAY_AUTH_MODE", rule, "Set RAY_AUTH_MODE=disabled, or start the cluster with RAY_AUTH_MODE=token."
        )


def _check_cluster(run: RunConfig, stages: list[str]) -> None:
    """Refuse what Ray would wait for for ever; wait for nodes that are on their way. Raises as `ray_session`."""
    from cluster.session.autoscaling import autoscales, promised, wait_for_nodes

    # Ray may have fewer GPUs than the machine (CUDA_VISIBLE_DEVICES).
    nodes = nodes_here()
    missing = [[one for one in wanted_by(run, stage) if room_for(one, nodes) < one.count] for stage in stages]
    if not any(missing) or not autoscales():
        for one in chain.from_iterable(missing):
            check_resources(one, nodes)
        return
    # Of later stages it is only found out whether they can have their nodes, which come when they begin.
    first = missing[0]
    for later in dict.fromkeys(chain.from_iterable(missing[1:])):
        if later not in first:
            promised(later)
    for wanted in first:
        wait_for_nodes(wanted)


def _writes(stages: list[str]) -> bool:
    """Whether the stages write to the run's output."""
    return any(stage != "serve" for stage in stages)


def _tell_of_others(run: RunConfig, stages: list[str]) -> None:
    """Say on stderr what other work holds of what the first stage asks for: Ray waits for it without a word."""
    from ray.exceptions import RpcError

    from cluster.session.autoscaling import waits_for

    if not stages or stages[0] == "serve":  # an endpoint that is changed holds what it asks for itself
        return
    with suppress(RpcError):  # the head is busy
        for wanted in wanted_by(run, stages[0]):
            if not waits_for(wanted):
                continue
            time.sleep(_SETTLED_S)  # what this command has just given back may count as used for a moment
            if line := waits_for(wanted):
                print(f"{stages[0]}: {line} ({wanted.key})", file=sys.stderr, flush=True)


def _look_at_nodes(output: str | None, verbose: bool) -> None:
    """A table of a cluster's nodes on stderr, where they are several; of a large one only where it is asked for or something is wrong.

    Raises:
        UserError: the run would break on it.
    """
    import ray
    from rich.console import Console

    from cluster.session.autoscaling import autoscales

    if sum(node["Alive"] for node in ray.nodes()) < _SEVERAL:
        return
    nodes = preflight(output)
    bad = [node for node in nodes if node.problems]
    if bad or verbose or len(nodes) <= LISTED:
        Console(stderr=True, width=None if sys.stderr.isatty() else 140).print(nodes_table(nodes))
    if not bad:
        ray_versions = ", ".join(sorted({node.look.ray for node in nodes if node.look}))
        written = ", the output is seen and written by each" if output is not None else ""
        later = "; nodes that come later are not looked at" if autoscales() else ""
        print(f"{len(nodes):,} nodes answer: Ray {ray_versions}, the same code{written}{later}", file=sys.stderr)
    refuse(nodes)


def _quiet(stages: list[str], verbose: bool) -> None:
    """Ray Data's and Serve's own bars and logs would write over our progress."""
    import ray

    if "serve" in stages:
        import ray.serve  # which sets the level of its log when it is imported

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if not verbose:
        for name in ("ray.data", "ray.train", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _gpus() -> int:
    import shutil
    import subprocess

    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())
