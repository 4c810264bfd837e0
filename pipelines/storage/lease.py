"""Lock of a folder on an object store, which has no locks of its own: one driver at a time.

A driver that wants the folder writes a claim, `.lock/<id>.json`. Only its owner writes a claim. Lamport's bakery algorithm ("A New
Solution of Dijkstra's Concurrent Programming Problem", CACM 17(8), 1974) decides which claim holds, by plain reads, writes and listings:

    1. Write a claim without a number.
    2. List the claims. Write the own claim with a number above all listed ones.
    3. List the claims again. Wait while a claim has no number; then the lowest (number, id) holds.

    at once      A: -     B: -     A: 1     B: 1       A holds: its id sorts first
    one later    A: -     A: 1     B: -     B: 2       A holds

The holder rewrites its claim every `lease_s` / 6. A claim is dead if its process has ended (visible on the same machine only) or if
the claim is older than `lease_s`. Ages are differences of two times of the store: of the claim and of a claim just written. Clocks of
machines are never compared. A driver that finds a claim ahead of its own waits. It gives up if that claim is rewritten, and takes over
if that claim is dead. A holder that fails to renew its claim for `lease_s` * 2 / 3 has lost the folder for good. Its own clock, which
runs while the machine sleeps, decides. `check` reports the loss before each commit, and the driver ends.

Limits. Listings must show every object written before: those of S3, Google, Azure, HDFS and MinIO do, a cache in front may not. No lock
protects the time between a `check` and the end of the following write. A driver that sleeps there for more than `lease_s` / 3, or a
request that travels as long, can still write after another driver took over. A claim that a dead driver's last request writes again
blocks the folder for another `lease_s`.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pipelines.errors import StageFailedError, UserError
from pipelines.runtime.durations import duration
from pipelines.runtime.terminal import say
from pipelines.storage.filesystems import object_store_errors
from pipelines.storage.manifest import now
from pipelines.storage.process_identity import is_running, this_process
from pipelines.storage.store import Store

LockedStage = Literal["label", "train", "evaluate", "compare"]
_VERBS = {"label": "labelling", "train": "training", "evaluate": "evaluating", "compare": "comparing"}
FOLDER = ".lock"
CLAIM_BYTES = 1024
"""Size of every claim, padded with spaces. pyarrow asks for an object's size first and would read a longer claim in part."""
_LOOK_AGAIN_S = 0.1
"""First pause between two listings; each pause doubles."""
_REPORT_AFTER_S = 1.0
"""How long a driver waits before it reports that it waits."""


class _Holder(BaseModel):
    """Driver of a claim: process_identity.ProcessIdentity, and the time of the claim."""

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    processes: str
    process: int | None
    since: str


_UNKNOWN = _Holder(host="an unknown machine", pid=0, processes="", process=None, since="an unknown time")


@dataclass(frozen=True)
class _Claim:
    """One driver's claim, with the keys of its file."""

    id: str
    holder: _Holder
    number: int | None
    beat: int
    """Number of times the claim was written."""
    age_s: float = 0.0
    """At the listing, by the store's clock. Not in the file."""

    def runs(self) -> bool | None:
        """True if the driver's process runs. None if it is not visible from here."""
        return is_running(self.holder.model_dump())

    def is_dead(self, lease_s: float) -> bool:
        return self.runs() is False or self.age_s > lease_s

    def is_ahead_of(self, number: int, claim_id: str) -> bool:
        return self.number is None or (self.number, self.id) < (number, claim_id)

    def described(self) -> str:
        """Holder and age, for messages."""
        holder, age_s = self.holder, max(self.age_s, 0.0)
        return f"process {holder.pid} on {holder.host} since {holder.since}, last renewed {duration(round(age_s))} ago"


_CLAIM = TypeAdapter(_Claim)


