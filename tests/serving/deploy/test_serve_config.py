"""The Serve config file of an endpoint, what is checked before anything is started, and what importing the application loads."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from pipelines.config.base import ReplicasConfig
from pipelines.config.serving import AutoscalingDelays, KeysConfig, ServingConfig
from pipelines.errors import UserError
from pipelines.storage.store import MANIFEST
from serving import app
from serving.deploy.rollout import serve_students
from serving.deploy.serve_config import endpoint_config
from serving.engines.select import engine_name
from tests.serving.test_model_card import edited
from tests.support.tiny_students import write_student


def test_importing_the_application_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "vllm", "deepspeed", "ctranslate2", "ray.data")
    modules = "serving.app, serving.deploy.rollout, serving.deploy.serve_config"
    code = f"import sys, {modules}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only"))


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_student(tmp_path_factory.mktemp("students") / "student", "encoder-decoder"))


def fingerprint(folder: str) -> str:
    return str(json.loads(Path(folder, MANIFEST).read_text())["fingerprint"])


def applications(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {application["name"]: application for application in config["applications"]}


def test_each_student_is_an_application_of_its_own(folder: str, t5: str) -> None:
    serving = ServingConfig(keys=KeysConfig(file="keys"), port=8123, max_batch_size=4)
    students = {"a@1": folder, "a@2": folder, "b": t5}
    config = endpoint_config(students, serving, {"a": {"2": 10.0}})
    ServeDeploySchema.model_validate(config)
    found = applications(config)
    assert list(found) == ["raystill", "raystill-student-a@1", "raystill-student-a@2", "raystill-student-b"]
    assert [application["route_prefix"] for application in found.values()] == ["/", None, None, None]
    assert found["raystill"]["deployments"] == [
        {
            "name": "ingress",
            "user_config": {
                "students": {"a@1": folder, "a@2": folder, "b": t5},
                "fingerprints": {name: fingerprint(folder) for name, folder in students.items()},
                "split": {"a": {"2": 10.0}},
            },
        }
    ]
    assert (config["http_options"]["port"], config["proxy_location"]) == (8123, "HeadOnly")
    everywhere = endpoint_config({"b": t5}, ServingConfig(host="0.0.0.0"), every_node=True)
    assert (everywhere["http_options"]["host"], everywhere["proxy_location"]) == ("0.0.0.0", "EveryNode")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_proxies_of_all_nodes_that_nobody_reaches_are_refused(folder: str, host: str) -> None:
    serving = ServingConfig(host=host)
    with pytest.raises(UserError, match=f"serving.host {host}: .* --set serving.host=0.0.0.0"):
        endpoint_config({"a": folder}, serving, every_node=True)
    assert endpoint_config({"a": folder}, serving)["http_options"]["host"] == host
    for reached in ("0.0.0.0", "::", "10.0.0.7", "endpoint.example.com"):
        endpoint_config({"a": folder}, ServingConfig(host=reached), every_node=True)


def test_what_changes_an_application_is_its_own(folder: str) -> None:
    """Serve restarts an application when its args change: a split, a key file or another student must not be among a student's."""
    one = applications(endpoint_config({"a@1": folder}, ServingConfig()))
    more = ServingConfig(keys=KeysConfig(file="keys"), access_log=True)
    two = applications(endpoint_config({"a@1": folder, "a@2": folder}, more, {"a": {"2": 10.0}}))
    assert one["raystill-student-a@1"] == two["raystill-student-a@1"]
    faster = applications(endpoint_config({"a@1": folder}, ServingConfig(weights="bfloat16")))
    assert one["raystill-student-a@1"] != faster["raystill-student-a@1"]
    split = applications(endpoint_config({"a@1": folder, "a@2": folder}, ServingConfig(), {"a": {"2": 10.0}}))
    assert split["raystill"]["args"] == one["raystill"]["args"]


def test_a_student_that_was_trained_anew_in_its_folder_is_a_change(tmp_path: Path) -> None:
    """Its replicas restart, and the ingress reads its card again; with the same args Serve would change nothing."""
    place = write_student(tmp_path / "student", "decoder-only")
    before = applications(endpoint_config({"a": str(place)}, ServingConfig()))
    assert applications(endpoint_config({"a": str(place)}, ServingConfig())) == before
    write_student(place, "decoder-only", seed=1)
    after = applications(endpoint_config({"a": str(place)}, ServingConfig()))
    assert after["raystill"]["args"] == before["raystill"]["args"]
    assert after["raystill"]["deployments"] != before["raystill"]["deployments"]
    assert after["raystill-student-a"]["args"] != before["raystill-student-a"]["args"]
    with pytest.raises(UserError, match="it holds another student"):
        app.student(before["raystill-student-a"]["args"])
    shared = ServingConfig(students_per_replica=1)
    args = applications(endpoint_config({"a": str(place)}, shared))["raystill-students"]["args"]
    assert args["fingerprints"] == {"a": fingerprint(str(place))}
    app.shared(args)
    write_student(place, "decoder-only", seed=2)
    with pytest.raises(UserError, match="it holds another student"):
        app.shared(args)


def test_a_task_that_is_code_is_the_ingress_alone(folder: str, tmp_path: Path) -> None:
    """To let it run restarts no student; a replica runs nothing of it."""
    trace = tmp_path / "ran"
    place = edited(Path(folder), tmp_path / "coded", task={"name": "mine.py", "source": f"open({str(trace)!r}, 'w')"})
    with pytest.raises(UserError, match="its task is code of its own"):
        endpoint_config({"a": place}, ServingConfig())
    app.student({"student": "a", "folder": place, "serving": {}})
    assert not trace.exists()
    config = endpoint_config({"a": folder}, ServingConfig(task_code=True))
    assert (
        applications(config)["raystill-student-a"]
        == applications(endpoint_config({"a": folder}, ServingConfig()))["raystill-student-a"]
    )


