"""Reading student folders into the registry: a folder that fails or hangs affects no other student."""

import logging
import re
import shutil
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from pipelines.storage.store import MANIFEST
from serving import registry as registry_module
from serving import registry_reader as module
from serving.model_card import StudentCard
from serving.registry_reader import EndpointStudents, RegistryReader
from tests.support.fake_students import PAIR_TASK
from tests.support.tiny_students import copy_with_details, write_student
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only"))


@pytest.fixture(autouse=True)
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_AGAIN_S", 0.01)


@pytest.fixture
def broken(folder: str, tmp_path: Path) -> Path:
    """A student folder that cannot be read until `repair`."""
    target = shutil.copytree(folder, tmp_path / "broken")
    (target / MANIFEST).rename(target / "hidden")
    return target


def repair(broken: Path) -> None:
    (broken / "hidden").rename(broken / MANIFEST)


def endpoint(split: dict[str, dict[str, float]] | None = None, **students: str) -> EndpointStudents:
    return EndpointStudents(students=students, split=split or {})


def available(reader: RegistryReader) -> list[str]:
    return [card.id for card in reader.registry.cards]


def unavailable(reader: RegistryReader) -> dict[str, str]:
    return dict(reader.registry.unavailable)


async def loaded(students: EndpointStudents, *, task_code: bool = False) -> RegistryReader:
    reader = RegistryReader(ServingConfig(task_code=task_code))
    await reader.load(students)
    return reader


async def test_a_student_trained_again_has_a_new_card(folder: str, tmp_path: Path, caplog: Any) -> None:
    place = write_student(tmp_path / "student", "decoder-only", seed=1)

    def expected() -> EndpointStudents:
        fingerprint = module.read_card("a", str(place)).fingerprint
        return EndpointStudents(students={"a": str(place)}, fingerprints={"a": fingerprint})

    first = expected()
    reader = await loaded(first)
    (before,) = reader.registry.cards
    write_student(place, "decoder-only", seed=2)
    await reader.load(expected())
    (after,) = reader.registry.cards
    assert before.fingerprint != after.fingerprint
    with caplog.at_level(logging.WARNING):
        await reader.load(first)
    assert "holds another student than the one that was deployed as a" in caplog.text
    await reader.load(endpoint(a=str(place)))
    assert reader.registry.cards == [after], "a config without fingerprints accepts any student"


