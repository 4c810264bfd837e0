"""`raystill plan RUN`: check the run, calibrate if requested, print the plan."""

from __future__ import annotations

from pipelines.errors import UserError


def run_plan(
    run_file: str, overrides: tuple[str, ...], *, prompts: int, calibrate_rows: int | None, deadline: str | None,
    with_config: bool, as_json: bool, verbose: bool,
) -> None:  # fmt: skip
    """Print the plan of a run.

    Raises:
        UserError: the run fails a check, or the deadline cannot be read.
        StageFailedError: the calibration answered no row.
    """
    from cluster.planning.plan import make_plan
    from cluster.planning.plan_text import print_plan
    from pipelines.checks import COMMANDS, Needs, check_run
    from pipelines.config.load import load_run

    run = load_run(run_file, overrides)
    deadline_s = _deadline_s(deadline) if deadline else None
    check_run(run, COMMANDS["run" if run.has_student else "label"], Needs.INPUTS)
    measured = None
    if calibrate_rows is not None:
        from cluster.planning.calibrate import calibrate

        measured = calibrate(run, calibrate_rows, verbose=verbose)
    print_plan(make_plan(run, prompts, measured, deadline_s), with_config=with_config, as_json=as_json)


def _deadline_s(text: str) -> float:
    from pipelines.runtime.durations import duration_s

    try:
        return duration_s(text)
    except ValueError as error:
        raise UserError(f"--deadline {text}", str(error), "Write 90min, 24h, 3d or 1d 12h.") from error
