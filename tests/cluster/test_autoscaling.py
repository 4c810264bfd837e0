"""What is read from the autoscaler's state, and what is said while nodes come. The autoscaler itself: integration/test_autoscaler.py."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import autoscaling, bootstrap
from cluster.autoscaling import Outlook, read_status, wait_for_nodes
from cluster.resources import Wanted
from pipelines.config import RunConfig
from pipelines.errors import StageFailedError, UserError
from tests.cluster.test_estimate import a_run

GROUP = "8964fd73859a7ff86855ae7f0fce01000000"
WANTED = Wanted("teacher.replicas.min x gpus_per_replica", 3, 1)


def state(**fields: Any) -> Any:
    from ray.core.generated.autoscaler_pb2 import AutoscalingState

    return AutoscalingState(last_seen_cluster_resource_state_version=7, **fields)


def infeasible(group: str) -> list[dict[str, str]]:
    return [{"details": f"{group}:PACK|PENDING"}]


@pytest.mark.parametrize(
    ("fields", "seen_from", "verdict"),
    [
        ({}, 0, "unheard"),  # the group is in no state of the cluster yet
        ({}, 8, "unheard"),  # the autoscaler has not read that state
        ({}, 7, "pending"),
        ({"infeasible_gang_resource_requests": infeasible(GROUP)}, 7, "never"),
        ({"infeasible_gang_resource_requests": infeasible(GROUP)}, 8, "unheard"),
        ({"infeasible_gang_resource_requests": infeasible("another")}, 7, "pending"),
    ],
)
def test_a_verdict_counts_once_the_autoscaler_has_read_the_demand(
    fields: dict[str, Any], seen_from: int, verdict: str
) -> None:
    assert read_status(state(**fields), GROUP, seen_from).verdict == verdict


def test_nodes_on_their_way_are_those_asked_for_and_those_being_set_up() -> None:
    found = read_status(
        state(
            pending_instance_requests=[{"ray_node_type_name": "gpu", "count": 2}],
            pending_instances=[{"ray_node_type_name": "gpu"}, {"ray_node_type_name": "cpu"}],
            failed_instance_requests=[{"ray_node_type_name": "gpu", "count": 1, "reason": "quota"}],
        ),
        GROUP,
        7,
    )
    assert found == Outlook("pending", {"gpu": 3, "cpu": 1}, ("1 x gpu: quota",))


class Scripted:
    """A demand whose outlooks are given."""

    def __init__(self, *outlooks: Outlook) -> None:
        self._outlooks = list(outlooks)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        assert not self._outlooks, "it was given up before its end"

    def outlook(self) -> Outlook:
        return self._outlooks.pop(0)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what demands find, what nodes there are and what is in use."""

    def found(*outlooks: Outlook, nodes: list[dict[str, float]], used: dict[str, float] | None = None) -> None:
        monkeypatch.setattr(autoscaling, "Demand", lambda wanted: Scripted(*outlooks))
        monkeypatch.setattr(autoscaling, "nodes_here", lambda: nodes)
        monkeypatch.setattr(autoscaling, "used_by_others", lambda wanted: used or {})

    return found


def test_what_is_missing_and_pending_is_said_while_it_is_waited_for(cluster: Any, capsys: Any) -> None:
    cluster(Outlook("unheard", {}), Outlook("pending", {"gpu": 2}), Outlook("there", {}), nodes=[{"GPU": 1, "CPU": 4}])
    wait_for_nodes(WANTED)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(
        "nodes: waiting for 2 GPUs, 2 CPUs of 3 x (1 GPU, 1 CPU); the autoscaler has not answered yet; 0 s of at most 30 min"
    )
    assert last == "nodes: all of 3 x (1 GPU, 1 CPU) are there"


def test_what_can_never_come_is_refused_with_what_is_missing(cluster: Any) -> None:
    cluster(Outlook("pending", {}), Outlook("never", {}), nodes=[{"GPU": 1, "CPU": 4}])
    with pytest.raises(UserError) as refused:
        wait_for_nodes(WANTED)
    assert "have room for 1, and the cluster's autoscaler can never bring 2 GPUs, 2 CPUs" in str(refused.value)


def test_what_others_use_is_waited_for(cluster: Any, capsys: Any) -> None:
    busy = {"GPU": 2.0}
    cluster(Outlook("never", {}), Outlook("never", {}), Outlook("there", {}), nodes=[{"GPU": 2, "CPU": 4}], used=busy)
    wait_for_nodes(WANTED)
    assert "in use by other work: 2 GPUs" in capsys.readouterr().err


def test_nodes_that_do_not_come_in_time_fail_the_stage_and_say_why(cluster: Any) -> None:
    cluster(Outlook("pending", {"gpu": 3}, ("3 x gpu: no capacity",)), nodes=[])
    with pytest.raises(StageFailedError) as failed:
        wait_for_nodes(WANTED, limit_s=0.0)
    said = str(failed.value)
    assert (
        "waiting for 3 GPUs, 3 CPUs of 3 x (1 GPU, 1 CPU); pending: 3 of group gpu; could not be had: 3 x gpu: no capacity"
        in said
    )
    assert "did not come within 0 s. The same command waits again" in said


@pytest.mark.parametrize(
    ("nodes", "asked"),
    [
        ([], [("promised", 2), ("promised", 3), ("waited for", 1)]),
        ([{"GPU": 1, "CPU": 8}], [("promised", 2)]),
        ([{"GPU": 2, "CPU": 8}], []),
    ],
)
def test_the_first_stage_is_waited_for_and_later_ones_are_only_asked_about(
    nodes: list[dict[str, float]], asked: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labelling wants 1 GPU, training 2, evaluation 3 CPUs: told apart here by how many actors that is."""
    tree = a_run(gpus_per_replica=1).model_dump()
    tree["training"] |= {"workers": 2, "gpus_per_worker": 1}
    tree["evaluation"] |= {"workers": 3}
    run = RunConfig.model_validate(tree)
    found: list[tuple[str, int]] = []
    monkeypatch.setattr(bootstrap, "nodes_here", lambda: nodes)
    monkeypatch.setattr(autoscaling, "autoscales", lambda: True)
    monkeypatch.setattr(autoscaling, "promised", lambda wanted: found.append(("promised", wanted.count)))
    monkeypatch.setattr(autoscaling, "wait_for_nodes", lambda wanted: found.append(("waited for", wanted.count)))
    bootstrap._check_cluster(run, ["label", "train", "evaluate"])
    assert found == asked


def test_where_no_node_can_come_what_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "nodes_here", lambda: [{"CPU": 8.0}])
    monkeypatch.setattr(autoscaling, "autoscales", lambda: False)
    with pytest.raises(UserError, match="the run asks for 1 GPUs, there are 0"):
        bootstrap._check_cluster(a_run(gpus_per_replica=1), ["label"])
