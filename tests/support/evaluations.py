"""Runs that are ready to be evaluated, or that have been."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.config import RunConfig
from pipelines.data.heldout import heldout_examples
from pipelines.evaluate.costs import student_cost
from pipelines.evaluate.stage import FILES, report_identity
from pipelines.scoring.model import REPORT, report_bytes
from pipelines.storage.manifest import Manifest, manifest_of, require_manifest, write_manifest
from pipelines.storage.store import Store
from pipelines.tasks.arithmetic import Arithmetic
from tests.support.artifacts import label_row, make_run, write_corpus, write_labels, write_student_manifest
from tests.support.reports import report

ROWS = [
    {"id": "h1", "input": "one", "label": "4 - 1"},
    {"id": "h2", "input": "two"},
    {"id": "h3", "input": "x", "label": "!"},
]
TRAINED = [label_row("a", "3", "3"), label_row("b", "4", "4")]


def prepared(folder: Path, rows: list[dict[str, Any]] = ROWS, **details: Any) -> RunConfig:
    run = make_run(folder)
    write_corpus(folder / "test.jsonl", rows)
    labels = write_labels(folder / "out" / "labels", TRAINED)
    write_student_manifest(folder / "out" / "student", run, labels, **details)
    return run


def shares(folder: Path) -> tuple[dict[str, Any], Manifest]:
    """A corpus whose validation split is a share, and its labels. The teacher says 3, which is right for every second row."""
    rows = [{"id": f"t{i}", "input": f"n {i}", "label": "34"[i % 2]} for i in range(60)]
    write_corpus(folder / "train.jsonl", rows)
    labels = write_labels(folder / "out" / "labels", [label_row(r["id"], "3", r["label"], r["input"]) for r in rows])
    return {"train": str(folder / "train.jsonl")}, labels


def heldout_file(file: Path, inputs: Sequence[str]) -> str:
    write_corpus(file, [{"id": f"h{i}", "input": text, "label": "3"} for i, text in enumerate(inputs)])
    return str(file)


def finish(run: RunConfig) -> Manifest:
    """Write a made-up report as a finished evaluation of this run would."""
    output = Store(run.output)
    student = require_manifest(output.child("student"), "student", "")
    labels = require_manifest(output.child("labels"), "labels", "")
    identity = report_identity(run, Arithmetic(), student, labels, heldout_examples(run, Arithmetic()))
    store, made = output.child("report"), report()
    cost = student_cost(labels, student, made.student_scores.seconds_per_example, None)
    store.write(REPORT, report_bytes(made.model_copy(update={"cost": cost})))
    for name in {*FILES} - {REPORT}:
        store.write(name, b"")
    manifest = manifest_of("report", identity, config={}, counts={}, timings_s={}, details={}, provenance={})
    write_manifest(store, manifest)
    return manifest
