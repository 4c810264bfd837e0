"""Killing `raystill train` at a moment, starting it again, and reading what came of it.

Faults, each a SIGKILL: `driver` (the command), `worker` (one of its training workers), `node` (everything at once).
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.commands import COMMAND, environment
from tests.support.label_kills import Family, sigkill, title_of

GIVE_UP_S = 300.0


@dataclass
class Training:
    """A run file's train stage, as commands that may be killed."""

    run_file: Path
    output: Path

    def committed(self) -> list[Path]:
        """The checkpoints that Ray Train knows of, oldest first."""
        for snapshot in self.output.glob("training/*/ray-*/checkpoint_manager_snapshot.json"):
            results = json.loads(snapshot.read_text() or "{}").get("checkpoint_results", [])
            return [snapshot.parent / result["checkpoint_dir_name"] for result in results]
        return []

    def is_storing(self) -> bool:
        """Whether a checkpoint is there in part: a folder that Ray Train does not know of yet."""
        there = set(self.output.glob("training/*/ray-*/checkpoint_2*"))
        return bool(there - set(self.committed()))

    def kill(self, fault: str, when: Callable[[], bool], *settings: str) -> bool:
        """Start the command, kill when it is time, and wait for what becomes of it. Whether it finished all the same.

        Raises AssertionError where it ends before it is time.
        """
        process = self._start(settings)
        family = Family(process.pid)
        deadline = time.monotonic() + GIVE_UP_S
        try:
            while not when():
                family.look()
                assert process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.005)
            if fault == "worker":
                workers = [p for p in family.look() if "RayTrainWorker" in title_of(p)]
                assert workers, "there is no worker to kill"
                sigkill([random.choice(workers)])
            else:
                assert family.kill(fault)
            return process.wait(GIVE_UP_S) == 0
        finally:
            family.end()

    def finish(self, *settings: str) -> dict[str, Any]:
        """Run the command to its end. Returns the manifest's details of the training."""
        process = self._start(settings)
        family = Family(process.pid)
        try:
            while process.poll() is None:
                family.look()
                time.sleep(0.1)
        finally:
            family.end()
        assert process.returncode == 0, self.log()
        return self.details()

    def details(self) -> dict[str, Any]:
        """The manifest's details of the training."""
        return dict(json.loads((self.output / "student/manifest.json").read_text())["details"]["training"])

    def history(self) -> list[dict[str, float]]:
        """The losses by step of the finished student."""
        lines = (self.output / "student/training.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def log(self) -> str:
        """The end of what the commands said."""
        return (self.output / "log").read_text(errors="replace")[-4000:]

    def _start(self, settings: tuple[str, ...]) -> subprocess.Popen[bytes]:
        changes = [part for setting in settings for part in ("--set", setting)]
        self.output.mkdir(parents=True, exist_ok=True)
        with (self.output / "log").open("ab") as log:
            return subprocess.Popen(
                [*COMMAND, "train", str(self.run_file), *changes],
                stdout=log,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )
