"""How a running endpoint is changed: what Serve is told, one after the other. Serve itself is a stand-in here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.exceptions import RayServeException

from pipelines.config.serving import ServingConfig
from pipelines.errors import StageFailedError, UserError
from serving.deploy import rollout as module
from serving.deploy.rollout import Endpoint, before, check_http, gone_students, phases, serve_students
from serving.deploy.serve_config import endpoint_config
from serving.ingress import SHARED
from tests.support.tiny_students import write_student

OTHER = {"name": "shop", "import_path": "shop:app"}
SETTINGS = ServingConfig()


def endpoint(*students: str, together: bool = False, setting: int = 1, folder: str = "/s") -> list[dict[str, Any]]:
    """Applications as serving/deploy/serve_config.py makes them."""
    folders = {student: f"{folder}/{student}" for student in students}
    marks = {student: f"{folder}{student}" for student in students}
    asked = {"students": folders, "fingerprints": marks}
    ingress = {"name": "raystill", "args": {"serving": {"port": 8000}}, "deployments": [{"user_config": asked}]}
    if together:
        return [ingress, {"name": "raystill-students", "args": {**asked, "serving": setting}}]
    apart = [
        {"name": f"raystill-student-{s}", "args": {"student": s, "folder": folders[s], "serving": setting}}
        for s in students
    ]
    return [ingress, *apart]


def named(applications: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {application["name"]: application for application in applications}


def test_the_first_start_is_one_step() -> None:
    wanted = endpoint("a")
    (only,) = phases({"shop": OTHER}, wanted)
    assert named(only.applications) == named([*wanted, OTHER])
    assert only.waits == ["raystill", "raystill-student-a"], "nobody waits for the applications of others"


def test_a_new_student_starts_before_the_ingress_knows_it() -> None:
    old, new = endpoint("a"), endpoint("a", "b", setting=2)
    started, counted = phases(named([*old, OTHER]), new)
    assert named(started.applications) == named([old[0], *new[1:], OTHER])
    assert started.waits == ["raystill-student-a", "raystill-student-b"]
    assert named(counted.applications) == named([*new, OTHER])
    assert counted.waits == ["raystill"]


def test_a_student_goes_after_the_ingress_has_forgotten_it() -> None:
    old, new = endpoint("a", "b"), endpoint("a")
    started, counted, ended = phases(named([*old, OTHER]), new)
    assert named(started.applications) == named([*old, OTHER])
    assert named(counted.applications) == named([new[0], *old[1:], OTHER])
    assert named(ended.applications) == named([*new, OTHER])


def test_students_that_share_replicas_have_old_and_new_ones_meanwhile() -> None:
    old, new = endpoint("a", "b", together=True), endpoint("b", "c", together=True, setting=2, folder="/t")
    started, counted, ended = phases(named(old), new)
    both = named(started.applications)["raystill-students"]["args"]
    assert both == {
        "students": {"a": "/s/a", "b": "/t/b", "c": "/t/c"},
        "fingerprints": {"a": "/sa", "b": "/tb", "c": "/tc"},
        "serving": 2,
    }
    assert named(counted.applications) == {**named(started.applications), "raystill": new[0]}
    assert named(ended.applications) == named(new)
    only_less = phases(named(old), endpoint("a", together=True))
    assert named(only_less[0].applications) == named(old), "nothing restarts before the ingress has forgotten it"
    before_fingerprints = {**old[1], "args": {"students": old[1]["args"]["students"], "serving": 1}}
    kept = phases(named([old[0], before_fingerprints]), new)[0].applications
    assert named(kept)["raystill-students"]["args"]["fingerprints"] == {"b": "/tb", "c": "/tc"}


def test_from_replicas_of_their_own_to_shared_ones_and_back() -> None:
    apart, shared = endpoint("a"), endpoint("a", together=True)
    for old, new in ((apart, shared), (shared, apart)):
        started, counted, ended = phases(named(old), new)
        assert named(started.applications) == named([*new, *old]), "the old ingress last"
        assert named(counted.applications) == named([*old, *new])
        assert named(ended.applications) == named(new)


def test_what_a_folder_does_not_hold_any_more_is_started_by_no_step(tmp_path: Path) -> None:
    folders = {name: write_student(tmp_path / name, "encoder-decoder") for name in "ab"}
    students = {name: str(folder) for name, folder in folders.items()}
    config = ServingConfig(students_per_replica=2)
    old = endpoint_config(students, config)["applications"]
    assert gone_students(named(old)) == set()
    shutil.rmtree(folders["b"])
    gone = gone_students(named([*old, OTHER]))
    assert gone == {"b"}
    new = endpoint_config({"c": students["a"]}, config)["applications"]
    for started in (phases(named(old), new, gone)[0].applications, before(named(old), new, gone)):
        args = named(started)[SHARED]["args"]
        assert {*args["students"], *args["fingerprints"]} <= {"a", "c"}
    apart, retrained = endpoint("a"), endpoint("a", folder="/t")
    assert before(named(apart), retrained, {"a"}) == [apart[0], retrained[1]]


class Serve:
    """Serve's client: what it was told, and what it has."""

    def __init__(self, *running: dict[str, Any], foreign: str | None = None) -> None:
        self.applications: dict[str, Any] = named(running)
        if foreign:
            self.applications[foreign] = None
        self.told: list[list[str]] = []
        self.http_config = SimpleNamespace(host="127.0.0.1", port=8000, request_timeout_s=125.0)

    def get_serve_details(self) -> dict[str, Any]:
        return {"applications": {name: {"deployed_app_config": config} for name, config in self.applications.items()}}

    def deploy_apps(self, config: Any) -> None:
        self.told.append([application["name"] for application in config])


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The applications that the settings make."""
    made = endpoint("a", "b")
    monkeypatch.setattr(module, "endpoint_config", lambda *_: {"applications": made})
    monkeypatch.setattr(module, "_apply", lambda client, _, applications: client.deploy_apps(applications))
    return made


def given(monkeypatch: pytest.MonkeyPatch, running: Serve) -> None:
    import ray.serve.context

    monkeypatch.setattr(module.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray.serve.context, "_get_global_client", lambda **_: running)


def test_a_change_that_cannot_be_made_leaves_what_ran(
    wanted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Serve(*endpoint("a"), foreign="shop")
    given(monkeypatch, running)

    def wait(names: list[str]) -> None:
        raise StageFailedError(f"the endpoint does not start: {names[-1]}: its weights lack lm_head")

    monkeypatch.setattr(module, "_wait_for", wait)
    match = "student-b: its weights lack lm_head; what ran before goes on, with the shares it had"
    with pytest.raises(StageFailedError, match=match):
        serve_students({"a": "/s/a", "b": "/s/b"}, SETTINGS)
    both, back = running.told
    assert both == ["raystill", "raystill-student-a", "raystill-student-b"]
    assert back == ["raystill", "raystill-student-a"]


def test_a_change_that_is_interrupted_leaves_what_ran_too(
    wanted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Serve(*endpoint("a"))
    given(monkeypatch, running)

    def interrupted(_: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        serve_students({"a": "/s/a", "b": "/s/b"}, SETTINGS)
    assert running.told[-1] == ["raystill", "raystill-student-a"]


class Ending:
    """Serve with applications, each of which ends when it has been asked after so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int, *names: str) -> None:
        import ray.serve.context

        self.left, self.after, self.told = dict.fromkeys(names, 0), after, []
        self.deleted: set[str] = set()
        monkeypatch.setattr(module.serve, "status", self.status)
        monkeypatch.setattr(module.serve, "shutdown", lambda: self.told.append(["all of Serve"]))
        monkeypatch.setattr(ray.serve.context, "_get_global_client", lambda **_: self)
        monkeypatch.setattr(module, "_POLL_S", 0.0)

    def status(self) -> Any:
        for name in self.deleted & set(self.left):
            self.left[name] += 1
        self.left = {name: count for name, count in self.left.items() if count < self.after}
        return SimpleNamespace(applications=dict.fromkeys(self.left))

    def delete_apps(self, names: list[str], *, blocking: bool) -> None:
        assert not blocking, "it would give up after a minute"
        self.told.append(names)
        self.deleted |= set(names)


