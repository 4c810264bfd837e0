"""An API server of this machine, reached by the real client through a kubeconfig."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.kubernetes import follow, overlay, submit, teardown
from tests.support.fake_kubernetes import FakeKubernetes, Object, serving
from tests.support.k8s.rendering import render

TOKEN = "kubeconfig-token-that-nothing-may-show"


def write_kubeconfig(file: Path, url: str) -> Path:
    tree = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "ann", "user": {"token": TOKEN}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "ann", "namespace": "other"}}],
    }  # fmt: skip
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file


def rendered(folder: Path) -> list[Object]:
    """As `overlay.render`, but each folder once for all tests."""
    return copy.deepcopy(list(render(folder)))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """With the shared objects of an overlay, as an administrator applies them. The clock of the command runs fast."""
    state = FakeKubernetes()
    for plural, names in {
        "serviceaccounts": ("raystill-head", "raystill-node", "raystill-submitter"),
        "persistentvolumeclaims": ("raystill-models", "raystill-data"),
    }.items():
        for name in names:
            state.put(plural, {"metadata": {"name": name}})
    for module in (follow, submit, teardown):
        monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(follow, "_HOPELESS_S", 0.05)
    monkeypatch.setattr(overlay, "render", rendered)
    with serving(state) as url:
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", url)))
        yield state
