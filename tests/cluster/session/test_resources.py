"""What stages ask for, and what nodes have room for."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from cluster.session.resources import Wanted, check_resources, room_for, shape, wanted_by
from pipelines.errors import UserError
from tests.cluster.planning.test_estimate import a_run

CPU_NODE = {"CPU": 8.0, "memory": 1e9}
GPU_NODE = {"CPU": 8.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("sections", "stage", "wanted"),
    [
        (
            {"teacher": {"replicas": {"min": 2, "max": 4}, "gpus_per_replica": 4}},
            "label",
            Wanted("teacher.replicas.min x gpus_per_replica", 2, 4, beside=0.5),
        ),
        ({"training": {"workers": 3, "gpus_per_worker": 1}}, "train", Wanted("training.workers", 3, 1)),
        ({"training": {"workers": 3, "min_workers": 1}}, "train", Wanted("training.min_workers", 1, 0)),
        ({"evaluation": {"workers": 2}}, "evaluate", Wanted("evaluation.workers", 2, 0)),
        (
            {"serving": {"replicas": {"min": 2, "max": 4}, "max_replicas_per_node": 1}},
            "serve",
            Wanted("serving.replicas.min", 2, 0, per_node=1),
        ),
        (
            {"serving": {"ingress_replicas": 3, "max_replicas_per_node": 2}},
            "serve",
            Wanted("serving.ingress_replicas", 3, 0, 0.1, per_node=2),
        ),
    ],
)
def test_a_stage_asks_for_its_actors(sections: dict[str, Any], stage: str, wanted: Wanted) -> None:
    run = a_run()
    tree = run.model_dump()
    for section, values in sections.items():
        tree[section] |= values
    assert wanted in wanted_by(type(run).model_validate(tree), stage)


@pytest.mark.parametrize(
    ("wanted", "nodes", "room"),
    [
        (Wanted("k", 1, 0), [CPU_NODE, GPU_NODE], 16),
        (Wanted("k", 1, 1), [CPU_NODE, GPU_NODE, GPU_NODE], 2),
        (Wanted("k", 1, 2), [GPU_NODE, GPU_NODE], 0),
        (Wanted("k", 1, 2), [{"CPU": 8.0, "GPU": 5.0}], 2),
        (Wanted("k", 1, 1), [{"CPU": 1.0, "GPU": 5.0}], 1),
        (Wanted("k", 1, 0, per_node=1), [CPU_NODE, GPU_NODE, {"CPU": 0.0}], 2),
        (Wanted("k", 1, 0), [], 0),
        (Wanted("k", 1, 1, beside=0.5), [], 0),
        (Wanted("k", 1, 0, 0.1), [{"CPU": 1.0}, {"CPU": 0.3}], 13),
        (Wanted("k", 8, 0, beside=0.5), [CPU_NODE], 7),
        (Wanted("k", 7, 0, beside=0.5), [CPU_NODE], 7),
        (Wanted("k", 1, 1, beside=0.5), [{"CPU": 1.0, "GPU": 1.0}], 0),
        (Wanted("k", 1, 1, beside=0.5), [CPU_NODE, {"CPU": 1.0, "GPU": 1.0}], 1),
    ],
)
def test_an_actor_finds_room_on_one_node_or_not_at_all(
    wanted: Wanted, nodes: list[dict[str, float]], room: int
) -> None:
    assert room_for(wanted, nodes) == room


@pytest.mark.parametrize(
    ("wanted", "nodes", "said"),
    [
        (Wanted("k", 2, 2), [CPU_NODE], "k: the run asks for 4 GPUs, there are 0. Set gpus_per_replica"),
        (Wanted("k", 2, 1), [GPU_NODE], "k: the run asks for 2 GPUs, there are 1. Lower it."),
        (Wanted("k", 9, 0), [CPU_NODE], "k: the run asks for 9 CPUs, there are 8. Lower it."),
        (Wanted("k", 8, 0, beside=0.5), [CPU_NODE], "k: the run asks for 8.5 CPUs, there are 8. Lower it."),
        (
            Wanted("k", 1, 2),
            [GPU_NODE, GPU_NODE],
            "k: the run asks for 1 x (2 GPUs, 1 CPU), each on one node, and the nodes have room for 0. Lower it, or use larger",
        ),
    ],
)
def test_what_the_nodes_do_not_have_is_refused_with_the_numbers(
    wanted: Wanted, nodes: list[dict[str, float]], said: str
) -> None:
    with pytest.raises(UserError) as refused:
        check_resources(wanted, nodes)
    assert str(refused.value).startswith(said)


def test_what_the_nodes_have_passes() -> None:
    check_resources(Wanted("k", 2, 1), [GPU_NODE, CPU_NODE, GPU_NODE])
    check_resources(Wanted("k", 0, 0), [])


def test_shapes_are_told_in_words() -> None:
    assert shape(Wanted("k", 1, 1)) == "(1 GPU, 1 CPU)"
    assert shape(Wanted("k", 1, 4)) == "(4 GPUs, 1 CPU)"
    assert shape(Wanted("k", 1, 0)) == "(1 CPU)"


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        (
            Wanted("serving.replicas.min", 6, 0, per_node=2),
            "6 x .1 CPU., at most 2 on one node, and .* room for 5.*add nodes",
        ),
        (
            Wanted("serving.ingress_replicas", 7, 0, 0.1, per_node=2),
            "7 x .0.1 CPUs., at most 2 on one node, .* room for 6",
        ),
        (Wanted("k", 2, 0, 5), "2 x .5 CPUs., each on one node, and .* room for 1.*larger nodes"),
        (Wanted("k", 1, 1), "asks for 1 GPUs, there are 0"),
        (Wanted("serving.replicas.min", 5, 0, per_node=2), None),
    ],
)
def test_what_the_nodes_have_no_room_for_is_refused(wanted: Wanted, match: str | None) -> None:
    """A head without CPUs takes none."""
    nodes = [{"CPU": 0.0}, {"CPU": 8.0}, {"CPU": 1.0}, {"CPU": 4.0}]
    with pytest.raises(UserError, match=match) if match else nullcontext():
        check_resources(wanted, nodes)
