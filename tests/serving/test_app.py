"""What is checked before anything is started, and what importing the application loads."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import ServingConfig
from pipelines.errors import UserError
from serving.app import build, serve_students
from tests.serving.tiny import write_student


def test_importing_the_application_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "vllm", "deepspeed", "ray.data")
    code = f"import sys, serving.app; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only"))


def test_a_config_file_s_args_build_an_application(folder: str) -> None:
    serving = {"replicas": {"min": 0, "max": 3}, "target_ongoing_requests": 5, "max_queued_requests": 7}
    students = [{"name": "a", "folder": folder}, {"name": "b", "folder": folder}]
    ingress = build({"students": students, "serving": serving})._bound_deployment
    assert ingress.name == "ingress"
    assert ingress.num_replicas == 1
    cards, bound, _ = ingress.init_args
    assert [card.name for card in cards] == list(bound) == ["a", "b"]
    student = bound["a"]._bound_deployment
    scaling = student._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (0, 3, 5)
    assert student.max_queued_requests == 7
    assert student.ray_actor_options["num_gpus"] == 0


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({}, "`students`: Field required"),
        ({"students": []}, "at least 1 item"),
        ({"students": [{"name": "a b", "folder": "x"}]}, "`students.0.name`"),
        ({"students": [{"name": "a", "folder": "x"}, {"name": "a", "folder": "y"}]}, "two students have one name"),
        ({"students": [{"name": "a", "folder": "x"}], "serve": {}}, "`serve`"),
        ({"students": [{"name": "a", "folder": "x"}], "serving": {"prot": 1}}, "`serving.prot`"),
        ({"students": [{"name": "a", "folder": "/nowhere/student"}]}, "no such folder"),
    ],
)
def test_args_that_break_a_rule(args: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        build(args)


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
