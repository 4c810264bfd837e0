"""Label folders in any state, and a process that labels."""

from __future__ import annotations

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
from pipelines.storage.store import Store
from pipelines.label.output.counts import Counts
from pipelines.label.reporting.progress_file import ProgressFile
rejected = collections.Counter(unparsable=10)
with ProgressFile(Store(sys.argv[1])) as live:
    live.begin(1000, 100, lambda: {"engines": 2, "busy_share": 0.5})
    live.update(300, 1000, Counts(290, rejected, prompt_tokens=30000, output_tokens=9000))
    live.write()
    print("working", flush=True)
    time.sleep(600)
"""


def commit_labels(
    store: Store, number: int, accepted: int, engine_errors: int = 0, scan: dict[str, Any] | None = None
) -> None:
    """Add a commit record to unfinished labels."""
    counts = Counts(accepted=accepted, rejected=Counter(engine_error=engine_errors))
    store.write("attempt.json", b"{}")
    store.write(f"commits/{number:06d}.json", Commit({}, counts, scan=ScanSummary(**scan) if scan else None).as_json())


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
    process = subprocess.Popen([sys.executable, "-c", _WORKER, store.uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
