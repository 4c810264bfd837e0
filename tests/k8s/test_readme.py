"""Commands of k8s/README.md fit the run files that they are for."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from cluster.jobs.package import write_package
from cluster.kubernetes.models import read_list
from cluster.kubernetes.plan import endpoint_steps
from cluster.kubernetes.settings import read_settings
from pipelines.config.load import load_run
from tests.support.k8s.commands import parsed_arguments, run_of
from tests.support.k8s.rendering import (
    K8S,
    ROOT,
    each_overlay,
    named,
    needs_kustomize,
    overlay,
    with_components,
)


@pytest.fixture(scope="module")
def readme() -> str:
    return (K8S / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")


@each_overlay
def test_volumes_get_what_run_files_name(name: str, readme: str) -> None:
    run = run_of(name)
    listed = {f"/models/{model.name}" for model in read_list(read_settings(K8S / "overlays" / name).models, name)}
    assert listed == {run.teacher.model, run.student.model}
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


def test_the_teardown_ends_ray_before_its_operator(tmp_path: Path) -> None:
    """Ray's objects wait for the operator to remove their finalizers, and the namespace waits for them."""
    for program in ("kubectl", "helm"):
        tmp_path.joinpath(program).write_text(f'#!/bin/sh\necho "{program} $*" >> {tmp_path}/calls\n')
        tmp_path.joinpath(program).chmod(0o755)

    settings = tmp_path / "k8s/overlays/team-b/settings/settings.yaml"
    settings.parent.mkdir(parents=True)
    shipped = (K8S / "overlays/prod-gpu/settings/settings.yaml").read_text(encoding="utf-8")
    settings.write_text(shipped.replace("namespace: raystill", "namespace: team-b"), encoding="utf-8")

    def teardown(*variables: str) -> tuple[int, list[str]]:
        tmp_path.joinpath("calls").write_text("")
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["make", "-f", str(ROOT / "Makefile"), "k8s-teardown", *variables],
            cwd=tmp_path, env=environment, capture_output=True, check=False,
        )  # fmt: skip
        return done.returncode, tmp_path.joinpath("calls").read_text().splitlines()

    assert teardown() == teardown("OVERLAY=absent") == (2, [])
    status, calls = teardown("OVERLAY=team-b")
    assert (status, [call.split()[3] for call in calls]) == (2, ["delete", "delete", "wait"])
    status, calls = teardown("OVERLAY=team-b", "DELETE_DATA=yes")
    assert status == 0
    ray = "rayservice,raycronjob,rayjob,raycluster"
    found = re.findall(
        rf"get {ray} --all|get pvc|{ray}|delete pod|-k|uninstall|delete namespace team-b", "\n".join(calls)
    )
    shown = [f"get {ray} --all", "get pvc"]
    assert found == [*shown, ray, "delete pod", ray, "-k", "uninstall", "delete namespace team-b"], "shown first"
    assert all("-n team-b" in call for call in calls[1:5])


@needs_kustomize
@each_overlay
def test_no_overlay_deletes_the_namespace(name: str) -> None:
    assert "Namespace" not in {found["kind"] for found in overlay(name)}


@needs_kustomize
def test_the_runbook_says_the_gpus_of_each_change(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    stated = [(int(least), int(most)) for least, most in re.findall(r"(?m)^\| .+ \| (\d+) \| (\d+)", text)]
    prod = named(overlay("prod-gpu"), "RayService", "raystill-students")
    steps = [(step.least, step.most) for step in endpoint_steps(prod)]
    objects = overlay("prod-gpu", with_components(tmp_path, ["incremental-upgrade"]))
    incremental = endpoint_steps(named(objects, "RayService", "raystill-students"))[2]
    assert stated == [*steps, (incremental.least, incremental.most)]
    assert {step.most for step in endpoint_steps(named(overlay("dev-cpu"), "RayService", "raystill-students"))} == {0}
