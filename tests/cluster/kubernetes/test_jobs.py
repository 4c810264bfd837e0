"""`raystill k8s status`, `logs`, `stop`, `down` and `plan` against an API server."""

import json

import pytest

from cluster.kubernetes import submit, teardown
from tests.cluster.kubernetes.test_run import ENDS, RUN_FILE, k8s, run, starts
from tests.support import kubernetes_scenes as scenes
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.k8s.rendering import K8S, needs_kustomize

pytestmark = needs_kustomize
DEV = ["--overlay", str(K8S / "overlays" / "dev-cpu")]
PART = {"app.kubernetes.io/part-of": "raystill"}


@pytest.fixture
def job(server: FakeKubernetes) -> str:
    """A job that runs, and has written a line. Returns its name."""
    server.scenes = starts("label: 1/2 rows")
    run("--no-wait")
    name = str(server.one("rayjobs")["metadata"]["name"])
    for scene in starts("label: 1/2 rows"):
        scene(server)
    server.scenes = []
    return name


def test_status_says_what_each_job_waits_for(server: FakeKubernetes) -> None:
    run("--no-wait")
    scenes.phase("Initializing")(server)
    scenes.cluster()(server)
    scenes.pod("worker", unscheduled=scenes.NO_GPU)(server)
    server.put(
        "rayservices",
        {"metadata": {"name": "raystill-students", "labels": PART}, "status": {"serviceStatus": "Running"}},
    )
    shown = json.loads(k8s("status", "--json").stdout)
    (found,) = shown["jobs"]
    assert (found["stage"], found["status"], found["run"]) == ("label", "pending", "word-problems")
    assert found["waiting_for"] == ["nvidia.com/gpu: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu (1 worker)"]
    assert shown["endpoints"] == {"raystill-students": "Running"}
    assert "Insufficient" in k8s("status").stdout


def test_logs_are_printed_once_and_followed_to_the_end(job: str, server: FakeKubernetes) -> None:
    assert k8s("logs", job).stdout == "label: 1/2 rows\n"
    server.scenes = [lambda _: None, scenes.log("label: 2/2 rows"), ENDS]
    followed = k8s("logs", RUN_FILE, "--stage", "label", "-f", "--json")
    assert (followed.exit_code, json.loads(followed.stdout)["status"]) == (0, "succeeded")
    assert followed.stderr.endswith("label: 1/2 rows\nlabel: 2/2 rows\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "namespace raystill has no RayJob of this name. Name one of raystill-word-problems-label-"),
        ([RUN_FILE], "is a run file with several stages. Name one: --stage label."),
        (["absent", "--stage", "label"], "has no effect with a job's name"),
    ],
)
def test_a_job_that_is_not_named_well_is_refused(arguments: list[str], message: str, job: str) -> None:
    for command in ("logs", "stop"):
        refused = k8s(command, *arguments)
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr


def test_a_job_without_a_log_says_what_it_waits_for(server: FakeKubernetes) -> None:
    run("--no-wait")
    assert (
        "it has no log yet; it waits for the operator, which has not seen it. Add -f"
        in k8s("logs", RUN_FILE, "--stage", "label").stderr
    )


def test_stop_deletes_the_job_and_waits_for_its_pods(job: str, server: FakeKubernetes) -> None:
    scenes.pod("head", phase="Running")(server)
    assert k8s("stop", job).stdout == f"{job}: deleted\n"
    assert not server.all("rayjobs") + server.all("configmaps")


def test_a_finalizer_that_nobody_removes_is_named(
    job: str, server: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teardown, "_STOPPED_S", 0.05)
    server.operator_runs = False
    for arguments in (["stop", job], ["down", *DEV]):
        failed = k8s(*arguments)
        assert failed.exit_code == 1
        assert f"RayJob/{job} (finalizer ray.io/rayjob-finalizer)" in failed.stderr
    assert server.all("serviceaccounts")  # `down` deletes nothing else


def test_down_ends_ray_first_and_keeps_volumes(job: str, server: FakeKubernetes) -> None:
    server.put("rayservices", {"metadata": {"name": "raystill-students", "labels": PART}})
    server.put("roles", {"metadata": {"name": "raystill-head"}})
    server.requests.clear()
    done = json.loads(k8s("down", *DEV, "--json").stdout)
    assert server.requests[:2] == [f"DELETE rayjobs {job}", "DELETE rayservices raystill-students"]
    assert sorted(done["kept"]) == ["PersistentVolumeClaim/raystill-data", "PersistentVolumeClaim/raystill-models"]
    assert {"Role/raystill-head", "ServiceAccount/raystill-node"} <= set(done["deleted"])
    assert {plural for plural, _, _ in server.objects} == {"namespaces", "persistentvolumeclaims"}
    assert "deleted PersistentVolumeClaim/raystill-data" in k8s("down", *DEV, "--claims").stdout
    assert not server.all("persistentvolumeclaims")


def test_plan_makes_the_checks_and_creates_nothing(server: FakeKubernetes) -> None:
    planned = k8s("plan", RUN_FILE, *DEV)
    assert planned.exit_code == 0, planned.stderr
    assert planned.stdout.count("would be created") == 3
    assert all(request.endswith("dry-run") for request in server.requests)
    run("--no-wait")
    assert "runs; `run` would attach" in k8s("plan", RUN_FILE, *DEV).stdout
    ENDS(server)
    assert "has succeeded; `run` would replace it" in k8s("plan", RUN_FILE, *DEV).stdout
    server.denied.add(("create", "rayjobs"))
    assert "create rayjobs.ray.io" in k8s("plan", RUN_FILE, *DEV).stderr


def test_plan_says_the_gpus_of_each_step() -> None:
    prod = K8S / "overlays" / "prod-gpu"
    planned = k8s(
        "plan",
        str(prod / "run" / "run.yaml"),
        "--overlay",
        str(prod),
        "--offline",
        "--json",
        "--set",
        "teacher.replicas.max=2",
    )
    steps = {step["step"]: (step["least"], step["most"], step["used"]) for step in json.loads(planned.stdout)["gpus"]}
    assert steps["label"] == (1, 4, 2)
    assert steps["train"] == (2, 2, 2)
    assert steps["endpoint, another image or generation"] == (4, 8, None)


def test_an_ended_job_that_cannot_be_deleted_is_not_replaced(
    job: str, server: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_DELETED_S", 0.05)
    ENDS(server)
    server.operator_runs = False
    failed = run()
    assert failed.exit_code == 1
    assert "finalizers left: ray.io/rayjob-finalizer. The operator removes them" in failed.stderr
