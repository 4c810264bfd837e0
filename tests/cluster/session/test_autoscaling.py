"""What is read from the autoscaler's state, and what is said while nodes come. The autoscaler itself: integration/test_autoscaler.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster.session import autoscaling, start
from cluster.session.autoscaling import Outlook, held, promised, read_status, wait_for_nodes, waits_for
from cluster.session.resources import Wanted
from pipelines.config import RunConfig
from pipelines.errors import StageFailedError, UserError
from tests.cluster.planning.test_estimate import a_run

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
    """Sets what demands find, and what nodes there are."""

    def found(*outlooks: Outlook, nodes: list[dict[str, float]]) -> None:
        monkeypatch.setattr(autoscaling, "Demand", lambda wanted: Scripted(*outlooks))
        monkeypatch.setattr(autoscaling, "nodes_here", lambda: nodes)

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
    busy = Outlook("held", {}, others={"GPU": 2.0})
    cluster(busy, busy, Outlook("there", {}), nodes=[{"GPU": 2, "CPU": 4}])
    wait_for_nodes(WANTED)
    assert "in use by other work: 2 GPUs" in capsys.readouterr().err


def test_of_what_others_hold_nothing_is_promised_and_it_is_not_waited_for(cluster: Any) -> None:
    cluster(Outlook("unheard", {}), Outlook("held", {}, others={"GPU": 2.0}), nodes=[])
    promised(WANTED)
    cluster(Outlook("never", {}), nodes=[])
    with pytest.raises(UserError, match="can never bring"):
        promised(WANTED)


ONE_CPU = Wanted("training.workers", 4, 0)


@pytest.mark.parametrize(
    ("wanted", "nodes", "others"),
    [
        # 3 x (1 GPU, 1 CPU). What each node has, and what of it is free.
        (WANTED, [({"GPU": 4, "CPU": 8}, {"GPU": 1, "CPU": 8})], {"GPU": 3.0}),
        (WANTED, [({"GPU": 4, "CPU": 8}, {"GPU": 3, "CPU": 8})], {}),  # room enough
        (WANTED, [({"GPU": 1, "CPU": 8}, {"GPU": 1, "CPU": 4})], {}),  # CPUs in use are not what GPUs are missing for
        (WANTED, [({"CPU": 8}, {"CPU": 1})], {}),
        (WANTED, [({"GPU": 4, "CPU": 3}, {"GPU": 3, "CPU": 1})], {"CPU": 2.0}),  # GPUs are there, CPUs are not
        (WANTED, [({"GPU": 4, "CPU": 4}, {"GPU": 1, "CPU": 1})], {"GPU": 3.0, "CPU": 3.0}),
        (Wanted("k", 1, 2), [({"GPU": 1, "CPU": 8}, {"GPU": 1, "CPU": 1})] * 2, {}),  # two GPUs, and no node with two
        (Wanted("k", 1, 2), [({"GPU": 2, "CPU": 8}, {"GPU": 1, "CPU": 8})] * 2, {"GPU": 2.0}),
        (ONE_CPU, [({"CPU": 4.0}, {"CPU": 4.0 - 1e-9})], {}),
    ],
)
def test_only_what_would_make_room_is_held_by_others(
    wanted: Wanted, nodes: list[tuple[dict[str, float], dict[str, float]]], others: dict[str, float]
) -> None:
    assert held(wanted, nodes) == others


def status(*nodes: dict[str, Any]) -> Any:
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    return GetClusterStatusReply(cluster_resource_state={"node_states": nodes}, autoscaling_state=state())


def node(number: int, total: dict[str, float], free: dict[str, float], status: str = "RUNNING") -> dict[str, Any]:
    return {"node_id": bytes([number] * 28), "total_resources": total, "available_resources": free, "status": status}


@pytest.fixture
def on_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    here = SimpleNamespace(get_node_id=lambda: bytes([1] * 28).hex())
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)


@pytest.mark.usefixtures("on_first_node")
def test_the_driver_of_this_job_is_not_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --driver-cpus 1 it holds a CPU of its node for as long as it waits: 4 CPUs for workers will never be there."""
    full = status(node(1, {"CPU": 4}, {"CPU": 3}), node(2, {"CPU": 8}, {"CPU": 8}, "DEAD"))
    monkeypatch.setattr(autoscaling, "cluster_status", lambda: full)
    assert "holds 1 CPU: this asks for 4 x (1 CPU)" in waits_for(ONE_CPU)
    monkeypatch.setenv("RAYSTILL_DRIVER_CPUS", "1")
    assert waits_for(ONE_CPU) == ""


@pytest.mark.usefixtures("on_first_node")
@pytest.mark.parametrize(("free", "verdict"), [({"CPU": 2}, "held"), ({"CPU": 4}, "never")])
def test_what_is_infeasible_while_others_hold_it_is_held(
    monkeypatch: pytest.MonkeyPatch, free: dict[str, float], verdict: str
) -> None:
    reply = status(node(2, {"CPU": 4}, free))
    reply.autoscaling_state.infeasible_gang_resource_requests.add(details=f"{GROUP}:PACK|PENDING")
    monkeypatch.setattr(autoscaling, "cluster_status", lambda: reply)
    demand = autoscaling.Demand(Wanted("training.workers", 4 if verdict == "held" else 5, 0))
    demand._seen_from = 7
    group = SimpleNamespace(wait=lambda seconds: False, id=SimpleNamespace(hex=lambda: GROUP))
    monkeypatch.setattr(demand, "_group", group, raising=False)
    assert demand.outlook().verdict == ("unheard" if verdict == "never" else verdict), (
        "of what has just ended it may not know"
    )
    monkeypatch.setattr(autoscaling, "_SURE_S", 0.0)
    assert demand.outlook().verdict == verdict


def test_what_others_hold_is_said_before_the_first_stage(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(start, "_SETTLED_S", 0.0)
    said = iter(["", "waiting", "waiting", "waiting", ""])
    monkeypatch.setattr(autoscaling, "waits_for", lambda wanted: next(said))
    run = a_run(gpus_per_replica=1)
    for told in ("", "label: waiting (teacher.replicas.min x gpus_per_replica)\n", ""):
        start._tell_of_others(run, ["label", "train"])
        assert capsys.readouterr().err == told
    start._tell_of_others(run, ["serve"])
    start._tell_of_others(run, [])


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
    monkeypatch.setattr(start, "nodes_here", lambda: nodes)
    monkeypatch.setattr(autoscaling, "autoscales", lambda: True)
    monkeypatch.setattr(autoscaling, "promised", lambda wanted: found.append(("promised", wanted.count)))
    monkeypatch.setattr(autoscaling, "wait_for_nodes", lambda wanted: found.append(("waited for", wanted.count)))
    start._check_cluster(run, ["label", "train", "evaluate"])
    assert found == asked


def test_where_no_node_can_come_what_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "nodes_here", lambda: [{"CPU": 8.0}])
    monkeypatch.setattr(autoscaling, "autoscales", lambda: False)
    with pytest.raises(UserError, match="the run asks for 1 GPUs, there are 0"):
        start._check_cluster(a_run(gpus_per_replica=1), ["label"])
