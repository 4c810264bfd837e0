"""What a stage of a run asks of Ray at the least, and whether nodes have it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.config import READER_CPUS, RunConfig
from pipelines.config.serving import INGRESS_CPUS
from pipelines.errors import UserError


@dataclass(frozen=True)
class Wanted:
    """`count` actors that are needed at a time, what each of them takes of one node, and the key of the run file that says so."""

    key: str
    count: int
    gpus: int
    cpus: float = 1
    per_node: int | None = None
    """At most so many of them on one node; None: as many as have room."""
    beside: float = 0
    """CPUs that must be left: without them the actors wait for ever for what they work on."""

    @property
    def bundle(self) -> dict[str, float]:
        """What one takes, as Ray counts it; the scarcest first."""
        return {kind: float(each) for kind, each in (("GPU", self.gpus), ("CPU", self.cpus)) if each}


def wanted_by(run: RunConfig, stage: str) -> list[Wanted]:
    """What a stage of the run needs at the least."""
    if stage == "label":
        teacher = run.teacher
        key = "teacher.replicas.min x gpus_per_replica"
        return [Wanted(key, teacher.replicas.min, teacher.gpus_per_replica, beside=READER_CPUS)]
    if stage == "train":
        least = run.training.min_workers
        key = "training.min_workers" if least else "training.workers"
        return [Wanted(key, least or run.training.workers, run.training.gpus_per_worker)]
    if stage == "evaluate":
        return [Wanted("evaluation.workers", run.evaluation.workers, run.evaluation.gpus_per_worker)]
    serving, per_node = run.serving, run.serving.max_replicas_per_node
    return [
        Wanted("serving.replicas.min", serving.replicas.min, serving.gpus_per_replica, per_node=per_node),
        Wanted("serving.ingress_replicas", serving.ingress_replicas, 0, INGRESS_CPUS, per_node),
    ]


def check_resources(wanted: Wanted, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raises UserError where more is wanted than the nodes have. `nodes`: CPU and GPU of each."""
    for kind, each in wanted.bundle.items():
        asked, available = wanted.count * each, sum(node.get(kind, 0) for node in nodes)
        if kind == "CPU":
            asked += wanted.beside
        if asked > available:
            remedy = (
                "Set gpus_per_replica / gpus_per_worker to 0 to run on CPUs."
                if kind == "GPU" and not available
                else "Lower it."
            )
            raise UserError(wanted.key, f"the run asks for {asked:g} {kind}s, there are {available:g}", remedy)
    room = room_for(wanted, nodes)
    if room < wanted.count:
        where = "each on one node" if wanted.per_node is None else f"at most {wanted.per_node} on one node"
        rule = f"the run asks for {wanted.count} x {shape(wanted)}, {where}, and the nodes have room for {room}"
        remedy = "use larger nodes" if wanted.per_node is None else "add nodes, or raise serving.max_replicas_per_node"
        raise UserError(wanted.key, rule, f"Lower it, or {remedy}.")


def room_for(wanted: Wanted, nodes: Iterable[Mapping[str, float]]) -> int:
    """How many of what is wanted the nodes can hold, were nothing else on them."""
    nodes = list(nodes)
    # Rounded: 1.0 // 0.1 is 9.
    rooms = (min(int(node.get(kind, 0.0) / each + 1e-6) for kind, each in wanted.bundle.items()) for node in nodes)
    room = sum(rooms if wanted.per_node is None else (min(room, wanted.per_node) for room in rooms))
    left = sum(node.get("CPU", 0.0) for node in nodes) - room * wanted.cpus
    return max(room - math.ceil(max(wanted.beside - left, 0.0) / wanted.cpus), 0)


def shape(wanted: Wanted) -> str:
    """What one takes, for people: `(1 GPU, 1 CPU)`."""
    return f"({', '.join(amount(each, kind) for kind, each in wanted.bundle.items())})"


def amount(number: float, kind: str) -> str:
    """`1 GPU`, `4 CPUs`."""
    return f"{number:g} {kind}" if number == 1 else f"{number:g} {kind}s"


def nodes_here() -> list[dict[str, float]]:
    """What each node of the running Ray has, whether in use or not."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
