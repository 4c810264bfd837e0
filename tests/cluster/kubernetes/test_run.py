"""`raystill k8s run` against an API server: what it creates, waits for and prints, and how it ends."""

import json
import os
import re
from pathlib import Path
from unittest.mock import Mock

import pytest

from cluster.kubernetes import follow
from tests.cluster.kubernetes.conftest import TOKEN, k8s, run
from tests.k8s.checker import verdicts
from tests.support import kubernetes_scenes as scenes
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.k8s.rendering import needs_kustomize

pytestmark = needs_kustomize
FAILED = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\nlabel: ..."
ENDS, NOTHING = scenes.phase("Complete", "SUCCEEDED"), scenes.together()


def test_from_the_job_to_its_labels_with_each_reason_to_wait(server: FakeKubernetes) -> None:
    server.scenes = [
        NOTHING,
        scenes.phase("Initializing"),
        scenes.cluster(failure=scenes.QUOTA),
        scenes.together(scenes.cluster(), scenes.pod("head", waiting=("ErrImagePull", scenes.TIMED_OUT))),
        scenes.together(scenes.pod("head", waiting=("ContainerCreating", "")), scenes.warning("rpc error", "head-1")),
        scenes.together(scenes.pod("head"), *(scenes.pod("worker", name=n, unscheduled=scenes.NO_GPU) for n in "ab")),
        scenes.together(*(scenes.pod("worker", name=name) for name in "ab"), scenes.cluster(wanted=2, ready=1)),
        scenes.cluster(wanted=2, ready=2),
        scenes.log("label: 1/2 rows"),
        scenes.log("label: 2/2 rows"),
        ENDS,
    ]
    done = run()
    assert (done.exit_code, done.stdout) == (0, "label: 1/2 rows\nlabel: 2/2 rows\n"), done.stderr
    assert [line.partition("waits for ")[2] for line in done.stderr.splitlines() if "waits for " in line] == [
        "the operator, which has not seen it",
        "the operator, which has not created its cluster",
        "its quota: exceeded quota: team, requested: requests.nvidia.com/gpu=1, limited: requests.nvidia.com/gpu=4 (1 worker)",
        f"image registry.example.com/raystill:1, which cannot be pulled: {scenes.TIMED_OUT} (1 head)",
        "a volume: rpc error (1 head)",
        "nvidia.com/gpu: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu (2 workers)",
        "workers: 1 of 2 are ready",
        "its driver to start",
    ]
    job, config_map = server.all("rayjobs", "configmaps")[::-1]
    volumes = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert {"configMap": {"name": config_map["metadata"]["name"]}, "name": "run"} in volumes
    assert config_map["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert "SmolLM2" in config_map["data"]["run.yaml"]


@pytest.mark.parametrize("stage", ["label", "train", "evaluate"])
def test_server_and_operator_accept_the_job(stage: str, server: FakeKubernetes) -> None:
    crds = os.environ.get("RAYSTILL_KUBERAY_CRDS") or pytest.skip("RAYSTILL_KUBERAY_CRDS is not set")
    run("--no-wait", stage=stage)
    (job,) = server.all("rayjobs")
    assert verdicts(job, Path(crds)) == {"apiserver": "accepted", "operator": "ok", "pods": "ok"}


def test_a_running_job_is_attached_to_and_an_ended_one_replaced(server: FakeKubernetes) -> None:
    assert "created RayJob" in run("--no-wait").stderr
    first = server.all("rayjobs")[0]["metadata"]
    server.scenes = [NOTHING, scenes.log("1/2"), ENDS]
    again = run()
    assert ("attached to" in again.stderr, again.exit_code, again.stdout) == (True, 0, "1/2\n")
    assert server.changes.count(f"POST rayjobs {first['name']}") == 1
    server.scenes = []
    assert "created RayJob" in run("--no-wait").stderr
    (second,) = server.all("rayjobs")
    assert second["metadata"]["uid"] != first["uid"]
    assert len(server.all("configmaps")) == 1  # the other one followed its job


def test_another_process_that_is_faster_is_attached_to(server: FakeKubernetes) -> None:
    def race(state: FakeKubernetes) -> None:
        state.race = None
        assert "created" in run("--no-wait").stderr

    server.race = race
    assert "attached to" in run("--no-wait").stderr
    assert len(server.all("rayjobs", "configmaps")) == 2


def test_a_job_with_other_settings_is_refused_while_it_runs(server: FakeKubernetes) -> None:
    run("--no-wait")
    refused = run("--set", "teacher.sampling.max_tokens=32")
    assert refused.exit_code == 2
    assert "it runs with other settings. Follow it (`raystill k8s logs raystill-word-problems-label-" in refused.stderr
    assert "created RayJob" in run("--no-wait", "--set", "output=/data/runs/other").stderr


@pytest.mark.parametrize("code", [1, 2, 137])
def test_the_exit_code_is_that_of_the_driver(code: int, server: FakeKubernetes) -> None:
    server.scenes = [scenes.log("label: refused"), scenes.phase("Failed", "FAILED", FAILED.format(code), "AppFailed")]
    done = run()
    assert (done.exit_code, done.stdout) == (code, "label: refused\n")
    assert f"failed (exit code {code}). Run the same command to resume." in done.stderr


def test_wrong_input_is_not_retried(server: FakeKubernetes) -> None:
    server.scenes = [scenes.log("label: refused"), scenes.phase("Retrying", "FAILED", FAILED.format(2), "AppFailed")]
    done = run()
    assert (done.exit_code, "its input is wrong. It is deleted, not retried." in done.stderr) == (2, True)
    assert not server.all("rayjobs", "configmaps")


def test_stages_run_in_sequence_up_to_the_first_failure(server: FakeKubernetes) -> None:
    server.scenes = [ENDS, scenes.phase("Failed", message="it ran into its deadline", reason="DeadlineExceeded")]
    done = run(stage="run")
    assert re.findall(r"-(\w+)-\w+: (\w+), output", done.stderr) == [("label", "succeeded"), ("train", "failed")]
    assert "each stage needs the end" in run("--no-wait", stage="run").stderr
    assert "failed (DeadlineExceeded it ran into its deadline). Run the same command to resume." in done.stderr


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (scenes.pod("head", waiting=("ImagePullBackOff", scenes.NOT_FOUND)), "cannot be pulled: Back-off pulling"),
        (scenes.pod("worker", waiting=("CreateContainerConfigError", 'secret "keys" not found')), "secret keys, which"),
        (scenes.pod("head", unscheduled='persistentvolumeclaim "data" not found'), "persistentvolumeclaim data, which"),
        (scenes.phase("ValidationFailed", message="SidecarMode"), "KubeRay's operator refuses it (SidecarMode). "),
        (NOTHING, "the operator, which has not seen it. Check that the operator runs"),
    ],
)
def test_what_waiting_does_not_heal_ends_the_job(found: scenes.Scene, message: str, server: FakeKubernetes) -> None:
    server.scenes = [scenes.together(scenes.phase("Initializing"), scenes.cluster(), found)] if found != NOTHING else []
    done = run()
    assert (done.exit_code, message in done.stderr, "The job is deleted." in done.stderr) == (2, True, True)
    assert not server.all("rayjobs", "configmaps")


