"""The stages of one command under one board, and their summaries."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from cluster.commands.summary import StageSummary, stage_summary
from pipelines.config import RunConfig
from pipelines.run import Stage, run_stage
from pipelines.runtime.board import Board


class StagedRun:
    """Runs stages of a run."""

    def __init__(self, run: RunConfig, titles: Sequence[str], expected_s: Mapping[str, float] | None = None) -> None:
        """
        Args:
            titles: of all that the command does, in order.
            expected_s: as in Board.
        """
        self._run = run
        self._board = Board(titles, expected_s)
        self.summaries: list[StageSummary] = []

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the board during the block."""
        with self._board:
            yield

    def run(self, stages: Sequence[Stage], *, replace: bool = False) -> None:
        """Make or reuse the artifacts of stages. Ray is running. Raises as the stages."""
        for stage in stages:
            self._board.begin(stage)
            began = time.monotonic()
            manifest = run_stage(self._run, stage, replace=replace)
            summary = stage_summary(self._run, stage, manifest, time.monotonic() - began)
            self.summaries.append(summary)
            self._board.finish(stage, "reused" if summary.reused else next(summary.lines(), ""))

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Work of the command that is no stage."""
        self._board.begin(title)
        yield
        self._board.finish(title)
