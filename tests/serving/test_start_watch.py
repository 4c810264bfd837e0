"""Which students run, and whether any can answer, by the states that Serve reports."""

from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import RayError

from pipelines.config.serving import ServingConfig
from pipelines.runtime.compat.ray import ApplicationState, fails
from serving import start_watch as module
from serving.start_watch import StartWatch
from tests.support.clock import Clock
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
States = dict[str, str] | Exception


@pytest.fixture
def serve_says(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets Serve's states, one after the other; the last one stays. Names are the students'."""

    def say(*states: States, shared: bool = False) -> None:
        remaining = list(states)

        async def application_states() -> dict[str, ApplicationState]:
            found = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            if isinstance(found, Exception):
                raise found
            prefix = "" if shared else "raystill-student-"
            return {
                prefix + name: ApplicationState(state == "RUNNING", state == "fails") for name, state in found.items()
            }

        monkeypatch.setattr(module, "application_states", application_states)
        monkeypatch.setattr(module, "_FIRST_POLL_S", 0.01)

    return say


async def test_new_students_are_watched_until_they_run(serve_says: Callable[..., None]) -> None:
    noted: list[set[str]] = []
    watch = StartWatch(ServingConfig(), lambda left: noted.append(set(left)))
    serve_says({"a@1": "RUNNING"})
    assert await watch.starting(["a@1"]) == set()
    watch.follow(["a@1"], frozenset())
    serve_says({"a@1": "RUNNING", "a@2": "DEPLOYING"}, RayError("the controller restarts"), {}, {"a@2": "RUNNING"})
    starting = await watch.starting(["a@1", "a@2", "a@3"])
    assert starting == {"a@2", "a@3"}
    watch.follow(["a@1", "a@2", "a@3"], starting)
    await until(lambda: noted == [{"a@3"}])
    watch.follow(["a@1", "a@2"], frozenset())
    serve_says({"a@2": "DEPLOYING"})
    assert await watch.starting(["a@2"]) == set(), "a student that has run keeps its share while it is deployed again"


def test_an_application_without_a_replica_fails() -> None:
    """One of several replicas is enough."""

    def details(status: str, *replicas: str) -> dict[str, Any]:
        return {"deployments": {"student": {"status": status, "replicas": [{"state": state} for state in replicas]}}}

    assert [fails(details(*of)) for of in [("UNHEALTHY",), ("DEPLOY_FAILED", "STARTING"), ("UNHEALTHY", "RUNNING"),
            ("HEALTHY",), ("UPDATING", "STARTING")]] == [True, True, False, False, False]  # fmt: skip


async def test_one_student_that_can_answer_is_enough(serve_says: Callable[..., None]) -> None:
    clock = Clock()
    watch = StartWatch(ServingConfig(), lambda _: None, clock)
    serve_says({"a": "fails"}, RayError(), {"a": "DEPLOYING"})
    for clock.now, able in ((0.0, False), (1.0, False), (3.0, False), (6.0, True)):
        assert await watch.any_can_answer(["a"]) == able
        assert await watch.any_can_answer(["a", "b"])


async def test_shared_replicas_are_one_application(serve_says: Callable[..., None]) -> None:
    watch = StartWatch(ServingConfig(students_per_replica=2), lambda _: None)
    serve_says({"raystill-students": "DEPLOYING"}, {"raystill-students": "RUNNING"}, shared=True)
    assert await watch.starting(["a", "b"]) == {"a", "b"}
    assert await watch.starting(["a", "b"]) == set()