def test_a_job_that_runs_is_never_given_up(server: FakeKubernetes) -> None:
    late = scenes.pod("worker", waiting=("ImagePullBackOff", scenes.NOT_FOUND))
    server.scenes = [scenes.log("1/2"), *[late] * 20, ENDS]
    assert run().exit_code == 0


def test_ctrl_c_leaves_the_job(server: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "submitter", Mock(side_effect=KeyboardInterrupt))
    done = run()
    name = server.all("rayjobs")[0]["metadata"]["name"]
    assert done.exit_code == 130
    assert f"`raystill k8s logs {name} -n raystill -f`. Stop it: `raystill k8s stop {name} -n raystill`" in done.stderr


def test_no_output_and_no_object_has_the_credentials(server: FakeKubernetes, tmp_path: Path) -> None:
    before = (tmp_path / "kubeconfig").read_bytes()
    server.scenes = [scenes.log("line"), ENDS]
    done = [run("--json"), k8s("status"), run("--set", "teacher.replicas.min=99")]
    assert json.loads(done[0].stdout)["jobs"][0]["status"] == "succeeded"
    assert {headers["Authorization"] for _, headers in server.requests} == {f"Bearer {TOKEN}"}
    assert TOKEN not in "".join(one.output for one in done) + json.dumps(server.all("rayjobs", "configmaps"))
    assert (tmp_path / "kubeconfig").read_bytes() == before
