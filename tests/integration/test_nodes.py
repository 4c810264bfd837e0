"""Where actors without CPUs live on a cluster of several nodes."""

from __future__ import annotations

import pytest

from tests.faults.nodes import ray_nodes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
ACTORS = 6


def test_an_actor_kept_on_this_node_is_there_and_others_are_anywhere() -> None:
    import ray

    from pipelines.nodes import node_name, on_this_node

    class Where:
        def name(self) -> str:
            return node_name()

    with ray_nodes(2) as cluster:
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            kept = ray.remote(num_cpus=0, scheduling_strategy=on_this_node())(Where)
            anywhere = ray.remote(num_cpus=0)(Where)
            here = node_name()
            actors = [kept.remote() for _ in range(ACTORS)]
            kept_at = set(ray.get([actor.name.remote() for actor in actors]))
            others_at: set[str] = set()
            while others_at <= {here} and len(actors) < 5 * ACTORS:
                actors.append(anywhere.remote())
                others_at.add(ray.get(actors[-1].name.remote()))
        finally:
            ray.shutdown()
    assert kept_at == {here}
    assert others_at - {here}, "were they all here, there would be nothing to keep"
