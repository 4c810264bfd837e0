"""Nodes that come when they are asked for: what a cluster's autoscaler says of resources that are not there yet.

The autoscaler is asked by a placement group with what a stage wants: it goes with this process, so that nobody pays for nodes that a
killed command has ordered. Its verdict counts once it has read a state of the cluster with that group in it. The group is
removed before the stage begins, whose own actors then take the nodes, long before these are idle enough to be removed.

That is Ray's second autoscaler (KubeRay: autoscalerOptions.version v2; `ray up`: the default). Of the first one nobody can tell what it
could bring, so that a cluster with it is taken as it is.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Self

from cluster.environment import driver_cpus
from cluster.session.resources import Wanted, amount, nodes_here, room_for, shape
from pipelines.errors import StageFailedError, UserError
from pipelines.runtime.progress import duration

NODES_S = 1800.0
"""The longest that a stage waits for nodes: a cloud brings one with a GPU, and the image on it, in 5 to 15 minutes."""
_VERDICT_S = 60.0
_SURE_S = 3.0
_POLL_S = 1
_LINE_EVERY_S = 10.0
_NOISE = 0.01
"""Sums of fractions are not exact."""
Verdict = Literal["there", "never", "held", "pending", "unheard"]


@dataclass(frozen=True)
class Outlook:
    """What is to be expected of a demand."""

    verdict: Verdict
    """there: all of it can be had now. never: no nodes that the autoscaler may add would do. held: neither would they, and other work
    holds some of it. pending: it will come. unheard: the autoscaler has not looked at it yet."""
    coming: Mapping[str, int]
    """Nodes on their way, by the name of their group."""
    failures: tuple[str, ...] = ()
    """Why nodes could not be had, where the autoscaler tried."""
    others: Mapping[str, float] = field(default_factory=dict)
    """What other work holds of it; see `held`."""


def autoscales() -> bool:
    """Whether nodes come to this cluster by themselves, and it can be said which. Ray is running."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    return bool(is_autoscaler_v2(fetch_from_server=True))


def promised(wanted: Wanted, within_s: float = _VERDICT_S) -> None:
    """Raises UserError where the cluster can never have what is wanted. Waits for the verdict and for no node."""
    until = time.monotonic() + within_s
    with Demand(wanted) as demand:
        while time.monotonic() < until:
            outlook = demand.outlook()
            if outlook.verdict == "never":
                raise never(wanted)
            if outlook.verdict != "unheard":
                return


def wait_for_nodes(wanted: Wanted, limit_s: float = NODES_S) -> None:
    """Wait until the cluster has what is wanted. Tells on stderr what it waits for.

    Raises:
        UserError: it never will.
        StageFailedError: it does not within `limit_s` seconds.
    """
    began = told = time.monotonic()
    with Demand(wanted) as demand:
        while (outlook := demand.outlook()).verdict != "there":
            if outlook.verdict == "never":
                raise never(wanted)
            waited, line = time.monotonic() - began, _standing(wanted, outlook)
            if waited >= limit_s:
                raise StageFailedError(
                    f"{line}. They did not come within {duration(limit_s)}. The same command waits again; `ray status -v` on the "
                    "cluster says what its autoscaler does."
                )
            if told == began or time.monotonic() - told >= _LINE_EVERY_S:
                told = time.monotonic()
                print(f"{line}; {duration(waited)} of at most {duration(limit_s)}", file=sys.stderr, flush=True)
    if told != began:
        print(f"nodes: all of {wanted.count} x {shape(wanted)} are there", file=sys.stderr, flush=True)


class Demand:
    """What is wanted, as a placement group that the autoscaler sees. A context manager: it takes the demand back at its end."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted, self._seen_from, self._never_since = wanted, 0, float("inf")

    def __enter__(self) -> Self:
        from ray.util.placement_group import placement_group

        wanted = self._wanted
        if wanted.per_node is None:
            beside = [{"CPU": wanted.beside}] if wanted.beside else []
            self._group = placement_group([wanted.bundle] * wanted.count + beside, strategy="PACK")
        else:  # as many nodes as they need at the least
            self._group = placement_group(
                [wanted.bundle] * -(-wanted.count // wanted.per_node), strategy="STRICT_SPREAD"
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self._group)

    def outlook(self) -> Outlook:
        """What is to be expected, after a second at the most."""
        from ray.exceptions import RpcError

        if self._group.wait(_POLL_S):
            return Outlook("there", {})
        try:
            status, mine = cluster_status(), self._group.id.hex()
        except RpcError:  # the head is busy, or starts anew: a wait for minutes outlasts it
            return Outlook("unheard", {})
        if not self._seen_from and any(
            group.details.startswith(mine) for group in status.cluster_resource_state.pending_gang_resource_requests
        ):
            self._seen_from = status.cluster_resource_state.cluster_resource_state_version
        found = read_status(status.autoscaling_state, mine, self._seen_from)
        others = held(self._wanted, _nodes(status))
        return replace(
            found, others=others, verdict=self._sure("held" if others and found.verdict == "never" else found.verdict)
        )

    def _sure(self, verdict: Verdict) -> Verdict:
        """A "never" counts once it has lasted: the autoscaler's state is older than the end of other work that has just made room."""
        now = time.monotonic()
        self._never_since = min(self._never_since, now) if verdict == "never" else float("inf")
        return "unheard" if verdict == "never" and now - self._never_since < _SURE_S else verdict