class Lease:
    """Context manager that holds the folder's lock.

    Entering raises UserError if another driver holds the folder; it takes up to `lease_s` / 4 to be sure. After a driver that died on
    another machine, entering waits for the end of its lease and prints a message.
    """

    def __init__(self, store: Store, lease_s: float, stage: LockedStage = "label") -> None:
        self._store, self._lease_s, self._stage = store, lease_s, stage
        self._every_s, self._limit_s = lease_s / 6, lease_s * 2 / 3
        self._own = _Claim(uuid.uuid4().hex, _Holder(**this_process(), since=now()), None, 0)
        self._renewed_s = 0.0
        self._last_error = ""
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name=f"{stage}-lease")

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
        self._released.set()
        self._thread.join()
        self._release()

    def check(self) -> None:
        """Raise StageFailedError if another driver may have taken the folder."""
        idle_s = _clock() - self._renewed_s
        if idle_s > self._limit_s:
            raise StageFailedError(
                f"{self._store.shown()}: the lock could not be renewed for {duration(round(idle_s))}{self._last_error}. Another driver may "
                "write into the folder by now. Finished work is kept. Repeat the command to resume."
            )

    def _wait(self, number: int) -> list[str]:
        """Wait until no living claim is ahead. Returns the names of the dead claims."""
        first_beats: dict[str, int] = {}
        start_s, pause_s, reported = _clock(), _LOOK_AGAIN_S, False
        while True:
            self._write()
            others = self._others()
            dead = [claim for claim in others if claim.is_dead(self._lease_s)]
            ahead = [claim for claim in others if claim not in dead and claim.is_ahead_of(number, self._own.id)]
            if not ahead:
                return [_name(claim.id) for claim in dead]
            for claim in ahead:
                alive = claim.runs() or claim.beat != first_beats.setdefault(claim.id, claim.beat)
                if alive and claim.number is not None:
                    raise self._refusal(claim)
            if not reported and _clock() - start_s > _REPORT_AFTER_S:
                message = f"{self._stage}: {ahead[0].described()}; waiting for its renewal, at most {self._lease_s:g} s"
                say(message)
                reported = True
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, self._every_s / 4)

    def _others(self) -> list[_Claim]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._store.path(FOLDER), allow_not_found=True)
        with object_store_errors(self._store.uri):
            listed = {info.base_name: info.mtime_ns or 0 for info in self._store.fs.get_file_info(selector)}
        own = f"{self._own.id}.json"
        if own not in listed:
            rule = "its listing lacks an object that was just written"
            raise UserError(self._store.shown(FOLDER), rule, "Use a store with consistent listings and no cache.")
        claims = []
        for name in sorted(listed.keys() - {own}):
            try:
                content = self._store.read(f"{FOLDER}/{name}")
            except OSError:
                if self._store.exists(f"{FOLDER}/{name}"):
                    raise
                continue  # released since the listing
            claims.append(_read(name, content, written_ns=listed[name], now_ns=listed[own]))
        return claims

    def _write(self) -> None:
        start_s = _clock()
        self._own = dataclasses.replace(self._own, beat=self._own.beat + 1)
        claim = _CLAIM.dump_python(self._own, exclude={"age_s"})
        self._store.write(_name(self._own.id), json.dumps(claim).encode().ljust(CLAIM_BYTES))
        self._last_error = ""
        self._renewed_s = start_s  # not the end: the store may have taken its time of the object in between

    def _renew(self) -> None:
        """Renew the claim until it is released or lost."""
        while not self._released.wait(self._every_s) and _clock() - self._renewed_s <= self._limit_s:
            try:
                self._write()
            except (OSError, UserError) as error:
                self._last_error = f" ({error})"

    def _release(self) -> None:
        try:
            self._store.delete(_name(self._own.id))
        except (OSError, UserError) as error:
            text = f"cannot be removed ({error}); it lapses in {self._lease_s:g} s"
            say(f"{self._stage}: {self._store.shown(_name(self._own.id))} {text}")

    def _refusal(self, claim: _Claim) -> UserError:
        lapses = f"The lock of a dead driver lapses {self._lease_s:g} s after its last renewal."
        return held_by_another(self._store, self._stage, claim.described(), lapses)


def held_by_another(store: Store, stage: LockedStage, holder: str, more: str = "") -> UserError:
    """The refusal of a folder that another driver holds.

    Args:
        holder: who holds it; empty if that is not known.
        more: follows the remedy.
    """
    rule = f"another driver is {_VERBS[stage]} into it{': ' if holder else ''}{holder}"
    return UserError(store.shown(), rule, f"Wait for it, or stop it. {more}".rstrip())


def _read(name: str, content: bytes, *, written_ns: int, now_ns: int) -> _Claim:
    """Read a claim. An unreadable one (written in part, or by another version) is ahead of all; it lives while it is rewritten."""
    age_s = (now_ns - written_ns) / 1e9
    try:
        return dataclasses.replace(_CLAIM.validate_json(content), age_s=age_s)
    except ValidationError:
        return _Claim(name.removesuffix(".json"), _UNKNOWN, 0, written_ns, age_s)


def _name(claim_id: str) -> str:
    return f"{FOLDER}/{claim_id}.json"


def _clock() -> float:
    """Seconds since boot, including those in which the machine slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
