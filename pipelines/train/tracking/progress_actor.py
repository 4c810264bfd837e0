"""Progress of the workers, shown where the command runs.

Ray Train runs its controller and callbacks in a process of their own, so that a callback cannot draw on the user's terminal. Worker
0 tells a small actor after each step; a thread of the driver reads it while the main thread waits for the training. What workers print
stays in their logs, so that a warning for the user goes the same way.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.runtime.nodes import on_this_node
from pipelines.runtime.progress import Progress

_POLL_S = 1.0


@dataclass(frozen=True)
class Note:
    """Where the training stands: tokens done of all, steps to go, and a remark."""

    done: int
    total: int
    steps_left: int
    detail: str = ""


class ProgressActor:
    """What worker 0 has said last, and why there is no use in going on. Runs as an actor."""

    def __init__(self) -> None:
        self._last: Note | None = None
        self._hopeless: str | None = None
        self._warnings: dict[str, None] = {}

    def note(self, note: Note) -> None:
        """The last one counts."""
        self._last = note

    def warn(self, text: str) -> None:
        """Something that the user should know; the same again, as after a restart, is said once."""
        self._warnings[text] = None

    def give_up(self, reason: str) -> None:
        """A worker has failed in a way that another attempt would fail in too."""
        self._hopeless = reason

    def hopeless(self) -> str | None:
        """That reason; None where there is none."""
        return self._hopeless

    def read(self) -> tuple[Note | None, list[str]]:
        """The last note, None before the first; and all warnings."""
        return self._last, list(self._warnings)


def warner(board: Any) -> Callable[[str], None]:
    """Says a warning of worker 0 where the command runs; without a board, here."""

    def warn(text: str) -> None:
        if board is None:
            print(f"train: {text}", file=sys.stderr, flush=True)
        else:
            board.warn.remote(text)

    return warn


@contextmanager
def shown_progress(title: str, tell: Callable[[int], None]) -> Iterator[Any]:
    """A board to hand to the workers. Until the block ends, what is noted on it is shown, and `tell` called with the steps to go."""
    import ray

    board = ray.remote(num_cpus=0, scheduling_strategy=on_this_node())(ProgressActor).remote()
    finished = threading.Event()
    thread = threading.Thread(target=_show, args=(board, title, tell, finished), daemon=True, name="train-progress")
    thread.start()
    try:
        yield board
    finally:
        finished.set()
        thread.join()
        ray.kill(board)


def _show(board: Any, title: str, tell: Callable[[int], None], finished: threading.Event) -> None:
    import ray

    progress: Progress | None = None
    said = 0
    while True:
        last = finished.wait(_POLL_S)
        try:
            note, warnings = ray.get(board.read.remote(), timeout=10)
        except ray.exceptions.RayError:
            break  # the cluster is going down: the main thread reports why
        for text in warnings[said:]:
            print(f"{title}: {text}", file=sys.stderr, flush=True)
        said = len(warnings)
        if note is not None:
            if progress is None:
                progress = Progress(title, note.total, "tokens", start=note.done).__enter__()
            # A restart after a lost worker goes back to its checkpoint, the count with it.
            progress.advance(note.done - progress.done, note.detail)
            tell(note.steps_left)
        if last:
            break
    if progress is not None:
        progress.__exit__(None, None, None)
