"""`raystill k8s status`, `logs`, `stop`, `down` and `plan` against an API server."""

import itertools
import json

import pytest

from cluster.kubernetes.checks import RIGHTS
from tests.cluster.kubernetes.conftest import DEV, RUN_FILE, k8s, run
from tests.cluster.kubernetes.test_run import ENDS, FAILED, NOTHING
from tests.support import kubernetes_scenes as scenes
from tests.support.fake_kubernetes import FakeKubernetes, Scene
from tests.support.k8s.rendering import K8S, needs_kustomize, overlay

pytestmark = needs_kustomize
ENDPOINT = {"metadata": {"name": "raystill-students", "labels": {"app.kubernetes.io/part-of": "raystill"}}}
STARTS, OOM = scenes.phase("Initializing"), {"reason": "OOMKilled", "exitCode": 137}
LABEL = [RUN_FILE, "--stage", "label"]


@pytest.fixture
def job(server: FakeKubernetes) -> str:
    """A job that runs, and has written a line. Returns its name."""
    run("--no-wait")
    scenes.log("label: 1/2 rows")(server)
    return str(server.all("rayjobs")[0]["metadata"]["name"])


def suspended(server: FakeKubernetes) -> None:
    job = server.all("rayjobs")[0]
    job["spec"]["suspend"] = True
    scenes.warning("insufficient quota for nvidia.com/gpu", f"rayjob-{job['metadata']['name']}-1", "Workload")(server)


@pytest.mark.parametrize(
    ("scene", "reason"),
    [
        (suspended, "its queue: insufficient quota for nvidia.com/gpu"),
        (scenes.warning("The RayJob spec is invalid: x"), "the operator, which refuses it: The RayJob spec is"),
        (scenes.phase("Retrying", message=FAILED.format(1)), "a new cluster: attempt 0 failed (exit code 1)"),
        (scenes.together(STARTS, scenes.warning(scenes.QUOTA)), "its quota: exceeded quota: team"),
        (scenes.together(STARTS, scenes.pod("head", waiting=("CrashLoopBackOff", ""), ended=OOM)), "again (OOMKilled)"),
        (scenes.together(STARTS, scenes.pod("head", waiting=("PodInitializing", ""))), "its start: an image is pulled"),
        (scenes.together(STARTS, scenes.pod("worker", unscheduled=scenes.NO_GPU)), "nvidia.com/gpu: 0/3 nodes are"),
    ],
)
def test_status_says_what_a_job_waits_for(scene: Scene, reason: str, server: FakeKubernetes) -> None:
    run("--no-wait")
    scene(server)
    server.put("rayservices", {**ENDPOINT, "status": {"serviceStatus": "Running"}})
    shown = json.loads(k8s("status", "--json").stdout)
    (found,) = shown["jobs"]
    assert (found["stage"], found["status"], found["run"]) == ("label", "pending", "word-problems")
    assert reason in "; ".join(found["waiting_for"])
    assert shown["endpoints"] == {"raystill-students": "Running"}
    assert found["job"] in k8s("status").stdout


def test_logs_are_printed_or_followed_and_stop_deletes(job: str, server: FakeKubernetes) -> None:
    assert k8s("logs", job).stdout == "label: 1/2 rows\n"
    server.scenes = [NOTHING, scenes.log("label: 2/2 rows"), ENDS]
    followed = k8s("logs", *LABEL, "-f", "--json")
    assert (followed.exit_code, json.loads(followed.stdout)["status"]) == (0, "succeeded")
    assert followed.stderr.endswith("label: 1/2 rows\nlabel: 2/2 rows\n")
    assert k8s("stop", job).stdout == f"{job}: deleted\n"
    assert not server.all("rayjobs", "configmaps", "pods")


def test_a_job_that_is_unknown_or_has_no_log_is_said_so(server: FakeKubernetes) -> None:
    run("--no-wait")
    assert "it waits for the operator, which has not seen it. Add -f" in k8s("logs", *LABEL).stderr
    for arguments, message in (
        *(([one], "has no RayJob of this name. Name one of raystill-word-problems-label-") for one in ("absent", "")),
        ([RUN_FILE], "is a run file with several stages. Name one: --stage label."),
        (["absent", "--stage", "label"], "has no effect with a job's name"),
    ):
        for command in ("logs", "stop"):
            refused = k8s(command, *arguments)
            assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr


def test_finalizers_that_nobody_removes_are_named(job: str, server: FakeKubernetes) -> None:
    server.operator_runs = False
    ENDS(server)
    assert "finalizers left: ray.io/rayjob-finalizer. The operator removes them" in run().stderr
    for arguments in (["stop", job], ["down", "--overlay", DEV]):
        failed = k8s(*arguments)
        assert failed.exit_code == 1
        assert f"RayJob/{job} (finalizer ray.io/rayjob-finalizer)" in failed.stderr
    assert server.all("serviceaccounts")  # `down` deletes nothing else


def test_down_ends_ray_first_and_keeps_volumes(job: str, server: FakeKubernetes) -> None:
    server.put("rayservices", ENDPOINT)
    server.put("roles", {"metadata": {"name": "raystill-head"}})
    server.changes.clear()
    done = json.loads(k8s("down", "--overlay", DEV, "--json").stdout)
    assert server.changes[:2] == [f"DELETE rayjobs {job}", "DELETE rayservices raystill-students"]
    claims = {"PersistentVolumeClaim/raystill-data", "PersistentVolumeClaim/raystill-models"}
    assert (set(done["kept"]), "Role/raystill-head" in done["deleted"]) == (claims, True)
    assert {plural for plural, _, _ in server.objects} == {"namespaces", "persistentvolumeclaims"}
    assert "deleted PersistentVolumeClaim/raystill-data" in k8s("down", "--overlay", DEV, "--claims").stdout


def test_plan_makes_the_checks_and_creates_nothing(server: FakeKubernetes) -> None:
    planned = k8s("plan", RUN_FILE, "--overlay", DEV)
    assert (planned.exit_code, planned.stdout.count("would be created")) == (0, 3), planned.stderr
    assert all(change.endswith("dry-run") for change in server.changes)
    run("--no-wait")
    assert "runs; `run` would attach" in k8s("plan", RUN_FILE, "--overlay", DEV).stdout
    ENDS(server)
    assert "has succeeded; `run` would replace it" in k8s("plan", RUN_FILE, "--overlay", DEV).stdout


def test_plan_says_the_gpus_of_each_step() -> None:
    prod = str(K8S / "overlays" / "prod-gpu")
    options = ["--offline", "--json", "--set", "teacher.replicas.max=2", "--set", "teacher.resources={a: 1}"]
    plan = json.loads(k8s("plan", f"{prod}/run/run.yaml", "--overlay", prod, *options).stdout)
    steps = {step["step"]: (step["least"], step["most"], step["used"]) for step in plan["gpus"]}
    assert (steps["label"], steps["train"]) == ((1, 4, 2), (2, 2, 2))
    assert steps["endpoint, another image or generation"] == (4, 8, None)


def test_the_runners_role_has_the_rights_that_the_commands_need() -> None:
    (rules,) = (found["rules"] for found in overlay("dev-cpu") if found["metadata"]["name"] == "raystill-runner")
    granted = {
        found
        for rule in rules
        for found in itertools.product(*(rule[key] for key in ("verbs", "apiGroups", "resources")))
    }
    needed = [right for command in ("run", "plan", "status", "logs", "stop") for right in RIGHTS[command]]
    assert {(one.verb, one.kind.group, f"{one.kind.plural}/{one.subresource}".rstrip("/")) for one in needed} <= granted
