"""Kills `raystill label` at a chosen moment, runs it again, and counts the outcomes.

Faults, each a SIGKILL: `driver` (the command), `shard` (an actor of labelling.shards), `actor` (a teacher actor), `engine` (vLLM's engine
core), `reader` (a worker that reads), `raylet`, `gcs`, and `node` (all processes at once, like a lost machine).
"""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from pipelines.label.output.commits import read_commits
from pipelines.storage.store import Store
from tests.support.commands import running

COMMAND = [sys.executable, "-m", "tests.support.slow_commits", "in-order"]
REVERSED = [sys.executable, "-m", "tests.support.slow_commits", "reversed"]
TITLES = {
    "actor": ("TeacherActor",),
    "shard": ("ray::Shard",),
    "engine": ("VLLM::EngineCore", "EngineCore"),
    "reader": ("ray::MapBatches(_", "ray::StreamingRepartition"),
    "raylet": ("raylet/raylet",),
    "gcs": ("gcs/gcs_server",),
}
GIVE_UP_S = 240.0


@dataclass
class Kill:
    """One kill, and the labels folder after it."""

    fault: str
    after_s: float
    hit: bool
    """There was such a process before the command ended."""
    torn: bool
    """The kill fell inside a commit: there are parts that no record names."""
    survived: bool
    """The command finished all the same."""


@dataclass
class Labelling:
    """The label stage of a run file, as commands that may be killed."""

    run_file: Path
    output: Path
    command: list[str] = field(default_factory=lambda: COMMAND)
    kills: list[Kill] = field(default_factory=list)

    def finish(self) -> float:
        """Run the command to its end. Returns its seconds. Raises AssertionError unless it exits with 0."""
        began = time.monotonic()
        with self._started() as (process, family):
            code = wait(process, family)
        assert code == 0, self.log()
        return time.monotonic() - began

    def kill(self, fault: str, after_s: float = math.inf, after_commits: int = 0, inside: bool = False) -> Kill:
        """Start the command, kill a process of one kind, and wait for the end of the command.

        Args:
            fault: the kind. If there is no such process yet, the first one that appears is killed.
            after_s: seconds before the kill.
            after_commits: commit records before the kill.
            inside: also wait until a commit has written parts and no record.
        """
        began = time.monotonic()
        with self._started() as (process, family):
            while time.monotonic() - began < after_s and process.poll() is None:
                if after_commits and self.commits() >= after_commits and (not inside or self.torn()):
                    break
                family.look()
                time.sleep(0.02)
            hit = False
            while not hit and process.poll() is None:
                hit = family.kill(fault)
                time.sleep(0.0 if hit else 0.02)
            killed_after_s = time.monotonic() - began
            if fault in ("driver", "node") and hit:
                process.wait()
            torn = hit and self.torn()
            code = wait(process, family)
        self.kills.append(Kill(fault, killed_after_s, hit, torn, survived=hit and code == 0))
        return self.kills[-1]

    def _started(self) -> AbstractContextManager[tuple[subprocess.Popen[bytes], Family]]:
        return started([*self.command, "label", str(self.run_file)], self.output.parent / "log")

    def commits(self) -> int:
        """Commit records that no record of all commits covers."""
        return len(list((self.output / "labels").glob("commits/[0-9]*.json")))

    def torn(self) -> bool:
        """True if there are parts that no record names."""
        labels = self.output / "labels"
        with suppress(FileNotFoundError):
            # In this order, so that a commit that ends in between does not look torn.
            parts = {str(p.relative_to(labels)) for p in labels.glob("**/part-*")}
            named = {name for commit in read_commits(Store(str(labels))).commits for name in commit.parts}
            return bool(parts - named) and not (labels / "manifest.json").exists()
        return False

    def log(self) -> str:
        return (self.output.parent / "log").read_text(errors="replace")[-4000:]

    def ids(self) -> Counter[str]:
        labels = self.output / "labels"
        parts = [*labels.glob("data/*.parquet"), *labels.glob("rejects/*.parquet")]
        return Counter(i for part in parts for i in pq.read_table(part)["id"].to_pylist())


class Family:
    """The processes of a command and of its Ray, as far as they have been seen."""

    def __init__(self, pid: int) -> None:
        self._driver = psutil.Process(pid)
        self._seen: dict[int, psutil.Process] = {}

    def look(self) -> list[psutil.Process]:
        """All processes that run now."""
        with suppress(psutil.NoSuchProcess):
            for process in self._driver.children(recursive=True):
                self._seen[process.pid] = process
        return [process for process in self._seen.values() if process.is_running()]

    def kill(self, fault: str) -> bool:
        """Kill a process of a kind. Returns False if there is none."""
        self.look()
        if fault == "driver":
            return sigkill([self._driver])
        if fault == "node":
            return sigkill([*self.look(), self._driver])
        found = [p for p in self.look() if any(title in title_of(p) for title in TITLES[fault])]
        return sigkill(random.sample(found, 1) if found else [])

    def end(self) -> None:
        """Kill the remaining processes of the command and of its own Ray."""
        sigkill([*self.look(), self._driver])
        psutil.wait_procs([*self._seen.values(), self._driver], timeout=10)


def check(labelling: Labelling, accepted: int, rejects: dict[str, int]) -> None:
    """Check that every row has exactly one outcome. `accepted`: rows with an id of their own; `rejects`: by reason."""
    labels = labelling.output / "labels"
    counts = json.loads((labels / "manifest.json").read_text())["counts"]
    assert (counts["accepted"], counts["rejected_by_reason"]) == (accepted, rejects)
    assert counts["read"] == accepted + counts["rejected"] == sum(labelling.ids().values())
    found = Counter(i for part in (labels / "data").glob("*") for i in pq.read_table(part)["id"].to_pylist())
    assert (len(found), set(found.values())) == (accepted, {1})


@contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[tuple[subprocess.Popen[bytes], Family]]:
    """A command with its own Ray, and all its processes, which are killed after the block."""
    with running(command=command, log=log) as process:
        family = Family(process.pid)
        try:
            yield process, family
        finally:
            family.end()


def wait(process: subprocess.Popen[bytes], family: Family) -> int:
    """The exit code at the end of the command."""
    deadline = time.monotonic() + GIVE_UP_S
    while process.poll() is None:
        family.look()
        assert time.monotonic() < deadline, "the command neither finished nor failed"
        time.sleep(0.1)
    return process.returncode


def title_of(process: psutil.Process) -> str:
    """The command line, which is the title of Ray's and vLLM's processes; empty if the process has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def sigkill(processes: list[psutil.Process]) -> bool:
    """Kill processes. Returns False if all had ended."""
    killed = False
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
            killed = True
    return killed
