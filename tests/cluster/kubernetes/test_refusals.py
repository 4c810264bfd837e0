"""Wrong input of `raystill k8s`: one message with the remedy, exit 2, and nothing created."""

import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from base64 import b64encode
from pathlib import Path

import pytest
from werkzeug import Response
from werkzeug.serving import make_server

from cluster.kubernetes import overlay
from cluster.kubernetes.api import connect
from cluster.kubernetes.objects import NAMESPACE
from tests.cluster.kubernetes.conftest import DEV, RUN_FILE, TOKEN, k8s, run, write_kubeconfig
from tests.support import kubernetes_scenes as scenes
from tests.support.fake_kubernetes import FakeKubernetes, RefusalError, Scene, serving
from tests.support.k8s.rendering import needs_kustomize

pytestmark = needs_kustomize
UNKNOWN = 'RayJob in version "v1" cannot be handled as a RayJob: strict decoding error: unknown field "spec.new"'


def refuses(what: str, code: int, message: str = "", *causes: str) -> Scene:
    return lambda server: server.refused.update({what: RefusalError(code, "", message, *causes)})


def lacks(plural: str, name: str, namespace: str = "raystill") -> Scene:
    return lambda server: server.objects.pop((plural, namespace, name))


def denies(*rights: tuple[str, str]) -> Scene:
    return lambda server: server.denied.update(rights)


def ends(server: FakeKubernetes) -> None:
    server.all("namespaces")[0]["metadata"]["deletionTimestamp"] = "2026-12-01T10:00:00Z"


ENDS_UNSEEN = scenes.together(ends, denies(("get", "namespaces")))
RIGHTS = denies(("create", "rayjobs"), ("get", "pods/log"))


@pytest.mark.parametrize(
    ("prepare", "message", "remedy"),
    [
        (ends, "namespace raystill: it is being deleted", "kubectl wait --for=delete namespace/raystill"),
        (ENDS_UNSEEN, "namespace raystill: it is being deleted", "kubectl wait --for=delete namespace/raystill"),
        (lacks("namespaces", "raystill", ""), "namespace raystill: it does not exist", "Create it"),
        (refuses("ray.io/v1", 404), "it has no KubeRay", "Install CRDs and operator"),
        (refuses("rayjobs", 400, UNKNOWN), "does not know spec.new: its KubeRay is older", "config/crd?ref=v1.7.0"),
        (lacks("persistentvolumeclaims", "raystill-data"), "PersistentVolumeClaim/raystill-data", "kubectl apply"),
        (lacks("serviceaccounts", "raystill-node"), "ServiceAccount/raystill-node", "part!=students"),
        (RIGHTS, "create rayjobs.ray.io, get pods/log", "create rolebinding NAME --role=raystill-runner"),
        (refuses("pods", 403, 'violates PodSecurity "restricted"'), "violates PodSecurity", "Correct the overlay"),
        (refuses("*", 401, "Unauthorized"), "it does not accept the kubeconfig's credentials", "Log in again"),
        (refuses("*", 503, "etcd timed out"), "the API server answers 503 etcd timed out", "Try again later"),
    ],
)
def test_nothing_is_created(prepare: Scene, message: str, remedy: str, server: FakeKubernetes) -> None:
    prepare(server)
    refused = run()
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert message in refused.stderr
    assert remedy in refused.stderr
    assert all(change.endswith("dry-run") for change in server.changes)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("teacher.gpus_per_replica=1", "the run needs 1 GPU, 0 are available. Worker groups of the overlay: workers"),
        ("training.workers=99", "Lower it in the run file, or raise maxReplicas"),
        ("output=runs/here", "/runs/here. Name folders that the pods mount (/data, /models"),
    ],
)
def test_a_run_that_does_not_fit_reaches_no_server(setting: str, message: str, server: FakeKubernetes) -> None:
    refused = run("--set", setting, stage="run")
    assert (refused.exit_code, message in refused.stderr, server.requests) == (2, True, []), refused.stderr


