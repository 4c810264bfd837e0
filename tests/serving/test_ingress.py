"""The ingress without Ray: what it knows of students, and what it says where they are away."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from pipelines.storage.store import MANIFEST
from pipelines.students.decoding import Decoded
from serving import ingress as module
from serving import registry as roster_module
from serving.api.errors import ApiError
from serving.ingress import Ingress
from serving.messages import Piece, Question, Reply, TextRequest, UnavailableError
from serving.model_card import StudentCard
from tests.serving.api.test_routes import PAIR_TASK
from tests.serving.test_model_card import edited
from tests.support.fake_students import card
from tests.support.tiny_students import write_student

REPLY = Reply(Decoded("4 - 1", 0.75, 10, 4), engine="transformers")


class Called:
    """A method of a handle."""

    def __init__(self, outcome: Callable[[], Any]) -> None:
        self._outcome = outcome

    def remote(self, *_: Any) -> Any:
        return self.answered()

    async def answered(self) -> Any:
        outcome = self._outcome()
        return await outcome if inspect.isawaitable(outcome) else outcome


class Handle:
    """A student's deployment, as Serve gives it."""

    def __init__(self, outcome: Callable[[], Any]) -> None:
        self.answer = self.write = Called(outcome)


@pytest.fixture
def students(monkeypatch: pytest.MonkeyPatch) -> dict[str, Handle]:
    """Those that Serve knows, by application."""
    found: dict[str, Handle] = {}

    def handle(deployment: str, application: str) -> Handle:
        return found[application]  # a KeyError where there is none, as Serve raises it

    monkeypatch.setattr(module.serve, "get_deployment_handle", handle)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only")


def away(ask: Callable[[], Any]) -> None:
    with pytest.raises(ApiError) as raised:
        asyncio.run(ask())
    assert (raised.value.status, raised.value.code) == (503, "model_away")
    assert raised.value.retry_after_s


def test_a_student_that_serve_does_not_know_is_away(students: dict[str, Handle]) -> None:
    """Its application is being built, or has gone: come back, which is no fault of the server's."""
    for serving in (ServingConfig(), ServingConfig(students_per_replica=1)):
        ingress = Ingress(serving)
        away(lambda ingress=ingress: ingress.ask(card("sums"), [Question("one")]))
        away(lambda ingress=ingress: ingress.write(card("sums"), [TextRequest("one", raw=False)]))
        away(lambda ingress=ingress: anext(ingress.stream(card("sums"), TextRequest("one", raw=False))))


def test_a_student_that_its_replica_does_not_have_is_away(students: dict[str, Handle]) -> None:
    def outcome() -> Any:
        raise UnavailableError("sums")

    students["raystill-student-sums"] = Handle(outcome)
    away(lambda: Ingress(ServingConfig()).ask(card("sums"), [Question("one")]))


def test_the_engine_that_answers_is_the_one_that_is_told(students: dict[str, Handle]) -> None:
    ingress = Ingress(ServingConfig())
    assert ingress.engine(card("sums")) is None
    students["raystill-student-sums"] = Handle(lambda: REPLY)
    asyncio.run(ingress.ask(card("sums"), [Question("one")]))
    assert ingress.engine(card("sums")) == "transformers"
    students["raystill-student-b"] = Handle(lambda: Piece("4", 10, 1, "stop", "vllm"))
    asyncio.run(ingress.write(card("b"), [TextRequest("one", raw=False)]))
    assert ingress.engine(card("b")) == "vllm"


def cards(ingress: Ingress) -> list[StudentCard]:
    return list(ingress._roster.cards)


