"""The stages of one command under one board, and their summaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

from cluster.commands.summary import StageSummary, stage_summary
from pipelines.config import RunConfig
from pipelines.run import Stage, run_stages
from pipelines.runtime.board import Board
from pipelines.storage.manifest import Manifest


class StagedRun:
    """Runs stages of a run. One alone shows its own bar."""

    def __init__(self, run: RunConfig, titles: Sequence[str], expected_s: Mapping[str, float] | None = None) -> None:
        """
        Args:
            titles: of all that the command does, in order.
            expected_s: as in Board.
        """
        self._run, self._titles = run, titles
        self._board = Board(titles, expected_s)
        self.summaries: list[StageSummary] = []

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the board during the block."""
        with self._board if len(self._titles) > 1 else nullcontext():
            yield

    def run(self, stages: Sequence[Stage], *, replace: bool = False) -> None:
        """Make or reuse the artifacts of stages. Ray is running. Raises as the stages."""
        run_stages(self._run, stages, replace=replace, on_begin=self._board.begin, on_finish=self._finish)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Work of the command that is no stage."""
        self._board.begin(title)
        yield
        self._board.finish(title)

    def _finish(self, stage: Stage, manifest: Manifest, seconds: float) -> None:
        summary = stage_summary(self._run, stage, manifest, seconds)
        self.summaries.append(summary)
        self._board.finish(stage, "reused" if summary.reused else next(summary.lines(), ""))
