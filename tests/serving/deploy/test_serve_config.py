"""The Serve config of an endpoint, the applications that its args build, and what is refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from pipelines.config.base import ReplicasConfig
from pipelines.config.serving import AutoscalingDelays, KeysConfig, ServingConfig, TlsConfig
from pipelines.errors import UserError
from serving import app
from serving.deploy.serve_config import as_document, endpoint_config
from serving.model_card import read_card
from tests.support.tiny_students import copy_with_details, write_student


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("students")
    return {kind: str(write_student(root / kind, kind)) for kind in ("decoder-only", "encoder-decoder")}


@pytest.fixture
def folder(folders: dict[str, str]) -> str:
    return folders["decoder-only"]


def content(folder: str) -> str:
    return read_card("any", folder).content


def applications(
    students: dict[str, str], split: dict[str, dict[str, float]] | None = None, **settings: Any
) -> dict[str, ServeApplicationSchema]:
    return {one.name: one for one in endpoint_config(students, ServingConfig(**settings), split).applications}


def test_each_student_is_an_application_or_all_share_one(folders: dict[str, str]) -> None:
    folder, t5 = folders.values()
    serving = ServingConfig(keys=KeysConfig(file="keys"), port=8123, max_batch_size=4)
    students = {"a@1": folder, "a@2": folder, "b": t5}
    document: Any = as_document(endpoint_config(students, serving, {"a": {"2": 10.0}}))
    assert as_document(ServeDeploySchema.model_validate(document)) == document
    found = {application["name"]: application for application in document["applications"]}
    assert list(found) == ["raystill", "raystill-student-a@1", "raystill-student-a@2", "raystill-student-b"]
    assert [application["route_prefix"] for application in found.values()] == ["/", None, None, None]
    fingerprints = {name: content(folder) for name, folder in students.items()}
    user_config = {"students": students, "fingerprints": fingerprints, "split": {"a": {"2": 10.0}}}
    assert found["raystill"]["deployments"] == [{"name": "ingress", "user_config": user_config}]
    assert set(found["raystill-student-b"]["args"]) == {"student", "folder", "fingerprint", "serving"}
    assert document["http_options"] == {"host": "127.0.0.1", "port": 8123, "request_timeout_s": 125.0}
    assert document["proxy_location"] == "HeadOnly"
    tls = ServingConfig(tls=TlsConfig(certificate="/tls/crt", key="/tls/key"))
    options: Any = as_document(endpoint_config(students, tls))["http_options"]
    assert (options["ssl_certfile"], options["ssl_keyfile"]) == ("/tls/crt", "/tls/key")
    found = applications(folders, students_per_replica=1)
    assert list(found) == ["raystill", "raystill-students"]
    assert found["raystill-students"].args["students"] == folders
    app.shared(found["raystill-students"].args)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_proxies_of_all_nodes_need_a_reachable_host(folder: str, host: str) -> None:
    with pytest.raises(UserError, match=f"serving.host {host}: .* --set serving.host=0.0.0.0"):
        endpoint_config({"a": folder}, ServingConfig(host=host), every_node=True)
    assert endpoint_config({"a": folder}, ServingConfig(host=host)).http_options.host == host
    for reachable in ("0.0.0.0", "::", "10.0.0.7", "endpoint.example.com"):
        with pytest.raises(UserError, match=f"serving.host {reachable}: others reach it, and it has no keys"):
            endpoint_config({"a": folder}, ServingConfig(host=reachable))
        open_to_all = ServingConfig.model_validate({"host": reachable, "keys": "none"})
        config = endpoint_config({"a": folder}, open_to_all, every_node=True)
        assert (config.http_options.host, config.proxy_location) == (reachable, "EveryNode")


def test_a_change_restarts_only_what_it_concerns(folder: str) -> None:
    """Serve restarts an application if its args change."""
    one = applications({"a@1": folder})
    both, split, student = {"a@1": folder, "a@2": folder}, {"a": {"2": 10.0}}, "raystill-student-a@1"
    assert one[student] == applications(both, split, keys=KeysConfig(file="keys"), access_log=True)[student]
    assert one[student] == applications({"a@1": folder}, task_code=True)[student]
    assert one[student] != applications({"a@1": folder}, weights="bfloat16")[student]
    assert applications(both, split)["raystill"].args == one["raystill"].args


def test_a_student_trained_again_is_a_change(tmp_path: Path) -> None:
    """The old args would start replicas with other weights: they are refused."""
    place = write_student(tmp_path / "student", "decoder-only")
    students = {"a": str(place)}
    before = applications(students)
    assert applications(students) == before
    write_student(place, "decoder-only", seed=1)
    after = applications(students)
    assert after["raystill"].args == before["raystill"].args
    assert after["raystill"].deployments != before["raystill"].deployments
    assert after["raystill-student-a"].args != before["raystill-student-a"].args
    with pytest.raises(UserError, match="it holds another student"):
        app.student(before["raystill-student-a"].args)
    args = applications(students, students_per_replica=1)["raystill-students"].args
    assert args["fingerprints"] == {"a": content(str(place))}
    app.shared(args)
    write_student(place, "decoder-only", seed=2)
    with pytest.raises(UserError, match="it holds another student"):
        app.shared(args)


def test_only_the_ingress_runs_a_task_with_code(folder: str, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    task = {"name": "mine.py", "source": f"open({str(trace)!r}, 'w')"}
    coded = copy_with_details(Path(folder), tmp_path / "coded", task=task)
    with pytest.raises(UserError, match="its task is code"):
        applications({"a": coded})
    app.student({"student": "a", "folder": coded, "serving": {}})
    assert not trace.exists()


def test_the_key_file_gets_an_absolute_path(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, found in (("keys", tmp_path / "keys"), ("~/keys", Path.home() / "keys"), ("/etc/keys", "/etc/keys")):
        args = applications({"a": folder}, keys=KeysConfig(file=given))["raystill"].args
        assert args["serving"]["keys"]["file"] == str(found)


def built(folder: str, **settings: Any) -> tuple[Any, Any]:
    """The deployments of ingress and student."""
    found = applications({"a": folder}, **settings)
    bound = app.ingress(found["raystill"].args), app.student(found["raystill-student-a"].args)
    return bound[0]._bound_deployment, bound[1]._bound_deployment


def test_args_set_scaling_queues_and_drain(folder: str) -> None:
    ingress, student = built(
        folder, replicas=ReplicasConfig(min=0, max=2), target_ongoing_requests=5, max_queued_requests=7, ingress_replicas=2,
        delays=AutoscalingDelays(up_s=4.0, down_s=5.0, to_zero_s=6.0), request_timeout_s=77.0, max_batch_size=4,
    )  # fmt: skip
    scaling = student._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (0, 2, 5)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s, scaling.downscale_to_zero_delay_s) == (4.0, 5.0, 6.0)
    assert (scaling.metrics_interval_s, scaling.look_back_period_s) == (1.0, 2.0), "shorter than the delays"
    assert student._deployment_config.graceful_shutdown_timeout_s == 77.0, "it answers its requests before it ends"
    # The ingress queues: the router refuses and delays nothing that was admitted.
    assert (student.max_queued_requests, student.max_ongoing_requests) == (-1, 100_000)
    assert student.ray_actor_options["num_gpus"] == 0
    assert student.ray_actor_options["runtime_env"]["env_vars"]["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"
    assert ingress.num_replicas == 2
    # A full ingress answers 503. An unlimited queue would hold requests until they time out.
    assert ingress.max_ongoing_requests == ingress.max_queued_requests == 4 * (7 + 2 * 5)
    assert (ingress.backpressure_config.status_code, ingress.backpressure_config.retry_after_s) == (503, 1)


def test_several_ingress_replicas_have_one_counter(folder: str) -> None:
    for replicas, keys, counters in ((1, {"file": "keys"}, 0), (2, {}, 0), (2, {"file": "keys"}, 1)):
        ingress, _ = built(folder, ingress_replicas=replicas, keys=KeysConfig(**keys))
        assert len(ingress.init_args[1:]) == counters
    for limit in (None, 1):
        found = built(folder, max_replicas_per_node=limit, ingress_replicas=2)
        assert [one._replica_config.max_replicas_per_node for one in found] == [limit] * 2


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({}, "`student`: Field required"),
        ({"student": "a b", "folder": "x"}, "letters, digits"),
        ({"student": "a", "folder": "x", "serve": {}}, "`serve`"),
        ({"student": "a", "folder": "x", "serving": {"prot": 1}}, "`serving.prot`"),
        ({"student": "a", "folder": "/nowhere/student"}, "the folder does not exist"),
    ],
)
def test_invalid_args_are_refused(args: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        app.student(args)


def test_impossible_students_are_refused(folder: str) -> None:
    with pytest.raises(UserError, match="student a: one student has this name, and others are versions of it"):
        applications({"a": folder, "a@1": folder})
    with pytest.raises(UserError, match=r"serving\.constrained true: the labels of task arithmetic are free"):
        applications({"sums": folder}, constrained=True)
