"""Progress of the workers, shown in the terminal of the command and in the progress file.

Ray Train runs its controller and callbacks in another process, so that a callback cannot draw on the user's terminal. Instead, worker 0
reports to an actor after each step, and a thread of the driver reads it while the main thread waits for the training. Output of workers
goes to their logs, so that warnings for the user take the same way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.runtime.nodes import on_this_node
from pipelines.runtime.progress import Progress
from pipelines.runtime.progress_file import ProgressFile
from pipelines.runtime.terminal import say

if TYPE_CHECKING:
    from ray.actor import ActorHandle

_POLL_S = 1.0


@dataclass(frozen=True)
class ProgressUpdate:
    """The progress of a training."""

    done: int
    """Tokens."""
    total: int
    """Tokens."""
    steps_left: int
    detail: str = ""


class ProgressActor:
    """Keeps worker 0's last update and warnings, the last checkpoint, and the error that makes another attempt useless."""

    def __init__(self) -> None:
        self._last: ProgressUpdate | None = None
        self._checkpoint: int | None = None
        self._fatal_error: str | None = None
        self._warnings: dict[str, None] = {}

    def update(self, update: ProgressUpdate) -> None:
        """Replace the last update."""
        self._last = update

    def set_checkpoint(self, step: int) -> None:
        """Keep the step that another attempt resumes from; 0 if there is no checkpoint."""
        self._checkpoint = step

    def checkpoint(self) -> int | None:
        """The step of the last checkpoint; 0 without one, None if no worker has looked for one yet."""
        return self._checkpoint

    def warn(self, text: str) -> None:
        """Keep a warning for the user. One that is repeated, as after a restart, is kept once."""
        self._warnings[text] = None

    def report_fatal_error(self, reason: str) -> None:
        """Keep why another attempt would fail in the same way."""
        self._fatal_error = reason

    def fatal_error(self) -> str | None:
        """The reported reason, if any."""
        return self._fatal_error

    def read(self) -> tuple[ProgressUpdate | None, int | None, list[str]]:
        """The last update, if any, `checkpoint()`, and all warnings."""
        return self._last, self._checkpoint, list(self._warnings)


def warn_through(progress: ActorHandle | None) -> Callable[[str], None]:
    """A function for worker 0 that shows a warning in the command's terminal; without an actor, on stderr here."""

    def warn(text: str) -> None:
        if progress is None:
            say(f"train: {text}")
        else:
            progress.warn.remote(text)

    return warn


@contextmanager
def show_progress(
    progress: Progress, live: ProgressFile, on_steps_left: Callable[[int], None]
) -> Iterator[ActorHandle]:
    """A ProgressActor for the workers. Until the block ends, `progress` takes its updates, and `on_steps_left` is called every second."""
    import ray

    actor = ray.remote(num_cpus=0, scheduling_strategy=on_this_node())(ProgressActor).remote()
    finished = threading.Event()
    thread = threading.Thread(
        target=_show, args=(actor, progress, live, on_steps_left, finished), daemon=True, name="train-updates"
    )
    thread.start()
    try:
        yield actor
    except KeyboardInterrupt:
        # Then the thread does not wait for its last answer, which takes long while the workers have all cores.
        ray.kill(actor)
        raise
    finally:
        finished.set()
        thread.join()
        ray.kill(actor)


def _show(
    actor: ActorHandle, progress: Progress, live: ProgressFile, on_steps_left: Callable[[int], None],
    finished: threading.Event,
) -> None:  # fmt: skip
    import ray

    began = False
    shown_warnings = 0
    while True:
        last = finished.wait(_POLL_S)
        try:
            update, checkpoint, warnings = ray.get(actor.read.remote(), timeout=10)
        except ray.exceptions.GetTimeoutError:
            if last:
                break
            continue  # the machine is busy
        except ray.exceptions.RayError:
            break  # the cluster is gone: the main thread reports why
        for text in warnings[shown_warnings:]:
            say(f"{progress.title}: {text}")
        shown_warnings = len(warnings)
        if update is not None:
            if not began:
                began = True
                progress.restart(update.total, update.done)
                live.phase("first step")
            # May be negative: after a lost worker, training resumes from the checkpoint.
            kept = f"checkpoint of step {checkpoint:,}" if checkpoint else ""
            detail = ", ".join(part for part in (update.detail, kept) if part)
            progress.advance(update.done - progress.done, detail)
            if not update.steps_left:
                live.phase("exporting the student")
            on_steps_left(update.steps_left)
        if last:
            break
