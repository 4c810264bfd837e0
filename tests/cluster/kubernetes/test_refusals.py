"""Wrong input of `raystill k8s run`: one message with the remedy, exit 2, and nothing created."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cluster.kubernetes import overlay as overlays
from tests.cluster.kubernetes.conftest import TOKEN, write_kubeconfig
from tests.cluster.kubernetes.test_run import k8s, run
from tests.support.fake_kubernetes import FakeKubernetes, RefusalError
from tests.support.k8s.rendering import needs_kustomize

pytestmark = needs_kustomize
QUOTA = 'pods "raystill-x" is forbidden: exceeded quota: team, requested: requests.nvidia.com/gpu=1'


def ending(server: FakeKubernetes) -> None:
    server.one("namespaces")["metadata"]["deletionTimestamp"] = "2026-12-01T10:00:00Z"


def unreadable_ending(server: FakeKubernetes) -> None:
    ending(server)
    server.denied.add(("get", "namespaces"))


def no_namespace(server: FakeKubernetes) -> None:
    server.objects.pop(("namespaces", "", "raystill"))


def no_kuberay(server: FakeKubernetes) -> None:
    server.kuberay = False


def old_kuberay(server: FakeKubernetes) -> None:
    server.unknown_fields = ["spec.preRunningDeadlineSeconds"]


def no_claim(server: FakeKubernetes) -> None:
    server.objects.pop(("persistentvolumeclaims", "raystill", "raystill-data"))


def no_account(server: FakeKubernetes) -> None:
    server.objects.pop(("serviceaccounts", "raystill", "raystill-node"))


def few_rights(server: FakeKubernetes) -> None:
    server.denied |= {("create", "rayjobs"), ("get", "pods/log")}


def refused_pod(server: FakeKubernetes) -> None:
    server.refused["pods"] = RefusalError(
        403, "Forbidden", 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'
    )


def unauthorized(server: FakeKubernetes) -> None:
    server.refused_all = RefusalError(401, "Unauthorized", "Unauthorized")


def broken(server: FakeKubernetes) -> None:
    server.refused_all = RefusalError(503, "ServiceUnavailable", "etcdserver: request timed out")


@pytest.mark.parametrize(
    ("prepare", "message", "remedy"),
    [
        (ending, "namespace raystill: it is being deleted", "kubectl wait --for=delete namespace/raystill"),
        (unreadable_ending, "namespace raystill: it is being deleted", "kubectl wait --for=delete namespace/raystill"),
        (no_namespace, "namespace raystill: it does not exist", "Create it"),
        (no_kuberay, "it has no KubeRay", "Install CRDs and operator"),
        (old_kuberay, "does not know spec.preRunningDeadlineSeconds: its KubeRay is older", "ray-operator/config/crd?ref=v1.7.0"),
        (no_claim, "PersistentVolumeClaim/raystill-data in namespace raystill", "kubectl apply --server-side -k"),
        (no_account, "ServiceAccount/raystill-node in namespace raystill", "-l 'raystill.io/part!=students'"),
        (few_rights, "create rayjobs.ray.io, get pods/log", "create rolebinding"),
        (refused_pod, 'violates PodSecurity "restricted:latest"', "Correct the overlay"),
        (unauthorized, "it does not accept the kubeconfig's credentials", "Log in again"),
        (broken, "the API server answers 503 etcdserver: request timed out", "Try again later"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)  # fmt: skip
def test_nothing_is_created(
    prepare: Callable[[FakeKubernetes], None], message: str, remedy: str, server: FakeKubernetes
) -> None:
    prepare(server)
    refused = run()
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert remedy in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not [request for request in server.requests if not request.endswith("dry-run")]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "teacher.gpus_per_replica=1",
            "the run needs 1 GPU, 0 are available. Worker groups of the overlay: workers: at most",
        ),
        ("training.workers=99", "Lower it in the run file, or raise maxReplicas"),
        (
            "output=runs/here",
            "/runs/here. Name folders that the pods mount (/data, /models",
        ),
    ],
)
def test_a_run_that_does_not_fit_the_overlay_reaches_no_server(
    setting: str, message: str, server: FakeKubernetes
) -> None:
    refused = run("--set", setting, stage="run")
    assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr
    assert not server.headers


def test_a_missing_pull_secret_is_named(server: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    real = overlays.render

    def with_secret(folder: Path) -> list[overlays.Object]:
        objects = real(folder)
        for found in overlays.named(objects, "RayJob"):
            found["spec"]["submitterPodTemplate"]["spec"]["imagePullSecrets"] = [{"name": "registry"}]
        return objects

    monkeypatch.setattr(overlays, "render", with_secret)
    refused = run()
    assert "Secret/registry in namespace raystill: the job's pods need it" in refused.stderr
    assert "`kubectl -n raystill create secret ... registry`" in refused.stderr
    server.put("secrets", {"metadata": {"name": "registry"}, "data": {"key": "c2VjcmV0"}})
    assert run("--no-wait").exit_code == 0
    (accept,) = {
        headers["Accept"]
        for headers, line in zip(server.headers, server.lines, strict=True)
        if "secrets/registry" in line
    }
    assert accept.startswith("application/json;as=PartialObjectMetadata")  # the content stays on the server


def test_objects_that_the_user_may_not_read_are_not_missed(server: FakeKubernetes) -> None:
    no_claim(server)
    server.denied |= {("get", "persistentvolumeclaims"), ("get", "serviceaccounts"), ("create", "pods")}
    assert run("--no-wait").exit_code == 0


def test_a_full_quota_is_a_warning(server: FakeKubernetes) -> None:
    server.refused["pods"] = RefusalError(403, "Forbidden", QUOTA)
    done = run("--no-wait")
    assert (done.exit_code, "the job waits until the quota has room" in done.stderr) == (0, True)


def test_a_refusal_after_the_checks_leaves_nothing(server: FakeKubernetes) -> None:
    def quota_of_objects(state: FakeKubernetes) -> None:
        raise RefusalError(403, "Forbidden", "rayjobs.ray.io is forbidden: exceeded quota: count/rayjobs.ray.io=1")

    server.race = quota_of_objects
    refused = run()
    assert (refused.exit_code, "exceeded quota: count/rayjobs.ray.io" in refused.stderr) == (2, True)
    assert not server.all("configmaps")


def test_no_kubeconfig_and_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "kubeconfig: there is none, and this process runs in no pod. Set KUBECONFIG" in k8s("status").stderr
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    assert "there is no such file" in k8s("status").stderr
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "config", url)))
        refused = k8s("status")
    assert (refused.exit_code, f"cluster {url}: the API server does not answer" in refused.stderr) == (2, True)
    assert "--context other" not in k8s("status").stderr
    assert "its context other or what that names is missing" in k8s("status", "--context", "other").stderr


def test_a_malformed_kubeconfig_shows_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own message would contain the whole user."""
    file = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:9")
    tree = yaml.safe_load(file.read_text())
    tree["users"] = [{"name": "ann", "token": TOKEN}]  # `user:` forgotten
    file.write_text(yaml.safe_dump(tree))
    monkeypatch.setenv("KUBECONFIG", str(file))
    refused = k8s("status")
    assert (refused.exit_code, "missing or malformed" in refused.stderr) == (2, True)
    assert TOKEN not in refused.output
