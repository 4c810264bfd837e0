"""`raystill status RUN`: print the state of each stage, once or until the work ends. pipelines/status.py reads it."""

from __future__ import annotations

import shutil
import sys
import time
from datetime import datetime

from pipelines.config import RunConfig
from pipelines.config.load import load_run
from pipelines.errors import StageFailedError, UserError
from pipelines.label.reporting.progress_file import LabelProgress
from pipelines.reports.format import one_line
from pipelines.runtime.durations import duration
from pipelines.runtime.stage_progress import FRESH_S, StageName, StageProgress, counted, phase_text, rate_text
from pipelines.status import (
    Begun,
    Finished,
    GridBegun,
    Interrupted,
    LabellingInterrupted,
    RunStatus,
    StageState,
    run_status,
)
from pipelines.storage.process_identity import is_running

_READ_EVERY_S = 2.0
_LINE_EVERY_S = 10.0
_NEXT_STAGE_S = 120.0
"""How long a process that lives may take to begin its next stage."""
_LAST_STAGES = ("evaluate", "compare")
_REPEATED = ("evaluate",)
"""Stages that start over after an interruption. They take minutes; the others resume."""


def show_status(
    run_file: str | None, overrides: tuple[str, ...], *, address: str | None, follow: bool, as_json: bool
) -> None:
    """Print the stages of a run, or the jobs of the cluster at `address`. Raises UserError for options that do not fit together."""
    if address is not None:
        _check_options(run_file, overrides, follow=follow)
        from cluster.commands.jobs import print_jobs

        print_jobs(address, load_run(run_file, overrides).name if run_file else None, as_json=as_json)
        return
    if run_file is None:
        raise UserError("RUN", "it is missing", "Give a run file, or --address for the jobs of a cluster.")
    run = load_run(run_file, overrides)
    (follow_status if follow else print_status)(run, run_file, as_json=as_json)


def _check_options(run_file: str | None, overrides: tuple[str, ...], *, follow: bool) -> None:
    """Refuse options that have no effect with --address."""
    if follow:
        raise UserError(
            "--follow", "has no effect with --address", "Follow a job: `raystill logs JOB --address URL -f`."
        )
    if overrides and run_file is None:
        raise UserError(f"--set {overrides[0]}", "has no effect without a run file", "Name one, or leave it out.")


def print_status(run: RunConfig, run_file: str, *, as_json: bool) -> None:
    """Print the status on stdout."""
    status = run_status(run)
    print(status.model_dump_json(indent=2) if as_json else "\n".join(status_lines(status, run_file, at=time.time())))


def follow_status(run: RunConfig, run_file: str, *, as_json: bool) -> None:
    """Print the status until the work ends: every two seconds in a terminal or as JSON, else every ten.

    Raises:
        StageFailedError: a stage ended without its artifact.
    """
    screen, work = _Screen(run_file, as_json=as_json), _FollowedWork()
    while True:
        status = run_status(run)
        is_over = work.is_over(status)
        screen.show(status, is_last=is_over)
        if is_over:
            break
        time.sleep(_READ_EVERY_S)
    if stage := work.unfinished(status):
        to_do = "repeat it" if stage in _REPEATED else "resume"
        raise StageFailedError(f"{stage} ended unfinished. Run `raystill {stage} {run_file}` to {to_do}.")


class _FollowedWork:
    """The stages that have run since the command began to follow them, and the process that runs them.

    A process may run several stages in sequence. Between two of them none is running, for as long as inputs are fingerprinted.
    """

    def __init__(self) -> None:
        self._seen: dict[StageName, StageProgress] = {}
        self._last: StageProgress | None = None
        self._seen_at = time.monotonic()

    def is_over(self, status: RunStatus) -> bool:
        """True if nothing runs, and the process of the last stage is not about to run another."""
        for stage, state in status.stages.items():
            if isinstance(state, StageProgress):
                self._seen[stage] = self._last = state
                self._seen_at = time.monotonic()
        if any(isinstance(state, StageProgress) for state in status.stages.values()):
            return False
        if self._last is None or self._last.stage in _LAST_STAGES or self.unfinished(status):
            return True
        alive = is_running(self._last.model_dump())
        wait_s = {True: _NEXT_STAGE_S, None: FRESH_S, False: 0.0}[alive]
        return time.monotonic() - self._seen_at >= wait_s

    def unfinished(self, status: RunStatus) -> StageName | None:
        """A stage that has ended without its artifact, or with an artifact that was there before."""
        for stage, progress in self._seen.items():
            state = status.stages.get(stage)
            if isinstance(state, StageProgress):
                continue
            if not isinstance(state, Finished) or _moment(state.created) < _moment(progress.started):
                return stage
        return None


