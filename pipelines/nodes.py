"""How a node of a cluster is called in manifests and tables."""

from __future__ import annotations


def node_name() -> str:
    """The node of this process, as `ADDRESS (first characters of its id)`: nodes may share an address, and ids do not come again."""
    import ray

    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"
