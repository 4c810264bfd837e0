"""Which students run, by the states that Serve reports."""

from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import RayError

from pipelines.config.serving import ServingConfig
from pipelines.runtime.compat.ray import fails
from serving import ability
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

        async def application_states() -> dict[str, str]:
            found = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            if isinstance(found, Exception):
                raise found
            return found if shared else {f"raystill-student-{name}": state for name, state in found.items()}

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


async def test_an_application_without_a_replica_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of several replicas is enough. While the controller is silent, its last word counts."""

    def details(status: str, *replicas: str) -> dict[str, Any]:
        return {"deployments": {"student": {"status": status, "replicas": [{"state": state} for state in replicas]}}}

    assert [fails(details(*of)) for of in [("UNHEALTHY",), ("DEPLOY_FAILED", "STARTING"), ("UNHEALTHY", "RUNNING"),
            ("HEALTHY",), ("UPDATING", "STARTING")]] == [True, True, False, False, False]  # fmt: skip
    replies: list[Any] = [frozenset("a"), RayError(), frozenset()]

    async def failing() -> frozenset[str]:
        reply = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    monkeypatch.setattr(ability, "failing_applications", failing)
    clock = Clock()
    watch = ability.Ability(clock)
    for clock.now, able in ((0.0, False), (1.0, False), (3.0, False), (6.0, True)):
        assert await watch.of_any(["a"]) == able
        assert await watch.of_any(["a", "b"])


async def test_shared_replicas_are_one_application(serve_says: Callable[..., None]) -> None:
    watch = StartWatch(ServingConfig(students_per_replica=2), lambda _: None)
    serve_says({"raystill-students": "DEPLOYING"}, {"raystill-students": "RUNNING"}, shared=True)
    assert await watch.starting(["a", "b"]) == {"a", "b"}
    assert await watch.starting(["a", "b"]) == set()
