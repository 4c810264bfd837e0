"""Nodes of a cluster: how one is called in manifests and tables, and how an actor is kept on this one."""

from __future__ import annotations

from typing import Any


def node_name() -> str:
    """The node of this process, as `ADDRESS (first characters of its id)`: nodes may share an address, and ids do not come again."""
    import ray

    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"


def on_this_node() -> Any:
    """The scheduling strategy of what must live as long as this process and no shorter.

    An actor without CPUs may be put on any node, and is lost with that.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
