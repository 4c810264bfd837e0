"""What is printed and refused while nodes launch. The real autoscaler: integration/test_autoscaler.py."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster.session import autoscaling, start
from cluster.session.autoscaling import NodeRequest, Outlook, RequestStatus, busy_line, check_feasible, wait_for_nodes
from cluster.session.resources import ResourceRequest
from pipelines.errors import StageFailedError, UserError
from pipelines.runtime.compat.ray import AutoscalerState
from tests.support.corpora import run_config

GROUP = "8964fd73859a7ff86855ae7f0fce01000000"
REQUEST = ResourceRequest("teacher.replicas.min x gpus_per_replica", 3, 1)


def state(**changes: Any) -> AutoscalerState:
    seen = AutoscalerState(7, frozenset([GROUP]), 7, frozenset(), {"gpu": 2}, ("1 x gpu: quota",))
    return AutoscalerState(**(vars(seen) | changes))


WAITING, INFEASIBLE = state(), state(infeasible=frozenset([GROUP]))


class Cluster:
    """The connected Ray as a request sees it; also the placement group that it creates."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.states: list[AutoscalerState | Exception] = []
        self.nodes: list[dict[str, float]] = []
        self.free: dict[str, float] = {}
        self.polls_until_granted = 99
        self.id = SimpleNamespace(hex=lambda: GROUP)
        self.removed: list[object] = []
        patch.setattr(ray.util, "placement_group", lambda bundles, strategy: self)
        patch.setattr(ray.util, "remove_placement_group", self.removed.append)
        patch.setattr(ray, "available_resources", lambda: self.free)
        patch.setattr(autoscaling, "autoscaler_state", self._state)
        patch.setattr(autoscaling, "node_totals", lambda: self.nodes)
        patch.setattr(autoscaling, "_SURE_S", 0.0)

    def _state(self) -> AutoscalerState:
        found = self.states.pop(0) if self.states[1:] else self.states[0]
        if isinstance(found, Exception):
            raise found
        return found

    def wait(self, timeout_s: float) -> bool:
        self.polls_until_granted -= 1
        return self.polls_until_granted < 0


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


@pytest.mark.parametrize(
    ("reported", "outlook"),
    [
        (state(waiting=frozenset()), Outlook.UNKNOWN),  # the cluster's state has no such group yet
        (state(seen_version=6), Outlook.UNKNOWN),  # the autoscaler acted on an older state
        (WAITING, Outlook.PENDING),
        (state(infeasible=frozenset(["another"])), Outlook.PENDING),
        (INFEASIBLE, Outlook.INFEASIBLE),
        (ray.exceptions.RpcError("busy"), Outlook.UNKNOWN),
    ],
)
def test_an_outlook_needs_an_autoscaler_that_saw_the_request(
    cluster: Cluster, reported: AutoscalerState | Exception, outlook: Outlook
) -> None:
    cluster.states = [reported]
    with NodeRequest(REQUEST) as request:
        assert request.status().outlook is outlook
    assert cluster.removed == [cluster]


def test_infeasible_must_last_and_others_must_hold_nothing(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.states = [INFEASIBLE]
    monkeypatch.setattr(autoscaling, "_SURE_S", 60.0)
    with NodeRequest(REQUEST) as request:
        assert request.status().outlook is Outlook.UNKNOWN, "resources that were just freed may not count yet"
    cluster.nodes, cluster.free = [{"GPU": 2.0, "CPU": 8.0}], {"CPU": 8.0}
    with NodeRequest(REQUEST) as request:
        assert request.status() == RequestStatus(Outlook.HELD, {"gpu": 2}, ("1 x gpu: quota",), {"GPU": 2.0})


def test_a_wait_prints_what_is_missing_until_nodes_are_ready(cluster: Cluster, capsys: Any) -> None:
    cluster.states, cluster.polls_until_granted = [state(waiting=frozenset(), launching={}), WAITING], 2
    cluster.nodes, cluster.free = [{"GPU": 1.0, "CPU": 4.0}], {"CPU": 4.0}
    wait_for_nodes(REQUEST)
    assert capsys.readouterr().err.splitlines() == [
        "nodes: waiting for 2 GPUs, 2 CPUs of 3 x (1 GPU, 1 CPU); the autoscaler has not answered yet; in use by other work: 1 GPU; "
        "launch failed: 1 x gpu: quota; 0 s of at most 30 min 00 s",
        "nodes: 3 x (1 GPU, 1 CPU) are ready",
    ]


def test_a_wait_ends_at_its_limit_with_the_reason(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoscaling, "NODES_S", 0.0)
    cluster.states = [WAITING]
    reason = r"launching: 2 of group gpu; launch failed: 1 x gpu: quota\. They did not come within 0 s"
    with pytest.raises(StageFailedError, match=reason):
        wait_for_nodes(REQUEST)


@pytest.mark.parametrize("check", [wait_for_nodes, check_feasible])
def test_nodes_that_can_never_come_are_refused(cluster: Cluster, check: Callable[[ResourceRequest], None]) -> None:
    cluster.states = [state(seen_version=6), INFEASIBLE]
    cluster.nodes, cluster.free = [{"GPU": 1.0, "CPU": 4.0}], {"GPU": 1.0, "CPU": 4.0}
    rule = r"cannot launch nodes for the missing 2 GPUs, 2 CPUs.* raise the cluster's maxR"
    with pytest.raises(UserError, match=rule):
        check(REQUEST)


def test_a_feasible_request_needs_an_answer_and_no_nodes(cluster: Cluster) -> None:
    cluster.states = [state(seen_version=6), state(seen_version=6), WAITING]
    check_feasible(REQUEST)
    assert cluster.states == [WAITING]
    cluster.states, cluster.nodes = [INFEASIBLE], [{"GPU": 2.0, "CPU": 8.0}]
    check_feasible(REQUEST)  # other work holds both GPUs


def test_the_first_stage_prints_what_other_work_holds(cluster: Cluster, capsys: Any) -> None:
    cluster.nodes, cluster.free = [{"GPU": 4.0, "CPU": 8.0}], {"GPU": 1.0, "CPU": 8.0}
    line = "waiting for other work to release 3 GPUs; the stage needs 3 x (1 GPU, 1 CPU)"
    assert busy_line(REQUEST) == line
    run = run_config({"engine": "echo", "replicas": {"min": 3, "max": 3}, "gpus_per_replica": 1})
    for stages in (["label", "train"], ["serve"], []):
        start._print_busy(run, stages)
    assert capsys.readouterr().err == f"label: {line} ({REQUEST.key})\n"
    cluster.polls_until_granted = 0
    assert busy_line(REQUEST) == ""


@pytest.mark.parametrize(
    ("nodes", "calls"),
    [
        ([], ["feasible 2", "feasible 3", "wait 1"]),
        ([{"GPU": 1, "CPU": 8}], ["feasible 2"]),
        ([{"GPU": 2, "CPU": 8}], []),
    ],
)
def test_nodes_of_later_stages_are_not_awaited(nodes: Any, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = {"engine": "echo", "replicas": {"min": 1, "max": 1}, "gpus_per_replica": 1}
    run = run_config(teacher, training={"workers": 2, "gpus_per_worker": 1}, evaluation={"workers": 3})
    made: list[str] = []
    monkeypatch.setattr(start, "node_totals", lambda: nodes)
    monkeypatch.setattr("pipelines.runtime.compat.ray.has_autoscaler", lambda: True)
    monkeypatch.setattr(autoscaling, "check_feasible", lambda request: made.append(f"feasible {request.count}"))
    monkeypatch.setattr(autoscaling, "wait_for_nodes", lambda request: made.append(f"wait {request.count}"))
    start._check_cluster(run, ["label", "train", "evaluate"])
    assert made == calls


def test_without_an_autoscaler_missing_resources_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "node_totals", lambda: [{"CPU": 8.0}])
    monkeypatch.setattr("pipelines.runtime.compat.ray.has_autoscaler", lambda: False)
    with pytest.raises(UserError, match="the run needs 1 GPU, 0 are available"):
        start._check_cluster(run_config({"engine": "echo", "gpus_per_replica": 1}), ["label"])
