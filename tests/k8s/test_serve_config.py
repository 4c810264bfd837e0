"""The RayService's serveConfigV2 is what `raystill serve ... --print-config` prints, and no overlay holds an old one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from cluster.cli import main
from cluster.commands.serve import named_students
from k8s.serve.render import CONFIG, FINGERPRINTS, overlays, rendered
from tests.support.k8s.rendering import OVERLAYS, cluster_of, named, needs_kustomize, overlay
from tests.support.tiny_students import write_student

each_overlay = pytest.mark.parametrize("folder", overlays(), ids=lambda folder: folder.name)


def test_every_overlay_has_an_endpoint() -> None:
    assert {folder.name for folder in overlays()} == set(OVERLAYS)


@each_overlay
def test_no_config_is_out_of_date(folder: Path) -> None:
    message = f"run `python -m k8s.serve.render {folder.name}`"
    assert folder.joinpath(CONFIG).read_text(encoding="utf-8") == rendered(folder), message


@each_overlay
def test_it_is_what_the_command_prints(folder: Path, tmp_path: Path) -> None:
    endpoint = yaml.safe_load(folder.joinpath("endpoint.yaml").read_text(encoding="utf-8"))
    here: dict[str, str] = {}
    asked: list[str] = []
    for student_id, place in named_students(tuple(endpoint["students"])).items():
        here[str(write_student(tmp_path / student_id, endpoint["family"]))] = place
        asked.append(f"{student_id}={tmp_path / student_id}")
    run_file = str(folder / "run" / "run.yaml")
    done = CliRunner().invoke(main, ["serve", *asked, "--run", run_file, "--print-config"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    printed = done.output
    for found, place in here.items():
        printed = printed.replace(found, place)
    assert without_fingerprints(yaml.safe_load(printed)) == yaml.safe_load(
        folder.joinpath(CONFIG).read_text(encoding="utf-8")
    )
    assert printed.count("fingerprint:") == len(here), "the command names the students that it has seen"


def without_fingerprints(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: without_fingerprints(value) for key, value in node.items() if key not in FINGERPRINTS}
    return [without_fingerprints(one) for one in node] if isinstance(node, list) else node


def test_a_split_between_versions(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.joinpath("run").mkdir(parents=True)
    source = overlays()[0]
    folder.joinpath("run/run.yaml").write_bytes(source.joinpath("run/run.yaml").read_bytes())
    endpoint = {"students": ["a@old=/data/old/", "a@new=s3://b/new"], "split": ["new=10"], "family": "decoder-only"}
    folder.joinpath("endpoint.yaml").write_text(yaml.safe_dump(endpoint), encoding="utf-8")
    ingress, *students = yaml.safe_load(rendered(folder))["applications"]
    asked = ingress["deployments"][0]["user_config"]
    assert asked["students"] == {"a@old": "/data/old", "a@new": "s3://b/new"}
    assert asked["split"]["a"]["new"] == 10.0
    assert [student["args"]["folder"] for student in students] == ["/data/old", "s3://b/new"]


@needs_kustomize
@pytest.mark.parametrize("name", OVERLAYS)
def test_the_rayservice_holds_it(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    service = named(overlay(name), "RayService", "raystill-students")
    config: dict[str, Any] = yaml.safe_load(service["spec"]["serveConfigV2"])
    folder = next(folder for folder in overlays() if folder.name == name)
    assert config == yaml.safe_load(folder.joinpath(CONFIG).read_text(encoding="utf-8"))
    ServeDeploySchema.model_validate(config)
    # A proxy on each node, on an address that other pods reach, on the port that the service and the network's rules name.
    assert config["proxy_location"] == "EveryNode"
    assert config["http_options"]["host"] == "0.0.0.0"
    for group in (cluster_of(service)["headGroupSpec"], *cluster_of(service)["workerGroupSpecs"]):
        ports = {port["name"]: port["containerPort"] for port in group["template"]["spec"]["containers"][0]["ports"]}
        assert ports["serve"] == config["http_options"]["port"] == 8000
