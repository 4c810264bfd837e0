"""One driver at a time over a folder of an object store, which has no locks of its own.

A driver that wants the folder writes a claim, `.lock/<id>.json`, a file that nobody else writes. Which claim holds is settled as in
Lamport's bakery ("A New Solution of Dijkstra's Concurrent Programming Problem", CACM 17(8), 1974), with plain reads, writes and listings:

    1. write a claim without a number
    2. list the claims; write the own one again, with a number above all that are there
    3. list them again. A claim without a number is waited for; then the lowest (number, id) holds

    at once      A: -     B: -     A: 1     B: 1       A holds, as its id sorts first
    one later    A: -     A: 1     B: -     B: 2       A holds

The holder writes its claim anew every sixth of `lease_s`. A claim is dead when its process is seen to be gone (from the same machine,
at once), or when it is older than `lease_s`. Both ages are the store's own: that of the claim and that of one just written, so that no
clocks of machines are compared. Whoever meets a claim ahead of its own waits until that is written anew, and gives up, or is dead, and
takes over. A holder that could not renew its claim for two thirds of `lease_s` by its own clock (which runs while the machine sleeps)
has lost the folder for good: `check` says so before each commit, and the driver ends.

Limits. The store's listings must show every object that was written before (S3, Google, Azure, HDFS, MinIO do; a cache in front of one
may not). Between a `check` and the end of the write after it lies no lock: a driver that sleeps there longer than a third of `lease_s`,
or a request that is on its way as long, can still write when another has taken over. A claim that a dead driver's last request
brings back is in the way for another `lease_s`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from pipelines.errors import StageFailedError, UserError
from pipelines.storage.filesystems import object_store_errors
from pipelines.storage.manifest import now
from pipelines.storage.process_identity import is_running, this_process
from pipelines.storage.store import Store

FOLDER = ".lock"
CLAIM_BYTES = 1024
"""Of every claim, filled up with spaces: pyarrow asks for an object's size first, and would read another one's in part."""
_LOOK_AGAIN_S = 0.1
"""At first; twice as long each time."""
_TELL_AFTER_S = 1.0


_UNKNOWN = {"host": "an unknown machine", "pid": 0, "processes": "", "process": None, "since": "an unknown time"}


@dataclass(frozen=True)
class _Claim:
    """One driver's claim, as it is in the store."""

    id: str
    holder: dict[str, Any]
    """processes.this_process, and since when it has wanted the folder: _UNKNOWN has the keys."""
    number: int | None
    beat: int
    """How often it has been written."""
    age_s: float = 0.0
    """When it was listed, by the store's clock."""

    def is_dead(self, lease_s: float) -> bool:
        return is_running(self.holder) is False or self.age_s > lease_s

    def is_ahead_of(self, number: int, claim_id: str) -> bool:
        return self.number is None or (self.number, self.id) < (number, claim_id)


_CLAIM = TypeAdapter(_Claim)


