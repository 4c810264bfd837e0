"""Label folders in any state, and a process that labels."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.label.output.commits import Commit, ScanSummary
from pipelines.label.output.counts import Counts
from pipelines.storage.manifest import ArtifactType, Manifest, write_manifest
from pipelines.storage.store import Store

_WORKER = """
import collections, sys, time
from pipelines.label.output.counts import Counts
from pipelines.label.reporting.progress_file import LabelProgressFile
from pipelines.runtime.progress import Progress
from pipelines.storage.store import Store
rejected = collections.Counter(unparsable=10)
with LabelProgressFile(Store(sys.argv[1]), "label", "rows") as live:
    live.begin(100, lambda: {"engines": 2, "busy_share": 0.5})
    with Progress("label", 1000, "rows", start=100, file=live) as progress:
        live.update(Counts(290, rejected, prompt_tokens=30000, output_tokens=9000))
        progress.advance(200)
        live.write()
        print("working", flush=True)
        time.sleep(600)
"""
_STAGE = """
import sys, time
from pipelines.runtime.progress import Progress
from pipelines.runtime.progress_file import ProgressFile
from pipelines.storage.store import Store
with ProgressFile(Store(sys.argv[1]), sys.argv[2], "tokens") as live:
    live.phase("starting workers")
    with Progress(sys.argv[2], 900, "tokens", start=100, file=live) as progress:
        live.write()
        print("starting", flush=True)
        sys.stdin.readline()
        progress.advance(200, "step 3/9, loss: label 0.412")
        live.write()
        print("working", flush=True)
        sys.stdin.readline()
"""


def commit_labels(
    store: Store, number: int, accepted: int, engine_errors: int = 0, scan: dict[str, Any] | None = None
) -> None:
    """Add a commit record to unfinished labels."""
    counts = Counts(accepted=accepted, rejected=Counter(engine_error=engine_errors))
    store.write("attempt.json", b"{}")
    store.write(
        f"commits/{number:06d}.json",
        Commit(tally=counts.as_json(), scan=ScanSummary(**scan) if scan else None).model_dump_json().encode(),
    )


def finish_artifact(store: Store, kind: ArtifactType) -> None:
    """Write the manifest of an artifact with 2 accepted of 3 rows."""
    counts = {"read": 3, "accepted": 2, "rejected": 1, "rejected_by_reason": {"tie": 1}}
    write_manifest(
        store,
        Manifest(type=kind, fingerprint="f" * 64, identity={}, config={}, counts=counts, timings_s={}, versions={},
                 details={}, provenance={}, created="2026-01-02T03:04:05+00:00"),
    )  # fmt: skip


@contextmanager
def labelling_process(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Another process that reports 300 of 1,000 rows as labelled, and stays."""
    with _process(_WORKER, store.uri) as process:
        assert _line(process) == "working\n"
        yield process


@contextmanager
def stage_process(store: Store, stage: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that works on a stage. It starts its workers, then counts (`step`), then ends (`step`)."""
    with _process(_STAGE, store.uri, stage) as process:
        assert _line(process) == "starting\n"
        yield process


def step(process: subprocess.Popen[str]) -> str:
    """Let a `stage_process` take its next step. Returns what it prints."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return _line(process)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@contextmanager
def _process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