def test_a_student_that_was_trained_anew_in_its_folder_has_a_new_card(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ingress, place = Ingress(ServingConfig()), tmp_path / "student"
    write_student(place, "decoder-only", seed=1)
    asked = {"students": {"a": str(place)}, "fingerprints": {"a": module.read_card("a", str(place)).fingerprint}}
    asyncio.run(ingress.reconfigure(asked))
    (before,) = cards(ingress)
    write_student(place, "decoder-only", seed=2)
    asyncio.run(ingress.reconfigure(asked | {"fingerprints": {"a": module.read_card("a", str(place)).fingerprint}}))
    (after,) = cards(ingress)
    assert before.fingerprint != after.fingerprint
    with caplog.at_level(logging.WARNING):
        asyncio.run(ingress.reconfigure(asked))
    assert "holds another student than the one that was deployed as a" in caplog.text
    asyncio.run(ingress.reconfigure({"students": {"a": str(place)}}))
    assert cards(ingress) == [after], "a config without fingerprints takes what is there"


def test_code_of_a_student_runs_where_it_is_asked_for_alone(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    source = f"open({str(trace)!r}, 'w')\n{PAIR_TASK}"
    place = edited(folder, tmp_path / "pair", task={"name": "pair.py", "source": source})
    asked = {"students": {"pairs": place}}
    closed = Ingress(ServingConfig())
    asyncio.run(closed.reconfigure(asked))
    assert "its task is code of its own" in closed.away()["pairs"]
    assert not trace.exists()
    ingress = Ingress(ServingConfig(task_code=True))
    asyncio.run(ingress.reconfigure(asked))
    assert ingress._roster.tasks["pairs"].required == ("left", "right")


def broken(folder: Path, target: Path) -> Path:
    """A student that cannot be read, until its manifest is given back its name."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    (target / MANIFEST).rename(target / "hidden")
    return target


def test_a_student_that_cannot_be_read_takes_down_no_other(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When an ingress starts anew, one folder that has gone is no reason for all to be away. It is tried again."""
    monkeypatch.setattr(module, "READ_AGAIN_S", 0.02)
    place = broken(folder, tmp_path / "broken")
    asked = {"students": {"a": str(folder), "b@1": str(place), "b@2": "/nowhere"}, "split": {"b": {"1": 100.0}}}

    async def run() -> None:
        ingress = Ingress(ServingConfig())
        await ingress.reconfigure(asked)
        assert [card.id for card in cards(ingress)] == ["a"]
        assert "no finished student" in ingress.away()["b@1"]
        assert "there is no such folder" in ingress.away()["b@2"]
        await asyncio.sleep(0.1)
        assert caplog.text.count("student b@1 is away: ") == 1, "told once, not at every try"
        (place / "hidden").rename(place / MANIFEST)
        async with asyncio.timeout(10.0):
            while "b@1" in ingress.away():
                await asyncio.sleep(0.01)
        assert [card.id for card in cards(ingress)] == ["a", "b@1"]
        assert "student b@1 is back" in caplog.text
        assert list(ingress.away()) == ["b@2"]
        await ingress.reconfigure({"students": {"a": str(folder)}})
        assert ingress.away() == {}

    asyncio.run(run())


def test_a_store_that_fails_is_no_end_of_the_ingress(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = module.read_card

    def fails(student_id: str, place: str, **options: Any) -> StudentCard:
        if student_id == "b":
            raise OSError("when reading information for key 'b' in bucket 'c'")
        return read(student_id, place, **options)

    monkeypatch.setattr(module, "read_card", fails)
    ingress = Ingress(ServingConfig())
    asyncio.run(ingress.reconfigure({"students": {"a": str(folder), "b": "s3://c/b"}}))
    assert list(ingress.away()) == ["b"]
    assert [card.id for card in cards(ingress)] == ["a"]


FAILS_WHEN_MADE = f"{PAIR_TASK}\n    def __init__(self, options=None):\n        self.labels_of = options['labels']\n"


@pytest.mark.parametrize(
    ("task", "why", "is_bug"),
    [
        ({"name": "of-tomorrow"}, "task of-tomorrow: it is unknown here", False),
        ({"name": "pair.py", "source": FAILS_WHEN_MADE}, r"task pair.py: .*\(KeyError: 'labels'\)", False),
        ({"name": "pair.py", "source": "raise SystemExit(1)"}, r"b: its folder cannot be read \(SystemExit: 1\)", True),
    ],
)
def test_whatever_a_student_brings_along_takes_down_no_other(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, task: dict[str, Any], why: str, is_bug: bool
) -> None:
    place = edited(folder, tmp_path / "b", task=task)
    ingress = Ingress(ServingConfig(task_code=True))
    asyncio.run(ingress.reconfigure({"students": {"a": str(folder), "b": place}}))
    assert re.match(why, ingress.away()["b"])
    assert [card.id for card in cards(ingress)] == ["a"]
    assert ("Traceback" in caplog.text) == is_bug


def test_the_reader_goes_on_after_what_nobody_thought_of(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_AGAIN_S", 0.01)
    read, outcomes = module.read_card, [ValueError("Invalid isoformat string: 'today'"), None, None]

    def fails(student_id: str, place: str, **options: Any) -> StudentCard:
        if error := outcomes.pop(0):
            raise error
        return read(student_id, place, **options)

    monkeypatch.setattr(module, "read_card", fails)

    async def run() -> None:
        ingress = Ingress(ServingConfig())
        await ingress.reconfigure({"students": {"a": str(folder)}})
        assert ingress.away() == {"a": "a: its folder cannot be read (ValueError: Invalid isoformat string: 'today')"}
        told = ingress._told

        def breaks(*_: Any) -> Any:
            monkeypatch.setattr(ingress, "_told", told)
            raise RuntimeError("of the reader itself")

        monkeypatch.setattr(ingress, "_told", breaks)
        await until(lambda: not ingress.away())

    asyncio.run(run())
    assert "of the reader itself" in caplog.text
    assert "student a is back" in caplog.text


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not true():
            await asyncio.sleep(0.01)


def test_a_folder_that_does_not_answer_takes_no_other_with_it(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than a pool has threads; and one thread waits for each, however often it is tried."""
    monkeypatch.setattr(module, "READ_AGAIN_S", 0.01)
    monkeypatch.setattr(module, "_ANSWER_S", 0.2)
    read, answer, asked = module.read_card, threading.Event(), []

    def hangs(student_id: str, place: str, **options: Any) -> StudentCard:
        if place == "s3://hangs":
            asked.append(student_id)
            assert answer.wait(60.0)
        return read(student_id, str(folder) if place == "s3://hangs" else place, **options)

    monkeypatch.setattr(module, "read_card", hangs)
    hung = [f"h{i}" for i in range(40)]
    place = broken(folder, tmp_path / "broken")
    config = {"students": {**dict.fromkeys(hung, "s3://hangs"), "a": str(folder), "b": str(place)}}

    async def run() -> None:
        ingress = Ingress(ServingConfig())
        await ingress.reconfigure(config)
        assert [card.id for card in cards(ingress)] == ["a"]
        assert ingress.away()["h0"] == "h0: its folder does not answer"
        (place / "hidden").rename(place / MANIFEST)
        await until(lambda: "b" not in ingress.away())
        await ingress.reconfigure(config | {"split": {}})
        assert sorted(asked) == sorted(hung), "no second thread waits for a folder"
        answer.set()
        await until(lambda: not ingress.away())
        assert [card.id for card in cards(ingress)] == [*hung, "a", "b"]
        assert "student h0 is back" in caplog.text

    asyncio.run(run())
    assert caplog.text.count("student h0 is away: ") == 1


def test_who_is_away_costs_the_others_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No task is loaded again, and none on the loop that answers requests."""
    monkeypatch.setattr(module, "READ_AGAIN_S", 0.01)
    load, reads, loaded = module.load_task, [], []

    def noted(spec: Any) -> Any:
        loaded.append(threading.current_thread())
        return load(spec)

    read = module.read_card

    def counted(student_id: str, *rest: Any, **options: Any) -> StudentCard:
        reads.append(student_id)
        return read(student_id, *rest, **options)

    for where in (module, roster_module):
        monkeypatch.setattr(where, "load_task", noted)
    monkeypatch.setattr(module, "read_card", counted)
    place = broken(folder, tmp_path / "broken")

    async def run() -> None:
        ingress = Ingress(ServingConfig())
        await ingress.reconfigure({"students": {"a": str(folder), "b": str(place)}})
        before = ingress._roster
        await until(lambda: reads.count("b") > 5)
        assert ingress._roster is before
        assert len(loaded) == 1
        (place / "hidden").rename(place / MANIFEST)
        await until(lambda: not ingress.away())
        assert len(loaded) == 2
        assert ingress._roster.tasks["a"] is before.tasks["a"]
        assert threading.main_thread() not in loaded

    asyncio.run(run())


def test_a_config_that_cannot_be_taken_leaves_all_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_AGAIN_S", 0.01)
    place = broken(folder, tmp_path / "broken")

    async def run() -> None:
        ingress = Ingress(ServingConfig())
        await ingress.reconfigure({"students": {"a": str(folder), "b": str(place)}})
        with pytest.raises(UserError, match="split nobody"):
            await ingress.reconfigure({"students": {"a": str(folder)}, "split": {"nobody": {"new": 1.0}}})
        (place / "hidden").rename(place / MANIFEST)
        await until(lambda: not ingress.away())
        assert [card.id for card in cards(ingress)] == ["a", "b"]

    asyncio.run(run())