class _Screen:
    """Prints states, over the previous ones in a terminal."""

    def __init__(self, run_file: str, *, as_json: bool) -> None:
        self._run_file, self._as_json = run_file, as_json
        self._live = sys.stdout.isatty() and not as_json
        self._every_s = _READ_EVERY_S if self._live or as_json else _LINE_EVERY_S
        self._printed_at, self._printed_lines = float("-inf"), 0
        self._states: list[str] = []

    def show(self, status: RunStatus, *, is_last: bool) -> None:
        """Print the status if it is due, if a state has changed, or if it is the last one."""
        states: list[str] = [state.state for state in status.stages.values()]
        if not (is_last or states != self._states or time.monotonic() - self._printed_at >= self._every_s):
            return
        self._states, self._printed_at = states, time.monotonic()
        if self._as_json:
            print(status.model_dump_json(), flush=True)
            return
        if self._live and self._printed_lines:
            sys.stdout.write(f"\x1b[{self._printed_lines}F\x1b[J")  # back over the lines printed before
        # A wrapped line would break the cursor's way back.
        width = shutil.get_terminal_size().columns if self._live else None
        lines = [line[:width] for line in status_lines(status, self._run_file, at=time.time())]
        print("\n".join(lines), flush=True)
        self._printed_lines = len(lines)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def status_lines(status: RunStatus, run_file: str, *, at: float) -> list[str]:
    """The output's folder, then a line per stage. `at`: now, in seconds since 1970."""
    return [
        f"{'output':9} {status.output}",
        *(
            f"{stage:9} {state.state:12} {one_line(_describe(state, stage, f'`raystill {stage} {run_file}`', at))}".rstrip()
            for stage, state in status.stages.items()
        ),
    ]


def _describe(state: StageState, stage: StageName, command: str, at: float) -> str:
    remedy = f"{command} {'repeats it' if stage in _REPEATED else 'resumes'}"
    if isinstance(state, Finished):
        counts = ", ".join(f"{name} {count:,}" for name, count in state.counts.items() if isinstance(count, int))
        return f"{state.created}: {counts}"
    if isinstance(state, StageProgress):
        return _running(state, at)
    if isinstance(state, LabellingInterrupted):
        of = f" of {state.total:,}" if state.total is not None else ""
        return f"{state.rows:,}{of} rows are finished; {remedy}"
    if isinstance(state, Interrupted):
        done = counted(state.done, state.total, state.unit)
        ago = f"ended {duration(round(max(at - state.updated_s, 0)))} ago"
        return f"{_joined(done, state.phase, state.detail, ago)}; {remedy}"
    if isinstance(state, Begun):
        cells = (
            f"{state.cells.done:,} cells finished, {state.cells.missing:,} missing; "
            if isinstance(state, GridBegun)
            else ""
        )
        return f"{cells}unfinished, perhaps running elsewhere; if not, {remedy}"
    return ""


def _running(state: StageProgress, at: float) -> str:
    alive = f"pid {state.pid} on {state.host}, {duration(round(max(at - state.updated_s, 0)))} ago"
    done = counted(state.done, state.total, state.unit)
    if state.phase:
        rate = [phase_text(state.phase, state.phase_s)]
    elif not state.done and not state.per_second:
        rate = []
    else:
        left = state.seconds_left
        left_text = "time left unknown" if left is None else f"{duration(left)} left"
        rate = [rate_text(state.per_second, state.unit), left_text]
    return _joined(done, *rate, *(_labelling(state) if isinstance(state, LabelProgress) else [state.detail]), alive)


def _labelling(state: LabelProgress) -> list[str]:
    from pipelines.label.reporting.usage import shares

    if state.total is None:
        return []
    engines = _joined(
        *(
            f"{name.replace('_', ' ')} {value:.2f}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"
            for name, value in state.engines.items()
            if value is not None
        )
    )
    tokens = f"tokens {state.tokens.prompt:,} in, {state.tokens.output:,} out"
    return [shares(state.accepted, state.rejected_by_reason), tokens, engines]


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
