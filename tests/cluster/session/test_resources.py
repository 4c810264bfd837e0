"""What stages request, what nodes have room for, and what other work holds."""

import re
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster.session import resources
from cluster.session.resources import ResourceRequest, check_resources, held_by_others, room_for
from pipelines.errors import UserError
from tests.support.corpora import run_config


def need(count: int, gpus: int, cpus: float = 1, **limits: Any) -> ResourceRequest:
    return ResourceRequest("k", count, gpus, cpus, **limits)


Nodes = list[dict[str, float]]
CPU_NODE, GPU_NODE = {"CPU": 8.0, "memory": 1e9}, {"CPU": 8.0, "GPU": 1.0}
MIXED = [{"CPU": 0.0}, {"CPU": 8.0}, {"CPU": 1.0}, {"CPU": 4.0}]
"""A head without CPUs, and three nodes."""


@pytest.mark.parametrize(
    ("sections", "stage", "request_"),
    [
        ({"teacher": {"engine": "echo", "replicas": {"min": 2, "max": 4}, "gpus_per_replica": 4}}, "label",
         ResourceRequest("teacher.replicas.min x gpus_per_replica", 2, 4, reader_cpus=0.5)),
        ({"teacher": {"engine": "vllm", "model": "m", "gpus_per_replica": 16, "pipeline_parallel": 2, "accelerator_type": "H100"}}, "label",
         ResourceRequest("teacher.replicas.min x gpus_per_replica", 16, 1, custom=(("accelerator_type:H100", 0.001),), reader_cpus=0.5)),
        ({"training": {"workers": 3, "gpus_per_worker": 1}}, "train", ResourceRequest("training.workers", 3, 1)),
        ({"training": {"workers": 3, "min_workers": 1}}, "train", ResourceRequest("training.min_workers", 1, 0)),
        ({"evaluation": {"workers": 2}}, "evaluate", ResourceRequest("evaluation.workers", 2, 0)),
        ({"serving": {"replicas": {"min": 2, "max": 4}, "max_replicas_per_node": 1}}, "serve",
         ResourceRequest("serving.replicas.min", 2, 0, per_node=1)),
        ({"serving": {"ingress_replicas": 3, "max_replicas_per_node": 2}}, "serve",
         ResourceRequest("serving.ingress_replicas", 3, 0, 0.1, per_node=2)),
    ],
)  # fmt: skip
def test_a_stage_requests_its_actors(sections: dict[str, Any], stage: str, request_: ResourceRequest) -> None:
    assert request_ in resources.stage_requests(run_config(**sections), stage)


def test_a_resource_that_no_node_has_is_named() -> None:
    [request_] = resources.stage_requests(run_config({"engine": "echo", "resources": {"big-disk": 1.0}}), "label")
    with pytest.raises(UserError, match=r"no node has big-disk, .*; there are CPU, GPU"):
        check_resources(request_, [CPU_NODE, GPU_NODE])
    check_resources(request_, [{**CPU_NODE, "big-disk": 1.0}])


@pytest.mark.parametrize(
    ("request_", "nodes", "room"),
    [
        (need(1, 0), [CPU_NODE, GPU_NODE], 16),
        (need(1, 1), [CPU_NODE, GPU_NODE, GPU_NODE], 2),
        (need(1, 2), [GPU_NODE, GPU_NODE], 0),
        (need(1, 2), [{"CPU": 8.0, "GPU": 5.0}], 2),
        (need(1, 0, per_node=1), [CPU_NODE, GPU_NODE, {"CPU": 0.0}], 2),
        (need(1, 0), [], 0),
        (need(1, 0, 0.1), [{"CPU": 1.0}, {"CPU": 0.3}], 13),
        (need(8, 0, reader_cpus=0.5), [CPU_NODE], 7),
        (need(1, 1, reader_cpus=0.5), [{"CPU": 1.0, "GPU": 1.0}], 0),
        (need(1, 1, reader_cpus=0.5), [CPU_NODE, {"CPU": 1.0, "GPU": 1.0}], 1),
    ],
)
def test_an_actor_fits_on_one_node_or_not_at_all(request_: ResourceRequest, nodes: Nodes, room: int) -> None:
    assert room_for(request_, nodes) == room


@pytest.mark.parametrize(
    ("request_", "nodes", "message"),
    [
        (need(2, 2), [CPU_NODE], "k: the run needs 4 GPUs, 0 are available. Set gpus_per_replica or"),
        (need(8, 0, reader_cpus=0.5), [CPU_NODE], "k: the run needs 8.5 CPUs, 8 are available. Lower it."),
        (need(1, 2), [GPU_NODE] * 2,
         "k: the run needs 1 x (2 GPUs, 1 CPU), each on one node; the nodes have room for 0. Lower it, or use larger nodes."),
        (need(6, 0, per_node=2), MIXED,
         "k: the run needs 6 x (1 CPU), at most 2 on one node; the nodes have room for 5. Lower it, or add nodes, or raise"),
        (need(5, 0, per_node=2), MIXED, None),
        (need(2, 1), [GPU_NODE, CPU_NODE, GPU_NODE], None),
    ],
)  # fmt: skip
def test_missing_resources_are_refused(request_: ResourceRequest, nodes: Nodes, message: str | None) -> None:
    with pytest.raises(UserError, match=re.escape(message)) if message else nullcontext():
        check_resources(request_, nodes)


GPUS, BIG = need(3, 1), need(1, 2)


@pytest.mark.parametrize(
    ("request_", "nodes", "free", "held"),
    [
        (GPUS, [{"GPU": 4, "CPU": 8}], {"GPU": 1, "CPU": 8}, {"GPU": 3.0}),
        (GPUS, [{"GPU": 1, "CPU": 8}], {"GPU": 1, "CPU": 4}, {}),  # the missing GPUs do not exist
        (GPUS, [{"CPU": 8}], {"CPU": 1}, {}),
        (GPUS, [{"GPU": 4, "CPU": 3}], {"GPU": 3, "CPU": 1}, {"CPU": 2.0}),
        (GPUS, [{"GPU": 4, "CPU": 4}], {"GPU": 1, "CPU": 1}, {"GPU": 3.0, "CPU": 3.0}),
        (GPUS, [{"GPU": 2, "CPU": 4}], {"CPU": 4}, {"GPU": 2.0}),  # more nodes may come once these are free
        (BIG, [{"GPU": 1, "CPU": 8}] * 2, {"GPU": 2, "CPU": 2}, {}),  # no node has two GPUs
        (BIG, [{"GPU": 2, "CPU": 8}] * 2, {"GPU": 2, "CPU": 16}, {"GPU": 2.0}),  # one is free on each
        (need(4, 0), [{"CPU": 4.0}], {"CPU": 4.0 - 1e-9}, {}),
    ],
)
def test_others_hold_only_what_would_make_room(
    request_: ResourceRequest, nodes: Nodes, free: dict[str, float], held: dict[str, float]
) -> None:
    assert held_by_others(request_, nodes, free) == held


def test_cpus_of_this_driver_never_become_free(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"NodeID": name, "Alive": name != "gone", "Resources": {"CPU": 4.0}} for name in ("here", "there", "gone")]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    assert resources.node_totals() == [{"CPU": 4.0}, {"CPU": 4.0}]
    monkeypatch.setenv("RAYSTILL_DRIVER_CPUS", "1")
    assert resources.node_totals() == [{"CPU": 3.0}, {"CPU": 4.0}]
    with pytest.raises(UserError, match="needs 8 CPUs, 7 are available beside the driver"):
        check_resources(need(8, 0), resources.node_totals())
