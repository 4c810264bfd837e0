"""The steps of a change: what Serve is to run, one step after the other."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from ray.serve.schema import ServeApplicationSchema

from pipelines.config.serving import ServingConfig
from serving.deploy.phases import gone_students, phases, restored
from serving.deploy.serve_config import endpoint_config
from serving.replica_client import SHARED
from tests.support.serve_applications import OTHER, applications
from tests.support.tiny_students import write_student


def named(found: Iterable[ServeApplicationSchema]) -> dict[str, ServeApplicationSchema]:
    return {application.name: application for application in found}


def test_the_ingress_knows_a_student_only_while_it_runs() -> None:
    wanted = applications("a")
    (only,) = phases({"shop": OTHER}, wanted)
    assert named(only.applications) == named([*wanted, OTHER])
    assert only.waits == ["raystill", "raystill-student-a"], "applications of others are not awaited"
    old, new = applications("a"), applications("a", "b", setting=2)
    started, routed = phases(named([*old, OTHER]), new)
    assert named(started.applications) == named([old[0], *new[1:], OTHER])
    assert started.waits == ["raystill-student-a", "raystill-student-b"]
    assert named(routed.applications) == named([*new, OTHER])
    assert routed.waits == ["raystill"]
    old, new = applications("a", "b"), applications("a")
    started, routed, ended = phases(named([*old, OTHER]), new)
    assert named(started.applications) == named([*old, OTHER])
    assert named(routed.applications) == named([new[0], *old[1:], OTHER])
    assert named(ended.applications) == named([*new, OTHER])
    assert [started.ends, routed.ends, ended.ends] == [set(), {"b"}, set()], "requests for it are answered first"


def test_shared_replicas_hold_old_and_new_students() -> None:
    old, new = applications("a", "b", shared=True), applications("b", "c", shared=True, setting=2, folder="/t")
    started, routed, ended = phases(named(old), new)
    assert named(started.applications)[SHARED].args == {
        "students": {"a": "/s/a", "b": "/t/b", "c": "/t/c"},
        "fingerprints": {"a": "/sa", "b": "/tb", "c": "/tc"},
        "serving": {"max_batch_size": 2},
    }
    assert named(routed.applications) == {**named(started.applications), "raystill": new[0]}
    assert named(ended.applications) == named(new)
    fewer = phases(named(old), applications("a", shared=True))
    assert named(fewer[0].applications) == named(old), "nothing restarts before the ingress has forgotten the student"
    without_fingerprints = old[1].model_copy(update={"args": {"students": old[1].args["students"], "serving": {}}})
    kept = phases(named([old[0], without_fingerprints]), new)[0].applications
    assert named(kept)[SHARED].args["fingerprints"] == {"b": "/tb", "c": "/tc"}
    own, shared = applications("a"), applications("a", shared=True)
    for old, new in ((own, shared), (shared, own)):
        started, routed, ended = phases(named(old), new)
        assert named(started.applications) == named([*new, *old]), "with the old ingress"
        assert named(routed.applications) == named([*old, *new])
        assert named(ended.applications) == named(new)


def test_no_step_starts_a_student_that_is_gone(tmp_path: Path) -> None:
    folders = {name: write_student(tmp_path / name, "encoder-decoder") for name in "ab"}
    students = {name: str(folder) for name, folder in folders.items()}
    serving = ServingConfig(students_per_replica=2)
    old = endpoint_config(students, serving).applications
    assert gone_students(named(old)) == set()
    shutil.rmtree(folders["b"])
    gone = gone_students(named([*old, OTHER]))
    assert gone == {"b"}
    new = endpoint_config({"c": students["a"]}, serving).applications
    for started in (phases(named(old), new, gone)[0].applications, restored(named(old), new, gone)):
        args = named(started)[SHARED].args
        assert {*args["students"], *args["fingerprints"]} <= {"a", "c"}
    own, retrained = applications("a"), applications("a", folder="/t")
    assert restored(named(own), retrained, {"a"}) == [own[0], retrained[1]]
