"""Wait for the nodes that an autoscaler launches, or refuse a run whose nodes can never come.

A stage's request becomes a placement group. The autoscaler sees it and launches nodes; Ray removes it with this process, so a killed
command leaves no request behind. The group is removed before the stage begins, and the stage's own actors take the nodes.

Placement groups and resources are Ray's public API. What the autoscaler decided about a group is not: see compat.ray.autoscaler_state.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self

from cluster.session.resources import ResourceRequest, amounts, held_by_others, node_totals, room_for
from pipelines.errors import StageFailedError, UserError
from pipelines.runtime.compat.ray import autoscaler_state
from pipelines.runtime.durations import duration
from pipelines.runtime.terminal import say

NODES_S = 1800.0
"""Longest wait for nodes: a cloud launches one with a GPU, and pulls its image, in 5 to 15 minutes."""
_FEASIBLE_S = 60.0
_SURE_S = 3.0
"""How long a request must stay infeasible: the autoscaler's state may be older than resources that have just been freed."""
_SETTLE_S = 2.0
_POLL_S = 1
_LINE_EVERY_S = 10.0


class Outlook(Enum):
    """What becomes of a request."""

    GRANTED = "granted"
    PENDING = "pending"
    """Nodes for it are launching, or will be."""
    HELD = "held"
    """The autoscaler can launch no nodes for it, but other work holds resources that it could have."""
    INFEASIBLE = "infeasible"
    """The autoscaler can launch no nodes for it."""
    UNKNOWN = "unknown"
    """The autoscaler has not seen it yet."""


@dataclass(frozen=True)
class RequestStatus:
    """Where a request stands."""

    outlook: Outlook
    launching: Mapping[str, int] = field(default_factory=dict)
    """Nodes that are starting, by node group."""
    failures: tuple[str, ...] = ()
    """Launches that the provider refused, with the reason."""
    held: Mapping[str, float] = field(default_factory=dict)
    """Resources that other work holds, by kind."""


class NodeRequest:
    """A request as a placement group of the connected Ray, while the block runs."""

    def __init__(self, request: ResourceRequest) -> None:
        self._request = request
        self._visible_from = 0
        """First version of the cluster's state that has the group; 0: none yet."""
        self._infeasible_since: float | None = None

    def __enter__(self) -> Self:
        import ray

        request = self._request
        if request.per_node is None:
            readers = [{"CPU": request.reader_cpus}] if request.reader_cpus else []
            self._group = ray.util.placement_group([request.bundle] * request.count + readers, strategy="PACK")
        else:
            nodes = -(-request.count // request.per_node)
            self._group = ray.util.placement_group([request.bundle] * nodes, strategy="STRICT_SPREAD")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        import ray

        ray.util.remove_placement_group(self._group)

    def granted(self, timeout_s: float = _POLL_S) -> bool:
        """True once Ray has reserved the resources. Waits at most `timeout_s`."""
        return bool(self._group.wait(timeout_s))

    def held(self) -> dict[str, float]:
        """Resources that other work holds and that this request waits for, by kind."""
        import ray

        return held_by_others(self._request, node_totals(), ray.available_resources())

    def status(self) -> RequestStatus:
        """Where the request stands, after at most a second."""
        from ray.exceptions import RpcError

        if self.granted():
            return RequestStatus(Outlook.GRANTED)
        try:
            state, held = autoscaler_state(), self.held()
        except RpcError:  # the head is busy or restarts; a wait of minutes outlasts it
            return RequestStatus(Outlook.UNKNOWN)
        group = self._group.id.hex()
        if not self._visible_from and group in state.waiting:
            self._visible_from = state.version
        outlook = Outlook.UNKNOWN
        if group in state.infeasible:
            outlook = Outlook.HELD if held else Outlook.INFEASIBLE
        elif 0 < self._visible_from <= state.seen_version:
            outlook = Outlook.PENDING
        return RequestStatus(self._settled(outlook), state.launching, state.failures, held)

    def _settled(self, outlook: Outlook) -> Outlook:
        """INFEASIBLE only once it has lasted."""
        if outlook is not Outlook.INFEASIBLE:
            self._infeasible_since = None
            return outlook
        now = time.monotonic()
        self._infeasible_since = self._infeasible_since or now
        return outlook if now - self._infeasible_since >= _SURE_S else Outlook.UNKNOWN


def check_feasible(request: ResourceRequest) -> None:
    """Raise UserError if the cluster can never grant a request. Waits for the autoscaler's answer, not for nodes."""
    until = time.monotonic() + _FEASIBLE_S
    with NodeRequest(request) as requested:
        while time.monotonic() < until:
            outlook = requested.status().outlook
            if outlook is Outlook.INFEASIBLE:
                raise infeasible(request)
            if outlook is not Outlook.UNKNOWN:
                return


def wait_for_nodes(request: ResourceRequest) -> None:
    """Wait until the cluster can grant a request. Prints on stderr what is missing.

    Raises:
        UserError: it never can.
        StageFailedError: it cannot within half an hour.
    """
    began = time.monotonic()
    printed_at: float | None = None
    with NodeRequest(request) as requested:
        while (status := requested.status()).outlook is not Outlook.GRANTED:
            if status.outlook is Outlook.INFEASIBLE:
                raise infeasible(request)
            now, line = time.monotonic(), _line(request, status)
            if now - began >= NODES_S:
                raise StageFailedError(
                    f"{line}. They did not come within {duration(NODES_S)}. Run the same command to wait again; `ray status -v` on the "
                    "cluster shows what its autoscaler does."
                )
            if printed_at is None or now - printed_at >= _LINE_EVERY_S:
                printed_at = now
                say(f"{line}; {duration(round(now - began))} of at most {duration(NODES_S)}")
    if printed_at is not None:
        say(f"nodes: {request} are ready")


def busy_line(request: ResourceRequest) -> str:
    """What a request waits for that other work holds, on one line; empty if Ray can grant it within two seconds."""
    with NodeRequest(request) as requested:
        # What this command has just released counts as used for a moment.
        held = {} if requested.granted(_SETTLE_S) else requested.held()
    return f"waiting for other work to release {amounts(held)}; the stage needs {request}" if held else ""


def infeasible(request: ResourceRequest) -> UserError:
    """The error for a request that no nodes of the cluster's groups can meet."""
    rule = f"the run needs {request}, and the autoscaler cannot launch nodes for the missing {_missing(request)}"
    remedy = f"Lower it, or raise the cluster's maxReplicas (max_workers) of nodes that have {request.shape} each."
    return UserError(request.key, rule, remedy)


def _line(request: ResourceRequest, status: RequestStatus) -> str:
    parts = [f"nodes: waiting for {_missing(request)} of {request}"]
    if status.launching:
        groups = ", ".join(f"{count} of group {name}" for name, count in status.launching.items())
        parts.append(f"launching: {groups}")
    elif status.outlook is Outlook.UNKNOWN:
        parts.append("the autoscaler has not answered yet")
    if status.held:
        parts.append(f"in use by other work: {amounts(status.held)}")
    if status.failures:
        parts.append(f"launch failed: {status.failures[-1]}")
    return "; ".join(parts)


def _missing(request: ResourceRequest) -> str:
    """What the nodes lack, with nothing else on them. They may also be large enough and in use."""
    actors = request.count - room_for(request, node_totals())
    return amounts({kind: actors * each for kind, each in request.bundle.items()}) if actors > 0 else "free nodes"
