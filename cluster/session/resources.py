"""The resources that a stage needs at least, and whether nodes have room for them. A node is a mapping such as {"CPU": 8, "GPU": 1}."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.environment import driver_cpus
from pipelines.config import READER_CPUS, RunConfig
from pipelines.config.serving import INGRESS_CPUS
from pipelines.config.teacher import TeacherConfig
from pipelines.errors import UserError
from pipelines.label.engines.placement import replica_bundles

_ROUNDING = 1e-6
"""1.0 // 0.1 is 9, and sums of fractions are not exact."""
_NOISE = 0.01
"""Less than this of a resource in use counts as none."""


@dataclass(frozen=True)
class ResourceRequest:
    """Actors that a stage needs at the same time."""

    key: str
    """Key of the run file that sets `count`."""
    count: int
    gpus: int
    """Per actor."""
    cpus: float = 1
    """Per actor."""
    per_node: int | None = None
    """Most actors on one node; None: no limit."""
    custom: tuple[tuple[str, float], ...] = ()
    """Custom resources per actor."""
    reader_cpus: float = 0
    """CPUs that must stay free: without them the actors wait forever for the rows that they work on."""

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of one actor as Ray counts them, the scarcest first."""
        plain = {kind: float(amount) for kind, amount in (("GPU", self.gpus), ("CPU", self.cpus)) if amount}
        return {**dict(self.custom), **plain}

    def __str__(self) -> str:
        """Such as `3 x (1 GPU, 1 CPU)`."""
        return f"{self.count} x {self.shape}"

    @property
    def shape(self) -> str:
        """Resources of one actor, such as `(1 GPU, 1 CPU)`."""
        return f"({amounts(self.bundle)})"


def stage_requests(run: RunConfig, stage: str) -> list[ResourceRequest]:
    """The least that a stage of the run needs."""
    if stage == "label":
        requests, shards = _teacher_requests(run.teacher), run.labelling.shards
        return requests if shards == 1 else [*requests, ResourceRequest("labelling.shards", shards, 0)]
    if stage == "train":
        least = run.training.min_workers
        key = "training.min_workers" if least else "training.workers"
        return [ResourceRequest(key, least or run.training.workers, run.training.gpus_per_worker)]
    if stage == "evaluate":
        return [ResourceRequest("evaluation.workers", run.evaluation.workers, run.evaluation.gpus_per_worker)]
    serving, per_node = run.serving, run.serving.max_replicas_per_node
    return [
        ResourceRequest("serving.replicas.min", serving.replicas.min, serving.gpus_per_replica, per_node=per_node),
        ResourceRequest("serving.ingress_replicas", serving.ingress_replicas, 0, INGRESS_CPUS, per_node),
    ]


def _teacher_requests(teacher: TeacherConfig) -> list[ResourceRequest]:
    """One for the parts of a replica that are alike, since several nodes may share a replica."""
    key, (first, *others) = "teacher.replicas.min x gpus_per_replica", replica_bundles(teacher)
    kinds = [(first, 1), (others[0], len(others))] if others and others[0] != first else [(first, 1 + len(others))]
    return [
        ResourceRequest(
            key, teacher.replicas.min * count, int(bundle.get("GPU", 0)), bundle["CPU"],
            custom=tuple((kind, amount) for kind, amount in bundle.items() if kind not in ("GPU", "CPU")), reader_cpus=READER_CPUS,
        )
        for bundle, count in kinds
    ]  # fmt: skip


def check_resources(request: ResourceRequest, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise UserError if the nodes, with nothing else on them, have too few resources."""
    for kind, each in request.bundle.items():
        needed, available = request.count * each, sum(node.get(kind, 0) for node in nodes)
        if kind == "CPU":
            needed += request.reader_cpus
        if kind in dict(request.custom) and not available:
            have = sorted(
                {name for node in nodes for name in node if not name.startswith(("node:", "memory", "object_store"))}
            )
            name = kind.removeprefix("accelerator_type:")
            rule = f"no node has {name}, which teacher.resources or teacher.accelerator_type asks for; there are {', '.join(have)}"
            raise UserError(request.key, rule, "Correct the name, or add such nodes.")
        if needed > available:
            remedy = "Lower it."
            if kind == "GPU" and not available:
                remedy = "Set gpus_per_replica or gpus_per_worker to 0 to run on CPUs."
            beside = " beside the driver" if kind == "CPU" and driver_cpus() else ""
            rule = f"the run needs {amounts({kind: needed})}, {available:g} are available{beside}"
            raise UserError(request.key, rule, remedy)
    room = room_for(request, nodes)
    if room < request.count:
        limit = "each on one node" if request.per_node is None else f"at most {request.per_node} on one node"
        rule = f"the run needs {request}, {limit}; the nodes have room for {room}"
        larger = "use larger nodes" if request.per_node is None else "add nodes, or raise serving.max_replicas_per_node"
        raise UserError(request.key, rule, f"Lower it, or {larger}.")


def room_for(request: ResourceRequest, nodes: Sequence[Mapping[str, float]]) -> int:
    """Number of the requested actors that fit on the nodes, with nothing else on them."""
    fits = (min(int(node.get(kind, 0.0) / each + _ROUNDING) for kind, each in request.bundle.items()) for node in nodes)
    room = sum(fits if request.per_node is None else (min(fit, request.per_node) for fit in fits))
    left = sum(node.get("CPU", 0.0) for node in nodes) - room * request.cpus
    return max(room - math.ceil(max(request.reader_cpus - left, 0.0) / request.cpus), 0)


def held_by_others(
    request: ResourceRequest, nodes: Sequence[Mapping[str, float]], free: Mapping[str, float]
) -> dict[str, float]:
    """Resources in use, by kind, whose release would make room for more of the requested actors.

    Call it for a request that Ray does not grant now. Empty if no release would help: CPUs in use do not hold up a missing GPU.

    Args:
        nodes: totals per node.
        free: what is free, summed over the nodes. Ray's public API does not report it per node.
    """
    room = room_for(request, nodes)
    reachable = min(room, request.count)
    used = {kind: sum(node.get(kind, 0.0) for node in nodes) - free.get(kind, 0.0) for kind in request.bundle}
    short = [kind for kind, each in request.bundle.items() if int(free.get(kind, 0.0) / each + _ROUNDING) < reachable]
    if not short and room >= request.count:
        short = list(used)  # enough is free in all, but on no node enough for one actor
    return {kind: used[kind] for kind in short if used[kind] > _NOISE}


def amounts(resources: Mapping[str, float]) -> str:
    """Such as `1 GPU, 4 CPUs`."""
    return ", ".join(
        f"{number:g} {kind}" if number == 1 else f"{number:g} {kind}s" for kind, number in resources.items()
    )


def node_totals() -> list[dict[str, float]]:
    """Resources of each live node of the connected Ray, in use or not, less the CPUs that this driver holds as long as it runs."""
    import ray

    own = driver_cpus()
    here = ray.get_runtime_context().get_node_id() if own else ""
    nodes = []
    for node in ray.nodes():
        if node["Alive"]:
            resources = dict(node["Resources"])
            if node["NodeID"] == here:
                resources["CPU"] = resources.get("CPU", 0.0) - own
            nodes.append(resources)
    return nodes
