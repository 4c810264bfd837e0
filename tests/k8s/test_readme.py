"""Commands of k8s/README.md fit the run files that they are for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cluster.jobs.package import write_package
from pipelines.config.load import load_run
from tests.support.k8s.commands import parsed_arguments, run_of
from tests.support.k8s.rendering import K8S, ROOT, each_overlay

PACKAGES = {"kubectl": "kustomize", "ip": "iproute2", **dict.fromkeys(("unshare", "nsenter", "setpriv"), "util-linux")}
"""Debian packages with another name than their program. util-linux is on every Debian."""


@pytest.fixture(scope="module")
def readme() -> str:
    return (K8S / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")


@each_overlay
def test_the_loader_copies_what_run_files_name_on_volumes(name: str, readme: str) -> None:
    run = run_of(name)
    for model in (run.teacher.model, run.student.model):
        assert f"raystill-loader:{model}\n" in readme or f"`{model}`" in readme, model
    if name == "prod-gpu":
        assert f"raystill-loader:{Path(str(run.corpus.train)).parent} " in readme
        assert f"mkdir -p {Path(str(run.corpus.train)).parents[1]}\n" in readme


def test_the_submit_command_takes_its_run_file(tmp_path: Path, readme: str) -> None:
    (line,) = re.findall(r"(?m)^raystill submit (.*)$", readme)
    options = parsed_arguments("submit", shlex.split(line))
    assert options["installed"]
    run = load_run(ROOT / options["run_file"])
    write_package(run, tmp_path, shared=options["shared"], same_machine=False)
    assert load_run(tmp_path / "run.yaml").output == run.output


def test_prometheus_selects_our_monitors_and_rules(readme: str) -> None:
    """By default kube-prometheus-stack selects only objects with its release's label."""
    for kind in ("podMonitor", "rule"):
        assert f"--set prometheus.prometheusSpec.{kind}SelectorNilUsesHelmValues=false" in readme


def test_the_preflight_is_a_server_side_dry_run(readme: str) -> None:
    assert re.search(r"(?m)^kubectl apply --server-side --dry-run=server -k k8s/overlays/", readme)


def test_contributing_names_the_packages_that_tests_call() -> None:
    programs = {"chromium"}  # or another browser
    for file in (ROOT / "tests").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        programs |= set(re.findall(r"shutil\.which\(\"([^\"]+)\"\)", text))
        needed = re.findall(r"(?m)^_?NEEDED = \((.*)\)$", text)
        programs |= {name for names in needed for name in re.findall(r"\"(.+?)\"", names)}
    assert programs >= {"promtool", "redis-server", "buildah", "ip"}
    (line,) = re.findall(r"(?m)^.*Debian packages: (.*)$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    packages = {PACKAGES.get(program, program) for program in programs} - {"util-linux"}
    assert packages <= set(re.findall(r"[\w+-]+", line))