def test_a_pull_secret_is_never_read_and_a_cluster_is_needed(
    server: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = overlay.render(Path(DEV, "label"))
    objects[-1]["spec"]["submitterPodTemplate"]["spec"]["imagePullSecrets"] = [{"name": "registry"}]
    monkeypatch.setattr(overlay, "render", lambda folder: objects)
    assert "Secret/registry in namespace raystill: the job's pods need it" in (refused := run().stderr)
    assert "`kubectl -n raystill create secret ... registry`" in refused
    server.put("secrets", {"metadata": {"name": "registry"}, "data": {"key": "c2VjcmV0"}})
    assert run("--no-wait").exit_code == 0
    (accept,) = {headers["Accept"] for path, headers in server.requests if "secrets/registry" in path}
    assert accept.startswith("application/json;as=PartialObjectMetadata")
    objects[-1]["spec"].pop("rayClusterSpec")  # with a clusterSelector
    assert "has no rayClusterSpec; a stage runs on a cluster of its own" in run().stderr


@pytest.mark.parametrize("words", ["exceeded quota: team", 'admission webhook "x" does not support dry run'])
def test_what_a_dry_run_cannot_decide_is_a_warning(words: str, server: FakeKubernetes) -> None:
    lacks("persistentvolumeclaims", "raystill-data")(server)
    denies(("get", "persistentvolumeclaims"))(server)
    refuses("pods", 403, words)(server)
    done = run("--no-wait")
    assert (done.exit_code, "warning: " in done.stderr and words in done.stderr) == (0, True), done.stderr


def test_a_refusal_after_the_checks_leaves_nothing(server: FakeKubernetes) -> None:
    server.race = refuses("rayjobs", 403, "exceeded quota: count/rayjobs.ray.io=1")
    refused = run()
    assert (refused.exit_code, "exceeded quota: count/rayjobs.ray.io" in refused.stderr) == (2, True)
    assert not server.all("configmaps")


@pytest.mark.parametrize(
    ("students", "generation", "code"),
    [("word-problems", "1", 2), ("word-problems", "0", 0), ("word-problems@1", "1", 0)],
)
def test_plan_refuses_to_rename_a_student(students: str, generation: str, code: int, server: FakeKubernetes) -> None:
    (service,) = overlay.named(overlay.render(Path(DEV)), "RayService")
    service["spec"]["serveConfigV2"] = service["spec"]["serveConfigV2"].replace("word-problems@1:", f"{students}:")
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["metadata"]
    head["annotations"]["raystill.io/generation"] = generation
    server.put("rayservices", service)
    planned = k8s("plan", RUN_FILE, "--overlay", DEV, "--stage", "label")
    assert (planned.exit_code, "Keep the name without a version" in planned.stderr) == (code, bool(code))


def test_no_kubeconfig_no_server_and_a_malformed_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "kubeconfig: no such file exists, and this process runs in no pod. Set KUBECONFIG" in k8s("status").stderr
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert "there is no such file" in k8s("status").stderr
    with socket.socket() as closed:  # bound and not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        write_kubeconfig(tmp_path / "config", url, user := {"name": "ann", "user": {"token": TOKEN}})
        assert f"cluster {url}: the API server does not answer" in k8s("status").stderr
    foreign = make_server("127.0.0.1", 0, Response("<html>"))
    threading.Thread(target=foreign.handle_request, daemon=True).start()
    write_kubeconfig(tmp_path / "config", f"http://127.0.0.1:{foreign.server_port}", user)
    assert "its answer is no object of Kubernetes" in k8s("status").stderr
    foreign.server_close()
    assert "its context other or what that names is missing" in k8s("status", "--context", "other").stderr
    write_kubeconfig(tmp_path / "config", url, {"name": "ann", "token": TOKEN})  # the client's message has the user
    refused = k8s("status")
    assert (refused.exit_code, "malformed" in refused.stderr, TOKEN in refused.output) == (2, True, False)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_certificates_of_the_kubeconfig_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [str(tmp_path / name) for name in ("cert", "key")]
    options = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=h", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", *options, "-out", pair[0], "-keyout", pair[1]], check=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=pair[0])
    tls.load_cert_chain(*pair)
    tls.verify_mode = ssl.CERT_REQUIRED
    cert, key = (b64encode(Path(file).read_bytes()).decode() for file in pair)
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with serving(FakeKubernetes(), tls) as url:
        user = {"name": "ann", "user": {"client-certificate-data": cert, "client-key-data": key}}
        file = write_kubeconfig(tmp_path / "config", url, user, {"certificate-authority-data": cert})
        monkeypatch.setenv("KUBECONFIG", str(file))
        api = connect()
        assert not list(scratch.iterdir())
        assert api.get(NAMESPACE, "", "raystill")
