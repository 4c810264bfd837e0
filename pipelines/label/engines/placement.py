"""Where a replica of the teacher runs: the resources of its actor or, if its layers are on several nodes, of a placement group.

    gpus_per_replica 8                           one actor with 8 GPUs of one node; vLLM's workers are its processes
    gpus_per_replica 16, pipeline_parallel 2     a placement group of 16 bundles with a GPU each, packed on as few nodes as possible.
                                                 The actor is in the first bundle; vLLM starts its workers in all of them

vLLM takes the placement group of its actor, and one GPU of each bundle.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pipelines.config import TeacherConfig

_SMALL = 0.001
"""Ray's amount of the resource that marks an accelerator's type."""


def replica_arguments(teacher: TeacherConfig, group: str) -> dict[str, Any]:
    """Arguments of `Dataset.map_batches` for the teacher's actors.

    Args:
        group: begins the names of the placement groups.
    """
    if teacher.pipeline_parallel == 1:
        arguments: dict[str, Any] = {"num_cpus": 1, "num_gpus": teacher.gpus_per_replica}
        if teacher.resources:
            arguments["resources"] = dict(teacher.resources)
        return arguments | ({"accelerator_type": teacher.accelerator_type} if teacher.accelerator_type else {})
    return {"num_cpus": 1, "num_gpus": 0, "ray_remote_args_fn": partial(_placed, replica_bundles(teacher), group)}


def replica_bundles(teacher: TeacherConfig) -> list[dict[str, float]]:
    """The resources of each part of a replica that must be on one node."""
    marked = {f"accelerator_type:{teacher.accelerator_type}": _SMALL} if teacher.accelerator_type else {}
    if teacher.pipeline_parallel == 1:
        gpus = {"GPU": float(teacher.gpus_per_replica)} if teacher.gpus_per_replica else {}
        return [{**gpus, "CPU": 1.0, **teacher.resources, **marked}]
    bundle = {"GPU": 1.0, "CPU": 1.0, **marked}
    return [{**bundle, **teacher.resources}, *([bundle] * (teacher.gpus_per_replica - 1))]


def remove_groups(group: str) -> None:
    """Remove the placement groups of this name. Ray would keep them, and their GPUs, until this process ends."""
    import ray
    from ray.util import get_placement_group, placement_group_table, remove_placement_group

    if not ray.is_initialized():
        return
    names = [found["name"] for found in placement_group_table().values() if found["state"] != "REMOVED"]
    for name in names:
        if name.startswith(group):
            remove_placement_group(get_placement_group(name))


def _placed(bundles: list[dict[str, float]], group: str) -> dict[str, Any]:
    """Options of one actor, in a placement group of its own. Called for each actor."""
    import uuid

    from ray.util import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    made = placement_group(bundles, strategy="PACK", name=f"{group}-{uuid.uuid4().hex[:8]}")
    strategy = PlacementGroupSchedulingStrategy(
        made, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    return {"scheduling_strategy": strategy}
