"""`raystill k8s run` against an API server: what it waits for, prints, refuses and leaves behind."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster.cli import main
from cluster.kubernetes import follow
from tests.cluster.kubernetes.conftest import TOKEN
from tests.support import kubernetes_scenes as scenes
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.k8s.rendering import K8S, needs_kustomize

pytestmark = needs_kustomize
RUN_FILE = str(K8S / "overlays" / "dev-cpu" / "run" / "run.yaml")
FAILED = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\nteacher.model: ..."
ENDS = scenes.phase("Complete", "SUCCEEDED")


def k8s(command: str, *arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, ["k8s", command, *arguments])


def run(*arguments: str, stage: str = "label") -> Result:
    return k8s("run", RUN_FILE, "--overlay", str(K8S / "overlays" / "dev-cpu"), "--stage", stage, *arguments)


def starts(*lines: str) -> list[scenes.Scene]:
    return [
        scenes.together(scenes.phase("Running", "RUNNING"), scenes.cluster(ready=1), scenes.pod("submitter", phase="Running"),
                        scenes.log(*lines)),
    ]  # fmt: skip


def test_from_labels_to_the_log_with_each_reason_to_wait(server: FakeKubernetes) -> None:
    waiting, running = scenes.phase("Initializing"), scenes.phase("Running", "RUNNING")
    server.scenes = [
        lambda _: None,
        waiting,
        scenes.cluster(failure=scenes.QUOTA),
        scenes.together(scenes.cluster(), scenes.pod("head", waiting=("ErrImagePull", scenes.TIMED_OUT))),
        scenes.together(
            scenes.pod("head", waiting=("ContainerCreating", "")),
            scenes.event("head-1", "FailedMount", "rpc error: timeout"),
        ),
        scenes.together(
            scenes.pod("head", phase="Running"),
            *(scenes.pod("worker", name=n, unscheduled=scenes.NO_GPU) for n in "ab"),
        ),
        scenes.together(
            *(scenes.pod("worker", name=n, phase="Running") for n in "ab"), scenes.cluster(wanted=2, ready=1)
        ),
        scenes.together(scenes.cluster(wanted=2, ready=2)),
        scenes.together(running, scenes.pod("submitter", phase="Running"), scenes.log("label: 1/2 rows")),
        scenes.log("label: 2/2 rows"),
        ENDS,
    ]
    done = run()
    assert done.exit_code == 0, done.output
    reasons = [line.partition("waits for ")[2] for line in done.stderr.splitlines() if "waits for " in line]
    assert reasons == [
        "the operator, which has not seen it",
        "the operator, which has not created its cluster",
        "its quota: exceeded quota: team, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4, limited: "
        "requests.nvidia.com/gpu=4 (1 worker)",
        f"image registry.example.com/raystill:1, which cannot be pulled: {scenes.TIMED_OUT} (1 head)",
        "a volume: rpc error: timeout (1 head)",
        "nvidia.com/gpu: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu (2 workers)",
        "workers: 1 of 2 are ready",
        "its driver to start",
    ]
    assert done.stdout == "label: 1/2 rows\nlabel: 2/2 rows\n"
    created = server.one("rayjobs")
    (mounted,) = [
        volume["configMap"]["name"]
        for volume in created["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"] if "configMap" in volume
    ]  # fmt: skip
    config_map = server.one("configmaps")
    assert config_map["metadata"]["name"] == mounted
    assert config_map["metadata"]["ownerReferences"][0]["uid"] == created["metadata"]["uid"]
    assert "SmolLM2" in config_map["data"]["run.yaml"]


def test_a_running_job_is_attached_to_and_an_ended_one_replaced(server: FakeKubernetes) -> None:
    assert "created RayJob" in run("--no-wait").stderr
    first = server.one("rayjobs")["metadata"]["uid"]
    server.scenes = [lambda _: None, *starts("1/2"), ENDS]
    again = run()
    assert ("attached to RayJob" in again.stderr, again.exit_code, again.stdout) == (True, 0, "1/2\n")
    assert [
        request for request in server.requests if request.startswith("POST rayjobs") and "dry-run" not in request
    ] == [f"POST rayjobs {server.one('rayjobs')['metadata']['name']}"]
    server.scenes = []
    assert "created RayJob" in run("--no-wait").stderr
    assert server.one("rayjobs")["metadata"]["uid"] != first
    assert len(server.all("configmaps")) == 1  # the other one followed its job


def test_another_process_that_is_faster_is_attached_to(server: FakeKubernetes) -> None:
    def race(state: FakeKubernetes) -> None:  # between the look-up and the creation
        state.race = None
        assert "created" in run("--no-wait").stderr

    server.race = race
    assert "attached to" in run("--no-wait").stderr
    assert len(server.all("rayjobs")) == len(server.all("configmaps")) == 1


def test_a_job_with_other_settings_is_refused_while_it_runs(server: FakeKubernetes) -> None:
    run("--no-wait")
    refused = run("--set", "teacher.sampling.max_tokens=32")
    assert refused.exit_code == 2
    assert "it runs with other settings" in refused.stderr
    assert "raystill k8s stop raystill-word-problems-label-" in refused.stderr
    assert "created RayJob" in run("--no-wait", "--set", "output=/data/runs/other").stderr


@pytest.mark.parametrize(("code", "shown"), [(2, 2), (1, 1), (137, 137)])
def test_the_exit_code_is_that_of_the_driver(code: int, shown: int, server: FakeKubernetes) -> None:
    failed = scenes.phase("Failed", "FAILED", message=FAILED.format(code), reason="AppFailed", failed=3)
    server.scenes = [*starts("label: refused"), failed]
    done = run("--json")
    assert (done.exit_code, json.loads(done.stdout)["jobs"][0]["exit_code"]) == (shown, code)
    assert "label: refused" in done.stderr


def test_an_end_without_a_driver_names_the_operators_reason(server: FakeKubernetes) -> None:
    server.scenes = [
        scenes.phase("Failed", reason="PreRunningDeadlineExceeded", message="The RayJob has passed the deadline")
    ]
    done = run()
    assert done.exit_code == 1
    assert (
        "failed (PreRunningDeadlineExceeded The RayJob has passed the deadline). Run the same command to resume."
        in done.stderr
    )


def test_stages_run_in_sequence_up_to_the_first_failure(server: FakeKubernetes) -> None:
    server.scenes = [ENDS, scenes.phase("Failed", "FAILED", message=FAILED.format(1))]
    done = run("--json", stage="run")
    assert [(job["stage"], job["status"]) for job in json.loads(done.stdout)["jobs"]] == [
        ("label", "succeeded"),
        ("train", "failed"),
    ]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (scenes.pod("head", waiting=("ImagePullBackOff", scenes.NOT_FOUND)), "cannot be pulled: Back-off pulling image"),
        (scenes.pod("worker", waiting=("CreateContainerConfigError", 'secret "keys" not found')), "secret keys, which does not exist"),
        (scenes.pod("head", unscheduled='persistentvolumeclaim "data" not found'), "persistentvolumeclaim data, which does not exist"),
        (scenes.phase("ValidationFailed", reason="ValidationFailed", message="SidecarMode"), "failed (ValidationFailed SidecarMode)"),
    ],
)  # fmt: skip
def test_what_time_does_not_heal_ends_the_command_and_the_job(
    found: scenes.Scene, message: str, server: FakeKubernetes
) -> None:
    server.scenes = [scenes.together(scenes.phase("Initializing"), scenes.cluster(), found)]
    done = run()
    assert done.exit_code in (1, 2)
    assert message in done.stderr
    if done.exit_code == 2:
        assert "The job is deleted." in done.stderr
        assert not server.all("rayjobs") + server.all("configmaps")


def test_an_operator_that_never_comes_is_reported(server: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_NO_OPERATOR_S", 0.05)
    done = run()
    assert done.exit_code == 2
    assert "it waits for the operator, which has not seen it. Check that the operator runs" in done.stderr
    assert not server.all("rayjobs") + server.all("configmaps")


def test_ctrl_c_leaves_the_job_and_says_how_to_follow_it(
    server: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(api: object, job: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "submitter", interrupt)
    done = run()
    name = server.one("rayjobs")["metadata"]["name"]
    assert done.exit_code == 130
    assert f"`raystill k8s logs {name} -n raystill -f`" in done.stderr
    assert f"`raystill k8s stop {name} -n raystill`" in done.stderr


def test_a_cut_connection_repeats_no_line_of_the_log(server: FakeKubernetes) -> None:
    server.scenes = [*starts("a", "b"), scenes.log("c"), scenes.log("d", "e"), ENDS]
    assert run().stdout == "a\nb\nc\nd\ne\n"


def test_no_output_and_no_file_has_the_credentials(server: FakeKubernetes, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    before = kubeconfig.read_bytes()
    server.scenes = [*starts("line"), ENDS]
    done = [run("--json"), k8s("status"), run("--no-wait", "--set", "teacher.replicas.min=99")]
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {TOKEN}"}
    assert not [one for one in done if TOKEN in one.output]
    assert kubeconfig.read_bytes() == before
    assert TOKEN not in json.dumps([*server.all("rayjobs"), *server.all("configmaps")])