def test_the_key_file_is_found_from_any_folder(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, found in (("keys", tmp_path / "keys"), ("~/keys", Path.home() / "keys"), ("/etc/keys", "/etc/keys")):
        config = endpoint_config({"a": folder}, ServingConfig(keys=KeysConfig(file=given)))
        assert applications(config)["raystill"]["args"]["serving"]["keys"]["file"] == str(found)


def test_shared_replicas_are_one_application(folder: str, t5: str) -> None:
    config = endpoint_config({"a": folder, "b": t5}, ServingConfig(students_per_replica=1))
    ServeDeploySchema.model_validate(config)
    found = applications(config)
    assert list(found) == ["raystill", "raystill-students"]
    assert found["raystill-students"]["args"]["students"] == {"a": folder, "b": t5}
    app.shared(found["raystill-students"]["args"])


def test_the_args_build_the_applications(folder: str) -> None:
    serving = ServingConfig(
        replicas=ReplicasConfig(min=0, max=3), target_ongoing_requests=5, max_queued_requests=7, ingress_replicas=2,
        delays=AutoscalingDelays(up_s=1.0, down_s=2.0, to_zero_s=3.0), request_timeout_s=77.0,
    )  # fmt: skip
    found = applications(endpoint_config({"a": folder}, serving))
    student = app.student(found["raystill-student-a"]["args"])._bound_deployment
    scaling = student._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (0, 3, 5)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s, scaling.downscale_to_zero_delay_s) == (1.0, 2.0, 3.0)
    assert student._deployment_config.graceful_shutdown_timeout_s == 77.0, "a replica that goes answers what it has"
    assert student.max_queued_requests == 7
    assert student.ray_actor_options["num_gpus"] == 0
    assert student.ray_actor_options["runtime_env"]["env_vars"]["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"
    assert app.ingress(found["raystill"]["args"])._bound_deployment.num_replicas == 2


def test_an_ingress_without_room_says_when_to_come_back(folder: str) -> None:
    """What its proxies answer by themselves; an endless queue would hold requests until they time out."""
    serving = ServingConfig(max_queued_requests=7, replicas=ReplicasConfig(min=0, max=2), max_batch_size=4)
    ingress = app.ingress(applications(endpoint_config({"a": folder}, serving))["raystill"]["args"])._bound_deployment
    assert ingress.max_ongoing_requests == ingress.max_queued_requests == 2 * (7 + 2 * 8)
    assert (ingress.backpressure_config.status_code, ingress.backpressure_config.retry_after_s) == (503, 1)


def test_replicas_of_a_node_are_limited_for_students_and_ingress(folder: str) -> None:
    for limit in (None, 1):
        config = endpoint_config({"a": folder}, ServingConfig(max_replicas_per_node=limit, ingress_replicas=2))
        ServeDeploySchema.model_validate(config)
        found = applications(config)
        for built in (app.student(found["raystill-student-a"]["args"]), app.ingress(found["raystill"]["args"])):
            assert built._bound_deployment._replica_config.max_replicas_per_node == limit


@pytest.mark.parametrize("limit", [0, 101, True, "1"])
def test_a_limit_of_replicas_that_is_none_is_refused(limit: Any) -> None:
    with pytest.raises(ValidationError, match="max_replicas_per_node"):
        ServingConfig.model_validate({"max_replicas_per_node": limit})


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({}, "`student`: Field required"),
        ({"student": "a b", "folder": "x"}, "letters, digits"),
        ({"student": "a", "folder": "x", "serve": {}}, "`serve`"),
        ({"student": "a", "folder": "x", "serving": {"prot": 1}}, "`serving.prot`"),
        ({"student": "a", "folder": "/nowhere/student"}, "no such folder"),
    ],
)
def test_args_that_break_a_rule(args: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        app.student(args)


def test_a_name_with_and_without_versions(folder: str) -> None:
    with pytest.raises(UserError, match="student a: it is the name of a student and of one with versions"):
        endpoint_config({"a": folder, "a@1": folder}, ServingConfig())


def test_engines_by_family_and_device() -> None:
    def engine(family: Any, **serving: Any) -> str:
        return engine_name(family, ServingConfig(**serving))

    assert engine("encoder-decoder") == "ctranslate2"
    assert engine("encoder-decoder", weights="int8") == "ctranslate2"
    assert engine("encoder-decoder", weights="bfloat16") == "transformers"
    assert engine("encoder-decoder", gpus_per_replica=1) == "transformers"
    assert engine("decoder-only") == engine("decoder-only", gpus_per_replica=1) == "vllm"
    for family, serving, match in [
        ("decoder-only", {"weights": "int8"}, "vllm has no such weights"),
        ("decoder-only", {"engine": "ctranslate2"}, "does not run decoder-only"),
        ("encoder-decoder", {"engine": "vllm"}, "does not run encoder-decoder"),
        ("encoder-decoder", {"engine": "ctranslate2", "gpus_per_replica": 1}, "CUDA"),
        ("encoder-decoder", {"gpus_per_replica": 1, "weights": "int8"}, "transformers has no such weights"),
    ]:
        with pytest.raises(UserError, match=match):
            engine(family, **serving)


def test_a_taken_port_is_the_user_s_to_change(folder: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"serving.port {port}"):
            serve_students({"a": folder}, ServingConfig(port=port))


def test_a_host_of_another_machine_is_refused(folder: str) -> None:
    with pytest.raises(UserError, match="cannot be listened on"):
        serve_students({"a": folder}, ServingConfig(host="192.0.2.1", port=8123))


def test_no_student_no_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished student"):
        serve_students({"a": str(tmp_path)}, ServingConfig())
