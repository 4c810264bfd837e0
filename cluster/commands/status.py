"""`raystill status RUN`: where each stage of a run stands, read from the run's folder alone: no Ray, on a local disk or an object store."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from pipelines.config import RunConfig
from pipelines.errors import StageFailedError
from pipelines.runtime.durations import duration
from pipelines.storage.manifest import ArtifactType, read_manifest
from pipelines.storage.store import Store

_READ_EVERY_S = 2.0
_LINE_EVERY_S = 10.0


def run_status(run: RunConfig) -> dict[str, Any]:
    """{"run", "output", "stages": {"label": {"state", ...}, "train": ..., "evaluate": ...}}, and compare where it has begun.

    States: finished, running (label only: the others leave no sign of life), interrupted, begun (unfinished work is there, and
    whether somebody works on it cannot be told), not begun.

    Raises:
        UserError: a manifest is damaged, or of another type or schema version.
    """
    from pipelines.label.reporting.progress_file import label_status

    output = Store(run.output)
    label = label_status(output.child("labels"))
    compared = {"compare": _comparison(output)} if output.exists("compare") else {}
    return {
        "run": run.name,
        "output": output.shown(),
        "stages": {
            "label": {"state": label.state, **label.detail},
            "train": _by_manifest(output, "student", "training"),
            "evaluate": _by_manifest(output, "report", None),
            **compared,
        },
    }


def status_lines(status: dict[str, Any], run_file: str, *, at: float) -> list[str]:
    """A line per stage. `at`: seconds since 1970, now."""
    lines = []
    for stage, found in status["stages"].items():
        text = _describe(found, f"raystill {stage} {run_file}", at)
        lines.append(f"{stage:9} {found['state']:12} {text}".rstrip())
    return lines


def print_status(run: RunConfig, run_file: str, *, as_json: bool) -> None:
    """The status on stdout."""
    _print(run_status(run), run_file, as_json=as_json)


def follow_status(
    run: RunConfig, run_file: str, *, as_json: bool, sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:  # fmt: skip
    """Print the status again and again until nothing is running: every two seconds in a terminal or as JSON, else every ten.

    Raises:
        StageFailedError: what was running has ended without its artifact.
    """
    live = sys.stdout.isatty() and not as_json
    every = _READ_EVERY_S if live or as_json else _LINE_EVERY_S
    was_running, printed = False, float("-inf")
    while True:
        status = run_status(run)
        state = status["stages"]["label"]["state"]
        if state != "running" or clock() - printed >= every:
            if live and printed > float("-inf"):
                sys.stdout.write(f"\x1b[{len(status['stages'])}F\x1b[J")  # back over the lines printed before
            _print(
                status, run_file, as_json=as_json, live=True, width=shutil.get_terminal_size().columns if live else None
            )
            printed = clock()
        if state != "running":
            break
        was_running = True
        sleep(_READ_EVERY_S)
    if was_running and state != "finished":
        raise StageFailedError(f"labelling has ended and is not finished. `raystill label {run_file}` goes on.")


def _by_manifest(output: Store, kind: ArtifactType, work: str | None) -> dict[str, Any]:
    if finished := _finished(output.child(kind), kind):
        return finished
    return {"state": "begun" if work and output.files(work) else "not begun"}


def _finished(store: Store, kind: ArtifactType) -> dict[str, Any] | None:
    """What the manifest says; None where there is none."""
    manifest = read_manifest(store, kind)
    if manifest is None:
        return None
    kept = {key: getattr(manifest, key) for key in ("created", "fingerprint", "counts")}
    return {"state": "finished", **kept}


def _comparison(output: Store) -> dict[str, Any]:
    store = output.child("compare")
    if finished := _finished(store, "comparison"):
        return finished
    if not store.exists("report.json"):  # the search comes first
        return {"state": "begun"}
    report = json.loads(store.read("report.json"))
    done = sum(len(group["cells"]) for group in report["groups"])
    return {"state": "begun", "cells": {"done": done, "missing": len(report["missing"])}}


def _print(
    status: dict[str, Any], run_file: str, *, as_json: bool, live: bool = False, width: int | None = None
) -> None:
    """`live`: JSON on one line. `width`: lines are cut to it, so that each stays one."""
    if as_json:
        print(json.dumps(status, ensure_ascii=False, indent=None if live else 2), flush=True)
    else:
        print("\n".join(line[:width] for line in status_lines(status, run_file, at=time.time())), flush=True)


def _describe(found: dict[str, Any], command: str, at: float) -> str:
    state = found["state"]
    if state == "finished":
        counts = ", ".join(f"{name} {count:,}" for name, count in found["counts"].items() if isinstance(count, int))
        return f"{found['created']}: {counts}"
    if state == "running":
        return _running(found, at)
    if state == "interrupted":
        of = f" of {found['total']:,}" if found["total"] is not None else ""
        return f"{found['rows']:,}{of} rows are finished; `{command}` goes on"
    if state == "begun":
        cells = found.get("cells")
        shown = f"{cells['done']:,} cells are finished, {cells['missing']:,} are not; " if cells else ""
        return f"{shown}unfinished work is there; whether somebody works on it cannot be told from here; `{command}` goes on"
    return ""


def _running(found: dict[str, Any], at: float) -> str:
    from pipelines.label.reporting.usage import shares

    left = found["seconds_left"]
    engines = found["engines"]
    alive = f"pid {found['pid']} on {found['host']}, {duration(max(at - found['updated_s'], 0))} ago"
    if found["total"] is None:
        return f"scanning the corpus, {alive}"
    parts = [
        f"{found['done']:,}/{found['total']:,} rows",
        f"{found['rows_per_s']:.1f} rows/s",
        "time left not known yet" if left is None else f"{duration(left)} left",
        shares(found["accepted"], found["rejected_by_reason"]),
        f"tokens {found['tokens']['prompt']:,} in, {found['tokens']['output']:,} out",
        ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in engines.items() if value is not None),
        alive,
    ]
    return ", ".join(part for part in parts if part)


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
