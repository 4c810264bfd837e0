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
from tests.support.k8s.rendering import EXTERNALS, OVERLAYS, ROOT, Object, groups, needs_kustomize, overlay, render

pytestmark = needs_kustomize
VERSIONS = yaml.safe_load((ROOT / "k8s" / "versions.yaml").read_text())
KNOWN = {
    "kubectl": "apply annotate cordon cp create delete describe drain exec get label logs port-forward wait",
    "helm": "install repo rollback upgrade",
    "docker": "build push",
    "make": "k8s-teardown test-full",
    "python": "-m -c",
    **dict.fromkeys(("cp", "curl", "export", "kind", "M.from_pretrained('google/t5-v1_1-base').save_pretrained('t5-v1_1-base');"), ""),
}  # fmt: skip
"""Commands that these tests know, besides `raystill`, with what follows the program and its -n."""
MADE = r"-(serve-svc|head-svc|gateway|0)$"
"""Ends of names that the operator and Kubernetes make."""


def commands() -> Iterator[str]:
    for page in ("docs/kubernetes.md", "k8s/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"(?ms)^```\n(.*?)^```$", text):
            lines = [re.split(r"\s+# ", line)[0] for line in block.splitlines()]
            yield from (line for line in lines if line and not re.match(r"#|\w+/ ", line))
        prose = re.sub(r"(?ms)^```.*?^```$", "", text)
        yield from (
            code for code in re.findall(r"`([^`]+)`", prose) if code.split()[0] in {*KNOWN, "raystill"} and " " in code
        )


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_a_command_of_the_guide_fits(command: str) -> None:
    program, *rest = command.split()
    if program == "raystill":
        if rest[0] != "k8s" and rest[1:]:
            parsed_arguments(rest[0], shlex.split(command)[2:])
        assert rest[0] in main.commands
        return
    assert program in KNOWN, command
    verb = re.sub(r"-n \S+ ", "", " ".join(rest)).split()[0]
    assert not KNOWN[program] or verb in KNOWN[program].split(), command
    for path in re.findall(r"(?<![\w/])k8s/[\w./-]+", command):
        assert (ROOT / path).exists() or path == rest[-1], path
    rendered = [found for name in OVERLAYS for found in overlay(name)]
    names = {found["metadata"]["name"] for found in rendered} | {one.partition("/")[2] for one in EXTERNALS}
    for name in re.findall(r"raystill-[a-z0-9-]+", command.replace("_", " ")) if program == "kubectl" else ():
        assert name in names or re.sub(MADE, "", name) in names, name
    for folder, selector in re.findall(r"-k (k8s/\S+)(?: -l '?([^' ]+))?", command):
        assert [found for found in render(ROOT / folder) if selected([found], selector)], command
    for selector in re.findall(r"pods? -l ([\w./=,-]+)", command):
        assert selected(rendered, selector), selector
    assert {f"v{found}" for found in re.findall(r"ref=v(\S+?)'", command)} <= {f"v{VERSIONS['kuberay']}"}
    assert set(re.findall(r"--version (\S+)", command)) <= {VERSIONS["kuberay"]}


def selected(objects: list[Object], selector: str) -> bool:
    """True if an object, or a pod template in one, has these labels."""
    ray = [found for found in objects if found["apiVersion"].startswith("ray.io/")]
    labels = [found["metadata"].get("labels") or {} for found in objects]
    labels += [group.template.get("metadata", {}).get("labels", {}) for group in groups(ray)]
    wanted = [re.fullmatch(r"([^!=]+)(!?=)(.*)", part) for part in selector.split(",") if part]
    return any(all(m and (one.get(m[1]) == m[3]) == (m[2] == "=") for m in wanted) for one in labels)


def test_the_commands_for_stages_run_as_the_guide_has_them(server: FakeKubernetes) -> None:
    found = [command for command in commands() if command.startswith("raystill k8s ")]
    assert {command.split()[2] for command in found} == {"run", "plan", "status", "logs", "stop", "down"}
    for command in found:
        server.scenes = [scenes.log("label: 1/1 rows"), ENDS] if " run " in command else []
        done = k8s(*shlex.split(command)[2:])
        assert done.exit_code == 0, done.stderr
