"""`raystill status RUN`: print the state of each stage, once or until labelling ends. pipelines/status.py reads it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable

from pipelines.config import RunConfig
from pipelines.config.load import load_run
from pipelines.errors import StageFailedError, UserError
from pipelines.runtime.durations import duration
from pipelines.status import Begun, Finished, GridBegun, Interrupted, Running, RunStatus, StageState, run_status

_READ_EVERY_S = 2.0
_LINE_EVERY_S = 10.0


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


def follow_status(
    run: RunConfig, run_file: str, *, as_json: bool, sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:  # fmt: skip
    """Print the status until labelling ends: every two seconds in a terminal or as JSON, else every ten.

    Raises:
        StageFailedError: labelling ended without its artifact.
    """
    live = sys.stdout.isatty() and not as_json
    every = _READ_EVERY_S if live or as_json else _LINE_EVERY_S
    was_running, printed = False, float("-inf")
    while True:
        status = run_status(run)
        label = status.stages["label"]
        running = isinstance(label, Running)
        if not running or clock() - printed >= every:
            if live and printed > float("-inf"):
                sys.stdout.write(f"\x1b[{len(status.stages)}F\x1b[J")  # back over the lines printed before
            lines = status_lines(status, run_file, at=time.time())
            width = (
                shutil.get_terminal_size().columns if live else None
            )  # a wrapped line would break the cursor's way back
            print(status.model_dump_json() if as_json else "\n".join(line[:width] for line in lines), flush=True)
            printed = clock()
        if not running:
            break
        was_running = True
        sleep(_READ_EVERY_S)
    if was_running and not isinstance(label, Finished):
        raise StageFailedError(f"Labelling ended unfinished. Run `raystill label {run_file}` to resume.")


def status_lines(status: RunStatus, run_file: str, *, at: float) -> list[str]:
    """A line per stage. `at`: now, in seconds since 1970."""
    return [
        f"{stage:9} {state.state:12} {_describe(state, f'raystill {stage} {run_file}', at)}".rstrip()
        for stage, state in status.stages.items()
    ]


def _describe(state: StageState, command: str, at: float) -> str:
    if isinstance(state, Finished):
        counts = ", ".join(f"{name} {count:,}" for name, count in state.counts.items() if isinstance(count, int))
        return f"{state.created}: {counts}"
    if isinstance(state, Running):
        return _running(state, at)
    if isinstance(state, Interrupted):
        of = f" of {state.total:,}" if state.total is not None else ""
        return f"{state.rows:,}{of} rows are finished; `{command}` resumes"
    if isinstance(state, Begun):
        cells = (
            f"{state.cells.done:,} cells finished, {state.cells.missing:,} missing; "
            if isinstance(state, GridBegun)
            else ""
        )
        return f"{cells}unfinished, perhaps running elsewhere; if not, `{command}` resumes"
    return ""


def _running(state: Running, at: float) -> str:
    from pipelines.label.reporting.usage import shares

    alive = f"pid {state.pid} on {state.host}, {duration(round(max(at - state.updated_s, 0)))} ago"
    if state.total is None:
        return f"scanning the corpus, {alive}"
    left = state.seconds_left
    engines = ", ".join(
        f"{name.replace('_', ' ')} {value:.2f}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"
        for name, value in state.engines.items()
        if value is not None
    )
    parts = [
        f"{state.done:,}/{state.total:,} rows",
        f"{state.rows_per_s:.1f} rows/s",
        "time left unknown" if left is None else f"{duration(left)} left",
        shares(state.accepted, state.rejected_by_reason),
        f"tokens {state.tokens.prompt:,} in, {state.tokens.output:,} out",
        engines,
        alive,
    ]
    return ", ".join(part for part in parts if part)
