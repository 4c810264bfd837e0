"""The RayService's serveConfigV2 is what `raystill serve ... --print-config` prints, and no overlay holds an old one."""

import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from cluster.cli import main
from cluster.commands.serve import named_students
from k8s.serve.render import CONFIG, FINGERPRINTS, overlays, rendered, write
from pipelines.errors import UserError
from tests.support.k8s.rendering import K8S, OVERLAYS, cluster_of, each_overlay, named, needs_kustomize, overlay
from tests.support.tiny_students import write_student

each_folder = pytest.mark.parametrize("folder", overlays(), ids=lambda folder: folder.name)


def test_every_overlay_has_an_endpoint() -> None:
    assert {folder.name for folder in overlays()} == set(OVERLAYS)


@each_folder
def test_no_config_is_out_of_date(folder: Path) -> None:
    message = f"run `python -m k8s.serve.render {folder.name}`"
    assert folder.joinpath(CONFIG).read_text(encoding="utf-8") == rendered(folder), message


@each_folder
def test_the_config_is_what_raystill_serve_prints(folder: Path, tmp_path: Path) -> None:
    endpoint = yaml.safe_load(folder.joinpath("endpoint.yaml").read_text(encoding="utf-8"))
    places: dict[str, str] = {}
    arguments: list[str] = []
    for student_id, place in named_students(tuple(endpoint["students"])).items():
        places[str(write_student(tmp_path / student_id, endpoint["family"]))] = place
        arguments.append(f"{student_id}={tmp_path / student_id}")
    run_file = str(folder / "run" / "run.yaml")
    done = CliRunner().invoke(main, ["serve", *arguments, "--run", run_file, "--print-config"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    printed = done.output
    for local, place in places.items():
        printed = printed.replace(local, place)
    config = yaml.safe_load(folder.joinpath(CONFIG).read_text(encoding="utf-8"))
    assert without_fingerprints(yaml.safe_load(printed)) == config
    assert printed.count("fingerprint:") == len(places), "the command prints the fingerprint of each student"


def without_fingerprints(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: without_fingerprints(value) for key, value in node.items() if key not in FINGERPRINTS}
    return [without_fingerprints(entry) for entry in node] if isinstance(node, list) else node


def test_a_split_names_versions_of_one_student(tmp_path: Path) -> None:
    folder = with_students(tmp_path / "mine", "a@old=/data/old/", "a@new=s3://b/new", split=["new=10"])
    ingress, *students = yaml.safe_load(rendered(folder))["applications"]
    config = ingress["deployments"][0]["user_config"]
    assert config["students"] == {"a@old": "/data/old", "a@new": "s3://b/new"}
    assert config["split"]["a"]["new"] == 10.0
    assert [student["args"]["folder"] for student in students] == ["/data/old", "s3://b/new"]


def with_students(folder: Path, *students: str, split: Sequence[str] = (), generation: str = "1") -> Path:
    """An overlay with these students."""
    for part in ("run", "settings"):
        shutil.copytree(K8S / "overlays/prod-gpu" / part, folder / part, dirs_exist_ok=True)
    settings = folder / "settings/settings.yaml"
    text = settings.read_text(encoding="utf-8").replace('generation: "1"', f'generation: "{generation}"')
    settings.write_text(text, encoding="utf-8")
    endpoint = {"students": list(students), "split": list(split), "family": "decoder-only"}
    folder.joinpath("endpoint.yaml").write_text(yaml.safe_dump(endpoint), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("before", "after", "match"),
    [
        (
            ["a=/1"],
            ["a@2=/2"],
            "student a: a ends before a@2 runs, .*Keep the name without a version.* endpoint.generation",
        ),
        (["a=/1"], ["a@1=/1", "a@2=/2"], "a ends before a@1, a@2 runs"),
        (["a@1=/1"], ["a@2=/2"], "a@1 ends before a@2 runs, .* Keep a@1 in this change"),
        (["a@1=/1"], ["a@1=/1", "a@2=/2"], None),
        (["a@1=/1", "a@2=/2"], ["a@2=/2"], None),
        (["a@1=/1", "b=/b"], ["a@1=/1", "c=/c"], None),
    ],
)
def test_a_name_keeps_a_running_student(before: list[str], after: list[str], match: str | None, tmp_path: Path) -> None:
    file = write(with_students(tmp_path / "mine", *before))
    folder, old = with_students(tmp_path / "mine", *after), file.read_text(encoding="utf-8")
    if match is None:
        assert write(folder).read_text(encoding="utf-8") == rendered(folder)
        return
    with pytest.raises(UserError, match=match):
        write(folder)
    assert file.read_text(encoding="utf-8") == old
    write(with_students(folder, *after, generation="2"))  # on a second cluster
    assert file.read_text(encoding="utf-8") == rendered(folder)


def test_versions_that_never_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"of 3 students need 6 GPUs, and endpoint.max x worker.gpus has 4\. Raise"):
        write(folder := with_students(tmp_path / "mine", "a@1=/1", "a@2=/2", "b=/b"))
    folder.joinpath("endpoint.yaml").write_text("students: a@1=/1\nspilt: []\n")
    with pytest.raises(UserError, match=r"students: .*list; family: .*required; spilt: Extra"):
        write(folder)


@needs_kustomize
@each_overlay
def test_the_rayservice_has_the_config(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    service = named(overlay(name), "RayService", "raystill-students")
    config: dict[str, Any] = yaml.safe_load(service["spec"]["serveConfigV2"])
    folder = next(folder for folder in overlays() if folder.name == name)
    assert config == yaml.safe_load(folder.joinpath(CONFIG).read_text(encoding="utf-8"))
    # Serve ignores unknown keys. They are missing in what it has read.
    assert ServeDeploySchema.model_validate(config).model_dump(exclude_unset=True) == config
    for application in config["applications"]:
        module, _, attribute = application["import_path"].partition(":")
        assert hasattr(importlib.import_module(module), attribute)
    # A proxy on each node, at an address that other pods reach, on the port of the Service and the network policies.
    assert config["proxy_location"] == "EveryNode"
    assert config["http_options"]["host"] == "0.0.0.0"
    for group in (cluster_of(service)["headGroupSpec"], *cluster_of(service)["workerGroupSpecs"]):
        ports = {port["name"]: port["containerPort"] for port in group["template"]["spec"]["containers"][0]["ports"]}
        assert ports["serve"] == config["http_options"]["port"] == 8000