class Lease:
    """The folder's lock, held while the block lasts.

    Entering raises UserError where another driver holds the folder, which takes up to a quarter of `lease_s` to be sure of; where one
    has died on another machine, it waits for the end of its lease, and says so.
    """

    def __init__(self, store: Store, lease_s: float) -> None:
        self._store, self._lease_s = store, lease_s
        self._every_s, self._limit_s = lease_s / 6, lease_s * 2 / 3
        self._own = _Claim(uuid.uuid4().hex, {**this_process(), "since": now()}, None, 0)
        self._renewed = 0.0
        self._trouble = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="label-lease")

    def __enter__(self) -> Self:
        try:
            self._write()
            number = 1 + max((claim.number or 0 for claim in self._others()), default=0)
            self._own = dataclasses.replace(self._own, number=number)
            for name in self._wait(number):
                self._store.delete(name)
        except BaseException:
            self._release()
            raise
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._release()

    def check(self) -> None:
        """Raises StageFailedError where another driver may have taken the folder."""
        idle = _clock() - self._renewed
        if idle > self._limit_s:
            raise StageFailedError(
                f"{self._store.shown()}: the lock could not be renewed for {idle:.0f} s{self._trouble}, so that another driver "
                "may label into it by now. What is committed is kept; the same command goes on."
            )

    def _wait(self, number: int) -> list[str]:
        """Until no living claim is ahead. The names of the dead ones."""
        beats: dict[str, int] = {}
        began, pause, told = _clock(), _LOOK_AGAIN_S, False
        while True:
            self._write()
            others = self._others()
            dead = [claim for claim in others if claim.is_dead(self._lease_s)]
            ahead = [c for c in others if c not in dead and c.is_ahead_of(number, self._own.id)]
            if not ahead:
                return [_name(claim.id) for claim in dead]
            for claim in ahead:
                lives = is_running(claim.holder) or claim.beat != beats.setdefault(claim.id, claim.beat)
                if lives and claim.number is not None:
                    raise self._refusal(claim)
            if not told and _clock() - began > _TELL_AFTER_S:
                print(f"label: {self._told(ahead[0])}; waiting for its next or {self._lease_s:g} s", file=sys.stderr)
                told = True
            time.sleep(pause)
            pause = min(2 * pause, self._every_s / 4)

    def _others(self) -> list[_Claim]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._store.path(FOLDER), allow_not_found=True)
        with object_store_errors(self._store.uri):
            listed = {info.base_name: info.mtime_ns or 0 for info in self._store.fs.get_file_info(selector)}
        own = f"{self._own.id}.json"
        if own not in listed:
            rule = "its listing does not show what was just written"
            raise UserError(self._store.shown(FOLDER), rule, "Use a store with consistent listings, and no cache.")
        claims = []
        for name in sorted(listed.keys() - {own}):
            try:
                content = self._store.read(f"{FOLDER}/{name}")
            except OSError:
                if self._store.exists(f"{FOLDER}/{name}"):
                    raise
                continue  # given back meanwhile
            claims.append(_read(name, content, written_ns=listed[name], now_ns=listed[own]))
        return claims

    def _write(self) -> None:
        began = _clock()
        self._own = dataclasses.replace(self._own, beat=self._own.beat + 1)
        claim = {name: value for name, value in vars(self._own).items() if name != "age_s"}
        self._store.write(_name(self._own.id), json.dumps(claim).encode().ljust(CLAIM_BYTES))
        self._trouble = ""
        self._renewed = began  # and not when it ended: the store's clock may have taken the time in between

    def _keep(self) -> None:
        """Renew the claim, until it is given back or lost."""
        while not self._over.wait(self._every_s) and _clock() - self._renewed <= self._limit_s:
            try:
                self._write()
            except (OSError, UserError) as error:
                self._trouble = f" ({error})"

    def _release(self) -> None:
        try:
            self._store.delete(_name(self._own.id))
        except (OSError, UserError) as error:
            text = f"cannot be removed ({error}); it lapses in {self._lease_s:g} s"
            print(f"label: {self._store.shown(_name(self._own.id))} {text}", file=sys.stderr)

    def _refusal(self, claim: _Claim) -> UserError:
        return UserError(
            self._store.shown(),
            f"another driver is labelling into it: {self._told(claim)}",
            f"Wait for it, or stop it there. One that is gone gives way {self._lease_s:g} s after its last sign of life.",
        )

    def _told(self, claim: _Claim) -> str:
        holder = claim.holder
        since, age = holder["since"], max(claim.age_s, 0.0)
        return f"process {holder['pid']} on {holder['host']} since {since}, last sign of life {age:.0f} s ago"


def _read(name: str, content: bytes, *, written_ns: int, now_ns: int) -> _Claim:
    """A claim. One that cannot be read, as it was written in part or by another version, is ahead of all, and alive while it is written
    anew."""
    age_s = (now_ns - written_ns) / 1e9
    try:
        found = _CLAIM.validate_json(content)
    except ValidationError:
        found = None
    if found is None or not _UNKNOWN.keys() <= found.holder.keys():
        return _Claim(name.removesuffix(".json"), _UNKNOWN, 0, written_ns, age_s)
    return dataclasses.replace(found, age_s=age_s)


def _name(claim_id: str) -> str:
    return f"{FOLDER}/{claim_id}.json"


def _clock() -> float:
    """Seconds, those in which the machine sleeps included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
