"""Every command of the Kubernetes guide fits what the overlays render, or runs against an API server. A command of a new kind fails."""

import re
import shlex
from collections.abc import Iterator

import pytest
import yaml

from cluster.cli import main
from tests.cluster.kubernetes.conftest import k8s
from tests.cluster.kubernetes.test_run import ENDS
from tests.support import kubernetes_scenes as scenes
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.k8s.commands import parsed_arguments
from tests.support.k8s.rendering import EXTERNALS, OVERLAYS, ROOT, needs_kustomize, overlay, render

pytestmark = needs_kustomize
KUBERAY = yaml.safe_load((ROOT / "k8s" / "versions.yaml").read_text())["kuberay"]
DOCKERFILE = (ROOT / "k8s/image/Dockerfile").read_text()
NAMESPACE = yaml.safe_load((ROOT / "k8s/platform/namespace.yaml").read_text())
OTHER_KINDS = ("gateway", "node", "pod", "pods", "secret")  # made by the operator, Kubernetes, the administrator
KUBECTL = "apply annotate cordon cp create delete describe drain exec get label logs port-forward wait"
KNOWN = rf"kubectl (-n \S+ )?({KUBECTL.replace(' ', '|')})|helm (install|repo|rollback|upgrade)|docker (build|push)|raystill"
OTHERS = r"cp -r k8s|curl -s http|export RAY_AUTH_MODE|kind load|make (k8s-teardown|test-full)|python -[cm]|M.from_pretrained"


def commands(*, prose: bool = True) -> Iterator[str]:
    for page in ("docs/kubernetes.md", "k8s/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"(?ms)^```\n(.*?)^```$", text):
            lines = [re.split(r"\s+# ", line)[0] for line in block.splitlines()]
            yield from (line for line in lines if line and not re.match(r"#|\w+/ ", line))
        rest = re.sub(r"(?ms)^```.*?^```$", "", text) if prose else ""
        yield from re.findall(r"`((?:kubectl|helm|docker|raystill|make|kind|python|cp|curl) [^`]+)`", rest)


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_a_command_of_the_guide_fits(command: str) -> None:
    assert re.match(f"({KNOWN}|{OTHERS})\\b", command)
    program, *words = command.split()
    assert set(re.findall(r"--build-arg (\w+)=", command)) <= set(re.findall(r"(?m)^ARG (\w+)", DOCKERFILE))
    if program == "raystill" and words[0] != "k8s" and words[1:]:
        parsed_arguments(words[0], shlex.split(command)[2:])
    assert program != "raystill" or words[0] in main.commands
    for path in re.findall(r"(?<![\w/])k8s/[\w./-]+", command):
        assert (ROOT / path).exists() or path == words[-1], path
    rendered = [found for name in OVERLAYS for found in overlay(name)]
    names = {found["metadata"]["name"] for found in rendered} | {one.partition("/")[2] for one in EXTERNALS}
    for name in re.findall(r"raystill-[a-z0-9-]+", command) if program == "kubectl" else ():
        made = re.sub(r"-(serve-svc|head-svc|gateway|0)$", "", name)  # by the operator and by Kubernetes
        assert {name, made} & names, name
    for key, value in re.findall(r"([a-z-]+\.[a-z.]+/\w+)!?=(\w+)", command):
        assert f"'{key}': '{value}'" in str([*rendered, NAMESPACE])
    (of_kinds,) = re.findall(r"kubectl (?:-n \S+ )?(?:get|delete|describe) (\S+)", command) or [""]
    assert set(re.split(r"[,|]", of_kinds)) <= {"", *OTHER_KINDS, *(found["kind"].lower() for found in rendered)}
    for folder in re.findall(r"-k (k8s/\S+)", command):
        assert render(ROOT / folder)
    assert set(re.findall(r"ref=v(\S+?)'|--version (\S+)", command)) <= {(KUBERAY, ""), ("", KUBERAY)}


def test_the_commands_for_stages_run_in_the_order_of_the_guide(server: FakeKubernetes) -> None:
    found = [command for command in commands(prose=False) if command.startswith("raystill k8s ")]
    assert {command.split()[2] for command in found} == {"run", "plan", "status", "logs", "stop", "down"}
    for command in found:
        server.scenes = [scenes.log("label: 1/1 rows"), ENDS] if " run " in command else []
        done = k8s(*shlex.split(command)[2:])
        assert done.exit_code == 0, done.stderr