async def test_code_of_a_student_runs_only_if_accepted(folder: str, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    task = {"name": "pair.py", "source": f"open({str(trace)!r}, 'w')\n{PAIR_TASK}"}
    pairs = endpoint(pairs=copy_with_details(Path(folder), tmp_path / "pair", task=task))
    rule = "its task is code, which would run here. If you trust it, add --set serving.task_code=true"
    assert rule in unavailable(await loaded(pairs))["pairs"]
    assert not trace.exists()
    reader = await loaded(pairs, task_code=True)
    assert reader.registry.tasks["pairs"].required == ("left", "right")


async def test_an_unreadable_student_is_tried_again(
    folder: str, broken: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Mock(side_effect=module.read_card)
    monkeypatch.setattr(module, "read_card", read)
    students = {"a": folder, "b@1": str(broken), "b@2": "/nowhere"}
    reader = await loaded(EndpointStudents(students=students, split={"b": {"1": 100.0}}))
    assert available(reader) == ["a"]
    assert "no finished student" in unavailable(reader)["b@1"]
    assert "the folder does not exist" in unavailable(reader)["b@2"]
    await until(lambda: read.call_count > 9)
    assert caplog.text.count("student b@1 is unavailable: ") == 1
    repair(broken)
    await until(lambda: "b@1" not in unavailable(reader))
    assert available(reader) == ["a", "b@1"]
    assert "student b@1 is available again" in caplog.text
    assert list(unavailable(reader)) == ["b@2"]
    attempts = reader._retry
    await reader.load(endpoint(a=folder))
    assert unavailable(reader) == {}
    assert attempts.cancelling(), "attempts of an old config end"


FAILS_WHEN_MADE = f"{PAIR_TASK}\n    def __init__(self, options=None):\n        self.labels_of = options['labels']\n"


@pytest.mark.parametrize(
    ("task", "reason", "is_bug"),
    [
        ({"name": "of-tomorrow"}, "task of-tomorrow: ", False),
        ({"name": "pair.py", "source": FAILS_WHEN_MADE}, r"task pair.py: .*\(KeyError: 'labels' ", False),
        ({"name": "pair.py", "source": "raise SystemExit(1)"}, r"task pair.py: the file fails \(SystemExit: 1 ", False),
        (OSError("bucket 'c'"), r"b: its folder cannot be read \(OSError: bucket 'c'\)", False),
        (SystemError("of ours"), r"b: its folder cannot be read \(SystemError: of ours\)", True),
    ],
)
async def test_a_failing_student_affects_no_other(
    folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    task: dict[str, Any] | Exception, reason: str, is_bug: bool,
) -> None:  # fmt: skip
    """Its task may be unknown or fail, and so may the object store. Only a bug has a traceback."""
    read = module.read_card

    def read_card(student_id: str, place: str, **options: Any) -> StudentCard:
        if place == "s3://c/b" and isinstance(task, Exception):
            raise task
        return read(student_id, place, **options)

    monkeypatch.setattr(module, "read_card", read_card)
    place = copy_with_details(Path(folder), tmp_path / "b", task=task) if isinstance(task, dict) else "s3://c/b"
    reader = await loaded(endpoint(a=folder, b=place), task_code=True)
    assert re.match(reason, unavailable(reader)["b"])
    assert available(reader) == ["a"]
    assert ("Traceback" in caplog.text) == is_bug


async def test_a_student_that_no_engine_runs_is_unavailable(folder: str, tmp_path: Path) -> None:
    other = str(write_student(tmp_path / "other", "encoder-decoder"))
    reader = RegistryReader(ServingConfig(engine="ctranslate2"))
    await reader.load(endpoint(a=folder, b=other))
    assert "serving.engine ctranslate2: it does not run decoder-only students" in unavailable(reader)["a"]
    assert available(reader) == ["b"]


async def test_attempts_continue_after_an_unexpected_error(
    broken: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = await loaded(endpoint(a=str(broken)))
    failing = Mock(side_effect=[RuntimeError("of the reader itself")])
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_evaluate", failing)
        await until(lambda: failing.called)
    repair(broken)
    await until(lambda: not unavailable(reader))
    assert "of the reader itself" in caplog.text
    assert "student a is available again" in caplog.text


async def test_a_hanging_folder_blocks_no_other(
    folder: str, broken: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than a pool has threads. One thread waits for each, however often it is tried."""
    monkeypatch.setattr(module, "_READ_TIMEOUT_S", 0.2)
    read, respond, calls = module.read_card, threading.Event(), []

    def read_card(student_id: str, place: str, **options: Any) -> StudentCard:
        if place == "s3://hangs":
            calls.append(student_id)
            assert respond.wait(60.0)
        return read(student_id, folder if place == "s3://hangs" else place, **options)

    monkeypatch.setattr(module, "read_card", read_card)
    hanging = [f"h{i}" for i in range(40)]
    students = endpoint(**dict.fromkeys(hanging, "s3://hangs"), a=folder, b=str(broken))
    reader = await loaded(students)
    assert available(reader) == ["a"]
    assert unavailable(reader)["h0"] == "h0: its folder does not respond"
    repair(broken)
    await until(lambda: "b" not in unavailable(reader))
    await reader.load(students)
    assert sorted(calls) == sorted(hanging)
    respond.set()
    await until(lambda: not unavailable(reader))
    assert available(reader) == [*hanging, "a", "b"]
    assert "student h0 is available again" in caplog.text
    assert caplog.text.count("student h0 is unavailable: ") == 1


async def test_attempts_cost_other_students_nothing(folder: str, broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No task is loaded twice, and none in the event loop's thread."""
    load, read, threads = module.load_task, Mock(side_effect=module.read_card), []

    def load_task(spec: Any) -> Any:
        threads.append(threading.current_thread())
        return load(spec)

    for each in (module, registry_module):
        monkeypatch.setattr(each, "load_task", load_task)
    monkeypatch.setattr(module, "read_card", read)
    reader = await loaded(endpoint(a=folder, b=str(broken)))
    before = reader.registry
    await until(lambda: read.call_count > 6)
    assert (reader.registry is before, len(threads)) == (True, 1)
    repair(broken)
    await until(lambda: not unavailable(reader))
    assert reader.registry.tasks["a"] is before.tasks["a"]
    assert len(threads) == 2
    assert threading.main_thread() not in threads


async def test_an_invalid_config_changes_nothing(folder: str, broken: Path) -> None:
    reader = await loaded(endpoint(a=folder, b=str(broken)))
    with pytest.raises(UserError, match="split nobody"):
        await reader.load(endpoint({"nobody": {"new": 1.0}}, a=folder))
    repair(broken)
    await until(lambda: not unavailable(reader))
    assert available(reader) == ["a", "b"]
