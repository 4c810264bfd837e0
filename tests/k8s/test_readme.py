"""Commands of k8s/README.md fit the run files that they are for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cluster.jobs.package import write_package
from pipelines.config.load import load_run
from tests.k8s.test_manifests import arguments_of, run_of
from tests.support.k8s.rendering import K8S, OVERLAYS, ROOT

PACKAGES = {"kubectl": "kustomize", "ip": "iproute2", **dict.fromkeys(("unshare", "nsenter", "setpriv"), "util-linux")}
"""Where a program is in a package of another name; util-linux is on every Debian."""


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_loader_brings_all_that_a_run_file_names_on_volumes(name: str) -> None:
    text, run = (K8S / "README.md").read_text(encoding="utf-8"), run_of(name)
    for model in (run.teacher.model, run.student.model):
        assert f"raystill-loader:{model}\n" in text or f"`{model}`" in text, model
    if name == "prod-gpu":
        assert f"raystill-loader:{Path(str(run.corpus.train)).parent} " in text
        assert f"mkdir -p {Path(str(run.corpus.train)).parents[1]}\n" in text


def test_the_command_of_the_development_cluster_takes_its_run_file(tmp_path: Path) -> None:
    """As the README writes it: what stays here is refused by `raystill submit`."""
    text = (K8S / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"(?m)^raystill submit (.*)$", text)
    options = arguments_of("submit", shlex.split(line))
    assert options["installed"]
    run = load_run(ROOT / options["run_file"])
    write_package(run, tmp_path, shared=options["shared"], same_machine=False)
    assert load_run(tmp_path / "run.yaml").output == run.output


def test_the_prometheus_of_the_usual_chart_is_told_to_take_our_monitors_and_rules() -> None:
    """By itself it selects what has its release's label."""
    text = (K8S / "README.md").read_text(encoding="utf-8")
    for kind in ("podMonitor", "rule"):
        assert f"--set prometheus.prometheusSpec.{kind}SelectorNilUsesHelmValues=false" in text


def test_the_readme_names_the_packages_that_tests_call() -> None:
    programs = {"chromium"}  # or another browser
    for file in (ROOT / "tests").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        programs |= set(re.findall(r"shutil\.which\(\"([^\"]+)\"\)", text))
        programs |= {
            name for found in re.findall(r"(?m)^_?NEEDED = \((.*)\)$", text) for name in re.findall(r"\"(.+?)\"", found)
        }
    assert programs >= {"promtool", "redis-server", "buildah", "ip"}, "they are looked for"
    (_, told) = (ROOT / "README.md").read_text(encoding="utf-8").split("Debian's packages")
    missing = (
        {PACKAGES.get(program, program) for program in programs}
        - {"util-linux"}
        - set(re.findall(r"[\w+-]+", told.split("\n- ")[0]))
    )
    assert missing == set()
