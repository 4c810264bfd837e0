"""Nodes of a cluster: their names in manifests and tables, and how to keep an actor on this one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def node_name() -> str:
    """This process' node, as `ADDRESS (first 8 characters of its id)`. Nodes may share an address; an id is unique."""
    import ray

    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"


def by_address(rows: Mapping[str, int]) -> dict[str, int]:
    """Counts by `node_name` as counts by address: a machine has another id in each Ray, so in each run of a command."""
    found: Counter[str] = Counter()
    for name, count in rows.items():
        found[name.partition(" (")[0]] += count
    return dict(sorted(found.items()))


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Scheduling strategy of an actor that must live as long as this process.

    Without it, Ray may put an actor that needs no CPUs on any node, and the actor is lost with that node.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