def read_status(state: Any, group: str, seen_from: int) -> Outlook:
    """What the autoscaler's state (autoscaler.proto, AutoscalingState) says of a placement group.

    Args:
        group: its id in hex; `details` of a request begin with it.
        seen_from: the first version of the cluster's state that has the group; 0 where there was none yet.
    """
    coming = Counter(instance.ray_node_type_name for instance in state.pending_instances)  # that are being set up
    for request in state.pending_instance_requests:
        coming[request.ray_node_type_name] += request.count
    failures = tuple(
        f"{failed.count} x {failed.ray_node_type_name}: {failed.reason}" for failed in state.failed_instance_requests
    )
    if not seen_from or state.last_seen_cluster_resource_state_version < seen_from:
        return Outlook("unheard", coming, failures)
    hopeless = any(request.details.startswith(group) for request in state.infeasible_gang_resource_requests)
    return Outlook("never" if hopeless else "pending", coming, failures)


def cluster_status() -> Any:
    """Ray's own account of nodes and demands (autoscaler.proto, GetClusterStatusReply), as `ray status` reads it."""
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    return GetClusterStatusReply.FromString(internal_kv_get_gcs_client().get_cluster_status(timeout_s=10))


def held(wanted: Wanted, nodes: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> dict[str, float]:
    """How much of what is missing other work holds, by kind: it may be there when that work has ended.

    Nothing where there is room enough, and where the end of other work would make none: CPUs in use are not what a missing GPU waits for.

    Args:
        nodes: what each has in all, and what of it is free.
    """
    room = room_for(wanted, [free for _, free in nodes])
    if room >= wanted.count or room_for(wanted, [total for total, _ in nodes]) <= room:
        return {}
    used = {kind: sum(total.get(kind, 0.0) - free.get(kind, 0.0) for total, free in nodes) for kind in wanted.bundle}
    # Of which the end of other work would make room even if the other kinds stayed in use; all, where it takes several.
    short = [
        kind
        for kind in used
        if room_for(wanted, [{**free, kind: total.get(kind, 0.0)} for total, free in nodes]) > room
    ]
    return {kind: used[kind] for kind in short or used if used[kind] > _NOISE}


def waits_for(wanted: Wanted) -> str:
    """What a stage that wants this would wait for now, of what other work holds, on one line; empty where it need not."""
    others = held(wanted, _nodes(cluster_status()))
    if not others:
        return ""
    return (
        f"waiting for other work to end, which holds {_amounts(others)}: this asks for {wanted.count} x {shape(wanted)}"
    )


def _nodes(status: Any) -> list[tuple[dict[str, float], dict[str, float]]]:
    """What each node has in all, and what of it is free or this job's own driver's, which stays as long as it waits."""
    import ray
    from ray.core.generated.autoscaler_pb2 import NodeStatus

    here, own, found = ray.get_runtime_context().get_node_id(), driver_cpus(), []
    for state in status.cluster_resource_state.node_states:
        if state.status == NodeStatus.DEAD:
            continue
        total, free = dict(state.total_resources), dict(state.available_resources)
        if own and state.node_id.hex() == here:
            total["CPU"] = total.get("CPU", 0.0) - own
        found.append((total, free))
    return found


def never(wanted: Wanted) -> UserError:
    """The error for what no node of the cluster's groups would satisfy."""
    room = room_for(wanted, nodes_here())
    rule = (
        f"the run asks for {wanted.count} x {shape(wanted)}, the nodes that are there have room for {room}, and the cluster's "
        f"autoscaler can never bring {_missing(wanted, wanted.count - room)} that are missing"
    )
    remedy = f"Lower it, or raise the cluster's maxReplicas (max_workers) of nodes that have {shape(wanted)} each."
    return UserError(wanted.key, rule, remedy)


def _standing(wanted: Wanted, outlook: Outlook) -> str:
    """Where a demand stands, on one line."""
    missing = wanted.count - min(room_for(wanted, nodes_here()), wanted.count)
    parts = [f"nodes: waiting for {_missing(wanted, missing)} of {wanted.count} x {shape(wanted)}"]
    if outlook.coming:
        parts.append(f"pending: {', '.join(f'{count} of group {name}' for name, count in outlook.coming.items())}")
    elif outlook.verdict == "unheard":
        parts.append("the autoscaler has not answered yet")
    if outlook.others:
        parts.append(f"in use by other work: {_amounts(outlook.others)}")
    if outlook.failures:
        parts.append(f"could not be had: {outlook.failures[-1]}")
    return "; ".join(parts)


def _amounts(found: Mapping[str, float]) -> str:
    return ", ".join(amount(number, kind) for kind, number in found.items())


def _missing(wanted: Wanted, units: int) -> str:
    return ", ".join(amount(units * each, kind) for kind, each in wanted.bundle.items()) if units else "nodes with room"