STUDENTS = ["raystill-student-a", "raystill-student-b"]


def test_students_end_when_nobody_asks_them_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Ending(monkeypatch, 3, "raystill", *STUDENTS)
    Endpoint("http://x", ("a", "b")).shutdown()
    assert serve.told == [["raystill"], STUDENTS, ["all of Serve"]]
    serve = Ending(monkeypatch, 3, "raystill", *STUDENTS, "shop")
    Endpoint("http://x", ("a", "b")).shutdown()
    assert (serve.told, list(serve.left)) == ([["raystill"], STUDENTS], ["shop"])


def test_what_does_not_end_in_time_keeps_nothing_from_ending(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve = Ending(monkeypatch, 10**9, "raystill", *STUDENTS)
    Endpoint("http://x", ("a", "b"), drain_s=0.01).shutdown()
    assert serve.told == [["raystill"], STUDENTS, ["all of Serve"]]
    assert "serve: raystill has not ended in time" in capsys.readouterr().err


def test_nobody_waits_for_what_has_taken_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Ending(monkeypatch, 10**9, "raystill", *STUDENTS)
    Endpoint("http://x", ("a", "b")).drop()
    assert serve.told == [["all of Serve"]]
    serve = Ending(monkeypatch, 10**9, "raystill", *STUDENTS, "shop")
    Endpoint("http://x", ("a", "b")).drop()
    assert serve.told == [["raystill", *STUDENTS]]


def test_applications_of_others_are_not_waited_for_and_may_have_no_config(
    wanted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of `serve.run` have none; no config file changes them."""
    running = Serve(OTHER, foreign="started-by-code")
    given(monkeypatch, running)
    waited: list[list[str]] = []
    monkeypatch.setattr(module, "_wait_for", waited.append)
    assert serve_students({"a": "/s/a", "b": "/s/b"}, SETTINGS).url == "http://127.0.0.1:8000"
    assert running.told == [["raystill", "raystill-student-a", "raystill-student-b", "shop"]]
    assert waited == [["raystill", "raystill-student-a", "raystill-student-b"]]


Said = dict[str, str] | Exception
UNREAD = {"a": "/s/a: there is no such folder. Give the folder of a student."}


def say(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Sequence[Said]], wait_s: float = 0.0) -> None:
    """An ingress that runs, and what its replicas say of the students that they cannot read."""
    runs = SimpleNamespace(applications={"raystill": SimpleNamespace(status=SimpleNamespace(value="RUNNING"))})

    def broadcast(method: str) -> Any:
        assert method == "away"

        def results(*, timeout_s: float, return_exceptions: bool) -> Sequence[Said]:
            assert return_exceptions
            return answer()

        return SimpleNamespace(results=results)

    monkeypatch.setattr(module.serve, "status", lambda: runs)
    monkeypatch.setattr(module.serve, "get_deployment_handle", lambda *_: SimpleNamespace(broadcast=broadcast))
    monkeypatch.setattr(module, "READ_AGAIN_S", wait_s)
    monkeypatch.setattr(module, "_ASK_AGAIN_S", 0.01)


def test_a_student_that_the_ingress_cannot_read_is_no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its replicas runs on another node, which may not see the folder that this process sees."""
    for said in ([UNREAD], [{}, UNREAD, {}], [TimeoutError(), RayServeException("no replica"), UNREAD]):
        say(monkeypatch, lambda said=said: said)
        with pytest.raises(StageFailedError, match="does not start: its ingress cannot read /s/a: there is no such"):
            module._wait_for(["raystill"])
    say(monkeypatch, lambda: [{}, {}])
    module._wait_for(["raystill"])


def test_what_the_ingress_reads_at_its_second_try_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Sequence[Said]] = [[UNREAD, {}], [RayServeException("no replica")], [{}, {}]]
    say(monkeypatch, lambda: answers.pop(0), wait_s=60.0)
    module._wait_for(["raystill"])
    assert answers == []


def test_an_ingress_that_is_too_busy_to_say_it_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    def late() -> Sequence[Said]:
        raise TimeoutError

    def broken() -> Sequence[Said]:
        raise RayServeException("no replica")

    for answer in (late, lambda: [TimeoutError(), {}]):
        say(monkeypatch, answer)
        module._wait_for(["raystill"])
    for answer in (broken, lambda: [{}, RayServeException("no replica")]):
        say(monkeypatch, answer)
        with pytest.raises(StageFailedError, match="its ingress does not answer \\(no replica\\)"):
            module._wait_for(["raystill"])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"port": 8001}, "serving.port 8001: Serve runs on this Ray already, with port 8000"),
        ({"host": "0.0.0.0"}, "serving.host 0.0.0.0: .* with host 127.0.0.1"),
        ({"request_timeout_s": 121.0}, "request_timeout_s 121: .* ends requests after 125 s. Set at most 120"),
    ],
)
def test_an_address_that_serve_does_not_take_any_more_is_refused(
    wanted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], match: str
) -> None:
    running = Serve(*endpoint("a"))
    given(monkeypatch, running)
    with pytest.raises(UserError, match=match):
        serve_students({"a": "/s/a"}, ServingConfig(**settings))
    assert running.told == []


def test_a_time_limit_that_the_ingress_keeps_needs_nothing_of_serve() -> None:
    for limit_s in (None, 125.0, 1000.0):
        http = SimpleNamespace(host="127.0.0.1", port=8000, request_timeout_s=limit_s)
        check_http(http, ServingConfig(request_timeout_s=120.0))
        check_http(http, ServingConfig(request_timeout_s=5.0))
