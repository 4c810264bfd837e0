"""The lock of a labels folder on an S3 server: drivers that compete, die and sleep."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from pipelines.errors import StageFailedError, UserError
from pipelines.storage import lease
from pipelines.storage.lease import CLAIM_BYTES, FOLDER, Lease
from pipelines.storage.lock import LOCK, folder_lock
from pipelines.storage.process_identity import this_process
from pipelines.storage.store import Store
from tests.support.endpoints import wait_until
from tests.support.object_store import Bucket, move_claims

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
LEASE_S = 3.0

DRIVER = """
import sys, time
from pipelines.storage.store import Store
from pipelines.errors import StageFailedError
from pipelines.storage.lock import LOCK, folder_lock
with folder_lock(Store(sys.argv[1]), float(sys.argv[2])) as check:
    print("held", flush=True)
    while True:
        try:
            check()
        except StageFailedError as error:
            sys.exit(f"lost: {error}")
        time.sleep(0.05)
"""


@contextmanager
def driver(s3: Bucket, lease_s: float = LEASE_S) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", DRIVER, s3.uri("labels"), str(lease_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("machines", ["one", "many"])
def test_exactly_one_of_competing_drivers_gets_the_lock(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch, machines: str
) -> None:
    drivers, rounds, lease_s = 3, 4, 30.0
    if machines == "many":
        name = lambda: {"processes": threading.current_thread().name}  # noqa: E731
        monkeypatch.setattr(lease, "this_process", lambda: this_process() | name())
    meet = [threading.Barrier(drivers) for _ in range(rounds)]
    held: list[list[str]] = [[] for _ in range(rounds)]
    refused: list[list[str]] = [[] for _ in range(rounds)]

    def come(number: int) -> None:
        store = Store(s3.uri(f"round-{number}"))
        meet[number].wait(60)
        try:
            with folder_lock(store, lease_s) as check:
                check()
                held[number].append(threading.current_thread().name)
                meet[number].wait(60)  # until every driver has its result
        except UserError as error:
            refused[number].append(str(error))
            meet[number].wait(60)

    threads = [threading.Thread(target=come, args=(i,), daemon=True) for i in range(rounds) for _ in range(drivers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert [len(names) for names in held] == [1] * rounds
    assert [len(errors) for errors in refused] == [drivers - 1] * rounds
    message = f"another driver is labelling into it: process {os.getpid()} on "
    assert all(message in error and "Wait for it, or stop it." in error for errors in refused for error in errors)
    assert s3.keys() == [], "a claim was not released"


@pytest.mark.parametrize(("number", "holds"), [(1, False), (2, True), (None, True)])
def test_drivers_wait_for_a_claim_without_a_number(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch, number: int | None, holds: bool
) -> None:
    """Its driver may have read the claims before ours existed. None: it dies without a number."""
    other = {"id": "0", "holder": {**this_process(), "processes": "another machine", "since": "2026"}}
    key = f"labels/{FOLDER}/0.json"

    def put(number: int | None, beat: int) -> None:
        s3.put(key, json.dumps({**other, "number": number, "beat": beat}).encode().ljust(CLAIM_BYTES))

    put(None, 1)
    monkeypatch.setattr(lease, "_LOOK_AGAIN_S", 0.5)
    looked = threading.Event()
    monkeypatch.setattr(time, "sleep", lambda seconds: looked.set() or threading.Event().wait(seconds))
    ended: list[bool] = []

    def come() -> None:
        try:
            with folder_lock(Store(s3.uri("labels")), LEASE_S):
                ended.append(True)
        except UserError:
            ended.append(False)

    thread = threading.Thread(target=come)
    thread.start()
    assert looked.wait(60)
    assert ended == [], "it must wait: the other may be first"
    if number is not None:
        put(number, 2)
    thread.join(60)
    assert ended == [holds]


@pytest.mark.parametrize(("elsewhere", "lease_s"), [(False, 1000.0), (True, LEASE_S)])
def test_a_killed_driver_gives_way_at_once_or_after_its_lease(
    s3: Bucket, capsys: pytest.CaptureFixture[str], elsewhere: bool, lease_s: float
) -> None:
    with driver(s3, lease_s) as dead:
        dead.kill()
        dead.wait()
        if elsewhere:
            move_claims(s3, "labels")
        with folder_lock(Store(s3.uri("labels")), lease_s) as check:
            check()
            assert len(s3.keys()) == 1, "files of the dead driver remain"
    waits = f"process {dead.pid} on node-7 since 2" in (said := capsys.readouterr().err)
    assert (waits, "waiting for its renewal, at most 3 s" in said, "waiting" in said) == (elsewhere,) * 3


def test_a_driver_alive_elsewhere_is_recognised(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with driver(s3) as other:
        monkeypatch.setattr(lease, "is_running", lambda process: None)
        with pytest.raises(UserError, match=f"process {other.pid} on"), folder_lock(Store(s3.uri("labels")), LEASE_S):
            pass
        assert other.poll() is None
        assert len(s3.keys()) == 1, "a refused driver left files"


def test_a_driver_that_overslept_its_lease_loses_the_folder(s3: Bucket) -> None:
    with driver(s3) as sleeper:
        sleeper.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED)
        holders: list[Lease] = []

        def come() -> bool:
            with suppress(UserError):
                holders.append(Lease(Store(s3.uri("labels")), LEASE_S).__enter__())
            return bool(holders)

        wait_until(come, every_s=0.2)
        sleeper.send_signal(signal.SIGCONT)
        assert sleeper.wait(30) == 1
        assert sleeper.stderr
        assert "lost:" in sleeper.stderr.read()
        assert len(s3.keys()) == 1
        holders[0].check()
        holders[0].__exit__(None, None, None)


def test_a_holder_without_its_store_ends_before_a_takeover(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(s3.uri("labels"))
    with Lease(store, LEASE_S) as held:
        held.check()
        began = time.clock_gettime(time.CLOCK_BOOTTIME)

        def fail(*_: Any, **__: Any) -> None:
            raise OSError("the network is gone")

        monkeypatch.setattr(Store, "write", fail)
        wait_until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > began + held._limit_s)
        with pytest.raises(StageFailedError, match=r"not be renewed for \d+ s \(the network is gone\)"):
            held.check()
        assert held._limit_s < LEASE_S
    monkeypatch.undo()
    assert s3.keys() == []


def test_a_folder_is_cleared_without_giving_its_lease_away(s3: Bucket) -> None:
    store = Store(s3.uri("labels"))
    with folder_lock(store, 60.0):
        [claim] = s3.keys()
        store.write("data/part-000000.parquet", b"x")
        store.write("manifest.json", b"{}")
        store.clear(LOCK)
        assert s3.keys() == [claim]
        with pytest.raises(UserError, match="another driver"), folder_lock(store, 60.0):
            pass


@pytest.mark.parametrize("content", [b'{"id": "0", "hol', b'{"id": "0", "holder": {}, "number": 1, "beat": 1}'])
def test_a_claim_that_cannot_be_read_lapses_like_others(
    s3: Bucket, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    s3.put(f"labels/{FOLDER}/0.json", content)
    with folder_lock(Store(s3.uri("labels")), LEASE_S) as check:
        check()
        assert len(s3.keys()) == 1
    assert "an unknown machine" in capsys.readouterr().err
