"""An API server of this machine, reached by the real client through a kubeconfig."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from cluster.cli import main
from cluster.kubernetes import follow, overlay, submit, teardown
from tests.support.fake_kubernetes import FakeKubernetes, serving
from tests.support.k8s.rendering import K8S, render

TOKEN = "kubeconfig-token-that-nothing-may-show"
DEV = str(K8S / "overlays" / "dev-cpu")
RUN_FILE = f"{DEV}/run/run.yaml"


def k8s(command: str, *arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, ["k8s", command, *arguments])


def run(*arguments: str, stage: str = "label") -> Result:
    return k8s("run", RUN_FILE, "--overlay", DEV, "--stage", stage, *arguments)


def write_kubeconfig(file: Path, url: str, user: object, cluster: dict[str, str] = {}) -> Path:  # noqa: B006
    context = {"name": "here", "context": {"cluster": "here", "user": "ann"}}
    clusters = [{"name": "here", "cluster": {"server": url, **cluster}}]
    tree = {"current-context": "here", "contexts": [context], "users": [user], "clusters": clusters}
    file.write_text(yaml.safe_dump(tree))
    return file


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """With the objects that an administrator applies. The commands do not sleep, and render each folder once."""
    state = FakeKubernetes()
    for plural, names in {"serviceaccounts": "head node submitter", "persistentvolumeclaims": "models data"}.items():
        for name in names.split():
            state.put(plural, {"metadata": {"name": f"raystill-{name}"}})
    for module, names in ((follow, "_HOPELESS_S _NO_OPERATOR_S"), (submit, "_DELETED_S"), (teardown, "_STOPPED_S")):
        monkeypatch.setattr(module, "POLL_S", 0.01)
        for name in names.split():
            monkeypatch.setattr(module, name, 0.05)
    monkeypatch.setattr("cluster.jobs.following._RETRY_S", 0.01)
    monkeypatch.setattr(overlay, "render", lambda folder: copy.deepcopy(list(render(folder))))
    with serving(state) as url:
        user = {"name": "ann", "user": {"token": TOKEN}}
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", url, user)))
        yield state
