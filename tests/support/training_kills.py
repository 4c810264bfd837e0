"""Kills `raystill train` at a given moment, runs it again, and reads the result.

Faults, each a SIGKILL: `driver` (the command), `worker` (one of its training workers), `node` (all processes at once).
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
    """The train stage of a run file, as commands that can be killed."""

    run_file: Path
    output: Path

    def committed(self) -> list[Path]:
        """The checkpoints that Ray Train has committed, oldest first."""
        for snapshot in self.output.glob("training/*/ray-*/checkpoint_manager_snapshot.json"):
            results = json.loads(snapshot.read_text() or "{}").get("checkpoint_results", [])
            return [snapshot.parent / result["checkpoint_dir_name"] for result in results]
        return []

    def is_storing(self) -> bool:
        """True if the folder of a checkpoint exists that Ray Train has not committed yet."""
        folders = set(self.output.glob("training/*/ray-*/checkpoint_2*"))
        return bool(folders - set(self.committed()))

    def kill(self, fault: str, when: Callable[[], bool], *settings: str) -> bool:
        """Start the command, inject the fault when `when` is true, and wait for the end. True if the command still finished.

        Raises AssertionError if it ends before that.
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
                assert workers, "no worker to kill"
                sigkill([random.choice(workers)])
            else:
                assert family.kill(fault)
            return process.wait(GIVE_UP_S) == 0
        finally:
            family.end()

    def finish(self, *settings: str) -> dict[str, Any]:
        """Run the command to its end. Returns the training's details in the manifest."""
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
        """The training's details in the manifest."""
        return dict(json.loads((self.output / "student/manifest.json").read_text())["details"]["training"])

    def history(self) -> list[dict[str, float]]:
        """The losses of the finished student, by step."""
        lines = (self.output / "student/training.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def log(self) -> str:
        """The end of the commands' output."""
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
