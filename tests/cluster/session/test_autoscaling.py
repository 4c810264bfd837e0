"""What is printed and refused while nodes launch. The real autoscaler: integration/test_autoscaler.py."""

from __future__ import annotations

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
WAITING = AutoscalerState(7, frozenset([GROUP]), 7, frozenset(), {"gpu": 2}, ("1 x gpu: quota",))


class Cluster:
    """The connected Ray as a request sees it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.states: list[AutoscalerState] = []
        self.granted_after: int | None = None
        self.nodes: list[dict[str, float]] = []
        self.free: dict[str, float] = {}
        self.removed = 0
        patch.setattr(ray.util, "placement_group", lambda bundles, strategy: self)
        patch.setattr(ray.util, "remove_placement_group", self._remove)
        patch.setattr(
            autoscaling, "autoscaler_state", lambda: self.states.pop(0) if self.states[1:] else self.states[0]
        )
        patch.setattr(autoscaling, "node_totals", lambda: self.nodes)
        patch.setattr(ray, "available_resources", lambda: self.free)
        self.id = SimpleNamespace(hex=lambda: GROUP)

    def _remove(self, group: object) -> None:
        self.removed += 1

    def wait(self, timeout_s: float) -> bool:
        if self.granted_after is None:
            return False
        self.granted_after -= 1
        return self.granted_after < 0


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(autoscaling, "_SURE_S", 0.0)
    return Cluster(monkeypatch)


def changed(**fields: Any) -> AutoscalerState:
    return AutoscalerState(**(vars(WAITING) | fields))


INFEASIBLE = changed(infeasible=frozenset([GROUP]))


@pytest.mark.parametrize(
    ("state", "outlook"),
    [
        (changed(waiting=frozenset()), Outlook.UNKNOWN),  # the cluster's state has no such group yet
        (changed(seen_version=6), Outlook.UNKNOWN),  # the autoscaler acted on an older state
        (WAITING, Outlook.PENDING),
        (changed(infeasible=frozenset(["another"])), Outlook.PENDING),
        (INFEASIBLE, Outlook.INFEASIBLE),
    ],
)
def test_an_answer_counts_once_the_autoscaler_has_seen_the_request(
    cluster: Cluster, state: AutoscalerState, outlook: Outlook
) -> None:
    cluster.states = [state]
    with NodeRequest(REQUEST) as request:
        assert request.status() == RequestStatus(outlook, state.launching, state.failures)
    assert cluster.removed == 1


def test_infeasible_must_last_and_is_no_verdict_while_others_hold_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.states = [INFEASIBLE]
    monkeypatch.setattr(autoscaling, "_SURE_S", 60.0)
    with NodeRequest(REQUEST) as request:
        assert request.status().outlook is Outlook.UNKNOWN, "resources that have just been freed may be missing in it"
    cluster.nodes, cluster.free = [{"GPU": 2.0, "CPU": 8.0}], {"CPU": 8.0}
    with NodeRequest(REQUEST) as request:
        assert request.status() == RequestStatus(Outlook.HELD, {"gpu": 2}, ("1 x gpu: quota",), {"GPU": 2.0})


def test_a_busy_head_is_no_verdict(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy() -> None:
        raise ray.exceptions.RpcError("busy")

    monkeypatch.setattr(autoscaling, "autoscaler_state", busy)
    with NodeRequest(REQUEST) as request:
        assert request.status() == RequestStatus(Outlook.UNKNOWN)


def test_a_wait_prints_what_is_missing_and_its_end(cluster: Cluster, capsys: Any) -> None:
    cluster.states, cluster.granted_after = [changed(waiting=frozenset(), launching={}), WAITING], 2
    cluster.nodes, cluster.free = [{"GPU": 1.0, "CPU": 4.0}], {"CPU": 4.0}
    wait_for_nodes(REQUEST)
    assert capsys.readouterr().err.splitlines() == [
        "nodes: waiting for 2 GPUs, 2 CPUs of 3 x (1 GPU, 1 CPU); the autoscaler has not answered yet; in use by other work: 1 GPU; "
        "launch failed: 1 x gpu: quota; 0 s of at most 30 min 00 s",
        "nodes: 3 x (1 GPU, 1 CPU) are ready",
    ]


def test_nodes_that_can_never_come_are_refused(cluster: Cluster) -> None:
    cluster.states, cluster.nodes, cluster.free = (
        [WAITING, INFEASIBLE],
        [{"GPU": 1.0, "CPU": 4.0}],
        {"GPU": 1.0, "CPU": 4.0},
    )
    missing = (
        "the run needs 3 x .* cannot launch nodes for the missing 2 GPUs, 2 CPUs. .* raise the cluster's maxReplicas"
    )
    with pytest.raises(UserError, match=missing):
        wait_for_nodes(REQUEST)
    with pytest.raises(UserError, match=missing):
        check_feasible(REQUEST)


def test_nodes_that_come_too_late_fail_the_stage_with_the_reason(cluster: Cluster) -> None:
    cluster.states = [WAITING]
    with pytest.raises(StageFailedError) as failed:
        wait_for_nodes(REQUEST, limit_s=0.0)
    reason = "3 GPUs, 3 CPUs of 3 x (1 GPU, 1 CPU); launching: 2 of group gpu; launch failed: 1 x gpu: quota. They did not come"
    assert reason in str(failed.value)


def test_a_later_stage_needs_an_answer_and_no_nodes(cluster: Cluster) -> None:
    cluster.states = [changed(seen_version=6), changed(seen_version=6), WAITING]
    check_feasible(REQUEST)
    assert len(cluster.states) == 1
    cluster.states, cluster.nodes = [INFEASIBLE], [{"GPU": 2.0, "CPU": 8.0}]
    check_feasible(REQUEST)  # other work holds both GPUs


def test_resources_of_other_work_are_printed_unless_ray_grants_the_request(cluster: Cluster) -> None:
    cluster.nodes, cluster.free = [{"GPU": 4.0, "CPU": 8.0}], {"GPU": 1.0, "CPU": 8.0}
    assert busy_line(REQUEST, 0.0) == "waiting for other work to release 3 GPUs; the stage needs 3 x (1 GPU, 1 CPU)"
    cluster.granted_after = 0
    assert busy_line(REQUEST, 0.0) == ""


def test_only_the_first_stage_prints_what_it_waits_for(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(autoscaling, "busy_line", lambda request: "waiting")
    for stages in (["label", "train"], ["serve"], []):
        start._print_busy(run_config(), stages)
    assert capsys.readouterr().err == "label: waiting (teacher.replicas.min x gpus_per_replica)\n"


@pytest.mark.parametrize(
    ("nodes", "calls"),
    [
        ([], [("feasible", 2), ("feasible", 3), ("wait", 1)]),
        ([{"GPU": 1, "CPU": 8}], [("feasible", 2)]),
        ([{"GPU": 2, "CPU": 8}], []),
    ],
)
def test_nodes_of_later_stages_must_be_feasible_and_are_not_awaited(
    nodes: list[dict[str, float]], calls: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labelling needs 1 GPU, training 2, evaluation 3 CPUs: their counts tell them apart."""
    run = run_config(
        {"engine": "echo", "replicas": {"min": 1, "max": 1}, "gpus_per_replica": 1},
        training={"workers": 2, "gpus_per_worker": 1},
        evaluation={"workers": 3},
    )
    made: list[tuple[str, int]] = []

    def calling(name: str) -> Callable[[ResourceRequest], None]:
        return lambda request: made.append((name, request.count))

    monkeypatch.setattr(start, "node_totals", lambda: nodes)
    monkeypatch.setattr("pipelines.runtime.compat.ray.has_autoscaler", lambda: True)
    monkeypatch.setattr(autoscaling, "check_feasible", calling("feasible"))
    monkeypatch.setattr(autoscaling, "wait_for_nodes", calling("wait"))
    start._check_cluster(run, ["label", "train", "evaluate"])
    assert made == calls


def test_without_an_autoscaler_missing_resources_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "node_totals", lambda: [{"CPU": 8.0}])
    monkeypatch.setattr("pipelines.runtime.compat.ray.has_autoscaler", lambda: False)
    with pytest.raises(UserError, match="the run needs 1 GPU, 0 are available"):
        start._check_cluster(run_config({"engine": "echo", "gpus_per_replica": 1}), ["label"])
